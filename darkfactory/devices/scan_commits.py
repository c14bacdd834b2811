"""The commits of a scan: what each says of itself, and what it changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from attrs import evolve

from darkfactory.devices import git_output, scan_reader
from darkfactory.devices.git_output import Named, Names
from darkfactory.devices.scan_reader import Reader
from darkfactory.model.review import Commit, FileChange

MAX_COMMITS: Final = 1000
MAX_FILES_OF_COMMIT: Final = 300
MAX_CHANGES: Final = 20_000
"""Changed files that are told, of all commits together."""
_COMMITS_AT_ONCE: Final = 200
_FILES_AT_ONCE: Final = 1000
_OF_COMMITS: Final = ("log", "--no-walk=unsorted", "--diff-merges=first-parent", "--format=%H", *scan_reader.DIFF)


async def commits(reader: Reader, span: Sequence[str], shallow: frozenset[str]) -> tuple[Commit, ...]:
    """The commits in a span, as `git rev-list` takes it, the newest first. `shallow` is where a shallow clone ends."""
    shas = scan_reader.lines(await reader.run("rev-list", "--date-order", f"--max-count={MAX_COMMITS + 1}", *span))
    if len(shas) > MAX_COMMITS:
        number = int(await reader.run("rev-list", "--count", *span))
        reader.left_out.append(f"{number - MAX_COMMITS} of {number} commits: the newest {MAX_COMMITS} were looked at")
    shas = shas[:MAX_COMMITS]
    found: dict[str, Commit] = {}

    def take(output: bytes) -> None:
        found.update((commit.sha, commit) for commit in git_output.headers(output))

    ask = ("log", "--no-walk=unsorted", "-z", f"--format={git_output.HEADER}")
    refused = await reader.in_pieces(ask, scan_reader.pieces(shas, _COMMITS_AT_ONCE), take)
    if refused:
        reader.left_out.append(f"{scan_reader.some(refused)}: what they say of themselves is too long")
    ends = [sha for sha in shas if sha in shallow]
    if ends:
        reader.left_out.append(f"what {scan_reader.some(ends)} changed: the shallow clone ends there")
    changed = await _changes(reader, [sha for sha in shas if sha in found and sha not in shallow])
    told = ((sha, *changed.get(sha, ((), 0))) for sha in shas if sha in found)
    return tuple(evolve(found[sha], changes=changes, left_out=left_out) for sha, changes, left_out in told)


async def _changes(reader: Reader, shas: Sequence[str]) -> dict[str, tuple[tuple[FileChange, ...], int]]:
    """What each commit changed, and in how many files beyond those that are told."""
    named: dict[str, Names] = {}

    def take(output: bytes) -> None:
        named.update(git_output.names(output, MAX_FILES_OF_COMMIT))

    refused = await reader.in_pieces(
        (*_OF_COMMITS, "--name-status", scan_reader.SAME), scan_reader.pieces(shas, _COMMITS_AT_ONCE), take
    )
    if refused:
        reader.left_out.append(f"what {scan_reader.some(refused)} changed: more files than git can list for us")
    room, beyond = MAX_CHANGES, list[str]()
    for sha in (sha for sha in shas if sha in named):
        names = named[sha]
        names.told = names.told if len(names.told) <= room else []
        room -= len(names.told)
        if names.number > len(names.told):
            beyond.append(sha)
    if beyond:
        bounds = f"{MAX_FILES_OF_COMMIT} of a commit, {MAX_CHANGES} of all"
        reader.left_out.append(
            f"some or all of the files that {scan_reader.some(beyond)} changed: they are too many ({bounds})"
        )
    told = await _counted(reader, [sha for sha in shas if sha in named and sha not in beyond], named)
    for sha in beyond:
        told[sha] = await _counted_alone(reader, sha, named[sha].told)
    return {sha: (told.get(sha, ()), names.number - len(names.told)) for sha, names in named.items()}


async def _counted(
    reader: Reader, shas: Sequence[str], named: Mapping[str, Names]
) -> dict[str, tuple[FileChange, ...]]:
    """What commits changed, with the numbers of lines, and with renames where a look into the files is cheap."""
    found: dict[str, tuple[FileChange, ...]] = {}

    def take(output: bytes) -> None:
        found.update(git_output.changes(output))

    def pieces(shas: Iterable[str]) -> Iterator[list[str]]:
        return scan_reader.pieces(shas, _FILES_AT_ONCE, lambda sha: 1 + named[sha].number)

    ask = (*_OF_COMMITS, "--raw", "--numstat")
    await reader.in_pieces((*ask, scan_reader.SAME), pieces(shas), take)
    again = [sha for sha in shas if scan_reader.may_be_renames(found.get(sha, ()))]
    await reader.in_pieces((*ask, *scan_reader.RENAMES), pieces(again), take)
    return found


async def _counted_alone(reader: Reader, sha: str, told: Sequence[Named]) -> tuple[FileChange, ...]:
    """What one commit with very many files did to some of them."""
    found: dict[str, FileChange] = {}

    def take(output: bytes) -> None:
        found.update((change.path, change) for of in git_output.changes(output).values() for change in of)

    ask = (*_OF_COMMITS, "--raw", "--numstat", "--no-renames", sha, "--")
    await reader.in_pieces(
        ask, scan_reader.pieces_of_paths([name.path for name in told if name.old_path is None]), take
    )
    return tuple(found.get(name.path) or FileChange(name.path, name.status[0], old_path=name.old_path) for name in told)
