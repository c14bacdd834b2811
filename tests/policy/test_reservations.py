"""Leases: which globs are in each other's way, and how requests wait for them at the gate."""

from __future__ import annotations

import itertools
import re

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from darkfactory.model.actions import Admit, Queue
from darkfactory.model.ends import Reason
from darkfactory.model.fleet import AgentDefinition, AgentLayer, LayerConfig, Overlap, Reservation, Strategy
from darkfactory.policy.reservations import Table, conflict, intersects, obstacles

from .world import CORE, EPOCH, GROWTH, SAFETY, STEADY, World, agent, fleet

UNTIMED = settings(deadline=None)

# --- globs


def as_regex(glob: str) -> re.Pattern[str]:
    """An independent reading of the documentation: a glob as a regular expression over whole paths."""
    names = [name for name in glob.split("/") if name and name != "."]
    below = glob.endswith("/") or not names or not re.search(r"[*?]|\[.", names[-1])
    regex = ""
    for name in names:
        regex += "(?:/[^/]+)*" if name == "**" else "/" + as_name(name)
    return re.compile(regex + ("(?:/[^/]+)*" if below else ""), re.DOTALL)


def as_name(name: str) -> str:
    regex, place = "", 0
    while place < len(name):
        char = name[place]
        end = name.find("]", place + 3 if name[place + 1 : place + 2] in ("!", "^") else place + 2)
        if char == "*":
            regex += "[^/]*"
        elif char == "?":
            regex += "[^/]"
        elif char == "[" and end > 0:
            inside = name[place + 1 : end]
            negated = "^" if inside[0] in "!^" else ""
            regex += f"(?=[^/])[{negated}{''.join(map(quoted, inside[1:] if negated else inside))}]"
            place = end
        else:
            regex += re.escape(char)
        place += 1
    return regex


def quoted(char: str) -> str:
    return char if char == "-" else re.escape(char)


def matches(glob: str, path: str) -> bool:
    return as_regex(glob).fullmatch("/" + path) is not None


CHARS = "abc."
PATH_NAMES = st.text(CHARS, min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(PATH_NAMES, min_size=1, max_size=4).map("/".join)
PIECES = st.one_of(
    st.sampled_from([*CHARS, "*", "?", "**", "[ab]", "[!ab]", "[^c]", "[a-c]", "[!a-b]", "[b-]", "[]a]", "[!]]", "["])
)
NAMES = st.one_of(st.just("**"), st.lists(PIECES, min_size=1, max_size=4).map("".join))
GLOBS = st.builds(
    lambda names, tail: "/".join(names) + tail, st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["", "", "/"])
)


@st.composite
def globs_of(draw: st.DrawFn, path: str) -> str:
    """A glob that matches the path: names and characters of it give way to wildcards that allow them."""
    names: list[str] = []
    for name in path.split("/"):
        match draw(st.integers(0, 5)):
            case 0:
                names.append("**")
            case 1:
                names.append("*")
            case 2:
                names += ["**", name]
            case _:
                names.append(
                    "".join(draw(st.sampled_from([c, c, c, "?", "*", f"[{c}x]", "[!z]", c + "*"])) for c in name)
                )
    if draw(st.booleans()):
        names = [*names[: draw(st.integers(0, len(names)))], "**"]
    return "/".join(names)


@UNTIMED
@given(st.data(), PATHS)
def test_two_globs_that_match_one_path_are_in_each_others_way(data: st.DataObject, path: str) -> None:
    one, other = data.draw(globs_of(path)), data.draw(globs_of(path))
    assert matches(one, path)
    assert matches(other, path)
    assert intersects(one, other)


@UNTIMED
@given(GLOBS, GLOBS, st.lists(PATHS, max_size=5))
def test_no_path_matches_two_globs_that_are_not_in_each_others_way(one: str, other: str, paths: list[str]) -> None:
    assert intersects(one, other) is intersects(other, one)
    assert intersects(one, one)
    if not intersects(one, other):
        assert not [path for path in paths if matches(one, path) and matches(other, path)]


ATOMS = st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]"])
ONE_NAME = st.lists(ATOMS, min_size=1, max_size=3).map("".join)
SHORT_NAMES = st.lists(st.just("**") | ATOMS, min_size=1, max_size=3).map("/".join)
"""Globs of three parts at most: what two of them share, if anything, shows in a path of six."""
SIX = [parts for length in range(1, 7) for parts in itertools.product("abx", repeat=length)]


@UNTIMED
@given(
    st.lists(st.builds(Reservation, GLOBS | PATHS, st.booleans()), max_size=8), st.builds(Reservation, GLOBS | PATHS)
)
def test_the_table_finds_what_is_in_the_way_if_anything_is(taken: list[Reservation], wanted: Reservation) -> None:
    table = Table(tuple)
    for number, reservation in enumerate(taken):
        table.claim(str(number), [reservation])
    in_the_way = [str(number) for number, reservation in enumerate(taken) if conflict(wanted, reservation)]
    found = table.obstacle("me", [wanted])
    assert (found is not None) is bool(in_the_way)
    assert found is None or found.detail.split()[1] in in_the_way
    if in_the_way == ["0"]:
        assert table.obstacle("0", [wanted]) is None, "nobody is in his own way"


@pytest.mark.parametrize(("globs", "between"), [(ONE_NAME, ""), (SHORT_NAMES, "/")], ids=["names", "paths"])
@UNTIMED
@given(data=st.data())
def test_globs_that_are_in_each_others_way_have_a_path_in_common(
    data: st.DataObject, globs: st.SearchStrategy[str], between: str
) -> None:
    """So it is exact, besides never saying no wrongly."""
    one, other = data.draw(globs), data.draw(globs)
    both = re.compile(f"(?={as_regex(one).pattern}$){as_regex(other).pattern}$")
    assert intersects(one, other) is any(both.match("/" + between.join(parts)) is not None for parts in SIX)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src/**", "docs/**"),
        ("src/*.py", "src/*.md"),
        ("src/*.py", "src/core/*.py"),
        ("a*c", "b*c"),
        ("a*b", "a*c"),
        ("[a-m]*", "[n-z]*"),
        ("[!a]", "a"),
        ("?", "??"),
        ("*.md", "docs/**/*.md"),
        ("src/core", "src/cores"),
        ("src/core/", "src/other"),
        ("**/*.py", "**/*.md"),
        ("a/**/b*", "a/**/c*"),
        ("README.md", "readme.md"),
        ("src/*", "src/a/b.py"),
    ],
)
def test_these_are_not_in_each_others_way(one: str, other: str) -> None:
    assert not intersects(one, other)
    assert not intersects(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src", "src/core/a.py"),
        ("src/", "src/core/**"),
        ("src/core", "**/a.py"),
        ("docs/**", "docs"),
        ("**", "Makefile"),
        (".", "src/a"),
        ("./src//core", "src/core/x"),
        ("*", ".hidden"),
        ("src/*/tests", "src/core/tests/deep/x.py"),
        ("src/t*", "src/*.py"),
        ("a**b", "axb"),
        ("[]]", "]"),
        ("[", "[/x"),
        ("a/**/b", "a/**/c"),
        ("**/x/**", "a/x"),
    ],
)
def test_these_are(one: str, other: str) -> None:
    assert intersects(one, other)
    assert intersects(other, one)


def test_shared_reservations_conflict_with_exclusive_ones_alone() -> None:
    mine, shared = Reservation("docs/**"), Reservation("docs/*.md", shared=True)
    assert conflict(mine, mine)
    assert conflict(mine, shared)
    assert conflict(shared, mine)
    assert not conflict(shared, evolve(mine, shared=True))
    assert not conflict(mine, Reservation("src"))


def test_long_patterns_full_of_wildcards_take_no_time_to_speak_of() -> None:
    """One that tried all ways would take longer than the universe has lasted."""
    assert not intersects("*a" * 127 + "b", "a*" * 127 + "c")
    assert not intersects("**/a/" * 51 + "b*", "a/**/" * 51 + "c*")


# --- the gate


def asking(name: str, *globs: str | Reservation, **fields: object) -> AgentDefinition:
    """An agent on demand that reserves these."""
    reserve = tuple(Reservation(glob) if isinstance(glob, str) else glob for glob in globs)
    return agent(name, GROWTH, reserve=reserve, **fields)


def shared(glob: str) -> Reservation:
    return Reservation(glob, shared=True)


def waits(answer: object) -> str:
    """On whom a request waits, that must wait for a lease."""
    assert isinstance(answer, Queue)
    assert answer.reason == "reserved"
    return answer.detail


def test_a_request_waits_for_the_run_that_has_what_it_reserves_and_says_so() -> None:
    world = World.begun(asking("a", "src/**"), asking("b", "docs", "src/*.py"), asking("c", "tests"))
    world.asks("a", 10)
    held_by = world.run_of("a")
    assert waits(world.asks("b", 11)) == f"src/*.py: run {held_by} of a has src/**"
    assert isinstance(world.asks("c", 12), Admit)
    (queued,) = world.kinds("queued")
    assert (queued.data["reason"], queued.data["detail"]) == ("reserved", f"src/*.py: run {held_by} of a has src/**")
    world.ends("a", Reason.SUCCEEDED, 20)
    assert world.starts("b") == [20]


def test_leases_are_in_the_state_and_in_the_journal_while_the_run_lives() -> None:
    world = World.begun(asking("a", "src/**", shared("docs")), asking("b"))
    world.asks("a", 10)
    run = world.state.agents["a"].run
    assert run is not None
    assert run.leases == (Reservation("src/**"), shared("docs"))
    world.asks("b", 10)
    (with_leases, without) = world.kinds("run_begun")
    assert with_leases.data["leases"] == ["src/**", {"glob": "docs", "shared": True}]
    assert "leases" not in without.data


def test_shared_leases_are_held_together_and_an_exclusive_one_waits_for_all_of_them() -> None:
    world = World.begun(asking("a", shared("docs")), asking("b", shared("docs/*.md")), asking("c", "docs/x.md"))
    world.asks("a", 10)
    assert isinstance(world.asks("b", 10), Admit)
    waits(world.asks("c", 11))
    world.ends("a", Reason.SUCCEEDED, 20)
    assert not world.lives("c")
    world.ends("b", Reason.SUCCEEDED, 30)
    assert world.starts("c") == [30]


def test_all_leases_are_had_at_once_or_none() -> None:
    """b waits for one of its two; meanwhile it does not keep the other from who came before it."""
    world = World.begun(asking("a", "x"), asking("b", "x", "y"), asking("c", "y"), asking("d", "z"))
    world.asks("a", 10)
    waits(world.asks("b", 11))
    assert waits(world.asks("c", 12)) == "y: b asked before, for y"
    world.ends("a", Reason.SUCCEEDED, 20)
    assert (world.starts("b"), world.starts("c")) == ([20], [])
    world.ends("b", Reason.SUCCEEDED, 30)
    assert world.starts("c") == [30]


def test_two_that_want_the_same_get_it_in_the_order_they_asked() -> None:
    world = World.begun(asking("a", "x"), asking("b", "x"), asking("c", "x"))
    for name in ("b", "c", "a"):
        world.asks(name, 10)
    world.ends("b", Reason.SUCCEEDED, 20)
    assert (world.lives("c"), world.lives("a")) == (True, False)
    world.ends("c", Reason.SUCCEEDED, 30)
    assert world.lives("a")


def test_a_stream_of_shared_leases_does_not_starve_an_exclusive_one() -> None:
    readers = [asking(f"reader-{number}", shared("docs/**")) for number in range(4)]
    world = World.begun(*readers, asking("writer", "docs/a.md"), asking("apart", "src"))
    world.asks("reader-0", 0)
    waits(world.asks("writer", 1))
    for second in range(2, 40):  # those who come after the writer wait behind it, however often they ask
        for reader in readers[1:]:
            world.asks(reader.name, second)
    assert {order.agent for order in world.orders.values()} == {"reader-0"}
    assert isinstance(world.asks("apart", 40), Admit)
    world.ends("reader-0", Reason.SUCCEEDED, 50)
    assert world.starts("writer") == [50]
    world.asks("reader-0", 51)
    world.ends("writer", Reason.SUCCEEDED, 60)
    assert [world.starts(reader.name) for reader in readers] == [[0, 60], [60], [60], [60]]


def test_what_a_request_wants_is_not_taken_while_something_else_keeps_it_too() -> None:
    """One that backs off, or whose provider is blocked, must not keep the others waiting for hours."""
    world = World.begun(
        asking("a", "x"), asking("b", "x", "y", provider="p"), asking("c", "y"), asking("d", provider="p")
    )
    world.asks("a", 10)
    waits(world.asks("b", 11))
    assert waits(world.asks("c", 12)) == "y: b asked before, for y"
    world.asks("d", 13)
    world.turned_away("d", 14, resets=5000.0)
    assert world.starts("c") == [14]


def test_a_request_goes_on_waiting_in_its_place_when_it_waits_for_something_else_meanwhile() -> None:
    world = World.begun(asking("a", "x"), asking("b", "x"), asking("c", "x"), asking("d"), max_concurrent_runs=2)
    world.asks("a", 10)
    world.asks("d", 10)
    world.asks("b", 11)
    world.asks("c", 12)
    world.ends("a", Reason.SUCCEEDED, 20)
    assert (world.lives("b"), world.lives("c")) == (True, False)


def test_leases_do_not_overtake_the_cap_nor_the_cap_leases() -> None:
    world = World.begun(asking("a", "x"), asking("b", "x"), asking("c"), asking("d"), max_concurrent_runs=1)
    world.asks("a", 10)
    waits(world.asks("b", 11))
    answer = world.asks("c", 12)
    assert isinstance(answer, Queue)
    assert answer.reason == "max_concurrent_runs"
    world.ends("a", Reason.SUCCEEDED, 20)
    assert world.lives("b")
    world.ends("b", Reason.SUCCEEDED, 30)
    assert world.lives("c")


@pytest.mark.parametrize("reason", [Reason.FAILED, Reason.TIMED_OUT, Reason.CANCELLED, Reason.THROTTLED, Reason.MEMORY])
def test_a_lease_is_gone_however_its_run_ended(reason: Reason) -> None:
    world = World.begun(asking("a", "x", retries=3), asking("b", "x"))
    world.asks("a", 10)
    waits(world.asks("b", 11))
    world.ends("a", reason, 20)
    assert world.starts("b") == [20]


def test_a_hold_gives_back_leases_when_the_run_has_ended_and_a_held_agents_wants_bind_nobody() -> None:
    world = World.begun(asking("a", "x"), asking("b", "x", "y"), asking("c", "y"))
    world.asks("a", 10)
    world.asks("b", 11)
    world.asks("c", 12)
    world.holds("b", 13)
    assert (world.dropped("b"), world.starts("c")) == (["held"], [13])
    world.holds("a", 14)
    world.resumes("b", 15)
    waits(world.asks("b", 16))  # a is being stopped, and may still write
    world.ends("c", Reason.SUCCEEDED, 17)
    world.ends("a", Reason.CANCELLED, 18)
    assert world.starts("b") == [18]


def test_nothing_starts_while_the_factory_stops_though_leases_come_free() -> None:
    world = World.begun(asking("a", "x"), asking("b", "x"))
    world.asks("a", 10)
    world.asks("b", 11)
    world.shuts_down(20)
    world.ends("a", Reason.SHUTDOWN, 21)
    assert world.finish is not None
    assert world.starts("b") == []


def test_a_crash_of_the_factory_leaves_no_lease_behind() -> None:
    world = World.begun(asking("a", "x"), asking("b", "x"))
    world.asks("a", 10)
    waits(world.asks("b", 11))
    world = world.reborn(at=20)
    assert [line["reason"] for line in world.lines() if line["kind"] == "run_ended"] == ["lost"]
    world.misses()
    assert world.starts("b") == [20]
    waits(world.asks("a", 21))


def test_an_agent_never_waits_for_itself() -> None:
    world = World.begun(agent("a", CORE, reserve=(Reservation("x"), Reservation("x/y")), overlap=Overlap.QUEUE))
    world.asks("a", 10)
    world.due("a", 11)
    answer = world.asks("a", 12)
    assert isinstance(answer, Queue)
    assert answer.reason == "own_run"
    world.ends("a", Reason.SUCCEEDED, 20)
    assert world.starts("a") == [10, 20]


def test_two_requests_of_one_agent_wait_for_the_other_and_not_for_each_other() -> None:
    world = World.begun(asking("a", "x"), agent("b", CORE, reserve=(Reservation("x"),), overlap=Overlap.QUEUE))
    world.asks("a", 10)
    world.due("b", 11)
    assert waits(world.asks("b", 12)) == f"x: run {world.run_of('a')} of a has x"


def test_an_occurrence_that_restarts_its_agents_run_needs_its_leases_too() -> None:
    nightly = agent("a", CORE, reserve=(Reservation("x"),), overlap=Overlap.RESTART)
    world = World.begun(nightly, asking("b", "x"))
    world.due("a", 10)
    world.due("a", 20)
    assert world.stop_reason("a") is Reason.CANCELLED  # its own lease is not in its way
    world.ends("a", Reason.CANCELLED, 21)
    assert world.starts("a") == [10, 21]
    waits(world.asks("b", 25))
    world.due("a", 30)
    assert world.stop_reason("a") is None, "b would come first, so nothing would be won"
    world.ends("a", Reason.SUCCEEDED, 40)
    assert (world.starts("b"), world.starts("a")) == ([40], [10, 21])
    world.ends("b", Reason.SUCCEEDED, 50)
    assert world.starts("a") == [10, 21, 50]


def test_always_on_agents_with_the_same_reservation_take_turns() -> None:
    layer = LayerConfig(success_cooldown_secs=0.0)
    both = [agent(name, SAFETY, reserve=(Reservation("x"),)) for name in ("a", "b")]
    world = World.begun(*both, layer=layer)
    for second, name in ((10, "a"), (20, "b"), (30, "a"), (40, "b")):
        (order,) = world.orders.values()
        assert order.agent == name
        world.ends(name, Reason.SUCCEEDED, second)


def test_a_group_that_restarts_together_comes_back_as_far_as_its_leases_allow() -> None:
    names = ("a", "b", "c")
    group = [agent(name, SAFETY, reserve=(Reservation("x"),) if name != "c" else ()) for name in names]
    config = fleet(*group)
    safety = evolve(STEADY, strategy=Strategy.ONE_FOR_ALL)
    world = World(evolve(config, layers={**config.layers, AgentLayer.SAFETY: safety}))
    world.misses()
    assert [order.agent for order in world.orders.values()] == ["a", "c"]
    world.ends("a", Reason.FAILED, 10)
    world.ends("c", Reason.SIBLING, 11)
    world.passes(12)
    assert [order.agent for order in world.orders.values()] == ["a", "c"]  # in start order, whoever waits longest
    world.ends("a", Reason.SUCCEEDED, 20)
    assert [order.agent for order in world.orders.values()] == ["c", "b"]


def test_the_status_knows_on_whom_everybody_waits_now() -> None:
    world = World.begun(asking("a", "x"), asking("b", "x", "y"), asking("c", "y"))
    for name in ("a", "b", "c"):
        world.asks(name, 10)
    told = [queue.detail for queue in obstacles(world.state).values()]
    assert told == [f"x: run {world.run_of('a')} of a has x", "y: b asked before, for y"]
    world.ends("a", Reason.SUCCEEDED, 20)
    assert [queue.detail for queue in obstacles(world.state).values()] == [f"y: run {world.run_of('b')} of b has y"]


# --- a server's leases


def test_a_run_that_a_server_gave_no_leases_is_nobodys_fault_and_tried_again() -> None:
    world = World.begun(asking("a", "x", max_runs_per_day=2, retries=0), asking("b", "x"))
    world.asks("a", 10)
    waits(world.asks("b", 11))
    world.ends("a", Reason.RESERVED, 20)
    assert world.starts("b") == [20], "it has no lease while it waits"
    world.ends("b", Reason.SUCCEEDED, 21)
    world.passes(26)
    world.ends("a", Reason.RESERVED, 26)
    state = world.state.agents["a"]
    assert (state.bad_ends, state.waits, state.refusals, state.runs_on) == ((), 0, 2, (EPOCH.date(), 0))
    (first, second) = [record for record in world.kinds("queued") if record.data["reason"] == "agent_mail"]
    assert (first.data["detail"], second.data["detail"]) == (
        "because; asked again in 5 s",
        "because; asked again in 10 s",
    )
    world = world.reborn(at=30)
    world.misses()
    world.passes(40)
    assert world.starts("a") == [36]
    world.ends("a", Reason.SUCCEEDED, 50)
    assert world.state.agents["a"].refusals == 0
