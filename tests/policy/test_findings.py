"""Findings: when there is one, how strong it is, and how they are ranked."""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime, timedelta
from itertools import count

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model.review import (
    DEFAULT_WEIGHTS,
    AddedLine,
    AgentStory,
    Branch,
    Commit,
    FileChange,
    FileSize,
    Finding,
    FindingKind,
    FindingSeverity,
    FunctionGrowth,
    Scan,
)
from darkfactory.policy.findings import HANDLED_DIVISOR, MOST, MOST_OF_A_KIND, findings

NOW = datetime(2026, 1, 5, 3, tzinfo=UTC)
NUMBERS = count(1)


def change(path: str, added: int = 1, status: str = "M", old: str | None = None) -> FileChange:
    return FileChange(path, status, added, 0, old)


def commit(subject: str, *changes: FileChange | str, body: str = "", parents: tuple[str, ...] = ("p",)) -> Commit:
    changed = tuple(change(each) if isinstance(each, str) else each for each in changes)
    return Commit(f"{next(NUMBERS):040x}", parents, "somebody", NOW, subject, body, changed)


def scan(*commits: Commit, **more: object) -> Scan:
    """The newest commit first."""
    return attrs.evolve(Scan("c" * 40, None), commits=commits, **more)


def found(
    of: Scan | None, kind: FindingKind | None = None, stories: tuple[AgentStory, ...] = (), **weights: float
) -> list[Finding]:
    every = findings(of, stories, weights=weights, handled={})
    return [each for each in every if kind is None or each.kind is kind]


def strengths(of: Scan, kind: FindingKind) -> dict[str, float]:
    """File -> strength."""
    weighed = findings(of, (), weights={kind.value: 1.0}, handled={})
    return {each.evidence.files[0]: each.score for each in weighed if each.kind is kind}


class TestChurn:
    def test_a_file_that_three_commits_changed(self):
        two, three = [commit("x", "a.py", "b.py") for _ in range(2)], [commit("x", "a.py")]
        assert strengths(scan(*two, *three), FindingKind.CHURN) == {"a.py": 3}
        (one,) = found(scan(*two, *three), FindingKind.CHURN)
        assert one.why == "3 commits changed it, with 3 lines added and 0 deleted: strength 3 of 10, weight 1.5."
        assert len(one.evidence.commits) == 3

    def test_a_thousand_commits_are_no_more_than_ten(self):
        assert strengths(scan(*(commit("x", "a.py") for _ in range(1000))), FindingKind.CHURN) == {"a.py": 10}

    @pytest.mark.parametrize("path", ["uv.lock", "vendor/a.py", "README.md", "docs/a.rst", "a.min.js", "tests/a.py"])
    def test_not_what_nobody_wrote_nor_what_is_for_reading(self, path: str):
        assert strengths(scan(*(commit("x", path) for _ in range(5))), FindingKind.CHURN) == {}

    def test_a_file_keeps_the_history_of_its_older_names(self):
        renamed = [commit("x", "c.py"), commit("x", change("c.py", 0, "R", "b.py")), commit("x", "b.py")]
        renamed += [commit("x", change("b.py", 0, "R", "a.py")), commit("x", "a.py")]
        assert strengths(scan(*renamed), FindingKind.CHURN) == {"c.py": 5}

    def test_two_files_that_changed_their_names_with_each_other(self):
        swap = commit("x", change("a.py", 0, "R", "b.py"), change("b.py", 0, "R", "a.py"))
        before = [commit("x", "a.py") for _ in range(3)]
        assert strengths(scan(swap, *before), FindingKind.CHURN) == {"b.py": 4}

    def test_what_was_deleted_is_gone_and_what_came_again_is_new(self):
        gone = [commit("x", change("a.py", 0, "D")), *(commit("x", "a.py") for _ in range(5))]
        assert found(scan(*gone)) == []
        again = [*(commit("x", "a.py") for _ in range(3)), *gone]
        assert strengths(scan(*again), FindingKind.CHURN) == {"a.py": 3}

    def test_a_merge_of_what_is_there_itself_is_not_counted(self):
        work = [commit("x", "a.py") for _ in range(2)]
        merge = commit("Merge branch 'x'", "a.py", parents=("p", work[0].sha))
        assert strengths(scan(merge, *work), FindingKind.CHURN) == {}
        foreign = attrs.evolve(merge, parents=("p", "f" * 40))
        assert strengths(scan(foreign, *work), FindingKind.CHURN) == {"a.py": 3}

    def test_binary_files_have_no_lines_and_are_counted(self):
        binary = FileChange("logo.png", "M", None, None)
        assert strengths(scan(*(commit("x", binary) for _ in range(3))), FindingKind.CHURN) == {"logo.png": 3}


class TestReverts:
    @pytest.mark.parametrize(
        ("subject", "body"),
        [
            ('Revert "Add x"', ""),
            ('Revert "Add x" (#12)', ""),
            ('Revert "Revert "Add x""', ""),
            ('Reapply "Add x"', ""),
            ("revert: Add x", ""),
            ("revert(parser)!: Add x", ""),
            ('Revert "Add x"', "This reverts commit 0123456789abcdef."),
        ],
    )
    def test_what_was_taken_back_is_one_thing_however_often(self, subject: str, body: str):
        (one,) = found(scan(commit(subject, "a.py", body=body)), FindingKind.REVERT)
        (two,) = found(scan(commit('Revert "Add x"', "b.py"), commit(subject, "a.py")), FindingKind.REVERT)
        assert one.id == two.id
        assert (one.title, two.title) == ("Taken back: Add x",) * 2
        assert (one.score, two.score) == (18, 24)
        assert two.evidence.files == ("a.py", "b.py")

    def test_a_commit_that_only_says_so_below_is_known_by_what_it_takes_back(self):
        (one,) = found(scan(commit("Undo that", body="x\n\nThis reverts commit 0123456789abcdef0123.\n")))
        assert one.title == "Taken back: 0123456789ab"

    @pytest.mark.parametrize("subject", ["Reverting is hard", 'Revert ""', "revert:", "Do not revert: x", ""])
    def test_a_word_is_no_revert(self, subject: str):
        assert found(scan(commit(subject)), FindingKind.REVERT) == []

    def test_of_a_subject_without_end_the_beginning_is_read(self):
        nested = 'Revert "' * 100 + "x" + '"' * 100
        (one,) = found(scan(commit(nested)))
        assert one.title == "Taken back: x"
        assert len(found(scan(commit('Revert "' * 100_000 + "x" + '"' * 100_000)))) <= 1


class TestFixesOfFixes:
    def test_two_fixes_of_one_file(self):
        fixes = commit("Fix the parser", "a.py", "b.py"), commit("parser: bugfix", "a.py"), commit("Add x", "b.py")
        assert strengths(scan(*fixes), FindingKind.FIX_OF_FIX) == {"a.py": 4}

    @pytest.mark.parametrize("subject", ["fix: x", "Fixes #1", "FIXED", "fixup! x", "hotfix", "Repair x", "mend"])
    def test_words_that_say_it(self, subject: str):
        assert found(scan(commit(subject, "a.py"), commit(subject, "a.py")), FindingKind.FIX_OF_FIX)

    @pytest.mark.parametrize("subject", ["Add prefix", "fixture for x", "affix", "suffixes", "amend x"])
    def test_words_that_only_contain_it(self, subject: str):
        assert not found(scan(commit(subject, "a.py"), commit(subject, "a.py")), FindingKind.FIX_OF_FIX)

    @pytest.mark.parametrize("path", ["CHANGELOG.md", "tests/test_a.py", "package-lock.json"])
    def test_only_of_code(self, path: str):
        assert not found(scan(commit("fix", path), commit("fix", path)), FindingKind.FIX_OF_FIX)


class TestWorkThatWasPutOff:
    def test_a_file_with_marks(self):
        lines = (
            AddedLine("a.py", 9, "  x() # FIXME b"),
            AddedLine("a.py", 2, "# TODO a"),
            AddedLine("vendor/x.c", 1, "/* XXX */"),
        )
        (one,) = found(scan(marked=lines), FindingKind.TODO)
        assert one.evidence.lines == ("a.py:2: # TODO a", "a.py:9: x() # FIXME b")
        assert one.score == 3

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "# TODO x",
                "\t#TODO",
                "x = 1  # FIXME(ann): y",
                "// XXX",
                "/// TODO",
                " * TODO: x",
                "* @TODO x",
                "/* FIXME */",
            ),
            *("-- TODO", "; TODO", "% FIXME", "<!-- TODO x -->", "TODO: x", "  FIXME(ann)", '"""TODO: x"""', "//!TODO"),
        ],
    )
    def test_a_comment_begins_with_it(self, text: str):
        assert found(scan(marked=(AddedLine("a.py", 1, text),)), FindingKind.TODO)

    @pytest.mark.parametrize(
        "text",
        [
            *(
                'MARKS = "TODO"',
                "grep TODO",
                "print('# TODO')",
                "# nothing TODO",
                "# TODOS",
                "x = TODO",
                "# todo",
                "",
                "XXXX",
            ),
            *("- lines with TODO, FIXME or XXX", '"# FIXME b"', "#" * 5000 + " TODO", " " * 5000 + "TODO:"),
        ],
    )
    def test_who_only_speaks_of_it_has_put_off_nothing(self, text: str):
        assert found(scan(marked=(AddedLine("a.py", 1, text),))) == []

    def test_many_are_capped(self):
        lines = tuple(AddedLine("a.py", number, "# TODO " * 1000) for number in range(1, 1000))
        (one,) = found(scan(marked=lines), FindingKind.TODO)
        assert one.score == 10
        assert len(one.evidence.lines) == 10
        assert all(len(line) < 250 for line in one.evidence.lines)


class TestUntested:
    def test_code_that_came_without_a_test(self):
        assert strengths(scan(commit("x", change("a.py", 100))), FindingKind.UNTESTED) == {"a.py": 3}
        assert strengths(scan(commit("x", change("a.py", 9))), FindingKind.UNTESTED) == {}

    def test_code_that_came_with_a_test_in_its_commit(self):
        assert not found(scan(commit("x", change("a.py", 50), "tests/test_other.py")), FindingKind.UNTESTED)

    def test_code_whose_own_test_came_in_another_commit(self):
        commits = commit("x", change("a.py", 100), change("b.py", 100)), commit("y", "tests/test_a.py")
        assert strengths(scan(*commits), FindingKind.UNTESTED) == {"b.py": 3}

    def test_code_that_has_a_test_of_its_name_matters_half(self):
        tests = frozenset({"tests/unit/test_a.py"})
        of = scan(commit("x", change("src/a.py", 100)), tests=tests)
        assert strengths(of, FindingKind.UNTESTED) == {"src/a.py": 1.5}

    @pytest.mark.parametrize(
        "path",
        [
            *(
                "tests/test_a.py",
                "a_test.go",
                "docs/a.md",
                "setup.cfg",
                "a.json",
                "ci.yml",
                "pyproject.toml",
                "setup.py",
            ),
            *("yarn.lock", "vendor/a.go", "node_modules/x/a.js", "api_pb2.py", "a.min.js", "x.svg", "LICENSE", "a"),
            *("benchmarks/a.py", "docs/conf.py", "examples/x/a.rs"),
        ],
    )
    def test_what_needs_none(self, path: str):
        assert not found(scan(commit("x", change(path, 500))), FindingKind.UNTESTED)

    @pytest.mark.parametrize(
        ("path", "test"),
        [
            ("src/parser.ts", "src/parser.test.ts"),
            ("parser.ts", "parser.spec.tsx"),
            ("parser.go", "parser_test.go"),
            ("main/Parser.java", "test/ParserTest.java"),
            ("lib/parser.rb", "spec/parser_spec.rb"),
            ("x/parser.py", "tests/parser.py"),
            ("parser.py", "tests/test_parser.py"),
            ("parser.py", "tests/test_parser_errors.py"),
        ],
    )
    def test_names_that_belong_together(self, path: str, test: str):
        commits = commit("x", change(path, 50)), commit("y", test)
        assert not found(scan(*commits), FindingKind.UNTESTED)


class TestGrowth:
    @pytest.mark.parametrize(
        ("before", "after", "strength"),
        [
            (300, 400, 4.0),
            (0, 500, 2.5),
            (0, 5000, 5.0),
            (500, 600, 5.0),
            (500, 539, None),
            (100, 399, None),
            (5000, 9000, 10.0),
        ],
    )
    def test_a_file(self, before: int, after: int, strength: float | None):
        expected = {} if strength is None else {"a.py": strength}
        assert strengths(scan(sizes=(FileSize("a.py", before, after),)), FindingKind.GREW) == expected

    def test_a_function_in_all_its_places(self):
        places = [FunctionGrowth("a.py", "def f():", line, 30) for line in (70, 20)]
        other = FunctionGrowth("a.py", "def g():", 5, 39)
        (one,) = found(scan(functions=(*places, other)), FindingKind.GREW)
        assert one.evidence.lines == ("a.py:20: def f():",)
        assert one.title == "def f(): in a.py has grown"
        assert one.score == 6

    def test_tests_data_and_no_function_at_all_may_grow(self):
        sizes = tuple(FileSize(path, 0, 5000) for path in ("tests/a.py", "a.json", "a.md", "dist/a.js"))
        functions = FunctionGrowth("a.py", " ", 1, 500), FunctionGrowth("test_a.py", "def f():", 1, 500)
        assert found(scan(sizes=sizes, functions=functions)) == []


class TestDependencies:
    @pytest.mark.parametrize(
        ("manifest", "also", "strength"),
        [
            ("package.json", "x", 6),
            ("package.json", "yarn.lock", 3),
            ("web/app/package.json", "web/package-lock.json", 3),
            ("web/package.json", "api/package-lock.json", 6),
            ("crates/a/Cargo.toml", "Cargo.lock", 3),
            ("go.mod", "go.sum", 3),
            ("pyproject.toml", "x", 3),
            ("requirements-dev.txt", "x", 3),
        ],
    )
    def test_a_manifest_and_its_lock_file(self, manifest: str, also: str, strength: float):
        together = scan(commit("x", manifest, also))
        assert strengths(together, FindingKind.DEPENDENCIES) == {manifest: strength}
        assert strengths(scan(commit("y", also), commit("x", manifest)), FindingKind.DEPENDENCIES) == {
            manifest: strength
        }

    @pytest.mark.parametrize("path", ["yarn.lock", "node_modules/x/package.json", "docs/requirements.md", "a.json"])
    def test_other_files_are_none(self, path: str):
        assert not found(scan(commit("x", path)), FindingKind.DEPENDENCIES)


class TestBranches:
    def test_what_nobody_merged(self):
        of = scan(branches=(Branch("agent/x", "d" * 40, 1, NOW), Branch("agent/y", "e" * 40, 99, NOW)))
        y, x = found(of, FindingKind.BRANCH)
        assert (x.score, y.score) == (3, 10)
        assert x.evidence.branches == ("agent/x dddddddddddd: 1 commit",)
        assert x.why.startswith("1 commit of it, the newest of 2026-01-05, that the base branch does not contain")

    def test_those_of_reviews_wait_for_a_person(self):
        assert found(scan(branches=(Branch("darkfactory/review/2026-01-05-x", "d" * 40, 1, NOW),))) == []


class TestAgents:
    @pytest.mark.parametrize(
        ("told", "strength"),
        [
            ({"runs": 4, "bad_ends": {"failed": 2, "stalled": 1}}, 4.5),
            ({"drift": {"minor": 4}}, 1.0),
            ({"drift": {"critical": 1, "severe": 1, "moderate": 1, "unheard_of": 5}}, 6.0),
            ({"holds": 1}, 3.0),
            ({"turned_away": 100}, 2.0),
            ({"refusals": {"overlap": 1000}}, 1.0),
            ({"runs": 100, "refusals": {"overlap": 3}}, None),
            ({"bad_ends": {"failed": 100}}, 10.0),
        ],
    )
    def test_the_sum_of_what_went_wrong(self, told: dict[str, object], strength: float | None):
        story = AgentStory("sync", told_runs=("sync-1 failed: x",), **told)
        expected = [] if strength is None else [strength]
        assert [each.score for each in found(None, None, (story,), agent=1.0)] == expected

    def test_it_says_all_of_it_and_what_it_rests_on(self):
        story = AgentStory("sync", 3, {"failed": 2}, {"severe": 1}, 1, 1, {"overlap": 1}, ("r",), ("held",))
        (one,) = found(None, None, (story,))
        assert one.why == (
            "2 of 3 runs ended badly (2 failed); drift (1 severe); held 1 time; "
            "1 run turned away by a provider's limit; refused (1 overlap): strength 8.35 of 10, weight 2."
        )
        assert (one.evidence.runs, one.evidence.records) == (("r",), ("held",))

    def test_of_nothing_at_all_there_is_nothing(self):
        assert findings(None, (), weights={}, handled={}) == ()
        assert findings(scan(), (AgentStory("a", 5),), weights={}, handled={}) == ()


class TestRanking:
    BUSY = scan(
        *(commit("fix x", change("a.py", 40), "package.json") for _ in range(4)),
        marked=(AddedLine("a.py", 1, "# TODO"),),
        branches=(Branch("agent/x", "d" * 40, 1, NOW),),
    )

    def test_the_strength_makes_the_severity(self):
        severities = {each.kind: each.severity for each in found(self.BUSY)}
        assert severities[FindingKind.TODO] is FindingSeverity.LOW
        assert severities[FindingKind.CHURN] is FindingSeverity.MEDIUM
        assert severities[FindingKind.FIX_OF_FIX] is FindingSeverity.HIGH

    def test_what_was_handled_ranks_down_and_says_so(self):
        first, *_ = found(self.BUSY)
        again = findings(self.BUSY, (), weights={}, handled={first.id: "a pull request waits: #3", "other": "x"})
        (same,) = [each for each in again if each.id == first.id]
        assert same.score == first.score / HANDLED_DIVISOR
        assert same.handled == "a pull request waits: #3"
        assert same.why.endswith("divided by 4 as it was handled before.")
        assert again[0].id != first.id
        assert [each.handled for each in again if each.id != first.id] == [None] * (len(again) - 1)

    @pytest.mark.parametrize("kind", FindingKind)
    def test_a_weight_of_zero_leaves_a_kind_out(self, kind: FindingKind):
        assert found(self.BUSY, kind, (), **{kind.value: 0.0}) == []

    def test_every_kind_has_a_default_weight(self):
        assert set(DEFAULT_WEIGHTS) == set(FindingKind)

    def test_one_kind_does_not_hide_the_others(self):
        many = tuple(AddedLine(f"{number:04}.py", 1, "# FIXME") for number in range(3000))
        every = found(attrs.evolve(self.BUSY, marked=many), None, (), todo=1000.0)
        assert sum(each.kind is FindingKind.TODO for each in every) == MOST_OF_A_KIND
        assert {each.kind for each in every} >= {FindingKind.CHURN, FindingKind.BRANCH}

    def test_there_are_never_more_than_a_person_can_read(self):
        files = [change(f"{number}/{name}", 40) for number in range(20) for name in ("package.json", "a.py")]
        marked = tuple(AddedLine(f"{number}.py", 1, "# FIXME") for number in range(20))
        sizes = tuple(FileSize(f"{number}.py", 0, 900) for number in range(20))
        branches = tuple(Branch(f"{number}", "d" * 40, 1, NOW) for number in range(20))
        of = scan(*(commit("fix", *files) for _ in range(3)), marked=marked, sizes=sizes, branches=branches)
        assert len(found(of)) == MOST

    def test_on_another_night_a_finding_has_grown_and_its_id_has_not(self):
        def night(size: int) -> tuple[Scan, tuple[AgentStory, ...]]:
            commits = (commit("Fix it", change("a.py", size), change("go.mod", size)) for _ in range(size))
            of = scan(
                *commits,
                commit('Revert "x"', "b.py"),
                marked=tuple(AddedLine("a.py", line, "# TODO") for line in range(size)),
                sizes=(FileSize("a.py", size, 100 * size),),
                functions=(FunctionGrowth("a.py", "def f():", size, 50 * size),),
                branches=(Branch("agent/x", f"{size:040x}", size, NOW),),
            )
            return of, (AgentStory("a", size, {"failed": size}, told_runs=(f"a-{size}",)),)

        one, other = ({each.id: each for each in found(of, None, told)} for of, told in (night(10), night(20)))
        assert one.keys() == other.keys()
        assert {each.kind for each in one.values()} == set(FindingKind)
        assert sum(one[its_id].why != other[its_id].why for its_id in one) >= 7

    def test_findings_of_one_score_are_in_the_order_of_their_ids(self):
        marked = tuple(AddedLine(f"{number}.py", 1, "# TODO") for number in range(9))
        ids = [each.id for each in found(scan(marked=marked))]
        assert ids == sorted(ids)


PATHS = st.sampled_from(
    ["a.py", "b/a.py", "tests/test_a.py", "package.json", "go.sum", "README.md", "x\udcff\n.py", "`|<b>.rs", "/a", ""]
)
SUBJECTS = st.sampled_from(
    ["fix x", "# TODO x", "// XXX", 'Revert "x"', "revert: \ud800", "Add", "", "Merge @user #1"]
) | st.text(max_size=9)
LINES = st.none() | st.integers(0, 2000)
CHANGES = st.builds(FileChange, PATHS, st.sampled_from("AMDRCT"), LINES, LINES, st.none() | PATHS)
TIMES = st.integers(0, 1000).map(lambda secs: NOW - timedelta(seconds=secs))
SHAS = st.sampled_from([f"{number:040x}" for number in range(20)])
COMMITS = st.builds(
    Commit,
    SHAS,
    st.lists(SHAS, max_size=2).map(tuple),
    st.just("x"),
    TIMES,
    SUBJECTS,
    SUBJECTS,
    st.lists(CHANGES).map(tuple),
)
COUNTS = st.dictionaries(st.sampled_from(["failed", "severe", "x\n"]), st.integers(0, 20))
STORIES = st.builds(
    AgentStory,
    st.sampled_from(["a", "b", "c\ud800"]),
    st.integers(0, 20),
    COUNTS,
    COUNTS,
    st.integers(0, 3),
    st.integers(0, 9),
    COUNTS,
    st.lists(st.just("run"), max_size=20).map(tuple),
    st.lists(st.just("record"), max_size=20).map(tuple),
)
SCANS = st.builds(
    Scan,
    SHAS,
    st.none(),
    commits=st.lists(COMMITS, max_size=8, unique_by=lambda each: each.sha).map(tuple),
    marked=st.lists(st.builds(AddedLine, PATHS, st.integers(1, 99), SUBJECTS), max_size=8, unique=True).map(tuple),
    sizes=st.lists(
        st.builds(FileSize, PATHS, st.integers(0, 999), st.integers(0, 2000)), unique_by=lambda each: each.path
    ).map(tuple),
    functions=st.lists(st.builds(FunctionGrowth, PATHS, SUBJECTS, st.integers(1, 99), st.integers(0, 99))).map(tuple),
    branches=st.lists(
        st.builds(Branch, SUBJECTS, SHAS, st.integers(1, 20), TIMES), unique_by=lambda each: each.name
    ).map(tuple),
    tests=st.frozensets(PATHS),
)
UNIQUE_STORIES = st.lists(STORIES, max_size=3, unique_by=lambda each: each.agent)
WEIGHTS = st.dictionaries(st.sampled_from([kind.value for kind in FindingKind]), st.floats(0, 100))


@given(SCANS, UNIQUE_STORIES, WEIGHTS)
def test_any_scan_has_an_answer_that_can_be_written_down(
    of: Scan, stories: list[AgentStory], weights: dict[str, float]
):
    every = findings(of, stories, weights=weights, handled={})
    assert len({each.id for each in every}) == len(every)
    for each in every:
        assert re.fullmatch(rf"{each.kind.value}-[0-9a-f]{{8}}", each.id)
        assert any(attrs.astuple(each.evidence))
        assert each.title.isprintable()
        assert each.why.isprintable()
        told = attrs.asdict(each, value_serializer=lambda _, __, value: getattr(value, "value", value))
        assert json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
        assert max(map(len, attrs.astuple(each.evidence))) <= 10


@given(SCANS, UNIQUE_STORIES, WEIGHTS, st.randoms(use_true_random=False))
def test_the_ranking_does_not_depend_on_the_order_of_what_was_read(
    of: Scan, stories: list[AgentStory], weights: dict[str, float], chance: random.Random
):
    def shuffled(values: tuple[object, ...] | list[AgentStory]) -> tuple[object, ...]:
        return tuple(chance.sample(values, len(values)))

    names = ("marked", "sizes", "functions", "branches")
    other = attrs.evolve(of, **{name: shuffled(getattr(of, name)) for name in names})
    every = findings(of, stories, weights=weights, handled={})
    assert findings(other, shuffled(stories), weights=weights, handled={}) == every
    assert [*every] == sorted(every, key=lambda each: -each.score)


def test_of_those_that_are_as_strong_as_can_be_the_one_that_would_be_stronger_comes_first():
    branches = tuple(Branch(f"b{commits}", "1" * 40, commits, NOW) for commits in (20, 40, 30))
    found = findings(Scan("c" * 40, None, branches=branches), (), weights={}, handled={})
    assert [each.title for each in found] == [f"Branch b{commits} is not merged" for commits in (40, 30, 20)]
    assert {each.score for each in found} == {10.0}


@given(SCANS, UNIQUE_STORIES, st.sampled_from(FindingKind), st.floats(0.1, 50), st.floats(1, 50))
def test_more_weight_never_ranks_a_finding_lower(
    of: Scan, stories: list[AgentStory], kind: FindingKind, weight: float, more: float
):
    before = findings(of, stories, weights={kind.value: weight}, handled={})
    after = findings(of, stories, weights={kind.value: weight * more}, handled={})
    ranks = {each.id: rank for rank, each in enumerate(after)}
    for rank, each in enumerate(before):
        if each.kind is kind:
            assert ranks[each.id] <= rank


@given(SCANS, SCANS, UNIQUE_STORIES)
def test_what_a_finding_is_about_and_nothing_else_makes_its_id(of: Scan, more: Scan, stories: list[AgentStory]):
    """What there is of one kind on another night changes nothing of the ids of the others."""
    alone = {each.id for each in findings(attrs.evolve(of, marked=(), branches=()), (), weights={}, handled={})}
    among = {
        each.id
        for each in findings(
            attrs.evolve(of, marked=more.marked, branches=more.branches), stories, weights={}, handled={}
        )
        if each.kind not in {FindingKind.TODO, FindingKind.BRANCH, FindingKind.AGENT}
    }
    assert among <= alone
    other = {each.sha: f"{number:040x}" for number, each in enumerate(of.commits, 1000)}
    later = attrs.evolve(
        of,
        commits=tuple(
            attrs.evolve(each, sha=other[each.sha], parents=tuple(other.get(parent, parent) for parent in each.parents))
            for each in of.commits
        ),
    )
    assert {each.id for each in found(attrs.evolve(later, marked=(), branches=()))} == alone
