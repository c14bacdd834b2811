"""Leases: what a run keeps to itself, or shares, of the directory that all agents work in.

Agents that change the same files at the same time undo each other's work. So an agent may `reserve` globs; a run of it
holds them as leases from its admission to its verdict, and a request waits while what it wants may meet what is taken.

Nothing can wait for ever here:

- **No deadlock.** A run gets all of its leases at its admission or is not admitted: nobody holds one and waits for
  another. Requests wait for runs, which wait for nobody, and for requests before them in the queue, which is in one
  order: nobody can wait for somebody who waits for him.
- **No starvation.** What a waiting request wants counts as taken for all requests behind it. So those that could go on
  sharing a lease with each other queue up behind one that wants it for itself.
- **No leak.** A lease is a field of its run and nothing else. It is gone with the run, however that ended; and a run
  that lived when the factory died is lost at the next start, and its processes are gone before anything begins.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, takewhile
from typing import Final, TypeVar

from attrs import define, field, frozen

from darkfactory.model.actions import Cause, Queue
from darkfactory.model.fleet import Reservation
from darkfactory.model.state import Run, State

_Ranges = tuple[tuple[int, int], ...]
"""The characters that stand at one place of a name: ranges of code points, both ends included."""
_Name = tuple[_Ranges | None, ...]
"""One part of a glob between slashes; None is any number of characters."""
_Path = tuple[_Name | None, ...]
"""A glob; None is any number of names."""

_Head = tuple[str, ...]

_Part = TypeVar("_Part")

_PIECE = re.compile(r"(?P<many>\*+)|\[(?P<not>[!^]?+)(?P<set>\][^\]]*|[^\]]+)\]|(?P<one>.)", re.DOTALL)
_LAST: Final = 0x10FFFF


@lru_cache(maxsize=2**15)
def intersects(one: str, other: str) -> bool:
    """Whether some path could match both globs; never False when there is one.

    `*` is any run of characters of one name, `?` one of them, `[a-z]` and `[!a-z]` one of a set; `**` as a whole name
    is any number of names, none included. A glob whose last name has no wildcard, or that ends with a slash, covers
    everything below it too. Takes time in proportion to the product of the two lengths.
    """
    return _meet(_path(one), _path(other), _names_meet)


def conflict(wanted: Reservation, held: Reservation) -> bool:
    """Whether the two may not be held at once by two agents."""
    return not (wanted.shared and held.shared) and intersects(wanted.glob, held.glob)


@frozen
class _Holder:
    agent: str
    run: str | None
    """None for a request that waits and came before."""


@define(eq=False)
class _Taken:
    """Reservations with those that hold them, in order; found by the names that their globs begin with."""

    _holders: dict[Reservation, list[_Holder]] = field(factory=dict)
    _at: dict[_Head, list[Reservation]] = field(factory=lambda: defaultdict(list))
    """Those that begin with just these names."""
    _below: dict[_Head, list[Reservation]] = field(factory=lambda: defaultdict(list))
    """Those that begin with these names and more."""

    def add(self, reservations: Iterable[Reservation], holder: _Holder) -> None:
        for reservation in reservations:
            holders = self._holders.setdefault(reservation, [])
            if not holders:
                head = _head(reservation.glob)
                self._at[head].append(reservation)
                for length in range(len(head)):
                    self._below[head[:length]].append(reservation)
            holders.append(holder)

    def in_the_way_of(self, wanted: Reservation) -> Iterator[tuple[Reservation, _Holder]]:
        head = _head(wanted.glob)
        near = [self._at.get(head[:length], ()) for length in range(len(head) + 1)]
        for taken in chain(*near, self._below.get(head, ())):
            if conflict(wanted, taken):
                yield from ((taken, holder) for holder in self._holders[taken])


@define(eq=False)
class Table:
    """What is taken while the gate is passed: by the runs that live, and by requests that were asked about and wait."""

    live: Callable[[], Iterable[Run]]
    """Every run without a verdict; not asked for before somebody wants a lease."""
    _taken: _Taken | None = None

    def begun(self, run: Run) -> None:
        """A run has its leases."""
        if self._taken is not None:
            self._taken.add(run.leases, _Holder(run.agent, run.id))

    def claim(self, agent: str, wanted: Iterable[Reservation]) -> None:
        """A request of that agent waits for its leases: they are taken for whoever comes after it."""
        self._filled().add(wanted, _Holder(agent, None))

    def obstacle(self, agent: str, wanted: Iterable[Reservation]) -> Queue | None:
        """What a request of that agent waits for; None when it can have all of its leases now.

        The agent itself is nobody it would have to wait for: it has one run at most.
        """
        for reservation in wanted:
            for taken, holder in self._filled().in_the_way_of(reservation):
                if holder.agent != agent:
                    return Queue("reserved", _told(reservation, taken, holder))
        return None

    def _filled(self) -> _Taken:
        if self._taken is None:
            self._taken = _Taken()
            for run in self.live():
                self._taken.add(run.leases, _Holder(run.agent, run.id))
        return self._taken


def obstacles(state: State) -> dict[tuple[str, Cause], Queue]:
    """For each request that waits for leases, by its key: on whom, now."""
    waiting = [request for request in state.queue.values() if request.waits_for == "reserved"]
    found: dict[tuple[str, Cause], Queue] = {}
    if not waiting:
        return found
    table = Table(lambda: [run for name in state.runs.values() if (run := state.agents[name].run) is not None])
    for request in waiting:
        wanted = state.agents[request.agent].definition.reserve
        obstacle = table.obstacle(request.agent, wanted)
        if obstacle is not None:
            found[request.key] = obstacle
            table.claim(request.agent, wanted)
    return found


def told(reservations: Iterable[Reservation]) -> list[object]:
    """Reservations as the journal has them, which is as the fleet file may have them."""
    return [{"glob": each.glob, "shared": True} if each.shared else each.glob for each in reservations]


def _told(wanted: Reservation, taken: Reservation, holder: _Holder) -> str:
    glob, theirs = _shown(wanted), _shown(taken)
    if holder.run is None:
        return f"{glob}: {holder.agent} asked before, for {theirs}"
    return f"{glob}: run {holder.run} of {holder.agent} has {theirs}"


def _shown(reservation: Reservation) -> str:
    return f"{reservation.glob} (shared)" if reservation.shared else reservation.glob


def _meet(one: Sequence[_Part | None], other: Sequence[_Part | None], meet: Callable[[_Part, _Part], bool]) -> bool:
    """Whether two patterns have something in common; None in them stands for any number of parts.

    Walks over the pairs of places that one and the same beginning can lead to in both, each pair once.
    """
    seen = {(0, 0)}
    ways = [(0, 0)]
    while ways:
        i, j = ways.pop()
        ahead: list[tuple[int, int]] = []
        if i == len(one) and j == len(other):
            return True
        any_here, any_there = i < len(one) and one[i] is None, j < len(other) and other[j] is None
        if any_here or (any_there and i < len(one)):
            ahead.append((i + 1, j))
        if any_there or (any_here and j < len(other)):
            ahead.append((i, j + 1))
        if i < len(one) and j < len(other) and not any_here and not any_there:
            here, there = one[i], other[j]
            assert here is not None
            assert there is not None
            if meet(here, there):
                ahead.append((i + 1, j + 1))
        ways += (way for way in ahead if way not in seen)
        seen.update(ahead)
    return False


def _names_meet(one: _Name, other: _Name) -> bool:
    return _meet(one, other, _ranges_meet)


def _ranges_meet(one: _Ranges, other: _Ranges) -> bool:
    return any(low <= other_high and other_low <= high for low, high in one for other_low, other_high in other)


@lru_cache(maxsize=2**12)
def _head(glob: str) -> _Head:
    """The names that every path begins with that the glob matches."""
    names = (name for name in glob.split("/") if name not in ("", "."))
    return tuple(takewhile(lambda name: not set(name) & set("*?["), names))


@lru_cache(maxsize=2**12)
def _path(glob: str) -> _Path:
    names = [name for name in glob.split("/") if name not in ("", ".")]
    path = [None if name == "**" else _name(name) for name in names]
    last = path[-1] if path else ()  # no name at all is the directory itself
    if glob.endswith("/") or (last is not None and all(map(_is_plain, last))):
        path.append(None)
    return tuple(path)


def _is_plain(place: _Ranges | None) -> bool:
    return place is not None and len(place) == 1 and place[0][0] == place[0][1]


def _name(text: str) -> _Name:
    places: list[_Ranges | None] = []
    for piece in _PIECE.finditer(text):
        if piece["many"] is not None:
            places.append(None)
        elif piece["one"] == "?":
            places.append(((0, _LAST),))
        elif piece["one"] is not None:
            places.append(_ranges(piece["one"]))
        else:
            ranges = _ranges(piece["set"])
            places.append(_all_but(ranges) if piece["not"] else ranges)
    return tuple(places)


def _ranges(text: str) -> _Ranges:
    """The inside of `[...]`. A range whose ends are the wrong way round is taken the right way."""
    found: list[tuple[int, int]] = []
    place = 0
    while place < len(text):
        first = last = ord(text[place])
        place += 1
        if text[place : place + 1] == "-" and place + 1 < len(text):
            last = ord(text[place + 1])
            place += 2
        found.append((min(first, last), max(first, last)))
    return tuple(found)


def _all_but(ranges: _Ranges) -> _Ranges:
    found: list[tuple[int, int]] = []
    low = 0
    for first, last in sorted(ranges):
        if low < first:
            found.append((low, first - 1))
        low = max(low, last + 1)
    if low <= _LAST:
        found.append((low, _LAST))
    return tuple(found)
