"""A cgroup for each run, where the system lets us have one: nothing that a run starts gets out of it by forking.

It takes cgroup v2 and a directory in it that is ours to use: systemd's `Delegate=yes` gives one, a container often
does, root always has one. None of that can be told from version numbers, and hybrid systems mount v2 beside v1 and
without any controllers. So nothing is assumed: a cgroup is made, a process is put into it, and if both work it is used.

The memory limit is the kernel's where the memory controller may be switched on for us, and sampled where not.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

from attrs import define

_JOIN = 'echo 0 > "$0" && unset PWD OLDPWD SHLVL && exec "$@"'
_SHELL_MEDDLES_WITH = frozenset({"_", "IFS", "LINENO", "OLDPWD", "OPTIND", "PPID", "PWD", "SHLVL"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class NoCgroup(Exception):
    """There is no cgroup to be had; the text says why, for a person."""


@define(eq=False)
class Cgroup:
    """The cgroup of one run."""

    path: Path
    limits_memory: bool
    """The kernel keeps the run's memory limit."""

    def wrapped(self, command: tuple[str, ...], env: dict[str, str]) -> tuple[str, ...] | None:
        """The command line that joins the cgroup before it becomes `command`, so that nothing can be forked outside.

        A shell does it, which would lose or change some variables: None where `env` has one of those.
        """
        if any(name in _SHELL_MEDDLES_WITH or not _NAME.fullmatch(name) for name in env):
            return None
        return ("/bin/sh", "-c", _JOIN, str(self.path / "cgroup.procs"), *command)

    def add(self, pid: int) -> None:
        """Move one process in; what it has forked already stays where it is. OSError when that is refused."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """SIGKILL to all that are in it and below; at once, no checkpoint."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "cgroup.kill").write_text("1")

    def surely_empty(self) -> bool:
        """Nobody is in it or below, zombies left out; False where that cannot be told."""
        with contextlib.suppress(OSError):  # else it was removed, or no descriptor is left
            return "populated 0" in (self.path / "cgroup.events").read_text()
        return False

    def pids(self) -> list[int]:
        """Who is in it and below, zombies left out, as far as that can be told."""
        if self.surely_empty():
            return []
        found: list[int] = []
        for directory, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):  # removed meanwhile
                found += map(int, (Path(directory) / "cgroup.procs").read_text().split())
        return found

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended it at its memory limit."""
        if not self.limits_memory:
            return False
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                word, _, count = line.partition(" ")
                if word in ("oom_kill", "oom_group_kill") and int(count):
                    return True
        return False

    def remove(self) -> None:
        """Give it back, with what the run has made below it; nothing happens while somebody is in it."""
        with contextlib.suppress(OSError):  # it has some below it
            self.path.rmdir()
            return
        for directory, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)  # noqa: PTH106 - what os.walk gives is a str


@define(eq=False)
class Cgroups:
    """A factory's part of the tree: `darkfactory-INSTANCE` below its own cgroup, with a cgroup for each run."""

    path: Path
    limits_memory: bool

    @classmethod
    def open(cls, instance: str, *, proc: Path = Path("/proc/self")) -> Cgroups:
        """Make it, or take over what a former life left. NoCgroup if it cannot be used; then nothing is left.

        Starts one process, to see whether it can be put in: about 2 ms.
        """
        own = own_directory((proc / "cgroup").read_text(), (proc / "mountinfo").read_text())
        path = own / f"darkfactory-{instance}"
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise NoCgroup(f"{own} is not delegated to us: {error.strerror}") from error
        cgroups = cls(path, limits_memory=False)
        try:
            if not (path / "cgroup.kill").exists():
                raise NoCgroup("this kernel has no cgroup.kill (it takes 5.14)")
            cgroups.limits_memory = _switch_on_memory(own) and _switch_on_memory(path)
            Cgroup(path / "probe", limits_memory=False).remove()
            probe = cgroups.make("probe", None)
            try:
                command = probe.wrapped(("/bin/sh", "-c", ":"), {})
                assert command is not None
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={}, check=False)
                if done.returncode:
                    told = done.stderr.decode(errors="replace").strip()
                    raise NoCgroup(f"no process can be put into {path}: {told}")
            finally:
                probe.remove()
        except OSError as error:
            cgroups.close()
            raise NoCgroup(f"{path} cannot be used: {error.strerror}") from error
        except NoCgroup:
            cgroups.close()
            raise
        return cgroups

    def make(self, run_id: str, max_memory_bytes: int | None) -> Cgroup:
        """A cgroup for a run. OSError when the system refuses."""
        group = Cgroup(self.path / run_id, limits_memory=self.limits_memory and max_memory_bytes is not None)
        group.path.mkdir()
        if group.limits_memory:
            (group.path / "memory.max").write_text(str(max_memory_bytes))
            (group.path / "memory.oom.group").write_text("1")  # all of it or nothing: half a tree is no agent
        return group

    def all(self) -> list[Cgroup]:
        """Those that there are; before the first run, those that a former life left."""
        return [Cgroup(entry, limits_memory=False) for entry in self.path.iterdir() if entry.is_dir()]

    def close(self) -> None:
        """Give it back; nothing happens while somebody is in it."""
        Cgroup(self.path, limits_memory=False).remove()


def own_directory(cgroup: str, mountinfo: str) -> Path:
    """Our own cgroup's directory, from the texts of /proc/self/cgroup and mountinfo. NoCgroup if none is in sight."""
    own = next((line[3:] for line in cgroup.splitlines() if line.startswith("0::")), None)
    if own is None:
        raise NoCgroup("this system has no cgroup v2")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2" and "/../" not in f"{own}/":  # that is outside our cgroup namespace
            root, point = (_unescaped(word) for word in before.split(" ")[3:5])
            inside = os.path.relpath(own, root)
            if not inside.startswith(".."):
                return Path(point) / inside
    raise NoCgroup("our own cgroup is in no mounted cgroup2 file system")


def _unescaped(word: str) -> str:
    """A path of /proc/self/mountinfo, where blanks and backslashes are octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _switch_on_memory(path: Path) -> bool:
    """Have the cgroups below a directory keep memory limits; False where that is not to be had.

    The kernel refuses it (EBUSY) for a cgroup that holds processes itself, unless that is the root.
    """
    try:
        if "memory" not in (path / "cgroup.controllers").read_text().split():
            return False
        (path / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return False
    return True
