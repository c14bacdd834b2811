"""A provider on loopback that says what a test tells it to: Anthropic's Messages, OpenAI's Responses and its Chat
Completions, and Gemini's API, streamed.

Each server plays one list of steps, one for each request of a model; the last step is repeated. It is an HTTP server
of one request per connection, and knows of each interface only what the programs ask of it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import trio
from attrs import define, field, frozen

from darkfactory.devices.clock import SystemClock

RESETS_AT = SystemClock().utc() + timedelta(hours=2)
"""When a usage limit ends."""


@frozen
class Say:
    """The answer."""

    text: str = "All done."


@frozen
class Shell:
    """Some words, and a command to run."""

    command: str
    text: str = ""
    options: Mapping[str, object] = field(factory=dict)
    """Further arguments of the tool."""


@frozen
class Call:
    """A call of any tool, by its name; for programs that speak chat completions."""

    tool: str
    arguments: Mapping[str, object]


@frozen
class Refuse:
    """An HTTP error: "throttled", "usage_limit", "auth", "overloaded"; and of Anthropic "later"."""

    why: str


@frozen
class Hang:
    """The request is read, and nothing is ever said to it."""


Step = Say | Shell | Call | Refuse | Hang


@define(eq=False)
class ModelServer:
    """What has been asked of it, and where it is."""

    steps: list[Step]
    port: int = 0
    requests: list[dict[str, Any]] = field(factory=list)
    """The bodies of the requests to a model, in order."""
    asides: int = 0
    """Requests that are no part of the task, such as for a title: without tools. They get an answer and use no step."""
    asked: trio.Event = field(factory=trio.Event)
    """A model was asked."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection. What a client does to it, such as going away, ends no test."""
        async with stream:
            try:
                method, path, body = await _read(stream)
                if method == "POST" and path.endswith("/messages"):
                    await self._play(stream, body, _ANTHROPIC)
                elif method == "POST" and path.endswith("/responses"):
                    await self._play(stream, body, _OPENAI)
                elif method == "POST" and path.endswith("/chat/completions"):
                    await self._play(stream, body, _CHAT)
                elif method == "POST" and path.endswith(":streamGenerateContent"):
                    model = path.rpartition("/")[2].partition(":")[0]
                    await self._play(stream, body | {"model": model}, _GEMINI)
                else:  # a sign of life, a list of models; or a web socket, without which codex can do if it hears 426
                    status = 426 if path.endswith("/responses") else 404
                    await _reply(stream, status, {}, {"error": {"type": "not_found_error", "message": path}})
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _play(self, stream: trio.SocketStream, body: dict[str, Any], api: _Api) -> None:
        if api is _CHAT and not body.get("tools"):
            self.asides += 1
            await _stream(stream, api.events(Say("A title"), body, 0))
            return
        self.requests.append(body)
        self.asked.set()
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        match step:
            case Hang():
                await stream.receive_some()  # until the client goes away
            case Refuse(why):
                await _reply(stream, *api.refusals[why])
            case Say() | Shell() | Call():
                await _stream(stream, api.events(step, body, len(self.requests)))


@asynccontextmanager
async def model_server(*steps: Step) -> AsyncIterator[ModelServer]:
    """A server for the length of a block."""
    server = ModelServer(list(steps))
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.handle, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


async def _read(stream: trio.SocketStream) -> tuple[str, str, dict[str, Any]]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await _more(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert "transfer-encoding" not in headers, "no program was seen to send its request in chunks"
    while len(body) < int(headers.get("content-length", 0)):
        body += await _more(stream)
    method, target, _ = request.split(" ")
    return method, target.partition("?")[0], json.loads(body) if body else {}


async def _more(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some()
    if not data:
        raise trio.BrokenResourceError("the client went away in the middle of its request")
    return bytes(data)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\nconnection: close\r\n{lines}\r\n".encode()


async def _reply(stream: trio.SocketStream, status: int, headers: Mapping[str, str], body: object) -> None:
    data = json.dumps(body).encode()
    about = {"content-type": "application/json", "content-length": str(len(data))}
    await stream.send_all(_head(status, about | dict(headers)) + data)


async def _stream(stream: trio.SocketStream, events: list[dict[str, Any]]) -> None:
    """Events of a type each, or without one; those of chat completions are followed by a word."""
    await stream.send_all(_head(200, {"content-type": "text/event-stream"}))
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        await stream.send_all(f"{name}data: {json.dumps(event)}\n\n".encode())
    if "choices" in events[-1]:
        await stream.send_all(b"data: [DONE]\n\n")


# The interfaces: the events of one streamed answer, and how each kind of refusal looks.


def _anthropic_events(step: Say | Shell, body: dict[str, Any], number: int) -> list[dict[str, Any]]:
    blocks: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if step.text:
        blocks.append(({"type": "text", "text": ""}, {"type": "text_delta", "text": step.text}))
    if isinstance(step, Shell):
        use = {"type": "tool_use", "id": f"toolu_{number}", "name": "Bash", "input": {}}
        words = json.dumps({"command": step.command, "description": "as scripted", **step.options})
        blocks.append((use, {"type": "input_json_delta", "partial_json": words}))
    stop = "tool_use" if isinstance(step, Shell) else "end_turn"
    usage = {"input_tokens": 1000, "output_tokens": 1}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": body["model"], "content": []}
    return [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        *(
            event
            for index, (block, delta) in enumerate(blocks)
            for event in (
                {"type": "content_block_start", "index": index, "content_block": block},
                {"type": "content_block_delta", "index": index, "delta": delta},
                {"type": "content_block_stop", "index": index},
            )
        ),
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": 20},
        },
        {"type": "message_stop"},
    ]


def _openai_events(step: Say | Shell, body: dict[str, Any], number: int) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = []
    if step.text:
        content = [{"type": "output_text", "text": step.text, "annotations": []}]
        message = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": content}
        output.append({**message, "status": "completed"})
    if isinstance(step, Shell):
        output.append(_openai_call(step, body, number))
    usage = {"input_tokens": 1000, "output_tokens": 20, "total_tokens": 1020}
    response = {"id": f"resp_{number}", "object": "response", "created_at": 0, "model": body["model"], "output": []}
    return [
        {"type": "response.created", "response": {**response, "status": "in_progress"}},
        *({"type": "response.output_item.done", "output_index": n, "item": item} for n, item in enumerate(output)),
        {"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}},
    ]


def _openai_call(step: Shell, body: dict[str, Any], number: int) -> dict[str, Any]:
    """A call of the shell: by a function, or by a program in JavaScript where the model is one that writes these."""
    call = {"call_id": f"call_{number}", "status": "completed"}
    arguments = {"cmd": step.command, **step.options}
    lists = [body.get("tools", []), *(item["tools"] for item in body["input"] if item["type"] == "additional_tools")]
    if any(tool.get("type") == "custom" and tool.get("name") == "exec" for tools in lists for tool in tools):
        code = f"const r = await tools.exec_command({json.dumps(arguments)}); text(JSON.stringify(r));"
        return {"type": "custom_tool_call", "id": f"ctc_{number}", "name": "exec", "input": code, **call}
    return {
        "type": "function_call",
        "id": f"fc_{number}",
        "name": "exec_command",
        "arguments": json.dumps(arguments),
        **call,
    }


_SHELLS = ("bash", "run_shell_command")
"""What programs that speak chat completions call their shell."""


def _chat_events(step: Say | Shell | Call, body: dict[str, Any], number: int) -> list[dict[str, Any]]:
    about = {"id": f"chatcmpl_{number}", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}

    def chunk(delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
        return {**about, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}

    chunks = [chunk({"role": "assistant", "content": "" if isinstance(step, Call) else step.text})]
    if not isinstance(step, Say):
        called = step if isinstance(step, Call) else _chat_shell(step, body)
        function = {"name": called.tool, "arguments": json.dumps(dict(called.arguments))}
        call = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
        chunks.append(chunk({"tool_calls": [call]}))
    usage = {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020}
    end = chunk({}, "stop" if isinstance(step, Say) else "tool_calls")
    return [*chunks, end, {**about, "choices": [], "usage": usage}]


def _chat_shell(step: Shell, body: dict[str, Any]) -> Call:
    """A call of the shell with the arguments that it takes; also where it is not offered."""
    functions = [tool["function"] for tool in body["tools"]]
    tools = {each["name"]: each.get("parameters", {}).get("properties", {}) for each in functions}
    name = next((name for name in _SHELLS if name in tools), _SHELLS[0])
    arguments = {"command": step.command, "description": "as scripted", "is_background": False}
    taken = {key: value for key, value in arguments.items() if key in tools.get(name, ("command",))}
    return Call(name, {**taken, **step.options})


def _gemini_events(step: Say | Shell, body: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """An answer in two pieces, where there is a text to cut."""
    half = len(step.text) // 2
    parts: list[dict[str, Any]] = [{"text": text} for text in (step.text[:half], step.text[half:]) if text]
    if isinstance(step, Shell):
        arguments = {"command": step.command, **step.options}
        parts.append({"functionCall": {"id": f"fc_{number}", "name": "run_shell_command", "args": arguments}})
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 20, "totalTokenCount": 1020}
    about = {"modelVersion": body["model"], "responseId": f"resp_{number}", "usageMetadata": usage}

    def event(part: dict[str, Any], **end: str) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0, **end}], **about}

    return [*map(event, parts[:-1]), event(parts[-1], finishReason="STOP")]


Refusal = tuple[int, Mapping[str, str], object]


def _anthropic_refusals() -> dict[str, Refusal]:
    def error(kind: str, message: str) -> object:
        return {"type": "error", "error": {"type": kind, "message": message}}

    unified = "anthropic-ratelimit-unified"
    resets = str(int(RESETS_AT.timestamp()))
    used_up = {
        f"{unified}-status": "rejected",
        f"{unified}-reset": resets,
        f"{unified}-representative-claim": "five_hour",
        f"{unified}-5h-status": "rejected",
        f"{unified}-5h-reset": resets,
        f"{unified}-5h-utilization": "1.0",
        "x-should-retry": "false",
    }
    return {
        "throttled": (429, {"retry-after": "1"}, error("rate_limit_error", "Too many requests per minute.")),
        "later": (429, {"retry-after": "60"}, error("rate_limit_error", "Too many requests per hour.")),
        "usage_limit": (429, used_up, error("rate_limit_error", "This would exceed your account's rate limit.")),
        "auth": (401, {}, error("authentication_error", "invalid x-api-key")),
        "overloaded": (529, {}, error("overloaded_error", "Overloaded")),
    }


def _openai_refusals() -> dict[str, Refusal]:
    def error(kind: str, code: str | None, message: str, **more: object) -> object:
        return {"error": {"type": kind, "code": code, "message": message, "param": None, **more}}

    resets = int(RESETS_AT.timestamp())
    used_up = {
        "x-codex-primary-used-percent": "100",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": str(resets),
    }
    limit = error("usage_limit_reached", None, "The usage limit has been reached", plan_type="plus", resets_at=resets)
    wait = error("requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again in 1s.")
    return {
        "throttled": (429, {"retry-after": "1"}, wait),
        "usage_limit": (429, used_up, limit),
        "auth": (401, {}, error("invalid_request_error", "invalid_api_key", "Incorrect API key provided.")),
        "overloaded": (503, {}, error("server_error", "server_is_overloaded", "The engine is overloaded.")),
    }


def _gemini_refusals() -> dict[str, Refusal]:
    def error(code: int, status: str, message: str, *details: object) -> object:
        return {"error": {"code": code, "message": message, "status": status, "details": details}}

    def quota(per: str) -> object:
        violation = {"quotaId": f"GenerateRequestsPer{per}PerProjectPerModel-FreeTier"}
        return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}

    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}
    limit = "You exceeded your current quota, please check your plan and billing details."
    return {
        "throttled": (429, {}, error(429, "RESOURCE_EXHAUSTED", f"{limit} Please retry in 1s.", quota("Minute"), wait)),
        "usage_limit": (429, {}, error(429, "RESOURCE_EXHAUSTED", limit, quota("Day"))),
        "auth": (400, {}, error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")),
        "overloaded": (503, {}, error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")),
    }


@frozen
class _Api:
    events: Any
    refusals: Mapping[str, Refusal]


_ANTHROPIC = _Api(_anthropic_events, _anthropic_refusals())
_OPENAI = _Api(_openai_events, _openai_refusals())
_CHAT = _Api(_chat_events, _openai_refusals())
_GEMINI = _Api(_gemini_events, _gemini_refusals())
