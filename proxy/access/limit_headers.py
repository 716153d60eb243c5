"""What callers are told of their limits: headers in either dialect, and the refusal of a request. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

from hugind.proxy.access.limits import LimitName, Refusal, Standing
from hugind.proxy.errors import ApiError

Headers = list[tuple[bytes, bytes]]
Standings = Mapping[LimitName, Standing]

LONGEST_RETRY_S = 120.0
"""The clients of OpenAI and Anthropic wait no longer than about this; who is told to come back later is told not to."""

_TOKEN_LIMITS: tuple[LimitName, ...] = ("tokens_per_minute", "tokens_per_day")
_REQUEST_LIMITS: tuple[LimitName, ...] = ("requests",)
_OPENAI = (
    (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests", _REQUEST_LIMITS),
    (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens", _TOKEN_LIMITS),
)
_ANTHROPIC = tuple(
    (b"%b-limit" % name, b"%b-remaining" % name, b"%b-reset" % name, kinds)
    for name, kinds in (
        (b"anthropic-ratelimit-requests", _REQUEST_LIMITS),
        (b"anthropic-ratelimit-tokens", _TOKEN_LIMITS),
    )
)
_PERIODS = {"tokens_per_minute": "a minute", "tokens_per_day": "a day"}


def limit_headers(dialect: str, standings: Sequence[Standings], unix_now: float) -> Headers:
    """How many requests and tokens are left, of the limit that has the least left; nothing where there is none.

    `dialect`: `anthropic`, or anything else for OpenAI's headers.
    """
    names, write_reset = (_ANTHROPIC, _rfc3339) if dialect == "anthropic" else (_OPENAI, _go_duration)
    headers: Headers = []
    for limit_name, remaining_name, reset_name, kinds in names:
        found = [standing[kind] for standing in standings for kind in kinds if kind in standing]
        if found:
            limit, remaining, reset_s = found[0] if len(found) == 1 else min(found, key=_least_and_longest)
            headers.append((limit_name, b"%d" % limit))
            headers.append((remaining_name, b"%d" % remaining))
            headers.append((reset_name, write_reset(reset_s or 0.0, unix_now)))
    return headers


def refusal_error(refusal: Refusal, subject: str, headers: Iterable[tuple[bytes, bytes]]) -> ApiError:
    """The 429 for a request that was not let in. `subject`: whose limit it was."""
    comes_back = refusal.wait_s < math.inf
    fields = {name.decode(): value.decode() for name, value in headers}
    if comes_back:
        fields["retry-after-ms"] = str(max(_milliseconds(refusal.wait_s), 1))
    fields["x-should-retry"] = "true" if refusal.wait_s <= LONGEST_RETRY_S else "false"
    return ApiError(
        429,
        _sentence(refusal, "this key" if subject.startswith("key:") else "you"),
        code="rate_limit_exceeded" if comes_back and refusal.limit_name != "tokens_per_day" else "quota_exceeded",
        kind="tokens" if refusal.limit_name in _TOKEN_LIMITS else "requests",
        retry_after_s=max(math.ceil(refusal.wait_s), 1) if comes_back else None,
        headers=fields,
    )


def go_duration(seconds: float) -> str:
    """As Go writes it: `12ms`, `1s`, `6m0s`. Rounded up to milliseconds."""
    milliseconds = _milliseconds(seconds)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds > 0 else "0s"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    text = f"{milliseconds / 1000:g}s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def _go_duration(reset_s: float, _: float) -> bytes:
    return go_duration(reset_s).encode()


def _rfc3339(reset_s: float, unix_now: float) -> bytes:
    return b"%d-%02d-%02dT%02d:%02d:%02dZ" % time.gmtime(math.ceil(unix_now + reset_s))[:6]


def _least_and_longest(standing: Standing) -> tuple[int, float]:
    return standing.remaining, -(standing.reset_s or 0.0)


def _sentence(refusal: Refusal, who: str) -> str:
    limit, amount, period = refusal.limit, refusal.amount, _PERIODS.get(refusal.limit_name)
    if refusal.wait_s == math.inf:
        if period is None:
            return f"{who} may make no requests"
        return f"this request may take {amount} tokens, and {who} may use no more than {limit} {period}"
    again = f"ask again in {go_duration(max(math.ceil(refusal.wait_s), 1))}"
    requests = f"{limit} request{'' if limit == 1 else 's'}"
    if refusal.limit_name == "requests":
        return f"{who} may make {requests} in {refusal.window_s:g} s, and no more is left: {again}"
    if refusal.limit_name == "concurrent":
        return f"{who} may have {requests} at the same time, running and waiting: {again}"
    return f"{who} may use {limit} tokens {period}, and the {amount} of this request are too many now: {again}"


def _milliseconds(seconds: float) -> int:
    return math.ceil(round(seconds * 1000, 6))  # 0.29 s are no 291 ms
