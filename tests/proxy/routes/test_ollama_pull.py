"""Ollama's route that fetches a model, from a hub on this machine."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr
from starlette.types import Message

from hugind.proxy.books import Rules
from hugind.proxy.records.audit import Filters, entries
from hugind.proxy.routes.ollama_pull import pull_router
from hugind.supervisor.models.download_plan import Plan, RemoteFile
from hugind.supervisor.models.hub import Hub
from tests.hub import COMMIT, LocalHub, serving_hub
from tests.proxy.houses import House, add_model, asking, keeping_house
from tests.proxy.routes.calling import Asking
from tools.random_gguf import make_llama_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_llama_gguf(tmp_path_factory.mktemp("model") / "a.gguf", seed=9, ctx=1024).read_bytes()


@pytest.fixture
def hub(model: bytes) -> Iterator[LocalHub]:
    with serving_hub() as hub:
        hub.add("maker/new-GGUF", {"new-Q4_0.gguf": model, "new-Q8_0.gguf": model, "README.md": b"hi"})
        yield hub


@asynccontextmanager
async def pulling(folder: Path, hub: LocalHub, *, has_reloader: bool = True) -> AsyncIterator[tuple[House, Any]]:
    """A house, and a function that pulls."""
    async with keeping_house(folder) as house:
        reloader = house.reloader if has_reloader else None

        def make_hub(token: str | None) -> Hub:
            return Hub(token=token, endpoint=hub.url)

        async with asking(pull_router(house.gateway, reloader, house.records, make_hub)) as client:

            async def pull(**body: Any) -> httpx.Response:
                return await client.post("/api/pull", json=body)

            yield house, pull


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert 200 == answer.status_code
    assert "application/x-ndjson" == answer.headers["content-type"]
    return [orjson.loads(line) for line in answer.content.splitlines()]


async def test_a_new_model(tmp_path: Path, hub: LocalHub, model: bytes) -> None:
    """How far it is, file by file; then it is served, and not fetched again. `trust_remote_code` changes nothing."""
    async with pulling(tmp_path, hub) as (house, pull):
        lines = lines_of(await pull(model="maker/new-GGUF", trust_remote_code=True, insecure=True))
        again = lines_of(await pull(name="hf.co/maker/new-GGUF:latest"))
        found = await entries(house.records.database, Filters(), limit=10, before=None)
        digest = hashlib.sha256(model).hexdigest()

        assert "pulling manifest" == lines[0]["status"]
        assert ["verifying sha256 digest", "writing manifest", "success"] == [line["status"] for line in lines[-3:]]
        assert {
            "status": f"pulling {digest[:12]}",
            "digest": f"sha256:{digest}",
            "total": len(model),
            "completed": len(model),
            "file": "new-Q4_0.gguf",
        } == lines[-4]
        assert ["pulling manifest", "success"] == [line["status"] for line in again]
        assert ["new-Q4_0", "tiny"] == house.names()
        assert 1 == len(hub.fetched())
        assert [("model.pull", "maker/new-GGUF")] == [(entry.action, entry.target) for entry in found]


async def test_without_a_stream(tmp_path: Path, hub: LocalHub) -> None:
    """The end only, as a status where it is a bad one."""
    async with pulling(tmp_path, hub) as (house, pull):
        good = await pull(model="maker/new-GGUF:Q8_0", stream=False)
        hub.repos["maker/new-GGUF"].sha256["new-Q4_0.gguf"] = "0" * 64
        bad = await pull(model="maker/new-GGUF:Q4_0", stream=False)

        assert (200, {"status": "success"}) == (good.status_code, good.json())
        assert 500 == bad.status_code
        assert "what came is not what the hub promised" in bad.json()["error"]
        assert ["new-Q8_0", "tiny"] == house.names()


async def test_a_revision(tmp_path: Path, hub: LocalHub) -> None:
    """Is asked for even where there is such a model."""
    async with pulling(tmp_path, hub) as (_, pull):
        await pull(model="maker/new-GGUF")
        same = lines_of(await pull(model="maker/new-GGUF", revision=COMMIT))
        other = await pull(model="maker/new-GGUF", revision="other")
        nonsense = [await pull(model="maker/new-GGUF", revision=given) for given in (5, "../x")]

        assert "success" == same[-1]["status"]
        assert 404 == other.status_code
        assert [400, 404] == [answer.status_code for answer in nonsense]


async def test_what_cannot_be_had(tmp_path: Path, hub: LocalHub) -> None:
    """A status before anything was told, in words that clients look for; the hub's own refusal is none of ours."""
    hub.refuse("maker/gated-GGUF", 403, code="GatedRepo", whole=True)
    hub.add("maker/text", {"README.md": b"hi"})
    async with pulling(tmp_path, hub) as (_, pull):
        for name, status, said in (
            ("llama3", 404, "file does not exist"),
            ("maker/nothing", 404, "file does not exist"),
            ("maker/text", 404, "file does not exist"),
            ("maker/new-GGUF:Q2_K", 404, "file does not exist"),
            ("maker/gated-GGUF", 502, "is gated"),
            ("", 400, "model is required"),
        ):
            answer = await pull(model=name)

            assert status == answer.status_code, name
            assert said in answer.json()["error"]


async def test_it_breaks_on_the_way(tmp_path: Path, hub: LocalHub) -> None:
    """The last line says so, and there is no success."""
    hub.repos["maker/new-GGUF"].sha256["new-Q4_0.gguf"] = "0" * 64
    async with pulling(tmp_path, hub) as (house, pull):
        lines = lines_of(await pull(model="maker/new-GGUF"))

        assert "what came is not what the hub promised" in lines[-1]["error"]
        assert ["tiny"] == house.names()


async def test_as_whom_the_hub_is_asked(tmp_path: Path, hub: LocalHub) -> None:
    """With the token of the settings, or none."""
    async with pulling(tmp_path, hub) as (house, pull):
        await pull(model="maker/nothing")
        house.gateway.books.apply(Rules(hub_token=SecretStr("hf_secret")))
        await pull(model="maker/nothing")

        assert [None, "hf_secret"] == [asked.token for asked in hub.asked if "nothing" in asked.path]


async def test_where_it_is_not_served(tmp_path: Path, hub: LocalHub) -> None:
    """It is there, and that nobody serves it yet is told."""
    async with pulling(tmp_path / "a", hub, has_reloader=False) as (_, pull):
        without = lines_of(await pull(model="maker/new-GGUF"))
    async with pulling(tmp_path / "b", hub) as (house, pull):
        add_model(house.home, "maker/hand-GGUF/hand.gguf", seed=1)
        house.home.settings.write_text("nonsense: 1")
        refused = lines_of(await pull(model="maker/hand-GGUF"))

    assert "success" == without[-1]["status"] == refused[-1]["status"]
    assert "hugind serve" in without[-2]["status"]
    assert "fetched, and not served yet" in refused[-2]["status"]
    assert 1 == len(hub.fetched())


class Dripping(Hub):
    """A hub whose files come a byte at a time."""

    is_over = False

    @contextmanager
    def read(self, plan: Plan, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        try:
            yield 0, self._drops()
        finally:
            self.is_over = True

    def _drops(self) -> Iterator[bytes]:
        while not threading.Event().wait(0.001):
            yield b"x"


async def test_a_client_that_leaves(tmp_path: Path, hub: LocalHub) -> None:
    """Nobody is left to wait for the download, and it ends."""
    dripping, is_told = Dripping(endpoint=hub.url), asyncio.Event()
    body = b'{"model": "maker/new-GGUF"}'
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await is_told.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if b"completed" in message.get("body", b""):
            is_told.set()

    async with keeping_house(tmp_path) as house:
        app = Asking(pull_router(house.gateway, house.reloader, house.records, lambda _: dripping))
        headers = [(b"content-length", b"%d" % len(body))]
        scope = {"type": "http", "method": "POST", "path": "/api/pull", "query_string": b"", "headers": headers}
        await app(scope, receive, send)

        assert dripping.is_over
        assert ["tiny"] == house.names()
