"""`/metrics` for Prometheus: what happened here, how things are now, and what the workers tell of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from hugind.proxy.gateway import Gateway
from hugind.proxy.records.metrics import Metrics
from hugind.proxy.vitals import vitals
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.metrics import relabelled
from hugind.supervisor.worker import Worker, WorkerState

WORKER_TIMEOUT_S = 2.0
"""Prometheus gives up after 10 seconds; a worker that is slow to answer is left out."""


def metrics_router(gateway: Gateway, metrics: Metrics) -> APIRouter:
    """The route. `app` lets in who may read metrics."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/metrics", methods=["GET", "HEAD"])
    async def scrape() -> Response:
        """All metrics as text. Loads no engine; blocks for as long as the slowest worker, 2 s at most."""
        of_workers = await _ask_workers(gateway, metrics)
        families = [*metrics.families(), *await vitals(gateway)]
        ours = await asyncio.to_thread(generate_latest, _Families(families))
        return Response(ours + of_workers.encode(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    return router


class _Families(Collector):
    """Families that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


async def _ask_workers(gateway: Gateway, metrics: Metrics) -> str:
    """What the ready workers tell, as one text in the order of the engines."""
    async with asyncio.TaskGroup() as group:
        asked = [
            ({"model": engine.name, "worker": str(worker.index)}, group.create_task(_ask(worker)))
            for engine in gateway.fleet.engines.values()
            for worker in engine.workers
            if worker.state is WorkerState.READY
        ]
    told = []
    for labels, answer in asked:
        if (text := answer.result()) is None:
            metrics.failed_looks[labels["model"]] += 1
        else:
            told.append((labels, text))
    return relabelled(told)


async def _ask(worker: Worker) -> str | None:
    try:
        return None if worker.spawn is None else await worker.spawn.client.metrics_text(WORKER_TIMEOUT_S)
    except WorkerUnreachable:
        return None
