"""Calls of tools, and what came of them, in plain words: for a model whose template knows no tools. Pure.

Such a template leaves the calls out, and the results in a role that it never saw, or refuses them. It happens where a
conversation goes on with another model.
"""

from __future__ import annotations

from typing import Any

from hugind.proxy.dialects.errors import DialectError, write_json


def has_tool_messages(messages: Any) -> bool:
    """Whether a chat speaks of tools."""
    return isinstance(messages, list) and any(
        isinstance(message, dict) and (message.get("role") == "tool" or message.get("tool_calls"))
        for message in messages
    )


def to_plain_messages(messages: list[Any]) -> list[Any]:
    """The same chat with users and assistants only, who still take turns.

    Raises:
        DialectError: a call is none.
    """
    plain: list[Any] = []
    answered = False  # the last message holds results, and takes what the user says next
    for message in messages:
        if not isinstance(message, dict):
            plain.append(message)
            continue
        is_result = message.get("role") == "tool"
        if is_result:
            text = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
            message = {"role": "user", "content": text}
        elif message.get("tool_calls"):
            message = _said(message)
        if answered and message.get("role") == "user" and isinstance(message.get("content"), str):
            plain[-1] = {"role": "user", "content": f"{plain[-1]['content']}\n{message['content']}"}
        else:
            plain.append(message)
        answered = is_result
    return plain


def _said(message: dict[str, Any]) -> dict[str, Any]:
    calls = []
    for call in message["tool_calls"] if isinstance(message["tool_calls"], list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise DialectError("tool_calls: each must be an object with a function", "messages")
        arguments = function.get("arguments") or {}
        written = arguments if isinstance(arguments, str) else write_json(arguments, "messages")
        name = write_json(function.get("name"), "messages")
        calls.append(f'<tool_call>{{"name": {name}, "arguments": {written}}}</tool_call>')
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    text = _text(message.get("content"))
    return {**rest, "content": "\n".join([*([text] if text else []), *calls])}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
