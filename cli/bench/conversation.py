"""The client of the session bench: conversations that grow turn by turn, and what a client sees of each turn."""

from __future__ import annotations

import copy
import random
import string
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx
import orjson

from hugind.cli.bench.target import LoadError

TURN_TIMEOUT_S = 1800
"""The first turn of a long history, on a slow machine."""
REPLY_TOKENS = 8


@dataclass(frozen=True)
class Turn:
    """One answered request, as its client saw it."""

    ttft_ms: float
    """From sending the request, on a new connection, to the first piece of its answer."""
    text: str
    prompt_tokens: int
    cached_tokens: int
    label: str | None = None
    """The gateway's word on where the KV came from; none: it was no gateway."""
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    """Where the time went: the gateway's queue, restore and overhead, and the engine's prompt."""

    @property
    def computed_tokens(self) -> int:
        """Tokens of the prompt that were not reused."""
        return self.prompt_tokens - self.cached_tokens


class Chat:
    """A server to chat with. An async context manager."""

    def __init__(self, name: str, url: str, *, model: str, key: str) -> None:
        self.name = name
        self._model = model
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(TURN_TIMEOUT_S, connect=10),
            limits=httpx.Limits(max_keepalive_connections=0),  # llama-server promises to keep them, and does not
            trust_env=False,
        )

    async def __aenter__(self) -> Chat:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(
        self, messages: list[dict[str, str]], *, on_piece: Callable[[float], None] | None = None, **fields: Any
    ) -> Turn:
        """Stream one answer at temperature 0. `on_piece` hears when each piece of it came (`time.perf_counter`).

        Raises:
            LoadError: it was not answered, or not to the end.
        """
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
        reading = _Reading(on_piece)
        begun = time.perf_counter()
        try:
            async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    words = (await response.aread())[:300].decode("utf-8", "replace")
                    raise LoadError(f"{self.name}: status {response.status_code}: {words}")
                async for line in response.aiter_lines():
                    reading.read(line)
                headers = response.headers
        except httpx.HTTPError as error:
            raise LoadError(f"{self.name}: {error or type(error).__name__}") from error
        if reading.problem or not reading.first_at or reading.usage is None:
            raise LoadError(f"{self.name}: the answer is not whole: {reading.problem or reading.text!r}")
        parts = {name: headers.get(f"x-hugind-{name}-ms") for name in ("queue", "restore", "overhead")}
        parts["prompt"] = reading.timings.get("prompt_ms")
        return Turn(
            ttft_ms=(reading.first_at - begun) * 1e3,
            text=reading.text,
            prompt_tokens=reading.usage["prompt_tokens"],
            cached_tokens=(reading.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            label=headers.get("x-hugind-session"),
            parts_ms={name: float(value) for name, value in parts.items() if value is not None},
        )


class Conversation:
    """What one user says and hears. The same seed says the same."""

    def __init__(self, user: str, seed: int) -> None:
        self.user = user
        self.messages: list[dict[str, str]] = []
        self._dice = random.Random(seed)  # noqa: S311 - small talk

    async def take_turn(self, chat: Chat, characters: int, **fields: Any) -> Turn:
        """Say so many characters more, and remember the answer.

        Raises:
            LoadError: as `Chat.ask`; nothing is remembered then.
        """
        messages = [*self.messages, {"role": "user", "content": self._say(characters)}]
        turn = await chat.ask(messages, user=self.user, **fields)
        self.messages = [*messages, {"role": "assistant", "content": turn.text}]
        return turn

    def copy(self) -> Conversation:
        """The same up to here; the two go on apart."""
        return copy.deepcopy(self)

    def _say(self, characters: int) -> str:
        words = ""
        while len(words) < characters:
            words += "".join(self._dice.choices(string.ascii_lowercase, k=self._dice.randint(2, 8))) + " "
        return words[:characters].rstrip().ljust(characters, ".")


class _Reading:
    """What has come of a stream so far."""

    def __init__(self, on_piece: Callable[[float], None] | None) -> None:
        self.first_at = 0.0
        self.text = ""
        self.usage: dict[str, Any] | None = None
        self.timings: dict[str, Any] = {}
        self.problem: str | None = None
        self._on_piece = on_piece

    def read(self, line: str) -> None:
        """One line of the stream."""
        if not line.startswith("data: {"):
            return
        event = orjson.loads(line[len("data: ") :])
        self.usage = event.get("usage") or self.usage
        self.timings = event.get("timings") or self.timings
        if "error" in event:
            self.problem = str(event["error"])
        for choice in event.get("choices", []):
            delta = choice.get("delta", {})
            if delta.get("content") or delta.get("reasoning_content"):
                now = time.perf_counter()
                self.first_at = self.first_at or now
                if self._on_piece is not None:
                    self._on_piece(now)
                self.text += delta.get("content") or ""
