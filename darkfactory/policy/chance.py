"""Chance that can be replayed.

Jitter and run ids want randomness, and deciding must be a function: so each draw is a hash of a seed and of what it
is drawn for.
"""

from __future__ import annotations

try:
    from _blake2 import blake2b  # what is around it brings OpenSSL: 4 MiB
except ImportError:
    from hashlib import blake2b


def fraction(*of: object) -> float:
    """A number in [0, 1), always the same for the same arguments, which are told apart by their str."""
    return int.from_bytes(_digest(of, 7)) / (1 << 56)


def token(*of: object) -> str:
    """Six hex digits, always the same for the same arguments."""
    return _digest(of, 3).hex()


def _digest(of: tuple[object, ...], size: int) -> bytes:
    return blake2b("\0".join(map(str, of)).encode(), digest_size=size).digest()
