"""A small scripted agent that behaves as real command-line agents do, well or badly.

It reads its task from stdin, prints its progress as JSON lines, runs a command in a session of its own
and says a result. It needs nothing but Python's standard library and is run as a file: `python -I
demo_agent.py [options] < task`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

COMMAND = ("uname", "-s")
CHILD_SECS = 3600.0
"""How long a child that is left behind lives, if nobody ends it."""
ASK_SECS = 60.0
"""How long it waits for an answer."""
FLOOD_LINE_BYTES = 100
FLOOD_BLOCK_LINES = 1000


class Options(argparse.Namespace):
    """The command line."""

    behaviour: str
    steps: int
    pause: float
    flood_lines: int
    huge_bytes: int
    calls: int
    failures: int
    url: str
    task: str
    """The first line of what stdin held."""


Act = Callable[[Options], None]


def emit(kind: str, **fields: object) -> None:
    """One event, at once; ASCII whatever the locale."""
    print(json.dumps({"type": kind, **fields}), flush=True)


def write(data: bytes) -> None:
    """Raw bytes, at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def said(size: int) -> bytes:
    """A `say` event of exactly that many bytes, without newline; at least as long as an empty one."""
    empty = json.dumps({"type": "say", "text": ""})
    return json.dumps({"type": "say", "text": "x" * (size - len(empty))}).encode()


def start(options: Options) -> None:
    """Announce itself."""
    emit("started", session=f"demo-{os.getpid()}")
    emit("say", text=f"task: {options.task}")


def work(options: Options) -> None:
    """The steps, with a pause between them, and a command."""
    for step in range(1, options.steps + 1):
        if step > 1:
            time.sleep(options.pause)  # noqa: TID251 - a program of its own, without Trio
        emit("say", text=f"step {step} of {options.steps}")
    done = subprocess.run(
        COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False
    )
    emit("tool", name="shell", command=" ".join(COMMAND), exit_code=done.returncode, output=done.stdout)


def err(options: Options) -> None:
    """Commands, the first of which fail."""
    for call in range(options.calls):
        command = ("false",) if call < options.failures else ("true",)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, start_new_session=True, check=False)
        emit("tool", name="shell", command=command[0], exit_code=done.returncode, output="")


def ask(options: Options) -> None:
    """Ask a model: the task is POSTed as JSON, and so is the answer. A provider that says wait (429) is the end."""
    import urllib.error
    import urllib.request

    body = json.dumps({"task": options.task}).encode()
    request = urllib.request.Request(options.url, body, {"content-type": "application/json"})  # noqa: S310
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with straight.open(request, timeout=ASK_SECS) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as refusal:
        error = "quota" if refusal.code == 429 else "provider_down"
        told = json.load(refusal)
        emit("result", ok=False, text=told["error"], error=error, resets_at=told.get("resets_at"))
        sys.exit(1)
    emit("api", input_tokens=answer["input_tokens"], output_tokens=answer["output_tokens"])
    emit("say", text=answer["text"])


def succeed(_options: Options) -> None:
    """Say that the task is done."""
    emit("result", ok=True, text="the task is done")


def fail(_options: Options) -> None:
    """Say that it could not be done."""
    emit("result", ok=False, text="the task could not be done")
    sys.exit(1)


def crash(_options: Options) -> None:
    """End without a result."""
    sys.exit(3)


def hang(_options: Options) -> None:
    """Silence, until a signal ends it."""
    while True:
        signal.pause()


def ignore_term(_options: Options) -> None:
    """From here on only SIGKILL helps."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def flood(options: Options) -> None:
    """As many lines as were asked for, as fast as they go."""
    line = said(FLOOD_LINE_BYTES - 1) + b"\n"
    blocks, rest = divmod(options.flood_lines, FLOOD_BLOCK_LINES)
    for _ in range(blocks):
        write(line * FLOOD_BLOCK_LINES)
    write(line * rest)


def bad_utf8(_options: Options) -> None:
    """A line that is no text."""
    write(b"\xff\xfe broken \x00 bytes \xc3\x28 \x80\n")


def huge_line(options: Options) -> None:
    """One very long event."""
    write(said(options.huge_bytes) + b"\n")


def truncate_stderr(options: Options) -> None:
    """Write to stderr, throw that away as `echo x > /dev/stderr` does where it is a file, and write again."""
    print("before, 1\nbefore, 2", file=sys.stderr, flush=True)
    time.sleep(options.pause)  # noqa: TID251 - a program of its own, without Trio
    Path("/dev/stderr").write_text("truncated\n", encoding="ascii")
    print("after", file=sys.stderr, flush=True)


def leave(detach: Callable[[], None]) -> Act:
    """Leave a child behind that parted by `detach`; it says its pid before the agent goes on."""

    def act(_options: Options) -> None:
        spoken, speaking = os.pipe()
        if os.fork() == 0:
            os.close(spoken)
            live_on(detach, speaking)
        os.close(speaking)
        os.read(spoken, 1)  # nothing is ever written: it ends when the child has closed its side
        os.close(spoken)

    return act


def live_on(detach: Callable[[], None], speaking: int) -> NoReturn:
    """The life of a child that is left behind: asleep, with the agent's output open."""
    try:
        detach()
        emit("child", pid=os.getpid())
        os.close(speaking)
        time.sleep(CHILD_SECS)  # noqa: TID251 - a program of its own, without Trio
    finally:
        os._exit(0)  # never back into the agent's own code


def stay() -> None:
    """Remain in the agent's group."""


def daemonise() -> None:
    """A session of its own, and init (or a subreaper) as the parent: no walk of the tree finds it."""
    os.setsid()
    if os.fork() != 0:
        os._exit(0)


BEHAVIOURS: dict[str, tuple[Act, ...]] = {
    "succeed": (start, work, succeed),
    "fail": (start, work, fail),
    "crash": (start, work, crash),
    "hang": (start, hang),
    "ignore-term": (ignore_term, start, hang),
    "fork": (start, work, leave(stay), succeed),
    "setsid": (start, work, leave(os.setsid), succeed),
    "daemonise": (start, work, leave(daemonise), succeed),
    "err": (start, err, succeed),
    "err-then-hang": (start, err, hang),
    "err-then-fail": (start, err, fail),
    "flood": (start, flood, succeed),
    "bad-utf8": (start, bad_utf8, succeed),
    "huge-line": (start, huge_line, succeed),
    "truncate-stderr": (start, truncate_stderr, succeed),
    "result-then-hang": (start, work, succeed, hang),
    "ask": (start, ask, succeed),
    "no-output": (),
    "silent": (hang,),
}
"""What each behaviour does, in order; at the end of the row it exits 0."""


def parse() -> Options:
    """The command line; a wrong one exits 2."""
    parser = argparse.ArgumentParser(description="A scripted agent: reads a task from stdin, prints JSON lines.")
    parser.add_argument("--behaviour", choices=sorted(BEHAVIOURS), default="succeed")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.2, metavar="SECS", help="between two steps")
    parser.add_argument("--flood-lines", type=int, default=100_000, metavar="N", help="100 bytes each")
    parser.add_argument("--huge-bytes", type=int, default=20_000_000, metavar="N", help="length of the huge line")
    parser.add_argument("--calls", type=int, default=40, metavar="N", help="commands that it runs to err")
    parser.add_argument("--failures", type=int, default=20, metavar="N", help="of those, the first that fail")
    parser.add_argument("--url", default="http://127.0.0.1:8099", help="of the model that it asks")
    return parser.parse_args(namespace=Options())


def main() -> None:
    """Read the whole task, then act."""
    options = parse()
    task = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    options.task = task.partition("\n")[0]
    for act in BEHAVIOURS[options.behaviour]:
        act(options)


if __name__ == "__main__":
    main()
