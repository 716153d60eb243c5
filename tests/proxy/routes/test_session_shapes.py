"""Sessions are as they are described, although nobody holds the answers against it while they are made."""

from __future__ import annotations

from pathlib import Path

from hugind.proxy.routes.session_shapes import (
    Forgotten,
    ImportedSession,
    SessionAnswer,
    SessionList,
    SessionWithMessages,
)
from tests.proxy.serving import ADMIN_KEY, chat, serving, standin_config

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
SESSIONS = "/admin/v1/sessions"


async def test_answers_fit(tmp_path: Path) -> None:
    """Every field is described, with its type, and every one that is described is there."""
    async with serving(tmp_path, {"chat": standin_config(tmp_path, sessions={"min_tokens": 8})}) as served:
        await served.client.post("/v1/chat/completions", json=chat("once upon a time " * 9, user="alice"))
        listed = await served.client.get(SESSIONS, headers=ADMIN)
        session = listed.json()["sessions"][0]["id"]
        shown = await served.client.get(f"{SESSIONS}/{session}", headers=ADMIN)
        pinned = await served.client.post(f"{SESSIONS}/{session}/pin", json={"pinned": True}, headers=ADMIN)
        file = await served.client.get(f"{SESSIONS}/{session}/export", headers=ADMIN)
        taken_in = await served.client.post(
            f"{SESSIONS}/import", params={"engine": "chat", "user": "bob"}, content=file.content, headers=ADMIN
        )
        forgotten = await served.client.delete(f"{SESSIONS}/{session}", headers=ADMIN)

    assert SessionList.model_validate_json(listed.content).sessions
    assert SessionWithMessages.model_validate_json(shown.content).messages
    assert SessionAnswer.model_validate_json(pinned.content).pinned
    assert ImportedSession.model_validate_json(taken_in.content).user == "bob"
    assert [session] == Forgotten.model_validate_json(forgotten.content).forgotten
