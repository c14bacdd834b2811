"""Whole files: what they become, and every fault of a bad one at once."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from darkfactory.config import check_config, load_config, missing_paths, parse_config
from darkfactory.errors import ConfigError, Fault
from darkfactory.model.fleet import (
    AgentDefinition,
    AgentLayer,
    CompoundReviewConfig,
    LayerConfig,
    NightwatchConfig,
    OrchestratorConfig,
    Overlap,
    PromptVia,
    Secret,
    ToolConfig,
)


def refused(path: Path) -> tuple[Fault, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert caught.value.file == str(path)
    return caught.value.faults


def test_config_parse_minimal(parse, minimal):
    (agent,) = parse(minimal).agents
    assert agent == AgentDefinition("sentinel", AgentLayer.SAFETY, "codex", "Watch.")


def test_config_defaults(parse, minimal):
    config = parse(minimal)
    assert config == OrchestratorConfig(working_dir=Path("/base"), agents=config.agents, name="fleet")
    assert config.nightwatch == NightwatchConfig()
    assert config.layers == dict.fromkeys(AgentLayer, LayerConfig())
    assert config.compound_review is None
    assert config.source is None


def test_config_parse_full(data):
    config = load_config(data / "seed_example.toml", {})
    repository = Path("/Users/alex/projects/terraphim/terraphim-ai")
    assert config == OrchestratorConfig(
        name="seed_example",
        source=(data / "seed_example.toml").resolve(),
        working_dir=repository,
        nightwatch=NightwatchConfig(300.0, 0.10, 0.20, 0.40, 0.70),
        compound_review=CompoundReviewConfig("0 2 * * *", repository, 1800.0, create_prs=False),
        agents=(
            AgentDefinition(
                name="security-sentinel",
                layer=AgentLayer.SAFETY,
                cli_tool="codex",
                task="Continuously scan for CVEs and security vulnerabilities in dependencies. "
                "Run cargo audit and report findings.",
                capabilities=("security", "vulnerability-scanning"),
                max_memory_bytes=2 * 1024**3,
            ),
            AgentDefinition(
                name="upstream-synchronizer",
                layer=AgentLayer.CORE,
                cli_tool="codex",
                task="Sync with upstream repositories. Check for new releases of key dependencies.",
                schedule="0 3 * * *",
                capabilities=("sync", "dependency-management"),
            ),
            AgentDefinition(
                name="code-reviewer",
                layer=AgentLayer.GROWTH,
                cli_tool="claude",
                task="Review the latest PR for code quality, security issues, and adherence to project conventions.",
                capabilities=("code-review", "architecture"),
            ),
        ),
    )


def test_every_fault_of_a_file_is_told_at_once_and_each_with_its_line(data):
    text = (data / "many_mistakes.toml").read_text()
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="many_mistakes.toml", base=Path("/base"), environ={})
    assert str(caught.value) + "\n" == (data / "many_mistakes.txt").read_text()


def test_what_is_wrong_elsewhere_hides_no_rule_and_makes_up_none(faults):
    """The layer is unknown, so nothing is said of the schedule or the default timeout; the limit is wrong in any."""
    text = '[[agents]]\nname = "a"\nlayer = "Cores"\ncli_tool = "bash"\ntask = "x"\nretries = -1\n'
    found = faults(text + 'stall_timeout_secs = "3h"\n')
    assert [fault.path for fault in found] == ["agents[0].layer", "agents[0].retries"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[[agents]]\nname = "a"\nlayer = "Growth"\ncli_tool = "mine"\ntask = "x"\n[tools]\nmine = 5\n', "tools.mine"),
        ('tools = 5\n[[agents]]\nname = "a"\nlayer = "Growth"\ncli_tool = "mine"\ntask = "x"\n', "tools"),
        ("agents = 5\n", "agents"),
        ("agents = [5]\n", "agents[0]"),
    ],
)
def test_a_rule_that_rests_on_what_is_faulty_is_not_asked(faults, text, path):
    assert [fault.path for fault in faults(text)] == [path]


def test_what_is_inside_an_unknown_layer_is_told_too(faults, minimal):
    found = faults(minimal + '[layers.core]\nmax_restarts = "3"\nmaximum = 1\n')
    assert [fault.path for fault in found] == ["layers.core", "layers.core.max_restarts", "layers.core.maximum"]


def test_one_bad_element_leaves_the_others_to_the_rules(faults, minimal):
    found = faults(minimal + 'args = [5, "${KEY}"]\n')
    assert [fault.path for fault in found] == ["agents[0].args[0]", "agents[0].args[1]"]


class TestAFile:
    def test_that_is_missing_is_told_without_a_line(self, tmp_path):
        assert refused(tmp_path / "none.toml") == (Fault("", "cannot be read: No such file or directory"),)

    def test_that_is_a_directory_cannot_be_read(self, tmp_path):
        assert refused(tmp_path) == (Fault("", "cannot be read: Is a directory"),)

    def test_whose_name_holds_a_nul_cannot_be_read(self):
        assert refused(Path("a\0b")) == (Fault("", "cannot be read: its name holds a NUL character"),)

    def test_that_is_not_utf_8_is_told_with_the_line(self, tmp_path):
        path = tmp_path / "fleet.toml"
        path.write_bytes(b'name = "a"\n# \xff\n')
        (fault,) = refused(path)
        assert (fault.line, fault.remedy) == (2, "save it as UTF-8")

    def test_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does(self, tmp_path, minimal):
        path = tmp_path / "fleet.toml"
        path.write_bytes(b"\xef\xbb\xbf" + minimal.replace("\n", "\r\n").encode())
        assert load_config(path, {}).agents[0].name == "sentinel"

    def test_is_the_same_fleet_through_a_link(self, tmp_path, minimal):
        real = tmp_path / "real"
        real.mkdir()
        (real / "night.toml").write_text(minimal)
        (tmp_path / "link.toml").symlink_to(real / "night.toml")
        config = load_config(tmp_path / "link.toml", {})
        assert (config.source, config.working_dir, config.name) == (real / "night.toml", real, "night")

    @pytest.mark.parametrize(
        ("file", "name"),
        [("fleet.toml", "fleet"), ("my fleet!.toml", "my-fleet"), (".hidden.toml", "hidden"), ("a" * 80, "a" * 64)],
    )
    def test_gives_the_fleet_its_name_made_safe(self, tmp_path, minimal, file, name):
        (tmp_path / file).write_text(minimal)
        assert load_config(tmp_path / file, {}).name == name

    def test_whose_name_has_nothing_safe_asks_for_one(self, tmp_path, minimal):
        path = tmp_path / "日本.toml"
        path.write_text(minimal)
        (fault,) = refused(path)
        assert (fault.path, fault.line) == ("name", 1)
        assert 'name = "..."' in fault.remedy


class TestTextThatIsNoToml:
    @pytest.mark.parametrize(
        ("text", "line"),
        [("a = 1\nb = = 2\n", 2), ("a = 1\na = 2\n", 2), ("[x]\n[x]\n", 2), ('a = 1\nb = """open\n\n', 4), ("a =", 1)],
    )
    def test_is_told_with_its_line(self, faults, text, line):
        (fault,) = faults(text)
        assert fault.problem.startswith("is not valid TOML: ")
        assert "(at " not in fault.problem
        assert (fault.path, fault.line) == ("", line)

    def test_nested_beyond_reading_is_refused(self, faults):
        (fault,) = faults(f"a = {'[' * 5000}{']' * 5000}\n")
        assert fault.problem == "holds arrays or tables that are nested too deeply"

    def test_with_a_number_beyond_reading_is_refused(self, faults):
        (fault,) = faults(f"a = {'9' * 5000}\n")
        assert fault.problem == "holds a number of more digits than can be read"

    def test_an_integer_that_cannot_be_printed_is_told_by_its_bits(self, faults, minimal):
        (fault,) = faults(f"max_concurrent_runs = 3\nname = 0x{'f' * 5000}\n{minimal}")
        assert fault.problem == "expected a string, found an integer of 20000 bits"


def test_no_secret_is_shown_by_the_fleet(parse, minimal):
    config = parse(minimal + 'env = {TOKEN = "${TOKEN}", OTHER = "sk-plain"}\n', {"TOKEN": "sk-environ"})
    assert config.agents[0].env == {"TOKEN": Secret("sk-environ"), "OTHER": Secret("sk-plain")}
    assert "sk-" not in f"{config!r} {config}"


@pytest.mark.parametrize(
    "line",
    [
        'env = {TOKEN = "${TOKEN} sk-plain ${UNSET}"}',
        'env = {TOKEN = "sk-plain ${"}',
        'env = {TOKEN = ["sk-plain"]}',
        'env = ["TOKEN=sk-plain"]',
        'env = "TOKEN=sk-plain"',
        'env = {"TOKEN=sk-plain" = ""}',
        'env = {TOKEN = "sk-plain\\u0000"}',
        'env = {TOKEN = "${TOKEN}"}\nretries = -1',
        'args = ["--key=sk-plain ${TOKEN}"]',
        'evn = {TOKEN = "sk-plain"}',
    ],
)
def test_no_secret_is_shown_by_a_fault(parse, minimal, line):
    with pytest.raises(ConfigError) as caught:
        parse(f"{minimal}{line}\n", {"TOKEN": "sk-environ"})
    assert "sk-" not in f"{caught.value} {caught.value!r} {caught.value.faults!r}"
    assert caught.value.__context__ is None, "a traceback would show cattrs' errors, and what they hold"


@pytest.mark.parametrize("line", ['working_dir = "${PLACE}"', 'working_dir = "~/none"'])
def test_no_variable_is_shown_by_a_missing_path(parse, minimal, line):
    config = parse(f"{line}\n{minimal}", {"PLACE": "/sk-place", "HOME": "/sk-home"})
    (fault,) = missing_paths(config)
    assert "sk-" not in repr(fault)


def test_directories_are_asked_for_only_when_they_are_needed(tmp_path, data):
    config = load_config(data / "seed_example.toml", {})
    assert check_config(config) == ()
    assert [fault.path for fault in missing_paths(config)] == ["working_dir", "compound_review.repo_path"]
    assert config.compound_review is not None
    (tmp_path / "file").write_text("")
    review = attrs.evolve(config.compound_review, repo_path=tmp_path / "file")
    found = missing_paths(attrs.evolve(config, working_dir=tmp_path, compound_review=review))
    assert [fault.path for fault in found] == ["compound_review.repo_path"]


def test_a_tool_of_ones_own_and_all_the_rest_arrive_together(parse):
    config = parse(
        """
        [layers.Core]
        max_restarts = 9
        [tools.mine]
        argv = ["/opt/mine", "-q"]
        prompt = "file"
        [[agents]]
        name = "nightly"
        layer = "Core"
        schedule = "@daily"
        cli_tool = "mine"
        task = "echo ${HOME} $$"
        overlap = "queue"
        """
    )
    assert config.tools == {"mine": ToolConfig(("/opt/mine", "-q"), PromptVia.FILE)}
    assert config.layers[AgentLayer.CORE] == LayerConfig(max_restarts=9)
    assert config.layers[AgentLayer.SAFETY] == LayerConfig()
    assert config.agents[0].overlap is Overlap.QUEUE
    assert config.agents[0].task == "echo ${HOME} $$"
