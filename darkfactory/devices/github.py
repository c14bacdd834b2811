"""GitHub: a branch is pushed there, and a draft pull request opened, with a person's rights, by the real `gh`.

Anybody who may open pull requests can call a branch what ours are called, and agents can write in the configuration
what GitHub's host is. So

- a token goes to GitHub's own hosts and to the host that `gh` was logged in to for it. One that is in the environment
  for whatever GitHub Enterprise there is goes only where a person said so: to `GH_HOST`, or to the host in the fleet
  file;
- `gh` runs in an empty directory, with an environment of its own and all that it asks answered no;
- pull requests that come from forks are none of ours.

How a push is kept from the configuration is told in `devices.pushing`. Everything can be asked for again after a crash:
a branch that is at the commit already, and a pull request that is there already, are found and not made twice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field

from darkfactory.devices import place, pushing, remote_url
from darkfactory.devices.command import absolute_path, last_words, run_command
from darkfactory.devices.forge import PullRequest, Target, no_remote, told
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

_MARKER: Final = re.compile(r"<!-- darkfactory-finding: (\S{1,200}) -->")
_FIELDS: Final = "number,url,state,isDraft,headRefName,body"
_STATES: Final = {"OPEN": "open", "CLOSED": "closed", "MERGED": "merged"}
_URL: Final = re.compile(r"https://[!#-&(-;=?-\[\]-_a-~]{1,500}")
"""Of a page: nothing in it that would end it, in whatever it is written into."""
_OF_PULL_REQUEST: Final = re.compile(rf"{_URL.pattern}/pull/[1-9][0-9]{{0,17}}")

_REPOSITORY: Final = re.compile(
    r"(?:(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)/)?(?P<slug>[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+)"
)

_TOKENS: Final = ("GH_TOKEN", "GITHUB_TOKEN")
_TOKENS_FOR_ANY: Final = ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")
_OF_GH: Final = (
    "HOME",
    "XDG_CONFIG_HOME",
    "GH_CONFIG_DIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    *pushing.PROXIES,
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
_NO_SLUG: Final = 'set github_repo = "OWNER/REPO" in [compound_review]'
_LOOK: Final = "the next review tries it again; `gh pr list --repo HOST/OWNER/REPO` by hand tells more"


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
        ours = remote_url.is_url(remote)
        url = remote if ours else await self._configured(repo, remote)
        if not url.isprintable() or url.startswith("-"):
            raise no_remote("the URL is none", remote_url.WANTED)
        if not remote_url.is_url(url):
            url = str(repo / url)
        url = remote_url.without_login(url)
        remote_url.protocol(url)
        if github_repo is None:
            slug = remote_url.slug(url)
            trusted = slug is not None and (ours or self._vouched(slug))
            return Target(url, slug, trusted)
        match = _REPOSITORY.fullmatch(github_repo)
        if match is None:
            raise no_remote(f"github_repo = {github_repo!r} is no repository", "write it as [HOST/]OWNER/REPO")
        host = match["host"] or self.environ.get("GH_HOST") or remote_url.GITHUB
        return Target(url, f"{host}/{match['slug']}", trusted=True)

    async def _configured(self, repo: Path, remote: str) -> str:
        """The URL that a remote's branches are pushed to, without what the configuration would make of it."""
        repository = await self._open(repo)
        for key in ("pushurl", "url"):
            with suppress(GitError):
                urls = await repository.run("config", "--null", "--get-all", f"remote.{remote}.{key}")
                return os.fsdecode(urls).partition("\0")[0]
        remedy = "`git remote add` it, or set remote = to a URL in [compound_review]"
        raise no_remote(f"{repo} has no remote called {remote}", remedy)

    async def _open(self, repo: Path) -> Repository:
        """The repository that a directory belongs to, or is."""
        found = await place.find_reviewed(self.git, repo)
        try:
            return await self.git.open(found.common)
        except GitError as error:
            raise CompoundReviewFailed("git_failed", told(str(error))) from error

    def _vouched(self, slug: str) -> bool:
        host = slug.partition("/")[0].casefold()
        return host in (remote_url.GITHUB, self.environ.get("GH_HOST", "").casefold())

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
        token = await self._token(target) if remote_url.protocol(target.url) == "https" else None
        try:
            with self._room() as room:
                await pushing.push(
                    self.git, room, common, target.url, commit, branch, token=token, environ=self.environ
                )
        except OSError as error:
            raise CompoundReviewFailed("push_failed", f"{self.scratch} cannot be used: {error.strerror}") from error

    async def _token(self, target: Target) -> str | None:
        """What a push by https is allowed by; None where it goes to another host than the pull requests."""
        await trio.lowlevel.checkpoint()
        host = remote_url.origin(target.url).removeprefix("https://")
        if target.host != host:
            return None
        token = (await self._gh(target, "auth", "token", f"--hostname={host}")).strip()
        if not token or not token.isascii() or not token.isprintable():
            raise self._logged_out(host, "it has no token")
        return token

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
                said = await self._gh(
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
        url = said.strip().rpartition("\n")[2]
        if not _OF_PULL_REQUEST.fullmatch(url):
            raise CompoundReviewFailed("pr_failed", f"gh did not say what it had made: {told(url)}", _LOOK)
        return url

    async def _list(self, target: Target, *options: str) -> tuple[PullRequest, ...]:
        """Pull requests whose branches are of this repository and called what ours are called."""
        ours = f'map(select((.headRefName|startswith("{BRANCH_PREFIX}")) and (.isCrossRepository|not)))'
        wanted = (f"--json={_FIELDS},isCrossRepository", f"--jq={ours}")
        said = await self._gh(target, "pr", "list", f"--repo={target.repo}", *options, *wanted)
        try:
            return tuple(_pull_request(each) for each in json.loads(said))
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise CompoundReviewFailed(
                "pr_failed",
                f"what gh says of {target.repo} is no list of pull requests: {told(str(error))}",
                _LOOK,
            ) from error

    async def _gh(self, target: Target, *argv: str) -> str:
        """Run `gh ARGV` for the target's host and return what it printed."""
        if target.host is None:
            raise no_remote(f"nothing says which repository of GitHub {target.url} is", _NO_SLUG)
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
            said = told(last_words(done.stderr), [env[name] for name in (*_TOKENS, *_TOKENS_FOR_ANY) if name in env])
            if done.exit_code == 4 or "HTTP 401" in said or argv[0] == "auth":
                raise self._logged_out(target.host, said)
            raise CompoundReviewFailed("pr_failed", f"{what} at {target.repo}: {said or 'it said nothing'}", _LOOK)
        return done.stdout.decode(errors="replace")

    def _logged_out(self, host: str, said: str) -> CompoundReviewFailed:
        if host == remote_url.GITHUB or host.endswith(".ghe.com"):
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


def _pull_request(said: Any) -> PullRequest:
    """One of `gh pr list`. TypeError, ValueError or KeyError if it is not."""
    number, url, state, draft, branch, body = (said[name] for name in _FIELDS.split(","))
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


def _scratch_fails(scratch: Path, error: OSError) -> CompoundReviewFailed:
    return CompoundReviewFailed("pr_failed", f"{scratch} cannot be used: {error.strerror}")
