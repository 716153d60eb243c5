"""The beginning of a request: what a dialect refuses, and whether a model's template knows tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.errors import ApiError
from hugind.proxy.routes.asking import fit_template, refusing
from hugind.supervisor.residency import FleetRules
from hugind.supervisor.worker import Worker, WorkerState
from tests.proxy.people import add_user, bearer, rows
from tests.proxy.serving import chat, serving, standin_config

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_dialects_refusal_is_a_400() -> None:
    """With its field and its code."""
    with pytest.raises(ApiError) as refused, refusing():
        raise DialectError.unsupported("not here", "audio")

    assert (400, "not here", "audio", "unsupported_value") == (
        refused.value.status,
        refused.value.message,
        refused.value.param,
        refused.value.code,
    )


async def test_what_is_refused_does_not_count(tmp_path: Path) -> None:
    """A request that makes no sense uses up nothing."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        secret = await add_user(served.gateway.books.accounts, "alice", {"requests": 1})
        wrong = await served.client.post(
            "/v1/chat/completions", json=chat(audio={"voice": "a"}), headers=bearer(secret)
        )
        right = await served.client.post("/v1/chat/completions", json=chat(max_tokens=1), headers=bearer(secret))

        assert (400, 200) == (wrong.status_code, right.status_code)
        assert 1 == len(await rows(served))


async def test_tools_and_a_template_without(tmp_path: Path) -> None:
    """They are refused, unless none is to be called; what was said of them is told in words."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}) as served:
        engine = served.engine()
        request: dict[str, Any] = {"tools": [TOOL], "messages": [{"role": "assistant", "tool_calls": [CALL]}]}
        fit_template(engine, request)
        assert [TOOL] == request["tools"]

        served.spawn().template_takes = frozenset()
        with pytest.raises(ApiError, match="'chat' does not support tools") as refused:
            fit_template(engine, request)
        none = {**request, "tool_choice": "none"}
        fit_template(engine, none)

        served.spawn().template_takes = frozenset({"supports_tools", "supports_tool_calls"})
        able = {"tools": [TOOL], "messages": request["messages"]}
        fit_template(engine, able)

    assert ("tools", "unsupported_value") == (refused.value.param, refused.value.code)
    assert "tools" not in none
    assert "<tool_call>" in none["messages"][0]["content"]
    assert [CALL] == able["messages"][0]["tool_calls"]


async def test_tools_and_a_model_that_was_away(tmp_path: Path) -> None:
    """Whether its template knows of any is asked of it once it is back, however often that is."""
    async with serving(
        tmp_path, {"chat": standin_config(tmp_path)}, fleet_rules=FleetRules(is_on_demand=True)
    ) as served:
        served.engine().listen(_forget_tools)
        answers = []
        for _ in range(2):
            answers.append(await served.client.post("/v1/chat/completions", json=chat(tools=[TOOL])))
            await served.gateway.fleet.unload("chat")

    assert [400, 400] == [answer.status_code for answer in answers]


def _forget_tools(worker: Worker) -> None:
    if worker.state is WorkerState.READY and worker.spawn is not None:
        worker.spawn.template_takes = frozenset()


@pytest.mark.parametrize("allows", [False, True])
async def test_pictures_from_elsewhere(tmp_path: Path, allows: bool) -> None:
    """The engine fetches them only where its config lets it: in every dialect that can name one."""
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}
    block = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/x.png"}}
    asked = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [block]}]}),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://a/x"}]}]},
        ),
    ]
    config = standin_config(tmp_path, limits={"image_urls": allows})
    async with serving(tmp_path, {"chat": config}) as served:
        for path, body in asked:
            answer = await served.client.post(path, json={"model": "chat", "max_tokens": 16, **body})

            assert answer.status_code == (200 if allows else 400), answer.text
            assert allows or "limits.image_urls" in answer.text
