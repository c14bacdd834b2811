"""`${VAR}` and `~`: what a fleet file takes from the environment, in the few places where it may.

Nothing here puts a value into a message, neither the environment's nor the file's own: both may be secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from darkfactory.config.finding import Misfit

_DOLLAR = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<broken>\{))")
"""A `$` before anything else stands for itself, so most passwords need no `$$`."""


def variables(text: str, environ: Mapping[str, str]) -> str:
    """The text with `${VAR}` replaced and `$$` as `$`; Misfit where a variable is unset or not well formed."""
    if any(found["broken"] for found in _DOLLAR.finditer(text)):
        raise Misfit("'${' is not followed by a variable's name and '}'", "write ${NAME}, or $${ for a plain ${")
    names = dict.fromkeys(found["name"] for found in _DOLLAR.finditer(text) if found["name"])
    unset = [name for name in names if name not in environ]
    if unset:
        raise Misfit(f"not set in the environment: {', '.join(unset)}", "set it, or write $$ for a plain $")
    return _DOLLAR.sub(lambda found: "$" if found["dollar"] else environ[found["name"]], text)


def path(text: str, *, base: Path, environ: Mapping[str, str]) -> Path:
    """A path, with a leading `~` as the environment's HOME, variables replaced, and relative to `base`."""
    home = ""
    if text == "~" or text.startswith("~/"):
        home, text = environ.get("HOME", ""), text[1:]
        if not home:
            raise Misfit("'~' needs the environment variable HOME, which is not set", "write the whole path")
    elif text.startswith("~"):
        raise Misfit("only one's own '~/' is expanded, not another user's", "write the whole path")
    expanded = home + variables(text, environ)
    if not expanded:
        raise Misfit("a path must not be empty")
    return base / expanded
