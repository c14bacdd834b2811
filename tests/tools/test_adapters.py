import json
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkfactory.model import fleet
from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, AgentLayer, JsonlMap, Permissions, PromptVia, ToolConfig
from darkfactory.model.signals import (
    ApiCall,
    BackgroundTask,
    Basis,
    Denied,
    Error,
    Finished,
    Retry,
    Said,
    Started,
    Stream,
    Throttled,
    ToolCall,
    Unknown,
    Usage,
    Warning,  # noqa: A004
)
from darkfactory.tools import BUILTIN, tool_for
from darkfactory.tools.claude import Claude
from darkfactory.tools.command import Command
from darkfactory.tools.demo import DEMO_AGENT
from darkfactory.tools.environment import environment
from darkfactory.tools.errors import class_of
from darkfactory.tools.lines import LineSplitter
from darkfactory.tools.reader import Reader
from darkfactory.tools.tally import Tally
from darkfactory.tools.tool import Prompt

PROMPT = Prompt(text="do the thing", path=Path("/state/runs/a/prompt.md"))


def agent(cli_tool: str, **options: object) -> AgentDefinition:
    return AgentDefinition("a", AgentLayer.GROWTH, cli_tool, "do the thing", **options)


def argv(cli_tool, *, tools=None, **options):
    definition = agent(cli_tool, **options)
    return tool_for(definition, tools or {}).argv(definition, PROMPT)


def signals(cli_tool, line, stream=Stream.STDOUT):
    tool = tool_for(agent(cli_tool), {})
    return tool.signals(stream, line, tool.memory())


def test_the_built_in_tools_are_those_that_the_model_names():
    assert tuple(sorted(BUILTIN)) == tuple(sorted(fleet.BUILTIN_TOOLS))
    assert {name for name in BUILTIN if not BUILTIN[name](name).reports} == fleet.SILENT


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
    def told(**options):
        definition = agent(name, **options)
        return argv(name, **options), environment(definition, tool_for(definition, {}), {})

    changed = told(**{option: OPTIONS[option]}) != told()
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


def line(**event) -> bytes:
    return json.dumps(event).encode()


def content(kind, *blocks, **more) -> bytes:
    return line(type=kind, message={"id": "m1", "content": list(blocks)}, **more)


def system(subtype, **more) -> bytes:
    return line(type="system", subtype=subtype, **more)


def item(event, **more) -> bytes:
    return line(type=f"item.{event}", item=more)


NO_USAGE = Usage()
RESET = datetime(2026, 11, 23, 8, 16, 32, tzinfo=UTC)

CLAUDE = {
    "a start": (system("init", session_id="s1"), (Started("s1"), ApiCall(0))),
    "a start without an id": (system("init", session_id=7), (Started(), ApiCall(0))),
    "a server that is down": (
        system(
            "init",
            session_id="s1",
            mcp_servers=[{"name": "ok", "status": "connected"}, {"name": "db", "status": "failed"}],
        ),
        (Started("s1"), ApiCall(0), Warning("MCP server db failed")),
    ),
    "an answer": (content("assistant", {"type": "text", "text": "hi"}), (ApiCall(), Said("hi"))),
    "a thought": (content("assistant", {"type": "thinking", "thinking": "hm"}), (ApiCall(),)),
    "a call begins": (
        content("assistant", {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}),
        (ApiCall(), ToolCall("Bash", None, "t1")),
    ),
    "what a helper agent says is not the assistant's": (
        content("assistant", {"type": "text", "text": "hi"}, parent_tool_use_id="t1"),
        (ApiCall(),),
    ),
    "a call ends": (
        content("user", {"type": "tool_result", "tool_use_id": "t1", "is_error": False}),
        (ToolCall("", True, "t1"),),
    ),
    "a call fails": (
        content("user", {"type": "tool_result", "tool_use_id": "t1", "is_error": True}),
        (ToolCall("", False, "t1"),),
    ),
    "a call ends, and no word of errors": (
        content("user", {"type": "tool_result", "tool_use_id": "t1"}),
        (ToolCall("", True, "t1"),),
    ),
    "words in the user's name": (content("user", {"type": "text", "text": "error"}, isSynthetic=True), ()),
    "the user's prompt, as text": (line(type="user", message={"content": "result"}), ()),
    "a retry": (
        system("api_retry", attempt=3, retry_delay_ms=2500, error_status=529, error="overloaded"),
        (Retry("overloaded (529)", 3, 2.5, ErrorClass.PROVIDER_DOWN),),
    ),
    "a retry without an answer": (
        system("api_retry", attempt=1, retry_delay_ms=500, error_status=None, error="unknown"),
        (Retry("unknown", 1, 0.5, ErrorClass.NETWORK),),
    ),
    "an error in the place of an answer": (
        line(
            type="assistant",
            message={"id": "x", "model": "<synthetic>", "content": [{"type": "text", "text": "no"}]},
            error="rate_limit",
        ),
        (Error("no", ErrorClass.THROTTLED),),
    ),
    "a limit that is near": (
        line(type="rate_limit_event", rate_limit_info={"status": "allowed_warning", "resetsAt": 1}),
        (),
    ),
    "a limit": (
        line(
            type="rate_limit_event",
            rate_limit_info={"status": "rejected", "resetsAt": 1795421792, "rateLimitType": "five_hour"},
        ),
        (Throttled(RESET, "five_hour"),),
    ),
    "not allowed": (system("permission_denied", tool_name="Bash", tool_use_id="t1"), (Denied("Bash"),)),
    "another model": (system("model_fallback", message="took another"), (Warning("took another"),)),
    "a refusal": (system("model_refusal_no_fallback"), (Error("the model refused", ErrorClass.REFUSED),)),
    "background tasks": (
        system("background_tasks_changed", tasks=[{"task_id": "b"}, {"task_id": "a"}]),
        (BackgroundTask(True, "a"), BackgroundTask(True, "b")),
    ),
    "a task in the background": (
        system("task_started", task_id="a", is_backgrounded=True),
        (BackgroundTask(True, "a"),),
    ),
    "a task in the foreground": (system("task_started", task_id="a", is_backgrounded=False), ()),
    "success": (
        line(subtype="success", is_error=False, result="hi\nthere", type="result"),
        (NO_USAGE, Finished(True, "hi there", answer="hi\nthere")),
    ),
    "an API error is a success with an error": (
        line(subtype="success", is_error=True, result="bad key", api_error_status=401, type="result"),
        (NO_USAGE, Finished(False, "bad key", ErrorClass.AUTH)),
    ),
    "too many turns": (
        line(type="result", subtype="error_max_turns", is_error=True),
        (NO_USAGE, Finished(False, "error_max_turns", ErrorClass.MAX_TURNS)),
    ),
    "too much money": (
        line(type="result", subtype="error_max_budget_usd", is_error=True, terminal_reason="budget_exhausted"),
        (NO_USAGE, Finished(False, "error_max_budget_usd", ErrorClass.BUDGET)),
    ),
    "no credit": (
        line(
            type="result",
            subtype="success",
            is_error=True,
            api_error_status=400,
            result="Your credit balance is too low",
        ),
        (
            NO_USAGE,
            Finished(False, "Your credit balance is too low", ErrorClass.BILLING),
        ),
    ),
    "a refusal in the end": (
        line(type="result", subtype="success", is_error=True, stop_reason="refusal", result="no"),
        (NO_USAGE, Finished(False, "no", ErrorClass.REFUSED)),
    ),
    "success that is not said": (
        line(type="result", subtype="success"),
        (NO_USAGE, Finished(False, "success", ErrorClass.TRUNCATED)),
    ),
    "denials in the end": (
        line(
            type="result",
            subtype="success",
            is_error=False,
            permission_denials=[{"tool_name": "Bash", "tool_use_id": "t"}],
        ),
        (NO_USAGE, Denied("Bash"), Finished(True, "success")),
    ),
    "an older version's cost": (
        line(
            type="result",
            subtype="success",
            is_error=False,
            total_cost_usd=0.5,
            usage={"input_tokens": 7, "output_tokens": 2},
        ),
        (Usage(7, 2, 0.5), Finished(True, "success")),
    ),
    "a status": (system("status"), ()),
    "an event that is not known": (line(type="surprise"), (Unknown(),)),
    "a system event that is not known": (system("surprise"), (Unknown(),)),
    "a type that is no word": (line(type=["assistant"]), (Unknown(),)),
}
ESTIMATED = ApiCall(exact=False)
CODEX = {
    "a start": (line(type="thread.started", thread_id="t1"), (Started("t1"), ApiCall(0, exact=False))),
    "a start without an id": (line(type="thread.started"), (Started(), ApiCall(0, exact=False))),
    "a turn": (line(type="turn.started"), ()),
    "an answer": (item("completed", id="i", type="agent_message", text="hi"), (Said("hi"),)),
    "a command begins": (
        item("started", id="i", type="command_execution", status="in_progress", exit_code=None),
        (ToolCall("command_execution", None, "i"),),
    ),
    "a command ends": (
        item("completed", id="i", type="command_execution", status="completed", exit_code=0),
        (
            ESTIMATED,
            ToolCall("command_execution", True, "i"),
        ),
    ),
    "a command fails": (
        item("completed", id="i", type="command_execution", status="failed", exit_code=3),
        (
            ESTIMATED,
            ToolCall("command_execution", False, "i"),
        ),
    ),
    "a command ends with a code alone": (
        item("completed", id="i", type="command_execution", status="completed", exit_code=3),
        (
            ESTIMATED,
            ToolCall("command_execution", False, "i"),
        ),
    ),
    "a command that was declined": (
        item("completed", id="i", type="command_execution", status="declined"),
        (ESTIMATED, ToolCall("command_execution", False, "i"), Denied("command_execution")),
    ),
    "a server's tool": (
        item("completed", id="i", type="mcp_tool_call", tool="search", status="completed"),
        (
            ESTIMATED,
            ToolCall("search", True, "i"),
        ),
    ),
    "a file": (
        item("completed", id="i", type="file_change", status="completed"),
        (
            ESTIMATED,
            ToolCall("file_change", True, "i"),
        ),
    ),
    "a thought": (item("completed", id="i", type="reasoning", text="hm"), ()),
    "a list": (item("updated", id="i", type="todo_list"), ()),
    "a warning": (item("completed", id="i", type="error", message="odd"), (Warning("odd"),)),
    "an item that is not known": (item("completed", id="i", type="surprise"), (Unknown(),)),
    "a retry": (
        line(type="error", message="Reconnecting... 2/5 (unexpected status 429 Too Many Requests)"),
        (Retry("(unexpected status 429 Too Many Requests)", 2, None, ErrorClass.THROTTLED),),
    ),
    "a retry for ever": (
        line(type="error", message="Reconnecting... waiting for network (Connection failed)"),
        (Retry("waiting for network (Connection failed)", None, None, ErrorClass.NETWORK),),
    ),
    "an error": (line(type="error", message="Quota exceeded."), (Error("Quota exceeded.", ErrorClass.BILLING),)),
    "success": (
        line(type="turn.completed", usage={"input_tokens": 3, "output_tokens": 1}),
        (ESTIMATED, Usage(3, 1, basis=Basis.SESSION), Finished(True)),
    ),
    "failure": (
        line(type="turn.failed", error={"message": "You've hit your usage limit."}),
        (Finished(False, "You've hit your usage limit.", ErrorClass.QUOTA),),
    ),
    "a failure in the provider's JSON": (
        line(type="turn.failed", error={"message": '{"error": {"message": "Bad.", "type": "invalid_request_error"}}'}),
        (Finished(False, "Bad. (invalid_request_error)", ErrorClass.INVALID_REQUEST),),
    ),
    "a model that is busy": (
        line(type="turn.failed", error={"message": "Selected model is at capacity. Please try a different model."}),
        (
            Finished(
                False,
                "Selected model is at capacity. Please try a different model.",
                error=ErrorClass.PROVIDER_DOWN,
            ),
        ),
    ),
    "a failure without a word": (line(type="turn.failed", error="odd"), (Finished(False),)),
    "a budget of its own": (
        line(type="turn.failed", error={"message": "budget reached"}),
        (Finished(False, "budget reached", ErrorClass.BUDGET),),
    ),
    "an event that is not known": (line(type="surprise"), (Unknown(),)),
    "a type that is no word": (line(type={}), (Unknown(),)),
}
DEMO = {
    "a start": (line(type="started", session="d"), (Started("d"),)),
    "words": (line(type="say", text='"result"'), (Said('"result"'),)),
    "an answer": (line(type="api", input_tokens=5, output_tokens=1), (ApiCall(), Usage(5, 1))),
    "a command": (line(type="tool", name="shell", exit_code=0), (ToolCall("shell", True),)),
    "a command that fails": (line(type="tool", name="shell", exit_code=1), (ToolCall("shell", False),)),
    "success": (line(type="result", ok=True, text="done"), (Finished(True, "done", answer="done"),)),
    "success that is not said": (line(type="result", ok=1), (Finished(False),)),
    "a failure": (
        line(type="result", ok=False, text="no", error="quota", resets_at=1795421792, retryable=False),
        (Finished(False, "no", ErrorClass.QUOTA, False, RESET),),
    ),
    "an event that is not known": (line(type="surprise"), (Unknown(),)),
}
LINES = [
    pytest.param(name, *row, id=f"{name}: {what}")
    for name, rows in (("claude", CLAUDE), ("codex", CODEX), ("demo", DEMO))
    for what, row in rows.items()
]


@pytest.mark.parametrize(("name", "data", "said"), LINES)
def test_what_a_line_says(name, data, said):
    assert signals(name, data) == said
    assert signals(name, data, Stream.STDERR) == ()


def test_a_shell_script_says_nothing_of_itself():
    assert signals("bash", b'{"type":"result","ok":true}') == ()


def test_codex_tells_on_stderr_alone_of_a_call_that_it_would_not_try():
    told = b"2026-11-23T03:54:15Z ERROR codex_core::tools::router: error=unsupported call: no_such_tool"
    assert signals("codex", told, Stream.STDERR) == (Warning("error=unsupported call: no_such_tool"),)


def heard(name, *lines):
    """What these lines of one run say."""
    tool = tool_for(agent(name), {})
    memory = tool.memory()
    return [signal for data in lines for signal in tool.signals(Stream.STDOUT, data, memory)]


def piece(**event) -> bytes:
    return line(type="stream_event", event=event)


def test_a_message_that_came_in_pieces_and_never_whole_is_said_when_it_is_over():
    words = [piece(type="content_block_delta", delta={"type": "text_delta", "text": word}) for word in ("I ", "see.")]
    begun = piece(type="message_start", message={"id": "m1"})
    over = piece(type="message_stop")
    assert heard("claude", begun, *words) == [ApiCall()]
    assert heard("claude", begun, *words, over) == [ApiCall(), Said("I see.")]
    whole = content("assistant", {"type": "text", "text": "I see."})
    assert heard("claude", begun, *words, whole, over) == [ApiCall(), Said("I see.")]


def test_a_message_is_one_call_however_many_events_it_takes():
    assert (
        heard("claude", *[content("assistant", {"type": "tool_use", "id": "t", "name": "Bash"})] * 2).count(ApiCall())
        == 1
    )


def test_what_a_run_leaves_to_be_remembered_has_a_bound():
    tool = tool_for(agent("claude"), {})
    memory = tool.memory()
    for number in range(1000):
        tool.signals(Stream.STDOUT, line(type="assistant", message={"id": f"m{number}"}), memory)
        tool.signals(Stream.STDOUT, system("task_started", task_id=f"t{number}", is_backgrounded=True), memory)
        tool.signals(Stream.STDOUT, system("permission_denied", tool_use_id=f"t{number}"), memory)
        tool.signals(
            Stream.STDOUT, piece(type="content_block_delta", delta={"type": "text_delta", "text": "x" * 999}), memory
        )
    assert len(memory.messages) == len(memory.denied) == 64
    assert len(memory.background) <= 64
    assert len(memory.partial) <= 64 * 1024


def test_ids_and_names_as_long_as_a_line_are_not_kept_whole():
    long = "x" * 100_000
    reader = Reader(Claude())
    for number in range(40):
        name, key = f"{number}n{long}", f"{number}i{long}"
        content = [{"type": "tool_use", "id": key, "name": name}, {"type": "text", "text": "hm"}]
        events = (
            {"type": "assistant", "message": {"id": key, "content": content}},
            {"type": "system", "subtype": "permission_denied", "tool_use_id": key},
            {"type": "system", "subtype": "task_started", "is_backgrounded": True, "task_id": key},
            {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": key, "is_error": True}]}}
            if number % 2
            else {"type": "user"},
        )
        for event in events:
            reader.feed(Stream.STDOUT, json.dumps(event).encode() + b"\n")
    tally = reader.tally
    assert (tally.tool_calls, tally.tool_failures, tally.denials, tally.api_calls) == (40, 20, 40, 40)
    assert len(tally.background) == 40
    assert len(repr((tally, reader._memory))) < 100_000


def test_a_long_message_is_not_kept_by_what_it_was_classed_by():
    tracemalloc.start()
    try:
        for number in range(40):
            assert class_of(f"{number}: unauthorized " + "x" * 100_000) is ErrorClass.AUTH
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_limit_that_was_met_says_when_the_run_could_go_on():
    limit = line(type="rate_limit_event", rate_limit_info={"status": "rejected", "resetsAt": 1795421792})
    end = line(type="result", subtype="success", is_error=True, api_error_status=429, result="Limit reached")
    assert heard("claude", limit, end)[-1] == Finished(False, "Limit reached", ErrorClass.QUOTA, resets_at=RESET)


def cut(data: bytes) -> bytes:
    """As a line comes that is too long."""
    (head,) = LineSplitter().feed(data + b"\n")
    assert len(head) < len(data)
    return head


HUGE = 'a \\ " \n \u00e9 ' * 150_000


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "claude",
            content("user", {"tool_use_id": "t1", "type": "tool_result", "content": HUGE, "is_error": False}),
            [ToolCall("", True, "t1")],
        ),
        (
            "claude",
            content("user", {"is_error": True, "tool_use_id": "t1", "type": "tool_result", "content": HUGE}),
            [ToolCall("", False, "t1")],
        ),
        (
            "codex",
            item("completed", id="i1", type="command_execution", command="x", aggregated_output=HUGE, exit_code=0),
            [ESTIMATED, ToolCall("command_execution", True, "i1")],
        ),
    ],
)
def test_a_line_that_is_too_long_is_typed_by_its_head(name, data, said):
    assert heard(name, cut(data)) == said


def test_a_result_that_is_too_long_is_the_end_all_the_same():
    recorded = {"total_cost_usd": 0.1, "usage": {"input_tokens": 5, "output_tokens": 3}, "terminal_reason": "completed"}
    good = json.dumps({**recorded, "is_error": False, "subtype": "success", "result": HUGE, "type": "result"}).encode()
    usage, end = heard("claude", cut(good))
    assert usage == Usage(5, 3, 0.1)
    assert end.ok
    assert HUGE.startswith(end.answer)
    assert len(end.answer) > 2000
    # the head ends before it could say how it ended
    torn = json.dumps(
        {**recorded, "permission_denials": [{"tool_name": "Write", "tool_input": HUGE}], "is_error": False}
    )
    assert heard("claude", cut(torn.encode()))[-1] == Finished(False, "its result was cut", ErrorClass.TRUNCATED)


@pytest.mark.parametrize("name", sorted(BUILTIN))
@given(
    data=st.binary()
    | st.tuples(
        st.sampled_from([b"", b"[", b'["x",', b'"', b'{"type":']),
        st.sampled_from([b'"result"', b'"init"', b'"started"', b'"turn.completed"', b'"thread.started"']),
        st.binary(),
    ).map(b"".join)
)
def test_no_line_raises_and_what_is_no_event_is_unknown(name, data):
    said = () if name == "bash" else (Unknown(),)
    assert signals(name, data) == said or is_object(data)
    assert signals(name, b"[" * 10_000 + data) == said


def is_object(data: bytes) -> bool:
    """Whether chance has made an event of it, such as `{"type":"result"}`."""
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["tool_result", "tool_use", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "text", "item"]), inner),
    max_leaves=6,
)
KEYS = {key for data, _ in (*CLAUDE.values(), *CODEX.values(), *DEMO.values()) for key in json.loads(data)}
TYPES = {
    json.loads(data)["type"]
    for data, _ in (*CLAUDE.values(), *CODEX.values(), *DEMO.values())
    if isinstance(json.loads(data)["type"], str)
}
SUBTYPES = {json.loads(data).get("subtype") for data, _ in CLAUDE.values()}


@pytest.mark.parametrize("name", ["claude", "codex", "demo"])
@given(
    st.sampled_from(sorted(TYPES)),
    st.sampled_from(sorted(map(str, SUBTYPES))),
    st.dictionaries(st.sampled_from(sorted({*KEYS, "usage", "modelUsage", "model_usage_since_last_result"})), VALUES),
)
def test_no_event_raises_whatever_is_in_its_fields(name, kind, subtype, fields):
    tally = Tally()
    for signal in heard(name, json.dumps({**fields, "type": kind, "subtype": subtype}).encode()):
        tally.take(signal)
    assert tally.totals


LONG = "You are out of credits. " * 20 + "Try again at 4:53 AM."
MAPPED = JsonlMap(type=("type",), failed=("failed",), text=("text",))


@pytest.mark.parametrize(
    ("tool", "event"),
    [
        (BUILTIN["claude"]("claude"), {"type": "result", "is_error": True, "result": LONG}),
        (
            BUILTIN["claude"]("claude"),
            {
                "type": "assistant",
                "error": "rate_limit",
                "message": {"model": "<synthetic>", "content": [{"type": "text", "text": LONG}]},
            },
        ),
        (BUILTIN["codex"]("codex"), {"type": "turn.failed", "error": {"message": LONG}}),
        (BUILTIN["codex"]("codex"), {"type": "error", "message": LONG}),
        (BUILTIN["codex"]("codex"), {"type": "error", "message": f"Reconnecting... 1/5 {LONG}"}),
        (BUILTIN["demo"]("demo"), {"type": "result", "ok": False, "text": LONG}),
        (Command(ToolConfig(("x",), jsonl=MAPPED)), {"type": "failed", "text": LONG}),
        (Command(ToolConfig(("x",), error="credits")), {"text": LONG}),
        (Command(ToolConfig(("x",), throttle="credits")), {"text": LONG}),
    ],
)
def test_what_a_tool_says_of_a_failure_is_kept_to_its_end_where_the_time_stands(tool, event):
    told = tool.signals(Stream.STDOUT, json.dumps(event).encode(), tool.memory())[-1]
    assert isinstance(told, Error | Finished | Retry | Throttled)
    assert "Try again at 4:53 AM." in (told.text if isinstance(told, Error) else told.detail)
