"""A branch is pushed, from a repository whose configuration must have no say in where to, or in what runs meanwhile.

It could be written by agents: it could send our branch, and our token with it, to an address of its choosing, or have a
program run. So

- a push starts from an empty repository of our own that borrows the objects: no hook, helper, `insteadOf`, proxy or
  command of the other's configuration is there. The URL alone is taken from it, and is what it says;
- one protocol is allowed, the URL's; over http without TLS nothing goes. At a remote that is a path of this machine no
  hook of that repository runs either, since it would run as us;
- a token is in the environment of one process, in no argument and in no file.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from darkfactory.devices import remote_url
from darkfactory.devices.forge import told
from darkfactory.devices.git import Git, GitError, shallow
from darkfactory.errors import CompoundReviewFailed

PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")
"""The variables by which git and `gh` are told of proxies."""
_SSH: Final = (
    "ssh -oBatchMode=yes -oConnectTimeout=20 -oForwardAgent=no -oForwardX11=no -oClearAllForwardings=yes"
    " -oPermitLocalCommand=no"
)
_RECEIVE: Final = (
    f"git -c core.hooksPath={os.devnull} -c core.fsmonitor=false -c core.alternateRefsCommand=false"
    " -c receive.denyCurrentBranch=refuse -c receive.autogc=false -c receive.updateServerInfo=false receive-pack"
)
"""The other side of a push to a path: it runs as us, and no program that is named in there does."""

_MAY_PUSH: Final = {
    "https": "is the login of gh allowed to push there, and are the URL's host and that of github_repo the same?",
    "ssh": "can the user of the factory push there without being asked anything (its key, its known_hosts)?",
    "file": "is a bare repository there that belongs to the user of the factory?",
}


async def push(
    git: Git,
    room: Path,
    common: Path,
    url: str,
    commit: str,
    branch: str,
    *,
    token: str | None,
    environ: Mapping[str, str],
) -> None:
    """Make a branch at that commit over there; see `Forge.push`.

    `room` is an empty directory, whose maker empties it again; `common` the repository that has the commit. `token` is
    sent to the URL's host, by https. Of `environ` git gets what the protocol needs.

    CompoundReviewFailed("push_failed"); OSError if the room cannot be used.
    """
    protocol = remote_url.protocol(url)
    secrets, overrides = [], {}
    if token is not None:
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        secrets = [token, basic]
        overrides[f"http.{remote_url.origin(url)}/.extraHeader"] = f"Authorization: Basic {basic}"
    options = [f"--receive-pack={_RECEIVE}"] if protocol == "file" else []
    ref = f"refs/heads/{branch}"
    try:
        empty = await _borrowing(git, room / "git", common, commit)
        await git.run(
            f"--git-dir={empty}",
            "push",
            "--porcelain",
            "--no-verify",
            "--no-follow-tags",
            "--recurse-submodules=no",
            f"--force-with-lease={ref}:",  # it must be new, or where it shall be: nothing is moved
            *options,
            "--",
            url,
            f"{commit}:{ref}",
            variables=_variables(protocol, environ),
            overrides={
                "core.sshCommand": _SSH,
                "ssh.variant": "ssh",
                "http.followRedirects": "false",
                **overrides,
            },
        )
    except GitError as error:
        if b"[rejected]" in error.output:
            raise CompoundReviewFailed(
                "push_failed",
                f"{branch} is at {url} already, at another commit",
                "look at it there, and merge, rename or delete it",
            ) from error
        raise CompoundReviewFailed(
            "push_failed",
            f"{branch} could not be pushed to {url}: {told(error.tail, secrets)}",
            _MAY_PUSH[protocol],
        ) from None  # what it was about may hold the token


async def _borrowing(git: Git, new: Path, common: Path, commit: str) -> Path:
    """A bare repository that has the objects of another one, and nothing else of it."""
    names = "sha256" if len(commit) == 64 else "sha1"
    await git.run("init", "--quiet", "--bare", "--template=", f"--object-format={names}", str(new))
    alternates = new / "objects" / "info" / "alternates"
    alternates.parent.mkdir(exist_ok=True)
    alternates.write_bytes(_quoted(os.fsencode(common / "objects")) + b"\n")
    (new / "shallow").write_text("".join(f"{name}\n" for name in sorted(shallow(common))))
    return new


def _variables(protocol: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What git gets of our environment for a push."""
    variables = {"GIT_ALLOW_PROTOCOL": protocol}
    if protocol == "ssh":
        wanted = {"HOME": "HOME", "SSH_AUTH_SOCK": "SSH_AUTH_SOCK"}
    elif protocol == "https":
        wanted = {"GIT_SSL_CAINFO": "SSL_CERT_FILE", "GIT_SSL_CAPATH": "SSL_CERT_DIR"}
        wanted |= {name: name for name in PROXIES}
    else:
        wanted = {}
    return variables | {name: environ[ours] for name, ours in wanted.items() if ours in environ}


def _quoted(path: bytes) -> bytes:
    """A path as a list of alternates has it, whatever is in it."""
    return b'"' + b"".join(b"\\%03o" % byte if byte in b'"\\\n' else bytes((byte,)) for byte in path) + b'"'
