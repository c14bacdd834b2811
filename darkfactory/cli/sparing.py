"""What the running command does without: a fifth of the memory of a supervisor, which is to run for months.

The libraries that it stands on import more than is used of them here: structlog rich and asyncio, Trio ssl, both of
which bring OpenSSL. What can be missed is hidden from them; the others get something in place of a module that becomes
the module when it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Have whoever can do without these modules do without them, unless they were imported before."""
    with _instead(dict.fromkeys(names)):  # None makes an import fail
        yield


@contextmanager
def postponed(*names: str) -> Iterator[None]:
    """Have whoever imports these modules meanwhile import them when he first takes something from them."""
    with _instead({name: _stand_in(name) for name in names}):
        yield


@contextmanager
def _instead(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    new = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(new)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in new.items():
            if sys.modules.get(name) is module:  # else it was taken from, and is there
                del sys.modules[name]


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)

    def take(attribute: str) -> object:
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    module.__getattr__ = take  # type: ignore[method-assign]
    return module
