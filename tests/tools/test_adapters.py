import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model import fleet
from darkfactory.model.fleet import AgentDefinition, AgentLayer, Permissions, PromptVia, ToolConfig
from darkfactory.model.signals import Finished, Started, Stream
from darkfactory.tools import BUILTIN, tool_for
from darkfactory.tools.demo import DEMO_AGENT
from darkfactory.tools.tool import Prompt

PROMPT = Prompt(text="do the thing", path=Path("/state/runs/a/prompt.md"))


def agent(cli_tool: str, **options: object) -> AgentDefinition:
    return AgentDefinition("a", AgentLayer.GROWTH, cli_tool, "do the thing", **options)


def argv(cli_tool, *, tools=None, **options):
    definition = agent(cli_tool, **options)
    return tool_for(definition, tools or {}).argv(definition, PROMPT)


def signals(cli_tool, line, stream=Stream.STDOUT):
    return tool_for(agent(cli_tool), {}).signals(stream, line, None)


def test_the_built_in_tools_are_those_that_the_model_names():
    assert tuple(sorted(BUILTIN)) == tuple(sorted(fleet.BUILTIN_TOOLS))


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_a_built_in_tool_is_found_by_name_and_by_path(name):
    path = f"/opt/tools/{name}"
    assert argv(path)[0] == tool_for(agent(path), {}).program == path
    assert argv(name)[0] == tool_for(agent(name), {}).program
    assert type(tool_for(agent(path), {})) is type(tool_for(agent(name), {}))


@pytest.mark.parametrize("word", ["emacs", "claude/", "/usr/bin/emacs", ""])
def test_an_unknown_tool_is_a_key_error(word):
    with pytest.raises(KeyError):
        tool_for(agent(word), {})


def test_a_declared_tool_goes_over_a_built_in_one_of_the_same_name():
    assert argv("claude", tools={"claude": ToolConfig(argv=("wrapped-claude",))}) == ("wrapped-claude",)


@pytest.mark.parametrize(
    ("via", "last"),
    [
        (PromptVia.STDIN, ()),
        (PromptVia.ARG, ("do the thing",)),
        (PromptVia.FILE, ("/state/runs/a/prompt.md",)),
    ],
)
def test_a_declared_tool_is_given_its_task_as_declared(via, last):
    tools = {"mine": ToolConfig(argv=("prog", "-x"), prompt=via)}
    tool = tool_for(agent("mine"), tools)
    assert tool.prompt is via
    assert tool.program == "prog"
    assert argv("mine", tools=tools, args=("-y",)) == ("prog", "-x", "-y", *last)


def test_bash_reads_its_script_from_the_file_and_passes_the_args_to_it():
    assert argv("bash", args=("one", "two")) == ("bash", "/state/runs/a/prompt.md", "one", "two")
    assert tool_for(agent("bash"), {}).prompt is PromptVia.FILE


def test_the_demo_agent_is_run_by_our_own_python_isolated():
    assert argv("demo", args=("--steps", "1")) == (sys.executable, "-I", str(DEMO_AGENT), "--steps", "1")


@pytest.mark.parametrize("name", ["claude", "codex"])
def test_the_args_of_the_agent_come_last_and_the_model_is_passed_on(name):
    words = argv(name, model="big", args=("--extra",))
    assert words[-1] == "--extra"
    assert words[words.index("--model") + 1] == "big"
    assert "--model" not in argv(name)
    assert tool_for(agent(name), {}).prompt is PromptVia.STDIN
    assert PROMPT.text not in words


OPTIONS = {
    "max_cost_usd": 0.5,
    "max_turns": 9,
    "model": "big",
    "permissions": Permissions.READ_ONLY,
    "resume": "0f014aff",
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_a_tool_is_given_the_options_that_it_is_said_to_have_and_no_other(name, option):
    changed = argv(name, **{option: OPTIONS[option]}) != argv(name)
    assert changed == (option in fleet.TOOL_OPTIONS[name])


def test_claude_is_told_its_limits_and_its_session_in_its_own_words():
    words = " ".join(argv("claude", max_turns=9, max_cost_usd=0.5, resume="0f014aff"))
    assert words.endswith(" --max-turns 9 --max-budget-usd 0.5 --resume 0f014aff")


def test_codex_goes_on_with_a_session_by_a_command_of_its_own():
    assert argv("codex", resume="0f014aff")[:4] == ("codex", "exec", "resume", "0f014aff")


def test_claude_may_run_commands_unless_it_is_told_otherwise():
    assert argv("claude") == argv("claude", permissions=Permissions.FULL_ACCESS)
    allowed = {}
    for permissions in Permissions:
        words = argv("claude", permissions=permissions)
        # The list takes any number of words: what follows it must be an option.
        at = words.index("--allowedTools") if "--allowedTools" in words else None
        assert at is None or words[at + 2].startswith("--")
        allowed[permissions.value] = (words[words.index("--permission-mode") + 1], words[at + 1] if at else "")
        assert "--dangerously-skip-permissions" not in words
    assert allowed == {
        "read-only": ("dontAsk", "Read"),
        "workspace-write": ("acceptEdits", ""),
        "full-access": ("dontAsk", "Bash,Edit,NotebookEdit,Read,WebFetch,WebSearch,Write"),
    }


def test_codex_writes_in_its_sandbox_unless_it_is_told_otherwise():
    assert argv("codex") == argv("codex", permissions=Permissions.WORKSPACE_WRITE)
    sandboxes = {
        permissions.value: [word for word in argv("codex", permissions=permissions) if word.startswith("sandbox_mode=")]
        for permissions in Permissions
    }
    assert sandboxes == {
        "read-only": ["sandbox_mode=read-only"],
        "workspace-write": ["sandbox_mode=workspace-write"],
        "full-access": ["sandbox_mode=danger-full-access"],
    }


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("claude", b'{"type":"system","subtype":"init","session_id":"s1"}', (Started("s1"),)),
        ("claude", b'{"type":"system","subtype":"init","session_id":7}', (Started(),)),
        (
            "claude",
            b'{"subtype":"success","is_error":false,"result":"hi\\nthere","type":"result"}',
            (Finished(ok=True, detail="hi there"),),
        ),
        (
            "claude",
            b'{"subtype":"success","is_error":true,"result":"bad key","type":"result"}',
            (Finished(ok=False, detail="bad key"),),
        ),
        (
            "claude",
            b'{"type":"result","subtype":"error_max_turns","is_error":false}',
            (Finished(ok=False, detail="error_max_turns"),),
        ),
        ("claude", b'{"type":"result","subtype":"success"}', (Finished(ok=False, detail="success"),)),
        ("claude", b'{"type":"result","errors":["gone"]}', (Finished(ok=False, detail="gone"),)),
        ("claude", b'{"type":"user","subtype":"init","text":"result"}', ()),
        ("codex", b'{"type":"thread.started","thread_id":"t1"}', (Started("t1"),)),
        ("codex", b'{"type":"thread.started"}', (Started(),)),
        ("codex", b'{"type":"turn.started"}', ()),
        ("codex", b'{"type":"turn.completed","usage":{}}', (Finished(ok=True),)),
        (
            "codex",
            b'{"type":"turn.failed","error":{"message":"no credit"}}',
            (Finished(ok=False, detail="no credit"),),
        ),
        ("codex", b'{"type":"turn.failed","error":"odd"}', (Finished(ok=False),)),
        ("codex", b'{"type":"error","message":"Reconnecting... 1/5 (turn.failed)"}', ()),
        ("demo", b'{"type":"started","session":"d"}', (Started("d"),)),
        ("demo", b'{"type":"result","ok":true,"text":"done"}', (Finished(ok=True, detail="done"),)),
        ("demo", b'{"type":"result","ok":1}', (Finished(ok=False),)),
        ("demo", b'{"type":"say","text":"\\"result\\""}', ()),
        ("bash", b'{"type":"result","ok":true}', ()),
    ],
)
def test_what_a_line_says(name, line, said):
    assert signals(name, line) == said
    assert signals(name, line, Stream.STDERR) == ()


@pytest.mark.parametrize("name", sorted(BUILTIN))
@given(
    line=st.binary()
    | st.tuples(
        st.sampled_from([b"", b"[", b'["x",', b'"', b'{"type":']),
        st.sampled_from([b'"result"', b'"init"', b'"started"', b'"turn.completed"', b'"thread.started"']),
        st.binary(),
    ).map(b"".join)
)
def test_no_line_raises_and_what_is_no_event_says_nothing(name, line):
    assert signals(name, line) == ()
    assert signals(name, b"[" * 10_000 + line) == ()
