"""What a remote's URL says: by which protocol to push to it, and which repository of GitHub it is.

It is taken as it is written, and only where it is wholly of a kind that we know. It may have been written by an agent,
and git reads some URLs as options, or as the name of a program.
"""

from __future__ import annotations

import re
from typing import Final

from darkfactory.devices.forge import no_remote

GITHUB: Final = "github.com"
WANTED: Final = "give the remote an https or ssh URL"
"""What to do about one that is none of ours."""

_HOST: Final = r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*)"
_PORT: Final = r"(?::(?P<port>[0-9]{1,5}))?"
_OF_HTTPS: Final = re.compile(rf"https://(?:[^@/]*@)?{_HOST}{_PORT}/(?P<path>.+)", re.IGNORECASE)
_OF_SSH: Final = re.compile(rf"ssh://(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?{_HOST}{_PORT}/(?P<path>.+)", re.IGNORECASE)
_OF_SCP: Final = re.compile(rf"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?{_HOST}:(?!//|:)(?P<path>.+)")
_OF_FILE: Final = re.compile(r"file://(?P<path>/.+)", re.IGNORECASE)
_SLUG: Final = re.compile(r"(?P<owner>[A-Za-z0-9_][A-Za-z0-9_.-]*)/(?P<name>[A-Za-z0-9_.][A-Za-z0-9_.-]*?)(?:\.git)?/?")


def is_url(remote: str) -> bool:
    """Whether it says itself where it is: no remote's name has a colon, or begins with a slash."""
    return ":" in remote or remote.startswith("/")


def protocol(url: str) -> str:
    """The one that the URL needs; CompoundReviewFailed if it is none of ours."""
    if url.startswith("/") or _OF_FILE.fullmatch(url):
        return "file"
    if _OF_HTTPS.fullmatch(url):
        return "https"
    if _OF_SSH.fullmatch(url) or _OF_SCP.fullmatch(url):
        return "ssh"
    if url.casefold().startswith("http:"):
        raise no_remote("nothing is pushed over http without TLS", WANTED)
    raise no_remote("the URL is neither https nor ssh nor a path", WANTED)


def without_login(url: str) -> str:
    """An https URL without the name and password in it: they would be seen in arguments and reports."""
    return re.sub(r"\A(https?://)[^/]*@", r"\1", url, flags=re.IGNORECASE)


def origin(url: str) -> str:
    """The scheme, host and port of an https URL: where its login is for."""
    match = _OF_HTTPS.fullmatch(url)
    assert match is not None
    return f"https://{_web_host(match)}"


def _web_host(match: re.Match[str]) -> str:
    port = match["port"]
    return match["host"].casefold() + (f":{port}" if port and port != "443" else "")


def slug(url: str) -> str | None:
    """`HOST/OWNER/REPO` of a URL; None of one that names no such repository."""
    if (match := _OF_HTTPS.fullmatch(url)) is not None:
        host = _web_host(match)
    elif (match := _OF_SSH.fullmatch(url) or _OF_SCP.fullmatch(url)) is not None:
        host = match["host"].casefold()  # its port is that of ssh
        host = GITHUB if host == "ssh.github.com" else host
    else:
        return None
    found = _SLUG.fullmatch(match["path"].removeprefix("/"))
    return f"{host}/{found['owner']}/{found['name']}" if found else None
