"""Processes that die: the client hears it in a well-formed way, the next request is served, nothing is left over."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from hugind.proxy.dialects.openai import ChatAssembler
from hugind.proxy.sse import Event, EventParser
from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import DEADLINE_S, GatewayProcess, hugind, running
from tests.eventually import eventually_sync
from tests.proxy.serving import chat

pytestmark = pytest.mark.e2e

ENDLESS = chat(stream=True, max_tokens=100_000)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """So much context that an answer takes longer than any of these tests."""
    config = chat_config(tmp_path, context={"ctx_size": 200_000})
    config["engine"]["backoff_s"] = 0.05
    return config


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
def test_a_worker_killed_in_mid_stream(tmp_path: Path, config: dict[str, Any], path: str) -> None:
    """The stream ends in its dialect's error, and the next request is served by a new worker."""
    with running(tmp_path, {"chat": config}) as gateway:
        pid = gateway.status()[0]["pid"]
        body = {**ENDLESS, "input": "hello", "prompt": "hello"}
        events = _read_and(gateway, path, body, lambda: os.kill(pid, signal.SIGKILL))
        last = orjson.loads(events[-1].data)
        again = gateway.client.post("/v1/chat/completions", json=chat(max_tokens=2))

        assert not any(event.is_done for event in events)
        assert "the engine ended in the middle" in last["error"]["message"]
        if path == "/v1/messages":
            assert ("error", "error") == (events[-1].event, last["type"])
        assert 200 == again.status_code
        assert pid != gateway.status()[0]["pid"]
        assert 2 == gateway.engine("chat")["free_slots"]


def test_a_gateway_killed_leaves_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    """No llama-server outlives it, not even one that computes; the next command tidies its folder."""
    with running(tmp_path, {"chat": config}) as gateway:
        workers = [psutil.Process(worker["pid"]) for worker in gateway.status()]
        _read_and(gateway, "/v1/chat/completions", ENDLESS, gateway.process.kill, may_be_cut=True)
        gateway.wait()
        eventually_sync(lambda: not any(map(_is_alive, workers)), DEADLINE_S)
        hugind(gateway.home, "server", "stop")

        assert workers
        assert [] == list(gateway.home.run.iterdir())


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT]])
def test_a_stopped_gateway_leaves_nothing(
    tmp_path: Path, config: dict[str, Any], signals: list[signal.Signals]
) -> None:
    """Asked politely or urgently, in the middle of a stream: every process and every socket is gone."""
    config["engine"]["drain_s"] = 1
    with running(tmp_path, {"chat": config}) as gateway:
        children = gateway.children()

        def stop() -> None:
            for number in signals:
                gateway.process.send_signal(number)

        is_urgent = len(signals) > 1
        said = _read_and(gateway, "/v1/chat/completions", ENDLESS, stop, may_be_cut=is_urgent)
        code = gateway.wait()

        assert 0 == code
        assert not any(map(_is_alive, children))
        assert [] == list(gateway.home.run.iterdir())
        if not is_urgent:
            assert "stopping" in orjson.loads(said[-1].data)["error"]["message"]


def test_a_running_turn_may_finish(tmp_path: Path, config: dict[str, Any]) -> None:
    """A stream that ends within the drain time ends as if nothing had happened."""
    config["context"]["ctx_size"] = 4096
    config["engine"]["drain_s"] = 30
    with running(tmp_path, {"chat": config}) as gateway:
        body = chat(stream=True, max_tokens=400, stream_options={"include_usage": True})
        events = _read_and(gateway, "/v1/chat/completions", body, lambda: gateway.process.send_signal(signal.SIGTERM))
        assembler = ChatAssembler()
        for event in events[:-1]:
            assembler.feed(orjson.loads(event.data))

        assert 0 == gateway.wait()
        assert events[-1].is_done
        assert 400 == assembler.result()["usage"]["completion_tokens"]


def _read_and(
    gateway: GatewayProcess, path: str, body: dict[str, Any], act: Callable[[], object], *, may_be_cut: bool = False
) -> list[Event]:
    """Read a stream to its end, which is well-formed unless it `may_be_cut`; `act` once it has begun."""
    parser = EventParser()
    events: list[Event] = []
    with gateway.client.stream("POST", path, json=body) as response:
        assert 200 == response.status_code
        try:
            for chunk in response.iter_raw():
                if not events:
                    act()
                events += parser.feed(chunk)
        except httpx.TransportError:
            assert may_be_cut
    return events


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
