"""One test for each rule: what it refuses, where, and what it lets pass."""

from __future__ import annotations

import subprocess
from pathlib import Path

import attrs
import pytest

from darkfactory.config import check_config, missing_paths, warnings_of
from darkfactory.model.fleet import (
    BUILTIN_TOOLS,
    TOOL_OPTIONS,
    AgentDefinition,
    AgentLayer,
    CompoundReviewConfig,
    LayerConfig,
    OrchestratorConfig,
    Reservation,
)
from darkfactory.model.review import FindingKind

AGENT = '[[agents]]\nname = "a"\nlayer = "Growth"\ncli_tool = "bash"\ntask = "true"\n'


@pytest.fixture
def fault(faults):
    """The only fault of a text, as (path, line, problem, remedy)."""

    def fault(text, environ=None):
        (found,) = faults(text, environ)
        return found.path, found.line, found.problem, found.remedy

    return fault


class TestKeys:
    def test_an_unknown_key_asks_did_you_mean(self, fault):
        assert fault(AGENT + 'modle = "x"\n') == (
            "agents[0].modle",
            6,
            "is no key that is known here",
            "did you mean 'model'?",
        )

    def test_an_unknown_key_like_no_other_lists_the_known_ones(self, fault):
        *_, remedy = fault(f"{AGENT}[tools.mine]\nargv = ['x']\nzzz = 1\n")
        assert remedy == "known keys: argv, prompt, success, error, throttle, jsonl, provider"

    def test_a_key_of_another_section_is_told_where_it_belongs(self, fault):
        """TOML's classic: a top-level key after the first header is a key of that table."""
        *_, remedy = fault(AGENT + 'timezone = "UTC"\n')
        assert remedy == "it belongs to the top of the file, before the first [section]"

    def test_a_quoted_key_is_told_with_its_quotes(self, fault):
        path, line, *_ = fault('"a key" = 1\n' + AGENT)
        assert (path, line) == ('"a key"', 1)

    def test_a_missing_key_stands_on_the_line_of_its_table(self, fault):
        assert fault("\n" + AGENT.replace('cli_tool = "bash"\n', "")) == (
            "agents[0].cli_tool",
            2,
            "is missing",
            'add cli_tool = "codex"',
        )

    def test_one_table_for_agents_asks_for_an_array(self, fault):
        assert fault(AGENT.replace("[[agents]]", "[agents]")) == (
            "agents",
            1,
            "expected an array of tables, found a table",
            "write [[agents]] above each agent",
        )

    def test_layers_are_named_exactly(self, fault):
        path, line, problem, remedy = fault(AGENT + "[layers.core]\nmax_restarts = 1\n")
        assert (path, line, remedy) == ("layers.core", 6, "did you mean 'Core'?")
        assert problem == 'expected "Safety" or "Core" or "Growth", found the string \'core\''

    def test_the_plural_of_a_key_is_meant_though_another_section_has_that_very_word(self, faults):
        (found, _) = faults(AGENT.replace("[[agents]]", "[[agent]]"))
        assert (found.path, found.remedy) == ("agent", "did you mean 'agents'?")

    def test_a_table_that_is_no_table_is_refused(self, fault):
        assert fault("nightwatch = 5\n" + AGENT)[2] == "expected a table, found an integer"


class TestTheFleet:
    def test_without_agents_has_nothing_to_do(self, fault):
        assert fault('name = "a"\n') == (
            "agents",
            1,
            "no agent is declared, so there is nothing to do",
            "add an [[agents]] table",
        )

    @pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "ä", "a" * 65, "a\\n"])
    def test_refuses_names_that_are_unsafe_as_file_names(self, faults, name):
        text = f'name = "{name}"\n' + AGENT.replace('name = "a"', f'name = "{name}"')
        assert [(each.path, each.line) for each in faults(text)] == [("name", 1), ("agents[0].name", 3)]

    @pytest.mark.parametrize("name", ["a", "_", "0", "A.b-c_d", "a" * 64])
    def test_takes_names_that_are_safe(self, parse, name):
        assert parse(AGENT.replace('name = "a"', f'name = "{name}"')).agents[0].name == name

    @pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../x", "/etc/passwd", "Europe", "a\\u0000", "x" * 300])
    def test_refuses_unknown_time_zones(self, fault, zone):
        path, line, problem, remedy = fault(f'timezone = "{zone}"\n' + AGENT)
        assert (path, line) == ("timezone", 1)
        assert problem.startswith("expected a time zone, found the string")
        assert remedy

    def test_knows_time_zones_in_any_case(self, fault):
        assert fault('timezone = "europe/berlin"\n' + AGENT)[3] == "did you mean 'Europe/Berlin'?"


class TestNightwatch:
    @pytest.mark.parametrize(
        ("line", "path", "problem"),
        [
            ("minor_threshold = 0.2", "moderate_threshold", "must be more than minor_threshold (0.2), found 0.2"),
            ("severe_threshold = 0.8", "critical_threshold", "must be more than severe_threshold (0.8), found 0.7"),
            ("critical_threshold = 1.1", "critical_threshold", "must be at most 1, found 1.1"),
            ("minor_threshold = -0.1", "minor_threshold", "must be at least 0, found -0.1"),
        ],
    )
    def test_thresholds_ascend_from_0_to_1(self, fault, line, path, problem):
        assert fault(f"{AGENT}[nightwatch]\n{line}\n")[:3] == (f"nightwatch.{path}", 7, problem)

    def test_thresholds_may_reach_both_ends(self, parse):
        parse(f"{AGENT}[nightwatch]\nminor_threshold = 0\ncritical_threshold = 1\n")


class TestLimits:
    @pytest.mark.parametrize(
        ("section", "line", "problem"),
        [
            ("agents[0]", "retries = -1", "must be at least 0, found -1"),
            ("agents[0]", "max_runs_per_day = 0", "must be at least 1, found 0"),
            ("agents[0]", "max_memory_bytes = 0", "must be at least 1, found 0"),
            ("agents[0]", 'max_output_bytes = "8388608TiB"', "must be at most 9223372036854775807, found"),
            ("agents[0]", "start_timeout_secs = 0", "must be more than 0, found 0"),
            ("agents[0]", "grace_secs = -0.5", "must be at least 0, found -0.5"),
            ("agents[0]", 'catchup_secs = "36501d"', "must be at most 3153600000, found 3153686400"),
            ("layers.Growth", "max_restarts = -1", "must be at least 0, found -1"),
            ("layers.Growth", "period_secs = 0", "must be more than 0, found 0"),
            ("layers.Growth", "backoff_jitter = 2", "must be at most 1, found 2"),
            ("nightwatch", "eval_interval_secs = 0", "must be more than 0, found 0"),
        ],
    )
    def test_are_told_with_what_was_found(self, fault, section, line, problem):
        header = "" if section == "agents[0]" else f"[{section}]\n"
        path, at, told, _ = fault(f"{AGENT}{header}{line}\n")
        assert (path, at) == (f"{section}.{line.partition(' ')[0]}", 7 if header else 6)
        assert told.startswith(problem)

    @pytest.mark.parametrize("line", ["max_concurrent_runs = 0", "shutdown_grace_secs = -1"])
    def test_hold_for_the_top_too(self, fault, line):
        assert fault(f"{line}\n{AGENT}")[:2] == (line.partition(" ")[0], 1)

    @pytest.mark.parametrize("layer", ["Core", "Growth"])
    @pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
    def test_only_safety_agents_restart_together(self, fault, layer, strategy):
        path, line, problem, remedy = fault(f'{AGENT}[layers.{layer}]\nstrategy = "{strategy}"\n')
        assert (path, line) == (f"layers.{layer}.strategy", 7)
        assert problem.endswith("not together with others")
        assert remedy == "it means something in [layers.Safety] alone"

    def test_back_off_cannot_begin_above_its_end(self, fault):
        assert fault(f'{AGENT}[layers.Core]\nbackoff_secs = "10m"\n')[:3] == (
            "layers.Core.backoff_secs",
            7,
            "must be at most backoff_max_secs (300), found 600",
        )


class TestTimeouts:
    def test_a_stall_limit_that_can_never_bite_is_refused(self, fault):
        path, line, problem, remedy = fault(AGENT + "timeout_secs = 600\nstall_timeout_secs = 600\n")
        assert (path, line, remedy) == ("agents[0].stall_timeout_secs", 7, "set stall_timeout_secs below 600")
        assert problem.startswith("600 must be less than timeout_secs (600)")

    def test_the_default_stall_limit_counts_too_and_is_told_where_the_timeout_was_written(self, fault):
        assert fault(AGENT + 'timeout_secs = "10m"\n')[:2] == ("agents[0].stall_timeout_secs", 6)

    def test_without_a_timeout_any_stall_limit_will_do(self, parse):
        parse(AGENT.replace("Growth", "Safety") + 'stall_timeout_secs = "2d"\n')


class TestSchedules:
    def test_core_needs_one(self, fault):
        assert fault(AGENT.replace("Growth", "Core")) == (
            "agents[0].schedule",
            3,
            "is missing: a Core agent is started by its schedule",
            'add schedule = "0 3 * * *"',
        )

    @pytest.mark.parametrize(
        ("layer", "why"),
        [
            ("Safety", "a Safety agent is always on and takes no schedule"),
            ("Growth", "a Growth agent is started on demand and takes no schedule"),
        ],
    )
    def test_other_layers_take_none(self, fault, layer, why):
        path, line, problem, _ = fault(AGENT.replace("Growth", layer) + 'schedule = "@daily"\n')
        assert (path, line, problem) == ("agents[0].schedule", 6, why)

    def test_an_impossible_one_is_refused_for_an_agent(self, fault):
        path, line, problem, _ = fault(AGENT.replace("Growth", "Core") + 'schedule = "0 0 31 2 *"\n')
        assert (path, line) == ("agents[0].schedule", 6)
        assert problem.startswith("the string '0 0 31 2 *' is no cron expression that ever fires")

    def test_an_impossible_one_is_refused_for_the_review(self, fault):
        text = f'{AGENT}[compound_review]\nrepo_path = "."\nschedule = "60 * * * *"\n'
        assert fault(text)[:2] == ("compound_review.schedule", 8)


class TestNames:
    @pytest.mark.parametrize("other", ["a", "A"])
    def test_of_agents_differ_in_more_than_case(self, fault, other):
        path, line, problem, _ = fault(AGENT + AGENT.replace('name = "a"', f'name = "{other}"'))
        assert (path, line) == ("agents[1].name", 7)
        assert problem == f"'{other}' is taken by agents[0], 'a'"

    def test_each_further_agent_of_one_name_is_told_of_the_first(self, faults):
        assert [each.problem for each in faults(AGENT * 3)] == ["'a' is taken by agents[0], 'a'"] * 2


class TestTools:
    @pytest.mark.parametrize("tool", [*BUILTIN_TOOLS, "/usr/bin/claude", "./codex"])
    def test_built_in_ones_are_known_by_name_and_by_path(self, parse, tool):
        assert parse(AGENT.replace('"bash"', f'"{tool}"')).agents[0].cli_tool == tool

    def test_an_unknown_one_asks_did_you_mean_and_tells_how_to_declare_it(self, fault):
        path, line, problem, remedy = fault(AGENT.replace('"bash"', '"claud"'))
        assert (path, line) == ("agents[0].cli_tool", 4)
        assert (
            problem == f"the string 'claud' is neither a built-in tool ({', '.join(BUILTIN_TOOLS)}) nor one of [tools]"
        )
        assert remedy == "did you mean 'claude'? or declare it: [tools.claud] argv = [\"claud\"]"

    def test_a_near_miss_of_a_declared_one_is_seen_too(self, fault):
        text = AGENT.replace('"bash"', '"scaner"') + '[tools.scanner]\nargv = ["s"]\n'
        assert fault(text)[3].startswith("did you mean 'scanner'?")

    def test_the_path_of_another_program_is_to_be_declared(self, fault):
        *_, remedy = fault(AGENT.replace('"bash"', '"/opt/scan"'))
        assert remedy == 'declare it: [tools.scan] argv = ["/opt/scan"]'

    def test_a_path_that_ends_in_no_name_is_none(self, fault):
        assert fault(AGENT.replace('"bash"', '"claude/"'))[:2] == ("agents[0].cli_tool", 4)

    @pytest.mark.parametrize("name", [*BUILTIN_TOOLS, "opt/claude"])
    def test_of_ones_own_do_not_shadow_built_in_ones(self, fault, name):
        path, line, problem, _ = fault(f'{AGENT}[tools."{name}"]\nargv = ["x"]\n')
        assert (line, problem) == (6, "is the name of a built-in tool")
        assert path.startswith("tools.")

    def test_need_a_program(self, fault):
        assert fault(f"{AGENT}[tools.mine]\nargv = []\n")[:2] == ("tools.mine.argv", 7)

    def test_need_a_program_that_has_a_name(self, fault):
        assert fault(f'{AGENT}[tools.mine]\nargv = ["", "x"]\n')[:2] == ("tools.mine.argv[0]", 7)

    @pytest.mark.parametrize("key", ["success", "error", "throttle"])
    @pytest.mark.parametrize(
        ("pattern", "problem"),
        [
            ("(", "is no regular expression: missing ), unterminated subpattern at position 0"),
            ("x{99999999999}", "is no regular expression: the repetition number is too large"),
            ("", "matches every line, also an empty one"),
            ("x*", "matches every line, also an empty one"),
        ],
    )
    def test_have_patterns_that_can_be_searched(self, fault, key, pattern, problem):
        found = fault(f"{AGENT}[tools.mine]\nargv = ['x']\n{key} = '{pattern}'\n")
        assert found[:3] == (f"tools.mine.{key}", 8, problem)

    def test_have_a_map_that_tells_events_apart(self, fault):
        found = fault(f"{AGENT}[tools.mine]\nargv = ['x']\n[tools.mine.jsonl]\ntype = []\n")
        assert found[:3] == ("tools.mine.jsonl.type", 9, "must not be empty")

    @pytest.mark.parametrize("program", ["~/bin/claude", "${HOME}/bin/claude"])
    def test_are_not_looked_for_under_names_that_nothing_expands(self, fault, program):
        path, _, problem, remedy = fault(AGENT.replace('"bash"', f'"{program}"'))
        assert (path, remedy) == ("agents[0].cli_tool", "write the whole path")
        assert "not expanded" in problem


OPTIONS = {
    "max_cost_usd": "max_cost_usd = 0.5",
    "max_turns": "max_turns = 9",
    "model": 'model = "big"',
    "permissions": 'permissions = "full-access"',
    "resume": 'resume = "0f014aff"',
}


class TestOptions:
    @pytest.mark.parametrize("option", OPTIONS)
    @pytest.mark.parametrize(
        "tool",
        [*BUILTIN_TOOLS, "mine", *(f"/opt/bin/{name}" for name in BUILTIN_TOOLS if name not in {"bash", "demo"})],
    )
    def test_a_program_is_given_no_option_that_it_has_not(self, request, tool, option):
        text = f"{AGENT.replace('bash', tool)}{OPTIONS[option]}\n[tools.mine]\nargv = ['x']\n"
        if option in TOOL_OPTIONS.get(tool.rpartition("/")[2], ()):
            assert getattr(request.getfixturevalue("parse")(text).agents[0], option) is not None
        else:
            path, line, problem, remedy = request.getfixturevalue("fault")(text)
            assert (path, line, problem) == (f"agents[0].{option}", 6, f"{tool} has no such option")
            assert remedy.startswith("leave it out; ")

    def test_what_pi_may_do_cannot_be_held_to_the_working_directory(self, parse, fault):
        for permissions in ("read-only", "full-access"):
            assert parse(f'{AGENT.replace("bash", "pi")}permissions = "{permissions}"\n')
        path, line, problem, remedy = fault(f'{AGENT.replace("bash", "/opt/bin/pi")}permissions = "workspace-write"\n')
        assert (path, line) == ("agents[0].permissions", 6)
        assert problem == "/opt/bin/pi has no sandbox and no rules that would hold an agent to 'workspace-write'"
        assert remedy == 'write "read-only" or "full-access"'

    def test_nor_that_of_an_agent_that_falls_back_on_it(self, parse, fault):
        agent = AGENT.replace("bash", "codex") + 'permissions = "{}"\nfallback = {{ cli_tool = "pi", model = "x/y" }}\n'
        assert parse(agent.format("read-only"))
        path, line, problem, remedy = fault(agent.format("workspace-write"))
        assert (path, line) == ("agents[0].fallback", 7)
        assert problem == "pi has no sandbox and no rules that would hold an agent to 'workspace-write'"
        assert remedy == "fall back on another tool"

    def test_a_fallbacks_model_is_none_or_has_a_name(self, fault):
        agent = AGENT.replace("bash", "codex") + 'fallback = { cli_tool = "claude", model = "" }\n'
        assert fault(agent)[0] == "agents[0].fallback.model"

    def test_all_that_some_tool_has_are_tried_here(self):
        assert set().union(*TOOL_OPTIONS.values()) == set(OPTIONS)

    def test_a_fault_of_the_tool_is_told_alone(self, fault):
        assert fault(AGENT.replace('"bash"', '"emacs"') + 'model = "big"\n')[0] == "agents[0].cli_tool"

    @pytest.mark.parametrize(
        "glob", ["", " ", "/src", "~/src", "..", "a/../b", "../x", "a\\\\b", "a\\u0000", "x" * 257]
    )
    def test_a_reservation_is_a_glob_below_the_working_directory(self, fault, glob):
        assert fault(f'{AGENT}reserve = ["ok", "{glob}"]\n')[0] == "agents[0].reserve[1].glob"

    @pytest.mark.parametrize("glob", ["**", ".", "./a", "a/", "...", "a..b", "[", "x" * 256, "a b", "a~"])
    def test_these_are_reservations(self, parse, glob):
        fleet = parse(f'{AGENT}reserve = ["{glob}", {{ glob = "{glob}", shared = true }}]\n')
        assert fleet.agents[0].reserve == (Reservation(glob), Reservation(glob, shared=True))

    @pytest.mark.parametrize("session", ["", "--last"])
    def test_a_session_is_named_by_its_id(self, fault, session):
        text = f'{AGENT.replace("bash", "codex")}resume = "{session}"\n'
        assert fault(text)[:2] == ("agents[0].resume", 6)

    @pytest.mark.parametrize("words", ['"--dangerously-skip-permissions"', '"--permission-mode", "bypassPermissions"'])
    def test_what_claude_refuses_to_root_is_refused_where_the_fleet_would_run(self, parse, monkeypatch, words):
        text = f"{AGENT.replace('bash', 'claude')}args = [{words}]\n"
        fleet, sandbox = (
            attrs.evolve(parse(each), working_dir=Path("/")) for each in (text, f'{text}env_pass = ["IS_SANDBOX"]')
        )
        monkeypatch.setattr("os.geteuid", lambda: 0)
        assert [fault.path for fault in missing_paths(fleet)] == ["agents[0].args"]
        assert missing_paths(sandbox) == ()
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        assert missing_paths(fleet) == ()

    @pytest.mark.parametrize(
        ("made", "found"),
        [((), False), ((".git/",), False), ((".git/HEAD",), True), ((".git",), True), (("sub/.git/HEAD",), False)],
    )
    def test_worktrees_take_a_repository(self, parse, tmp_path, made, found):
        for name in made:
            path = tmp_path / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_text("x")
        (tmp_path / "deep").mkdir()
        fleet = attrs.evolve(parse(f'{AGENT}isolation = "worktree"\n'), working_dir=tmp_path / "deep")
        assert [fault.path for fault in missing_paths(fleet)] == ([] if found else ["agents[0].isolation"])

    def test_of_a_directory_that_is_missing_nothing_else_is_told(self, parse, tmp_path):
        fleet = attrs.evolve(parse(f'{AGENT}isolation = "worktree"\n'), working_dir=tmp_path / "gone")
        assert [fault.path for fault in missing_paths(fleet)] == ["working_dir"]


class TestTexts:
    @pytest.mark.parametrize("task", ["", "  \\n\\t"])
    def test_an_empty_task_is_refused(self, fault, task):
        assert fault(AGENT.replace('"true"', f'"{task}"'))[:2] == ("agents[0].task", 5)

    def test_an_empty_model_is_refused(self, fault):
        assert fault(AGENT.replace("bash", "claude") + 'model = ""\n')[:2] == ("agents[0].model", 6)

    @pytest.mark.parametrize("line", ['args = ["a", "--key=${KEY}"]', "[tools.mine]\nargv = ['x', '--key=${KEY}']"])
    def test_a_variable_in_an_argument_is_refused_since_ps_would_show_it(self, fault, line):
        path, _, problem, remedy = fault(f"{AGENT}{line}\n", {"KEY": "sk-key"})
        assert path in ("agents[0].args[1]", "tools.mine.argv[1]")
        assert "ps" in problem
        assert remedy == "put it into the agent's env"

    @pytest.mark.parametrize(
        ("line", "path"),
        [
            ('task = "a\\u0000"', "agents[0].task"),
            ('model = "a\\u0000"', "agents[0].model"),
            ('resume = "a\\u0000"', "agents[0].resume"),
            ('args = ["-x", "a\\u0000"]', "agents[0].args[1]"),
            ('env = {A = "a\\u0000"}', "agents[0].env.A"),
            ('[tools.x]\nargv = ["x", "a\\u0000"]', "tools.x.argv[1]"),
            ('[compound_review]\nschedule = "@daily"\nrepo_path = "a\\u0000"', "compound_review.repo_path"),
        ],
    )
    def test_a_nul_is_refused_wherever_a_program_would_be_given_it(self, fault, line, path):
        agent = AGENT.replace('task = "true"\n', "") if line.startswith("task") else AGENT
        agent = agent.replace("bash", "claude")
        assert fault(f"{agent}{line}\n")[::2] == (path, "holds a NUL character, which no program can be given")

    def test_a_nul_in_a_programs_name_is_refused(self, faults):
        problems = [each.problem for each in faults(AGENT.replace('"bash"', '"bash\\u0000"'))]
        assert "holds a NUL character, which no program can be given" in problems

    @pytest.mark.parametrize("key", ["working_dir", "state_dir"])
    def test_a_nul_in_a_path_is_refused(self, fault, key):
        assert fault(f'{key} = "a\\u0000"\n{AGENT}')[:2] == (key, 1)

    @pytest.mark.parametrize("name", ["", "A=B", "A\\u0000"])
    def test_a_variables_name_is_one(self, fault, name):
        path, line, problem, _ = fault(f'{AGENT}env = {{"{name}" = "x"}}\n')
        assert (path, line) == ("agents[0].env", 6)
        assert "is no variable's name" in problem

    def test_the_mark_of_a_run_is_not_for_agents_to_set(self, fault):
        assert fault(f'{AGENT}[agents.env]\nA = "x"\nDARKFACTORY_RUN = "x"\n')[:2] == (
            "agents[0].env.DARKFACTORY_RUN",
            8,
        )


class TestFleetsMadeByHand:
    FLEET = OrchestratorConfig(Path("/base"), (AgentDefinition("a", AgentLayer.GROWTH, "bash", "true"),))

    def test_pass_when_they_are_in_order(self):
        assert check_config(self.FLEET) == ()

    def test_are_held_to_absolute_paths(self):
        review = CompoundReviewConfig("@daily", Path("repo"))
        fleet = attrs.evolve(self.FLEET, working_dir=Path(), state_dir=Path("s"), compound_review=review)
        assert [(each.path, each.problem, each.line) for each in check_config(fleet)] == [
            (path, "must be an absolute path", None)
            for path in ("working_dir", "state_dir", "compound_review.repo_path")
        ]

    def test_need_all_three_layers(self):
        fleet = attrs.evolve(self.FLEET, layers={AgentLayer.CORE: LayerConfig()})
        assert [each.path for each in check_config(fleet)] == ["layers.Safety", "layers.Growth"]


class TestRouting:
    def test_the_fallback_is_an_agent(self, fault, parse):
        assert parse(AGENT + '[routing]\nfallback = "a"\n').routing.fallback == "a"
        assert fault(AGENT + '[routing]\nfallback = "A"\n') == (
            "routing.fallback",
            7,
            "the string 'A' is no agent's name",
            "did you mean 'a'?",
        )

    @pytest.mark.parametrize("word", ["C++", "a b", "7", "安全", "é" * 64])
    def test_words_hold_a_letter_or_a_digit(self, parse, word):
        text = f"{AGENT}capabilities = ['{word}']\n[routing.keywords]\n'{word}' = ['{word}']\n"
        assert parse(text).routing.keywords == {word: (word,)}

    @pytest.mark.parametrize("word", ["", " ", "++", "-_-", "x" * 65])
    def test_what_is_no_word_is_refused_wherever_it_stands(self, faults, word):
        text = f"{AGENT}capabilities = ['{word}']\n[routing.keywords]\n'{word}' = ['a', '{word}']\n"
        assert [(fault.path.partition("[")[0].split(".")[0], fault.line) for fault in faults(text)] == [
            ("agents", 6),
            ("routing", 8),
            ("routing", 8),
        ]

    def test_a_capability_without_words_is_a_slip(self, fault):
        path, line, problem, _ = fault(AGENT + "[routing.keywords]\nsync = []\n")
        assert (path, line, problem) == ("routing.keywords.sync", 7, "must not be empty")

    def test_words_for_what_no_agent_declares_are_a_warning(self, parse):
        declares = AGENT + "capabilities = ['Code_Review', 'sync']\n[routing.keywords]\n"
        assert warnings_of(parse(declares + "'code review' = ['diff']\n")) == ()
        (fault,) = warnings_of(parse(declares + "testing = ['diff']\n"))
        assert (fault.path, fault.remedy) == ("routing.keywords.testing", "the agents declare code-review, sync")

    def test_a_fallback_that_is_disabled_is_a_warning(self, parse):
        (fault,) = warnings_of(parse(AGENT + 'enabled = false\n[routing]\nfallback = "a"\n'))
        assert (fault.path, fault.problem) == ("routing.fallback", "a is disabled: what fits nobody is refused")


REVIEW = '[compound_review]\nschedule = "@daily"\nrepo_path = "."\n'
SAFE_REFS = ["main", "release/1.x", "a-b", "für", "a@b", "@a", "a.lock.b", "x" * 100, "refs", "a{b"]
NO_REFS = ["", "@", "-a", ".a", "a/.b", "a.", "a/", "/a", "a//b", "a..b", "a.lock", "a.lock/b", "a b", "a~1", "a^"]
NO_REFS += ["a:b", "a?", "a*", "a[b", "a\\b", "a@{0}", "a\x7f", "a\x01", "HEAD"]


def improver(tool="claude", **keys):
    """A fleet whose review names an agent with these keys."""
    lines = {"name": '"me"', "layer": '"Growth"', "cli_tool": f'"{tool}"', "task": '"t"'} | keys
    agent = "".join(f"{key} = {value}\n" for key, value in lines.items())
    return f'{REVIEW}agent = "me"\n[[agents]]\n{agent}'


class TestTheReview:
    @pytest.mark.parametrize("name", SAFE_REFS)
    def test_takes_for_a_branch_what_git_does(self, parse, name):
        assert parse(f"{REVIEW}base_branch = '{name}'\n{AGENT}").compound_review.base_branch == name
        assert is_a_branch(name)

    @pytest.mark.parametrize("name", NO_REFS)
    def test_refuses_for_a_branch_what_git_does(self, name):
        review = CompoundReviewConfig("@daily", Path("/r"), base_branch=name)
        (found,) = check_config(attrs.evolve(TestFleetsMadeByHand.FLEET, compound_review=review))
        assert found.path == "compound_review.base_branch"
        assert found.problem.endswith(" can be no branch's name")
        assert not is_a_branch(name)

    def test_wants_a_branch_by_its_short_name(self, fault):
        *_, remedy = fault(f'{REVIEW}base_branch = "refs/heads/main"\n{AGENT}')
        assert remedy == "write 'main'"

    @pytest.mark.parametrize(
        "remote",
        [
            "origin",
            "up/stream",
            "/srv/git/it.git",
            "file:///srv/git/it.git",
            "https://github.com/o/r.git",
            "https://localhost:8443/o/r",
            "HTTPS://github.com/o/r",
            "ssh://git@github.com:22/o/r.git",
            "git@github.com:o/r.git",
            "host:o/r",
        ],
    )
    def test_takes_names_addresses_and_absolute_paths_for_a_remote(self, parse, remote):
        assert parse(f'{REVIEW}remote = "{remote}"\n{AGENT}').compound_review.remote == remote

    @pytest.mark.parametrize(
        ("remote", "why"),
        [
            ("", "is neither a remote's name nor an address"),
            ("--upload-pack=SECRET", "is neither a remote's name nor an address"),
            ("../SECRET.git", "is neither a remote's name nor an address"),
            ("ext::sh -c SECRET", "holds a blank"),
            ("ext::SECRET", "is neither a remote's name nor an address"),
            ("-SECRET:o/r", "is neither a remote's name nor an address"),
            ("me:SECRET@host:o/r", "is neither a remote's name nor an address"),
            ("a\\u0000SECRET", "holds a blank"),
            ("http://github.com/SECRET/r", "http:// is not encrypted"),
            ("git://github.com/SECRET/r", "git:// is not encrypted"),
            ("ftp://github.com/SECRET/r", "is an address of a kind that is not pushed to"),
            ("https://me:SECRET@github.com/o/r", "holds a user's name or password"),
            ("https://SECRET@github.com/o/r", "holds a user's name or password"),
            ("ssh://git:SECRET@github.com/o/r", "holds a user's name or password"),
            ("https://${SECRET}@github.com/o/r", "'${...}' is not expanded here"),
            ("https://github.com", "is no whole address"),
            ("https:///SECRET/r", "is no whole address"),
            ("ssh://-SECRET/r", "is no whole address"),
            ("ssh://-x@host/SECRET", "is no whole address"),
            ("https://host:port/SECRET", "is no whole address"),
            ("file://SECRET/it.git", "is no whole address"),
            ("file://", "is no whole address"),
        ],
    )
    def test_refuses_what_is_no_remote_or_holds_a_secret_and_does_not_tell_it(self, fault, remote, why):
        path, line, problem, remedy = fault(f'{REVIEW}remote = "{remote}"\n{AGENT}')
        assert (path, line) == ("compound_review.remote", 4)
        assert problem.startswith(why)
        assert "SECRET" not in problem + remedy

    @pytest.mark.parametrize("repo", ["o/r", "github.com/o/r", "localhost:8443/my_org/a.b-c_d", "0-1/.github"])
    def test_takes_owner_and_repository_of_a_host(self, parse, repo):
        assert parse(f'{REVIEW}github_repo = "{repo}"\n{AGENT}').compound_review.github_repo == repo

    @pytest.mark.parametrize(
        "repo",
        [
            *("", "r", "o/", "/r", "-o/r", "o/r.git", "o/..", "o/r/", "h:0/o/r", "h:70000/o/r", "a/b/c/d", "o /r"),
            *("o/r\\n", "https://github.com/o/r", "me@github.com/o/r", "-h/o/r", "git@github.com:o/r"),
        ],
    )
    def test_refuses_what_is_no_owner_and_repository(self, fault, repo):
        assert fault(f'{REVIEW}github_repo = "{repo}"\n{AGENT}')[:3] == (
            "compound_review.github_repo",
            4,
            "is not [HOST[:PORT]/]OWNER/REPO",
        )

    def test_wants_its_gate_in_words_and_says_how_when_it_is_a_line(self, fault):
        path, line, problem, remedy = fault(f'{REVIEW}gate = "pytest -q"\n{AGENT}')
        assert (path, line, problem) == ("compound_review.gate", 4, "expected an array, found a string")
        assert remedy == 'write each of its words by itself: ["pytest", "-q"]; a shell\'s line as ["sh", "-c", "LINE"]'

    @pytest.mark.parametrize(
        ("gate", "path", "problem"),
        [
            ('[""]', "gate[0]", "must not be empty: it is the program to start"),
            ('["make", ""]', "gate[1]", "must not be empty"),
            ('["make", "a\\u0000"]', "gate[1]", "holds a NUL character, which no program can be given"),
            ('["~/bin/test"]', "gate[0]", "'~' and '${...}' are not expanded in a program's name"),
            (
                '["make", "T=${T}"]',
                "gate[1]",
                "'${...}' is not expanded here: the value would be visible to everybody in ps",
            ),
        ],
    )
    def test_refuses_words_that_its_gate_could_not_be_started_with(self, fault, gate, path, problem):
        assert fault(f"{REVIEW}gate = {gate}\n{AGENT}")[:3] == (f"compound_review.{path}", 4, problem)

    def test_takes_longer_than_its_gate_may(self, fault, parse):
        assert parse(f"{REVIEW}max_duration_secs = 600\n{AGENT}")  # no gate
        assert parse(f'{REVIEW}gate = ["make"]\nmax_duration_secs = 601\n{AGENT}')
        assert fault(f'{REVIEW}gate = ["make"]\nmax_duration_secs = 600\n{AGENT}') == (
            "compound_review.max_duration_secs",
            5,
            "must be more than gate_timeout_secs (600), found 600",
            "the agent's own run must have room in it too",
        )
        assert fault(f'{REVIEW}gate = ["make"]\ngate_timeout_secs = "1h"\n{AGENT}')[1] == 5

    def test_looks_back_a_year_at_most(self, fault, parse):
        assert parse(f"{REVIEW}lookback_hours = 8784\n{AGENT}")
        assert fault(f"{REVIEW}lookback_hours = 8785\n{AGENT}")[2] == "must be at most 8784, found 8785"
        assert fault(f"{REVIEW}lookback_hours = 0\n{AGENT}")[2] == "must be more than 0, found 0"

    @pytest.mark.parametrize("tool", [name for name in BUILTIN_TOOLS if name != "bash"])
    def test_takes_an_agent_whose_tool_says_how_it_ended(self, parse, tool):
        assert parse(improver(tool)).compound_review.agent == "me"

    @pytest.mark.parametrize(
        ("keys", "problem"),
        [
            ({"enabled": "false"}, "me is disabled"),
            ({"layer": '"Safety"'}, "me is always on, and takes no tasks besides its own"),
            ({"permissions": '"read-only"'}, "me may change nothing"),
            ({"cli_tool": '"bash"'}, "me runs bash, which does not say how it ended"),
            ({"cli_tool": '"/bin/bash"'}, "me runs /bin/bash, which does not say how it ended"),
            (
                {"fallback": '{cli_tool = "bash", provider = "p"}'},
                "me runs bash, which does not say how it ended",
            ),
        ],
    )
    def test_refuses_an_agent_that_could_improve_nothing(self, fault, keys, problem):
        assert fault(improver(**keys))[:3] == ("compound_review.agent", 4, problem)

    @pytest.mark.parametrize(
        ("section", "heard"),
        [
            ("", False),
            ('error = "^E"\n', False),
            ('jsonl = {said = ["text"]}\n', False),
            ('success = "^done"\n', True),
            ('jsonl = {finished = ["result"]}\n', True),
            ('jsonl = {failed = ["error"]}\n', True),
        ],
    )
    def test_takes_a_program_of_ones_own_that_says_how_it_ended(self, parse, fault, section, heard):
        text = improver("mine") + f'[tools.mine]\nargv = ["mine"]\n{section}'
        if heard:
            assert parse(text).compound_review.agent == "me"
        else:
            assert fault(text)[2] == "me runs mine, which does not say how it ended"

    def test_names_an_agent_that_is_declared(self, fault):
        assert fault(f'{REVIEW}agent = "b"\n{AGENT}') == (
            "compound_review.agent",
            4,
            "the string 'b' is no agent's name",
            "known agents: a",
        )

    def test_knows_the_kinds_that_it_weighs(self, fault, parse):
        weights = ", ".join(f"{kind.value} = 1.5" for kind in FindingKind)
        assert parse(f"{REVIEW}weights = {{{weights}}}\n{AGENT}").compound_review.weights["churn"] == 1.5
        assert fault(f"{REVIEW}[compound_review.weights]\ntodos = 1\n{AGENT}") == (
            "compound_review.weights.todos",
            5,
            "is no kind of finding",
            "did you mean 'todo'?",
        )

    @pytest.mark.parametrize(
        ("weight", "problem"),
        [
            ("-1", "must be at least 0, found -1"),
            ("1001", "must be at most 1000, found 1001"),
            ("nan", "expected a finite number, found the float nan"),
            ("true", "expected a finite number, found true"),
        ],
    )
    def test_weighs_by_numbers_that_are_not_negative(self, fault, weight, problem):
        text = f"{REVIEW}[compound_review.weights]\ntodo = {weight}\n{AGENT}"
        assert fault(text)[:3] == ("compound_review.weights.todo", 5, problem)

    def test_that_opens_pull_requests_without_a_gate_is_warned_of(self, parse):
        config = parse(f"{REVIEW}create_prs = true\n{AGENT}")
        (found,) = warnings_of(config)
        assert (found.path, found.remedy) == (
            "compound_review.create_prs",
            'set gate to your tests, such as gate = ["pytest", "-q"]',
        )
        assert warnings_of(parse(f'{REVIEW}create_prs = true\ngate = ["make", "test"]\n{AGENT}')) == ()
        assert warnings_of(parse(f"{REVIEW}{AGENT}")) == ()


def is_a_branch(name):
    """Whether git takes it for a branch's name."""
    done = subprocess.run(
        ["git", "check-ref-format", f"refs/heads/{name}"], check=False, timeout=30, stdin=subprocess.DEVNULL
    )
    return done.returncode == 0 and not name.startswith("-") and name not in {"@", "HEAD"}


class TestWarnings:
    def test_there_are_none_for_a_plain_fleet_but_for_a_grace_that_takes_over_a_third(self, parse):
        config = parse("shutdown_grace_secs = 15\n" + AGENT)
        assert warnings_of(config) == ()
        (fault,) = warnings_of(attrs.evolve(config, shutdown_grace_secs=14.9))
        assert fault.path == "agents[0].grace_secs"
        assert fault.problem.startswith("5 is over a third of shutdown_grace_secs (14.9)")

    def test_limits_of_providers_that_nobody_calls_are_told_of_in_the_order_of_the_file(self, parse):
        names = [f"other-{number}" for number in range(9)]
        text = "shutdown_grace_secs = 15\n" + AGENT.replace("bash", "codex")
        text += "".join(f"[providers.{name}]\ncalls_per_hour = 1\n" for name in (*names, "openai"))
        found = warnings_of(parse(text))
        assert [fault.path for fault in found] == [f"providers.{name}" for name in names]
        assert {fault.remedy for fault in found} == {"they call openai"}
