"""One prompt and its answer on a slot of the stand-in: how long it takes, and how it breaks off."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from hugind.cli.bench.standin_engine import Engine, Sink, Slot, pinned_slot
from hugind.cli.bench.standin_replies import LegacyReply, Reply, Usage, count_tokens, error_body, error_event

DEFAULT_TOKENS = 16
_PIECE = " tok"
_FAILURE = "Compute error."


class Generation:
    """One prompt and its answer. Made by a request; ends with its last event or with `abandon`."""

    def __init__(self, engine: Engine, sink: Sink, reply: Reply, prompt: bytes, body: dict[str, Any]) -> None:
        options = engine.options
        wishes = body.get("standin")
        wishes = wishes if isinstance(wishes, dict) else {}
        self.pinned = pinned_slot(body.get("id_slot"), options.slots)
        self.is_streaming = bool(body.get("stream"))
        self.prompt = prompt
        self.prompt_tokens = count_tokens(prompt)
        self.cached_tokens = 0
        self.sent = 0
        limit = token_limit(body)
        words = wishes.get("reply")
        self._pieces = None if words is None else [str(words)[i : i + 4] for i in range(0, len(str(words)), 4)]
        wanted = DEFAULT_TOKENS if self._pieces is None else len(self._pieces)
        if self._pieces is None and limit is not None:
            wanted = limit
        self.count = min(wanted, limit if limit is not None else wanted, options.n_ctx - self.prompt_tokens)
        self._finish = "length" if self.count < wanted or self.count == limit else "stop"
        self._choices = body.get("n") or 1
        self._may_reuse = bool(body.get("cache_prompt", True))
        self._prefill_s = float(wishes.get("prefill_ms", options.prefill_ms)) / 1e3
        self._token_s = float(wishes.get("token_ms", options.token_ms)) / 1e3
        self._die_after = wishes.get("die_after_tokens")
        self._fail_after = wishes.get("error_after_tokens")
        self._engine = engine
        self._sink: Sink | None = sink
        self._reply = reply
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._slot = engine.slots[0]
        self._started = self._decoding_since = 0.0  # the loop's clock, of whole milliseconds
        self._prompt_began = self._prompt_ended = 0.0
        self._is_prefilling = False

    def start(self, slot: Slot) -> None:
        self._slot = slot
        slot.last = self
        if self._may_reuse:
            shared = _shared_prefix(slot.text, self.prompt) // 4
            if self._engine.options.faults.extend_only and shared + 1 < count_tokens(slot.text):
                shared = 0  # the last token is often a part of one: padded, where it was restored
            self.cached_tokens = max(0, min(shared, self.prompt_tokens - 1))
        slot.text = self.prompt
        for other in [other for other in self._engine.slots if other is not slot][: self._choices - 1]:
            other.text = b""  # as measured: further choices take further slots, whoever owns them
        self._started = self._loop.time()
        self._prompt_began = time.perf_counter()
        if self._prefill_s > 0:
            self._is_prefilling = True
            self._timer = self._loop.call_later(self._prefill_s, self._decode)
        else:
            self._decode()

    def abandon(self) -> None:
        """The client has left."""
        self._sink = None
        if self._engine.withdraw(self):
            return
        if not self.is_streaming and self._engine.is_anyone_else_computing(self._slot):
            return  # as measured: it runs to its end while another slot is busy
        if self._timer:
            self._timer.cancel()
        if not self._is_prefilling:
            self._engine.release(self._slot)
            return
        batch_s = self._engine.options.batch_ms / 1e3
        into = self._loop.time() - self._started
        boundary = min(self._prefill_s - into, batch_s - into % batch_s) if batch_s > 0 else 0
        self._timer = self._loop.call_later(max(boundary, 0), self._engine.release, self._slot)

    def processed_tokens(self) -> int:
        """How much of the prompt is computed by now."""
        fresh = self.prompt_tokens - self.cached_tokens
        if not self._is_prefilling:
            return fresh
        return int(fresh * min(1.0, (self._loop.time() - self._started) / self._prefill_s))

    def _decode(self) -> None:
        self._is_prefilling = False
        self._decoding_since = self._loop.time()
        self._prompt_ended = time.perf_counter()
        if self._die_after == 0 or self._fail_after == 0:
            return self._break()
        if isinstance(self._reply, LegacyReply):
            self._reply.slot_id = self._slot.index
        if self.is_streaming and self._sink and (first := self._reply.first()):
            self._sink.stream(*first)
        if self._token_s > 0 and self.count:
            return self._wait_for_token()
        return self._produce(self.count)

    def _wait_for_token(self) -> None:
        self._timer = self._loop.call_at(self._decoding_since + (self.sent + 1) * self._token_s, self._produce, 1)

    def _produce(self, count: int) -> None:
        """The next `count` tokens, then the end or the next wait."""
        sink = self._sink
        if self._engine.is_hung:
            return
        if sink is not None and sink.is_paused:
            sink.on_resume = lambda: self._produce(count)
            return
        stop = min(limit for limit in (self.sent + count, self._die_after, self._fail_after) if limit is not None)
        if sink is not None and self.is_streaming and stop > self.sent:
            sink.stream(*self._events(stop))
        self.sent = stop
        if stop in (self._die_after, self._fail_after):
            self._break()
        elif self.sent < self.count:
            self._wait_for_token()
        else:
            self._end()

    def _events(self, stop: int) -> list[bytes]:
        if self._pieces is None and not isinstance(self._reply, LegacyReply):
            return [self._reply.token(_PIECE)] * (stop - self.sent)
        return [self._reply.token(self._piece(i)) for i in range(self.sent, stop)]

    def _piece(self, i: int) -> str:
        return _PIECE if self._pieces is None else self._pieces[i]

    def _end(self) -> None:
        text = "".join(map(self._piece, range(self.sent)))
        self._slot.text += text.encode()
        usage = Usage(
            prompt=self.prompt_tokens,
            cached=self.cached_tokens,
            predicted=self.sent,
            prompt_ms=(self._prompt_ended - self._prompt_began) * 1e3,
            predicted_ms=(time.perf_counter() - self._prompt_ended) * 1e3,
        )
        totals = self._engine.totals
        totals["prompt"] += usage.prompt - usage.cached
        totals["cached"] += usage.cached
        totals["predicted"] += usage.predicted
        if self._sink and self.is_streaming:
            self._sink.end_stream(*self._reply.last(text, self._finish, usage))
        elif self._sink:
            self._sink.reply(200, self._reply.whole(text, self._finish, usage))
        self._engine.release(self._slot)

    def _break(self) -> None:
        """Die or fail, as the request wished."""
        sink = self._sink
        if self._die_after is not None and self.sent >= self._die_after:
            if sink and sink.unsent_bytes():
                self._timer = self._loop.call_later(0.001, self._break)
                return
            os.kill(os.getpid(), signal.SIGKILL)
        if sink and self.is_streaming and self.sent:
            sink.end_stream(error_event(_FAILURE))
        elif sink:
            sink.reply(500, error_body(500, "server_error", _FAILURE))
        self._engine.release(self._slot)


def token_limit(body: dict[str, Any]) -> int | None:
    """How many tokens a body asks for at most; None for no bound."""
    for key in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"):
        value = body.get(key)
        if isinstance(value, int) and value >= 0:
            return value
    return None


def _shared_prefix(a: bytes, b: bytes) -> int:
    """Length of the longest common prefix, by halving: no Python loop over the bytes."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low
