"""`darkfactory route`: it explains a choice, and touches nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from darkfactory.cli import main
from darkfactory.devices.segments import VERSION, encode
from darkfactory.devices.statedir import StateDir

FLEET = """
[routing]
fallback = "helper"
[routing.keywords]
testing = ["probe"]
[[agents]]
name = "tester"
layer = "Growth"
cli_tool = "demo"
task = "t"
capabilities = ["testing"]
[[agents]]
name = "second"
layer = "Growth"
cli_tool = "codex"
task = "t"
capabilities = ["Testing", "Code_Review"]
env_pass = ["HOME"]
env = { PATH = "/nowhere" }
[[agents]]
name = "helper"
layer = "Growth"
cli_tool = "demo"
task = "t"
"""
UTC = "2026-01-05T12:00:00.000000Z"
SNAPSHOT = {"utc": UTC, "kind": "snapshot", "version": VERSION}
HELD = {"utc": UTC, "kind": "held", "agent": "tester", "reason": "crash_loop", "detail": "6 bad ends"}

Route = Callable[..., Result]


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
def route(file: Path, tmp_path: Path) -> Iterator[Route]:
    """Run the command; whatever it is asked, all files stay as they were."""

    def run(*args: str) -> Result:
        before = tree(tmp_path)
        env = {"XDG_STATE_HOME": str(tmp_path / "state")}
        result = CliRunner().invoke(main, ["route", *args[:1], str(file), *args[1:]], env=env)
        assert tree(tmp_path) == before
        assert "Traceback" not in result.output
        return result

    return run


def tree(path: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that is below, with what would change if it were touched."""
    found = {}
    for each in sorted(path.rglob("*")):
        seen = each.stat()
        content = each.read_bytes() if each.is_file() else b""
        found[str(each)] = (seen.st_mode, seen.st_mtime_ns, seen.st_ino, content)
    return found


def journal(state: Path, file: Path, *lines: dict[str, object], end: bytes = b"") -> Path:
    """A journal that a factory of that fleet left."""
    state.parent.mkdir(parents=True, exist_ok=True)
    directory = StateDir.open(state, file)
    directory.close()
    segment = directory.journal / "00000001.jsonl"
    segment.write_bytes(b"".join(map(encode, lines)) + end)
    return segment


def told(result: Result) -> dict[str, object]:
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def test_a_choice_is_one_json_object_with_all_that_is_known_of_it(route: Route) -> None:
    result = route("probe it", "--json")
    assert result.exit_code == 0
    assert told(result) == {
        "agent": "tester",
        "by": "keywords",
        "reasons": [
            "declares testing, which the text asks for (probe)",
            "is started for it",
            "has nothing to do before it",
            "comes before second: it is declared first",
        ],
        "looked_for": ["testing"],
        "keywords": {"testing": ["probe"]},
        "runners_up": [
            {
                "agent": "second",
                "reasons": [
                    "declares testing, which the text asks for (probe)",
                    "is started for it",
                    "has nothing to do before it",
                ],
            }
        ],
        "passed_over": {},
    }


def test_a_refusal_exits_1_and_names_what_was_looked_for(route: Route) -> None:
    result = route("x", "--json", "--capability", "testing", "--capability", "Translation")
    assert result.exit_code == 1
    answer = told(result)
    assert (answer["agent"], answer["by"]) == (None, None)
    assert answer["looked_for"] == ["testing", "translation"]
    assert answer["passed_over"] == dict.fromkeys(("tester", "second"), "it does not declare translation")
    for_people = route("x", "--capability", "Translation")
    assert for_people.exit_code == 1
    assert for_people.stdout.splitlines() == [
        "no agent can be given this",
        "  because:     no agent that can be given it declares translation",
        "               the agents declare code-review, testing",
        "               the fallback helper does not get what was required of others",
        "  looked for:  translation",
    ]


def test_what_was_required_cannot_steer_a_terminal_nor_break_the_command(route: Route) -> None:
    result = route("\udcff", "--capability", "a\x1b[2J\udcff\nb")
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "  looked for:  a [2j -b" in result.stdout.splitlines()


def test_people_are_told_shortly(route: Route) -> None:
    assert route("probe it").stdout.splitlines() == [
        "tester (by keywords)",
        "  because:     declares testing, which the text asks for (probe)",
        "               is started for it",
        "               has nothing to do before it",
        "               comes before second: it is declared first",
        "  else:        second: declares testing, which the text asks for (probe); is started for it; "
        "has nothing to do before it",
    ]
    assert route("hello").stdout.startswith("helper (by fallback)\n")


def test_what_the_journal_holds_counts(route: Route, state: Path, file: Path) -> None:
    journal(state, file, SNAPSHOT, HELD)
    answer = told(route("probe it", "--json"))
    assert answer["agent"] == "second"
    assert answer["passed_over"] == {
        "tester": "held: held since 2026-01-05T12:00:00+00:00 (crash_loop); a person must resume it"
    }


def test_a_run_that_the_journal_knows_no_end_of_makes_its_agent_busy(route: Route, state: Path, file: Path) -> None:
    begun = {"utc": UTC, "kind": "run_begun", "agent": "tester", "run": "tester-1", "cause": "operator"}
    journal(state, file, SNAPSHOT, begun, {**begun, "agent": "gone", "run": "gone-1"})
    assert told(route("probe it", "--json"))["agent"] == "second"


def test_a_factory_that_runs_and_writes_is_not_in_the_way_nor_disturbed(route: Route, state: Path, file: Path) -> None:
    journal(state, file, SNAPSHOT, HELD, end=b'{"utc":"2026')
    (state / "journal" / "00000002.jsonl").write_bytes(b'{"utc":')
    factory = StateDir.open(state, file)
    try:
        result = route("probe it", "--json")
    finally:
        factory.close()
    assert told(result)["agent"] == "second"
    assert "journal" not in result.stderr


def test_another_state_directory_can_be_named(route: Route, tmp_path: Path, file: Path) -> None:
    journal(tmp_path / "elsewhere", file, SNAPSHOT, HELD)
    assert told(route("probe it", "--json"))["agent"] == "tester"
    assert told(route("probe it", "--json", "--state-dir", str(tmp_path / "elsewhere")))["agent"] == "second"


@pytest.mark.parametrize(
    ("lines", "end", "why"),
    [
        ((SNAPSHOT,), b"oops\n" + encode(HELD), "00000001.jsonl:2: this line is no journal record"),
        (({**SNAPSHOT, "version": VERSION + 1},), b"", "a newer darkfactory wrote this journal"),
        (
            (SNAPSHOT, {"utc": UTC, "kind": "held"}),
            b"",
            "a record of the journal is not understood: KeyError('reason')",
        ),
    ],
)
def test_a_damaged_journal_is_told_of_and_the_answer_given_without_it(
    route: Route, state: Path, file: Path, lines: tuple[dict[str, object], ...], end: bytes, why: str
) -> None:
    journal(state, file, *lines, end=end)
    result = route("probe it", "--json")
    assert (result.exit_code, told(result)["agent"]) == (0, "tester")
    assert result.stderr.startswith("warning: answered without the journal, so holds and blocks are not known: ")
    assert why in result.stderr


def test_the_journal_of_another_fleet_is_not_taken_for_ones_own(route: Route, state: Path, tmp_path: Path) -> None:
    journal(state, tmp_path / "other.toml", SNAPSHOT, HELD)
    result = route("probe it", "--json")
    assert told(result)["agent"] == "tester"
    assert "belongs to" in result.stderr


def test_a_journal_that_others_could_have_written_is_not_believed(route: Route, state: Path, file: Path) -> None:
    journal(state, file, SNAPSHOT, HELD)
    state.chmod(0o777)
    result = route("probe it", "--json")
    assert told(result)["agent"] == "tester"
    assert "others may write to this directory" in result.stderr


def test_a_journal_that_cannot_be_read_is_told_of(route: Route, state: Path, file: Path) -> None:
    segment = journal(state, file, SNAPSHOT, HELD)
    segment.unlink()
    segment.mkdir()
    result = route("probe it", "--json")
    assert told(result)["agent"] == "tester"
    assert "Is a directory" in result.stderr


def test_a_tool_that_is_missing_here_is_a_warning_since_the_factory_may_have_it(route: Route) -> None:
    result = route("x", "--capability", "code review")
    assert result.exit_code == 0
    assert result.stdout.startswith("second (by capabilities)\n")
    assert result.stderr == "warning: second: its tool is missing here; a factory that misses it passes it over\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("x", "--capability", ""), "'' has neither a letter nor a digit"),
        (("x", "--capability", "--"), "'--' has neither a letter nor a digit"),
        (("x", "--bogus"), "No such option"),
        (("x", "more"), "unexpected extra argument"),
    ],
)
def test_bad_usage_exits_2(route: Route, args: tuple[str, ...], said: str) -> None:
    result = route(*args)
    assert result.exit_code == 2
    assert said in result.output


def test_a_fault_in_the_file_exits_2_with_its_line(route: Route, file: Path) -> None:
    file.write_text(FLEET.replace('fallback = "helper"', 'fallback = "helpr"'))
    result = route("x")
    assert result.exit_code == 2
    assert "fleet.toml:3: routing.fallback: the string 'helpr' is no agent's name (did you mean 'helper'?)" in (
        result.stderr
    )
