"""A program is started so that nothing of ours leaks into it: in a session, and maybe a cgroup, of its own.

All of this blocks, and is for a thread. Whatever goes wrong on the way is undone, and is a `SpawnFailed`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from darkfactory.devices import procfs
from darkfactory.devices.birth import Starter, Unborn
from darkfactory.devices.cgroup import Cgroup, Cgroups
from darkfactory.devices.process import LaunchSpec
from darkfactory.errors import SpawnFailed
from darkfactory.model.signals import Stream

_RESET_BY_SUBPROCESS = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)


@frozen
class Started:
    """A program that runs, and what the factory holds of it."""

    pid: int
    """A child of ours, which nobody else reaps."""
    pidfd: int
    start: int
    """Its `procfs.start_time`."""
    files: dict[Stream, int]
    """The output files, open for reading."""
    cgroup: Cgroup | None
    prompting: int | None
    """Our end of its standard input, where that is a pipe."""


def start(
    spec: LaunchSpec, marks: str, cgroups: Cgroups | None, starter: Starter | None, open_files: int | None
) -> Started:
    """Start it. SpawnFailed leaves no process, file or descriptor, and tells no environment value."""
    try:
        with contextlib.ExitStack() as always, contextlib.ExitStack() as undo:
            if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
                raise SpawnFailed("sigchld_ignored", "exit statuses would be lost: set SIGCHLD to its default first")
            command = (_program(spec), *spec.argv[1:])
            prompting = None
            if spec.prompt_later:
                stdin, prompting = os.pipe()
                undo.callback(os.close, prompting)
                os.set_blocking(prompting, False)  # our end alone: each has flags of its own
            else:
                stdin = os.open(spec.stdin or os.devnull, os.O_RDONLY)
            always.callback(os.close, stdin)
            written, followed = {}, {}
            for stream, path in ((Stream.STDOUT, spec.stdout), (Stream.STDERR, spec.stderr)):
                written[stream] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
                always.callback(os.close, written[stream])
                undo.callback(path.unlink)
                followed[stream] = os.open(path, os.O_RDONLY)
                undo.callback(os.close, followed[stream])
            streams = (stdin, written[Stream.STDOUT], written[Stream.STDERR])
            env = {**spec.env, procfs.MARK: marks}
            cgroup, pid = None, None
            if cgroups is not None:
                cgroup = cgroups.make(spec.run_id, spec.max_memory_bytes)
                undo.callback(_abort, cgroup)  # whatever went wrong, nobody may be left in it
                if starter is not None:
                    try:
                        pid = starter.start(command, env, spec.cwd, streams, cgroup.path)
                    except Unborn:
                        _abort(cgroup)
                        cgroups.make(spec.run_id, spec.max_memory_bytes)
            if pid is None:
                pid = _spawned(command, env, spec.cwd, streams, cgroup)
            undo.callback(_abandon, pid)
            if spec.max_memory_bytes is not None:
                _limit_memory(pid, spec.max_memory_bytes)
            if spec.nice:
                _be_nice(pid, spec.nice)
            if open_files is not None:
                _limit_open_files(pid, open_files)
            pidfd = os.pidfd_open(pid)
            undo.callback(os.close, pidfd)
            started = Started(pid, pidfd, procfs.start_time(pid), followed, cgroup, prompting)
            undo.pop_all()
            return started
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "os_error").lower()
        file = f": {error.filename}" if error.filename else ""
        raise SpawnFailed(reason, f"{error.strerror}{file}") from error
    except ValueError:
        raise SpawnFailed("invalid_argument", "a NUL byte in the command line or the environment") from None


def _spawned(
    command: tuple[str, ...], env: dict[str, str], cwd: Path, streams: tuple[int, int, int], cgroup: Cgroup | None
) -> int:
    """Start a program without the guard's help, and have it join its cgroup; its pid."""
    command = _with_fit_signals(command)
    joining = cgroup.wrapped(command, env) if cgroup is not None else None
    stdin, stdout, stderr = streams
    popen = subprocess.Popen(
        joining or command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True
    )
    popen.returncode = 0  # it is not subprocess that waits for it
    if cgroup is not None and joining is None:
        try:
            cgroup.add(popen.pid)
        except OSError:
            _abandon(popen.pid)
            raise
    return popen.pid


def _abort(cgroup: Cgroup) -> None:
    """End what was born in a cgroup unheard of, a child of ours, and give it back; nothing is born there any more."""
    born = cgroup.pids()
    cgroup.kill()
    for pid in born:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    cgroup.remove()


def _with_fit_signals(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command line with a way past what we would bequeath.

    Ignored and blocked signals survive exec, and subprocess resets only the two that Python itself ignores: a factory
    under nohup would start agents deaf to SIGHUP. A preexec_fn would force a real fork, so `env` (coreutils 8.31) does
    it, where it must be done. There, a program that the kernel will not run is an exit 126 or 127 and no SpawnFailed.
    """
    unfit = _unfit_signals()
    if not unfit:
        return command
    if "=" in command[0]:  # env would take it for an assignment
        command = ("/bin/sh", "-c", 'exec "$0" "$@"', *command)
    env = shutil.which("env", path=os.defpath) or "/usr/bin/env"
    return (env, f"--default-signal={','.join(map(str, unfit))}", *command)


def _unfit_signals() -> list[int]:
    """What a child of this thread would ignore or block. The kernel tells it in 30 us; asking Python for each, 150."""
    unfit = 0
    for line in Path("/proc/thread-self/status").read_bytes().splitlines():
        name, _, mask = line.partition(b":")
        if name == b"SigBlk":
            unfit |= int(mask, 16)
        elif name == b"SigIgn":
            unfit |= int(mask, 16) & ~_RESET_BY_SUBPROCESS
    return [number for number in range(1, signal.NSIG) if unfit >> (number - 1) & 1]


def _program(spec: LaunchSpec) -> str:
    """The program's absolute path, looked up as the child itself would: from its directory, on its PATH."""
    cwd = spec.cwd.absolute()
    if not cwd.is_dir():
        raise SpawnFailed("working_dir_missing", f"{cwd} is not a directory: make it, or change working_dir")
    program = locate(spec.argv[0], spec.env, cwd)
    if program is None:
        where = (
            "not there, or not executable"
            if "/" in spec.argv[0]
            else "not on the agent's PATH: install it, or set PATH in the agent's env"
        )
        raise SpawnFailed("tool_missing", f"the program {spec.argv[0]!r} is {where}")
    return program


def locate(program: str, env: Mapping[str, str], cwd: Path) -> str | None:
    """Where a program would be started from; see `Launcher.locate`."""
    if "/" in program:
        return shutil.which(str(cwd / program))
    path = env.get("PATH", os.defpath)
    return shutil.which(program, path=os.pathsep.join(str(cwd / entry) for entry in path.split(os.pathsep)))


def _limit_memory(pid: int, max_bytes: int) -> None:
    """A backstop against one process that grows and grows, not the limit of the run; see DESIGN, Memory.

    RLIMIT_DATA, as Node cannot live under RLIMIT_AS. What the program took before this call it keeps; it gets no more.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or changed its user
        hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
        limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def _be_nice(pid: int, nice: int) -> None:
    """Give it less of the processors than us when they are short; its children inherit that.

    Where the kernel shares them out by session first (autogroup), what counts is the session's own niceness; children
    in sessions of their own do not inherit that, and it takes ten changes a second from any user but root.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or changed its user
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
    with contextlib.suppress(OSError):  # a kernel without it, or one that has had ten
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def _limit_open_files(pid: int, number: int) -> None:
    """Give the child the soft limit that we had before we raised ours: some programs close all that there could be."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))


def _abandon(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
