"""Let a request in, within its caller's limits, and put on record what became of it. Settles on every path."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hugind.proxy.access.principal import Allowance, Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.failures import dialect_of
from hugind.proxy.records.usage import UsageRow

if TYPE_CHECKING:
    from hugind.proxy.access.limit_stores import Admission
    from hugind.proxy.books import Books
    from hugind.proxy.exchange import Exchange, Headers

CHUNK_TOKENS = 256
"""Reserved at a time for a turn that does not say how many tokens it wants; so many are overspent at most."""

FIRST_TOKENS_PER_BYTE = 0.5
"""Of a request's body, before anything was measured: more than any language needs."""
RATIO_MEMORY = 0.9

_WANTED = ("n_predict", "max_completion_tokens", "max_tokens", "max_output_tokens")
"""In the engine's order: the first that is said counts."""


class TokenGauge:
    """How many tokens a request's body is worth, learned from those that were counted. Of one engine."""

    def __init__(self) -> None:
        self._per_byte = FIRST_TOKENS_PER_BYTE

    def estimate(self, size_bytes: int, most: int) -> int:
        """Tokens of a prompt, rather too many than too few, and no more than fit."""
        return min(int(size_bytes * self._per_byte) + 1, most)

    def note(self, size_bytes: int, tokens: int) -> None:
        """A body of this size was so many tokens; one that has more for its size counts at once."""
        if size_bytes and tokens:
            seen = tokens / size_bytes
            self._per_byte = max(seen, RATIO_MEMORY * self._per_byte + (1 - RATIO_MEMORY) * seen)


class Admitted:
    """A request that was let in. Lives until `settle`."""

    def __init__(self, admission: Admission, gauge: TokenGauge, prompt_tokens: int, row: UsageRow) -> None:
        self._admission = admission
        self._gauge = gauge
        self._prompt_tokens = prompt_tokens
        self.row = row
        """What is on record of it; complete once it is settled."""

    def headers(self) -> Headers:
        """What the caller has left, in its dialect's words."""
        return self._admission.headers(self.row.dialect)

    async def extend(self, exchange: Exchange) -> None:
        """Reserve another chunk for a turn that goes on.

        Raises:
            ApiError: 429, there are no tokens left.
        """
        if not await self._admission.extend(CHUNK_TOKENS):
            raise ApiError(
                429, "the answer ends here: your tokens are used up", code="quota_exceeded", kind="tokens",
                headers={"x-should-retry": "false"},
            )  # fmt: skip
        exchange.paid_events += CHUNK_TOKENS

    async def settle(self, exchange: Exchange, error: ApiError | None, books: Books) -> None:
        """Pay for what was used, and write it down. `error`: why the request failed, if it did."""
        prompt, cached, completion = exchange.prompt_tokens, exchange.cached_tokens, exchange.completion_tokens
        if completion:
            self._gauge.note(exchange.request_bytes + exchange.history_bytes, prompt)
        elif exchange.was_sent and exchange.timings is None and (exchange.events or error is not None):
            prompt, completion = prompt or self._prompt_tokens, exchange.events  # it was cut before the engine told
        row = self.row
        row.status_code = error.status if error else exchange.status or 500
        row.error_code = (error.code or error.kind or "error") if error else None
        row.duration_ms = exchange.duration_s * 1000
        row.queue_ms = exchange.queue_s * 1000
        row.ttft_ms = None if exchange.ttft_s is None else exchange.ttft_s * 1000
        row.prompt_tokens, row.cached_tokens, row.completion_tokens = prompt, cached, completion
        row.response_bytes = exchange.response_bytes
        row.finish_reason = exchange.finish_reason
        content = None
        if exchange.copy is not None:
            content = exchange.body.decode("utf-8", "replace"), b"".join(exchange.copy).decode("utf-8", "replace")
        books.usage.ended(row, content)
        await self._admission.settle(prompt - cached + completion)


async def admit(exchange: Exchange, books: Books, model: str, context: int, request: dict[str, Any]) -> None:
    """Count a request against its caller's limits, or refuse it. `context`: tokens that fit into one slot.

    Raises:
        ApiError: 429, some limit is reached; nothing was counted.
    """
    principal = exchange.principal
    gauge = books.gauge(model)
    prompt = gauge.estimate(exchange.request_bytes + exchange.history_bytes, context)
    wanted = _wanted(request, context)
    exchange.estimate_tokens = prompt + (wanted or CHUNK_TOKENS)
    path = exchange.scope["path"]
    dialect = dialect_of(path)
    admission = await books.limiter.admit(exchange.request_id, principal, exchange.estimate_tokens, dialect)
    if wanted is None and _counts_tokens(principal):
        exchange.paid_events = CHUNK_TOKENS
    row = UsageRow(
        exchange.request_id, time.time() - exchange.duration_s, principal.name, path, dialect, model,
        exchange.end_user, principal.key_id, exchange.client_ip, request.get("stream") is True, exchange.request_bytes,
    )  # fmt: skip
    exchange.admitted = Admitted(admission, gauge, prompt, row)
    books.usage.began(row)


def _wanted(request: dict[str, Any], context: int) -> int | None:
    """How many tokens the answers may have at most, where the request says so."""
    for key in _WANTED:
        value = request.get(key)
        if type(value) is int:
            if value < 0:
                return None  # as much as there is room for
            choices = request.get("n")
            return min(value, context) * (choices if type(choices) is int and choices > 0 else 1)
    return None


def _counts_tokens(principal: Principal) -> bool:
    return _has_tokens(principal.limits) or _has_tokens(principal.key_limits)


def _has_tokens(allowance: Allowance) -> bool:
    return allowance.tokens_per_minute is not None or allowance.tokens_per_day is not None
