"""Web pages, and names that lead here, before a gateway as people start it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import GatewayProcess, running

pytestmark = pytest.mark.e2e

REBOUND = {"Host": "rebound.example:8080"}


def test_on_loopback_only_our_names_are_good(gateway: GatewayProcess) -> None:
    """Whatever the key."""
    refused = gateway.client.get("/v1/models", headers=REBOUND)

    assert (403, "host_refused") == (refused.status_code, refused.json()["error"]["code"])
    assert 200 == gateway.client.get("/v1/models").status_code


def test_for_the_network(tmp_path: Path) -> None:
    """Listening everywhere any name will do; pages that OLLAMA_ORIGINS names may ask, others may not."""
    variables = {"LLAMA_SERVER_HOST": "0.0.0.0", "OLLAMA_ORIGINS": "https://chat.example.org"}  # noqa: S104
    page, other = {"Origin": "https://chat.example.org"}, {"Origin": "https://other.example.org"}
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    with running(tmp_path, {"chat": chat_config(tmp_path)}, variables=variables) as process:
        client = process.client
        named = client.get("/v1/models", headers=REBOUND)
        answer = client.post("/v1/chat/completions", json=body, headers={**REBOUND, **page})
        refused = client.post("/v1/chat/completions", json=body, headers=other)
        health = client.get("/health", headers={"Authorization": ""}).json()

    assert (200, 200, 403) == (named.status_code, answer.status_code, refused.status_code)
    assert page["Origin"] == answer.headers["access-control-allow-origin"]
    assert "ok" == health["status"]
    assert health["device"] in ("cuda", "metal", "cpu")
