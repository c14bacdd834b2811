"""The running command has in memory what it uses."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from darkfactory.cli import sparing


@pytest.fixture
def unused(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that nobody has imported."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    return "colorsys"


def test_a_postponed_module_is_imported_when_something_is_taken_from_it(unused: str) -> None:
    with sparing.postponed(unused):
        module = importlib.import_module(unused)
    assert unused not in sys.modules
    assert module.rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1)
    assert sys.modules[unused].rgb_to_hsv is module.rgb_to_hsv


def test_a_postponed_module_that_is_needed_at_once_is_there_at_once(unused: str) -> None:
    with sparing.postponed(unused):
        from colorsys import rgb_to_hsv
    assert sys.modules[unused].rgb_to_hsv is rgb_to_hsv


def test_what_a_postponed_module_does_not_have_is_missed_as_ever(unused: str) -> None:
    with sparing.postponed(unused):
        module = importlib.import_module(unused)
    with pytest.raises(AttributeError, match="colorsys"):
        module.nothing  # noqa: B018 - to look is enough


def test_a_hidden_module_cannot_be_imported_until_the_block_is_left(unused: str) -> None:
    with sparing.hidden(unused), pytest.raises(ImportError):
        importlib.import_module(unused)
    assert isinstance(importlib.import_module(unused), ModuleType)


@pytest.mark.parametrize("spared", [sparing.hidden, sparing.postponed])
def test_a_module_that_was_imported_before_stays(spared, unused: str) -> None:
    before = importlib.import_module(unused)
    with spared(unused):
        assert importlib.import_module(unused) is before
    assert sys.modules[unused] is before


def test_the_command_runs_without_what_its_libraries_import_in_vain(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        f"""
        working_dir = "{tmp_path}"
        state_dir = "{fleet}"  # which is no directory: so it exits, with everything imported
        [[agents]]
        name = "one"
        layer = "Growth"
        cli_tool = "demo"
        task = "x"
        """
    )
    program = """
import sys
from darkfactory.cli import main  # as __main__ does: of the package itself one would get the facade, and all of it
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, *sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(fleet)], capture_output=True, text=True, check=True, timeout=60
    )
    exit_code, *modules = done.stdout.split()
    assert exit_code == "2", done.stderr
    assert {"darkfactory.runtime.factory", "structlog", "trio"} <= set(modules)
    assert not {"rich", "asyncio", "idna", "ssl", "hmac", "hashlib", "_hashlib", "croniter", "dateutil"} & set(modules)
