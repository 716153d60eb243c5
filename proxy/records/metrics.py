"""What has happened since the gateway started, as numbers for Prometheus: counted once per request, when it has ended.

Plain numbers, of one thread, are turned into metric families when somebody asks. The client library's own counters take
locks: 11 of them were measured at 8.5 us a request, these at 2.7.

No label tells who asked: models are engines' names, routes and codes are words of ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from hugind.proxy.failures import dialect_of

if TYPE_CHECKING:
    from hugind.proxy.errors import ApiError
    from hugind.proxy.exchange import Exchange

DURATIONS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
WAITS_S = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FIRST_TOKENS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
RESTORES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

OTHER = "other"

ROUTES = frozenset(
    {
        *("/", "/health", "/livez", "/readyz", "/metrics", "/version", "/admin/v1"),
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/conversations", "/v1/embeddings"),
        *("/v1/rerank", "/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/sessions", "/v1/me"),
        *("/infill", "/tokenize", "/detokenize"),
        *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/version", "/api/tags", "/api/ps"),
        *("/api/show", "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs"),
        "/api/models",
    }
)
"""What the label `route` may be, besides `other`."""


class Histogram:
    """How many of the values seen are in which bucket."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def put_into(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add it to a family under these labels, in the order of the family's names."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class _Turns:
    """What is known of the requests that one engine served."""

    __slots__ = ("cached", "completion", "duration", "first_token", "labels", "prompt", "restore", "token", "wait")

    def __init__(self) -> None:
        self.duration = Histogram(DURATIONS_S)
        self.wait = Histogram(WAITS_S)
        self.first_token = Histogram(FIRST_TOKENS_S)
        self.token = Histogram(TOKENS_S)
        self.restore = Histogram(RESTORES_S)
        self.prompt = self.cached = self.completion = 0
        self.labels = dict.fromkeys(("hot", "warm", "cold", "new"), 0)


class Metrics:
    """Lives as long as the gateway. Not for use from several threads."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, str, int]] = Counter()
        """By model (none: it was never admitted), dialect, route and status."""
        self._refused: Counter[str] = Counter()
        """By the code of the error."""
        self._turns: dict[str, _Turns] = {}
        """By model: requests that were admitted."""
        self.failed_looks: Counter[str] = Counter()
        """By model: workers that did not tell their own metrics in time."""

    def ended(self, exchange: Exchange, error: ApiError | None) -> None:
        """A request is over and settled. `error`: why it failed, if it did. Called once for each."""
        if error is not None and error.code is not None:
            self._refused[error.code] += 1
        path, admitted = exchange.scope["path"], exchange.admitted
        if admitted is None:
            status = error.status if error is not None else exchange.status or 500
            self._requests["", dialect_of(path), route_of(path), status] += 1
            return
        row = admitted.row
        self._requests[row.model, row.dialect, route_of(path), row.status_code] += 1
        turns = self._turns.get(row.model)
        if turns is None:
            turns = self._turns[row.model] = _Turns()
        turns.duration.observe(exchange.duration_s)
        turns.wait.observe(exchange.queue_s)
        if exchange.ttft_s is not None:
            turns.first_token.observe(exchange.ttft_s)
        if (token_s := _token_s(exchange.timings)) is not None:
            turns.token.observe(token_s)
        turns.prompt += row.prompt_tokens - row.cached_tokens
        turns.cached += row.cached_tokens
        turns.completion += row.completion_tokens
        if exchange.session is not None:
            label = exchange.session[0]
            turns.labels[label] += 1
            if label in ("warm", "cold"):
                turns.restore.observe(exchange.restore_s)

    def families(self) -> Iterator[Metric]:
        """All of it, for the moment."""
        requests = CounterMetricFamily(
            "hugind_requests", "Requests that have ended.", labels=("model", "dialect", "route", "status")
        )
        for (model, dialect, route, status), count in self._requests.items():
            requests.add_metric((model, dialect, route, str(status)), count)
        yield requests
        yield _counters(
            "hugind_refused_requests", "Requests that failed, by the code of the error.", "code", self._refused
        )
        yield from self._histograms()
        yield from self._sums()
        yield _counters(
            "hugind_engine_scrape_failures", "Workers that did not tell their own metrics in time.", "model",
            self.failed_looks,
        )  # fmt: skip

    def _histograms(self) -> Iterator[Metric]:
        described = {
            "duration": ("hugind_request_duration_seconds", "From a request's head to the end of its answer."),
            "wait": ("hugind_queue_seconds", "Waiting for a slot, for an earlier turn or for the engine to load."),
            "first_token": ("hugind_time_to_first_token_seconds", "From a request's head to the engine's first byte."),
            "token": ("hugind_inter_token_seconds", "Mean time between the tokens of an answer, by the engine."),
            "restore": ("hugind_restore_seconds", "Making a slot ready with a snapshot."),
        }
        for field, (name, documentation) in described.items():
            family = HistogramMetricFamily(name, documentation, labels=("model",))
            for model, turns in self._turns.items():
                getattr(turns, field).put_into(family, (model,))
            yield family

    def _sums(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("hugind_tokens", "Tokens, each of one kind.", labels=("model", "kind"))
        labels = CounterMetricFamily(
            "hugind_session_turns", "Turns by where the session's KV came from.", labels=("model", "tier")
        )
        for model, turns in self._turns.items():
            for kind in ("prompt", "cached", "completion"):
                tokens.add_metric((model, kind), getattr(turns, kind))
            for tier, count in turns.labels.items():
                labels.add_metric((model, tier), count)
        yield tokens
        yield labels


def route_of(path: str) -> str:
    """The route that a path belongs to: one of `ROUTES`, or `other`."""
    if path in ROUTES:
        return path
    head = "/".join(path.split("/", 3)[:3])
    return head if head in ROUTES else OTHER


def _counters(name: str, documentation: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _token_s(timings: dict[str, Any] | None) -> float | None:
    """Between two tokens; None where there were none."""
    if timings is None:
        return None
    tokens, took_ms = timings.get("predicted_n"), timings.get("predicted_ms")
    if not isinstance(tokens, int) or not isinstance(took_ms, (int, float)) or tokens < 1 or took_ms <= 0:
        return None
    return took_ms / tokens / 1000
