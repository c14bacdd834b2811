"""Real processes: followed while they live, and ended so that nothing of theirs is left.

The traps are in the order of things. A leader that was reaped gives its pid, and with it its group, to whoever comes
next; so an exit is learned from a pidfd *without* reaping, the group may be signalled for as long as the leader is a
zombie, and only `drain` reaps. And the exit is what the pidfd says, never the end of the output: a grandchild may hold
that for ever.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
import trio
from attrs import Factory, define

from darkfactory.devices import containment, procfs, spawning, threads
from darkfactory.devices.capture import Followed, Follower
from darkfactory.devices.cgroup import Cgroup, Cgroups
from darkfactory.devices.guard import Guard
from darkfactory.devices.process import LaunchSpec, Sink
from darkfactory.errors import SpawnFailed

STARTS_AT_ONCE = 8
LOOK_SECS = 1.0
"""How often we look whether orphans have come to us, where they do."""
LOOK_IN_CGROUPS_SECS = 10.0
"""The same where cgroups hold them in any case, and all that is left to do is to reap."""
GUARD_BACKOFF_SECS = (0.0, 1.0, 10.0, 60.0)
"""The delays before another guard is started; the last one stays."""
FORMER_GUARD_SECS = 10.0
"""How long the guard of a former life may take to finish what it is doing."""

_log = structlog.get_logger("darkfactory")


@define(eq=False)
class RealLauncher:
    """Starts programs, each in a session of its own and marked as ours, and follows their output."""

    instance: str
    """Unique to this state directory and the same at every start, so that leftovers can be told from strangers."""
    outer_mark: str | None = None
    """The mark that we ourselves run under, as a factory inside another one's run; None as a rule."""
    cgroups: Cgroups | None = None
    """Where each run gets a cgroup; None where there are none."""
    guard: Guard | None = None
    """Started; told of every run, and replaced when it is lost. None: what we leave when we are killed, lives on."""
    adopts: bool = False
    """We are a child subreaper (`containment.adopt_orphans`), and nothing else here starts sessions of its own."""
    open_files: int | None = None
    """How many open files each process of a run may have (the soft limit); None: as many as we."""
    _follower: Follower = Factory(Follower)
    _table: containment.ProcessTable = Factory(
        lambda self: containment.ProcessTable(self.instance, self.adopts), takes_self=True
    )
    _starts: trio.CapacityLimiter = Factory(lambda: trio.CapacityLimiter(STARTS_AT_ONCE))
    """Its own: other work in threads must not hold up a start."""
    _orphans: dict[int, int] = Factory(dict)
    """Those that the guard knows: start time by pid."""
    _unreaped: list[containment.Kin] = Factory(list)
    """The runs that are over and whose leaders live on."""

    def __attrs_post_init__(self) -> None:
        for pid in procfs.own_children() if self.adopts else ():  # of whoever we were before the last exec
            self._spare(pid)
        if self.guard is not None and self.guard.pid is not None:
            self._spare(self.guard.pid)

    def _spare(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._table.strangers[pid] = procfs.start_time(pid)

    async def serve(self) -> None:
        """Follow output, keep a guard, and see to orphans: runs until it is cancelled."""
        async with trio.open_nursery() as nursery:
            if self.guard is not None:
                nursery.start_soon(self._keep_guard, self.guard)
            if self.adopts:
                nursery.start_soon(self._see_to_orphans)
            await self._follower.serve()

    async def _keep_guard(self, guard: Guard) -> None:
        """Without a guard the promise would silently be gone."""
        lost = 0
        while True:
            if guard.pid is not None:
                code = await guard.wait_lost()
                _log.warning("guard_lost", exit_code=code)
            await trio.sleep(GUARD_BACKOFF_SECS[min(lost, len(GUARD_BACKOFF_SECS) - 1)])
            lost += 1
            with self._table.starting():
                try:
                    guard.start()
                except OSError as error:
                    _log.warning("guard_failed", detail=str(error))
                else:
                    assert guard.pid is not None
                    self._spare(guard.pid)

    async def _see_to_orphans(self) -> None:
        """Tell the guard of orphans that have come to us; end those of runs that are over, and reap the dead."""
        while True:
            await trio.sleep(LOOK_SECS if self.cgroups is None else LOOK_IN_CGROUPS_SECS)
            await self._table.end_unseen()
            adopted = self._table.adopted()
            if adopted is None:
                continue
            for orphan in adopted:
                if self._orphans.get(orphan.pid) != orphan.start:
                    _log.info("orphan_adopted", process=str(orphan))
                    self._orphans[orphan.pid] = orphan.start
                    if self.guard is not None:
                        self.guard.add(orphan.pid, orphan.start)
            self._forget_orphans({orphan.pid for orphan in adopted})
            nobodys = [orphan for orphan in adopted if self._table.is_nobodys(orphan)]
            if nobodys:
                kin = containment.Kin(f"{self.instance}/-")
                for orphan in nobodys:
                    kin.adopt(orphan)
                await self._table.sweep(kin)

    def _forget_orphans(self, but: set[int]) -> None:
        for pid in self._orphans.keys() - but:
            start = self._orphans.pop(pid)
            if self.guard is not None:
                self.guard.discard(pid, start)

    def close(self) -> None:
        """For when all runs are over: end the orphans that are still there, and give back what `serve` took care of."""
        for _ in range(200):
            if self._table.unseen:
                with contextlib.suppress(OSError):  # there may be descriptors the next time
                    self._table.end_carriers(frozenset(self._table.unseen), procfs.scan())
            orphans = self._table.adopted()
            if orphans == [] and not self._table.unseen:
                self._forget_orphans(set())
                break
            for orphan in orphans or ():
                containment.kill(orphan)
            select.select([], [], [], 0.005)
        if self.guard is not None:
            self.guard.close()
        if self.cgroups is not None:
            self.cgroups.close()

    def locate(self, program: str, env: Mapping[str, str], cwd: Path) -> str | None:
        """Where the program would be started from; see `Launcher.locate`."""
        return spawning.locate(program, env, cwd)

    async def launch(self, spec: LaunchSpec, sink: Sink) -> RealProcess:
        """Start a program; see `Launcher.launch`. A checkpoint.

        Cancelled while it waits for its turn, it has started nothing; after that cancellation is not delivered.
        """
        mark = f"{self.instance}/{spec.run_id}"
        marks = f"{self.outer_mark}:{mark}" if self.outer_mark else mark
        starter = self.guard.starter() if self.guard is not None else None
        try:
            with self._table.starting():
                started = await trio.to_thread.run_sync(
                    spawning.start, spec, marks, self.cgroups, starter, self.open_files, limiter=self._starts
                )
                kin = containment.Kin.of_leader(mark, started.pid, started.start)
                self._table.add(kin)
        except RuntimeError as error:
            if not threads.none_left(error):
                raise
            raise SpawnFailed("eagain", "the system has no thread left to start it from") from error
        finally:
            if starter is not None:
                starter.close()
        if self.guard is not None:
            self.guard.add(started.pid, started.start)
        followed = self._follower.follow(started.files, sink, spec.max_output_bytes)
        return RealProcess(started, self._table, kin, followed, self._reap)

    def _reap(self, kin: containment.Kin) -> None:
        """Reap a run's leader, and forget the run.

        One that could not be killed stays known, and then is the guard's if we die; at every other one's end there is
        another look at it.
        """
        self._unreaped.append(kin)
        for each in self._unreaped[:]:
            assert each.leader is not None
            if _reap(each.leader):
                self._unreaped.remove(each)
                self._table.discard(each)
                if self.guard is not None:
                    self.guard.discard(each.leader, each.start)

    async def sweep_leftovers(self) -> tuple[str, ...]:
        """End what carries a mark of this instance, "PID NAME" of each; only for when none of our runs is alive.

        A former life's guard, which knows more than marks, is given time to finish first.
        """
        with trio.move_on_after(FORMER_GUARD_SECS):
            while self._has_former_guard(await self._table.snapshot()):  # noqa: ASYNC110 -- the condition is outside
                await trio.sleep(0.01)
        found = (await self._table.sweep(containment.Kin(f"{self.instance}/"))).found
        for cgroup in self.cgroups.all() if self.cgroups is not None else ():
            processes = (await self._table.snapshot()).processes
            found += tuple(str(processes[pid]) for pid in cgroup.pids() if pid in processes)
            await _empty(cgroup)
            cgroup.remove()
        return found

    def _has_former_guard(self, snapshot: procfs.Snapshot) -> bool:
        guards = snapshot.carrying(f"{self.instance}/guard")
        return any(guard.alive and self._table.strangers.get(guard.pid) != guard.start for guard in guards)


@define(eq=False)
class RealProcess:
    """A child of ours and all that belongs to it."""

    _started: spawning.Started
    _table: containment.ProcessTable
    _kin: containment.Kin
    _followed: Followed
    _reap: Callable[[containment.Kin], None]
    _waiting: trio.Lock = Factory(trio.Lock)
    """Trio lets one task wait for a descriptor; the others wait for that task."""
    _code: int | None = None
    _terminated: bool = False
    """Then others are too, as a rule, and a scan that they share costs less than a look for each."""
    _released: bool = False
    _prompting: int | None = Factory(lambda self: self._started.prompting, takes_self=True)
    """None once it has had the end of its input."""

    @property
    def pid(self) -> int:
        """The leader's."""
        return self._started.pid

    def deliver(self, prompt: bytes) -> bool:
        """Write the prompt into the pipe, all of it at once, and close that; see `Process.deliver`."""
        assert self._prompting is not None
        if self._exit_code() is not None:
            return False
        try:
            if fcntl.fcntl(self._prompting, fcntl.F_GETPIPE_SZ) < len(prompt):
                fcntl.fcntl(self._prompting, fcntl.F_SETPIPE_SZ, len(prompt))
            whole = os.write(self._prompting, prompt) == len(prompt)
        except OSError:  # nobody reads; or it is more than the system lets a pipe hold, or all of this user's pipes
            return False
        if whole:
            self._close_input()
        return whole

    def _close_input(self) -> None:
        if self._prompting is not None:
            os.close(self._prompting)
            self._prompting = None

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
        self._terminated = True
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
        cgroup = self._started.cgroup
        if cgroup is not None and cgroup.surely_empty():
            cgroup = None  # nobody is left in it to fork another one there
        by_itself = self._code is not None and not self._terminated
        if cgroup is None and by_itself and self._table.left_nobody(self._kin):
            await trio.lowlevel.checkpoint()
            self._kin.over = True
            return ()
        killed = cgroup is None or await _kill(cgroup)
        left = (await self._table.sweep(self._kin)).left
        if cgroup is not None and not left:
            left = await _empty(cgroup) if killed else (f"? in {cgroup.path}",)
        self._kin.over = not left
        return left

    async def memory_bytes(self) -> int | None:
        """What the living members take, see `procfs.memory_of`; None where the kernel keeps the limit."""
        if self._started.cgroup is not None and self._started.cgroup.limits_memory:
            await trio.lowlevel.checkpoint()
            return None
        members = self._kin.members(await self._table.snapshot())
        return await self._table.memory_of([member.pid for member in members if member.alive])

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended it at its limit."""
        return self._started.cgroup is not None and self._started.cgroup.out_of_memory()

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
            self._close_input()
            self._reap(self._kin)
            if self._started.cgroup is not None:
                self._started.cgroup.remove()


async def _kill(cgroup: Cgroup) -> bool:
    """Kill all that are in the cgroup; False if for `SWEEP_LIMIT_SECS` there was no descriptor to be had for that."""
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(containment.SWEEP_LIMIT_SECS):  # noqa: ASYNC912 -- mostly there is one
        while True:  # noqa: ASYNC913 -- its end is one, or it returns
            try:
                cgroup.kill()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                await trio.sleep(0.05)  # others let go of theirs
            else:
                return True
    return False


async def _empty(cgroup: Cgroup) -> tuple[str, ...]:
    """See that nobody is left in the cgroup; "PID" of each who was still there after `SWEEP_LIMIT_SECS`."""
    await trio.lowlevel.checkpoint()
    left = cgroup.pids()
    with trio.move_on_after(containment.SWEEP_LIMIT_SECS):  # noqa: ASYNC912 -- mostly there is nobody
        while left:
            await _kill(cgroup)
            await trio.sleep(0.002)
            left = cgroup.pids()
    return tuple(map(str, left))


def _reap(pid: int) -> bool:
    """Reap a child; whether it is gone."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # somebody else has
        return True
