"""Finding a cgroup of our own, and what it does for a run."""

from __future__ import annotations

import os
import resource
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from darkfactory.devices import cgroup
from darkfactory.devices.cgroup import Cgroups, NoCgroup, own_directory
from darkfactory.devices.guard import Guard
from darkfactory.devices.launcher import RealLauncher
from darkfactory.errors import SpawnFailed

from .test_launcher import Bench, Recorder, alive, sh

pytestmark = pytest.mark.real

UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n"
)
BOUND = "41 31 0:38 /outer/box /my\\040cgroups rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("own", "mounts", "found"),
    [
        ("0::/user.slice/x.service\n", UNIFIED, "/sys/fs/cgroup/user.slice/x.service"),
        ("0::/\n", UNIFIED, "/sys/fs/cgroup"),
        ("9:name=systemd:/x\n4:memory:/y\n0::/z\n", HYBRID, "/sys/fs/cgroup/unified/z"),
        ("0::/outer/box/inner\n", BOUND, "/my cgroups/inner"),
        ("0::/elsewhere\n", BOUND + UNIFIED, "/sys/fs/cgroup/elsewhere"),
    ],
)
def test_our_own_cgroup_is_found_below_its_mount(own: str, mounts: str, found: str):
    assert own_directory(own, mounts) == Path(found)


@pytest.mark.parametrize(
    ("own", "mounts", "why"),
    [
        ("4:memory:/y\n", HYBRID, "no cgroup v2"),
        ("0::/z\n", "", "in no mounted"),
        ("0::/z\n", BOUND, "in no mounted"),
        ("0::/../z\n", UNIFIED, "in no mounted"),
    ],
)
def test_one_that_is_not_in_sight_is_none(own: str, mounts: str, why: str):
    with pytest.raises(NoCgroup, match=why):
        own_directory(own, mounts)


def pretended(directory: Path, *, controllers: str = "") -> Path:
    """A /proc/self that says that our cgroup is `directory/tree`, which is no cgroup at all."""
    proc, tree = directory / "proc", directory / "tree"
    proc.mkdir()
    tree.mkdir()
    (tree / "cgroup.controllers").write_text(controllers)
    (proc / "cgroup").write_text("0::/\n")
    (proc / "mountinfo").write_text(f"1 1 0:1 / {tree} rw - cgroup2 cgroup2 rw\n")
    return proc


def test_a_kernel_without_cgroup_kill_has_none_for_us_and_nothing_is_left(tmp_path: Path):
    with pytest.raises(NoCgroup, match=r"cgroup\.kill"):
        Cgroups.open("it", proc=pretended(tmp_path))
    assert [entry.name for entry in (tmp_path / "tree").iterdir()] == ["cgroup.controllers"]


def test_a_directory_that_is_not_delegated_is_told(tmp_path: Path):
    proc = pretended(tmp_path)
    (tmp_path / "tree" / "darkfactory-it").write_text("in the way, as a refusal is: root may do anything else")
    with pytest.raises(NoCgroup, match="not delegated"):
        Cgroups.open("it", proc=proc)


def test_a_controller_is_switched_on_where_it_is_offered_and_limits_are_written(tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert cgroup._switch_on_memory(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    limited = Cgroups(tmp_path, limits_memory=True).make("a", 1000)
    assert limited.limits_memory
    assert (limited.path / "memory.max").read_text() == "1000"
    assert (limited.path / "memory.oom.group").read_text() == "1"
    assert not Cgroups(tmp_path, limits_memory=True).make("b", None).limits_memory


def test_a_controller_that_is_not_offered_or_refused_is_left(tmp_path: Path):
    assert not cgroup._switch_on_memory(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    assert not cgroup._switch_on_memory(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    (tmp_path / "cgroup.subtree_control").mkdir()  # refuses to be written, as the kernel may
    assert not cgroup._switch_on_memory(tmp_path)


# On a real one


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    try:
        opened = Cgroups.open(f"test-{uuid.uuid4().hex}")
    except NoCgroup as reason:
        pytest.skip(f"NOT TRIED, this machine has no cgroup for us: {reason}")
    yield opened
    opened.close()
    assert not opened.path.exists()


@pytest.fixture(params=["born", "joined"])
async def bench(cgroups: Cgroups, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """With a guard, whose children are born in their cgroups, and without one, where they join them."""
    instance, outer = uuid.uuid4().hex, os.environ["DARKFACTORY_RUN"]
    guard = Guard(instance, outer, cgroups.path) if request.param == "born" else None
    if guard is not None:
        guard.start()
    launcher = RealLauncher(instance, outer, cgroups=cgroups, guard=guard)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launcher.serve)
        yield Bench(launcher, tmp_path)
        nursery.cancel_scope.cancel()
    if guard is not None:
        guard.close()


async def test_what_forks_at_once_and_hides_is_in_the_cgroup_all_the_same(bench, cgroups):
    """The first thing that it does is to start a ghost; nothing but the cgroup knows of that."""
    script = "(env -i setsid sleep 1000 & echo $! >> ghosts); exit 0"
    for _ in range(30):
        code, _ = await bench.outcome(bench.spec(*sh(script)))
        assert code == 0
    ghosts = [int(pid) for pid in (bench.directory / "ghosts").read_text().split()]
    assert len(ghosts) == 30
    assert not any(map(alive, ghosts))
    assert not [entry for entry in cgroups.path.iterdir() if entry.is_dir()]


async def test_the_environment_is_the_same_to_the_byte_with_and_without_a_cgroup(bench, tmp_path):
    env = {"PATH": os.defpath, "QUOTED": " '\"\n$x ", "EMPTY": ""}
    outer = os.environ["DARKFACTORY_RUN"]
    for more in ({}, {"PWD": "/elsewhere"}, {"odd.name": "1", "_": "x", "SHLVL": "7"}):
        gate = tmp_path / f"gate-{len(more)}"
        os.mkfifo(gate)
        spec = bench.spec("cat", "/proc/self/environ", str(gate), "/proc/self/cgroup", env=env | more)
        async with bench.run(spec) as (process, sink):
            gate.write_text("")
            assert await process.wait() == 0
        *variables, own = sink.out.decode().split("\0")
        run_id = f"run-{bench._runs}"
        mark = f"DARKFACTORY_RUN={outer}:{bench.launcher.instance}/{run_id}"
        assert sorted(variables) == sorted([*(f"{k}={v}" for k, v in (env | more).items()), mark])
        assert f"/{bench.launcher.cgroups.path.name}/{run_id}\n" in own


async def test_cgroups_that_the_run_makes_below_its_own_go_with_it(bench, cgroups):
    inner = cgroups.path / "run-1" / "a" / "b"
    script = f"mkdir -p {inner}; (echo 0 > {inner}/cgroup.procs; echo moved; exec sleep 1000) & wait"
    async with bench.run(bench.spec(*sh(script))) as (_, sink):
        await sink.lines(1)
        assert len((inner / "cgroup.procs").read_text().split()) == 1
    assert not (cgroups.path / "run-1").exists()


async def test_what_a_former_life_left_is_ended_and_named_by_the_next(bench, cgroups):
    script = "(env -i setsid sleep 1000 & echo $!); sleep 1000"
    async with bench.run(bench.spec(*sh(script))) as (process, sink):
        hidden = (await sink.lines(1))[0]
        again = Cgroups.open(cgroups.path.name.removeprefix("darkfactory-"))
        assert again.path == cgroups.path
        found = await RealLauncher(bench.launcher.instance, cgroups=again).sweep_leftovers()
        assert f"{process.pid} sh" in found
        assert f"{hidden} sleep" in found
        assert not alive(int(hidden))
        assert again.all() == []


async def test_a_start_that_fails_leaves_no_cgroup(bench, cgroups):
    spec = bench.spec("sleep", "1000")
    spec.stdout.write_text("in the way")
    with pytest.raises(SpawnFailed, match="exists"):
        await bench.launcher.launch(spec, Recorder())
    assert not (cgroups.path / spec.run_id).exists()


async def test_a_cgroup_is_not_taken_for_empty_because_no_descriptor_is_left_to_look(
    bench: Bench, cgroups: Cgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await bench.launcher.launch(bench.spec(*sh("env -i setsid sleep 300 & echo $! > ghost")), Recorder())
    await process.wait()
    ghost = int((bench.directory / "ghost").read_text())
    assert alive(ghost)
    refused, killing = trio.Event(), cgroup.Cgroup.kill

    def kill(self: cgroup.Cgroup) -> None:
        try:
            killing(self)
        except OSError:
            refused.set()
            raise

    monkeypatch.setattr(cgroup.Cgroup, "kill", kill)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # those that are open stay so
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.sweep)
                await refused.wait()
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await process.drain()
    assert not alive(ghost)
