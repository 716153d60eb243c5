"""What goes wrong, as the client libraries of three dialects see it: their own exception, with what to do next."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
import pytest_asyncio

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Allowance, Principal
from hugind.supervisor.config import Config
from tests.e2e.conftest import chat_config
from tests.eventually import eventually
from tests.proxy.serving import KEY, Served, serving

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

DIALECTS = ("openai", "anthropic", "ollama")
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "ollama": "/api/chat"}
STRANGER, READER, HASTY, FAULT = "nobody's", "reader's", "hasty", "fault"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


class _FaultyKeyring(Keyring):
    """Breaks when it is asked for one key."""

    def find(self, key: bytes) -> Principal | None:
        if key == FAULT.encode():
            raise ZeroDivisionError
        return super().find(key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """`chat` takes small bodies, `busy` has one slot and nobody may wait for it, `broken` does not start."""
    folder = tmp_path_factory.mktemp("errors")
    ring = _FaultyKeyring()
    ring.add(KEY, Principal("tester"))
    ring.add(READER, Principal("reader", scopes=frozenset({"metrics"})))
    for dialect in DIALECTS:
        ring.add(HASTY + dialect, Principal(HASTY + dialect, limits=Allowance(requests=1)))
    (folder / "broken.gguf").write_bytes(b"no model")
    plain = chat_config(folder, limits={"max_body_mb": 1})
    busy = chat_config(
        folder, limits={"max_body_mb": 1, "max_queue": 0}, server={"max_slots": 1}, context={"ctx_size": 200_000}
    )
    busy["engine"] = {**busy["engine"], "backoff_s": 0.05}
    broken = {**plain, "model": {"model_path": str(folder / "broken.gguf")}}
    configs = {name: Config.model_validate(config) for name, config in (("chat", plain), ("busy", busy))}
    configs["broken"] = Config.model_validate(broken)
    async with serving(folder, configs, keyring=ring, is_ready=False) as served:
        await eventually(lambda: (served.leases().free, served.leases("busy").free) == (2, 1))
        await eventually(lambda: served.engine("broken").state == "failed")
        yield served


@dataclass
class Seen:
    """An error, as a library raised it."""

    status: int
    kind: type[Exception]
    message: str
    code: str | None = None
    retry_after: str | None = None


async def ask(served: Served, dialect: str, key: str = KEY, **fields: Any) -> Seen:
    """Chat in a dialect with its own library, which is to raise; with `stream` until it does."""
    url = f"http://127.0.0.1:{served.port}"
    with pytest.raises((openai.APIError, anthropic.APIError, ollama.ResponseError)) as raised:
        await _chat(dialect, url, key, {"model": "chat", "messages": HELLO, **fields})
    return _seen(dialect, raised.value)


async def _chat(dialect: str, url: str, key: str, fields: dict[str, Any]) -> None:
    if dialect == "openai":
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0) as client:
            await _use_up(await client.chat.completions.create(**fields))
    elif dialect == "anthropic":
        async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as claude:
            await _use_up(await claude.messages.create(**{"max_tokens": 4, **fields}))
    else:
        other = ollama.AsyncClient(url, headers={"Authorization": f"Bearer {key}"})
        try:
            await _use_up(await other.chat(**fields))
        finally:
            await other.close()  # type: ignore[no-untyped-call]


async def _use_up(answer: Any) -> None:
    if hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass


def _seen(dialect: str, error: Exception) -> Seen:
    if isinstance(error, ollama.ResponseError):
        return Seen(error.status_code, type(error), error.error)
    assert isinstance(error, openai.APIError | anthropic.APIError)
    response = getattr(error, "response", None)
    body: Any = error.body
    retry_after = None if response is None else response.headers.get("retry-after")
    if dialect == "anthropic":
        assert ("error", True) == (body["type"], body["request_id"].startswith("req_"))
        assert {"type", "message"} == body["error"].keys()
        return Seen(
            getattr(error, "status_code", 0),
            type(error),
            body["error"]["message"],
            body["error"]["type"],
            retry_after,
        )
    assert {"message", "type", "param", "code"} == body.keys()
    return Seen(getattr(error, "status_code", 0), type(error), body["message"], body["code"], retry_after)


REFUSALS: dict[str, tuple[dict[str, Any], int, str, dict[str, tuple[type[Exception], str | None]]]] = {
    "no such key": (
        {"key": STRANGER},
        401,
        "API key",
        {
            "openai": (openai.AuthenticationError, "invalid_api_key"),
            "anthropic": (anthropic.AuthenticationError, "authentication_error"),
        },
    ),
    "a key for something else": (
        {"key": READER},
        403,
        "inference",
        {
            "openai": (openai.PermissionDeniedError, "scope_missing"),
            "anthropic": (anthropic.PermissionDeniedError, "permission_error"),
        },
    ),
    "no such model": (
        {"model": "nope"},
        404,
        "nope",
        {
            "openai": (openai.NotFoundError, "model_not_found"),
            "anthropic": (anthropic.NotFoundError, "not_found_error"),
        },
    ),
    "a value of another type": (
        {"messages": [3]},
        400,
        "",
        {
            "openai": (openai.BadRequestError, None),
            "anthropic": (anthropic.BadRequestError, "invalid_request_error"),
        },
    ),
    "a fault of ours": (
        {"key": FAULT},
        500,
        "internal error",
        {
            "openai": (openai.InternalServerError, None),
            "anthropic": (anthropic.InternalServerError, "api_error"),
        },
    ),
    "an engine that cannot start": (
        {"model": "broken"},
        503,
        "broken",
        {
            "openai": (openai.InternalServerError, "engine_failed"),
            "anthropic": (anthropic.InternalServerError, "overloaded_error"),
        },
    ),
}


@pytest.mark.parametrize(
    ("dialect", "refusal"),
    # Ollama's library lets no message out that is none: see `test_a_body_that_is_wrong`.
    [(d, r) for d in DIALECTS for r in REFUSALS if (d, r) != ("ollama", "a value of another type")],
)
async def test_a_refusal(served: Served, dialect: str, refusal: str) -> None:
    """Each library raises what it has for the status, with our words in it."""
    asked, status, words, expected = REFUSALS[refusal]
    seen = await ask(served, dialect, **asked)

    assert status == seen.status
    assert words in seen.message
    if dialect in expected:
        kind, code = expected[dialect]
        assert issubclass(seen.kind, kind)
        assert code == seen.code


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_body_that_is_too_large(served: Served, dialect: str) -> None:
    """413, and the connection is of no more use."""
    seen = await ask(served, dialect, messages=[{"role": "user", "content": "x" * 1_200_000}])

    assert 413 == seen.status
    assert "larger than 1 MB" in seen.message
    assert {"openai": "request_too_large", "anthropic": "request_too_large", "ollama": None}[dialect] == seen.code


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_too_many_requests(served: Served, dialect: str) -> None:
    """429, with when to come back."""
    key = HASTY + dialect
    headers = {"Authorization": f"Bearer {key}"}
    first = await served.client.post(
        PATHS[dialect],
        json={"model": "chat", "messages": HELLO, "max_tokens": 2, "stream": False},
        headers=headers,
    )
    seen = await ask(served, dialect, key)

    assert 200 == first.status_code
    assert 429 == seen.status
    assert "no more is left" in seen.message
    if dialect == "openai":
        assert (openai.RateLimitError, "rate_limit_exceeded") == (seen.kind, seen.code)
    if dialect == "anthropic":
        assert (anthropic.RateLimitError, "rate_limit_error") == (seen.kind, seen.code)
    if dialect != "ollama":
        assert seen.retry_after
        assert 1 <= int(seen.retry_after) <= 60


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_no_slot_is_free(served: Served, dialect: str) -> None:
    """503, with when to come back."""
    await eventually(lambda: served.leases("busy").free == 1)
    held = await served.leases("busy").acquire()
    try:
        seen = await ask(served, dialect, model="busy")
    finally:
        served.leases("busy").release(held)

    assert 503 == seen.status
    assert {"openai": "queue_full", "anthropic": "overloaded_error", "ollama": None}[dialect] == seen.code
    if dialect != "ollama":
        assert seen.retry_after


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_death_in_mid_stream(served: Served, dialect: str) -> None:
    """The library raises in the middle of its loop: nobody takes half an answer for a whole one."""
    await eventually(lambda: served.leases("busy").free == 1)
    pid = served.spawn("busy").process.pid
    endless: dict[str, Any] = {"model": "busy", "stream": True}
    if dialect == "ollama":
        endless["options"] = {"num_predict": 100_000}
    else:
        endless["max_tokens"] = 100_000
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(served, dialect, **endless))
        await eventually(lambda: served.leases("busy").free == 0 and served.spawn("busy").bytes_relayed > 1000)
        os.kill(pid, signal.SIGKILL)
    seen = asking.result()

    assert "the engine ended in the middle of the answer" in seen.message
    if dialect == "openai":
        assert (openai.APIError, "engine_died") == (seen.kind, seen.code)
    if dialect == "anthropic":
        assert issubclass(seen.kind, anthropic.APIStatusError)
        assert "api_error" == seen.code


# ---- what no library lets out


def check_shape(dialect: str, answer: httpx.Response) -> str:
    """Whether an error has the keys of its dialect and no other; returns its message."""
    body = answer.json()
    if dialect == "ollama":
        assert ["error"] == list(body)
        message = body["error"]
    else:
        message = body["error"]["message"]
        keys = {"type", "message"} if dialect == "anthropic" else {"message", "type", "param", "code"}
        assert keys == body["error"].keys()
    if dialect == "anthropic":
        assert ("error", answer.headers["x-request-id"]) == (body["type"], body["request_id"])
    assert isinstance(message, str)
    return message


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'{"model": 3}', b'{"model": "chat", "messages": "hello"}'])
async def test_a_body_that_is_wrong(served: Served, dialect: str, body: bytes) -> None:
    """400, never the 422 of a framework; whatever the content type says."""
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        answer = await served.client.post(PATHS[dialect], content=body, headers={"content-type": kind})

        assert 400 == answer.status_code
        assert check_shape(dialect, answer)


@pytest.mark.parametrize(
    ("dialect", "method", "path", "status"),
    [
        ("openai", "GET", "/v1/chat/completions", 405),
        ("anthropic", "GET", "/v1/messages", 405),
        ("ollama", "GET", "/api/chat", 405),
        ("openai", "POST", "/v1/models", 405),
        ("openai", "GET", "/v1/nope", 404),
        ("openai", "GET", "/nope", 404),
        ("openai", "GET", "/v1/models/nope", 404),
        ("anthropic", "POST", "/v1/messages/batches", 404),
        ("ollama", "POST", "/api/nope", 404),
    ],
)
async def test_a_route_that_is_not_there(served: Served, dialect: str, method: str, path: str, status: int) -> None:
    """In the words of whoever asks for such paths."""
    answer = await served.client.request(method, path)

    assert status == answer.status_code
    assert check_shape(dialect, answer)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(("key", "path", "status"), [(STRANGER, "", 401), (KEY, "/nope", 404), (KEY, "?limit=x", 400)])
async def test_errors_about_models_are_in_the_words_of_who_asks(
    served: Served, key: str, path: str, status: int
) -> None:
    """The header of Anthropic's clients tells, before it is known whose key it is."""
    headers = {"Authorization": f"Bearer {key}", "anthropic-version": "2023-06-01"}
    answer = await served.client.get(f"/v1/models{path}", headers=headers)

    assert status == answer.status_code
    assert check_shape("anthropic", answer)
