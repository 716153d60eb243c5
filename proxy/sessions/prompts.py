"""Prompts that the gateway itself has an engine hold: the config's system prompt, a conversation rendered anew."""

from __future__ import annotations

from typing import Any

import orjson

from hugind.proxy.dialects.openai import ChatAssembler
from hugind.proxy.sse import EventParser
from hugind.supervisor.config import Config
from hugind.supervisor.llama.client import WorkerClient
from hugind.supervisor.paths import Home

PROMPT_TIMEOUT_S = 600
"""A long system prompt on a slow machine."""


def read_system_prompt(config: Config, home: Home) -> str | None:
    """The config's own system prompt, if it has one. Blocks on the disk.

    Raises:
        OSError, UnicodeDecodeError: its file cannot be read.
    """
    if config.chat.system_prompt_file is not None:
        return config.path_of(config.chat.system_prompt_file, home).read_text("utf-8").strip()
    return config.chat.system_prompt


async def common_prompt(client: WorkerClient, system_prompt: str) -> str:
    """What every prompt that begins with this system prompt begins with, as the model's template renders it.

    Raises:
        SlotActionRefused, WorkerUnreachable: the engine does not render it.
    """
    rendered = []
    for text in ("A", "B"):
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": text}]
        answer = await client.ask("/apply-template", {"messages": messages}, PROMPT_TIMEOUT_S)
        rendered.append(str(answer.get("prompt", "")))
    return _common_prefix(*rendered)


async def hold_prompt(client: WorkerClient, slot: int, prompt: str) -> int:
    """Have an idle slot hold exactly this prompt, with what it has of it already; returns how many tokens that was.

    Raises:
        SlotActionRefused, WorkerUnreachable: it does not.
    """
    body = {"prompt": prompt, "n_predict": 0, "id_slot": slot, "cache_prompt": True, "stream": False}
    answer = await client.ask("/completion", body, PROMPT_TIMEOUT_S)
    return int(answer.get("timings", {}).get("cache_n", 0))


def reply_of(recorded: list[bytes]) -> dict[str, Any]:
    """The assistant's message of a chat stream, as a client would send it back: without its thinking."""
    parser, assembler = EventParser(), ChatAssembler()
    for event in parser.feed(b"".join(recorded)):
        if not event.is_done:
            assembler.feed(orjson.loads(event.data))
    message: dict[str, Any] = dict(assembler.result()["choices"][0]["message"])
    message.pop("reasoning_content", None)
    return message


def _common_prefix(one: str, other: str) -> str:
    length = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return one[:length]
