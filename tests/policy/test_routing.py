"""Who gets a task that names no agent, and what is said about it."""

from __future__ import annotations

import tracemalloc
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkfactory.cli import routing as command
from darkfactory.model.ends import ErrorClass
from darkfactory.model.fleet import AgentDefinition, AgentLayer, Fallback, OrchestratorConfig, ProviderConfig
from darkfactory.model.routing import Route, RoutedBy, RoutingConfig, Standing, folded
from darkfactory.policy import routing
from darkfactory.policy.draft import Draft
from darkfactory.policy.history import fold
from darkfactory.policy.routing import KEYWORDS, READ_CHARS, route, standing_of

from .world import CORE, GROWTH, SAFETY, World, agent, fleet

UNTIMED = settings(deadline=None)
"""How long an example takes says something of the machine alone."""
HELD = Standing("held: since then")
SENTINEL = agent("sentinel", SAFETY, capabilities=("security", "vulnerability-scanning"))
SYNC = agent("synchronizer", CORE, capabilities=("sync", "dependency-management"))
REVIEWER = agent("reviewer", GROWTH, capabilities=("code-review", "architecture"))
TESTER = agent("tester", GROWTH, capabilities=("testing",))
HELPER = agent("helper", GROWTH)


def ask(
    text: str, *agents: AgentDefinition, fallback: str | None = None, needs: tuple[str, ...] = (), **standing: Standing
) -> Route:
    config = fleet(*agents, routing=RoutingConfig(fallback))
    return route(config, text, needs, standing)


class TestWhatIsRequired:
    def test_an_agent_must_declare_all_of_it(self):
        both = agent("both", GROWTH, capabilities=("testing", "code-review"))
        found = ask("", REVIEWER, TESTER, both, needs=("code-review", "testing"))
        assert (found.agent, found.by) == ("both", RoutedBy.CAPABILITIES)
        assert found.looked_for == ("code-review", "testing")
        assert found.passed_over == {
            "reviewer": "it does not declare testing",
            "tester": "it does not declare code-review",
        }

    @pytest.mark.parametrize("written", ["code-review", "Code Review", "CODE_REVIEW", " code  review", "-Code-_Review"])
    def test_case_hyphens_underscores_and_spaces_make_no_difference(self, written):
        assert ask("", TESTER, REVIEWER, needs=(written,)).agent == "reviewer"
        other = agent("other", GROWTH, capabilities=(written,))
        assert ask("", TESTER, other, needs=("code-review",)).agent == "other"

    def test_words_of_the_text_do_not_stand_in_for_it(self):
        found = ask("test the tests", REVIEWER, TESTER, needs=("translation",))
        assert (found.agent, found.by) == (None, None)
        assert found.reasons == (
            "no agent that can be given it declares translation",
            "the agents declare architecture, code-review, testing",
        )

    def test_nor_does_the_fallback_and_that_is_said(self):
        found = ask("", REVIEWER, HELPER, fallback="helper", needs=("translation",))
        assert found.agent is None
        assert found.reasons[-1] == "the fallback helper does not get what was required of others"

    def test_words_of_the_text_choose_between_those_that_declare_it(self):
        first = agent("first", GROWTH, capabilities=("review",))
        second = agent("second", GROWTH, capabilities=("review", "performance"))
        found = ask("why is it slow?", first, second, needs=("review",))
        assert found.agent == "second"
        assert found.reasons[-1] == "comes before first: it declares more of what the text asks for"
        assert ask("why?", first, second, needs=("review",)).agent == "first"

    def test_who_can_begin_at_once_comes_before_who_knows_the_words(self):
        nightly = agent("nightly", CORE, capabilities=("review", "performance"))
        soon = agent("soon", GROWTH, capabilities=("review",))
        found = ask("why is it slow?", nightly, soon, needs=("review",))
        assert (found.agent, found.runners_up[0].agent) == ("soon", "nightly")
        assert found.reasons[-1] == "comes before nightly: it can begin at once"

    def test_an_agent_that_runs_by_itself_gets_it_where_no_other_declares_it(self):
        found = ask("", REVIEWER, SENTINEL, needs=("security",))
        assert found.agent == "sentinel"
        assert "is told with its next prompt, as a Safety agent" in found.reasons


class TestWords:
    @pytest.mark.parametrize("capability", KEYWORDS)
    def test_every_capability_of_the_table_is_found_by_each_of_its_words(self, capability):
        one = agent("one", GROWTH, capabilities=(capability,))
        for word in KEYWORDS[capability]:
            for written in (word, word.upper(), f"Please: «{word}»!", f"do\n{word}\tnow"):
                assert ask(written, HELPER, one).agent == "one", written

    def test_no_word_of_the_table_asks_for_two_capabilities(self):
        words = [word.casefold() for each in KEYWORDS.values() for word in each]
        assert len(set(words)) == len(words)

    @pytest.mark.parametrize(
        ("text", "chosen"),
        [
            ("Is the login form safe from XSS?", "sentinel"),
            ("Look for CVEs.", "sentinel"),
            ("Bump the dependencies", "synchronizer"),
            ("Two lock-files disagree", "synchronizer"),
            ("Read requirements.txt", "synchronizer"),
            ("Give a second\nopinion on the diffs", "reviewer"),
            ("unit tests are missing", "tester"),
            ("the latest contest", None),
            ("attests to it, pretest", None),
            ("an upstreaming prsprs", None),
            ("code. Quality matters", None),
            ("", None),
            ("?!", None),
        ],
    )
    def test_a_text_finds_its_agent_by_whole_words(self, text, chosen):
        assert ask(text, SENTINEL, SYNC, REVIEWER, TESTER).agent == chosen

    @pytest.mark.parametrize(
        ("keyword", "text", "found"),
        [
            ("C++", "port it to c++", True),
            ("C++", "C++: the parser", True),
            ("C++", "port it to C", False),
            ("C++", "port it to C+", False),
            (".NET", "on .net 9", True),
            ("Übersetzung", "die ÜBERSETZUNG prüfen", True),
            ("Übersetzung", "die U\u0308bersetzung", True),
            ("Übersetzung", "Rückübersetzung", False),
            ("straße", "STRASSE", True),
            ("проверка", "Нужна ПРОВЕРКА кода", True),
            ("проверка", "перепроверка", False),
            ("परीक्षा", "यह परीक्षा है", True),
            ("परीक्ष", "यह परीक्षा है", False),
            ("安全", "检查安全漏洞", True),
            ("安全", "全安", False),
            ("\uff31\uff32\uff33", "qrs", True),
            ("cache", "caches", True),
            ("patch", "patches", True),
            ("cookie", "cookies", True),
            ("index", "indexes", True),
            ("query", "queries", True),
            ("pass", "passes", True),
            ("DNS", "dns", True),
            ("data flow", "data_flow", True),
            ("data flow", "data-flow", True),
            ("data flow", "data/flow", False),
        ],
    )
    def test_a_word_is_found_whatever_its_script_and_signs(self, keyword, text, found):
        one = agent("one", GROWTH, capabilities=("mine",))
        config = fleet(one, routing=RoutingConfig(keywords={"Mine": (keyword,)}))
        told = route(config, text, (), {})
        assert told.keywords == ({"mine": (keyword,)} if found else {})
        assert told.agent == ("one" if found else None)

    def test_words_of_the_operator_come_besides_those_of_the_table(self):
        config = fleet(TESTER, routing=RoutingConfig(keywords={"Testing": ("probe",)}))
        assert route(config, "probe it", (), {}).agent == "tester"
        assert route(config, "is there coverage?", (), {}).agent == "tester"

    def test_the_agent_that_declares_most_of_what_is_asked_for_gets_it(self):
        both = agent("both", GROWTH, capabilities=("testing", "performance"))
        found = ask("benchmark the flaky one", TESTER, both)
        assert (found.agent, found.by) == ("both", RoutedBy.KEYWORDS)
        assert found.keywords == {"performance": ("benchmark",), "testing": ("flaky",)}
        assert found.reasons == (
            "declares performance, which the text asks for (benchmark)",
            "declares testing, which the text asks for (flaky)",
            "is started for it",
            "has nothing to do before it",
            "comes before tester: it declares more of what the text asks for",
        )
        (runner_up,) = found.runners_up
        assert runner_up.agent == "tester"
        assert runner_up.reasons[0] == "declares testing, which the text asks for (flaky)"

    def test_a_declared_capability_that_the_text_names_counts_before_words(self):
        many = agent("many", GROWTH, capabilities=("testing", "performance", "documentation"))
        one = agent("one", GROWTH, capabilities=("compliance",))
        assert ask("Compliance of the slow and flaky readme", many, one).agent == "one"
        found = ask("Vulnerability scanning of the slow tests, and coverage, please", TESTER, SENTINEL)
        assert (found.agent, found.by) == ("sentinel", RoutedBy.CAPABILITIES)
        assert found.reasons[0] == "the text names vulnerability-scanning, which it declares"

    def test_a_capability_that_no_table_knows_is_found_by_its_name(self):
        one = agent("one", GROWTH, capabilities=("Release_Engineering",))
        assert ask("some release engineering", HELPER, one).agent == "one"

    def test_what_stands_far_back_in_a_long_text_is_not_read(self):
        assert ask(" " * (READ_CHARS - 4) + "test", TESTER).agent == "tester"
        assert ask(" " * READ_CHARS + "test", TESTER).agent is None

    def test_a_word_that_nobody_can_have_declared_is_no_word(self):
        assert routing._words("x" * 64 + " " + "x" * 65) == ("x" * 64, "")

    @pytest.mark.parametrize("piece", ["a", "a ", "\u0300\u0316", "a\u0323\u0301", "test-", "+", "安", "\ufdfa", "\0"])
    def test_a_hostile_text_costs_no_more_than_its_beginning(self, piece):
        text = piece * 5_000_000
        tracemalloc.start()
        try:
            ask(text, TESTER)
            assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
        finally:
            tracemalloc.stop()


class TestTies:
    def test_the_least_busy_comes_first_then_the_one_declared_first(self):
        one, two, three = (agent(name, GROWTH, capabilities=("testing",)) for name in ("one", "two", "three"))
        found = ask("test", one, two, three, one=Standing(load=2), two=Standing(load=1), three=Standing(load=1))
        assert [found.agent, *(each.agent for each in found.runners_up)] == ["two", "three", "one"]
        assert found.reasons[-2:] == ("has 1 to do before it", "comes before three: it is declared first")
        again = ask("test", one, two, three, one=Standing(load=2), two=Standing(load=1))
        assert again.agent == "three"
        assert again.reasons[-1] == "comes before two: it has less to do"

    @pytest.mark.parametrize("layer", [SAFETY, CORE])
    def test_of_two_that_fit_as_well_the_one_that_can_begin_at_once_comes_first(self, layer):
        late = agent("late", layer, capabilities=("testing",))
        found = ask("test", late, TESTER, tester=Standing(load=9))
        assert found.agent == "tester"
        assert ask("test", late, TESTER, tester=HELD).agent == "late"


class TestTheFallback:
    def test_it_gets_what_fits_nobody(self):
        found = ask("hello", REVIEWER, HELPER, fallback="helper")
        assert (found.agent, found.by) == ("helper", RoutedBy.FALLBACK)
        assert found.reasons == (
            "the text names no capability and holds no keyword of one",
            "it is the declared fallback",
        )

    def test_it_gets_what_nobody_is_free_for_and_who_was_passed_over_is_said(self):
        found = ask("test it", TESTER, HELPER, fallback="helper", tester=HELD)
        assert found.agent == "helper"
        assert found.reasons[0] == "no agent that can be given it declares testing, which the text asks for"
        assert found.passed_over == {"tester": "held: since then"}

    def test_it_does_not_if_it_cannot(self):
        found = ask("hello", REVIEWER, HELPER, fallback="helper", helper=HELD)
        assert found.agent is None
        assert found.reasons[-1] == "nor can the fallback helper"
        assert found.passed_over == {"helper": "held: since then"}

    def test_without_one_the_refusal_says_what_was_looked_for(self):
        found = ask("secure the upstream", REVIEWER)
        assert (found.agent, found.by) == (None, None)
        assert found.looked_for == ("security", "sync")
        assert found.keywords == {"security": ("secure",), "sync": ("upstream",)}
        assert found.reasons == (
            "no agent that can be given it declares security or sync, which the text asks for",
            "no fallback is declared ([routing] fallback)",
        )


def test_an_agent_that_the_task_is_not_for_is_passed_over_also_as_fallback():
    config = fleet(TESTER, HELPER, routing=RoutingConfig("helper"))
    not_for = {"tester": "it sent it", "helper": "it accepts nothing from tester"}
    found = route(config, "test", (), {}, excluding=not_for)
    assert found.agent is None
    assert found.passed_over == not_for
    assert route(config, "test", (), {}, excluding={"tester": "it sent it"}).agent == "helper"


def test_what_others_said_is_told_on_one_line_without_what_steers_a_terminal():
    stands = Standing("throttled: said\x1b[2J\nmore" + "!" * 5000)
    found = ask("test", TESTER, needs=("testing\x1b[2J",), tester=stands)
    told = (*found.reasons, *ask("test", TESTER, tester=stands).passed_over.values())
    assert not any("\x1b" in each or "\n" in each or len(each) > 300 for each in told)


CAPABILITIES = st.sampled_from(["security", "Code-Review", "code_review", "testing", "sync", "mine"])
TEXTS = st.lists(
    st.sampled_from(["XSS", "review", "pull request", "code review", "tests", "upstream", "mine", "else", "slow"]),
    max_size=5,
).map(lambda words: " and ".join(words))
NEEDS = st.lists(CAPABILITIES, max_size=2).map(tuple)


@st.composite
def situations(draw: st.DrawFn) -> tuple[OrchestratorConfig, dict[str, Standing]]:
    """A fleet, and how it stands with its agents."""
    agents, standing = [], {}
    for number in range(draw(st.integers(1, 5))):
        name = f"a{number}"
        layer = draw(st.sampled_from([*AgentLayer]))
        agents.append(agent(name, layer, capabilities=tuple(draw(st.lists(CAPABILITIES, max_size=3)))))
        standing[name] = Standing(draw(st.sampled_from([None, None, "held: so"])), draw(st.integers(0, 2)))
    fallback = draw(st.sampled_from([None, *standing]))
    return fleet(*agents, routing=RoutingConfig(fallback)), standing


@UNTIMED
@given(situations(), TEXTS, NEEDS)
def test_whoever_is_chosen_can_be_given_the_task_and_fits(situation, text, needs):
    config, standing = situation
    found = route(config, text, needs, standing)
    everyone = [name for name in (found.agent, *(each.agent for each in found.runners_up)) if name is not None]
    assert len(set(everyone)) == len(everyone)
    assert set(everyone).isdisjoint(found.passed_over)
    assert (found.agent is None) is (found.by is None)
    assert found.reasons
    for name in everyone:
        declares = set(map(folded, config.agent(name).capabilities))
        assert standing[name].unavailable is None
        assert declares >= set(map(folded, needs))
        if found.by is RoutedBy.FALLBACK:
            assert name == config.routing.fallback
            assert not needs
        else:
            assert declares & set(found.looked_for)


@UNTIMED
@given(situations(), TEXTS, NEEDS)
def test_nobody_is_refused_a_task_that_somebody_could_have(situation, text, needs):
    config, standing = situation
    found = route(config, text, needs, standing)
    if found.agent is None:
        for each in config.agents:
            declares = set(map(folded, each.capabilities))
            fits = declares >= set(map(folded, needs)) if needs else declares & set(found.keywords)
            assert not fits or standing[each.name].unavailable is not None
            assert not fits or each.name in found.passed_over


@UNTIMED
@given(situations(), TEXTS, NEEDS, st.randoms())
def test_neither_the_order_of_the_words_nor_that_of_the_question_matters(situation, text, needs, random):
    config, standing = situation
    words, turned, stands = text.split(" and "), [*needs], [*standing.items()]
    for each in (words, turned, stands):
        random.shuffle(each)
    found = route(config, " and ".join(words), turned, dict(stands))
    first = route(config, text, needs, MappingProxyType(standing))
    assert (found.agent, found.by, found.runners_up) == (first.agent, first.by, first.runners_up)


@UNTIMED
@given(situations(), TEXTS, NEEDS, st.lists(CAPABILITIES, max_size=3))
def test_an_agent_more_that_is_declared_last_changes_nothing_unless_it_is_chosen(situation, text, needs, capabilities):
    config, standing = situation
    last = agent("last", AgentLayer.SAFETY, capabilities=tuple(capabilities))
    more = fleet(*config.agents, last, routing=config.routing)
    before, after = route(config, text, needs, standing), route(more, text, needs, standing)
    if after.agent != "last":
        assert (after.agent, after.by) == (before.agent, before.by)
    irrelevant = fleet(*config.agents, agent("last", GROWTH, capabilities=("other",)), routing=config.routing)
    assert route(irrelevant, text, needs, standing).agent == before.agent


@UNTIMED
@given(st.text())
def test_any_text_has_an_answer(text):
    assert ask(text, SENTINEL, SYNC, REVIEWER, TESTER, HELPER, fallback="helper").agent is not None
    assert ask(text, HELPER, needs=(text,)).agent is None


@UNTIMED
@given(st.text(), st.text(max_size=20))
def test_a_text_has_the_words_of_what_it_is_made_of(text, more):
    assert routing._words(f"{text}\n{more}") == routing._words(text) + routing._words(more)


class TestStanding:
    def stands(self, world: World) -> dict[str, Standing]:
        return standing_of(Draft.of(world.state, world.now()))

    def test_what_keeps_an_agent_from_running_keeps_tasks_from_it(self):
        idle, off = agent("idle", GROWTH), agent("off", GROWTH, enabled=False)
        held, often = agent("held", GROWTH), agent("often", GROWTH, max_runs_per_day=1)
        world = World.begun(idle, off, held, often, agent("gone", GROWTH), agent("always", SAFETY))
        world.holds("held")
        world.asks("often")
        world.misses(1.0, "gone")
        told = {name: each.unavailable for name, each in self.stands(world).items()}
        assert told.pop("idle") is None
        assert told.pop("always") is None
        assert {name: (why or "").partition(":")[0] for name, why in told.items()} == {
            "off": "disabled",
            "held": "held",
            "often": "max_runs_per_day",
            "gone": "tool_missing",
        }

    def test_a_run_and_what_waits_make_an_agent_busy_and_no_more(self):
        world = World.begun(agent("one", GROWTH), agent("two", GROWTH), max_concurrent_runs=1)
        world.asks("one")
        world.asks("two")
        assert self.stands(world) == {"one": Standing(load=1), "two": Standing(load=1)}
        world.asks("one")
        assert self.stands(world)["one"] == Standing(load=2)

    def test_an_agent_waits_for_a_provider_unless_it_has_one_to_fall_back_on(self):
        first = agent("first", GROWTH, provider="p")
        other = agent("other", GROWTH, provider="p", fallback=Fallback(provider="q"))
        world = World.begun(first, other, agent("free", GROWTH, provider="q"))
        world.asks("first")
        world.turned_away("first", 1.0, error=ErrorClass.QUOTA, resets=3600.0)
        found = self.stands(world)
        assert found["first"].unavailable == "throttled: p turned a run away: limit reached"
        assert (found["other"].unavailable, found["free"].unavailable) == (None, None)

    def test_an_agent_whose_provider_has_nothing_left_is_passed_over(self):
        first = agent("first", GROWTH, provider="p")
        world = World.begun(first, agent("other", GROWTH), providers={"p": ProviderConfig(calls_per_hour=1)})
        world.asks("first")
        found = self.stands(world)
        assert (found["first"].unavailable or "").startswith("budget: p: 1 calls within the hour")
        assert found["other"] == Standing()

    def test_the_journal_tells_the_same_while_the_factory_lives(self):
        world = World.begun(
            agent("busy", GROWTH, provider="q"),
            agent("held", GROWTH),
            agent("turned-away", GROWTH, provider="p"),
            agent("waits", GROWTH, provider="p"),
            agent("off", GROWTH, enabled=False),
            agent("often", CORE, max_runs_per_day=1),
            max_concurrent_runs=2,
        )
        world.holds("held")
        world.asks("turned-away")
        world.turned_away("turned-away", 1.0, resets=7200.0)
        world.asks("waits", 2.0)
        world.due("often", 3.0)
        world.asks("busy", 4.0)
        live = self.stands(world)
        assert live["busy"] == Standing(load=1)
        assert [live[name].load for name in ("turned-away", "waits", "often")] == [1, 1, 1]
        assert [name for name, each in live.items() if each.unavailable] == [
            *("held", "turned-away", "waits", "off", "often")
        ]
        durable = fold(world.lines(), world.config.timezone)
        assert command.standing(world.config, durable, world.now()) == live
