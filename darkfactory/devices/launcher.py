"""Real processes: started so that nothing of ours leaks into them, ended so that nothing of theirs is left.

The traps are in the order of things. A leader that was reaped gives its pid, and with it its group, to whoever comes
next; so an exit is learned from a pidfd *without* reaping, the group may be signalled for as long as the leader is a
zombie, and only `drain` reaps. And the exit is what the pidfd says, never the end of the output: a grandchild may hold
that for ever.
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

import trio
from attrs import Factory, define, frozen

from darkfactory.devices import containment, threads
from darkfactory.devices.capture import Followed, Follower
from darkfactory.devices.process import LaunchSpec, Sink
from darkfactory.errors import SpawnFailed
from darkfactory.model.signals import Stream

STARTS_AT_ONCE = 8
_RESET_BY_SUBPROCESS = {signal.SIGPIPE, signal.SIGXFSZ}


@define(eq=False)
class RealLauncher:
    """Starts programs, each in a session of its own and marked as ours, and follows their output."""

    instance: str
    """Unique to this state directory and the same at every start, so that leftovers can be told from strangers."""
    outer_mark: str | None = None
    """The mark that we ourselves run under, as a factory inside another one's run; None as a rule."""
    _follower: Follower = Factory(Follower)
    _table: containment.ProcessTable = Factory(containment.ProcessTable)
    _starts: trio.CapacityLimiter = Factory(lambda: trio.CapacityLimiter(STARTS_AT_ONCE))
    """Its own: other work in threads must not hold up a start."""

    async def serve(self) -> None:
        """The follower service: runs until it is cancelled."""
        await self._follower.serve()

    def locate(self, program: str, env: Mapping[str, str], cwd: Path) -> str | None:
        """Where the program would be started from; see `Launcher.locate`."""
        return locate(program, env, cwd)

    async def launch(self, spec: LaunchSpec, sink: Sink) -> RealProcess:
        """Start a program; see `Launcher.launch`. A checkpoint.

        Cancelled while it waits for its turn, it has started nothing; after that cancellation is not delivered.
        """
        mark = f"{self.instance}/{spec.run_id}"
        marks = f"{self.outer_mark}:{mark}" if self.outer_mark else mark
        try:
            started = await trio.to_thread.run_sync(_start, spec, marks, limiter=self._starts)
        except RuntimeError as error:
            if not threads.none_left(error):
                raise
            raise SpawnFailed("eagain", "the system has no thread left to start it from") from error
        return RealProcess(
            started,
            self._table,
            containment.Kin.of_leader(mark, started.popen.pid, started.start),
            self._follower.follow(started.files, sink, spec.max_output_bytes),
        )

    async def sweep_leftovers(self) -> tuple[str, ...]:
        """End what carries a mark of this instance, "PID NAME" of each; only for when none of our runs is alive."""
        return (await self._table.sweep(containment.Kin(f"{self.instance}/"))).found


@frozen
class _Started:
    popen: subprocess.Popen[bytes]
    pidfd: int
    start: int
    """Its `containment.start_time`."""
    files: dict[Stream, int]
    """The output files, open for reading."""


@define(eq=False)
class RealProcess:
    """A child of ours and all that belongs to it."""

    _started: _Started
    _table: containment.ProcessTable
    _kin: containment.Kin
    _followed: Followed
    _waiting: trio.Lock = Factory(trio.Lock)
    """Trio lets one task wait for a descriptor; the others wait for that task."""
    _code: int | None = None
    _released: bool = False

    @property
    def pid(self) -> int:
        """The leader's."""
        return self._started.popen.pid

    async def wait(self) -> int:
        """Wait for the leader's exit without reaping it; its exit code, or minus the signal's number.

        A checkpoint. Any number of tasks may wait, as often as they like, until `drain`; after that it returns at
        once what is known. RuntimeError if that is nothing: someone else took the status, or it could not be killed.
        """
        async with self._waiting:
            if self._code is None and not self._released:
                await trio.lowlevel.wait_readable(self._started.pidfd)
                self._code = self._exit_code()
            if self._code is None:
                raise RuntimeError("the exit status is not known: does something else wait for our children?")
            return self._code

    def _exit_code(self) -> int | None:
        """What there is to know without waiting; None while it lives, or when someone else has reaped it."""
        try:
            result = os.waitid(os.P_PIDFD, self._started.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return None
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    async def terminate(self) -> None:
        """Note who belongs to it (afterwards its children are nobody's), then SIGTERM and SIGCONT to its group."""
        self._kin.members(await self._table.snapshot())
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process hears nothing until it goes on

    def kill(self) -> None:
        """SIGKILL to its group; at once, no checkpoint."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Until it is reaped, the leader (a zombie, maybe) keeps the number of the group from being given away.
        if not self._released:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: it changed its user
                os.killpg(self.pid, number)

    async def sweep(self) -> tuple[str, ...]:
        """Kill whatever still belongs to the run; "PID NAME" of each that was alive after `SWEEP_LIMIT_SECS`."""
        self.kill()
        return (await self._table.sweep(self._kin)).left

    async def drain(self) -> None:
        """Feed and flush the rest of the output, then reap the leader and close everything.

        A checkpoint. Cancelled, it does the second half all the same. It takes as long as there is something to read.
        """
        try:
            await self._followed.finish()
        finally:
            self._released = True
            if self._code is None:
                self._code = self._exit_code()
            trio.lowlevel.notify_closing(self._started.pidfd)
            os.close(self._started.pidfd)
            # If the sweep could not kill it, this reaps nothing; subprocess will, when it starts another one day.
            self._started.popen.poll()


def _start(spec: LaunchSpec, marks: str) -> _Started:
    """Start it, in a thread. SpawnFailed leaves no process, file or descriptor, and tells no environment value."""
    try:
        with contextlib.ExitStack() as always, contextlib.ExitStack() as undo:
            command = _command(spec)
            stdin = os.open(spec.stdin or os.devnull, os.O_RDONLY)
            always.callback(os.close, stdin)
            written, followed = {}, {}
            for stream, path in ((Stream.STDOUT, spec.stdout), (Stream.STDERR, spec.stderr)):
                written[stream] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
                always.callback(os.close, written[stream])
                undo.callback(path.unlink)
                followed[stream] = os.open(path, os.O_RDONLY)
                undo.callback(os.close, followed[stream])
            popen = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=written[Stream.STDOUT],
                stderr=written[Stream.STDERR],
                cwd=spec.cwd,
                env={**spec.env, containment.MARK: marks},
                start_new_session=True,
            )
            undo.callback(_abandon, popen)
            if spec.max_memory_bytes is not None:
                _limit_memory(popen.pid, spec.max_memory_bytes)
            pidfd = os.pidfd_open(popen.pid)
            undo.callback(os.close, pidfd)
            started = _Started(popen, pidfd, containment.start_time(popen.pid), followed)
            undo.pop_all()
            return started
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "os_error").lower()
        file = f": {error.filename}" if error.filename else ""
        raise SpawnFailed(reason, f"{error.strerror}{file}") from error
    except ValueError:
        raise SpawnFailed("invalid_argument", "a NUL byte in the command line or the environment") from None


def _command(spec: LaunchSpec) -> tuple[str, ...]:
    """The command line with its program resolved, and a way past what we would bequeath.

    Ignored and blocked signals survive exec, and subprocess resets only the two that Python itself ignores: a factory
    under nohup would start agents deaf to SIGHUP. A preexec_fn would force a real fork, so `env` (coreutils 8.31) does
    it, where it must be done. There, a program that the kernel will not run is an exit 126 or 127 and no SpawnFailed.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        raise SpawnFailed("sigchld_ignored", "exit statuses would be lost: set SIGCHLD to its default first")
    command = (_program(spec), *spec.argv[1:])
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    unfit = sorted(int(number) for number in (ignored - _RESET_BY_SUBPROCESS) | blocked)
    if not unfit:
        return command
    if "=" in command[0]:  # env would take it for an assignment
        command = ("/bin/sh", "-c", 'exec "$0" "$@"', *command)
    env = shutil.which("env", path=os.defpath) or "/usr/bin/env"
    return (env, f"--default-signal={','.join(map(str, unfit))}", *command)


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


def _abandon(popen: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
