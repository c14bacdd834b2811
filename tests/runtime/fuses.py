"""Devices in which a bug of ours comes up at a given call."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import trio
from trio.testing import MockClock

from darkfactory.devices.machine import Machine
from darkfactory.devices.process import LaunchSpec, Process, Sink
from darkfactory.model.fleet import OrchestratorConfig
from darkfactory.testing import SimulatedMachine


class Bug(Exception):
    """Ours."""


@attrs.define
class Fuse:
    """Blows at the n-th call of any device."""

    left: int
    blown_in: str | None = None

    def burn(self, where: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.blown_in = where
            raise Bug


def fused(device: Any, fuse: Fuse, *methods: str) -> Any:
    """The device, whose calls burn the fuse before they do what they do."""

    class Fused:
        def __getattr__(self, name: str) -> Any:
            true = getattr(device, name)
            if name not in methods:
                return true

            def call(*args: Any, **kwargs: Any) -> Any:
                fuse.burn(name)
                return true(*args, **kwargs)

            return call

    return Fused()


def with_fuse(
    machine: SimulatedMachine, fuse: Fuse, *, process: tuple[str, ...], **devices: tuple[str, ...]
) -> Callable[[OrchestratorConfig], Any]:
    """How to open the machine with a fuse in `launch`, and in the named methods of its processes and devices."""

    class Launcher:
        def __getattr__(self, name: str) -> Any:
            return getattr(machine.launcher, name)

        async def launch(self, spec: LaunchSpec, sink: Sink) -> Process:
            fuse.burn("launch")
            return fused(await machine.launcher.launch(spec, sink), fuse, *process)  # type: ignore[no-any-return]

    @contextmanager
    def opened(config: OrchestratorConfig) -> Iterator[Machine]:
        with machine.open(config) as true:
            others = {name: fused(getattr(machine, name), fuse, *methods) for name, methods in devices.items()}
            yield attrs.evolve(true, launcher=Launcher(), **others)

    return opened


def blown_in_turn(
    simulated: Callable[[], SimulatedMachine],
    program: Callable[[SimulatedMachine, Fuse], Awaitable[None]],
    before_each: Callable[[int], None] = lambda _: None,
) -> set[str]:
    """Run it with a fuse that blows at the first call, at the second, and so on until none blows; where they did."""
    blown_in = set[str]()
    for call in itertools.count(1):
        before_each(call)
        machine, fuse = simulated(), Fuse(call)
        try:
            trio.run(program, machine, fuse, clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(f"at call {call}, in {fuse.blown_in}")
            raise
        if fuse.blown_in is None:
            break
        blown_in.add(fuse.blown_in)
    return blown_in
