"""A simulated machine: the real factory on it runs a week in seconds, to the same end every time.

The supervisor, the scheduler, the layers and the runs are those of production. Only what they stand on is replaced:
processes follow a script, the time of day is Trio's (so that a mock clock moves both), and the journal is a list.

    machine = SimulatedMachine(lambda spec: Script(secs=30))
    async with open_factory(fleet, machine=machine.open, seed=1) as factory:
        await trio.sleep(7 * 86400)
    assert machine.records("run_ended")
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from operator import eq
from pathlib import Path
from typing import Any

import trio
from attrs import define, evolve, field, frozen

from darkfactory.devices.agent_mail import ServerAway
from darkfactory.devices.clock import zone_of
from darkfactory.devices.disk import Room
from darkfactory.devices.forge import PullRequest, Target
from darkfactory.devices.handoffs import Same
from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec, Process, Sink
from darkfactory.devices.reviews import ReviewDevices
from darkfactory.devices.runstore import Keep, Pruned, RunFiles
from darkfactory.devices.segments import Line, encode
from darkfactory.devices.worktrees import Settled, Start, Worktree
from darkfactory.errors import CompoundReviewFailed, SpawnFailed
from darkfactory.model.fleet import OrchestratorConfig, Reservation
from darkfactory.model.review import Branch, Scan
from darkfactory.model.signals import Stream
from darkfactory.policy.admission import EARLY_SECS


def says(ok: bool = True, text: str = "done", **more: object) -> bytes:
    """The demo tool's terminal event, as its output has it; a bad one may tell `error`, `resets_at`, `retryable`."""
    return json.dumps({"type": "result", "ok": ok, "text": text, **more}).encode() + b"\n"


def uses(calls: int = 1, failures: int = 0) -> bytes:
    """The demo tool's account of that many commands, the first of which failed."""
    line = '{"type": "tool", "name": "shell", "exit_code": %d}\n'
    return (line % 1 * failures + line % 0 * (calls - failures)).encode()


STARTED = b'{"type":"started","session":"simulated"}\n'
"""The demo tool's first line."""


@frozen
class Script:
    """What one process does."""

    output: tuple[tuple[float, bytes], ...] = ((0.0, STARTED),)
    """(seconds after the start, bytes on stdout), ascending."""
    errors: tuple[tuple[float, bytes], ...] = ()
    """The same on stderr."""
    secs: float = 1.0
    """When it exits by itself; inf for never."""
    exit_code: int = 0
    last_words: bytes = says()
    """Printed just before it exits by itself."""
    dies_after: float | None = 0.0
    """Seconds from SIGTERM to its end; None: it ignores SIGTERM."""
    dying_words: bytes = b""
    """Printed when SIGTERM ends it."""
    refuses: str | None = None
    """It cannot be started, for this reason."""
    immortal: bool = False
    """Not even SIGKILL ends it."""
    memory: tuple[tuple[float, int], ...] = ()
    """(seconds after the start, bytes that it takes from then on), ascending."""
    warm_secs: float = math.inf
    """How long it waits for its prompt where that comes later; then it exits. All other times count from the prompt."""
    banner: bytes = b""
    """Printed before it waits for that."""
    deaf: bool = False
    """It does not take it."""
    out_of_memory: bool = False
    """When it exits by itself, it was the system that ended it at its memory limit."""


SUCCEEDS = Script()
FAILS = Script(exit_code=1, last_words=says(ok=False, text="failed"))
HANGS = Script(secs=math.inf)
"""Announces itself and is silent from then on."""
STUBBORN = Script(secs=math.inf, dies_after=None)
"""Hangs, and ignores SIGTERM."""


class LeapingClock(trio.abc.Clock):
    """Trio's clock for a simulation: when everybody sleeps, it is the time at which the first one wakes.

    What Trio's `MockClock(autojump_threshold=0)` does, in three quarters of its time: that one has the loop go round
    once more before each leap. For simulations alone: it leaps also while a thread works or a socket is to be read.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def start_clock(self) -> None:
        """It begins at 0 and goes on from run to run."""

    def current_time(self) -> float:
        """Seconds."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """None is left, for Trio asks when there is nothing else to do; without a deadline it must wait in earnest."""
        if deadline == math.inf:
            return math.inf
        self._now = max(self._now, deadline)
        return 0.0


class SimulatedClock:
    """The time of day, derived from Trio's clock; it starts at `start` and can be stepped."""

    def __init__(self, start: datetime) -> None:
        self._start = start.astimezone(UTC)
        """What it says at `_origin`, as far as it was not stepped since."""
        self._origin: float | None = None

    def utc(self) -> datetime:
        """Now, aware, in UTC, to the microsecond; on the first call it is `start`."""
        at = trio.current_time()
        if self._origin is None:
            self._origin = at
        return self._start + timedelta(seconds=at - self._origin)

    def zone(self, tz: str | None) -> tzinfo:
        """UTC, unless it is told otherwise."""
        return UTC if tz is None else zone_of(tz)

    def step(self, secs: float) -> None:
        """Set the clock on the wall forward or back, as an operator or an NTP daemon would."""
        self._start += timedelta(seconds=secs)


@define(eq=False)
class ScriptedProcess:
    """A process that follows its script (`devices.process.Process`)."""

    pid: int
    script: Script
    sink: Sink
    on_end: Callable[[int], None]
    """Told the pid."""
    prompt: bytes | None = b""
    """None before it has one that comes later; empty if its prompt was a file."""
    _started: float = field(factory=trio.current_time)
    _dies_at: float = math.inf
    _nap: trio.CancelScope = field(factory=trio.CancelScope)
    """Its deadline is the next thing to do; a signal can move it."""
    _exit_code: int | None = None
    _ended: trio.Event = field(factory=trio.Event)

    async def act(self) -> None:
        """Its life."""
        if self.prompt is None:
            await self._wait_for_prompt()
        spoken = [(secs, Stream.STDOUT, data) for secs, data in self.script.output]
        spoken += [(secs, Stream.STDERR, data) for secs, data in self.script.errors]
        for secs, stream, data in sorted(spoken, key=lambda said: said[0]):
            await self._sleep_until(self._started + secs)
            if self._exit_code is not None:
                return
            self.sink.feed(stream, data)
            await self.sink.flush()
        await self._sleep_until(self._started + self.script.secs)
        if self._exit_code is None:
            self.sink.feed(Stream.STDOUT, self.script.last_words)
            self._end(self.script.exit_code)

    async def _wait_for_prompt(self) -> None:  # noqa: ASYNC910 - its caller goes on to others
        if self.script.banner:
            self.sink.feed(Stream.STDOUT, self.script.banner)
            await self.sink.flush()
        if self.prompt is None:
            await self._sleep_until(self._started + self.script.warm_secs)
        if self.prompt is None and self._exit_code is None:
            self._end(self.script.exit_code)

    def deliver(self, prompt: bytes) -> bool:
        """Go on as the script says, unless it has ended or is deaf."""
        assert self.prompt is None
        if self._exit_code is not None or self.script.deaf:
            return False
        self.prompt, self._started = prompt, trio.current_time()
        self._nap.cancel(reason="its prompt has come")
        return True

    async def _sleep_until(self, at: float) -> None:  # noqa: ASYNC910 - whoever speaks waits for the supervisor
        """Sleep, if the time has not come, and unless a signal ends it before."""
        if at > trio.current_time():
            with trio.CancelScope(deadline=min(at, self._dies_at)) as self._nap:
                await self._ended.wait()
        if self._exit_code is None and self._dies_at <= trio.current_time() + EARLY_SECS:
            self.sink.feed(Stream.STDOUT, self.script.dying_words)
            self._end(-15)

    async def wait(self) -> int:
        """Wait for its end."""
        await self._ended.wait()
        assert self._exit_code is not None
        return self._exit_code

    async def terminate(self) -> None:
        """SIGTERM: it will end after `dies_after`, or not."""
        if self.script.dies_after is not None:
            self._dies_at = min(self._dies_at, trio.current_time() + self.script.dies_after)
            self._nap.deadline = min(self._nap.deadline, self._dies_at)
        await trio.lowlevel.checkpoint()

    def kill(self) -> None:
        """SIGKILL."""
        if not self.script.immortal:
            self._end(-9)

    async def sweep(self) -> tuple[str, ...]:
        """Nothing is left but an immortal leader."""
        self.kill()
        await trio.lowlevel.checkpoint()
        return () if self._exit_code is not None else (f"{self.pid} immortal",)

    async def memory_bytes(self) -> int | None:
        """What its script says that it takes by now; None if it says nothing, so that nobody asks every second."""
        await trio.lowlevel.checkpoint()
        if not self.script.memory:
            return None
        elapsed = trio.current_time() - self._started + EARLY_SECS
        return next((size for secs, size in reversed(self.script.memory) if secs <= elapsed), 0)

    def out_of_memory(self) -> bool:
        """What its script says."""
        return self.script.out_of_memory

    async def drain(self) -> None:
        """Pass on the last words."""
        await self.sink.flush()

    def _end(self, code: int) -> None:
        if self._exit_code is None:
            self._exit_code = code
            self._ended.set()
            self.on_end(self.pid)


class ScriptedLauncher:
    """Starts scripted processes (`devices.process.Launcher`).

    `script` is asked for each start. `missing` holds the programs that are not installed; change it at any time.
    """

    def __init__(self, script: Callable[[LaunchSpec], Script]) -> None:
        self._script = script
        self.missing: set[str] = set()
        self.started: list[LaunchSpec] = []
        """Every start, in order."""
        self.living: dict[int, LaunchSpec] = {}
        """By pid: those that have not ended."""
        self.process_type = ScriptedProcess
        """What is started; a test may give it a vice of its own."""
        self._serving: trio.Nursery | None = None
        self._ready = trio.Event()

    async def serve(self) -> None:
        """Where the processes live; when it is cancelled, they act no more and only SIGKILL ends them."""
        async with trio.open_nursery() as self._serving:
            self._ready.set()
            try:
                await trio.sleep_forever()
            finally:
                self._ready = trio.Event()  # before the nursery closes: nothing is started in it any more

    def locate(self, program: str, env: Mapping[str, str], cwd: Path) -> str | None:  # noqa: ARG002 - the protocol's
        """Where it is, unless it is missing."""
        return None if program in self.missing else f"/simulated/{program.rpartition('/')[2]}"

    async def launch(self, spec: LaunchSpec, sink: Sink) -> Process:
        """Start a process, or refuse as its script says."""
        script = self._script(spec)
        if script.refuses is not None:
            raise SpawnFailed(script.refuses, f"{spec.argv[0]} is scripted not to start")
        await trio.lowlevel.checkpoint()
        while not self._ready.is_set():  # it may have been served no longer when we woke
            await self._ready.wait()
        assert self._serving is not None
        self.started.append(spec)
        pid = 1000 + len(self.started)
        self.living[pid] = spec
        process = self.process_type(pid, script, sink, self._ended, None if spec.prompt_later else b"")
        self._serving.start_soon(process.act, name=f"process {pid} of {spec.run_id}")
        return process

    def _ended(self, pid: int) -> None:
        del self.living[pid]

    async def sweep_leftovers(self) -> tuple[str, ...]:
        """A simulated machine has none."""
        await trio.lowlevel.checkpoint()
        return ()


class MemoryJournal:
    """A journal in a list (`devices.journal.Journal`); durable at once."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.data = bytearray(b"".join(map(encode, lines)))
        """What the file would hold."""

    @property
    def lines(self) -> list[Line]:
        """Every line so far, parsed."""
        return [json.loads(line) for line in self.data.splitlines()]

    def append(self, lines: Iterable[Line], *, durable: bool) -> int:  # noqa: ARG002 - the protocol's
        """Write these lines."""
        for line in lines:
            self.data += encode(line)
        return len(self.data)

    def wants_snapshot(self, utc: datetime) -> bool:  # noqa: ARG002 - the protocol's
        """Never: a simulation wants to see everything."""
        return False

    def begin_segment(self, snapshot: Line) -> None:
        """Go on after the snapshot, in the same list."""
        self.append([snapshot], durable=True)

    async def wait_durable(self, number: int) -> None:  # noqa: ARG002 - the protocol's
        """They are."""
        await trio.lowlevel.checkpoint()

    async def serve(self) -> None:
        """Nothing to do."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Nothing to let go of."""


_RUNS = Path("/simulated/runs")


class MemoryRuns:
    """Run files that exist only by name (`devices.runstore.RunStore`)."""

    def __init__(self) -> None:
        self.prompts: dict[str, str] = {}
        """By run id."""
        self.messages: dict[str, str] = {}
        """By run id: what others told it."""

    def begin(self, run_id: str, prompt: str, messages: str = "") -> RunFiles:
        """Remember the prompt and the messages."""
        self.tell(run_id, prompt, messages)
        return self.prepare(run_id)

    def prepare(self, run_id: str) -> RunFiles:
        """Their names."""
        return RunFiles.below(_RUNS / run_id)

    def tell(self, run_id: str, prompt: str, messages: str = "") -> None:
        """Remember the prompt and the messages."""
        self.prompts[run_id] = prompt
        if messages:
            self.messages[run_id] = messages

    def discard(self, run_id: str) -> None:
        """Forget it."""
        self.prompts.pop(run_id, None)

    def end(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """The journal tells it all."""

    async def prune(self, keep: Keep, *, living: Collection[str]) -> Pruned:  # noqa: ARG002 - the protocol's
        """There is nothing to delete."""
        await trio.lowlevel.checkpoint()
        return Pruned()


class MemoryHandoffs:
    """Handoffs that exist only by name (`devices.handoffs.HandoffStore`)."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        """By id."""

    async def write(self, handoff_id: str, text: str, same: Same = eq) -> str:
        """Remember it."""
        await trio.lowlevel.checkpoint()
        if not same(self.texts.setdefault(handoff_id, text), text):
            raise FileExistsError(f"{handoff_id}: there is another handoff of this id")
        return f"/simulated/handoffs/{handoff_id}.json"

    async def remove(self, handoff_id: str) -> None:
        """Forget it."""
        await trio.lowlevel.checkpoint()
        self.texts.pop(handoff_id, None)

    async def prune(self, since: datetime, waiting: Collection[str]) -> None:  # noqa: ARG002 - the protocol's
        """Memory is large."""
        await trio.lowlevel.checkpoint()


@define(eq=False)
class SimulatedDisk:
    """A disk with as much room as it is told (`devices.disk.Disk`); change it at any time."""

    free_bytes: int = 1024**4

    async def room(self, working_dir: Path) -> Room:
        """As much as it was told."""
        return self.room_at_once(working_dir)  # noqa: ASYNC910 - whoever looks has just slept, or tells what was found

    def room_at_once(self, working_dir: Path) -> Room:  # noqa: ARG002 - the protocol's
        """The same."""
        return Room(self.free_bytes, f"the simulated disk: {self.free_bytes} bytes are free")


@define(eq=False)
class SimulatedAgentMail:
    """A server that others use as well (`devices.agent_mail.LeaseServer`); change its vices at any time."""

    secs: float = 0.0
    """How long each answer takes."""
    away: bool = False
    """It does not answer, which is found out at once."""
    taken: dict[str, str] = field(factory=dict)
    """Glob -> which of the others has it."""
    held: dict[str, tuple[Reservation, ...]] = field(factory=dict)
    """Our agents' leases: what it would keep others from."""
    until: dict[str, float] = field(factory=dict)
    """When those end, in Trio seconds."""
    ttl_secs: float = 600.0
    asked: list[tuple[str, str]] = field(factory=list)
    """What it was asked to do, and for which agent, in order."""

    async def grant(self, agent: str, run_id: str, leases: Iterable[Reservation]) -> tuple[str, ...]:  # noqa: ARG002
        """Give them all, and say who has one of them already."""
        self.asked.append(("grant", agent))
        await self._answer()
        self.held[agent], self.until[agent] = tuple(leases), trio.current_time() + self.ttl_secs
        return tuple(f"{each.glob}: {self.taken[each.glob]} has it" for each in leases if each.glob in self.taken)

    async def renew(self, agents: Mapping[str, float]) -> frozenset[str]:
        """Let them last longer."""
        self.asked += [("renew", agent) for agent in agents]
        await self._answer()
        for agent, secs in agents.items():
            if agent in self.until:
                self.until[agent] += secs
        return frozenset(agent for agent in agents if agent not in self.held)

    async def release(self, agent: str) -> None:
        """Take them back."""
        self.asked.append(("release", agent))
        await self._answer()
        self.held.pop(agent, None)
        self.until.pop(agent, None)

    async def _answer(self) -> None:
        await trio.sleep(self.secs)
        if self.away:
            raise ServerAway("the simulated server is away")


@define(eq=False)
class SimulatedWorktrees:
    """Worktrees that exist only by name (`devices.worktrees.Worktrees`); change what becomes of them at any time."""

    refuses: str | None = None
    """Why none can be made; None: they can."""
    keeps: Callable[[str], str | None] = lambda _run_id: None
    """Asked at a run's end, by run id: why its worktree is kept; None: it is removed. One that is kept has commits."""
    branches: set[str] = field(factory=set)
    """Those of reviews."""
    made: list[str] = field(factory=list)
    """The runs that got one, in order."""
    there: dict[str, str] = field(factory=dict)
    """Those that are kept, and why, by run: take one away, and it was pruned."""
    _in_use: dict[str, str] = field(factory=dict)
    """Their agents, by run."""
    _starts: dict[str, Start] = field(factory=dict)
    _left: list[str] = field(factory=list)

    async def make(
        self,
        run_id: str,
        agent: str,
        working_dir: Path,  # noqa: ARG002 - the protocol's
        created: datetime,  # noqa: ARG002 - the protocol's
        start: Start | None = None,
    ) -> Worktree:
        """One in /simulated/worktrees."""
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise SpawnFailed("worktree", self.refuses)
        if start is not None and start.branch in self.branches:
            raise SpawnFailed("branch_taken", f"there is a branch {start.branch} already")
        self.made.append(run_id)
        self._in_use[run_id] = agent
        path = Path("/simulated/worktrees") / run_id
        if start is not None:
            self._starts[run_id] = start
            self.branches.add(start.branch)
            return Worktree(path, path, start.branch, start.commit)
        return Worktree(path, path, f"darkfactory/{agent}/{run_id}", "0" * 40)

    async def settle(self, run_id: str, why: str) -> Settled | None:  # noqa: ARG002 - the protocol's
        """Keep it, or not, as `keeps` says."""
        await trio.lowlevel.checkpoint()
        agent = self._in_use.pop(run_id, None)
        if agent is None:
            return None
        kept, start = self.keeps(run_id), self._starts.get(run_id)
        if kept is not None:
            self.there[run_id] = kept
        elif start is not None:
            self.branches.discard(start.branch)
        commit = "1" * 40 if kept is not None else None
        return Settled(run_id, agent, Path("/simulated/worktrees") / run_id, (), kept, commit=commit)

    def leave(self, run_id: str, *, alone: bool) -> None:
        """It is a leftover, or kept."""
        if run_id in self._in_use and alone:
            del self._in_use[run_id]
            self.there[run_id] = "something of it may live"
        elif run_id in self._in_use:
            self._left.append(run_id)

    def leftovers(self) -> tuple[str, ...]:
        """Those of runs whose end was cut short."""
        left, self._left = tuple(self._left), []
        return left

    def kept(self) -> int:
        """How many there are."""
        return len(self.there) + len(self._left)

    async def retire(self) -> None:
        """Forget those of reviews that are settled; their branches stay."""
        await trio.lowlevel.checkpoint()
        for run_id in [run_id for run_id in self.there if run_id in self._starts]:
            del self.there[run_id]

    async def check_out(self, run_id: str, commit: str) -> None:  # noqa: ARG002 - the protocol's
        """There are no files."""
        await trio.lowlevel.checkpoint()

    async def bury(self) -> str | None:
        """There is nothing to delete."""
        await trio.lowlevel.checkpoint()
        return None


@define(eq=False)
class SimulatedScanner:
    """A repository that is as it is told to be (`devices.scan.Scanner`); change it at any time."""

    found: Scan = field(factory=lambda: Scan("c" * 40, None))
    """What each scan finds, the branches of the simulated worktrees apart."""
    fails: CompoundReviewFailed | None = None
    secs: float = 0.0
    """How long a scan takes."""
    asked: list[str | None] = field(factory=list)
    """From which commits on it was to look, scan by scan."""
    branches: Callable[[], Collection[str]] = tuple
    """Those of reviews."""

    async def scan(
        self,
        repo: Path,  # noqa: ARG002 - the protocol's
        base_branch: str,  # noqa: ARG002
        *,
        since: str | None,
        lookback: timedelta,  # noqa: ARG002
        now: datetime,
        remote: str,  # noqa: ARG002
    ) -> Scan:
        """What it is told to find."""
        self.asked.append(since)
        await trio.sleep(self.secs)
        if self.fails is not None:
            raise self.fails
        branches = (Branch(name, "1" * 40, 1, now) for name in sorted(self.branches()))
        return evolve(self.found, since=since, branches=(*self.found.branches, *branches))


@define(eq=False)
class SimulatedForge:
    """A GitHub that remembers what it was given (`devices.forge.Forge`); change its vices at any time."""

    fails: dict[str, CompoundReviewFailed] = field(factory=dict)
    """By step ("target", "waiting", "find", "push", "open_draft"): what that raises."""
    pushed: dict[str, str] = field(factory=dict)
    """Branch -> commit."""
    opened: list[PullRequest] = field(factory=list)
    texts: list[tuple[str, str]] = field(factory=list)
    """Title and body of each."""

    async def target(self, repo: Path, remote: str, github_repo: str | None) -> Target:  # noqa: ARG002
        """One."""
        await self._step("target")
        return Target("https://github.test/owner/repo", "github.test/owner/repo")

    async def waiting(self, target: Target) -> tuple[PullRequest, ...]:  # noqa: ARG002 - the protocol's
        """Those that are open."""
        await self._step("waiting")
        return tuple(each for each in self.opened if each.state == "open")

    async def find(self, target: Target, branch: str, finding: str) -> PullRequest | None:  # noqa: ARG002
        """That of the branch, or an open one about the finding."""
        await self._step("find")
        found = (
            each for each in self.opened if each.branch == branch or (each.finding == finding and each.state == "open")
        )
        return next(found, None)

    async def push(self, repo: Path, target: Target, commit: str, branch: str) -> None:  # noqa: ARG002
        """Remember it."""
        await self._step("push")
        self.pushed[branch] = commit

    async def open_draft(
        self,
        target: Target,
        *,
        branch: str,
        base: str,  # noqa: ARG002 - the protocol's
        title: str,
        body: str,
        finding: str,
    ) -> tuple[PullRequest, bool]:
        """Open it, unless it is there."""
        await self._step("open_draft")
        there = await self.find(target, branch, finding)
        if there is not None:
            return there, False
        number = len(self.opened) + 1
        made = PullRequest(number, f"https://github.test/owner/repo/pull/{number}", "open", True, branch, finding)
        self.opened.append(made)
        self.texts.append((title, body))
        return made, True

    async def _step(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        if name in self.fails:
            raise self.fails[name]


class MemoryReports:
    """Reports that exist only by name (`devices.reviews.Reports`)."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        """By review, as is the next."""
        self.results: dict[str, dict[str, Any]] = {}
        self.full = False
        """The disk is."""

    scratch = Path("/simulated/reviews")

    def write(self, review: str, page: str, result: str, since: datetime) -> None:  # noqa: ARG002 - the protocol's
        """Remember them."""
        if self.full:
            raise OSError("the simulated disk is full")
        self.pages[review] = page
        self.results[review] = json.loads(result)


async def _at_once(work: Callable[[], Any]) -> Any:
    """Work that a real machine does in a thread: a mock clock would run on meanwhile."""
    await trio.lowlevel.checkpoint()
    return work()


@define(eq=False)
class SimulatedMachine:
    """A machine for `open_factory(fleet, machine=...)`; opened again, it goes on from its journal."""

    script: Callable[[LaunchSpec], Script] = field(default=lambda _spec: SUCCEEDS)
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)
    """The time of day when it is opened first: a Monday, 00:00 UTC."""
    clock: SimulatedClock = field(init=False)
    launcher: ScriptedLauncher = field(init=False)
    journal: MemoryJournal = field(init=False, factory=MemoryJournal)
    runs: MemoryRuns = field(init=False, factory=MemoryRuns)
    disk: SimulatedDisk = field(init=False, factory=SimulatedDisk)
    leases: SimulatedAgentMail | None = None
    """Asked for leases as if the fleet had `[agent_mail]`."""
    handoffs: MemoryHandoffs = field(init=False, factory=MemoryHandoffs)
    worktrees: SimulatedWorktrees = field(init=False, factory=SimulatedWorktrees)
    scanner: SimulatedScanner = field(init=False, factory=SimulatedScanner)
    forge: SimulatedForge = field(init=False, factory=SimulatedForge)
    reports: MemoryReports = field(init=False, factory=MemoryReports)

    def __attrs_post_init__(self) -> None:
        self.scanner.branches = lambda: self.worktrees.branches
        self.clock = SimulatedClock(self.start)
        self.launcher = ScriptedLauncher(lambda spec: self.script(spec))

    @contextmanager
    def open(self, config: OrchestratorConfig) -> Iterator[Machine]:  # noqa: ARG002 - the real one needs it
        """The machine of one life of a factory."""
        yield Machine(
            clock=self.clock,
            launcher=self.launcher,
            journal=self.journal,
            runs=self.runs,
            disk=self.disk,
            handoffs=self.handoffs,
            worktrees=self.worktrees,
            history=tuple(self.journal.lines),
            in_thread=_at_once,
            leases=self.leases,
            review=ReviewDevices(self.scanner, self.forge, self.reports, self._lines),
        )

    def _lines(self, since: datetime, kinds: Collection[str]) -> list[Line]:
        lines = self.journal.lines
        return [line for line in lines if line["kind"] in kinds and datetime.fromisoformat(line["utc"]) >= since]

    def records(self, kind: str, **like: Any) -> list[Line]:
        """The journal's lines of one kind whose fields are as given, oldest first."""
        return [
            line
            for line in self.journal.lines
            if line["kind"] == kind and all(line.get(key) == value for key, value in like.items())
        ]


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope at the n-th step that any task takes: so, step by step, wherever a program can be cancelled.

    for step in itertools.count(1):
        cancel = CancelAtStep(step)
        trio.run(program, cancel.scope, instruments=[cancel])  # which enters the scope
        if cancel.at is None:
            break  # it was over before
    """

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        """What is cancelled."""
        self.at: float | None = None
        """When it was, in Trio's seconds; None before."""
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - the interface's
        """Count, and cancel when it is time."""
        self._left -= 1
        if self._left == 0:
            self.at = trio.current_time()
            self.scope.cancel(reason="its step has come")
