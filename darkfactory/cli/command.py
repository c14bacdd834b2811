"""`darkfactory FLEET`: one factory, with the signals of a service."""

from __future__ import annotations

import signal
import traceback
from collections.abc import AsyncIterator

import structlog
import trio

from darkfactory.cli import BAD_USAGE, logs
from darkfactory.config import warnings_of
from darkfactory.errors import (
    AgentNotFound,
    AlreadyRunning,
    ConfigError,
    JournalDamaged,
    OrchestratorError,
    StateDirError,
)
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.runtime.factory import AgentOrchestrator, Outcome

FAILED = 1
EXIT_CODES: dict[type[OrchestratorError], int] = {
    ConfigError: BAD_USAGE,
    AgentNotFound: BAD_USAGE,
    StateDirError: BAD_USAGE,
    AlreadyRunning: 3,
    JournalDamaged: FAILED,
}
"""What keeps a factory from starting."""

_log = structlog.get_logger("darkfactory")


def run(config: OrchestratorConfig, resume: tuple[str, ...]) -> int:
    """Run the fleet until it is told to stop; the exit code."""
    logs.open_standard_streams()
    logs.configure()
    try:
        orchestrator = AgentOrchestrator(config, resume=resume)
    except (ConfigError, AgentNotFound) as error:
        return _told(error)
    for warning in warnings_of(config):
        _log.warning("configuration", detail=warning.render(str(config.source)))
    try:
        return trio.run(_until_signalled, orchestrator)
    except Exception:  # ours: the factory has stopped everything in order before it let this out
        logs.tell("darkfactory failed; its agents were stopped. This is a bug, or a disk that refuses:")
        logs.tell(traceback.format_exc())
        return FAILED


async def _until_signalled(orchestrator: AgentOrchestrator) -> int:
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
                outcome = await orchestrator.run()
            except tuple(EXIT_CODES) as error:
                refusal = error
            nursery.cancel_scope.cancel()
    if refusal is not None:
        return _told(refusal)
    assert outcome is not None
    for process in outcome.unreaped:
        logs.tell(f"could not be ended: {process}")
    return 128 + killed_by[0] if killed_by else outcome.exit_code


async def _hear(received: AsyncIterator[int], orchestrator: AgentOrchestrator, killed_by: list[int]) -> None:
    asked = False
    async for number in received:
        orchestrator.shutdown(signal.Signals(number).name, kill=asked)
        if asked:
            killed_by.append(number)
        asked = True


def _told(error: OrchestratorError) -> int:
    logs.tell(str(error))
    return EXIT_CODES[type(error)]
