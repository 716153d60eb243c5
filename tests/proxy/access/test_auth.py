"""Who may use the gateway: keys in three places, one engine each if so configured."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from hugind.proxy.access.auth import Doorman, Keyring
from hugind.proxy.access.principal import ALL_SCOPES, ANONYMOUS, UNLIMITED, Principal
from hugind.proxy.access.user_keys import UserKeys
from hugind.proxy.errors import ApiError
from hugind.proxy.records.database import Database, parse_address
from tests.proxy.exchanges import FakeClient

ALL = Principal("environment")
ONLY_A = Principal("a", frozenset({"a"}))
ONLY_B = Principal("b", frozenset({"b"}))
ADMIN = Principal("control", scopes=ALL_SCOPES)


def keyring(**keys: Principal) -> Keyring:
    ring = Keyring()
    for key, principal in keys.items():
        ring.add(key, principal)
    return ring


def doorman(ring: Keyring, *, needs_key: bool = False) -> Doorman:
    """One that knows no users; keys that have not a user's form are never looked for."""
    nowhere = Database(parse_address(None, Path("/nowhere/hugind.db")))
    return Doorman(ring, UserKeys(nowhere, UNLIMITED, 60), needs_key=needs_key)


async def ask(ring: Keyring, **headers: str) -> Principal:
    """Authenticate a request with these headers; `_` stands for `-`."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return await doorman(ring).authenticate(FakeClient(headers=raw).exchange)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret"},
        {"authorization": "bearer   secret "},
        {"x_api_key": "secret"},
        {"authorization": basic("anybody", "secret")},
        {"authorization": "Bearer secret", "x_api_key": "secret"},
    ],
)
async def test_a_key_is_taken_wherever_clients_put_it(headers: dict[str, str]) -> None:
    """OpenAI's place, Anthropic's place, and a browser's."""
    assert ALL == await ask(keyring(secret=ALL), **headers)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Bearer wrong"}, "invalid_api_key"),
        ({"authorization": "Bearer "}, "invalid_api_key"),
        ({"authorization": "Bearer"}, "invalid_api_key"),
        ({"authorization": "secret"}, "invalid_api_key"),
        ({"authorization": "Digest secret"}, "invalid_api_key"),
        ({"authorization": "Basic !!!"}, "invalid_api_key"),
        ({"authorization": "Basic " + base64.b64encode(b"secret").decode()}, "invalid_api_key"),
        ({"authorization": basic("secret", "")}, "invalid_api_key"),
        ({"x_api_key": ""}, "invalid_api_key"),
        ({"x_api_key": "SECRET"}, "invalid_api_key"),
        ({"authorization": "Bearer s\u00e9cret"}, "invalid_api_key"),
    ],
)
async def test_without_a_valid_key_nobody_enters(headers: dict[str, str], code: str) -> None:
    """401, and the reason."""
    with pytest.raises(ApiError) as refused:
        await ask(keyring(secret=ALL), **headers)

    assert (401, code) == (refused.value.status, refused.value.code)


async def test_two_different_keys_are_refused() -> None:
    """Which one counts would be a guess."""
    with pytest.raises(ApiError) as refused:
        await ask(keyring(secret=ALL, other=ALL), authorization="Bearer secret", x_api_key="other")

    assert refused.value.status == 400


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key"])
async def test_a_credential_given_twice_is_refused(name: bytes) -> None:
    """Proxies differ in which of two they read."""
    with pytest.raises(ApiError) as refused:
        await doorman(keyring(secret=ALL)).authenticate(FakeClient(headers=[(name, b"Bearer secret")] * 2).exchange)

    assert refused.value.status == 400


async def test_a_key_of_one_config_opens_that_engine_only() -> None:
    """Engines of others do not exist for it."""
    ring = keyring(ka=ONLY_A, kb=ONLY_B, k=ALL)
    principals = {key: await ask(ring, x_api_key=key) for key in ("ka", "kb", "k")}
    opened = {key: [name for name in "ab" if principal.may_use(name)] for key, principal in principals.items()}

    assert {"ka": ["a"], "kb": ["b"], "k": ["a", "b"]} == opened


async def test_one_key_in_two_configs_opens_both() -> None:
    """The same secret written twice means both places."""
    ring = Keyring()
    ring.add("k", ONLY_A)
    ring.add("k", ONLY_B)

    assert frozenset({"a", "b"}) == (await ask(ring, x_api_key="k")).engines

    ring.add("k", ALL)

    assert (await ask(ring, x_api_key="k")).engines is None


def test_an_engine_without_a_key_of_its_own_is_seen() -> None:
    """`opens` tells an engine that nobody but the admin could use."""
    ring = keyring(ka=ONLY_A, token=ADMIN)

    assert (True, False) == (ring.opens("a"), ring.opens("b"))
    assert keyring(k=ALL).opens("b")
    assert keyring(token=ADMIN).opens("b")


async def test_the_admins_token_does_not_close_the_gateway() -> None:
    """Open means that no key was configured for users; the token of the command line is none."""
    ring = keyring(token=ADMIN)

    assert ring.is_open
    assert ANONYMOUS == await ask(ring)
    assert ANONYMOUS == await ask(ring, authorization="Bearer sk-whatever")
    assert ADMIN == await ask(ring, authorization="Bearer token")
    assert not keyring(token=ADMIN, k=ONLY_A).is_open


def test_who_may_use_an_engine() -> None:
    """By name, without the admin; where no key is needed it is anybody."""
    ring = keyring(key=ALL, other=ONLY_A, third=ONLY_B, token=ADMIN)

    assert ["a", "environment"] == ring.principals("a")
    assert [ANONYMOUS.name] == keyring(token=ADMIN).principals("a")
