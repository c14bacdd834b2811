"""`darkfactory check --tools`: what an agent would miss on this machine is told; what is not known is not refused."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from attrs import define, field

from darkfactory.cli import surroundings
from darkfactory.model.fleet import AgentDefinition, AgentLayer
from darkfactory.tools.login import LOGINS

pytestmark = pytest.mark.real

ANSWERS = """#!/bin/bash
[ "$*" = "auth status --json" ] || exit 9
echo asked >> "{log}"
{script}
"""
NO = """echo '{"loggedIn": false}'; exit 1"""


@define
class Desk:
    """One agent's fleet, a HOME, and programs that only look like the real ones."""

    root: Path
    env: dict[str, str] = field(factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def install(self, name: str, script: str = "exit 9") -> None:
        program = self.root / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(ANSWERS.format(log=self.log, script=script))
        program.chmod(0o755)

    def keep(self, path: str, text: str = '{"key": "do-not-show"}') -> Path:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def check(self, cli_tool: str, *more: str, word: str = "--tools") -> tuple[int, str, list[str]]:
        """The exit code, what stands in the columns `program` and `login`, and what is told besides."""
        file = self.root / "fleet.toml"
        agent = ["[[agents]]", 'name = "a"', 'layer = "Growth"', f'cli_tool = "{cli_tool}"', 'task = "t"', *more]
        file.write_text("\n".join(agent))
        done = subprocess.run(
            [sys.executable, "-m", "darkfactory", "check", str(file), *filter(None, [word])],
            env={
                "PATH": f"{self.root / 'bin'}:/usr/bin:/bin",
                "HOME": str(self.home),
                "TMPDIR": str(self.root / "tmp"),
                "DARKFACTORY_RUN": os.environ["DARKFACTORY_RUN"],
                **self.env,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "do-not-show" not in done.stdout + done.stderr
        assert list((self.root / "tmp").iterdir()) == []
        row = done.stdout.splitlines()[1].split("  ")
        cells = [cell.strip() for cell in row if cell.strip()]
        return done.returncode, cells[4] if word else "", done.stderr.splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    desk = Desk(tmp_path)
    desk.install("codex")
    desk.install("claude", NO)
    return desk


NO_CODEX = "a: no login found: looked for CODEX_API_KEY, OPENAI_API_KEY, ~/.codex/auth.json; "


def test_without_a_login_it_says_what_it_looked_for_and_exits_4(desk):
    remedy = "run `codex login`, or pass CODEX_API_KEY on"
    assert desk.check("codex") == (4, "NONE", [NO_CODEX + remedy])


def test_only_with_tools_are_logins_looked_for(desk):
    assert desk.check("claude", word="") == (0, "", [])
    assert not desk.log.exists()


def test_a_key_in_the_environment_is_a_login(desk):
    desk.env["OPENAI_API_KEY"] = "do-not-show"
    assert desk.check("codex") == (0, "OPENAI_API_KEY", [])


def test_a_key_that_is_set_to_nothing_is_none(desk):
    desk.env["OPENAI_API_KEY"] = ""
    assert desk.check("codex")[:2] == (4, "NONE")


def test_a_key_in_the_agents_own_env_is_a_login(desk):
    assert desk.check("codex", 'env = { CODEX_API_KEY = "do-not-show" }') == (0, "CODEX_API_KEY", [])


def test_a_key_that_does_not_reach_the_agent_is_none_and_that_is_said(desk):
    desk.env["CLAUDE_CODE_USE_BEDROCK"] = "1"
    code, shown, (told,) = desk.check("claude")
    assert (code, shown) == (4, "NONE")
    assert told.endswith("CLAUDE_CODE_USE_BEDROCK is set here and does not reach it: name it in its env_pass")


def test_a_file_that_the_tool_keeps_is_a_login(desk):
    desk.keep(".codex/auth.json")
    assert desk.check("codex") == (0, "~/.codex/auth.json", [])


def test_a_file_elsewhere_is_looked_for_there_and_there_alone(desk):
    desk.keep(".codex/auth.json")
    desk.env["CODEX_HOME"] = str(desk.root / "elsewhere")
    code, _, (told,) = desk.check("codex")
    assert code == 4
    assert "$CODEX_HOME/auth.json; " in told
    desk.keep("../elsewhere/auth.json")
    assert desk.check("codex") == (0, "$CODEX_HOME/auth.json", [])


@pytest.mark.parametrize("text", ["", "{}\n"])
def test_an_empty_file_is_no_login(desk, text):
    desk.keep(".codex/auth.json", text)
    code, _, (told,) = desk.check("codex")
    assert code == 4
    assert "~/.codex/auth.json (it is empty); " in told


def test_what_is_no_file_is_no_login(desk):
    (desk.home / ".codex" / "auth.json").mkdir(parents=True)
    code, _, (told,) = desk.check("codex")
    assert code == 4
    assert "~/.codex/auth.json (it cannot be read); " in told


def test_a_configuration_that_may_name_a_login_is_not_refused(desk):
    desk.keep(".codex/config.toml")
    warning = "warning: a: whether it is logged in is not known: ~/.codex/config.toml may name one"
    assert desk.check("codex") == (0, "not known", [warning])


def test_args_that_may_bring_a_login_are_not_refused(desk):
    code, shown, (told,) = desk.check("codex", """args = ["-c", 'model_provider="mine"']""")
    assert (code, shown) == (0, "not known")
    assert told.endswith("is not known: its args may bring one (model_provider)")


def test_a_tool_that_can_tell_is_believed_when_it_says_yes(desk):
    desk.install("claude", "exit 0")
    assert desk.check("claude") == (0, "it says so (auth status)", [])


def test_a_tool_that_can_tell_is_believed_when_it_says_no_whatever_files_there_are(desk):
    desk.keep(".claude/.credentials.json")
    code, shown, (told,) = desk.check("claude")
    assert (code, shown) == (4, "NONE")
    assert told == (
        "a: no login found: looked for ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, CLAUDE_CODE_OAUTH_TOKEN, "
        "its own word for it; run `claude` once and log in, or pass ANTHROPIC_API_KEY on"
    )


def test_a_tool_that_does_not_know_the_question_is_looked_at_from_outside(desk):
    desk.install("claude", "echo unknown option >&2; exit 1")
    code, shown, (told,) = desk.check("claude")
    assert (code, shown) == (0, "not known")
    assert told.endswith("is not known: it could not be asked (auth status)")
    desk.keep(".claude/.credentials.json")
    assert desk.check("claude") == (0, "~/.claude/.credentials.json", [])


def test_what_a_tool_leaves_behind_when_it_is_asked_is_ended(desk):
    desk.install("claude", "setsid sleep 1000 & sleep 1000 & exit 0")  # processes that are left fail every test
    assert desk.check("claude")[0] == 0


@pytest.mark.parametrize("script", ["sleep 1000", "trap '' TERM; while :; do sleep 1000; done", "kill -STOP $$"])
async def test_a_tool_that_does_not_answer_is_ended_and_nothing_is_known(desk, monkeypatch, script):
    monkeypatch.setattr(surroundings, "ASK_SECS", 0.2)
    desk.install("claude", script)
    agent = AgentDefinition("a", AgentLayer.GROWTH, "claude", "t")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(desk.home)}
    logins = surroundings.Logins(dict(os.environ), desk.root)
    with trio.fail_after(30):
        answer = await logins.look(agent, LOGINS["claude"], str(desk.root / "bin" / "claude"), env)
    assert answer == surroundings.Answer(None, "it could not be asked (auth status)")


def test_a_tool_is_asked_once_for_all_agents_with_the_same_environment(desk):
    other = ["[[agents]]", 'name = "b"', 'layer = "Growth"', 'cli_tool = "claude"', 'task = "t"']
    assert desk.check("claude", *other)[0] == 4
    assert desk.log.read_text() == "asked\n"


def test_a_key_is_enough_and_nobody_is_asked(desk):
    desk.env["ANTHROPIC_API_KEY"] = "do-not-show"
    assert desk.check("claude") == (0, "ANTHROPIC_API_KEY", [])
    assert not desk.log.exists()


def test_a_disabled_agent_needs_nothing(desk):
    assert desk.check("codex", "enabled = false") == (0, "-", [])
    assert desk.check("/no/such/codex", "enabled = false")[::2] == (0, [])


@pytest.mark.parametrize("tool", ["bash", "demo"])
def test_tools_without_a_login_need_none(desk, tool):
    assert desk.check(tool) == (0, "-", [])


def test_a_tool_of_the_operators_own_has_no_login_that_is_known(desk):
    assert desk.check("mine", "[tools.mine]", 'argv = ["codex"]') == (0, "-", [])


def test_a_home_that_is_not_there_is_told_and_not_made(desk):
    desk.env["HOME"] = str(desk.root / "nowhere")
    code, shown, (doubt, told) = desk.check("claude")
    assert (code, shown) == (4, "not known")
    assert doubt.endswith("it could not be asked (auth status)")
    remedy = "correct it where the factory is started, or set another in its env"
    assert told == f"a: wrong HOME ({desk.root}/nowhere): it does not exist; {remedy}"
    assert not (desk.root / "nowhere").exists()
    assert not desk.log.exists()


def test_the_value_of_a_home_that_the_agents_env_sets_is_not_shown(desk):
    file = desk.keep("do-not-show")
    code, _, told = desk.check("codex", f'env = {{ HOME = "{file}", CODEX_API_KEY = "x" }}')
    assert (code, told) == (4, ["a: wrong HOME: it is no directory; correct it in its env"])


def test_a_relative_home_is_wrong(desk):
    desk.env |= {"HOME": "home", "CODEX_API_KEY": "x"}
    assert desk.check("codex")[2][0].startswith("a: wrong HOME (home): it is no absolute path; ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_home_of_another_user_is_wrong(desk):
    os.chown(desk.home, 65534, 65534)
    desk.env["CODEX_API_KEY"] = "x"
    code, _, (told,) = desk.check("codex")
    assert code == 4
    assert told.startswith(f"a: wrong HOME ({desk.home}): it belongs to another user (nobody); ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written_is_wrong(desk):
    desk.home.chmod(stat.S_IRUSR | stat.S_IXUSR)
    desk.env["CODEX_API_KEY"] = "x"
    try:
        code, _, (told,) = desk.check("codex")
    finally:
        desk.home.chmod(stat.S_IRWXU)
    assert code == 4
    assert told.startswith(f"a: wrong HOME ({desk.home}): it cannot be written; ")


def test_a_wrong_home_of_a_program_that_may_not_need_one_is_a_warning(desk):
    desk.env["HOME"] = "/no/such"
    code, _, (told,) = desk.check("bash")
    assert code == 0
    assert told.startswith("warning: a: wrong HOME (/no/such): it does not exist; ")
    assert told.endswith(", if its programs keep files there")


def test_a_missing_tool_and_a_missing_login_are_both_told(desk):
    code, _, told = desk.check("/no/such/codex")
    assert code == 4
    missing = "a: its tool is missing; the fleet runs without this agent until it is installed"
    assert told == [missing, NO_CODEX + "run `codex login`, or pass CODEX_API_KEY on"]


def test_what_an_agent_falls_back_on_is_looked_for_as_well(desk):
    desk.env["OPENAI_API_KEY"] = "do-not-show"
    code, login, (told,) = desk.check("codex", 'fallback = { cli_tool = "claude" }')
    assert (code, login) == (4, "OPENAI_API_KEY")
    assert told.startswith("a (fallback): no login found: ")


def test_a_fallback_that_is_missing_is_told(desk):
    desk.env["OPENAI_API_KEY"] = "do-not-show"
    missing = "a (fallback): its tool is missing; it does not fall back until it is installed"
    assert desk.check("codex", 'fallback = { cli_tool = "/opt/no/claude" }', word="") == (0, "", [missing])
