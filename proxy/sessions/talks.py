"""From a request to the conversation that it belongs to: whose it is, which id it gives, what it says. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hugind.proxy.errors import ApiError
from hugind.proxy.sessions.record import Owner
from hugind.proxy.sessions.transcript import Scope, Talk, chat_chain, count_head, text_chain

SESSION_HEADER = b"x-hugind-session"
HISTORY_HEADER = b"x-hugind-history"
MAX_NAME = 256

CHAT_HEADER = b"x-openwebui-chat-id"

Header = Callable[[bytes], bytes | None]
"""The value of a request header."""

_KEPT_NAME = "history"
"""Of the conversation that a `user` has with a model where no other id is given."""


def owner_of(principal: str, end_user: str | None, request: dict[str, Any]) -> Owner:
    """Who asks: the principal, and which of its people where the key may name them, or the request does."""
    if end_user is not None:
        return Owner(principal, end_user)
    for value in (request.get("user"), request.get("safety_identifier"), _anthropic_user(request)):
        if isinstance(value, str) and value:
            return Owner(principal, value)
    return Owner(principal)


def chat_talk(scope: Scope, header: Header, request: dict[str, Any], *, history: str) -> Talk:
    """A chat. `history`: who keeps it where the request does not say, "client" or "server".

    Raises:
        ApiError: 400, a header that makes no sense, or a history to be kept that has no name.
    """
    name = _name(header, request)
    messages = request.get("messages")
    if not isinstance(messages, list):
        return Talk(scope, (), name=name)  # the engine will say what is wrong
    if _is_kept(header, history, has_name=name is not None or scope.owner.user is not None):
        return Talk(scope, (), name=name or _KEPT_NAME, messages=messages, is_kept=True)
    return Talk(scope, _chain(scope, messages), _head(messages), name, messages)


def text_talk(scope: Scope, header: Header, request: dict[str, Any]) -> Talk:
    """A completion of plain text.

    Raises:
        ApiError: as `chat_talk`.
    """
    prompt = request.get("prompt")
    chain = text_chain(scope, prompt) if isinstance(prompt, str) else ()
    return Talk(scope, chain, name=_name(header, request))


def responses_talk(scope: Scope, header: Header, request: dict[str, Any], messages: list[Any]) -> Talk:
    """A request of the Responses API, whose history is kept in its own way. `messages`: the whole of it, as a chat.

    Raises:
        ApiError: as `chat_talk`.
    """
    return Talk(scope, _chain(scope, messages), _head(messages), _name(header, request), messages)


def bare_talk(scope: Scope, header: Header, request: dict[str, Any]) -> Talk:
    """A request of which nothing is remembered, unless it names a session.

    Raises:
        ApiError: as `chat_talk`.
    """
    return Talk(scope, (), name=_name(header, request))


def _chain(scope: Scope, messages: list[Any]) -> tuple[bytes, ...]:
    try:
        return chat_chain(scope, messages)
    except TypeError:  # orjson reads deeper nesting than it writes
        raise ApiError(400, "the request body is nested too deeply") from None


def _head(messages: list[Any]) -> int:
    """Shared with others it may be, but not all of it: a request asks something."""
    return min(count_head(messages), max(len(messages) - 1, 0))


def _name(header: Header, request: dict[str, Any]) -> str | None:
    conversation = request.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    given = (header(SESSION_HEADER) or header(CHAT_HEADER) or b"").decode("utf-8", "replace")
    for value in (given, request.get("prompt_cache_key"), conversation):
        if isinstance(value, str) and value:
            if len(value) > MAX_NAME:
                raise ApiError(400, f"the id of a session has at most {MAX_NAME} characters")
            return value
    return None


def _is_kept(header: Header, history: str, *, has_name: bool) -> bool:
    asked = (header(HISTORY_HEADER) or b"").decode("latin-1").strip().lower()
    if asked not in ("", "client", "server"):
        raise ApiError(400, "X-Hugind-History is 'server' or 'client'", param="X-Hugind-History")
    if asked == "server" and not has_name:
        raise ApiError(
            400, "a history that is kept here needs a name: send 'user', or the header X-Hugind-Session", param="user"
        )
    return (asked or history) == "server" and has_name


def _anthropic_user(request: dict[str, Any]) -> Any:
    metadata = request.get("metadata")
    return metadata.get("user_id") if isinstance(metadata, dict) else None
