"""What kind of failure it was, where a tool gives only an HTTP status or words.

Words are read only where the tool speaks of itself: in its own error events, and at the very last on its stderr. What
an agent says and what its commands print is never searched: it may be about anything.
"""

from __future__ import annotations

import re
from functools import lru_cache

from darkfactory.model.ends import ErrorClass
from darkfactory.tools.text import MAX_MESSAGE

_BY_STATUS = {
    400: ErrorClass.INVALID_REQUEST,
    401: ErrorClass.AUTH,
    402: ErrorClass.BILLING,
    403: ErrorClass.AUTH,
    404: ErrorClass.MODEL_NOT_FOUND,
    408: ErrorClass.NETWORK,
    413: ErrorClass.CONTEXT_OVERFLOW,
    422: ErrorClass.INVALID_REQUEST,
    429: ErrorClass.THROTTLED,
}

_STATUS = re.compile(r"\bstatus:? (\d{3})\b|\"code\": ?([45]\d\d)\b|^(?:\[?api error: )?([45]\d\d) ")
"""Where a message has one: in its words, in the JSON that it quotes, or at its very beginning."""

_LIMITS = (
    (
        ErrorClass.QUOTA,
        r"usage.limit|usage exceeded|account.s rate limit|(hour|daily|weekly|session) limit|hit your limit|"
        r"exhausted your (capacity|daily quota)|daily .{1,40}quota limit|per.?day|free allocated quota|"
        r"quota.{1,80}\breset",
    ),
    (ErrorClass.THROTTLED, r"\A(?=(?s:.*)quota)(?s:.*)((re)?try (again )?in|retry.?(after|delay)|per.?minute)"),
    (
        ErrorClass.BILLING,
        r"credit balance|insufficient.(quota|credits|funds)|quota exceeded|your current quota|billing",
    ),
    (
        ErrorClass.CONTEXT_OVERFLOW,
        r"context window|(prompt|input) is too long|context.length|maximum context|token count.{1,20}exceeds",
    ),
    (ErrorClass.AUTH, r"api.key.(not.valid|invalid)|(incorrect|invalid).api.key"),
)
"""Told apart by words alone from other failures with the same status. A quota that says when to try again throttles;
one that does not has to be paid for."""

_WORDS = (
    (ErrorClass.THROTTLED, r"\b429\b|rate.?limit|too many requests|resource.(has been )?exhausted"),
    (ErrorClass.TRUNCATED, r"max.output.tokens|output token maximum"),
    (ErrorClass.AUTH, r"api.key|not logged in|missing environment variable|authenticat|unauthorized|oauth token"),
    (
        ErrorClass.MODEL_NOT_FOUND,
        r"selected model(?! is at capacity)|model\b.{0,200}(not found|not exist|not supported)",
    ),
    (ErrorClass.BUDGET, r"budget (reached|exhausted|exceeded)"),
    (
        ErrorClass.NETWORK,
        r"\becon\w+|connection|sending request|for network|disconnected|timed out|getaddrinfo|fetch failed|"
        r"(cannot|unable to) connect|no stream activity|socket hang up|"
        r"^(\[?api error: )?(typeerror: )?terminated\b\]?$",
    ),
    (
        ErrorClass.PROVIDER_DOWN,
        r"at capacity|high demand|overloaded|(?<!unexpected )server.error|(server|model) had an error|bad gateway|"
        r"service unavailable|internal error",
    ),
    (ErrorClass.EMPTY_OUTPUT, r"empty response"),
    (ErrorClass.REFUSED, r"content.filter|\brefus|usage polic"),
    (ErrorClass.INVALID_REQUEST, r"invalid.request|invalid value|invalid argument\.|invalid_argument|bad request"),
    (
        ErrorClass.CONFIG,
        r"(unknown|unexpected|unrecognized|invalid) (option|argument|value)|requires -|cannot be used with|"
        r"no session found|session not found|"
        r"no conversation found|no rollout found|already in use|loading config|config\.toml",
    ),
)

_COMPILED_LIMITS, _COMPILED_WORDS = (
    tuple((error, re.compile(pattern)) for error, pattern in table) for table in (_LIMITS, _WORDS)
)


def class_of(text: str, status: int | None = None) -> ErrorClass | None:
    """The class of an error from its message and its HTTP status, where there is one; None when neither tells."""
    return _class_of(text[:MAX_MESSAGE].lower(), status)  # only so much is kept in the cache


@lru_cache(maxsize=64)  # a tool that tries again says the same each time
def _class_of(text: str, status: int | None) -> ErrorClass | None:
    for error, pattern in _COMPILED_LIMITS:
        if pattern.search(text):
            return error
    if status is None and (named := _STATUS.search(text)):
        status = int(named[1] or named[2] or named[3])
    if status is not None and (error_of_status := _of_status(status)):
        return error_of_status
    return next((error for error, pattern in _COMPILED_WORDS if pattern.search(text)), None)


def _of_status(status: int) -> ErrorClass | None:
    return ErrorClass.PROVIDER_DOWN if 500 <= status < 600 else _BY_STATUS.get(status)
