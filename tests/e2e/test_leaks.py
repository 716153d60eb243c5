"""Thousands of requests later, the gateway is as it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.gateway_process import DEADLINE_S, KEY, running
from tests.eventually import eventually_sync
from tests.proxy.serving import chat, standin_config

WARM_UP = 600
REQUESTS = 2000
AT_ONCE = 16
ALLOWED_GROWTH = 4 * 1024 * 1024
BODIES = [chat(max_tokens=8), chat(max_tokens=8, stream=True), {"model": "nope"}, chat(n=2)]
PATHS = ["/v1/chat/completions", "/v1/messages", "/v1/chat/completions", "/tokenize"]


def test_nothing_grows(tmp_path: Path) -> None:
    """Open files and memory are back where they were, after streams, answers, errors and clients that left."""
    config = standin_config(tmp_path, server={"max_slots": 4}).model_dump(mode="json", exclude_unset=True)
    with running(tmp_path, {"chat": config}) as gateway:
        process = psutil.Process(gateway.process.pid)
        asyncio.run(_load(gateway.url, WARM_UP))
        eventually_sync(lambda: gateway.engine("chat")["free_slots"] == 4)
        files, memory = process.num_fds(), process.memory_info().rss
        asyncio.run(_load(gateway.url, REQUESTS))
        eventually_sync(lambda: gateway.engine("chat")["free_slots"] == 4)
        eventually_sync(lambda: process.num_fds() <= files, DEADLINE_S)

        assert process.memory_info().rss - memory < ALLOWED_GROWTH
        assert memory < 130 * 1024 * 1024


async def _load(url: str, requests: int) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=DEADLINE_S, trust_env=False) as client:
        numbers = iter(range(requests))

        async def work() -> None:
            for number in numbers:
                await _ask(client, number)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())


async def _ask(client: httpx.AsyncClient, number: int) -> None:
    body: dict[str, Any] = BODIES[number % len(BODIES)]
    if number % 50 == 1:
        body = {**body, "standin": {"token_ms": 20}}
        async with client.stream("POST", PATHS[0], json=body) as response:
            await anext(response.aiter_raw())  # and leave
        return
    response = await client.post(PATHS[number // 4 % len(PATHS)], json=body)
    if response.status_code not in (200, 400, 404):
        pytest.fail(f"{response.status_code}: {response.text}")
