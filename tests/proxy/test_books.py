"""What the settings and the environment say of users, and a gateway whose database is away."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from hugind.proxy.access.principal import Allowance
from hugind.proxy.books import Rules, database_url
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import AccessSettings, LimitSettings, Settings, read_environment
from tests.databases import PostgresServer
from tests.proxy.people import add_user, bearer, own_logs, rows
from tests.proxy.serving import chat, make_books, serving, standin_config

CHAT = "/v1/chat/completions"


def test_sixty_a_minute_unless_told_otherwise() -> None:
    assert Allowance(60, 60) == Rules.of(Settings(), read_environment({})).defaults


def test_the_environment_beats_the_settings() -> None:
    settings = Settings(limits=LimitSettings(requests=5, window_s=7, tokens_per_day=9, concurrent=0))
    environment = read_environment({"LLAMA_PROXY_RATE_LIMIT": "0", "LLAMA_PROXY_RATE_WINDOW_SECONDS": "10"})

    assert Allowance(5, 7, None, 9) == Rules.of(settings, read_environment({})).defaults
    assert Allowance(None, 10, None, 9) == Rules.of(settings, environment).defaults
    assert not Rules.of(settings, environment).path_keys
    assert Rules.of(Settings(access=AccessSettings(path_keys=True)), environment).path_keys


def test_pages_are_named_in_either_place() -> None:
    """The settings' and those of OLLAMA_ORIGINS."""
    environment = read_environment({"OLLAMA_ORIGINS": "app://x, https://b.example"})

    assert ("https://a.example", "app://x", "https://b.example") == (
        Rules.of(Settings(origins=("https://a.example",)), environment).origins
    )
    assert () == Rules.of(Settings(), read_environment({})).origins


def test_as_whom_the_hub_is_asked() -> None:
    """HF_TOKEN before the settings."""
    settings, environment = Settings(hf_token=SecretStr("a")), read_environment({"HF_TOKEN": "b"})

    assert SecretStr("b") == Rules.of(settings, environment).hub_token
    assert SecretStr("a") == Rules.of(settings, read_environment({})).hub_token
    assert Rules.of(Settings(), read_environment({})).hub_token is None


def test_where_the_database_is(tmp_path: Path) -> None:
    home = Home(tmp_path)
    settings = Settings(database_url=SecretStr("postgresql://a/b"))
    environment = read_environment({"DATABASE_URL": "postgres://c/d"})

    assert str(home.database) == database_url(home, Settings(), read_environment({})).database
    assert database_url(home, settings, read_environment({})).host == "a"
    assert database_url(home, settings, environment).host == "c"


async def test_rules_that_change_count_at_once(tmp_path: Path) -> None:
    books = make_books(Home(tmp_path))
    books.apply(Rules(Allowance(requests=3), path_keys=True))

    assert (books.rules.path_keys, books.keys.defaults.requests) == (True, 3)


async def test_a_database_that_goes_away_loses_nobody_and_no_row(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """Who is known goes on; what they do is on record when it is back, once."""
    address = postgres_server.create()
    try:
        books = make_books(Home(tmp_path), address=address)
        await books.database.upgrade()
        await books.database.aclose()
        async with serving(tmp_path, {"chat": standin_config(tmp_path)}, database_address=address) as served:
            accounts = served.gateway.books.accounts
            known, unused = await add_user(accounts, "alice"), await add_user(accounts, "bob")
            asked = [await served.client.post(CHAT, json=chat(max_tokens=1), headers=bearer(known))]
            for _ in range(2):
                postgres_server.allow(address, is_allowed=False)
                for _ in range(3):
                    asked.append(await served.client.post(CHAT, json=chat(max_tokens=1), headers=bearer(known)))
                    await served.gateway.books.usage.flush()
                closed = await served.client.post(CHAT, json=chat(), headers=bearer(unused))
                wrong = await served.client.post(CHAT, json=chat(), headers=bearer("hgk_nonsense"))
                postgres_server.allow(address, is_allowed=True)
                asked.append(await served.client.post(CHAT, json=chat(max_tokens=1), headers=bearer(known)))
            ids = [answer.headers["x-request-id"] for answer in asked]
            found = await rows(served)

        assert {200} == {answer.status_code for answer in asked}
        assert (503, "database_away") == (closed.status_code, closed.json()["error"]["code"])
        assert wrong.status_code == 401
        assert sorted(ids) == sorted(row["request_id"] for row in found)
    finally:
        postgres_server.drop(address)


@pytest.mark.parametrize("path_keys", [True, False])
async def test_keys_in_the_path(tmp_path: Path, path_keys: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Only where they are wanted; and no log shows them."""
    caplog.set_level("DEBUG")
    config = standin_config(tmp_path)
    async with serving(tmp_path, {"chat": config}, rules=Rules(path_keys=path_keys), needs_key=True) as served:
        secret = await add_user(served.gateway.books.accounts, "alice")
        del served.client.headers["Authorization"]
        answers = [
            await served.client.post(f"/k/{secret}/v1/chat/completions", json=chat(max_tokens=1)),
            await served.client.get(f"/k/{secret}/v1/models"),
            await served.client.get(f"/k/{secret}/v1/nothing"),
            await served.client.get(f"/k/{secret[:-1]}x/v1/models"),
        ]

    assert [404] * 4 == [a.status_code for a in answers] or path_keys
    assert [200, 200, 404, 401] == [a.status_code for a in answers] or not path_keys
    assert secret not in own_logs(caplog)
    assert not any(secret in answer.text for answer in answers)
