"""The classes of failures by their words: what real tools and providers print."""

import pytest

from darkfactory.model.ends import ErrorClass as E
from darkfactory.tools.errors import class_of
from darkfactory.tools.text import MAX_MESSAGE

PER_MINUTE = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to the documentation.\n* Quota exceeded for metric: generate_content_free_tier_requests, limit: 10\n"
    "Please retry in 38.52s."
)
MESSAGES = {
    # gemini
    "[API Error: You exceeded your current quota. Please retry in 2s.\nSuggested retry after 2s.]": E.THROTTLED,
    PER_MINUTE: E.THROTTLED,
    "Quota exceeded for metric 'GenerateContent' and limit 'GenerateContent request limit per minute'": E.THROTTLED,
    '[API Error: {"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota)."}}]': E.THROTTLED,
    "RESOURCE_EXHAUSTED": E.THROTTLED,
    "[API Error: You have exhausted your daily quota on this model.]\nPlease wait and try again later.": E.QUOTA,
    "You have exhausted your capacity on this model. Your quota will reset after 8h44m7s.": E.QUOTA,
    "You have reached your daily gemini-2.5-pro quota limit.": E.QUOTA,
    "Quota exceeded: GenerateRequestsPerDayPerProjectPerModel-FreeTier. Please retry in 38s.": E.QUOTA,
    '[API Error: {"error":{"code":400,"message":"Request contains an invalid argument."}}]': E.INVALID_REQUEST,
    "Request contains an invalid argument.": E.INVALID_REQUEST,
    '{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed '
    '(1048576).","status":"INVALID_ARGUMENT"}}': E.CONTEXT_OVERFLOW,
    '[API Error: {"error":{"code":400,"message":"API key not valid. Please pass a valid API key."}}]': E.AUTH,
    '[API Error: {"error":{"code":403,"message":"The caller does not have permission"}}]': E.AUTH,
    '[API Error: {"error": {"code": 404, "message": "models/gemini-9 is not found"}}]': E.MODEL_NOT_FOUND,
    '[API Error: {"error":{"code":500,"message":"An internal error has occurred."}}]': E.PROVIDER_DOWN,
    '[API Error: {"error":{"code":503,"message":"The model is overloaded. Please try again later."}}]': E.PROVIDER_DOWN,
    "[API Error: terminated]": E.NETWORK,
    "terminated": E.NETWORK,
    "TypeError: terminated": E.NETWORK,
    "[API Error: exception TypeError: fetch failed sending request]": E.NETWORK,
    # OpenAI, and what speaks as it does
    "You exceeded your current quota, please check your plan and billing details.": E.BILLING,
    "Quota exceeded. Check your plan and billing details.": E.BILLING,
    "402 Insufficient credits. Add more using https://openrouter.ai/settings/credits": E.BILLING,
    "429 Rate limit reached on requests per min (RPM): Limit 500. Please try again in 20s.": E.THROTTLED,
    "Rate limit reached for gpt in organization org on requests per day (RPD): Limit 200": E.QUOTA,
    "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day": E.QUOTA,
    "429 Free allocated quota exceeded.": E.QUOTA,
    "429 The usage limit has been reached": E.QUOTA,
    "Free usage exceeded, subscribe to Go": E.QUOTA,
    "Quota exceeded. It resets at 5pm.": E.QUOTA,
    "Quota exceeded. Try again in 20s.": E.THROTTLED,
    "401 Incorrect API key provided: sk-test.": E.AUTH,
    "[API Error: 401 Incorrect API key provided: sk-test.]": E.AUTH,
    "[API Error: 400 Invalid value for 'input'.]": E.INVALID_REQUEST,
    "400 Your input exceeds the context window of this model.": E.CONTEXT_OVERFLOW,
    "[API Error: 500 The server had an error while processing your request. Sorry about that!]": E.PROVIDER_DOWN,
    "The server had an error while processing your request. Sorry about that!": E.PROVIDER_DOWN,
    '{"message":"The model had an error inside the stream.","code":"server_error"}': E.PROVIDER_DOWN,
    "529 Overloaded": E.PROVIDER_DOWN,
    "overloaded_error": E.PROVIDER_DOWN,
    "[API Error: Connection error. (cause: connect ECONNREFUSED 127.0.0.1:8099)]": E.NETWORK,
    "Cannot connect to API: Unable to connect. Is the computer able to access the url?": E.NETWORK,
    "[API Error: No stream activity for 240000ms after 7 chunks (stream lifetime: 240006.8ms).]": E.NETWORK,
    "[API Error: Model stream ended with empty response text.]": E.EMPTY_OUTPUT,
    "Missing API key for OpenAI-compatible auth.": E.AUTH,
    # claude, codex
    "You've hit your session limit · resets 8:30pm (Asia/Tokyo)": E.QUOTA,
    "You've hit your limit · resets 1:30am (Asia/Dhaka)": E.QUOTA,
    "5-hour limit reached ∙ resets 3pm": E.QUOTA,
    "Claude AI usage limit reached|1760000400": E.QUOTA,
    "Your credit balance is too low to access the Anthropic API.": E.BILLING,
    "unexpected status 503 Service Unavailable: high demand": E.PROVIDER_DOWN,
    "exceeded retry limit, last status: 429 Too Many Requests, request id: req_fake": E.THROTTLED,
    # what tells nothing
    "": None,
    "Unexpected server error. Check server logs for details.": None,  # opencode, of a model that it does not know
    "the process was terminated by its operator": None,
    "the model answered 4040 times": None,
    '{"code":200,"message":"hm"}': None,
}


@pytest.mark.parametrize(("message", "error"), MESSAGES.items(), ids=str)
def test_a_message_has_its_class(message, error):
    assert class_of(message) is error


@pytest.mark.parametrize(
    ("message", "status", "error"),
    [
        ("", 429, E.THROTTLED),
        ("", 529, E.PROVIDER_DOWN),
        ("", 418, None),
        ("status 401", 503, E.PROVIDER_DOWN),  # what is told apart from the words is believed before them
        ("You exceeded your current quota, please check your plan and billing details.", 429, E.BILLING),
        (PER_MINUTE, 429, E.THROTTLED),
        ("Unexpected server error. Check server logs for details.", 500, E.PROVIDER_DOWN),
    ],
)
def test_a_status_says_what_the_words_do_not(message, status, error):
    assert class_of(message, status) is error


def test_only_the_beginning_of_a_message_is_looked_at():
    assert class_of("x" * MAX_MESSAGE + " rate limit") is None
