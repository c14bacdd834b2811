"""GitHub: a branch is pushed there, and a draft pull request opened, with a person's rights, by the real `gh`.

Two sides must not be trusted here. The repository's configuration can be written by agents: it could send our branch,
and our token with it, to an address of its choosing, or have a program run. And anybody who may open pull requests
can call a branch what ours are called. So

- a push starts from an empty repository of our own that borrows the objects: no hook, helper, `insteadOf`, proxy or
  command of the other's configuration is there. The URL alone is taken from it, and is what it says;
- one protocol is allowed, the URL's; over http without TLS nothing goes. At a remote that is a path of this machine no
  hook of that repository runs either, since it would run as us;
- a token goes to GitHub's own hosts and to the host that `gh` was logged in to for it. One that is in the environment
  for whatever GitHub Enterprise there is goes only where a person said so: to `GH_HOST`, or to the host in the fleet
  file. It is in the environment of one process, in no argument and in no file;
- `gh` runs in an empty directory, with an environment of its own and all that it asks answered no;
- pull requests that come from forks are none of ours.

Everything can be asked for again after a crash: a branch that is at the commit already, and a pull request that is
there already, are found and not made twice.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import trio
from attrs import define, field, frozen

from darkfactory.devices import place
from darkfactory.devices.command import absolute_path, last_words, printable, run_command
from darkfactory.devices.git import OBJECT, Git, GitError, Repository
from darkfactory.devices.process import Launcher, LaunchSpec
from darkfactory.errors import CompoundReviewFailed, SpawnFailed
from darkfactory.model.review import BRANCH_PREFIX

COMMAND_SECS: Final = 60.0
"""The longest that one `gh` may take."""
GRACE_SECS: Final = 1.0
MAX_OUTPUT_BYTES: Final = 8 * 1024**2
MOST_OPEN: Final = 1000
"""Open pull requests of a repository that are looked through for ours, whoever opened them."""
TITLE_LENGTH: Final = 200
BODY_LENGTH: Final = 60_000
"""GitHub takes 65,536 characters."""
TOLD_LENGTH: Final = 400
"""Of what `gh` and git said of a failure."""

_MARKER: Final = re.compile(r"<!-- darkfactory-finding: (\S{1,200}) -->")
_FIELDS: Final = "number,url,state,isDraft,headRefName,body"
_STATES: Final = {"OPEN": "open", "CLOSED": "closed", "MERGED": "merged"}
_URL: Final = re.compile(r"https://[!#-&(-;=?-\[\]-_a-~]{1,500}")
"""Of a page: nothing in it that would end it, in whatever it is written into."""
_OF_PULL_REQUEST: Final = re.compile(rf"{_URL.pattern}/pull/[1-9][0-9]{{0,17}}")

_HOST: Final = r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*)"
_PORT: Final = r"(?::(?P<port>[0-9]{1,5}))?"
_OF_HTTPS: Final = re.compile(rf"https://(?:[^@/]*@)?{_HOST}{_PORT}/(?P<path>.+)", re.IGNORECASE)
_OF_SSH: Final = re.compile(rf"ssh://(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?{_HOST}{_PORT}/(?P<path>.+)", re.IGNORECASE)
_OF_SCP: Final = re.compile(rf"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?{_HOST}:(?!//|:)(?P<path>.+)")
_OF_FILE: Final = re.compile(r"file://(?P<path>/.+)", re.IGNORECASE)
_SLUG: Final = re.compile(r"(?P<owner>[A-Za-z0-9_][A-Za-z0-9_.-]*)/(?P<name>[A-Za-z0-9_.][A-Za-z0-9_.-]*?)(?:\.git)?/?")
_REPOSITORY: Final = re.compile(
    r"(?:(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)/)?(?P<slug>[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+)"
)
_GITHUB: Final = "github.com"

_TOKENS: Final = ("GH_TOKEN", "GITHUB_TOKEN")
_TOKENS_FOR_ANY: Final = ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")
_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")
_OF_GH: Final = (
    "HOME",
    "XDG_CONFIG_HOME",
    "GH_CONFIG_DIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    *_PROXIES,
    *_TOKENS,
)
"""What `gh` gets of our environment. Where the desktop's keyring is belongs to it: `gh` keeps its logins there."""
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "NO_COLOR": "1",
    "CLICOLOR": "0",
    "DBUS_SESSION_BUS_ADDRESS": os.devnull,  # without one it would start a bus
    "GH_PROMPT_DISABLED": "1",
    "GH_NO_UPDATE_NOTIFIER": "1",
    "GH_NO_EXTENSION_UPDATE_NOTIFIER": "1",
    "GH_SPINNER_DISABLED": "1",
    "GH_TELEMETRY": "false",
    "GH_PAGER": "cat",
    "GH_EDITOR": "false",
    "GH_BROWSER": "false",
    # `gh pr create` asks git about remotes and the branch, and can do without: there shall be no repository
    "GIT_DIR": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none",
}
_SSH: Final = (
    "ssh -oBatchMode=yes -oConnectTimeout=20 -oForwardAgent=no -oForwardX11=no -oClearAllForwardings=yes"
    " -oPermitLocalCommand=no"
)
_RECEIVE: Final = (
    f"git -c core.hooksPath={os.devnull} -c core.fsmonitor=false -c core.alternateRefsCommand=false"
    " -c receive.denyCurrentBranch=refuse -c receive.autogc=false -c receive.updateServerInfo=false receive-pack"
)
"""The other side of a push to a path: it runs as us, and no program that is named in there does."""

_URL_WANTED: Final = "give the remote an https or ssh URL"
_NO_SLUG: Final = 'set github_repo = "OWNER/REPO" in [compound_review]'


@frozen
class Target:
    """Where branches and pull requests go."""

    url: str
    """Where to push: as the configuration has it, without the name and password that an https URL may hold."""
    repo: str | None
    """`HOST/OWNER/REPO` of the pull requests; None where nobody said, and the URL does not."""
    trusted: bool = False
    """A person named the host, not the repository's configuration, which agents may write to."""

    @property
    def host(self) -> str | None:
        """Of the pull requests, in small letters."""
        return self.repo.partition("/")[0].casefold() if self.repo else None


@frozen
class PullRequest:
    """One pull request."""

    number: int
    url: str
    state: str
    """"open", "closed" or "merged"."""
    draft: bool
    branch: str
    finding: str | None
    """The id that its text ends with."""


class Forge(Protocol):
    """Where reviews hand in what they have made. Whatever fails is a CompoundReviewFailed."""

    async def target(self, repo: Path, remote: str, github_repo: str | None) -> Target:
        """Where the branches of a repository go: "no_remote"; "no_repository", "git_failed"."""
        ...

    async def waiting(self, target: Target) -> tuple[PullRequest, ...]:
        """The open pull requests of reviews, the newest first.

        "no_remote" where nothing says which repository's; "gh_missing", "gh_logged_out", "pr_failed".
        """
        ...

    async def find(self, target: Target, branch: str, finding: str) -> PullRequest | None:
        """The pull request of a branch, in any state, or else an open one about the finding: what comes back is new.

        Fails as `waiting` does.
        """
        ...

    async def push(self, repo: Path, target: Target, commit: str, branch: str) -> None:
        """Make a branch at that commit over there; nothing to be done if it is there: "push_failed".

        A branch that is at another commit is left alone, and is a failure. "no_repository", "git_failed"; "gh_missing"
        and "gh_logged_out" where a token is needed.
        """
        ...

    async def open_draft(
        self, target: Target, *, branch: str, base: str, title: str, body: str, finding: str
    ) -> tuple[PullRequest, bool]:
        """The draft pull request of a branch that was pushed, and whether it was made now; fails as `waiting` does.

        One that is there already (see `find`) is taken, whatever its state.
        """
        ...


@define(eq=False)
class GitHub:
    """The forge that `gh` speaks to. Cancelled, whatever runs is ended first, with all that it started."""

    launcher: Launcher
    git: Git
    scratch: Path
    """A directory that is ours alone; made when it is needed, and empty again when nothing runs."""
    environ: Mapping[str, str] = field(repr=False)
    """Where PATH, HOME, tokens, proxies and certificates are taken from."""

    async def target(self, repo: Path, remote: str, github_repo: str | None) -> Target:
        """See `Forge.target`. Of several URLs the first one to push to is taken."""
        await trio.lowlevel.checkpoint()
        ours = _is_url(remote)
        url = remote if ours else await self._configured(repo, remote)
        if not url.isprintable() or url.startswith("-"):
            raise _no_remote("the URL is none", _URL_WANTED)
        if not _is_url(url):
            url = str(repo / url)
        url = _without_login(url)
        _protocol(url)
        if github_repo is None:
            slug = _slug(url)
            trusted = slug is not None and (ours or self._vouched(slug))
            return Target(url, slug, trusted)
        match = _REPOSITORY.fullmatch(github_repo)
        if match is None:
            raise _no_remote(f"github_repo = {github_repo!r} is no repository", "write it as [HOST/]OWNER/REPO")
        host = match["host"] or self.environ.get("GH_HOST") or _GITHUB
        return Target(url, f"{host}/{match['slug']}", trusted=True)

    async def _configured(self, repo: Path, remote: str) -> str:
        """The URL that a remote's branches are pushed to, without what the configuration would make of it."""
        repository = await self._open(repo)
        for key in ("pushurl", "url"):
            with suppress(GitError):
                told = await repository.run("config", "--null", "--get-all", f"remote.{remote}.{key}")
                return os.fsdecode(told).partition("\0")[0]
        remedy = "`git remote add` it, or set remote = to a URL in [compound_review]"
        raise _no_remote(f"{repo} has no remote called {remote}", remedy)

    async def _open(self, repo: Path) -> Repository:
        """The repository that a directory belongs to, or is."""
        found = await place.find_reviewed(self.git, repo)
        try:
            return await self.git.open(found.common)
        except GitError as error:
            raise CompoundReviewFailed("git_failed", _told(str(error))) from error

    def _vouched(self, slug: str) -> bool:
        host = slug.partition("/")[0].casefold()
        return host in (_GITHUB, self.environ.get("GH_HOST", "").casefold())

    async def waiting(self, target: Target) -> tuple[PullRequest, ...]:
        """See `Forge.waiting`."""
        return await self._list(target, "--state=open", f"--limit={MOST_OPEN}")

    async def find(self, target: Target, branch: str, finding: str) -> PullRequest | None:
        """See `Forge.find`."""
        found = await self._list(target, "--state=all", f"--head={branch}", "--limit=30")
        of_branch = [each for each in found if each.branch == branch]
        if of_branch:
            return _first(of_branch)
        return _first([each for each in await self.waiting(target) if each.finding == finding])

    async def push(self, repo: Path, target: Target, commit: str, branch: str) -> None:
        """See `Forge.push`."""
        assert OBJECT.fullmatch(commit), commit
        common = (await self._open(repo)).common
        protocol = _protocol(target.url)
        secrets, overrides = [], {}
        if protocol == "https" and (token := await self._token(target)) is not None:
            basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
            secrets = [token, basic]
            overrides[f"http.{_origin(target.url)}/.extraHeader"] = f"Authorization: Basic {basic}"
        options = [f"--receive-pack={_RECEIVE}"] if protocol == "file" else []
        ref = f"refs/heads/{branch}"
        try:
            with self._room() as room:
                empty = await self._borrowing(room / "git", common, commit)
                await self.git.run(
                    f"--git-dir={empty}",
                    "push",
                    "--porcelain",
                    "--no-verify",
                    "--no-follow-tags",
                    "--recurse-submodules=no",
                    f"--force-with-lease={ref}:",  # it must be new, or where it shall be: nothing is moved
                    *options,
                    "--",
                    target.url,
                    f"{commit}:{ref}",
                    variables=self._variables(protocol),
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
                    f"{branch} is at {target.url} already, at another commit",
                    "look at it there, and merge, rename or delete it",
                ) from error
            raise CompoundReviewFailed(
                "push_failed",
                f"{branch} could not be pushed to {target.url}: {_told(error.tail, secrets)}",
                _MAY_PUSH[protocol],
            ) from None  # what it was about may hold the token
        except OSError as error:
            raise CompoundReviewFailed("push_failed", f"{self.scratch} cannot be used: {error.strerror}") from error

    async def _borrowing(self, new: Path, common: Path, commit: str) -> Path:
        """A bare repository that has the objects of another one, and nothing else of it."""
        names = "sha256" if len(commit) == 64 else "sha1"
        await self.git.run("init", "--quiet", "--bare", "--template=", f"--object-format={names}", str(new))
        alternates = new / "objects" / "info" / "alternates"
        alternates.parent.mkdir(exist_ok=True)
        alternates.write_bytes(_quoted(os.fsencode(common / "objects")) + b"\n")
        (new / "shallow").write_text("".join(f"{name}\n" for name in _shallow(common / "shallow")))
        return new

    async def _token(self, target: Target) -> str | None:
        """What a push by https is allowed by; None where it goes to another host than the pull requests."""
        await trio.lowlevel.checkpoint()
        host = _origin(target.url).removeprefix("https://")
        if target.host != host:
            return None
        token = (await self._gh(target, "auth", "token", f"--hostname={host}")).strip()
        if not token or not token.isascii() or not token.isprintable():
            raise self._logged_out(host, "it has no token")
        return token

    def _variables(self, protocol: str) -> dict[str, str]:
        """What git gets of our environment for a push."""
        variables = {"GIT_ALLOW_PROTOCOL": protocol}
        if protocol == "ssh":
            wanted = {"HOME": "HOME", "SSH_AUTH_SOCK": "SSH_AUTH_SOCK"}
        elif protocol == "https":
            wanted = {"GIT_SSL_CAINFO": "SSL_CERT_FILE", "GIT_SSL_CAPATH": "SSL_CERT_DIR"}
            wanted |= {name: name for name in _PROXIES}
        else:
            wanted = {}
        return variables | {name: self.environ[ours] for name, ours in wanted.items() if ours in self.environ}

    async def open_draft(
        self, target: Target, *, branch: str, base: str, title: str, body: str, finding: str
    ) -> tuple[PullRequest, bool]:
        """See `Forge.open_draft`."""
        if (found := await self.find(target, branch, finding)) is not None:
            return found, False
        try:
            url = await self._create(target, branch, base, title, _body(body, finding))
        except CompoundReviewFailed as error:
            if error.outcome != "pr_failed":
                raise
            failure = error
        else:
            return PullRequest(int(url.rpartition("/")[2]), url, "open", True, branch, finding), True
        if (found := await self.find(target, branch, finding)) is None:
            raise failure
        return found, False  # somebody was faster, or the answer was lost

    async def _create(self, target: Target, branch: str, base: str, title: str, body: str) -> str:
        """Open a draft; its URL."""
        try:
            with self._room() as room:
                text = room / "body"
                text.write_text(body, encoding="utf-8", errors="replace")
                told = await self._gh(
                    target,
                    "pr",
                    "create",
                    "--draft",
                    f"--repo={target.repo}",
                    f"--head={branch}",
                    f"--base={base}",
                    f"--title={_title(title)}",
                    f"--body-file={text}",
                )
        except OSError as error:
            raise _scratch_fails(self.scratch, error) from error
        url = told.strip().rpartition("\n")[2]
        if not _OF_PULL_REQUEST.fullmatch(url):
            raise CompoundReviewFailed("pr_failed", f"gh did not say what it had made: {_told(url)}", _LOOK)
        return url

    async def _list(self, target: Target, *options: str) -> tuple[PullRequest, ...]:
        """Pull requests whose branches are of this repository and called what ours are called."""
        ours = f'map(select((.headRefName|startswith("{BRANCH_PREFIX}")) and (.isCrossRepository|not)))'
        wanted = (f"--json={_FIELDS},isCrossRepository", f"--jq={ours}")
        told = await self._gh(target, "pr", "list", f"--repo={target.repo}", *options, *wanted)
        try:
            return tuple(_pull_request(each) for each in json.loads(told))
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise CompoundReviewFailed(
                "pr_failed",
                f"what gh says of {target.repo} is no list of pull requests: {_told(str(error))}",
                _LOOK,
            ) from error

    async def _gh(self, target: Target, *argv: str) -> str:
        """Run `gh ARGV` for the target's host and return what it printed."""
        if target.host is None:
            raise _no_remote(f"nothing says which repository of GitHub {target.url} is", _NO_SLUG)
        env = self._environment(target)
        try:
            with self._room() as room:
                spec = LaunchSpec(
                    run_id=room.name,
                    argv=("gh", *argv),
                    env=env | {"XDG_STATE_HOME": str(room), "XDG_CACHE_HOME": str(room)},
                    cwd=room,
                    stdin=None,
                    stdout=room / ".out",
                    stderr=room / ".err",
                    max_output_bytes=MAX_OUTPUT_BYTES,
                )
                done = await run_command(self.launcher, spec, secs=COMMAND_SECS, grace_secs=GRACE_SECS)
        except SpawnFailed as failure:
            if failure.reason == "tool_missing":
                remedy = "install it (https://cli.github.com) on the PATH of the factory"
                raise CompoundReviewFailed("gh_missing", "there is no gh", remedy) from failure
            raise CompoundReviewFailed("pr_failed", f"gh could not be started: {failure.detail}") from failure
        except OSError as error:
            raise _scratch_fails(self.scratch, error) from error
        what = f"gh {argv[0]} {argv[1]}"
        if done.ended is not None:
            raise CompoundReviewFailed("pr_failed", f"{what} {done.ended}, and was ended", _LOOK)
        if done.exit_code != 0 or done.too_much:
            said = _told(last_words(done.stderr), [env[name] for name in (*_TOKENS, *_TOKENS_FOR_ANY) if name in env])
            if done.exit_code == 4 or "HTTP 401" in said or argv[0] == "auth":
                raise self._logged_out(target.host, said)
            raise CompoundReviewFailed("pr_failed", f"{what} at {target.repo}: {said or 'it said nothing'}", _LOOK)
        return done.stdout.decode(errors="replace")

    def _logged_out(self, host: str, said: str) -> CompoundReviewFailed:
        if host == _GITHUB or host.endswith(".ghe.com"):
            variable = "GH_TOKEN in its environment"
        else:
            variable = f"GH_HOST={host} and GH_ENTERPRISE_TOKEN in its environment"
        remedy = f"as the user of the factory `gh auth login --hostname {host}`, or set {variable}"
        return CompoundReviewFailed("gh_logged_out", f"gh is not logged in to {host}: {said}", remedy)

    def _environment(self, target: Target) -> dict[str, str]:
        names = (*_OF_GH, *(_TOKENS_FOR_ANY if target.trusted else ()))
        ours = {name: self.environ[name] for name in names if name in self.environ}
        return {**_ENVIRONMENT, **ours, "PATH": absolute_path(self.environ)}

    @contextmanager
    def _room(self) -> Iterator[Path]:
        """A directory for one command; nothing of it stays."""
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix="github-", dir=self.scratch))
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)


_LOOK: Final = "the next review tries it again; `gh pr list --repo HOST/OWNER/REPO` by hand tells more"
_MAY_PUSH: Final = {
    "https": "is the login of gh allowed to push there, and are the URL's host and that of github_repo the same?",
    "ssh": "can the user of the factory push there without being asked anything (its key, its known_hosts)?",
    "file": "is a bare repository there that belongs to the user of the factory?",
}


def _is_url(remote: str) -> bool:
    """Whether it says itself where it is: no remote's name has a colon, or begins with a slash."""
    return ":" in remote or remote.startswith("/")


def _protocol(url: str) -> str:
    """The one that the URL needs; CompoundReviewFailed if it is none of ours."""
    if url.startswith("/") or _OF_FILE.fullmatch(url):
        return "file"
    if _OF_HTTPS.fullmatch(url):
        return "https"
    if _OF_SSH.fullmatch(url) or _OF_SCP.fullmatch(url):
        return "ssh"
    if url.casefold().startswith("http:"):
        raise _no_remote("nothing is pushed over http without TLS", _URL_WANTED)
    raise _no_remote("the URL is neither https nor ssh nor a path", _URL_WANTED)


def _without_login(url: str) -> str:
    """An https URL without the name and password in it: they would be seen in arguments and reports."""
    return re.sub(r"\A(https?://)[^/]*@", r"\1", url, flags=re.IGNORECASE)


def _origin(url: str) -> str:
    match = _OF_HTTPS.fullmatch(url)
    assert match is not None
    return f"https://{_web_host(match)}"


def _web_host(match: re.Match[str]) -> str:
    port = match["port"]
    return match["host"].casefold() + (f":{port}" if port and port != "443" else "")


def _slug(url: str) -> str | None:
    """`HOST/OWNER/REPO` of a URL; None of one that names no such repository."""
    if (match := _OF_HTTPS.fullmatch(url)) is not None:
        host = _web_host(match)
    elif (match := _OF_SSH.fullmatch(url) or _OF_SCP.fullmatch(url)) is not None:
        host = match["host"].casefold()  # its port is that of ssh
        host = _GITHUB if host == "ssh.github.com" else host
    else:
        return None
    slug = _SLUG.fullmatch(match["path"].removeprefix("/"))
    return f"{host}/{slug['owner']}/{slug['name']}" if slug else None


def _pull_request(told: Any) -> PullRequest:
    """One of `gh pr list`. TypeError, ValueError or KeyError if it is not."""
    number, url, state, draft, branch, body = (told[name] for name in _FIELDS.split(","))
    if type(number) is not int or not isinstance(draft, bool) or not isinstance(branch, str):
        raise TypeError("a number, a draft or a branch is none")
    if not _URL.fullmatch(url) or not branch.startswith(BRANCH_PREFIX) or not branch.isprintable():
        raise ValueError("a URL or a branch is none")
    findings = [each for each in _MARKER.findall(body) if each.isprintable()]
    return PullRequest(number, url, _STATES[state], draft, branch, findings[-1] if findings else None)


def _first(found: list[PullRequest]) -> PullRequest | None:
    """The one that counts: open before merged before closed, then the newest."""
    order = ("open", "merged", "closed")
    return min(found, key=lambda each: (order.index(each.state), -each.number), default=None)


def _title(title: str) -> str:
    return "".join(c if c.isprintable() else " " for c in title).strip()[:TITLE_LENGTH] or "A finding of the review"


def _body(body: str, finding: str) -> str:
    """The text, and at its end what it is found again by; other such marks in it are taken away."""
    text = _MARKER.sub("", body)
    if len(text) > BODY_LENGTH:
        text = f"{text[:BODY_LENGTH]}\n\n(cut here)"
    return f"{text.rstrip()}\n\n<!-- darkfactory-finding: {finding} -->\n"


_SECRETS: Final = re.compile(r"\b(?:gh[a-z]_|github_pat_)\w{10,}|(?<=//)[^/\s@]+@|(?i:(?<=Authorization: ))\S+ \S+")


def _told(said: str, secrets: Iterable[str] = ()) -> str:
    """What somebody else said, fit for a report: no token, in one line, cut."""
    for secret in secrets:
        said = said.replace(secret, "***") if secret else said
    said = _SECRETS.sub("***", said)
    return printable(said)[:TOLD_LENGTH]


def _quoted(path: bytes) -> bytes:
    """A path as a list of alternates has it, whatever is in it."""
    return b'"' + b"".join(b"\\%03o" % byte if byte in b'"\\\n' else bytes((byte,)) for byte in path) + b'"'


def _shallow(path: Path) -> list[str]:
    """Where the history of a shallow repository ends; nothing of any other."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with open(descriptor, encoding="ascii", errors="replace") as file:  # noqa: PTH123 -- a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        return [line for line in file.read(1024**2).splitlines() if OBJECT.fullmatch(line)]


def _no_remote(detail: str, remedy: str) -> CompoundReviewFailed:
    return CompoundReviewFailed("no_remote", detail, remedy)


def _scratch_fails(scratch: Path, error: OSError) -> CompoundReviewFailed:
    return CompoundReviewFailed("pr_failed", f"{scratch} cannot be used: {error.strerror}")
