"""`darkfactory review`: how it is called, and the reports that were."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from darkfactory.cli import main, reviewing
from darkfactory.config import load_config
from darkfactory.devices.reviews import ReportFiles
from darkfactory.devices.statedir import StateDir
from darkfactory.model.review import (
    CompoundReviewResult,
    Finding,
    FindingKind,
    FindingSeverity,
    Gate,
    Improvement,
    Notice,
    ReviewOutcome,
)
from darkfactory.policy.review_report import markdown, to_json

AGENT = '[[agents]]\nname = "a"\nlayer = "Growth"\ncli_tool = "demo"\ntask = "t"\n'
FLEET = f'[compound_review]\nschedule = "@daily"\nrepo_path = "repo"\n{AGENT}'

Review = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A fleet file."""
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where its state directory would be."""
    return tmp_path / "state" / "darkfactory" / "fleet"


@pytest.fixture
def review(file: Path, tmp_path: Path) -> Review:
    """Run the command."""

    def run(*args: str) -> Result:
        result = CliRunner().invoke(main, ["review", str(file), *args], env={"XDG_STATE_HOME": str(tmp_path / "state")})
        assert "Traceback" not in result.output
        return result

    return run


def begun(state: Path, file: Path) -> ReportFiles:
    """Where the reports go, in a state directory that a factory has used."""
    state.parent.mkdir(parents=True, exist_ok=True)
    StateDir.open(state, file).close()
    return ReportFiles(state / "reviews")


def finding(number: int = 0) -> Finding:
    return Finding(
        f"churn-{number:08x}", FindingKind.CHURN, f"file{number}\x1b[2J changes", FindingSeverity.LOW, 1.5, "why"
    )


IMPROVEMENT = Improvement(
    "churn-00000000",
    "file0 changes",
    "the task",
    "a",
    ("one reason", "another one"),
    "darkfactory/review/2026-01-05-churn-00000000",
    run="a-20260105-020000-abcdef",
    commit="c" * 40,
    summary="did \x1b[2Jit",
    gate=Gate(("make",), passed=True, exit_code=0, secs=3.2, tail=""),
)


def result(outcome: ReviewOutcome = ReviewOutcome.PR_CREATED, findings: int = 12) -> CompoundReviewResult:
    return CompoundReviewResult(
        findings=tuple(map(finding, range(findings))),
        top_improvement=IMPROVEMENT,
        pr_created=True,
        pr_url="https://github.com/o/r/pull/1",
        duration=7.5,
        outcome=outcome,
        detail="it is\nthere",
        remedy="look at it",
        notices=(Notice("dirty_tree", "two files", "commit them"),),
        id="review-20260105-020000-abcdef",
        began=datetime(2026, 1, 5, 2, tzinfo=UTC),
        dry_run=False,
        commit="b" * 40,
        since="a" * 40,
        commits=1,
        left_out=("a huge file",),
    )


def write(reports: ReportFiles, review: str, page: str, result: object) -> None:
    reports.write(review, page, json.dumps(result), datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--last", "--dry-run"), "--last shows a review that is over"),
        (("--bogus",), "No such option"),
        (("more",), "unexpected extra argument"),
    ],
)
def test_bad_usage_exits_2(review: Review, args: tuple[str, ...], said: str) -> None:
    done = review(*args)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize("args", [(), ("--dry-run",), ("--last",)])
def test_a_fleet_without_the_section_exits_2_and_is_told_what_to_add(
    review: Review, file: Path, state: Path, args: tuple[str, ...]
) -> None:
    file.write_text(AGENT)
    done = review(*args)
    assert done.exit_code == 2
    assert done.stderr == (
        f"{file}: compound_review: is missing: nothing is reviewed "
        '(add it, with schedule = "0 2 * * *" and repo_path = ".")\n'
    )
    assert not state.exists()


def test_a_directory_that_is_not_there_exits_2_before_anything_is_made(review: Review, state: Path) -> None:
    done = review()
    assert done.exit_code == 2
    assert "compound_review.repo_path: is not an existing directory" in done.stderr
    assert not state.exists()


@pytest.mark.parametrize("used", [False, True])
def test_where_there_was_no_review_there_is_no_last_one(review: Review, file: Path, state: Path, used: bool) -> None:
    if used:
        begun(state, file)
    for args in (("--last",), ("--last", "--json")):
        done = review(*args)
        assert (done.exit_code, done.stdout, done.stderr) == (1, "", "there was no review yet\n")
    assert state.exists() is used


def test_the_last_one_is_the_newest(review: Review, file: Path, state: Path) -> None:
    reports = begun(state, file)
    for day, name in ((5, "f"), (7, "0"), (6, "9")):
        write(reports, f"review-2026010{day}-020000-{name}", f"# {day}\n", {"outcome": str(day)})
    assert review("--last").stdout == "# 7\n"
    done = review("--last", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"outcome": "7"})


def test_the_last_one_is_as_it_was_written_but_for_what_a_terminal_would_obey(
    review: Review, file: Path, state: Path
) -> None:
    write(begun(state, file), "review-20260105-020000-a", "# \x1b[2Jone\n\n\ttwo\x9b\n", {"a": "\x9b"})
    assert review("--last").stdout == "# ?[2Jone\n\n\ttwo?\n"
    assert "\\u009b" in review("--last", "--json").stdout


def test_the_last_one_is_shown_while_a_factory_runs(review: Review, file: Path, state: Path) -> None:
    write(begun(state, file), "review-20260105-020000-a", markdown(result()), to_json(result()))
    factory = StateDir.open(state, file)
    try:
        done = review("--last", "--json")
    finally:
        factory.close()
    assert list(json.loads(done.stdout))[:6] == [
        "findings",
        "top_improvement",
        "pr_created",
        "pr_url",
        "duration",
        "outcome",
    ]


def test_the_last_one_of_another_fleet_is_not_taken_for_ones_own(review: Review, tmp_path: Path, state: Path) -> None:
    write(begun(state, tmp_path / "other.toml"), "review-20260105-020000-a", "# theirs\n", {})
    done = review("--last")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "belongs to" in done.stderr


@pytest.mark.parametrize("damaged", ["{", "null", "[" * 100_000], ids=["cut", "no object", "deep"])
def test_a_report_that_is_damaged_is_said_to_be(damaged: str, review: Review, file: Path, state: Path) -> None:
    reports = begun(state, file)
    write(reports, "review-20260105-020000-a", "# one\n", {})
    (reports.path / "review-20260105-020000-a.json").write_text(damaged)
    done = review("--last", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("the last report cannot be read: ")


def test_another_state_directory_can_be_named(review: Review, file: Path, tmp_path: Path) -> None:
    write(begun(tmp_path / "elsewhere", file), "review-20260105-020000-a", "# there\n", {})
    assert review("--last").exit_code == 1
    assert review("--last", "--state-dir", str(tmp_path / "elsewhere")).stdout == "# there\n"


def test_people_are_told_shortly_and_nothing_of_it_steers_their_terminal(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(file, {"XDG_STATE_HOME": str(tmp_path)})
    reviewing._tell(config, result(), as_json=False)
    told = capsys.readouterr().out
    assert "\x1b" not in told
    lines = told.splitlines()
    assert lines[:16] == [
        "pr_created: it is there",
        "  what to do:    look at it",
        "  looked at:     1 commit of main up to bbbbbbbbbbbb, since aaaaaaaaaaaa",
        "  improvement:   churn-00000000: file0 changes",
        "  agent:         a",
        "  because:       one reason",
        "                 another one",
        "  branch:        darkfactory/review/2026-01-05-churn-00000000",
        "  run:           a-20260105-020000-abcdef",
        "  it says:       did [2Jit",
        "  gate:          passed with exit code 0, after 3 s",
        "  pull request:  https://github.com/o/r/pull/1",
        "  notice:        dirty_tree: two files (commit them)",
        "  left out:      a huge file",
        "",
        "finding         severity  score  what               handled before",
    ]
    assert lines[16].split() == ["churn-00000000", "low", "1.5", "file0", "[2J", "changes"]
    assert lines[-1] == "and 2 more"


def test_programs_are_told_everything(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviewing._tell(load_config(file, {}), result(), as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(to_json(result())))


@pytest.mark.parametrize("gh", [False, True])
def test_check_tells_when_the_next_reviews_are_and_whether_there_is_a_gh(file: Path, tmp_path: Path, gh: bool) -> None:
    (tmp_path / "repo").mkdir()
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.touch(0o755 if gh else 0o644)

    def check() -> Result:
        return CliRunner().invoke(main, ["check", str(file)], env={"PATH": str(program.parent)})

    assert "\n\ncompound review, a dry run: " in check().stdout
    assert check().stderr == ""
    file.write_text(FLEET.replace("[[", "create_prs = true\ngate = ['make']\n[["))
    assert "\n\ncompound review, with pull requests: " in check().stdout
    assert ("there is no gh" in check().stderr) is not gh
