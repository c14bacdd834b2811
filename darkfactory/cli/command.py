"""`darkfactory FLEET`: one factory, with the signals of a service."""

from __future__ import annotations

import os
import resource
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import structlog
import trio

from darkfactory.cli import BAD_USAGE, logs
from darkfactory.config import warnings_of
from darkfactory.devices.containment import adopt_orphans
from darkfactory.errors import (
    AgentNotFound,
    AlreadyRunning,
    ConfigError,
    JournalDamaged,
    OrchestratorError,
    SpawnFailed,
    StateDirError,
)
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.policy import shutdown
from darkfactory.runtime.factory import AgentOrchestrator, this_machine
from darkfactory.runtime.life import Outcome

FAILED = 1
EXIT_CODES: dict[type[OrchestratorError], int] = {
    ConfigError: BAD_USAGE,
    AgentNotFound: BAD_USAGE,
    StateDirError: BAD_USAGE,
    AlreadyRunning: 3,
    JournalDamaged: FAILED,
    SpawnFailed: FAILED,
}
"""What keeps a factory from starting."""

LAST_RESORT_SECS = 5.0
"""How long after the bound on shutdown the command exits whatever still holds it up."""

FILES_OF_A_RUN = 3
"""Its pidfd and its two output files; one in a worktree holds a lock as well."""
FILES_OF_A_WARM_PROCESS = 4
"""Its pidfd, its two output files, and our end of its input."""
FILES_BESIDES = 128
"""The journal, the guard, what eight starts at once take for a moment, and some to spare."""

_log = structlog.get_logger("darkfactory")


Life = Callable[[AgentOrchestrator], Awaitable[Outcome]]
"""What a factory does until it is over: `AgentOrchestrator.run`, or something around that."""


def run(config: OrchestratorConfig, resume: tuple[str, ...]) -> int:
    """Run the fleet until it is told to stop; the exit code."""
    return live(config, AgentOrchestrator.run, resume=resume)


def live(config: OrchestratorConfig, life: Life, *, resume: tuple[str, ...] = (), only_review: bool = False) -> int:
    """Have a factory live as this process, with the signals of a service; the exit code."""
    logs.open_standard_streams()
    logs.configure()
    before, open_files = _raise_open_files()
    machine = partial(this_machine, adopts=True, open_files=before)
    try:
        orchestrator = AgentOrchestrator(config, resume=resume, machine=machine, only_review=only_review)
    except (ConfigError, AgentNotFound) as error:
        return _told(error)
    for warning in warnings_of(config):
        _log.warning("configuration", detail=warning.render(str(config.source)))
    warm = sum(agent.warm for agent in config.agents if agent.enabled)
    needed = (FILES_OF_A_RUN + config.isolates) * config.max_concurrent_runs + FILES_BESIDES
    needed += FILES_OF_A_WARM_PROCESS * warm
    if needed > open_files:
        runs = f"max_concurrent_runs = {config.max_concurrent_runs}" + (f" with {warm} warm processes" if warm else "")
        remedy = "raise the hard limit (ulimit -Hn; systemd: LimitNOFILE=), or let fewer run"
        _log.warning("configuration", detail=f"{runs} takes {needed} open files, we may have {open_files}: {remedy}")
    try:
        adopt_orphans()
        return trio.run(_until_signalled, orchestrator, life)
    except Exception:  # ours: the factory has stopped everything in order before it let this out
        why = "darkfactory failed; its agents were stopped. This is a bug, or a disk that refuses:"
        logs.tell(f"{why}\n{traceback.format_exc()}")
        return FAILED


def _raise_open_files() -> tuple[int, int]:
    """Allow ourselves all the open files that we may have; the soft limit before, which is the agents', and now.

    The usual 1,024 is there for programs that call select(), which Trio does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


async def _until_signalled(orchestrator: AgentOrchestrator, life: Life) -> int:
    """Live with the signals of a service: the first of them stops in order, any further one kills."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would take the agents' exit codes from us
    wanted = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else we were started to survive the terminal
        wanted.append(signal.SIGHUP)
    killed_by: list[int] = []
    outcome: Outcome | None = None
    refusal: OrchestratorError | None = None
    with trio.open_signal_receiver(*wanted) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hear, received, orchestrator, killed_by)
            try:
                outcome = await life(orchestrator)
            except tuple(EXIT_CODES) as error:
                refusal = error
            nursery.cancel_scope.cancel()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if refusal is not None:
        return _told(refusal)
    assert outcome is not None
    if outcome.unreaped:
        logs.tell("\n".join(f"could not be ended: {process}" for process in outcome.unreaped))
    return 128 + killed_by[0] if killed_by else outcome.exit_code


async def _hear(received: AsyncIterator[int], orchestrator: AgentOrchestrator, killed_by: list[int]) -> None:
    asked = False
    async for number in received:
        _exit_at_last(shutdown.REAP_SECS + (0.0 if asked else orchestrator.config.shutdown_grace_secs))
        orchestrator.shutdown(signal.Signals(number).name, kill=asked)
        if asked:
            killed_by.append(number)
        asked = True


def _exit_at_last(bound_secs: float) -> None:
    """See to it that we exit: a thread that hangs in the kernel, in a sync to a dead disk, holds Trio up for ever."""

    def give_up(*_: object) -> None:
        os._exit(FAILED)

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, bound_secs + LAST_RESORT_SECS)


def _told(error: OrchestratorError) -> int:
    logs.tell(str(error))
    return EXIT_CODES[type(error)]
