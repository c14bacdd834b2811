"""Fleet texts, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from darkfactory.config import parse_config
from darkfactory.errors import ConfigError, Fault
from darkfactory.model.fleet import OrchestratorConfig

Parse = Callable[..., OrchestratorConfig]
Faults = Callable[..., tuple[Fault, ...]]

DATA = Path(__file__).parent.parent / "data"

MINIMAL = """\
[[agents]]
name = "sentinel"
layer = "Safety"
cli_tool = "codex"
task = "Watch."
"""


@pytest.fixture
def data() -> Path:
    """The directory of example files."""
    return DATA


@pytest.fixture
def minimal() -> str:
    """The shortest fleet; its text ends inside the table of agents[0], a Safety agent."""
    return MINIMAL


@pytest.fixture
def parse() -> Parse:
    """`parse_config` of a text in /base, with an environment that is empty but for what is given."""

    def parse(text: str, environ: Mapping[str, str] | None = None) -> OrchestratorConfig:
        return parse_config(text, file="fleet.toml", base=Path("/base"), environ=environ or {})

    return parse


@pytest.fixture
def faults(parse: Parse) -> Faults:
    """The faults of a text that must not pass."""

    def faults(text: str, environ: Mapping[str, str] | None = None) -> tuple[Fault, ...]:
        with pytest.raises(ConfigError) as caught:
            parse(text, environ)
        return caught.value.faults

    return faults
