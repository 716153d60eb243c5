"""Prompts that the gateway has an engine hold are exactly those that turns will begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from hugind.proxy.dialects.errors import EngineStreamError
from hugind.proxy.sessions.prompts import common_prompt, hold_prompt, read_system_prompt, reply_of
from hugind.supervisor.config import Config
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import SlotActionRefused, WorkerClient
from hugind.supervisor.llama.command import UnixEndpoint
from hugind.supervisor.paths import Home
from tests.fakes.standin import StandinProcess, StartStandin, standin_model, start_standin
from tests.proxy.sessions.engine_slots import TEXT, client_of

__all__ = ["standin_model", "start_standin"]


@pytest.fixture
async def client(standin: StandinProcess) -> AsyncIterator[WorkerClient]:
    made = client_of(standin)
    yield made
    made.close()


@pytest.fixture
def standin(start_standin: StartStandin) -> StandinProcess:
    return start_standin("--parallel", "2")


def config_of(**chat: Any) -> Config:
    return Config.model_validate({"model": {"model_path": "m.gguf"}, "chat": chat})


# ---- the config's own


def test_a_prompt_in_the_config(tmp_path: Path) -> None:
    """As it stands there; or none."""
    assert "Be kind.\n" == read_system_prompt(config_of(system_prompt="Be kind.\n"), Home(tmp_path))
    assert read_system_prompt(config_of(), Home(tmp_path)) is None


def test_a_prompt_in_a_file(tmp_path: Path) -> None:
    """Relative to the home, without blanks around it."""
    (tmp_path / "prompt.txt").write_text("\n  Sei höflich.\n\n", encoding="utf-8")

    assert "Sei höflich." == read_system_prompt(config_of(system_prompt_file="prompt.txt"), Home(tmp_path))


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """It is never left out silently."""
    if content is not None:
        (tmp_path / "prompt.txt").write_bytes(content)
    with pytest.raises((OSError, UnicodeDecodeError)):
        read_system_prompt(config_of(system_prompt_file="prompt.txt"), Home(tmp_path))


# ---- in the engine


async def test_what_all_prompts_begin_with(client: WorkerClient, standin: StandinProcess) -> None:
    """The system prompt as the template renders it, up to where the first question begins."""
    prompt = await common_prompt(client, "Be kind.")

    assert "<|system|>Be kind.\n<|user|>" == prompt


class Templates:
    """A client that renders a chat as the test wants."""

    def __init__(self, *prompts: Any) -> None:
        self._prompts = list(prompts)

    async def ask(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return {"prompt": self._prompts.pop(0)}


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("sys A end", "sys B end", "sys "),
        ("A sys", "B sys", ""),
        ("sys", "sys", "sys"),
        ("sys", "sys and", "sys"),
        ("", "", ""),
    ],
)
async def test_templates_of_every_kind(one: str, other: str, common: str) -> None:
    """One that puts the question first has nothing in common; one that leaves it out, everything."""
    client = cast(WorkerClient, Templates(one, other))

    assert common == await common_prompt(client, "sys")


async def test_holding_a_prompt(client: WorkerClient, standin: StandinProcess) -> None:
    """Nothing is generated; what the slot has already is told, and reused."""
    tokens = -(-len(TEXT.encode()) // 4)
    reused = [await hold_prompt(client, 1, text) for text in (TEXT, TEXT + "and more of it", TEXT)]
    states = await client.slots(5)

    assert [0, tokens - 1, tokens - 1] == reused
    assert [0, tokens] == [state.tokens for state in states]


async def test_a_prompt_that_is_too_long(client: WorkerClient) -> None:
    """The engine refuses it, and lives."""
    with pytest.raises(SlotActionRefused, match="exceeds"):
        await hold_prompt(client, 0, "x" * 100_000)


async def test_an_engine_that_is_gone(tmp_path: Path) -> None:
    """That is told apart from a refusal."""
    client = WorkerClient(UnixEndpoint(tmp_path / "none.sock"), "")
    with pytest.raises(WorkerUnreachable):
        await hold_prompt(client, 0, TEXT)
    with pytest.raises(WorkerUnreachable):
        await common_prompt(client, "Be kind.")


# ---- replies


def stream_of(*deltas: dict[str, Any], finish: str | None = "stop") -> bytes:
    """A chat stream as the engine sends it."""
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if finish:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    events = [b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n" for choice in choices]
    return b"".join(events) + b"data: [DONE]\n\n"


def test_a_reply() -> None:
    """As a client would send it back; how the stream was cut makes no difference."""
    stream = stream_of({"role": "assistant", "content": None}, {"content": "Hel"}, {"content": "lo ☀"})
    chunks = [stream[at : at + 7] for at in range(0, len(stream), 7)]

    assert {"role": "assistant", "content": "Hello ☀"} == reply_of(chunks) == reply_of([stream])


def test_thinking_is_not_sent_back() -> None:
    """Templates leave it out of later turns."""
    stream = stream_of({"reasoning_content": "Hm."}, {"content": "Yes."})

    assert {"role": "assistant", "content": "Yes."} == reply_of([stream])


def test_calls_of_tools_are_sent_back() -> None:
    """With all of their arguments."""
    calls = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    message = reply_of([stream_of(*({"tool_calls": [call]} for call in calls), finish="tool_calls")])

    assert [("c1", "f", '{"a":1}')] == [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]
    ]


@pytest.mark.parametrize(
    "recorded",
    [
        [],
        [b"data: [DONE]\n\n"],
        [stream_of({"content": "Hel"}, finish=None)],
        [stream_of({"content": "Hel"})[:40]],
        [b'data: {"error":{"code":500,"message":"Compute error.","type":"server_error"}}\n\n'],
    ],
)
def test_half_a_reply_is_none(recorded: list[bytes]) -> None:
    """What broke off is not remembered as said."""
    with pytest.raises(EngineStreamError):
        reply_of(recorded)
