"""The way in: a file or a text, and an `OrchestratorConfig` or a `ConfigError` that names every fault with its line."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from darkfactory.config import check, convert, machine
from darkfactory.config.finding import Finding
from darkfactory.config.lines import Keys, key_lines, line_of
from darkfactory.errors import ConfigError, Fault
from darkfactory.model.fleet import OrchestratorConfig

_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column \d+|end of document)\)")


def load_config(path: Path, environ: Mapping[str, str], *, paths_exist: bool = False) -> OrchestratorConfig:
    """The fleet that a file declares; ConfigError with every fault in it.

    With `paths_exist`, a directory that the fleet names and this machine does not have is a fault as well.

    Links are followed first: relative paths begin at the directory of the file itself, and the default name is its
    stem, so that one file is one fleet by whatever path it was named.
    """
    file = str(path)
    try:
        content = path.read_bytes()
        source = path.resolve()
    except OSError as error:
        fault = Fault("", f"cannot be read: {error.strerror}")
    except ValueError:
        fault = Fault("", "cannot be read: its name holds a NUL character")
    else:
        try:
            text = content.decode("utf-8-sig")  # some editors begin a file with a byte order mark
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            fault = Fault("", f"is not UTF-8 text: {error.reason}", line, "save it as UTF-8")
        else:
            config = _parse(
                text, file=file, stem=source.stem, base=source.parent, environ=environ, paths_exist=paths_exist
            )
            return attrs.evolve(config, source=source)
    raise ConfigError(file, (fault,))


def parse_config(text: str, *, file: str, base: Path, environ: Mapping[str, str]) -> OrchestratorConfig:
    """The fleet that a text declares; ConfigError with every fault in it. Reads nothing but time zones.

    `file` is what faults call the text, and its stem the fleet's default name; `base`, an absolute path, is where
    relative paths begin, and the default `working_dir`.
    """
    return _parse(text, file=file, stem=Path(file).stem, base=base, environ=environ, paths_exist=False)


def _parse(
    text: str, *, file: str, stem: str, base: Path, environ: Mapping[str, str], paths_exist: bool
) -> OrchestratorConfig:
    tree, lines = _read(text, file)
    tree.setdefault("name", _safe(stem))
    config, misfits = convert.build(tree, base=base, environ=environ)
    doubts = itertools.chain(check.findings(config), machine.absent(config) if paths_exist else ())
    found = [*misfits, *_sound(doubts, {misfit.keys for misfit in misfits})]
    if found:
        by_line = sorted(((_line(finding, lines), finding) for finding in found), key=lambda pair: pair[0])
        raise ConfigError(file, tuple(finding.fault(line) for line, finding in by_line))
    return config


def _read(text: str, file: str) -> tuple[dict[str, Any], dict[Keys, int]]:
    try:
        return tomllib.loads(text), key_lines(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        position = _POSITION.search(message)
        line = int(position["line"]) if position and position["line"] else text.count("\n") + 1
        fault = Fault("", f"is not valid TOML: {_POSITION.sub('', message)}", line)
    except ValueError:  # int() itself, of more digits than it takes
        fault = Fault("", "holds a number of more digits than can be read")
    except RecursionError:
        fault = Fault("", "holds arrays or tables that are nested too deeply")
    raise ConfigError(file, (fault,))


def _safe(stem: str) -> str:
    """A file's stem as the name of a fleet: "my fleet" is my-fleet. Empty where nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-")[:64]


def _sound(found: Iterator[Finding], faulty: set[Keys]) -> Iterator[Finding]:
    """The findings that do not rest on what is faulty itself."""
    for finding in found:
        places = (finding.keys, *finding.reads)
        if not any(place[:length] in faulty for place in places for length in range(1, len(place) + 1)):
            yield finding


def _line(finding: Finding, lines: Mapping[Keys, int]) -> int:
    """Where to look: the key itself, else what it disagrees with, else the table that it is missing from."""
    written = (keys for keys in (finding.keys, *finding.reads) if keys in lines)
    return line_of(lines, next(written, finding.keys))
