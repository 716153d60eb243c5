"""Which keys there are at the start, and what is refused without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from hugind.proxy.access.auth import Keyring
from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.configured_keys import make_keyring, require_key_beyond_loopback
from hugind.proxy.listening import Address
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home
from hugind.supervisor.settings import Environment
from tests.proxy.starting import EVERYWHERE, config, environment


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.5", "example.org", ""])
def test_nothing_listens_to_the_network_without_a_key(host: str) -> None:
    """Beyond loopback a key is required; the command line's own token is none."""
    ring = Keyring()
    ring.add("token", Principal("control", scopes=ALL_SCOPES))
    with pytest.raises(HugindError, match="no API key"):
        require_key_beyond_loopback(Address(host, 1), ring)

    ring.add("key", Principal("environment"))
    require_key_beyond_loopback(Address(host, 1), ring)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    """On one's own machine one may go without."""
    require_key_beyond_loopback(Address(host, 1), Keyring())


def test_engines_without_a_key_on_demand(tmp_path: Path) -> None:
    """One that nobody may use is none of those that are served to anybody: no reason not to start."""
    configs = {"a": config(api_key="ka"), "b": config()}
    keyring = make_keyring(
        configs, environment(tmp_path), Address("127.0.0.1", 1), "token", has_users=False, is_on_demand=True
    )

    assert (True, False) == (keyring.opens("a"), keyring.opens("b"))


def test_keys_are_not_shown() -> None:
    """Neither a config nor the environment prints its key."""
    secret = Environment(Home(Path()), SecretStr("hidden"), None, None)

    assert "hidden" not in repr(secret) + repr(config(api_key="hidden"))
