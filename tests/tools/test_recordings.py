"""What the adapters and the verdict make of real runs; tests/data/agent_cli/README.md tells what each case was.

The expectations come from what was done in each run (its scenario, the requests that the model server counted, the exit
code), not from what the adapters say.
"""

from datetime import UTC, datetime
from unittest.mock import ANY

import pytest

from darkfactory.model.ends import ErrorClass as E
from darkfactory.model.ends import Reason
from darkfactory.model.signals import Counts

OK = (Reason.SUCCEEDED, None)
HELLO = "Hello from the fake model. The task is done."


def failed(error: E) -> tuple[Reason, E]:
    return Reason.FAILED, error


def throttled(error: E) -> tuple[Reason, E]:
    return Reason.THROTTLED, error


# case -> what it was; API calls that were answered, tool calls, failed ones, tokens in and out
CLAUDE = {
    "text": (OK, 1, 0, 0, 1000, 18),
    "tool": (OK, 2, 1, 0, 2000, 58),
    "partial": (OK, 2, 1, 0, 2000, 58),
    "binout": (OK, 3, 2, 0, 3000, 88),
    "slow": (OK, 1, 0, 0, 1000, 40),
    "mcp": (OK, 1, 0, 0, 1000, 18),
    "mcp_hang": (OK, 1, 0, 0, 1000, 18),
    "stdin_open": (OK, 1, 0, 0, 1000, 18),
    "inputjson": (OK, 1, 0, 0, 1000, 18),
    "inputjson_open": (OK, 2, 0, 0, 2000, 36),
    "bashtimeout": (OK, 3, 1, 0, 3000, 76),
    "bgproc": (OK, 2, 1, 0, 2000, 58),
    "root_sandboxenv": (OK, 2, 1, 0, 2000, 58),
    "oauth_warn": (OK, 1, 0, 0, 1000, 18),
    "ratelimit_ok": (OK, 1, 0, 0, 1000, 18),
    "resume": (OK, 1, 0, 0, 1000, 18),
    "continue": (OK, 1, 0, 0, 1000, 18),
    "toolerr": (OK, 6, 5, 5, 6000, 174),
    "unknowntool": (OK, 2, 1, 1, 2000, 48),
    "perm_default": (failed(E.PERMISSION_DENIED), 2, 1, 1, 2000, 58),
    "maxtokens": (failed(E.TRUNCATED), 4, 0, 0, 4000, 40),
    # the provider answered twice, and there is no event for an answer without content
    "empty": (failed(E.EMPTY_OUTPUT), 0, 0, 0, 2000, 2),
    "auth": (failed(E.AUTH), 0, 0, 0, 0, 0),
    "oauth_auth": (failed(E.AUTH), 0, 0, 0, 0, 0),
    "nokey": (failed(E.AUTH), 0, 0, 0, 0, 0),
    "badmodel_flag": (failed(E.MODEL_NOT_FOUND), 0, 0, 0, 0, 0),
    "badrequest": (failed(E.INVALID_REQUEST), 0, 0, 0, 0, 0),
    "toolong": (failed(E.CONTEXT_OVERFLOW), 0, 0, 0, 0, 0),
    "ratelimit": (throttled(E.THROTTLED), 0, 0, 0, 0, 0),
    "ratelimit60": (throttled(E.THROTTLED), 0, 0, 0, 0, 0),
    "retries2_ratelimit": (throttled(E.THROTTLED), 0, 0, 0, 0, 0),
    "usage": (throttled(E.QUOTA), 0, 0, 0, 0, 0),
    "err500": (throttled(E.PROVIDER_DOWN), 0, 0, 0, 0, 0),
    "noserver": (throttled(E.NETWORK), 0, 0, 0, 0, 0),
    "streamerr": (throttled(E.NETWORK), 0, 0, 0, 1000, 1),
    "timeout_hang": (throttled(E.NETWORK), 0, 0, 0, 0, 0),
    # ended by the recorder while it tried again, so they were waiting for their provider
    "hang_long": (throttled(E.NETWORK), 0, 0, 0, None, None),
    "hangstream_long": (throttled(E.NETWORK), 0, 0, 0, None, None),
    # ended by the recorder before it had given up its first request
    "timeout_hangstream": (failed(E.UNKNOWN), 0, 0, 0, None, None),
    "badflag": (failed(E.CONFIG), None, 0, 0, None, None),
    "dashprompt": (failed(E.CONFIG), None, 0, 0, None, None),
    "noverbose": (failed(E.CONFIG), None, 0, 0, None, None),
    "root": (failed(E.CONFIG), None, 0, 0, None, None),
    "sessionid_again": (failed(E.CONFIG), None, 0, 0, None, None),
    "resume_unknown": (failed(E.CONFIG), None, 0, 0, 0, 0),
    "fmt_text": (failed(E.TRUNCATED), None, 0, 0, None, None),
    "stdout_closed_slow": (failed(E.TRUNCATED), 0, 0, 0, None, None),
    "sig_int_hang": (failed(E.TRUNCATED), 0, 0, 0, None, None),
    # on SIGINT it has the call rejected and says so in a result
    "sig_int_tool": (failed(E.KILLED), 1, 1, 1, 1000, 40),
    "sig_hup_tool": (failed(E.KILLED), 1, 1, 1, None, None),
    "sig_term_tool": (failed(E.KILLED), 1, 1, 1, None, None),
    "sig_termgroup_tool": (failed(E.KILLED), 1, 1, 1, None, None),
    "sig_kill_tool": (failed(E.KILLED), 1, 1, 0, None, None),
    "sig_killgroup_tool": (failed(E.KILLED), 1, 1, 0, None, None),
    "parent_killed_tool": (failed(E.KILLED), 1, 1, 0, None, None),
    "sig_term_hang": (failed(E.KILLED), 0, 0, 0, None, None),
}

# It never tells of API calls, and of no command that its sandbox refused.
CODEX = {
    "text": (OK, 0, 0, 1200, 18),
    "tool": (OK, 1, 0, 2400, 58),
    "tool_gpt55": (OK, 1, 0, 2400, 58),
    "native": (OK, 1, 0, 2400, 58),
    "root": (OK, 1, 0, 2400, 58),
    "bgproc": (OK, 1, 0, 2400, 58),
    "binout": (OK, 2, 0, 3600, 88),
    "slow": (OK, 0, 0, 1200, 40),
    "mcp": (OK, 0, 0, 1200, 18),
    "mcp_hang": (OK, 0, 0, 1200, 18),
    "badmodel_flag": (OK, 0, 0, 1200, 18),
    "ratelimit_ok": (OK, 0, 0, 1200, 18),
    "sb_default": (OK, 0, 0, 2400, 58),
    "sb_readonly": (OK, 0, 0, 2400, 58),
    "unknowntool": (OK, 0, 0, 2400, 48),
    "toolerr": (OK, 5, 5, 7200, 174),
    "resume_last": (OK, 0, 0, 2400, 36),  # of the session: it is not told what the run before used
    "empty": (failed(E.EMPTY_OUTPUT), 0, 0, 1200, 1),
    "auth": (failed(E.AUTH), 0, 0, None, None),
    "nokey": (failed(E.AUTH), 0, 0, None, None),
    "badrequest": (failed(E.INVALID_REQUEST), 0, 0, None, None),
    "toolong": (failed(E.CONTEXT_OVERFLOW), 0, 0, None, None),
    "maxtokens": (failed(E.TRUNCATED), 0, 0, None, None),
    "ratelimit": (throttled(E.THROTTLED), 0, 0, None, None),
    "ratelimit60": (throttled(E.THROTTLED), 0, 0, None, None),
    "usage": (throttled(E.QUOTA), 0, 0, None, None),
    "err500": (throttled(E.PROVIDER_DOWN), 0, 0, None, None),
    "streamerr": (throttled(E.NETWORK), 0, 0, None, None),
    "idle_hangstream": (throttled(E.NETWORK), 0, 0, None, None),
    # ended by the recorder while it tried again
    "noserver": (throttled(E.NETWORK), 0, 0, None, None),
    "hangstream_long": (throttled(E.NETWORK), 0, 0, None, None),
    # ended by the recorder while it was silent
    "hang_long": (failed(E.UNKNOWN), 0, 0, None, None),
    "stdin_open": (failed(E.UNKNOWN), 0, 0, None, None),
    "badflag": (failed(E.CONFIG), 0, 0, None, None),
    "dashprompt": (failed(E.CONFIG), 0, 0, None, None),
    "resume_unknown": (failed(E.CONFIG), 0, 0, None, None),
    "fmt_text": (failed(E.TRUNCATED), 0, 0, None, None),
    "stdout_closed_slow": (failed(E.UNKNOWN), 0, 0, None, None),  # it panicked, exit 101
    "sig_int_tool": (failed(E.UNKNOWN), 1, 0, None, None),  # exit 1, and not a word why
    "sig_int_hang": (failed(E.UNKNOWN), 0, 0, None, None),
    "sig_hup_tool": (failed(E.KILLED), 1, 0, None, None),
    "sig_term_tool": (failed(E.KILLED), 1, 0, None, None),
    "sig_termgroup_tool": (failed(E.KILLED), 1, 0, None, None),
    "sig_kill_tool": (failed(E.KILLED), 1, 0, None, None),
    "sig_killgroup_tool": (failed(E.KILLED), 1, 0, None, None),
    "sig_term_hang": (failed(E.KILLED), 0, 0, None, None),
    "parent_killed_tool": (failed(E.KILLED), 1, 0, 2400, 58),
}

# A command that failed counts as done: it says "success" of that too. API calls are made out from what it printed.
GEMINI = {
    "text": (OK, 1, 0, 0, 1200, 18),
    "tool": (OK, 2, 1, 0, 2400, 58),
    "root": (OK, 2, 1, 0, 2400, 58),
    "binout": (OK, 3, 2, 0, 3600, 88),
    "slow": (OK, 1, 0, 0, 1200, 40),
    "mcp": (OK, 1, 0, 0, 1200, 18),
    "mcp_hang": (OK, 1, 0, 0, 1200, 18),
    "stdin_open": (OK, 1, 0, 0, 1200, 18),
    "resume": (OK, 1, 0, 0, 1200, 18),
    "ratelimit_ok": (OK, 1, 0, 0, 1200, 18),
    "toolerr": (OK, 6, 5, 0, 7200, 174),
    "unknowntool": (OK, 2, 1, 1, 2400, 48),
    # a third call, which chose the model, is in the tokens alone
    "model_auto": (OK, 2, 1, 0, 3600, 66),
    # it was offered no tool that changes anything, and said so
    "perm_default": (OK, 1, 0, 0, 1200, 26),
    # there is no mark of it that its answer was cut
    "maxtokens": (OK, 1, 0, 0, 1200, 10),
    # it asked four times
    "empty": (failed(E.EMPTY_OUTPUT), 0, 0, 0, 4800, 4),
    "streamerr": (throttled(E.NETWORK), 1, 0, 0, 4800, 48),
    "hangstream_long": (throttled(E.NETWORK), 1, 0, 0, 0, 0),
    "hang_long": (throttled(E.NETWORK), 0, 0, 0, 0, 0),
    "noserver": (throttled(E.NETWORK), 0, 0, 0, 0, 0),
    "ratelimit": (throttled(E.THROTTLED), 0, 0, 0, 0, 0),
    "usage": (throttled(E.QUOTA), 0, 0, 0, 0, 0),
    "err500": (throttled(E.PROVIDER_DOWN), 0, 0, 0, 0, 0),
    "retries1": (throttled(E.PROVIDER_DOWN), 0, 0, 0, 0, 0),
    "auth": (failed(E.AUTH), 0, 0, 0, 0, 0),
    "badrequest": (failed(E.INVALID_REQUEST), 0, 0, 0, 0, 0),
    "toolong": (failed(E.CONTEXT_OVERFLOW), 0, 0, 0, 0, 0),
    # these end before it prints an event
    "nokey": (failed(E.AUTH), None, 0, 0, None, None),
    "badflag": (failed(E.CONFIG), None, 0, 0, None, None),
    "dashprompt": (failed(E.CONFIG), None, 0, 0, None, None),
    "notrust": (failed(E.CONFIG), None, 0, 0, None, None),
    "notrust_default": (failed(E.CONFIG), None, 0, 0, None, None),
    "resume_unknown": (failed(E.CONFIG), None, 0, 0, None, None),
    "fmt_text": (failed(E.TRUNCATED), None, 0, 0, None, None),
    # the pipe took no more of a line of 1.3 MB, and it exited 0
    "bigout": (failed(E.TRUNCATED), 1, 1, 0, None, None),
    "stdout_closed_slow": (failed(E.TRUNCATED), 1, 0, 0, None, None),
    # ended by the recorder while it tried again
    "ratelimit60": (throttled(E.THROTTLED), 0, 0, 0, None, None),
    # ended by the recorder while it waited for a process that a command had left behind
    "bgproc": (failed(E.UNKNOWN), 1, 1, 0, None, None),
    # its first process ignored the signal, until the recorder ended it
    "sig_hup_tool": (failed(E.UNKNOWN), 1, 1, 0, None, None),
    "sig_int_tool": (failed(E.UNKNOWN), 1, 1, 0, None, None),
    "sig_term_tool": (failed(E.UNKNOWN), 1, 1, 0, None, None),
    "sig_int_hang": (failed(E.UNKNOWN), 0, 0, 0, None, None),
    "sig_term_hang": (failed(E.UNKNOWN), 0, 0, 0, None, None),
    # of a signal to all of its group it exited 0
    "sig_termgroup_tool": (failed(E.TRUNCATED), 1, 1, 0, None, None),
    "sig_kill_tool": (failed(E.KILLED), 1, 1, 0, None, None),
    "sig_killgroup_tool": (failed(E.KILLED), 1, 1, 0, None, None),
    "parent_killed_tool": (failed(E.KILLED), 1, 1, 0, None, None),
}

# It has a call of its own after each answer, which is in the tokens. API calls are made out from what it printed.
QWEN = {
    "text": (OK, 1, 0, 0, 2400, 36),
    "tool": (OK, 2, 1, 0, 2400, 58),
    "v015_tool": (OK, 2, 1, 0, 2400, 58),
    "root": (OK, 2, 1, 0, 2400, 58),
    "partial": (OK, 2, 1, 0, 2400, 58),
    "bgproc": (OK, 2, 1, 0, 2400, 58),
    "binout": (OK, 3, 2, 0, 3600, 88),
    "slow": (OK, 1, 0, 0, 2400, 80),
    "mcp": (OK, 1, 0, 0, 2400, 36),
    "mcp_hang": (OK, 1, 0, 0, 2400, 36),
    "stdin_open": (OK, 1, 0, 0, 2400, 36),
    "ratelimit_ok": (OK, 1, 0, 0, 2400, 36),
    "toolerr": (OK, 6, 5, 5, 7200, 174),
    "unknowntool": (OK, 2, 1, 1, 2400, 48),
    # of the session: it is not told what the runs before used
    "resume": (OK, 1, 0, 0, 4800, 72),
    "continue": (OK, 1, 0, 0, 7200, 108),
    # it was offered no tool that changes anything, and said so
    "perm_default": (OK, 1, 0, 0, 3600, 88),
    # it asked ten times, and put four cut answers together; there is no mark of that
    "maxtokens": (OK, 1, 0, 0, 12000, 100),
    "empty": (failed(E.EMPTY_OUTPUT), 0, 0, 0, 6000, 5),
    "streamerr": (throttled(E.PROVIDER_DOWN), 0, 0, 0, 0, 0),
    "err500": (throttled(E.PROVIDER_DOWN), 0, 0, 0, 0, 0),
    "hangstream_long": (throttled(E.NETWORK), 0, 0, 0, 0, 0),
    "noserver": (throttled(E.NETWORK), 0, 0, 0, 0, 0),
    "auth": (failed(E.AUTH), 0, 0, 0, 0, 0),
    "nokey": (failed(E.AUTH), None, 0, 0, 0, 0),
    "badrequest": (failed(E.INVALID_REQUEST), 0, 0, 0, 0, 0),
    "toolong": (failed(E.CONTEXT_OVERFLOW), 0, 0, 0, 0, 0),
    "badflag": (failed(E.CONFIG), None, 0, 0, None, None),
    "dashprompt": (failed(E.CONFIG), None, 0, 0, None, None),
    "resume_unknown": (failed(E.CONFIG), None, 0, 0, None, None),
    "maxwall": ((Reason.BUDGET, E.BUDGET), 0, 0, 0, None, None),
    # the command that it cancels then is an error
    "maxwall_tool": ((Reason.BUDGET, E.BUDGET), 1, 1, 1, 1200, 40),
    "fmt_text": (failed(E.TRUNCATED), None, 0, 0, None, None),
    "stdout_closed_slow": (failed(E.TRUNCATED), 0, 0, 0, None, None),
    # ended by the recorder while it tried again
    "ratelimit": (throttled(E.THROTTLED), 0, 0, 0, None, None),
    "usage": (throttled(E.QUOTA), 0, 0, 0, None, None),
    "usage_long": (throttled(E.QUOTA), 0, 0, 0, None, None),
    # ended by the recorder while it was silent, though it tried again also then
    "ratelimit60": (failed(E.UNKNOWN), 0, 0, 0, None, None),
    "hang_long": (failed(E.UNKNOWN), 0, 0, 0, None, None),
    "sig_hup_tool": (failed(E.KILLED), 1, 1, 0, 1200, 40),
    "sig_int_tool": (failed(E.KILLED), 1, 1, 0, 1200, 40),
    "sig_term_tool": (failed(E.KILLED), 1, 1, 0, 1200, 40),
    # the signal reached both of its processes, so it could cancel the command and say so
    "sig_termgroup_tool": (failed(E.KILLED), 1, 1, 1, 1200, 40),
    "sig_kill_tool": (failed(E.KILLED), 1, 1, 0, 1200, 40),
    "sig_killgroup_tool": (failed(E.KILLED), 1, 1, 0, 1200, 40),
    "parent_killed_tool": (failed(E.KILLED), 1, 1, 0, 1200, 40),
    "sig_int_hang": (failed(E.KILLED), 0, 0, 0, None, None),
    "sig_term_hang": (failed(E.KILLED), 0, 0, 0, None, None),
}
CASES = {("claude", case): expected for case, expected in CLAUDE.items()} | {
    ("codex", case): (end, ANY, *counted) for case, (end, *counted) in CODEX.items()
}

# case -> answers of the provider as the model server counted them, and what is made out of codex's events
ESTIMATED = {
    "text": (1, 1),
    "tool": (2, 2),
    "binout": (3, 3),
    "toolerr": (6, 6),
    "auth": (0, 0),
    # a call that its sandbox refused, or of a tool that there is none of, leaves no event
    "sb_readonly": (2, 1),
    "unknowntool": (2, 1),
    # a call that had not ended
    "sig_term_tool": (1, 0),
}
CASES |= {("gemini", case): expected for case, expected in GEMINI.items()}
CASES |= {("qwen", case): expected for case, expected in QWEN.items()}

# An answer without an error is a call, and an error as many as its library tries before it tells of it.
PI = {
    "text": (OK, 1, 0, 0, 1000, 18),
    "tool": (OK, 2, 1, 0, 2000, 58),
    "toolerr": (OK, 6, 5, 5, 6000, 174),
    "unknowntool": (OK, 2, 1, 1, 2000, 48),
    "ratelimit_ok": (OK, 1, 0, 0, 1000, 18),  # it was asked three times, and only its library knew
    "empty": (failed(E.EMPTY_OUTPUT), 1, 0, 0, 1000, 1),
    "maxtokens": (failed(E.TRUNCATED), 1, 0, 0, 1000, 10),
    # exit 0, all of them; the requests are those that the server counted
    "auth": (failed(E.AUTH), 1, 0, 0, 0, 0),
    "badrequest": (failed(E.INVALID_REQUEST), 1, 0, 0, 0, 0),
    "toolong": (failed(E.CONTEXT_OVERFLOW), 1, 0, 0, 0, 0),  # a second one was to make the conversation shorter
    "ratelimit": (throttled(E.THROTTLED), 12, 0, 0, 0, 0),
    "usage": (throttled(E.QUOTA), 12, 0, 0, 0, 0),
    "err500": (throttled(E.PROVIDER_DOWN), 12, 0, 0, 0, 0),
    "streamerr": (throttled(E.PROVIDER_DOWN), 3, 0, 0, 0, 0),  # it asked once: of what breaks in a stream that is all
    # ended by the recorder: while it waited to try again, was silent, read its stdin
    "ratelimit60": (throttled(E.THROTTLED), 3, 0, 0, 0, 0),
    "hang_long": (failed(E.UNKNOWN), 0, 0, 0, None, None),
    "hangstream_long": (failed(E.UNKNOWN), 0, 0, 0, None, None),
    "stdin_open": (failed(E.UNKNOWN), None, 0, 0, None, None),
    "badflag": (failed(E.CONFIG), None, 0, 0, None, None),
    "dashprompt": (failed(E.CONFIG), None, 0, 0, None, None),
    "resume_unknown": (failed(E.CONFIG), None, 0, 0, None, None),
    "fmt_text": (failed(E.TRUNCATED), None, 0, 0, None, None),
    "stdout_closed_slow": (failed(E.UNKNOWN), 0, 0, 0, None, None),  # EPIPE, exit 1
    "sig_int_tool": (failed(E.KILLED), 1, 1, 0, 1000, 40),
    "sig_term_tool": (failed(E.KILLED), 1, 1, 0, 1000, 40),
    "sig_kill_tool": (failed(E.KILLED), 1, 1, 0, 1000, 40),
    "parent_killed_tool": (failed(E.KILLED), 1, 1, 0, 1000, 40),
    "sig_term_hang": (failed(E.KILLED), 0, 0, 0, None, None),
}
CASES |= {("pi", case): expected for case, expected in PI.items()}

# One call more than it tells of, for the title; of what it tries again, not a word.
OPENCODE = {
    "text": (OK, 2, 0, 0, 1000, 18),
    "slow": (OK, 2, 0, 0, 1000, 40),
    "tool": (OK, 3, 1, 0, 2000, 58),
    "root": (OK, 3, 1, 0, 2000, 58),
    "anthropic_provider": (OK, 3, 1, 0, 2000, 58),
    "binout": (OK, 4, 2, 0, 3000, 88),
    "toolerr": (OK, 7, 5, 5, 6000, 174),
    "unknowntool": (OK, 3, 1, 1, 2000, 48),
    "mcp": (OK, 2, 0, 0, 1000, 18),
    "mcp_hang": (OK, 2, 0, 0, 1000, 18),
    "continue": (OK, 2, 0, 0, 1000, 18),
    "config_content": (OK, 2, 0, 0, 1000, 18),
    "ratelimit_ok": (OK, 2, 0, 0, 1000, 18),
    "perm_deny": (OK, 2, 0, 0, 1000, 28),  # it was offered no shell, and said so
    "perm_ask": (failed(E.PERMISSION_DENIED), 2, 1, 1, 1000, 40),
    "empty": (failed(E.EMPTY_OUTPUT), 2, 0, 0, 1000, 1),
    "maxtokens": (failed(E.TRUNCATED), 2, 0, 0, 1000, 10),
    "auth": (failed(E.AUTH), 1, 0, 0, None, None),
    "badrequest": (failed(E.INVALID_REQUEST), 1, 0, 0, None, None),
    "toolong": (failed(E.CONTEXT_OVERFLOW), 1, 0, 0, None, None),
    "badmodel": (failed(E.UNKNOWN), 1, 0, 0, None, None),
    "badprovider": (failed(E.UNKNOWN), 1, 0, 0, None, None),
    "ratelimit": (throttled(E.THROTTLED), 1, 0, 0, None, None),
    "ratelimit60": (throttled(E.THROTTLED), 1, 0, 0, None, None),
    "usage": (throttled(E.QUOTA), 1, 0, 0, None, None),
    "err500": (throttled(E.PROVIDER_DOWN), 1, 0, 0, None, None),
    "streamerr": (throttled(E.PROVIDER_DOWN), 1, 0, 0, None, None),
    "noserver": (throttled(E.NETWORK), 1, 0, 0, None, None),
    # ended by the recorder while it was silent
    "bgproc": (failed(E.UNKNOWN), 1, 0, 0, None, None),
    "hang_long": (failed(E.UNKNOWN), None, 0, 0, None, None),
    "hangstream_long": (failed(E.UNKNOWN), 1, 0, 0, None, None),
    "stdin_open": (failed(E.UNKNOWN), None, 0, 0, None, None),
    # it prints its help, and not a word of what was wrong
    "badflag": (failed(E.UNKNOWN), None, 0, 0, None, None),
    "dashprompt": (failed(E.UNKNOWN), None, 0, 0, None, None),
    "resume_unknown": (failed(E.CONFIG), None, 0, 0, None, None),
    "fmt_default": (failed(E.TRUNCATED), None, 0, 0, None, None),
    "fmt_default_auth": (failed(E.AUTH), None, 0, 0, None, None),
    "stdout_closed_slow": (failed(E.UNKNOWN), 1, 0, 0, None, None),  # EPIPE, exit 1
    # of a command that has not ended there is no event
    "sig_int_tool": (failed(E.KILLED), 1, 0, 0, None, None),
    "sig_hup_tool": (failed(E.KILLED), 1, 0, 0, None, None),
    "sig_term_tool": (failed(E.KILLED), 1, 0, 0, None, None),
    "sig_termgroup_tool": (failed(E.KILLED), 1, 0, 0, None, None),
    "sig_kill_tool": (failed(E.KILLED), 1, 0, 0, None, None),
    "sig_killgroup_tool": (failed(E.KILLED), 1, 0, 0, None, None),
    "parent_killed_tool": (failed(E.KILLED), 1, 0, 0, None, None),
    "sig_int_hang": (failed(E.KILLED), None, 0, 0, None, None),
    "sig_term_hang": (failed(E.KILLED), None, 0, 0, None, None),
}
CASES |= {("opencode", case): expected for case, expected in OPENCODE.items()}


@pytest.mark.parametrize(("tool", "case"), CASES)
def test_a_recorded_run_is_understood(tool, case, recording):
    run = recording(tool, case)
    tally = run.read()
    totals, verdict = tally.totals, run.judge(tally)
    counted = totals.api_calls, totals.tool_calls, totals.tool_failures, totals.input_tokens, totals.output_tokens
    assert ((verdict.reason, verdict.error_class), *counted) == CASES[tool, case]
    assert verdict.decided_by


@pytest.mark.parametrize("case", ESTIMATED)
def test_the_calls_that_codex_does_not_tell_of_are_estimated(case, recording):
    totals = recording("codex", case).read().totals
    answered, estimate = ESTIMATED[case]
    assert totals.api_calls == estimate <= answered
    assert totals.api_calls_estimated


# What was used up is there again. (The provider told claude in its headers, of which claude says nothing.)
RESETS = {("codex", "usage"): datetime(2026, 11, 23, 4, 53, tzinfo=UTC)}


def test_the_time_that_a_tool_names_is_known(recordings):
    named = {key: run.judge(run.read()).resets_at for key, run in recordings.items() if key[0] in ("claude", "codex")}
    assert {key: time for key, time in named.items() if time is not None} == RESETS


def test_every_recording_has_its_expectation(recordings):
    assert set(recordings) == set(CASES)


def test_nothing_that_was_recorded_is_unknown(recordings):
    unknown = {key: run.read().unknown for key, run in recordings.items()}
    assert {key for key, number in unknown.items() if number} == {
        ("claude", "fmt_text"),
        ("codex", "fmt_text"),
        ("gemini", "fmt_text"),
        ("gemini", "bigout"),
        ("qwen", "fmt_text"),
        ("opencode", "fmt_default"),
        ("pi", "fmt_text"),
    }


@pytest.mark.parametrize(
    ("case", "cost"),
    [
        ("text", 0.0049),
        ("tool", 0.01024),
        ("bashtimeout", 0.01514),  # two results; the second one tells the sum
        ("inputjson_open", 0.0098),
        ("resume", 0.0049),  # total_cost_usd is 0.0098: the first run of the session is in it
        ("continue", 0.0049),  # and here two of them
        ("auth", 0.0),
        ("sig_term_tool", None),
    ],
)
def test_a_run_is_charged_with_its_own_cost(case, cost, recording):
    assert recording("claude", case).read().totals.cost_usd == cost
    assert recording("codex", "text").read().totals.cost_usd is None


@pytest.mark.parametrize(
    ("tool", "case", "said"),
    [
        ("claude", "text", [HELLO]),
        ("claude", "partial", ["I will run a command.", HELLO]),  # in pieces, and whole: once each
        ("claude", "bashtimeout", ["I will run a command.", HELLO, HELLO]),
        ("claude", "auth", []),  # what claude puts in the place of an answer is not the assistant's
        ("claude", "empty", []),  # nor is what it asks the model for in the user's name
        ("codex", "tool", ["I will run a command.", HELLO]),
        ("gemini", "tool", ["I will run a command.", HELLO]),
        ("gemini", "auth", []),
        ("qwen", "tool", ["I will run a command.", HELLO]),
        ("qwen", "partial", ["I will run a command.", HELLO]),
        ("qwen", "auth", []),  # what it puts in the place of an answer is not the assistant's
        ("qwen", "streamerr", ["The beginning of an answer that " * 4]),
        ("opencode", "tool", ["I will run a command.", HELLO]),
        ("opencode", "auth", []),
        ("pi", "tool", ["I will run a command.", HELLO]),
        ("pi", "ratelimit", []),
    ],
)
def test_the_assistant_is_quoted_once_and_nobody_else(tool, case, said, recording, monkeypatch):
    heard = []
    from darkfactory.tools.tally import Tally

    take = Tally.take
    monkeypatch.setattr(Tally, "take", lambda self, signal, place: (heard.append(signal), take(self, signal, place)))
    tally = recording(tool, case).read()
    assert [signal.text for signal in heard if type(signal).__name__ == "Said"] == said
    assert tally.answer == (said[-1] if said else "")


def test_a_background_task_keeps_the_end_away_until_it_is_over(recording):
    lines = recording("claude", "bashtimeout").stdout.splitlines(keepends=True)
    from darkfactory.model.signals import Stream

    over = [recording("claude", "bashtimeout").read([(Stream.STDOUT, b"".join(lines[:n]))]).over for n in range(15)]
    # line 8 is the first result; in line 10 the task is told to be over, in line 12 the second turn begins
    assert over == [False] * 10 + [True] * 2 + [False] * 2 + [True]


def test_the_session_is_known(recordings):
    for (tool, case), run in recordings.items():
        if b'"session_id"' in run.stdout or b'"thread_id"' in run.stdout:
            started = b'"init"' in run.stdout or b"thread.started" in run.stdout
            assert bool(run.read().session) is started, (tool, case)


def test_what_an_agent_did_is_counted_for_the_nightwatch(recording):
    assert recording("claude", "toolerr").read().counts() == Counts(
        tool_calls=5, tool_failures=5, api_calls=6, finishes=1
    )
    assert recording("codex", "toolerr").read().counts() == Counts(tool_calls=5, tool_failures=5, finishes=1)
    assert recording("claude", "perm_default").read().counts() == Counts(
        tool_calls=1, tool_failures=1, api_calls=2, finishes=1
    )
    assert recording("qwen", "toolerr").read().counts() == Counts(tool_calls=5, tool_failures=5, finishes=1)
    assert recording("codex", "badmodel_flag").read().counts() == Counts(warnings=1, finishes=1)
    assert recording("codex", "unknowntool").read().counts() == Counts(warnings=1, finishes=1)


@pytest.mark.parametrize(
    ("tool", "case", "bad"),
    [
        ("claude", "ratelimit", 0),
        ("claude", "usage", 0),
        ("claude", "err500", 0),
        ("claude", "noserver", 0),
        ("claude", "auth", 0),
        ("claude", "sig_int_tool", 0),
        ("claude", "maxtokens", 1),
        ("claude", "toolong", 1),
        ("codex", "ratelimit", 0),
        ("codex", "nokey", 0),
        ("codex", "badrequest", 1),
        ("gemini", "ratelimit", 0),
        ("gemini", "usage", 0),
        ("gemini", "streamerr", 0),
        ("gemini", "auth", 0),
        ("gemini", "toolong", 1),
        ("qwen", "streamerr", 0),
        ("qwen", "err500", 0),
        ("qwen", "auth", 0),
        ("qwen", "empty", 1),
        ("pi", "maxtokens", 1),
        ("opencode", "ratelimit", 0),
        ("opencode", "noserver", 0),
        ("opencode", "auth", 0),
        ("opencode", "toolong", 1),
        ("opencode", "maxtokens", 1),
    ],
)
def test_only_the_agents_own_faults_are_bad_finishes(tool, case, bad, recording):
    counts = recording(tool, case).read().counts()
    assert (counts.finishes, counts.bad_finishes) == (1, bad)
