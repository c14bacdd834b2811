"""How a scan asks git: in pieces that fit into a command and its answer, and with a note of what had to be left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio
from attrs import define, field

from darkfactory.devices import threads
from darkfactory.devices.command import printable
from darkfactory.devices.git import OBJECT, GitError, Repository
from darkfactory.model.review import FileChange

PATHS_AT_ONCE: Final = 200
_PATH_BYTES_AT_ONCE: Final = 100_000
"""A command may be given so many bytes of words, and no more (ARG_MAX)."""
RENAMES: Final = ("-M", "-l200")
SAME: Final = "-M100%"
"""Renames of files that are the same: they are found without a look into any."""
_SHOWN: Final = 3
"""Names that a sentence has."""
DIFF: Final = ("--no-ext-diff", "--no-textconv", "--ignore-submodules=none", "-z")

_T = TypeVar("_T")


@define(eq=False)
class Reader:
    """One repository, and what is not known of it."""

    repository: Repository
    index: Path
    """A file that is not there: the checkout's index would have a say in what files are binary."""
    limiter: trio.CapacityLimiter
    left_out: list[str] = field(factory=list)
    """In sentences: what was not looked at."""

    async def run(self, *argv: str, silent: bool = False) -> bytes:
        """See `Repository.run`."""
        return await self.repository.run(*argv, index=self.index, silent=silent)

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """See `threads.run_sync`."""
        return await threads.run_sync(work, limiter=self.limiter)

    async def in_pieces(
        self,
        argv: Sequence[str],
        pieces: Iterable[Sequence[_T]],
        take: Callable[[bytes], None],
        words: Callable[[_T], Iterable[str]] = lambda item: (str(item),),
    ) -> list[_T]:
        """Ask about pieces, one after the other; where there is too much to say, about halves of them.

        What is too much alone is left out, and comes back. What git says is taken in a thread.
        """
        refused: list[_T] = []
        for whole in pieces:
            waiting = [whole]
            while waiting:
                piece = waiting.pop()
                try:
                    output = await self.run(*argv, *(word for item in piece for word in words(item)))
                except GitError as error:
                    if not error.too_much:
                        raise
                    half = len(piece) // 2
                    if half == 0:
                        refused += piece
                    else:
                        waiting += [piece[half:], piece[:half]]
                else:
                    await self.in_thread(partial(take, output))
        await trio.lowlevel.checkpoint()
        return refused


def may_be_renames(changes: Iterable[FileChange]) -> bool:
    """Whether files that came may be files that went; if there are binary ones, nobody compares them."""
    changes = tuple(changes)
    kinds = {change.status for change in changes}
    return {"A", "D"} <= kinds and all(change.added is not None for change in changes if change.status in "AD")


def pieces_of_paths(paths: Iterable[str]) -> Iterator[list[str]]:
    """Paths in pieces that fit into a command's words."""
    for piece in pieces(paths, _PATH_BYTES_AT_ONCE, lambda path: len(os.fsencode(path)) + 1):
        yield from pieces(piece, PATHS_AT_ONCE)


def pieces(items: Iterable[_T], size: int, weight: Callable[[_T], int] = lambda _: 1) -> Iterator[list[_T]]:
    """Cut into pieces that weigh no more than `size`, but for single items that do."""
    piece: list[_T] = []
    weighs = 0
    for item in items:
        more = weight(item)
        if piece and weighs + more > size:
            yield piece
            piece, weighs = [], 0
        piece.append(item)
        weighs += more
    if piece:
        yield piece


def some(names: Sequence[str], shown: int = _SHOWN) -> str:
    """A few of the names, and how many more there are; safe to print."""
    told = ", ".join(printable(name[:12] if OBJECT.fullmatch(name) else name) for name in names[:shown])
    return told if len(names) <= shown else f"{told} and {len(names) - shown} more"


def text(output: bytes) -> str:
    """What was printed, without the ends of its lines."""
    return os.fsdecode(output).strip()


def lines(output: bytes) -> list[str]:
    """Its lines, each of which has an end."""
    return os.fsdecode(output).split("\n")[:-1]
