"""What kind of file a path is, by the names that people and their tools give.

A repository is mostly not what somebody wrote by hand and could test: lock files, generated code, copies of other
people's libraries, pictures, prose. Whoever looks for untested or growing code must not see it in those.
"""

from __future__ import annotations

import re
from itertools import accumulate
from posixpath import basename
from typing import Final

_CODE: Final = frozenset(
    {
        *("py", "pyx", "pyi", "rb", "php", "pl", "pm", "lua", "tcl", "r", "jl"),
        *("js", "jsx", "mjs", "cjs", "ts", "tsx", "mts", "cts", "vue", "svelte", "coffee"),
        *("c", "h", "cc", "cpp", "cxx", "hh", "hpp", "hxx", "m", "mm", "rs", "go", "zig", "d", "nim", "v", "sv"),
        *("java", "kt", "kts", "scala", "groovy", "clj", "cljs", "cljc", "cs", "fs", "vb", "swift", "dart"),
        *("hs", "ml", "mli", "erl", "ex", "exs", "elm", "lisp", "scm", "sh", "bash", "zsh", "ps1", "sql", "sol"),
    }
)
"""Suffixes of source code."""
_PROSE: Final = frozenset({"md", "markdown", "rst", "txt", "adoc", "org", "tex", "po", "pot"})
_PROSE_NAMES: Final = frozenset({"changelog", "changes", "news", "readme", "license", "licence", "authors", "notice"})
_OTHERS_DIRECTORIES: Final = frozenset(
    {
        *("vendor", "vendored", "_vendor", "third_party", "third-party", "thirdparty", "external", "node_modules"),
        *("bower_components", "dist", "generated", "__generated__", "gen", "snapshots", "__snapshots__"),
    }
)
_ASIDE_DIRECTORIES: Final = frozenset(
    {"benchmark", "benchmarks", "bench", "doc", "docs", "example", "examples", "sample", "samples", "demo", "demos"}
)
_PUT_OFF: Final = re.compile(
    r"""(?:^|\s)(?:\#+|//+!?|/?\*+|--+|;+|%+|<!--|"{3}|'{3})\s*@?(TODO|FIXME|XXX)\b|^\s*(TODO|FIXME|XXX)\s*[:(]"""
)
"""A mark at the beginning of a comment, or of a line as `TODO: ...`; elsewhere somebody only speaks of it."""
_LINE_CHARS: Final = 1000
_NAME_CHARS: Final = 200
_BEFORE_TESTED: Final = ("test_", "test-", "tests_", "spec_")
_BEHIND_TESTED: Final = ("_test", "-test", "_tests", "_spec", "-spec", "tests", "test", "spec")
_GENERATED: Final = re.compile(
    r"\.min\.(js|css|mjs)$|[._-]generated\.|\.g\.(dart|cs|kt)$|_pb2(_grpc)?\.pyi?$|\.pb\.(go|cc|h)$"
    r"|\.designer\.(cs|vb)$|\.(map|snap|svg)$|^zz_generated"
)

LOCKS: Final[dict[str, tuple[str, ...]]] = {
    "package.json": (
        *("package-lock.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb", "npm-shrinkwrap.json"),
    ),
    "Cargo.toml": ("Cargo.lock",),
    "go.mod": ("go.sum",),
    "Gemfile": ("Gemfile.lock",),
    "Pipfile": ("Pipfile.lock",),
    "composer.json": ("composer.lock",),
    "mix.exs": ("mix.lock",),
    "pubspec.yaml": ("pubspec.lock",),
    "Package.swift": ("Package.resolved",),
    "flake.nix": ("flake.lock",),
    "deno.json": ("deno.lock",),
}
"""Manifests of projects that keep a lock file, and its possible names."""
_MANIFESTS: Final = frozenset(
    {
        *LOCKS,
        *("pyproject.toml", "setup.py", "setup.cfg", "environment.yml", "pom.xml", "build.gradle", "build.gradle.kts"),
        *("build.sbt", "packages.config", "Directory.Packages.props", "stack.yaml", "conanfile.txt", "vcpkg.json"),
    }
)
_REQUIREMENTS: Final = re.compile(r"(.*[-_.])?(requirements|constraints)([-_.].*)?\.(txt|in)")
_OTHER_LOCKS: Final = frozenset({"poetry.lock", "uv.lock", "pdm.lock", "pylock.toml", "gradle.lockfile"})
_LOCK_NAMES: Final = frozenset({*_OTHER_LOCKS, *(name for names in LOCKS.values() for name in names)})


def is_manifest(path: str) -> bool:
    """Whether a file says what a project depends on."""
    name = basename(path)
    return not _others(path) and (name in _MANIFESTS or _REQUIREMENTS.fullmatch(name) is not None)


def lock_files(path: str) -> frozenset[str]:
    """Where the lock file of a manifest may be: beside it, or further up in a workspace. Empty where it need not
    have one.
    """
    *directories, manifest = path.split("/")
    above = ("".join(f"{each}/" for each in directories[:depth]) for depth in range(len(directories) + 1))
    return frozenset(directory + name for directory in above for name in LOCKS.get(manifest, ()))


def is_made(path: str) -> bool:
    """Whether a program wrote the file, or other people did: lock files, generated and vendored ones."""
    name = basename(path)
    return name in _LOCK_NAMES or _others(path) or _GENERATED.search(name.casefold()) is not None


def is_prose(path: str) -> bool:
    """Whether the file is for reading."""
    return _suffix(path) in _PROSE or (not _suffix(path) and stem(path) in _PROSE_NAMES)


def is_code(path: str) -> bool:
    """Whether the file is source code that somebody wrote, tests included."""
    return _suffix(path) in _CODE and not is_made(path) and not is_manifest(path)


def is_aside(path: str) -> bool:
    """Whether the file only shows or measures something: nobody expects a test of it."""
    return _in(path, _ASIDE_DIRECTORIES)


def put_off(line: str) -> str | None:
    """TODO, FIXME or XXX, where a line marks with it work that was put off."""
    found = _PUT_OFF.search(line[:_LINE_CHARS])
    return None if found is None else found[1] or found[2]


def stem(path: str) -> str:
    """What a test of this file would be named after: its name without suffixes and case."""
    return basename(path).partition(".")[0].casefold()


def stems_of_test(path: str) -> frozenset[str]:
    """What a test may be named after: `parser` of `test_parser.py`, `parser.spec.ts`, `parser_test.go`,
    `ParserTest.java`, `test_parser_errors.py`, and of `parser.py` among the tests.
    """
    name = stem(path)
    bare = name
    for before in _BEFORE_TESTED:
        bare = bare.removeprefix(before)
    for behind in _BEHIND_TESTED:
        bare = bare.removesuffix(behind)
    words = bare[:_NAME_CHARS].replace("-", "_").split("_")
    lengths = accumulate(map(len, words), lambda length, more: length + 1 + more)
    return frozenset({name, bare, *(bare[:length] for length in lengths)})


def _others(path: str) -> bool:
    return _in(path, _OTHERS_DIRECTORIES)


def _in(path: str, directories: frozenset[str]) -> bool:
    return not directories.isdisjoint(path.casefold().split("/")[:-1])


def _suffix(path: str) -> str:
    before, _, suffix = basename(path).casefold().rpartition(".")
    return suffix if before else ""
