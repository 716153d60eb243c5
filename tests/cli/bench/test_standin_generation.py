"""One answer of the stand-in: what it reuses, how it is counted, how it breaks off."""

from __future__ import annotations

import signal
from typing import Any

import httpx
import pytest

from tests.fakes.standin import StartStandin, wait_until

URL = "/v1/chat/completions"


def chat(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def endless(**more: Any) -> dict[str, Any]:
    return chat(max_tokens=1000, standin={"token_ms": 20}, **more)


def test_slots_show_progress(start_standin: StartStandin) -> None:
    """`/slots` says how far a prompt and an answer are."""
    standin = start_standin()
    with standin.client.stream("POST", URL, json=endless(stream=True)) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream with it
        next(lines)
        wait_until(lambda: standin.slots()[0]["next_token"][0]["n_decoded"] >= 3, "three tokens")
        slot = standin.slots()[0]

    assert slot["n_prompt_tokens"] > slot["n_prompt_tokens_processed"] > 0


def test_next_turn_reuses_its_prefix(start_standin: StartStandin) -> None:
    """A slot that holds a conversation computes only what is new; without cache_prompt everything."""
    standin = start_standin()
    first = standin.client.post(URL, json=chat("a long question", id_slot=0)).json()
    turn = {"messages": [*chat("a long question")["messages"], first["choices"][0]["message"], *chat()["messages"]]}
    second = standin.client.post(URL, json={**turn, "id_slot": 0}).json()
    uncached = standin.client.post(URL, json={**turn, "id_slot": 0, "cache_prompt": False}).json()

    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    kept = first["usage"]["total_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] in (kept - 1, kept)
    assert second["timings"]["cache_n"] == second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert uncached["timings"]["cache_n"] == 0


def test_more_choices_take_more_slots(start_standin: StartStandin) -> None:
    """`n: 2` makes two choices, and wipes the neighbour's slot."""
    standin = start_standin("--parallel", "2")
    standin.client.post(URL, json=chat("neighbour", id_slot=1))
    answer = standin.client.post(URL, json=chat(n=2, id_slot=0)).json()
    again = standin.client.post(URL, json=chat("neighbour", id_slot=1)).json()

    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert again["timings"]["cache_n"] == 0


def test_dies_mid_stream(start_standin: StartStandin) -> None:
    """die_after_tokens: the tokens arrive, then the stream breaks off and the process is dead."""
    standin = start_standin()
    wish = {"die_after_tokens": 3, "token_ms": 1}
    received: list[str] = []

    def read() -> None:
        with standin.client.stream("POST", URL, json=chat(stream=True, max_tokens=10, standin=wish)) as answer:
            for line in answer.iter_lines():
                received.append(line)  # noqa: PERF402 - `extend` would lose all of them when the stream breaks off

    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        read()

    assert sum('"content":" tok"' in line for line in received) == 3
    assert standin.wait_exit() == -signal.SIGKILL


def test_dies_before_the_first_token(start_standin: StartStandin) -> None:
    """die_after_tokens 0: no byte of an answer."""
    standin = start_standin()
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        standin.client.post(URL, json=chat(standin={"die_after_tokens": 0}))

    assert standin.wait_exit() == -signal.SIGKILL


@pytest.mark.parametrize("is_streaming", [True, False])
def test_fails_before_the_first_token(start_standin: StartStandin, is_streaming: bool) -> None:
    """error_after_tokens 0: a status, not a stream."""
    standin = start_standin()
    answer = standin.client.post(URL, json=chat(stream=is_streaming, standin={"error_after_tokens": 0}))

    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"


def test_fails_mid_stream(start_standin: StartStandin) -> None:
    """error_after_tokens: an error event is the last one, without `[DONE]`; the slot is free again."""
    standin = start_standin()
    answer = standin.client.post(URL, json=chat(stream=True, standin={"error_after_tokens": 2}))
    events = [line for line in answer.text.split("\n\n") if line]

    assert sum('"content":" tok"' in event for event in events) == 2
    assert events[-1].startswith('data: {"error":{')
    assert not standin.busy_slots()
