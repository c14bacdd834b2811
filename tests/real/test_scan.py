"""What a scan finds in real repositories, odd and broken ones among them; and that it leaves them as they were."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from darkfactory.devices import git as git_room
from darkfactory.devices import scan as room
from darkfactory.devices import scan_commits, scan_difference, scan_lines
from darkfactory.devices.git import Git
from darkfactory.devices.launcher import RealLauncher
from darkfactory.devices.scan import GitScanner
from darkfactory.errors import CompoundReviewFailed
from darkfactory.model.review import Branch, Commit, FileChange, FileSize, FunctionGrowth, ReviewOutcome, Scan
from darkfactory.testing import CancelAtStep

from .repositories import ENV, Checkout
from .test_git import program_of, slow, spring, trap

__all__ = ["trap"]  # a fixture

pytestmark = pytest.mark.real

NOW = datetime(2026, 1, 5, 3, tzinfo=UTC)
YESTERDAY = "2026-01-04T12:00:00Z"
LONG_AGO = "2025-06-01T12:00:00Z"


@pytest.fixture
def device(tmp_path: Path) -> GitScanner:
    launcher = RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"])
    return GitScanner(Git(launcher, tmp_path / "scratch", os.environ))


@pytest.fixture(autouse=True)
def _dates(monkeypatch: pytest.MonkeyPatch) -> None:
    dated(monkeypatch, YESTERDAY)


def dated(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    """Commits are of that time from now on."""
    monkeypatch.setitem(ENV, "GIT_AUTHOR_DATE", date)
    monkeypatch.setitem(ENV, "GIT_COMMITTER_DATE", date)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.begun(tmp_path / "repository")


async def scanned(
    device: GitScanner, path: Path, since: str | None = None, branch: str = "main", remote: str = "https://x/y"
) -> Scan:
    scan = await device.scan(path, branch, since=since, lookback=timedelta(hours=24), now=NOW, remote=remote)
    assert list(device.git.scratch.iterdir()) == []
    return scan


async def refused(device: GitScanner, path: Path, branch: str = "main") -> CompoundReviewFailed:
    with pytest.raises(CompoundReviewFailed) as caught:
        await scanned(device, path, branch=branch)
    assert caught.value.outcome in {outcome.value for outcome in ReviewOutcome}
    return caught.value


def changes(commit: Commit) -> list[tuple[str, str, int | None, int | None]]:
    return [(change.status, change.path, change.added, change.deleted) for change in commit.changes]


def words(scan: Scan) -> list[str]:
    return [notice.name for notice in scan.notices]


# What it finds.


async def test_what_a_commit_did_is_told_with_its_lines(device: GitScanner, checkout: Checkout) -> None:
    since = checkout.git("rev-parse", "HEAD")
    checkout.write("sub/file", "one\ntwo\n# TODO: three\n")
    checkout.write("new_test.py", "x\n")
    (checkout.path / "README").unlink()
    sha = checkout.commit("a subject\n\nand a body,\nof two lines")
    scan = await scanned(device, checkout.path, since)
    assert (scan.commit, scan.since, scan.since_at, scan.left_out, scan.notices) == (sha, since, None, (), ())
    (commit,) = scan.commits
    assert (commit.sha, commit.parents, commit.author, commit.at, commit.subject, commit.body) == (
        sha,
        (since,),
        "Ann",
        datetime(2026, 1, 4, 12, tzinfo=UTC),
        "a subject",
        "and a body,\nof two lines",
    )
    assert changes(commit) == [("D", "README", 0, 1), ("A", "new_test.py", 1, 0), ("M", "sub/file", 2, 0)]
    assert [(line.path, line.line, line.text) for line in scan.marked] == [("sub/file", 3, "# TODO: three")]
    assert scan.sizes == (FileSize("new_test.py", 0, 1), FileSize("sub/file", 1, 3))
    assert scan.tests == {"new_test.py"}


async def test_nothing_new_is_a_scan_without_commits(device: GitScanner, checkout: Checkout) -> None:
    scan = await scanned(device, checkout.path, checkout.git("rev-parse", "HEAD"))
    assert (scan.commits, scan.sizes, scan.left_out) == ((), (), ())


async def test_the_first_time_it_looks_back_for_a_while(
    device: GitScanner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated(monkeypatch, LONG_AGO)
    checkout = Checkout.begun(tmp_path / "old")
    checkout.write("sub/file", "FIXME old\n")
    checkout.commit("old")
    dated(monkeypatch, YESTERDAY)
    checkout.write("sub/file", "FIXME old\nFIXME new\n")
    new = checkout.commit("new")
    scan = await scanned(device, checkout.path)
    assert (scan.since, scan.since_at) == (None, NOW - timedelta(hours=24))
    assert [commit.sha for commit in scan.commits] == [new]
    assert [line.text for line in scan.marked] == ["FIXME new"]
    assert scan.sizes == (FileSize("sub/file", 1, 2),)


async def test_of_a_young_repository_all_is_new(device: GitScanner, checkout: Checkout) -> None:
    scan = await scanned(device, checkout.path)
    assert [changes(commit) for commit in scan.commits] == [[("A", "README", 1, 0), ("A", "sub/file", 1, 0)]]
    assert [size.lines_before for size in scan.sizes] == [0, 0]


async def test_a_history_that_was_rewritten_is_noticed(device: GitScanner, checkout: Checkout) -> None:
    gone = checkout.commit("gone")
    checkout.git("reset", "--quiet", "--hard", "HEAD~1")
    for since in (gone, "ab" * 20, "HEAD"):
        scan = await scanned(device, checkout.path, since)
        assert (scan.since, words(scan), len(scan.commits)) == (None, ["history_rewritten"], 1)


async def test_of_a_merge_it_tells_what_came_to_its_first_parent(device: GitScanner, checkout: Checkout) -> None:
    since = checkout.git("rev-parse", "HEAD")
    checkout.git("checkout", "--quiet", "-b", "side")
    checkout.write("side", "1\n2\n")
    side = checkout.commit("on the side")
    checkout.git("checkout", "--quiet", "main")
    checkout.write("README", "read me twice\n")
    other = checkout.commit("on main")
    checkout.git("merge", "--quiet", "--message", "both", "side")
    scan = await scanned(device, checkout.path, since)
    merge = scan.commits[0]
    assert merge.parents == (other, side)
    assert changes(merge) == [("A", "side", 2, 0)]
    assert {commit.sha for commit in scan.commits[1:]} == {side, other}


async def test_a_renamed_file_is_one_and_its_old_marks_are_not_new(device: GitScanner, checkout: Checkout) -> None:
    lines = "".join(f"line {number}\n" for number in range(50))
    checkout.write("before", f"{lines}TODO old\n")
    checkout.write("same", f"{lines}other\n")
    since = checkout.commit("before")
    checkout.git("mv", "before", "after")
    checkout.git("mv", "same", "moved")
    checkout.write("after", f"{lines}TODO old\nTODO new\n")
    checkout.commit("renamed")
    scan = await scanned(device, checkout.path, since)
    assert scan.commits[0].changes == (
        FileChange("after", "R", 1, 0, "before"),
        FileChange("moved", "R", 0, 0, "same"),
    )
    assert [(line.path, line.line, line.text) for line in scan.marked] == [("after", 52, "TODO new")]
    assert scan.sizes == (FileSize("after", 51, 52),)


async def test_names_of_any_bytes_come_back_as_they_are(device: GitScanner, checkout: Checkout) -> None:
    since = checkout.git("rev-parse", "HEAD")
    names = sorted([b"line\nend", b'quo"te', b"tab\tbed", b"bad \xff", "ümlaut".encode(), b"-f", b"a b", b":(top)x"])
    for name in names:
        checkout.write(os.fsdecode(name), "XXX\n")
    checkout.commit("odd")
    scan = await scanned(device, checkout.path, since)
    for found in (
        [change.path for change in scan.commits[0].changes],
        [size.path for size in scan.sizes],
        [line.path for line in scan.marked],
    ):
        assert sorted(map(os.fsencode, found)) == names


async def test_what_is_no_text_is_told_without_lines(device: GitScanner, checkout: Checkout) -> None:
    since = checkout.git("rev-parse", "HEAD")
    (checkout.path / "binary").write_bytes(b"\0TODO\n" * 100)
    checkout.write("run", "x\n").chmod(0o755)
    checkout.commit("one")
    (checkout.path / "run").chmod(0o644)
    (checkout.path / "README").unlink()
    (checkout.path / "README").symlink_to("run")
    checkout.git("update-index", "--add", "--cacheinfo", f"160000,{since},module")
    checkout.git("add", "README", "run")
    checkout.git("commit", "--quiet", "--message", "two")
    scan = await scanned(device, checkout.path, since)
    second, first = scan.commits
    assert changes(first) == [("A", "binary", None, None), ("A", "run", 1, 0)]
    assert [change[:2] for change in changes(second)] == [("T", "README"), ("A", "module"), ("M", "run")]
    assert [size.path for size in scan.sizes] == ["README", "run"]
    assert scan.marked == ()


async def test_what_commits_say_in_other_encodings_is_read(
    device: GitScanner, checkout: Checkout, tmp_path: Path
) -> None:
    since = checkout.git("rev-parse", "HEAD")
    tree = checkout.git("rev-parse", "HEAD^{tree}")
    who = "Ann <ann@localhost> 1767520800 +0000"
    raw = f"tree {tree}\nparent {since}\nauthor {who}\ncommitter {who}\n"
    (tmp_path / "latin").write_bytes(f"{raw}encoding ISO-8859-1\n\nGrün\n".encode("latin-1"))
    latin = checkout.git("hash-object", "-t", "commit", "-w", str(tmp_path / "latin"))
    raw = raw.replace(since, latin)
    (tmp_path / "nul").write_bytes(raw.replace("1767520800", "99999999999999").encode() + b"\nbad \xff\0rest\n")
    sha = checkout.git("hash-object", "-t", "commit", "-w", "--literally", str(tmp_path / "nul"))
    checkout.git("update-ref", "refs/heads/main", sha)
    empty = checkout.git("commit-tree", tree, "-p", sha, "-m", "")
    checkout.git("update-ref", "refs/heads/main", empty)
    scan = await scanned(device, checkout.path, since)
    assert {commit.subject for commit in scan.commits} == {"Grün", "bad \N{REPLACEMENT CHARACTER}", ""}


async def test_functions_are_told_with_the_lines_that_came_to_them(device: GitScanner, checkout: Checkout) -> None:
    body = "".join(f"        {letter} = 1\n" for letter in "abcdef")
    checkout.write("code.py", f"class Thing:\n    def method(self):\n{body}\n    def other(self):\n{body}")
    since = checkout.commit("code")
    more = body.replace("        b = 1\n", "        b = 1\n        b += 1\n").replace("e = 1", "e = 2")
    checkout.write("code.py", f"class Thing:\n    def method(self):\n{more}\n    def other(self):\n{body}")
    checkout.commit("more")
    scan = await scanned(device, checkout.path, since)
    assert scan.functions == (FunctionGrowth("code.py", "def method(self):", 5, 2),)


async def test_what_is_written_behind_a_function_has_not_made_it_grow(device: GitScanner, checkout: Checkout) -> None:
    """Git puts all of it down to that one."""
    old = "class Old:\n    def old(self):\n        x = 1\n        return x\n"
    checkout.write("code.py", old)
    since = checkout.commit("begun")
    inner = "        def inner():\n            return 2\n\n        return inner\n"
    second = f"    async def second(\n        self,\n    ):\n{inner}"
    more = f"\n{second}\n\nCONSTANT = (\n    1,\n)\n\n\nclass New:\n    field = 1\n"
    checkout.write("code.py", f"{old}        # more of it\n{more}")
    checkout.commit("more")
    scan = await scanned(device, checkout.path, since=since)
    assert {(each.name, each.line, each.added) for each in scan.functions} == {
        ("def old(self):", 5, 2),
        ("async def second(", 7, 6),
        ("def inner():", 10, 3),
        ("class New:", 21, 2),
    }


async def test_branches_of_agents_that_nobody_merged_are_told(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.git("branch", "darkfactory/it/contained")
    checkout.git("branch", "mine")
    checkout.git("checkout", "--quiet", "-b", "darkfactory/it/run")
    checkout.commit("1")
    sha = checkout.commit("2")
    checkout.git("symbolic-ref", "refs/heads/darkfactory/link", "refs/heads/darkfactory/it/run")
    checkout.git("checkout", "--quiet", "main")
    scan = await scanned(device, checkout.path)
    assert scan.branches == (Branch("darkfactory/it/run", sha, 2, datetime(2026, 1, 4, 12, tzinfo=UTC)),)


# What keeps it from going on.


async def test_what_is_no_repository_is_said(device: GitScanner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken" / ".git").mkdir(parents=True)
    for name in ("empty", "file", "nowhere", "broken"):
        failure = await refused(device, tmp_path / name)
        assert failure.outcome == "no_repository"
        assert name in failure.detail
        assert "repo_path" in failure.remedy


async def test_anothers_repository_is_refused(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    failure = await refused(device, checkout.path)
    assert failure.outcome == "no_repository"
    assert "belongs to another user" in failure.detail


async def test_without_git_nothing_can_be_said_of_the_repository(
    device: GitScanner, checkout: Checkout, tmp_path: Path
) -> None:
    device.git.environ = {"PATH": str(tmp_path)}
    failure = await refused(device, checkout.path)
    assert failure.outcome == "git_failed"
    assert "install git" in failure.detail


async def test_a_repository_without_commits_is_told_from_one_without_the_branch(
    device: GitScanner, checkout: Checkout, tmp_path: Path
) -> None:
    (tmp_path / "young").mkdir()
    young = Checkout(tmp_path / "young")
    young.git("init", "--quiet", "--initial-branch=main")
    assert (await refused(device, young.path)).outcome == "no_commits"
    checkout.git("branch", "feature")
    for name in ("master", "Main", "", "-x", "a b", "main:README", "main~1", "x" * 300):
        failure = await refused(device, checkout.path, name)
        assert failure.outcome == "no_base_branch"
        assert "feature, main" in failure.detail
        assert failure.remedy == 'set base_branch = "main"'


async def test_a_branch_that_is_broken_is_not_taken_for_none(device: GitScanner, checkout: Checkout) -> None:
    (checkout.path / ".git/refs/heads/main").write_text("")
    failure = await refused(device, checkout.path)
    assert failure.outcome == "git_failed"
    assert "broken ref" in failure.detail
    assert "fsck" in failure.remedy


@pytest.mark.parametrize("missing", ["HEAD", "HEAD^{tree}", "HEAD:README"])
async def test_objects_that_are_gone_are_a_failure_of_git(device: GitScanner, checkout: Checkout, missing: str) -> None:
    sha = checkout.git("rev-parse", missing)
    (checkout.path / ".git/objects" / sha[:2] / sha[2:]).unlink()
    assert (await refused(device, checkout.path)).outcome == "git_failed"


# What it can live with.


async def test_a_bare_repository_and_a_worktree_and_a_subdirectory_will_do(
    device: GitScanner, checkout: Checkout, tmp_path: Path
) -> None:
    checkout.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    checkout.git("worktree", "add", "--quiet", str(tmp_path / "tree"))
    whole = await scanned(device, checkout.path)
    for path in ("bare", "tree", "repository/sub", "repository/.git"):
        assert await scanned(device, tmp_path / path) == whole


async def test_repositories_with_longer_names_of_objects_will_do(device: GitScanner, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    checkout = Checkout(tmp_path / "long")
    checkout.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    checkout.write("x", "TODO\n")
    first = checkout.commit("first")
    checkout.write("x", "TODO\n1\n")
    checkout.commit("second")
    scan = await scanned(device, checkout.path)
    assert (len(first), len(scan.commits), len(scan.marked), scan.sizes) == (64, 2, 1, (FileSize("x", 0, 2),))
    assert len((await scanned(device, checkout.path, first)).commits) == 1


async def test_an_uncommitted_change_is_noticed(device: GitScanner, checkout: Checkout) -> None:
    checkout.write("unknown", "to git")
    assert words(await scanned(device, checkout.path)) == []
    checkout.write("sub/file", "changed\n")
    scan = await scanned(device, checkout.path / "sub")
    assert words(scan) == ["dirty_tree"]
    assert "sub/file" in scan.notices[0].detail
    checkout.git("add", "--all")
    assert words(await scanned(device, checkout.path)) == ["dirty_tree"]
    (checkout.path / ".git/index").write_bytes(b"broken")
    assert words(await scanned(device, checkout.path)) == ["dirty_tree"]


async def test_a_head_on_no_branch_is_noticed(device: GitScanner, checkout: Checkout) -> None:
    checkout.git("checkout", "--quiet", "--detach")
    assert words(await scanned(device, checkout.path)) == ["detached_head"]


async def test_what_is_in_progress_is_noticed(device: GitScanner, checkout: Checkout) -> None:
    for name, what in (
        ("rebase-merge", "a rebase"),
        ("MERGE_HEAD", "a merge"),
        ("CHERRY_PICK_HEAD", "a cherry-pick"),
        ("BISECT_LOG", "a bisect"),
    ):
        path = checkout.path / ".git" / name
        path.write_text(checkout.git("rev-parse", "HEAD") + "\n")
        scan = await scanned(device, checkout.path)
        assert words(scan) == ["rebase_in_progress"]
        assert what in scan.notices[0].detail
        path.unlink()


async def test_a_real_rebase_that_stopped_is_noticed_and_not_touched(device: GitScanner, checkout: Checkout) -> None:
    checkout.git("checkout", "--quiet", "-b", "side")
    checkout.write("README", "side\n")
    checkout.commit("side")
    checkout.git("checkout", "--quiet", "main")
    checkout.write("README", "main\n")
    checkout.commit("main")
    with pytest.raises(AssertionError):
        checkout.git("rebase", "main", "side")
    before = contents(checkout.path)
    scan = await scanned(device, checkout.path)
    assert words(scan) == ["rebase_in_progress", "dirty_tree"]
    assert "--abort" in scan.notices[0].remedy
    assert contents(checkout.path) == before


async def test_where_a_shallow_clone_ends_nothing_is_taken_for_new(
    device: GitScanner, checkout: Checkout, tmp_path: Path
) -> None:
    checkout.write("old", "TODO\n")
    checkout.commit("the end of the clone")
    checkout.write("new", "TODO\n")
    checkout.commit("new")
    checkout.git("clone", "--quiet", "--depth=2", checkout.path.as_uri(), str(tmp_path / "shallow"))
    scan = await scanned(device, tmp_path / "shallow")
    assert words(scan) == ["shallow_clone"]
    assert [changes(commit) for commit in scan.commits] == [[("A", "new", 1, 0)], []]
    assert [line.path for line in scan.marked] == ["new"]
    assert "shallow clone ends there" in scan.left_out[0]


async def test_filters_are_noticed_by_configuration_and_by_attributes(device: GitScanner, checkout: Checkout) -> None:
    checkout.write("sub/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    checkout.write(".gitattributes", "*.txt text\n")
    checkout.commit("attributes")
    scan = await scanned(device, checkout.path)
    assert words(scan) == ["filters"]
    assert "sub/.gitattributes asks for some" in scan.notices[0].detail
    checkout.git("config", "filter.mine.clean", "cat")
    assert "the configuration names mine" in (await scanned(device, checkout.path)).notices[0].detail


async def test_other_urls_are_noticed_without_the_secrets_in_them(device: GitScanner, checkout: Checkout) -> None:
    checkout.git("config", "url.https://ann:secret@example.org/.insteadOf", "https://github.com/")
    scan = await scanned(device, checkout.path)
    assert words(scan) == ["instead_of"]
    assert "https://***@example.org/" in scan.notices[0].detail
    assert "secret" not in str(scan)


async def test_a_remote_that_is_not_there_is_noticed(device: GitScanner, checkout: Checkout) -> None:
    assert words(await scanned(device, checkout.path, remote="origin")) == ["no_remote"]
    checkout.git("remote", "add", "origin", "https://example.org/x")
    for remote in ("origin", "/some/path", "git@host:x", "https://x"):
        assert words(await scanned(device, checkout.path, remote=remote)) == []


async def test_a_configuration_that_changes_what_git_prints_changes_nothing(
    device: GitScanner, checkout: Checkout
) -> None:
    since = checkout.git("rev-parse", "HEAD")
    checkout.write("sub/file", "one\nTODO two\n")
    checkout.write("sub/new", "1\n")
    checkout.commit("second")
    plain = await scanned(device, checkout.path, since)
    for key, value in {
        "color.ui": "always",
        "diff.noprefix": "true",
        "diff.relative": "true",
        "diff.orderFile": "nowhere",
        "diff.mnemonicPrefix": "true",
        "diff.renames": "copies",
        "diff.interHunkContext": "10",
        "log.showRoot": "false",
        "log.follow": "true",
        "log.date": "iso",
        "log.decorate": "full",
        "format.pretty": "fuller",
        "core.quotePath": "false",
        "i18n.logOutputEncoding": "UTF-16",
    }.items():
        checkout.git("config", key, value)
    assert await scanned(device, checkout.path, since) == plain


# Too much of everything.


async def test_of_many_commits_the_newest_are_looked_at(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_commits, "MAX_COMMITS", 3)
    monkeypatch.setattr(scan_commits, "_COMMITS_AT_ONCE", 2)
    shas = [checkout.commit(str(number)) for number in range(5)]
    scan = await scanned(device, checkout.path)
    assert [commit.sha for commit in scan.commits] == shas[:1:-1]
    assert scan.left_out == ("3 of 6 commits: the newest 3 were looked at",)


async def test_of_many_files_the_first_are_told_and_the_others_counted(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_commits, "MAX_FILES_OF_COMMIT", 3)
    monkeypatch.setattr(scan_difference, "MAX_FILES", 4)
    since = checkout.git("rev-parse", "HEAD")
    checkout.git("mv", "README", "a-moved")
    for number in range(5):
        checkout.write(f"many/{number}", "TODO\n" * (number + 1))
    checkout.commit("many")
    checkout.write("few", "1\n")
    checkout.commit("few")
    scan = await scanned(device, checkout.path, since)
    few, many = scan.commits
    assert (changes(few), few.left_out) == ([("A", "few", 1, 0)], 0)
    assert many.changes == (
        FileChange("a-moved", "R", 0, 0, "README"),
        FileChange("many/0", "A", 1, 0),
        FileChange("many/1", "A", 2, 0),
    )
    assert many.left_out == 3
    assert len(scan.sizes) == 3
    assert len(scan.left_out) == 2
    monkeypatch.setattr(scan_commits, "MAX_CHANGES", 1)
    few, many = (await scanned(device, checkout.path, since)).commits
    assert (len(few.changes), few.left_out, many.changes, many.left_out) == (1, 0, (), 6)


async def test_a_large_file_is_named_and_not_looked_into(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(room._PLAIN, "core.bigFileThreshold", "10000")
    monkeypatch.setattr(scan_difference, "BIG_BYTES", 10_000)
    checkout.write("large", "TODO\n" * 2001)
    checkout.commit("large")
    scan = await scanned(device, checkout.path)
    assert changes(scan.commits[0]) == [("A", "large", None, None)]
    assert scan.marked == ()
    assert len(scan.left_out) == 1
    assert "large (0 MB)" in scan.left_out[0]


async def test_a_generated_file_of_half_a_million_lines_costs_little(device: GitScanner, checkout: Checkout) -> None:
    checkout.write("generated", "".join(f"{number} TODO\n" for number in range(500_000)))
    checkout.write("mine", "TODO\n")
    checkout.commit("generated")
    scan = await scanned(device, checkout.path)
    assert changes(scan.commits[0]) == [("A", "generated", 500_000, 0), ("A", "mine", 1, 0)]
    assert [line.path for line in scan.marked] == ["mine"]
    assert [size.lines for size in scan.sizes if size.path == "generated"] == [500_000]
    assert "the lines of generated" in scan.left_out[0]


async def test_marks_have_a_bound_and_long_lines_are_cut_around_them(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_lines, "MAX_MARKED", 2)
    checkout.write("long", f"{'x' * 5000} TODO here {'y' * 5000}\nTODOS\ntodo\n_TODO\nXXX\nFIXME\n")
    checkout.commit("long")
    scan = await scanned(device, checkout.path)
    first, second = scan.marked
    assert "TODO here" in first.text
    assert len(first.text) <= scan_lines.LINE_CHARACTERS
    assert (second.line, second.text) == (5, "XXX")
    assert scan.left_out == ("1 of the added lines with TODO, FIXME or XXX: 2 are told",)


async def test_where_git_has_too_much_to_say_it_is_asked_in_parts(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = checkout.git("rev-parse", "HEAD")
    for number in range(4):
        checkout.write(str(number), f"TODO {'x' * 1500}\n")
        checkout.commit(f"{number}\n\n" + "y" * 1500)
    checkout.write("long", f"TODO {'x' * 6000}\n")
    checkout.commit("l" * 6000)
    monkeypatch.setattr(git_room, "MAX_OUTPUT_BYTES", 5000)
    scan = await scanned(device, checkout.path, since)
    assert [commit.subject for commit in scan.commits] == ["3", "2", "1", "0"]
    assert all(len(commit.changes) == 1 for commit in scan.commits)
    assert sorted(line.path for line in scan.marked) == ["0", "1", "2", "3"]
    assert len(scan.left_out) == 2
    assert "what they say of themselves is too long" in scan.left_out[0]
    assert scan.left_out[1] == "the lines of long: they are too long"


async def test_branches_of_agents_have_a_bound(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_BRANCHES", 2)
    sha = checkout.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "x")
    for number in range(3):
        checkout.git("branch", f"darkfactory/it/{number}", sha)
    scan = await scanned(device, checkout.path)
    assert [branch.commits for branch in scan.branches] == [1, 1]
    assert "more than 2" in scan.left_out[0]


async def test_no_number_of_branches_and_no_broken_one_hides_those_of_reviews(
    device: GitScanner, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would know that something waits for a person."""
    monkeypatch.setattr(room, "MAX_BRANCHES", 2)
    checkout.git("branch", "darkfactory/review/2026-01-01-todo-1", aside(checkout))
    checkout.git("branch", "darkfactory/review/2026-01-01-merged", "HEAD")
    for number in range(4):
        checkout.git("branch", f"darkfactory/it/{number}", aside(checkout, "2099-01-01T00:00:00Z"))
    scan = await scanned(device, checkout.path)
    assert [branch.name.split("/")[1] for branch in scan.branches] == ["review", "it", "it"]
    (checkout.path / ".git/refs/heads/darkfactory/it/0").write_text("ab" * 20 + "\n")
    (checkout.path / ".git/refs/heads/darkfactory/review/broken").write_text("ab" * 20 + "\n")
    scan = await scanned(device, checkout.path)
    assert "darkfactory/review/2026-01-01-todo-1" in {branch.name for branch in scan.branches}


def aside(checkout: Checkout, at: str = "2026-01-01T00:00:00Z") -> str:
    """A commit that no branch has."""
    command = ("git", "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "x")
    env = {**os.environ, **ENV, "GIT_COMMITTER_DATE": at}
    return subprocess.run(
        command, cwd=checkout.path, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


async def test_a_broken_branch_of_an_agent_keeps_nobody_from_the_rest(
    device: GitScanner, checkout: Checkout, tmp_path: Path
) -> None:
    checkout.git("branch", "darkfactory/it/1", checkout.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "x"))
    broken = checkout.path / ".git/refs/heads/darkfactory/it/2"
    broken.write_text("")
    scan = await scanned(device, checkout.path)
    assert (len(scan.commits), len(scan.branches)) == (1, 1)
    assert "ignoring broken ref" in scan.left_out[0]
    sha = checkout.git("rev-parse", "HEAD")
    commit = checkout.git("cat-file", "commit", "darkfactory/it/1").replace(sha, "ab" * 20)
    (tmp_path / "commit").write_text(f"{commit}\n")
    broken.write_text(checkout.git("hash-object", "-w", "-t", "commit", str(tmp_path / "commit")) + "\n")
    scan = await scanned(device, checkout.path)
    assert (len(scan.commits), scan.branches) == (1, ())
    assert "branches of agents, which git could not read" in scan.left_out[0]


# Nothing is changed, nothing runs, nothing is left.


def contents(path: Path) -> dict[str, tuple[int, str]]:
    """Every file, its mode and what is in it."""
    found = {}
    for file in sorted(path.rglob("*")):
        data = bytes(file.readlink()) if file.is_symlink() else file.read_bytes() if file.is_file() else b""
        found[str(file.relative_to(path))] = (file.lstat().st_mode, hashlib.sha256(data).hexdigest())
    return found


async def test_the_repository_is_the_same_to_the_byte_and_none_of_its_programs_runs(
    device: GitScanner, checkout: Checkout, trap: Callable[[], Path]
) -> None:
    spring(checkout, trap)
    module = Checkout.begun(checkout.path / "module")
    module.git("config", "core.fsmonitor", program_of(trap))
    module.write("README", "changed in the submodule\n")
    checkout.git("-c", "core.fsmonitor=false", "add", "module")
    checkout.git("-c", "core.fsmonitor=false", "-c", "commit.gpgSign=false", "commit", "--no-verify", "-qm", "module")
    trap().unlink(missing_ok=True)
    checkout.write("old.filtered", "changed")
    checkout.write("new.filtered", "new")
    os.utime(checkout.path / "README", (1, 1))  # what a refresh of the index would write down
    before = contents(checkout.path)
    scan = await scanned(device, checkout.path)
    assert contents(checkout.path) == before
    assert not trap().exists(), trap().read_text()
    assert words(scan) == ["filters", "dirty_tree"]


def test_cancelled_anywhere_it_leaves_no_process_and_no_file(tmp_path: Path, checkout: Checkout) -> None:
    """Each step in the first commands, then ever larger ones; the fixture of all tests looks for processes."""
    launcher = RealLauncher(f"test-{uuid.uuid4().hex}", os.environ["DARKFACTORY_RUN"])
    device = GitScanner(Git(launcher, tmp_path / "scratch", os.environ))
    before = contents(checkout.path)

    async def program(scope: trio.CancelScope) -> None:
        with scope:
            await scanned(device, checkout.path)

    step = 1
    for stride in itertools.count(1):
        cancel = CancelAtStep(step)
        trio.run(program, cancel.scope, instruments=[cancel])
        if cancel.at is None:
            break
        assert list(device.git.scratch.glob("*")) == []
        assert contents(checkout.path) == before
        step += 1 + stride // 10


async def test_a_git_that_hangs_is_ended_with_the_scan(device: GitScanner, checkout: Checkout, tmp_path: Path) -> None:
    real = shutil.which("git")
    device.git.environ = slow(
        tmp_path, f'case "$*" in *numstat*) touch {tmp_path}/hangs; exec sleep 1000;; *) exec {real} "$@";; esac'
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scanned, device, checkout.path)
        with trio.fail_after(30):
            while not (tmp_path / "hangs").exists():  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert list(device.git.scratch.iterdir()) == []
