"""What is counted of a request."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import CollectorRegistry

from hugind.proxy.access.limit_stores import Admission
from hugind.proxy.admission import Admitted, TokenGauge
from hugind.proxy.errors import ApiError, ClientGone
from hugind.proxy.exchange import Exchange
from hugind.proxy.records.metrics import OTHER, ROUTES, Histogram, Metrics, route_of
from hugind.proxy.records.usage import UsageRow
from tests.proxy.exchanges import FakeClient
from tests.proxy.exposition import Exposition

CHAT = "/v1/chat/completions"


def ended(metrics: Metrics, *, path: str = CHAT, error: ApiError | None = None, **facts: Any) -> None:
    """A request that was admitted has ended; `facts` as an exchange has them, and `status`."""
    exchange = FakeClient(path=path).exchange
    status = facts.pop("status", 200)
    row = UsageRow("req_1", 0.0, "alice", path, "openai", "chat", "carol", "key1", "10.1.2.3", False, 10)
    row.status_code = error.status if error else status
    row.prompt_tokens, row.cached_tokens, row.completion_tokens = facts.pop("tokens", (0, 0, 0))
    exchange.admitted = Admitted(Admission(), TokenGauge(), 0, row)
    for name, value in facts.items():
        setattr(exchange, name, value)
    metrics.ended(exchange, error)


def refused(metrics: Metrics, error: ApiError | None, path: str = CHAT, status: int | None = None) -> None:
    """A request that was never admitted has ended."""
    exchange: Exchange = FakeClient(path=path).exchange
    exchange.status = status
    metrics.ended(exchange, error)


def read(metrics: Metrics) -> Exposition:
    registry = CollectorRegistry()
    for family in metrics.families():
        registry.register(_One(family))
    return Exposition(generate_latest(registry).decode())


class _One:
    """A registry takes no two of the same name."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def collect(self) -> list[Any]:
        return [self._family]


def test_a_turn() -> None:
    """Tokens by kind add up; where the session came from; how long the parts took."""
    metrics = Metrics()
    ended(
        metrics, tokens=(100, 60, 20), session=("warm", "ses_1"), restore_s=0.02, queue_s=0.2, ttft_s=0.3,
        timings={"predicted_n": 20, "predicted_ms": 400.0},
    )  # fmt: skip
    ended(metrics, tokens=(40, 0, 1), session=("new", "ses_2"), restore_s=0.5, timings={})
    seen = read(metrics)

    assert (80, 60, 21) == tuple(
        seen.value("hugind_tokens_total", model="chat", kind=kind) for kind in ("prompt", "cached", "completion")
    )
    assert (0, 1, 0, 1) == tuple(
        seen.value("hugind_session_turns_total", model="chat", tier=tier) for tier in ("hot", "warm", "cold", "new")
    )
    assert 2 == seen.value("hugind_requests_total", model="chat", dialect="openai", route=CHAT, status="200")
    assert (1, 0.02) == _sum(seen, "hugind_restore_seconds")
    assert (1, 0.02) == _sum(seen, "hugind_inter_token_seconds")
    assert (1, 0.3) == _sum(seen, "hugind_time_to_first_token_seconds")
    assert (2, 0.2) == _sum(seen, "hugind_queue_seconds")
    assert 2 == _sum(seen, "hugind_request_duration_seconds")[0]


def test_failures() -> None:
    """By status and code; before admission without a model. A path nobody knows is no label."""
    metrics = Metrics()
    ended(metrics, error=ClientGone())
    ended(metrics, error=ApiError(400, "the engine's own words", kind="exceed_context_size_error"))
    refused(metrics, ApiError(401, "no", code="missing_api_key"))
    refused(metrics, ApiError(403, "no", code="origin_refused"), "/api/chat")
    refused(metrics, None, "/v1/models/alice's", 200)
    refused(metrics, None, "/alice", 404)
    refused(metrics, None, "/v1/me")  # it broke before it answered
    seen = read(metrics)

    assert (1, 1) == tuple(
        seen.value("hugind_requests_total", model="chat", dialect="openai", route=CHAT, status=str(status))
        for status in (499, 400)
    )
    for dialect, route, status in (
        ("openai", CHAT, "401"), ("ollama", "/api/chat", "403"), ("openai", "/v1/models", "200"),
        ("openai", OTHER, "404"), ("openai", "/v1/me", "500"),
    ):  # fmt: skip
        assert 1 == seen.value("hugind_requests_total", model="", dialect=dialect, route=route, status=status)
    assert (1, 1, 1) == tuple(
        seen.value("hugind_refused_requests_total", code=code)
        for code in ("client_gone", "missing_api_key", "origin_refused")
    )
    assert 3 == seen.sum("hugind_refused_requests_total")
    assert "alice" not in seen.text
    assert 2 == _sum(seen, "hugind_request_duration_seconds")[0]


@pytest.mark.parametrize(
    "timings",
    [None, {}, {"predicted_n": 0, "predicted_ms": 1}, {"predicted_n": 3}, {"predicted_n": 3, "predicted_ms": None},
     {"predicted_n": "3", "predicted_ms": "x"}, {"predicted_n": 3, "predicted_ms": 0}],
)  # fmt: skip
def test_what_the_engine_does_not_tell_is_not_counted(timings: dict[str, Any] | None) -> None:
    """Whatever stands there, the request is counted."""
    metrics = Metrics()
    ended(metrics, timings=timings)

    assert (0, 0) == _sum(read(metrics), "hugind_inter_token_seconds")


def test_routes_are_few() -> None:
    """Every path belongs to one of them; what comes behind is left out."""
    for route in ROUTES - {"/"}:
        assert route == route_of(route)
    found = {
        path: route_of(path)
        for path in ("/v1/responses/resp_1", "/v1/responses/resp_1/input_items", "/admin/v1/users/alice/keys",
                     "/api/blobs/sha256:00", "/v1/sessions/ses_1", "/", "", "/alice", "/v1/alice", "//", "/v1")
    }  # fmt: skip

    assert found == {
        "/v1/responses/resp_1": "/v1/responses",
        "/v1/responses/resp_1/input_items": "/v1/responses",
        "/admin/v1/users/alice/keys": "/admin/v1",
        "/api/blobs/sha256:00": "/api/blobs",
        "/v1/sessions/ses_1": "/v1/sessions",
        "/": "/",
        **dict.fromkeys(("", "/alice", "/v1/alice", "//", "/v1"), OTHER),
    }


def test_a_histogram_counts_what_is_not_above_a_bound() -> None:
    """Bounds are inclusive; what is above all of them is in the last bucket."""
    histogram = Histogram((0.1, 1))
    for value in (0, 0.1, 0.5, 1, 7):
        histogram.observe(value)
    family = HistogramMetricFamily("x_seconds", "x", labels=("model",))
    histogram.put_into(family, ("chat",))
    found = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}

    assert found[("x_seconds_bucket", "0.1")] == 2
    assert found[("x_seconds_bucket", "1")] == 4
    assert found[("x_seconds_bucket", "+Inf")] == 5
    assert found[("x_seconds_sum", None)] == pytest.approx(8.6)


def _sum(seen: Exposition, name: str) -> tuple[float, float]:
    return seen.value(f"{name}_count", model="chat"), round(seen.value(f"{name}_sum", model="chat"), 9)
