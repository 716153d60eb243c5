"""What callers read of their limits, and what their clients make of it."""

from __future__ import annotations

import math
import re

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.access.limit_headers import go_duration, limit_headers, refusal_error
from hugind.proxy.access.limits import LimitName, Refusal, Standing
from hugind.proxy.errors import ApiError

NOW = 1_790_000_000.25

_GO = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:(\d+)ms)?")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.29, "290ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9991, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (86399.25, "23h59m59.25s"),
    ],
)
def test_go_durations(seconds: float, text: str) -> None:
    """As Go writes them."""
    assert text == go_duration(seconds)


@given(st.floats(0, 200_000))
def test_go_durations_are_never_too_short(seconds: float) -> None:
    """Who comes back then does not come too early."""
    found = _GO.fullmatch(go_duration(seconds))
    assert found is not None
    hours, minutes, whole, milliseconds = (float(part or 0) for part in found.groups())

    assert -1e-8 < hours * 3600 + minutes * 60 + whole + milliseconds / 1000 - seconds < 0.00101


def test_openai() -> None:
    """Requests and tokens."""
    standings = {"requests": Standing(60, 59, 1.0), "tokens_per_minute": Standing(1000, 400, 60.0)}

    assert limit_headers("openai", [standings], NOW) == [  # type: ignore[list-item]
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"400"),
        (b"x-ratelimit-reset-tokens", b"1m0s"),
    ]


def test_anthropic() -> None:
    """With moments instead of durations, rounded up."""
    standings = {"requests": Standing(60, 59, 1.0), "tokens_per_day": Standing(1000, 400, 60.0)}

    assert limit_headers("anthropic", [standings], NOW) == [  # type: ignore[list-item]
        (b"anthropic-ratelimit-requests-limit", b"60"),
        (b"anthropic-ratelimit-requests-remaining", b"59"),
        (b"anthropic-ratelimit-requests-reset", b"2026-09-21T14:13:22Z"),
        (b"anthropic-ratelimit-tokens-limit", b"1000"),
        (b"anthropic-ratelimit-tokens-remaining", b"400"),
        (b"anthropic-ratelimit-tokens-reset", b"2026-09-21T14:14:21Z"),
    ]


def test_the_tightest_is_told() -> None:
    """Of the user's and the key's, and of the minute's and the day's."""
    user: dict[LimitName, Standing] = {
        "requests": Standing(60, 10, 30.0),
        "tokens_per_minute": Standing(1000, 900, 5.0),
        "tokens_per_day": Standing(50_000, 70, 80_000.0),
    }
    key: dict[LimitName, Standing] = {"requests": Standing(20, 10, 50.0), "concurrent": Standing(1, 0, None)}
    headers = dict(limit_headers("openai", [user, key], NOW))

    assert (b"20", b"50s") == (headers[b"x-ratelimit-limit-requests"], headers[b"x-ratelimit-reset-requests"])
    assert (b"50000", b"70") == (headers[b"x-ratelimit-limit-tokens"], headers[b"x-ratelimit-remaining-tokens"])


def test_nothing_without_a_limit() -> None:
    """Places for turns have no headers."""
    assert [] == limit_headers("openai", [], NOW)
    assert [] == limit_headers("anthropic", [{}, {"concurrent": Standing(1, 0, None)}], NOW)


def refused(
    limit_name: LimitName, wait_s: float, *, limit: int = 60, amount: int = 1, subject: str = "user:ann"
) -> ApiError:
    """A request that one limit has refused."""
    return refusal_error(
        Refusal(0, limit_name, limit, 60.0, amount, wait_s), subject, [(b"x-ratelimit-limit-requests", b"60")]
    )


@pytest.mark.parametrize(
    ("error", "code", "kind", "retry_after_s", "retry_after_ms", "should_retry", "words"),
    [
        (refused("requests", 11.25), "rate_limit_exceeded", "requests", 12, "11250", "true", "60 requests in 60 s"),
        (refused("requests", 0.0), "rate_limit_exceeded", "requests", 1, "1", "true", "ask again in 1s"),
        (refused("concurrent", 2.0), "rate_limit_exceeded", "requests", 2, "2000", "true", "60 requests at the same"),
        (refused("tokens_per_minute", 9.0), "rate_limit_exceeded", "tokens", 9, "9000", "true", "tokens a minute"),
        (refused("tokens_per_day", 7200.0), "quota_exceeded", "tokens", 7200, "7200000", "false", "in 2h0m0s"),
        (refused("tokens_per_day", 60.0), "quota_exceeded", "tokens", 60, "60000", "true", "tokens a day"),
        (
            refused("tokens_per_minute", math.inf, amount=61),
            *("quota_exceeded", "tokens", None, None, "false", "may take 61 tokens, and you may use no more than 60"),
        ),
        (refused("requests", math.inf, limit=0), "quota_exceeded", "requests", None, None, "false", "no requests"),
        (
            refused("requests", 1.0, subject="key:ab12"),
            *("rate_limit_exceeded", "requests", 1, "1000", "true", "this key may make 60 requests"),
        ),
    ],
)
def test_refusals(
    error: ApiError,
    code: str,
    kind: str,
    retry_after_s: int | None,
    retry_after_ms: str | None,
    should_retry: str,
    words: str,
) -> None:
    """Say what is used up, and when to come back, if at all."""
    assert 429 == error.status
    assert (code, kind, retry_after_s) == (error.code, error.kind, error.retry_after_s)
    assert retry_after_ms == error.headers.get("retry-after-ms")
    assert should_retry == error.headers["x-should-retry"]
    assert "60" == error.headers["x-ratelimit-limit-requests"]
    assert words in error.message


@pytest.mark.parametrize(
    ("error", "requests"),
    [
        (refused("requests", 0.001), 2),
        (refused("tokens_per_day", 7200.0), 1),
        (refused("tokens_per_minute", math.inf, amount=99), 1),
    ],
)
def test_what_the_openai_client_makes_of_it(error: ApiError, requests: int) -> None:
    """It comes back by itself where that helps, and leaves it where it does not."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    body = {"error": {"message": error.message, "type": error.kind, "code": error.code, "param": None}}
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(error.status, headers=headers, json=body)

    transport = httpx2.MockTransport(answer)
    with (
        openai.OpenAI(
            api_key="x", base_url="http://gateway/v1", max_retries=1, http_client=httpx2.Client(transport=transport)
        ) as client,
        pytest.raises(openai.RateLimitError) as raised,
    ):
        client.models.list()

    assert requests == len(seen)
    assert error.code == raised.value.code
