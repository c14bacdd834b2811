"""Git repositories for tests: made by the real git, with an identity of their own and nobody's configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from attrs import frozen

ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@localhost",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@localhost",
}


@frozen
class Checkout:
    """A directory with files under git, as a person works in it."""

    path: Path

    @classmethod
    def begun(cls, path: Path) -> Checkout:
        """A repository with one commit on main: `README` and `sub/file`."""
        path.mkdir(parents=True)
        made = cls(path)
        made.git("init", "--quiet", "--initial-branch=main")
        made.write("README", "read me\n")
        made.write("sub/file", "one\n")
        made.commit("the beginning")
        return made

    def git(self, *argv: str) -> str:
        env = ENV | {"HOME": str(self.path.parent)}
        done = subprocess.run(
            ["git", *argv], cwd=self.path, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def commit(self, subject: str) -> str:
        """Commit everything; the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def branches(self) -> dict[str, str]:
        lines = self.git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads").splitlines()
        return dict(line.split(" ") for line in lines)

    def files(self, commit: str) -> dict[str, str]:
        """What a commit has in its files."""
        names = self.git("ls-tree", "-r", "--name-only", commit).splitlines()
        return {name: self.git("show", f"{commit}:{name}") for name in names}

    def subjects(self, commit: str) -> list[str]:
        return self.git("log", "--format=%s", commit).splitlines()
