"""An agent's definition is read anew: what of it is taken over, and what is said about that.

Agents can write the fleet file. So nothing is taken from it that says which program runs, with what arguments, in what
surroundings or with what rights: for those, a person restarts the factory. The task of a plain program may be the
program itself, as the script of a `bash` agent is; so it is not taken either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve

from darkfactory.model.actions import Cause, Redefine, Refuse, Severity
from darkfactory.model.events import DefinitionRead
from darkfactory.model.fleet import AgentDefinition, ToolConfig
from darkfactory.policy.draft import Draft
from darkfactory.policy.quoting import plain
from darkfactory.policy.reconcile import drop

READ_ANEW: Final = (
    "task",
    "schedule",
    "max_memory_bytes",
    "max_output_bytes",
    "max_runs_per_day",
    "retries",
    "timeout_secs",
    "start_timeout_secs",
    "stall_timeout_secs",
    "linger_secs",
    "grace_secs",
)
"""The task, the schedule and the limits."""


def redefine(draft: Draft, event: DefinitionRead) -> None:
    """Take over what may be taken over; keep the last good definition when there is nothing to take it from."""
    name, found = event.agent, event.found
    before = draft.agents[name].definition
    problem = event.problem
    if found is not None and found.layer is not before.layer:
        problem = f"its layer is {found.layer.value} now, and was {before.layer.value}: that takes a restart"
    if found is None or problem:
        draft.record("definition_kept", Severity.WARNING, durable=False, agent=name, detail=problem)
        return
    changed = {key: getattr(found, key) for key in READ_ANEW if getattr(found, key) != getattr(before, key)}
    if not changed:
        draft.record("definition_kept", durable=False, agent=name, detail="the fleet file says what it said")
    if "task" in changed and _may_be_script(before, draft.config.tools):
        del changed["task"]
        detail = "its task has changed, and may be a script: that takes a restart"
        draft.record("definition_kept", Severity.WARNING, durable=False, agent=name, detail=detail)
    if not changed:
        return
    definition = evolve(before, **changed)
    draft.change(name, definition=definition)
    draft.gate_moved = True
    told = {key: [_shown(getattr(before, key), before, found), _shown(changed[key], before, found)] for key in changed}
    draft.record("redefined", Severity.WARNING, agent=name, changes=told)
    rearmed = "schedule" in changed and draft.agents[name].cursor is not None  # None: it is disabled
    if rearmed:
        _drop_occurrence(draft, name)
        draft.change(name, cursor=draft.when.utc)
        draft.record("schedule_armed", agent=name, schedule=definition.schedule)
    draft.actions.append(Redefine(definition, draft.when.utc if rearmed else None))


def _may_be_script(agent: AgentDefinition, tools: Mapping[str, ToolConfig]) -> bool:
    """Whether its program is a plain one: what such a program makes of a task is not known."""
    tool = tools.get(agent.cli_tool)
    if tool is None:
        return agent.cli_tool.rpartition("/")[2] == "bash"
    return tool.success is None and tool.jsonl is None


def _drop_occurrence(draft: Draft, name: str) -> None:
    """What waits of the former schedule is not wanted any more."""
    request = draft.queue.pop((name, Cause.CRON), None)
    if request is not None:
        drop(draft, request, Refuse("superseded", "its schedule was changed while it waited"))


def _shown(value: Any, *definitions: AgentDefinition) -> Any:
    """The value as the journal may have it: short, and without anything that an agent's env keeps secret."""
    if not isinstance(value, str):
        return value
    secrets = {secret.value for definition in definitions for secret in definition.env.values()}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        value = value.replace(secret, "***")
    return plain(value)
