"""What is known of a fault before it has a line: `convert` and `check` find, `load` knows the text."""

from __future__ import annotations

from attrs import frozen

from darkfactory.config.lines import Keys, dotted
from darkfactory.errors import Fault


class Misfit(ValueError):
    """One value that does not fit its key; whoever catches it knows where it stands.

    A ValueError because cattrs reads a KeyError out of a hook as "the key is missing".
    """

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


@frozen
class Finding:
    """A fault and the place in the tree where it was found."""

    keys: Keys
    problem: str
    remedy: str | None = None
    reads: tuple[Keys, ...] = ()
    """Other places that the rule looked at.

    Where one of them is at fault itself, what the rule says means nothing; and where `keys` were left to their
    default, one of these is what was written.
    """

    def fault(self, line: int | None = None) -> Fault:
        """The fault, at that line."""
        return Fault(dotted(self.keys), self.problem, line, self.remedy)
