"""Whose process is it? First on made-up process tables, then on the real one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from darkfactory.devices import procfs
from darkfactory.devices.containment import Kin, ProcessTable
from darkfactory.devices.procfs import ProcessInfo, Snapshot

FACTORY = f"factory-{uuid.uuid4().hex}"
OURS = f"{FACTORY}/run"
OWN_PID = 50


def process(
    pid: int, ppid: int = 1, session: int | None = None, start: int = 0, *marks: str, alive=True
) -> ProcessInfo:
    return ProcessInfo(pid, ppid, pid if session is None else session, start or pid, alive, f"p{pid}", marks)


def table(*processes: ProcessInfo) -> Snapshot:
    """These and: init 1, a shell 40, which started us, 50."""
    return Snapshot.of([process(1, 0), process(40), process(OWN_PID, 40, 40), *processes], OWN_PID)


def members(kin: Kin, *processes: ProcessInfo) -> set[int]:
    return {member.pid for member in kin.members(table(*processes))}


def test_whoever_carries_the_mark_belongs_and_nobody_else():
    carried = process(100, 1, None, 0, OURS)
    others = [process(101, 1, None, 0, f"{OURS}2"), process(102, 1, None, 0, "other/run"), process(103)]
    assert members(Kin(OURS), carried, *others) == {100}


def test_a_mark_may_be_one_of_several():
    nested = process(100, 1, None, 0, "outer/run", OURS)
    inner = process(101, 1, None, 0, OURS, "inner/run")
    assert members(Kin(OURS), nested, inner) == {100, 101}


def test_a_mark_that_ends_in_a_slash_is_all_runs_of_the_instance():
    ours = [process(100, 1, None, 0, f"{FACTORY}/a"), process(101, 1, None, 0, "outer/x", f"{FACTORY}/b")]
    assert members(Kin(f"{FACTORY}/"), *ours, process(102, 1, None, 0, f"{FACTORY}2/a")) == {100, 101}


def test_descendants_of_a_member_belong_without_a_mark():
    assert members(Kin(OURS), process(100, 1, None, 0, OURS), process(101, 100), process(102, 101), process(103)) == {
        100,
        101,
        102,
    }


def test_a_session_in_which_a_member_was_seen_belongs_also_after_the_member_has_gone():
    kin = Kin(OURS)
    assert members(kin, process(100, 1, 90, 0, OURS), process(101, 1, 90)) == {100, 101}
    assert members(kin, process(105, 1, 90)) == {105}


def test_a_session_number_that_was_given_away_is_a_stranger():
    kin = Kin(OURS)
    assert members(kin, process(90, 1, 90, 5, OURS)) == {90}
    assert members(kin, process(90, 1, 90, 7000), process(91, 90, 90)) == set()
    leaderless = Kin(OURS)
    assert members(leaderless, process(100, 1, 90, 0, OURS)) == {100}
    assert members(leaderless, process(90, 1, 90, 7000)) == set()


def test_a_noted_process_belongs_after_it_lost_its_parent_its_mark_and_its_session():
    kin = Kin.of_leader(OURS, 100, 100)
    assert members(kin, process(100, OWN_PID), process(101, 100, 100)) == {100, 101}
    assert members(kin, process(101, 1, 101)) == {101}
    assert members(kin, process(101, 1, 101, 9000)) == set()


def test_we_and_our_ancestors_never_belong_though_we_carry_the_mark():
    shell = process(40, 1, 40, 0, OURS)
    we = process(OWN_PID, 40, 40, 0, OURS)
    sibling, git = process(60, 40, 40), process(61, OWN_PID, 40)
    assert members(Kin(OURS), shell, we, sibling, git) == set()


def test_kernel_threads_and_strangers_to_our_namespace_share_no_session():
    assert members(Kin(OURS), process(100, 1, 0, 0, OURS), process(2, 0, 0)) == {100}


def test_an_ancestry_that_leads_out_of_the_table_ends_there():
    assert Snapshot.of([process(7, 3)], 7).protected == {7, 3}


# The real table


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start sh scripts; they are killed and reaped at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(*argv: str, mark: str | None = None, **options) -> subprocess.Popen[bytes]:
        env = {"PATH": os.defpath} | ({"DARKFACTORY_RUN": mark} if mark else {})
        started.append(subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, **options))
        return started[-1]

    yield spawn
    for popen in started:
        popen.kill()
        popen.communicate()


@pytest.mark.real
def test_a_scan_tells_parent_session_start_and_marks(spawn):
    popen = spawn("sleep", "1000", mark=f"outer/x:{OURS}", start_new_session=True)
    while popen.pid in (snapshot := procfs.scan()).in_exec:
        pass
    found = snapshot.processes[popen.pid]
    assert found == ProcessInfo(
        pid=popen.pid,
        ppid=os.getpid(),
        session=popen.pid,
        start=procfs.start_time(popen.pid),
        alive=True,
        name="sleep",
        marks=("outer/x", OURS),
    )
    assert str(found) == f"{popen.pid} sleep"


@pytest.mark.real
def test_a_process_without_its_mark_yet_is_told_as_in_exec(spawn):
    for _ in range(100):
        popen = spawn("sleep", "1000", mark=OURS)
        snapshot = procfs.scan()
        assert snapshot.processes[popen.pid].marks == (OURS,) or popen.pid in snapshot.in_exec
        popen.kill()
        popen.wait()


@pytest.mark.real
async def test_a_sweep_does_not_end_while_somebody_is_in_exec(monkeypatch):
    snapshots = [
        Snapshot.of([process(100)], OWN_PID, in_exec=[100]),
        Snapshot.of([process(100, 1, None, 0, OURS)], OWN_PID),
        Snapshot.of([], OWN_PID),
    ]
    monkeypatch.setattr(procfs, "scan", lambda known: snapshots.pop(0))
    monkeypatch.setattr(procfs, "kill", lambda process: None)
    assert (await ProcessTable().sweep(Kin(OURS))).found == ("100 p100",)
    assert not snapshots


@pytest.mark.real
@pytest.mark.parametrize(("name", "shown"), [("a) S (b c", "a) S (b c"), ("\x1b[2J\n", "?[2J?"), (")", ")")])
def test_a_name_may_hold_anything(spawn, name, shown):
    code = f"open('/proc/self/comm','w').write({name!r}); print('ready', flush=True); import time; time.sleep(1000)"
    popen = spawn(sys.executable, "-S", "-c", code)
    popen.stdout.readline()
    found = procfs.scan().processes[popen.pid]
    assert (found.name, found.ppid, found.alive) == (shown, os.getpid(), True)


@pytest.mark.real
def test_a_zombie_is_not_alive(spawn):
    popen = spawn("true")
    os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.scan().processes[popen.pid].alive is False


@pytest.mark.real
def test_a_process_whose_first_thread_has_ended_is_alive(spawn):
    code = """if True:
        import ctypes, threading, time
        def rest():
            while open("/proc/self/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                time.sleep(0.001)
            print("ready", flush=True)
            time.sleep(1000)
        threading.Thread(target=rest).start()
        ctypes.CDLL(None).pthread_exit(None)
    """
    popen = spawn(sys.executable, "-c", code)
    assert popen.stdout.readline() == b"ready\n"
    assert procfs.scan().processes[popen.pid].alive is True


@pytest.mark.real
def test_a_kill_spares_whoever_got_the_pid_later(spawn):
    popen = spawn("sleep", "1000")
    found = procfs.scan().processes[popen.pid]
    procfs.kill(process(popen.pid, start=found.start - 1))
    with pytest.raises(subprocess.TimeoutExpired):
        popen.wait(timeout=0.05)
    procfs.kill(found)
    assert popen.wait() == -signal.SIGKILL
    procfs.kill(found)


@pytest.mark.real
async def test_a_sweep_ends_a_family_that_goes_on_forking(spawn):
    script = "while :; do setsid sleep 1000 & sleep 0.002; done"
    popen = spawn("sh", "-c", script, mark=OURS)
    await _condition(lambda: len(_marked(OURS)) > 3)
    swept = await ProcessTable().sweep(Kin(OURS))
    assert swept.left == ()
    assert len(swept.found) > 3
    assert f"{popen.pid} sh" in swept.found
    assert _marked(OURS) == []


@pytest.mark.real
async def test_a_sweep_names_who_is_left_at_its_limit(spawn, monkeypatch):
    popen = spawn("sleep", "1000", mark=OURS)
    monkeypatch.setattr(procfs, "kill", lambda process: None)
    swept = await ProcessTable().sweep(Kin(OURS), limit_secs=0.02)
    assert swept.left == swept.found == (f"{popen.pid} sleep",)


@pytest.mark.real
async def test_where_we_are_a_subreaper_the_orphans_are_reaped(spawn):
    set_child_subreaper = 36
    libc = ctypes.CDLL(None)
    libc.prctl(set_child_subreaper, 1)
    try:
        popen = spawn("sh", "-c", "setsid sleep 1000 & sleep 1000 & echo ready; wait", mark=OURS)
        popen.stdout.readline()
        popen.kill()
        popen.wait()
        orphans = {found.pid for found in _marked(OURS)}
        assert len(orphans) == 2
        assert (await ProcessTable().sweep(Kin(OURS))).left == ()
        assert not orphans & procfs.scan().processes.keys()
    finally:
        libc.prctl(set_child_subreaper, 0)


async def test_a_scan_in_the_loop_is_shared_by_all_who_asked_before_it_began(monkeypatch):
    scans: list[int] = []
    monkeypatch.setattr(procfs, "scan", lambda known: scans.append(len(scans)) or Snapshot.of((), 1))
    processes = ProcessTable()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(processes.snapshot)
    assert scans == [0]


async def test_a_scan_in_a_thread_is_shared_by_all_who_asked_before_it_began(monkeypatch):
    readable, writable = os.pipe()
    scans = 0

    def scan(known: procfs.KnownMarks) -> int:
        nonlocal scans
        scans += 1
        number = scans
        os.read(readable, 1)
        return number

    monkeypatch.setattr(procfs, "scan", scan)
    processes, got = ProcessTable(scan_secs=1.0), []

    async def ask() -> None:
        got.append(await processes.snapshot())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await _condition(lambda: scans > 0)
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        os.write(writable, b"..")
    assert got == [1, 2, 2, 2, 2, 2]
    os.close(readable)
    os.close(writable)


def test_nobody_is_passed_over_but_the_kernels_own_threads(monkeypatch):
    passed_over = procfs._kernels_own()  # those of them that end meanwhile are in neither
    found = procfs.scan().processes
    monkeypatch.setattr(procfs, "_kernels_own", frozenset)
    everybody = procfs.scan().processes
    missing = [everybody[pid] for pid in everybody.keys() - found.keys() if str(pid) in passed_over]
    assert all(process.ppid == 2 and not process.marks for process in missing)
    assert {os.getpid(), os.getppid()} <= found.keys()


def test_where_pid_2_is_a_program_its_children_are_looked_at(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(procfs, "_KTHREADD", os.getpid())
    procfs._sees_kthreadd.cache_clear()
    try:
        assert child.pid in procfs.scan().processes
    finally:
        monkeypatch.undo()
        procfs._sees_kthreadd.cache_clear()
        child.communicate()


@pytest.mark.real
def test_children_are_told_that_are_more_than_a_page_of_the_kernels():
    children = [subprocess.Popen(["sleep", "1000"]) for _ in range(900)]
    try:
        assert procfs.own_children() >= {child.pid for child in children}
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def _marked(mark: str) -> list[ProcessInfo]:
    return [found for found in procfs.scan().carrying(mark) if found.alive]


async def _condition(holds: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not holds():  # noqa: ASYNC110 -- the condition is in other hands
            await trio.sleep(0.001)
