"""Responses that are kept: what goes to the engine, what comes back, and what is on record when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import Principal
from hugind.proxy.records.database import Database, parse_address
from hugind.proxy.records.responses import Responses
from hugind.proxy.records.schema import responses
from hugind.proxy.sse import EventParser
from hugind.supervisor.aliases import Alias
from hugind.supervisor.settings import ResponseSettings, Settings
from tests.databases import PostgresServer
from tests.eventually import eventually
from tests.proxy.people import TESTER, add_user, bearer
from tests.proxy.records.turns import count
from tests.proxy.serving import KEY, Served, connect, http_request, serving, standin_config

PATH = "/v1/responses"
SLOW = {"token_ms": 1000, "prefill_ms": 0}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """One engine."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, sessions={"min_tokens": 8})}) as gateway:
        yield gateway


def body(given: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "chat", "input": given, "max_output_tokens": 4, **more}


async def ask(served: Served, given: Any = "hello", **more: Any) -> dict[str, Any]:
    """A response that was made."""
    headers = more.pop("headers", None)
    answer = await served.client.post(PATH, json=body(given, **more), headers=headers)
    assert 200 == answer.status_code, answer.text
    response: dict[str, Any] = answer.json()
    return response


async def said(served: Served, response: dict[str, Any]) -> list[str]:
    """What it was made from, in order."""
    answer = await served.client.get(f"{PATH}/{response['id']}/input_items", params={"order": "asc", "limit": 100})
    return [item["content"][0]["text"] for item in answer.json()["data"]]


def text_of(response: dict[str, Any]) -> str:
    return str(response["output"][0]["content"][0]["text"])


def refusal(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_a_conversation_is_one_session(served: Served) -> None:
    """Found again by what was said, which only the gateway knows; an answer that streams is kept as well."""
    first = await ask(served, "Once upon a time. " * 20)
    answer = await served.client.post(PATH, json=body("And?", previous_response_id=first["id"], stream=True))
    last = EventParser().feed(answer.content)[-1]
    second = orjson.loads(last.data)["response"]

    assert "hot" == answer.headers["x-hugind-session"]
    assert "response.incomplete" == last.event
    assert second == (await served.client.get(f"{PATH}/{second['id']}")).json()
    assert first["id"] == second["previous_response_id"]
    assert second["usage"]["input_tokens_details"]["cached_tokens"] > first["usage"]["input_tokens"]
    assert [*await said(served, first), text_of(first), "And?"] == await said(served, second)


async def test_what_it_is_charged_and_estimated(served: Served) -> None:
    """What was said before counts as part of the request: else a few words would seem to be thousands of tokens."""
    first = await ask(served, "Once upon a time. " * 200)
    for _ in range(3):
        await ask(served, "?", previous_response_id=first["id"])

    assert served.gateway.books.gauge("chat").estimate(100, 10**6) < 100


async def test_the_length_of_a_prompt(served: Served) -> None:
    """Is told without an answer, and what was said before counts."""
    first = await ask(served, "Once upon a time. " * 20)
    asked = {"model": "chat", "input": "And?", "previous_response_id": first["id"]}
    told = (await served.client.post(f"{PATH}/input_tokens", json=asked)).json()["input_tokens"]

    assert told == (await ask(served, "And?", previous_response_id=first["id"]))["usage"]["input_tokens"]


async def test_of_an_alias(served: Served) -> None:
    """Its words come first, unless the request brings instructions; its parameters hold."""
    served.gateway.aliases.put("pirate", Alias(model="chat", system="Arr. " * 9, parameters={"num_predict": 2}))
    plain = await ask(served, "hello")
    asked = {"model": "pirate", "input": "hello"}
    spoken = (await served.client.post(PATH, json=asked)).json()
    own = (await served.client.post(PATH, json={**asked, "instructions": "x"})).json()
    tokens = [one["usage"]["input_tokens"] for one in (plain, own, spoken)]

    assert tokens == sorted(tokens)
    assert tokens[2] > tokens[1] + 5
    assert 2 == spoken["usage"]["output_tokens"]
    assert ("pirate", None) == (spoken["model"], spoken["instructions"])


async def test_one_response_at_a_time_in_a_conversation(served: Served) -> None:
    """As OpenAI refuses the second; its library asks again by itself. Who leaves, leaves nothing behind."""
    talk = (await served.client.post("/v1/conversations")).json()["id"]
    async with connect(served.port) as guest:
        request = body(conversation=talk, stream=True, standin=SLOW, max_output_tokens=400)
        await guest.send(http_request(request, PATH))
        await guest.reader.readuntil(b"response.output_text.delta")
        busy = await served.client.post(PATH, json=body(conversation={"id": talk}))
        guest.leave()
    await served.until_free(2)

    assert (400, "conversation_locked", "conversation") == refusal(busy)
    assert ("true", "1") == (busy.headers["x-should-retry"], busy.headers["retry-after"])
    first = await ask(served, conversation=talk)
    items = (await served.client.get(f"/v1/conversations/{talk}/items")).json()["data"]
    assert [first["output"][0]["id"]] == [item["id"] for item in items if item["role"] == "assistant"]
    assert 1 == await count(served.gateway.books.database, responses)


async def test_a_conversation_that_goes_meanwhile(served: Served) -> None:
    """The client hears that the answer is nowhere: there is no last event, but an error."""
    talk = (await served.client.post("/v1/conversations")).json()["id"]
    async with connect(served.port) as guest:
        request = body(conversation=talk, stream=True, standin={**SLOW, "token_ms": 300})
        await guest.send(http_request(request, PATH, ("Connection: close",)))
        await guest.reader.readuntil(b"response.output_text.delta")
        await served.client.delete(f"/v1/conversations/{talk}")
        rest = await guest.rest()

    assert b"conversation_not_found" in rest
    assert b"response.incomplete" not in rest
    assert 0 == await count(served.gateway.books.database, responses)


async def test_other_names_of_conversations(served: Served) -> None:
    """Those that do not look like ours name a session, as they always did."""
    first = await ask(served, "hello", conversation="mine")
    missing = await served.client.post(PATH, json=body(conversation="conv_mine"))

    assert first["conversation"] is None
    assert (404, "conversation_not_found", None) == refusal(missing)


async def test_people_behind_one_key(tmp_path: Path) -> None:
    """A person that a key asks for sees its own; one that a request names by itself, and what is of nobody."""
    keyring = Keyring()
    keyring.add(KEY, replace(Principal("app"), delegates=True))
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, keyring=keyring) as served:
        anns = await ask(served, user="ann")
        nobodys = await ask(served)
        sent = await ask(served, headers={"X-Hugind-User": "ann"})

        async def status(response: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> int:
            request = body(previous_response_id=response["id"], **more)
            return (await served.client.post(PATH, json=request, headers=headers)).status_code

        assert [200, 400] == [await status(anns, user=name) for name in ("ann", "bob")]
        assert 200 == await status(nobodys, user="bob")
        for name, expected in (("ann", 200), ("bob", 400)):
            headers = {"X-Hugind-User": name}
            assert expected == await status(sent, headers)
            assert 400 == await status(nobodys, headers)
            found = await served.client.get(f"{PATH}/{sent['id']}", headers=headers)
            assert found.status_code == (200 if name == "ann" else 404)


async def test_a_user_who_is_gone(served: Served) -> None:
    """Leaves nothing here."""
    accounts = served.gateway.books.accounts
    secret = await add_user(accounts, "alice")
    await ask(served, headers=bearer(secret))
    await served.client.post("/v1/conversations", headers=bearer(secret))
    await ask(served)
    await accounts.delete_user(TESTER, "alice")

    assert 1 == await count(served.gateway.books.database, responses)


async def test_the_database_is_away(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Who relies on what is kept is told so; who does not is served, and told that it is not kept."""
    address = postgres_server.create()
    config = standin_config(tmp_path)
    database = Database(parse_address(address, Path("unused")))
    await database.upgrade()
    await database.aclose()
    try:
        async with serving(tmp_path, {"chat": config}, database_address=address) as served:
            first = await ask(served)
            talk = (await served.client.post("/v1/conversations")).json()["id"]
            postgres_server.allow(address, is_allowed=False)
            try:
                wanted = [
                    await served.client.post(PATH, json=body(**more))
                    for more in ({"store": True}, {"previous_response_id": first["id"]}, {"conversation": talk})
                ]
                streamed = await served.client.post(PATH, json=body(store=True, stream=True))
                unasked, unwanted = await ask(served), await ask(served, store=False)
                await served.gateway.books.usage.flush()
                assert served.gateway.books.usage.status.is_away
                early = await served.client.post(PATH, json=body(store=True))
                later = await ask(served)
                shown = await served.client.get(f"{PATH}/{first['id']}")
            finally:
                postgres_server.allow(address, is_allowed=True)

            assert {(503, "database_away", None)} == {refusal(answer) for answer in (*wanted, early, shown)}
            assert "x-hugind-session" not in early.headers
            assert "database_away" in streamed.text  # before it begins, or as its last event
            assert "response.incomplete" not in streamed.text
            assert [False] * 3 == [answer["store"] for answer in (unasked, unwanted, later)]
            await eventually(lambda: not served.gateway.books.usage.status.is_away)
            assert (await ask(served, previous_response_id=first["id"]))["store"]
    finally:
        postgres_server.drop(address)


async def test_methods(served: Served) -> None:
    """What each path takes."""
    for method, path, status in (
        ("GET", PATH, 405),
        ("DELETE", PATH, 405),
        ("GET", f"{PATH}/input_tokens", 405),
        ("POST", f"{PATH}/resp_1", 405),
        ("PUT", "/v1/conversations", 405),
        ("GET", f"{PATH}/resp_1", 404),
    ):
        answer = await served.client.request(method, path)
        assert status == answer.status_code, path
        assert "error" in answer.json()


async def test_nested_too_deeply(served: Served) -> None:
    """What can be read but not written is refused, not half done."""
    deep = orjson.loads("[" * 400 + "]" * 400)
    for more in ({"text": {"verbosity": deep}}, {"temperature": deep}, {"tools": [{"type": "function", "name": "f", "parameters": {"a": deep}}]}):  # fmt: skip  # noqa: E501
        answer = await served.client.post(PATH, json=body(**more))
        assert (400, "the request body is nested too deeply") == (
            answer.status_code,
            answer.json()["error"]["message"],
        )


async def test_how_long_they_are_kept(tmp_path: Path) -> None:
    """The settings say."""
    settings = Settings(responses=ResponseSettings(retention_days=0))
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, settings=settings) as served:
        made = await ask(served)
    async with serving(tmp_path, {"chat": standin_config(tmp_path)}, settings=settings) as served:
        found = await served.client.get(f"{PATH}/{made['id']}")
        answers = await asyncio.gather(*(ask(served, previous_response_id=made["id"]) for _ in range(4)))

    assert made == found.json()
    assert 4 == len({answer["id"] for answer in answers})
    assert 30 == Settings().responses.retention_days
    assert isinstance(served.gateway.books.responses, Responses)
