"""Names of branches, remotes and repositories in a fleet file, by git's and GitHub's rules.

They come to stand on command lines of git and gh, so what could be taken for an option, a transport that runs a
program or a secret is refused here, and not shown where it may be one.
"""

from __future__ import annotations

import re

from darkfactory.config import words
from darkfactory.config.finding import Misfit

_NEVER = re.compile(r"[ ~^:?*\[\\]|\.\.|@\{|//")
"""What no name of a branch or a remote holds (`git check-ref-format`), besides what cannot be printed."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_USER = r"[A-Za-z0-9._][A-Za-z0-9._-]*"
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*"
_SCP = re.compile(rf"(?:{_USER}@)?{_HOST}:(?!:|//)[^:@]+")
"""`[USER@]HOST:PATH`; a second colon or @ would be a password's."""
_GITHUB_REPO = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::(?P<port>[0-9]{1,5}))?/)?"
    r"[A-Za-z0-9][A-Za-z0-9_-]*/(?P<repo>[A-Za-z0-9._-]{1,100})"
)
_REMOTE_REMEDY = 'write the name of a remote, as "origin", an https or ssh address, or an absolute path'


def branch(name: str) -> None:
    """Misfit for what can be no branch's name."""
    if name.startswith("refs/heads/"):
        raise Misfit(f"{words.shown(name)} is the name of a ref", f"write {name.removeprefix('refs/heads/')!r}")
    if not _fits_a_ref(name) or name == "HEAD":
        raise Misfit(f"{words.shown(name)} can be no branch's name", 'see git check-ref-format; mostly it is "main"')


def remote(text: str) -> None:
    """Misfit for what is neither a remote's name nor an address that a branch may be pushed to.

    The text is not told: somebody may have put a password into it.
    """
    if "${" in text:
        raise Misfit("'${...}' is not expanded here", "leave tokens to gh and git; see docs/review.md")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise Misfit("holds a blank or what cannot be printed", _REMOTE_REMEDY)
    if url := _SCHEME.fullmatch(text):
        _url(url[1].lower(), url[2])
    elif not (text.startswith("/") or _SCP.fullmatch(text) or _fits_a_ref(text)):
        raise Misfit("is neither a remote's name nor an address to push to", _REMOTE_REMEDY)


def github_repo(text: str) -> None:
    """Misfit for what is not `[HOST[:PORT]/]OWNER/REPO`; it is not told, as above."""
    found = _GITHUB_REPO.fullmatch(text)
    if (
        found is None
        or found["repo"] in {".", ".."}
        or found["repo"].endswith(".git")
        or (found["port"] is not None and not 1 <= int(found["port"]) <= 65535)
    ):
        remedy = 'such as "owner/repo" or "github.example.org/owner/repo": no https://, and no .git'
        raise Misfit("is not [HOST[:PORT]/]OWNER/REPO", remedy)


def _url(scheme: str, rest: str) -> None:
    authority, _, path = rest.partition("/")
    if scheme in {"http", "git"}:
        raise Misfit(f"{scheme}:// is not encrypted: whoever listens can read and change what is pushed", "https://")
    if scheme not in {"https", "ssh", "file"}:
        raise Misfit("is an address of a kind that is not pushed to", _REMOTE_REMEDY)
    user, at, host = authority.rpartition("@")
    # In an https address the user's name is often a token itself; ssh asks for none.
    if at and (scheme != "ssh" or ":" in user):
        raise Misfit("holds a user's name or password, which may be a secret", "leave out all before the @")
    of_a_machine = re.fullmatch(rf"{_HOST}(?::[0-9]{{1,5}})?", host) if scheme != "file" else not host
    if not of_a_machine or (at and not re.fullmatch(_USER, user)) or not path:
        raise Misfit("is no whole address", "such as https://github.com/owner/repo.git")


def _fits_a_ref(name: str) -> bool:
    return (
        bool(name)
        and name != "@"
        and name.isprintable()
        and not name.startswith(("-", "/"))
        and not name.endswith(("/", "."))
        and _NEVER.search(name) is None
        and not any(part.startswith(".") or part.endswith(".lock") for part in name.split("/"))
    )
