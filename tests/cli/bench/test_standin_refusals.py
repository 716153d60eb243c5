"""What the stand-in refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.standin import StartStandin

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "a question of some length"}], "max_tokens": 4}


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/chat/completions", {}, 400, "invalid_request_error"),
        ("/v1/chat/completions", {**CHAT, "n": 2}, 400, "invalid_request_error"),
        ("/completion", {"prompt": "long" * 5000}, 400, "exceed_context_size_error"),
        ("/v1/embeddings", {"input": "a"}, 501, "not_supported_error"),
        ("/v1/rerank", {"query": "a", "documents": ["a"]}, 501, "not_supported_error"),
        ("/slots/0?action=save", {"filename": "a"}, 501, "not_supported_error"),
        ("/v1/messages", CHAT, 404, "not_found_error"),
    ],
)
def test_refusals(start_standin: StartStandin, path: str, body: dict[str, Any], status: int, kind: str) -> None:
    """What llama-server refuses is refused in its words."""
    answer = start_standin().client.post(path, json=body)

    assert answer.status_code == status
    assert answer.json()["error"]["type"] == kind
    assert answer.json()["error"]["code"] == status


def test_malformed_body(start_standin: StartStandin) -> None:
    """A body that is no JSON object is a 400."""
    standin = start_standin()
    statuses = [standin.client.post("/v1/chat/completions", content=body).status_code for body in (b"{", b"[]", b"")]

    assert statuses == [400, 400, 400]
