"""A fleet file in, an `OrchestratorConfig` out, or every fault in it at once.

load_config / parse_config (load)
    text -> tree            tomllib, and `lines` for the line of each key
    tree -> value           `convert` (cattrs), with `units` and `expand` for what TOML cannot say itself
    value -> faults         `check`, with `values` and `cron`; also for fleets that were made by a program
    machine -> faults       `machine`: what is not there, when a command is about to use the fleet
"""

from darkfactory.config.check import check_config, warnings_of
from darkfactory.config.load import load_config, parse_config
from darkfactory.config.machine import missing_paths

__all__ = ["check_config", "load_config", "missing_paths", "parse_config", "warnings_of"]
