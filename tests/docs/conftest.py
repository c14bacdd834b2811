"""Markdown as the tests of the documentation read it: pages, fenced blocks and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"README": ROOT / "README.md"} | {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}

Table = list[list[str]]
Page = Callable[[str], str]
Tables = Callable[[str], dict[str, Table]]


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def page() -> Page:
    """The text of a page, by its stem."""
    return lambda name: PAGES[name].read_text(encoding="utf-8")


@pytest.fixture
def tables(page: Page) -> Tables:
    """A page's tables without their heads, each by the heading above it."""

    def tables(name: str) -> dict[str, Table]:
        found: dict[str, Table] = {}
        heading = ""
        for line in page(name).splitlines():
            if line.startswith("#"):
                heading = line.lstrip("#").strip()
            elif line.startswith("|"):
                found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
        return {heading: rows[2:] for heading, rows in found.items()}

    return tables


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Every fenced block of that language in every page, with a name for it."""
    for name, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), 1):
            yield f"{name}-{number}", block


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `python_block` or `toml_block` runs for each of them."""
    for language in ("python", "toml"):
        argument = f"{language}_block"
        if argument in metafunc.fixturenames:
            found = dict(blocks(language))
            metafunc.parametrize(argument, found.values(), ids=found.keys())
