"""The tables of words in the documentation are those of the code: none is missing, none is stale."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

import darkfactory
from darkfactory.model.ends import CLASSES, ErrorClass, Reason, Verdict
from darkfactory.model.fleet import AgentDefinition, AgentLayer
from darkfactory.model.review import FAILED_NIGHTS, REVIEWED, ReviewOutcome
from darkfactory.model.signals import Totals
from darkfactory.model.state import Phase
from darkfactory.policy.restart import AFTER
from darkfactory.policy.routing import KEYWORDS, READ_CHARS
from darkfactory.tools import BUILTIN, demo_agent
from darkfactory.tools.login import LOGINS
from darkfactory.tools.tool import Prompt

SOURCE = Path(darkfactory.__file__).parent

Tables = Callable[[str], dict[str, list[list[str]]]]


def code(*rooms: str) -> str:
    """The source of these rooms."""
    return "\n".join(path.read_text(encoding="utf-8") for room in rooms for path in (SOURCE / room).rglob("*.py"))


def words(rows: list[list[str]]) -> Iterator[str]:
    """The words of a table's first column."""
    for row in rows:
        yield from re.findall(r"`([\w-]+)`", row[0])


def test_the_table_of_ends_is_the_one_that_is_obeyed(tables: Tables):
    rows = tables("concepts")["What the end of a run means"]
    documented = {row[0].strip("`"): row[1:] for row in rows}
    obeyed = {
        reason.value: [
            "yes" if after.counts else "no",
            after.safety.value,
            after.others.value,
            {True: "good", False: "bad", None: "no"}[after.healthy],
        ]
        for reason, after in AFTER.items()
    }
    assert documented == obeyed
    assert set(AFTER) == set(Reason)


def test_the_table_of_classes_is_the_one_that_is_judged_by(tables: Tables):
    rows = tables("concepts")["What went wrong"]
    documented = {row[0].strip("`"): [row[1].strip("`"), *row[2:4]] for row in rows}
    judged_by = {
        error.value: [meaning.reason.value, "yes" if meaning.retryable else "no", meaning.blame.value]
        for error, meaning in CLASSES.items()
    }
    assert documented == judged_by
    assert set(CLASSES) == set(ErrorClass)
    assert all(row[4] for row in rows)


def test_what_a_verdict_and_an_output_told_is_explained(page: Callable[[str], str]):
    (row,) = [line for line in page("operations").splitlines() if line.startswith("| `run_ended` |")]
    told = {field.name for field in attrs.fields(Totals)} | {field.name for field in attrs.fields(Verdict)}
    assert {name for name in told if f"`{name}`" not in row} == set()


def test_every_reason_of_the_gate_is_explained(tables: Tables):
    policy = code("policy")
    waits = {*re.findall(r'\bQueue\(\s*"(\w+)"', policy), *re.findall(r'delayed_by\b.*"(\w+)"', policy)}
    refusals = {*re.findall(r'\bRefuse\(\s*"(\w+)"', policy)}
    rows = tables("concepts")["Why a run does not start"]
    documented = {word: row[1] for row in rows for word in words([row])}
    assert documented == dict.fromkeys(waits, "waits") | dict.fromkeys(refusals, "refused")


def test_every_kind_of_record_is_explained(tables: Tables):
    kinds = set(re.findall(r'(?:\.record|\bRecord)\(\s*"(\w+)"', code("policy", "runtime")))
    assert set(words(tables("operations")["The journal's records"])) == kinds


def test_every_event_of_the_log_alone_is_explained(tables: Tables):
    events = set(re.findall(r'_log\.\w+\(\s*"(\w+)"', code(".")))
    assert set(words(tables("operations")["Logs"])) == events


def test_every_condition_of_a_status_is_explained(tables: Tables):
    conditions = set(re.findall(r'return "(\w+)",', (SOURCE / "runtime" / "status.py").read_text(encoding="utf-8")))
    phases = {phase.value for phase in Phase}
    assert set(words(tables("library")["Statuses"])) == conditions | phases


def test_every_outcome_of_a_review_is_explained_with_what_follows_from_it(tables: Tables):
    documented = {row[0].strip("`"): row[1:3] for row in tables("review")["Outcomes"]}
    assert documented == {
        outcome.value: [
            "yes" if outcome in FAILED_NIGHTS else "no",
            "goes on" if outcome in REVIEWED else "looks again",
        ]
        for outcome in ReviewOutcome
    }
    assert all(row[3] for row in tables("review")["Outcomes"])


def test_every_notice_of_a_review_is_explained(tables: Tables):
    notices = set(re.findall(r'\bNotice\(\s*"(\w+)"', code("devices", "policy", "runtime")))
    assert notices
    assert set(words(tables("review")["Notices"])) == notices


def test_the_page_of_the_review_has_its_records_too(tables: Tables):
    kinds = set(re.findall(r'\.record\(\s*"(review_\w+)"', code("policy")))
    assert set(words(row for row in tables("review")["Where it is written"] if "review_" in row[0])) == kinds


def test_every_behaviour_of_the_demo_agent_is_explained(tables: Tables):
    assert sorted(words(tables("tools")["demo"])) == sorted(demo_agent.BEHAVIOURS)


@pytest.mark.parametrize("name", BUILTIN)
def test_the_command_line_and_the_environment_of_a_tool_are_as_shown(name: str, page: Callable[[str], str]):
    tool = BUILTIN[name](name)
    agent = AgentDefinition("a", AgentLayer.SAFETY, name, "t", model="MODEL", args=("ARGS",))
    argv = shlex.join(tool.argv(agent, Prompt("t", Path("STATE/runs/RUN/prompt.md"))))
    if name == "demo":
        argv = argv.replace(tool.program, "PYTHON").replace(str(Path(demo_agent.__file__)), "DEMO_AGENT")
    (section,) = re.findall(rf"^## {name}$(.*?)(?=^## )", page("tools"), re.MULTILINE | re.DOTALL)
    assert f"\n    {argv}\n" in section
    for variable in tool.env_pass:
        assert f"`{variable}`" in section
    for variable, value in tool.env.items():
        assert f"`{variable}={value}`" in section


def test_the_table_of_logins_is_the_one_that_is_looked_by(tables: Tables):
    documented = {
        row[0].strip("`"): [set(re.findall(r"`([^`]+)`", cell)) for cell in row[1:]]
        for row in tables("tools")["Logins"]
    }
    looked_by = {
        name: [
            set(login.env),
            {kept.shown({}) for kept in login.files},
            {*login.chosen_by, *(kept.shown({}) for kept in login.settings), *login.args},
        ]
        for name, login in LOGINS.items()
    }
    assert documented == looked_by


def test_the_directories_that_logins_are_moved_by_are_named(page: Callable[[str], str]):
    moved_by = {kept.moved_by for login in LOGINS.values() for kept in (*login.files, *login.settings)} - {""}
    assert {name for name in moved_by if f"`{name}`" not in page("tools")} == set()


def test_the_table_of_keywords_is_the_one_that_is_read_by(tables: Tables, page: Callable[[str], str]):
    documented = {row[0].strip("`"): tuple(row[1].split(", ")) for row in tables("routing")["Keywords"]}
    assert documented == KEYWORDS
    assert f"{READ_CHARS:,} characters" in page("routing")
