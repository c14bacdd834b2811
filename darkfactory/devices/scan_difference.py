"""What is different between the beginning and the end of a scan: sizes, marks and functions of the files that differ.

Here files are looked into: only so many of them, none that is very large, and of their lines no more than is told.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from attrs import evolve

from darkfactory.devices import git_output, scan_lines, scan_reader
from darkfactory.devices.git import GitError
from darkfactory.devices.git_output import Names
from darkfactory.devices.scan_lines import Lines
from darkfactory.devices.scan_reader import Reader
from darkfactory.model.review import AddedLine, FileChange, FileSize, FunctionGrowth, Scan

MAX_FILES: Final = 2000
"""Files that are looked into, of those that differ between the beginning and the end."""
BIG_BYTES: Final = 8 * 1024**2
"""A file above it is not looked into."""
MAX_LINES_OF_FILE: Final = 20_000
"""Of a file with more changed lines than these, the lines are not looked at."""
MAX_LINES: Final = 200_000
"""Changed lines that are looked at, of all files together."""
MAX_FUNCTIONS: Final = 2000
_LINES_AT_ONCE: Final = 20_000
_OF_TREES: Final = ("diff-tree", "-r", *scan_reader.DIFF)


async def difference(reader: Reader, scan: Scan, before: str, branch: str) -> Scan:
    """The same with sizes, marks and functions, since the tree `before`. `branch` is how the end is called."""
    ask = (*_OF_TREES, "--name-status", scan_reader.SAME, before, scan.commit)
    try:
        names = git_output.names(await reader.run(*ask), MAX_FILES).get("", Names())
    except GitError as error:
        if not error.too_much:
            raise
        reader.left_out.append(f"the lines of {branch}: more files differ than git can list for us")
        return scan  # noqa: ASYNC910 - git is one
    changes = await _differences(reader, before, scan.commit, names)
    texts = [change for change in changes if change.added is not None and change.status != "D"]
    big = await _big(
        reader, scan.commit, [change.path for change in changes if change.added is None and change.status != "D"]
    )
    if big:
        reader.left_out.append(f"the lines of {scan_reader.some(big)}: above {BIG_BYTES // 1024**2} MiB")
    sizes = await _sizes(reader, scan.commit, texts)
    marked, functions = await _lines_of(reader, before, scan.commit, texts)
    return evolve(scan, sizes=sizes, marked=marked, functions=functions)


async def _differences(reader: Reader, before: str, end: str, names: Names) -> tuple[FileChange, ...]:
    """The files that differ, with the numbers of lines; without submodules, which have none."""
    found: dict[str, FileChange] = {}

    def take(output: bytes) -> None:
        found.update((change.path, change) for change in git_output.changes(output).get("", ()))

    ask = (*_OF_TREES, "--ignore-submodules=all", "--raw", "--numstat")
    if names.number > len(names.told):
        reader.left_out.append(f"the lines of {names.number - MAX_FILES} of {names.number} files that differ")
        paths = scan_reader.pieces_of_paths([name.path for name in names.told if name.old_path is None])
        await reader.in_pieces((*ask, "--no-renames", before, end, "--"), paths, take)
        return tuple(found.values())
    take(await reader.run(*ask, scan_reader.SAME, before, end))
    if scan_reader.may_be_renames(found.values()):
        found.clear()
        take(await reader.run(*ask, *scan_reader.RENAMES, before, end))
    return tuple(found.values())


async def _big(reader: Reader, end: str, paths: Sequence[str]) -> list[str]:
    """Those of the files, which git took for binary ones, that are so for their size alone."""
    sizes: dict[str, int] = {}

    def take(output: bytes) -> None:
        sizes.update(git_output.sizes(output))

    await reader.in_pieces(
        ("ls-tree", "-r", "-l", "-z", "--full-tree", end, "--"), scan_reader.pieces_of_paths(paths), take
    )
    return [f"{path} ({size / 1e6:.0f} MB)" for path, size in sizes.items() if size > BIG_BYTES]


async def _sizes(reader: Reader, end: str, texts: Sequence[FileChange]) -> tuple[FileSize, ...]:
    """How many lines they have now: as many as differ from nothing."""
    lines: dict[str, int] = {}

    def take(output: bytes) -> None:
        found = git_output.changes(output).get("", ())
        lines.update((change.path, change.added) for change in found if change.added is not None)

    ask = (*_OF_TREES, "--numstat", "--raw", "--no-renames", await nothing(reader), end, "--")
    changed = [change for change in texts if change.added or change.deleted]
    await reader.in_pieces(ask, scan_reader.pieces_of_paths([change.path for change in changed]), take)
    return tuple(
        FileSize(change.path, max(0, lines[change.path] - (change.added or 0) + (change.deleted or 0)), now)
        for change in changed
        if (now := lines.get(change.path)) is not None
    )


async def _lines_of(
    reader: Reader, before: str, end: str, texts: Sequence[FileChange]
) -> tuple[tuple[AddedLine, ...], tuple[FunctionGrowth, ...]]:
    """The added lines with marks, and the functions that lines were added in."""
    wanted, long, room = list[FileChange](), list[str](), MAX_LINES
    for change in texts:
        if not change.added:
            continue
        number = _changed_lines(change)
        if number > min(room, MAX_LINES_OF_FILE):
            long.append(change.path)
        else:
            wanted.append(change)
            room -= number
    if long:
        bounds = f"{MAX_LINES_OF_FILE} of a file, {MAX_LINES} of all"
        reader.left_out.append(f"the lines of {scan_reader.some(long)}: too many are changed ({bounds})")
    lines = Lines(frozenset(change.path for change in wanted))
    ask = (*_OF_TREES, "--ignore-submodules=all", "-p", "-U0", *scan_reader.RENAMES, before, end, "--")
    pieces = (
        part
        for piece in scan_reader.pieces(wanted, _LINES_AT_ONCE, _changed_lines)
        for part in scan_reader.pieces(piece, scan_reader.PATHS_AT_ONCE)
    )
    refused = await reader.in_pieces(ask, pieces, lines.take, _both_paths)
    if refused:
        reader.left_out.append(
            f"the lines of {scan_reader.some([change.path for change in refused])}: they are too long"
        )
    if lines.beyond:
        reader.left_out.append(
            f"{lines.beyond} of the added lines with TODO, FIXME or XXX: {scan_lines.MAX_MARKED} are told"
        )
    functions = sorted(lines.functions.values(), key=lambda function: -function.added)
    if len(functions) > MAX_FUNCTIONS:
        reader.left_out.append(f"{len(functions) - MAX_FUNCTIONS} functions with fewer added lines than the others")
    return tuple(lines.marked), tuple(functions[:MAX_FUNCTIONS])


async def nothing(reader: Reader) -> str:
    """The name of the empty tree, which depends on how the repository names things."""
    return scan_reader.text(await reader.run("hash-object", "-t", "tree", os.devnull))


def _changed_lines(change: FileChange) -> int:
    return (change.added or 0) + (change.deleted or 0)


def _both_paths(change: FileChange) -> tuple[str, ...]:
    return (change.path,) if change.old_path is None else (change.old_path, change.path)
