"""A `/v1/responses` request as the chat completions request that asks the engine for the same. Pure.

The engine has a `/v1/responses` of its own, but it does not look at `text.format`, tells nobody that an answer was cut
short, and leaves the numbers out of its events by which OpenAI's own clients put a stream together (measured on
b11549). What it is asked as a chat also shares sessions with every other dialect.
"""

from __future__ import annotations

from typing import Any

from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.openai_chat import take_tools

_TRANSLATED = {
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "store",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncation",
}
# Meaningless on a machine of one's own, or read before this.
_DROPPED = {
    "background",
    "context_management",
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stream_options",
    "user",
}
_LOGPROBS = "message.output_text.logprobs"
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
"""Of metadata, as OpenAI has them."""


def to_chat(request: dict[str, Any]) -> dict[str, Any]:
    """The chat request, without its messages; fields that are not known pass through.

    Raises:
        DialectError: something that cannot be honoured.
    """
    _refuse(request)
    known = _TRANSLATED | _DROPPED | {"prompt"}
    chat = {key: value for key, value in request.items() if key not in known}
    if request.get("max_output_tokens") is not None:
        chat["max_tokens"] = request["max_output_tokens"]
    chat |= _translate_tools(request.get("tools"), request.get("tool_choice"))
    if request.get("parallel_tool_calls") is not None:
        chat["parallel_tool_calls"] = request["parallel_tool_calls"]
    if chat.get("tool_choice") != "required":  # with a format, too, the engine would write that and call nothing
        chat |= _translate_format(request.get("text"))
    chat |= _translate_reasoning(request.get("reasoning"))
    chat |= _translate_logprobs(request)
    return chat


def check_metadata(metadata: object) -> dict[str, str]:
    """Up to 16 pairs of words of the client's own.

    Raises:
        DialectError: it is something else.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or len(metadata) > MAX_PAIRS:
        raise DialectError(f"metadata: must be an object of at most {MAX_PAIRS} pairs", "metadata")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(key) > MAX_KEY or len(value) > MAX_VALUE:
            raise DialectError(
                f"metadata: keys have at most {MAX_KEY} characters, values are strings of at most {MAX_VALUE}",
                "metadata",
            )
    return metadata


def describe(request: dict[str, Any], chat: dict[str, Any]) -> dict[str, Any]:
    """What a response says of the request that it answers; `chat` is what became of that."""
    reasoning = request.get("reasoning") or {}
    text = request.get("text") or {}
    return {
        "background": False,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "max_tool_calls": request.get("max_tool_calls"),
        "metadata": request.get("metadata") or {},
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "previous_response_id": request.get("previous_response_id"),
        "prompt_cache_key": request.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "safety_identifier": request.get("safety_identifier"),
        "service_tier": "default",
        "temperature": request.get("temperature"),
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": [tool for tool in request.get("tools") or () if tool.get("type") == "function"],
        "top_logprobs": chat.get("top_logprobs", 0),
        "top_p": request.get("top_p"),
        "truncation": request.get("truncation") or "disabled",
        "user": request.get("user"),
    }


def _refuse(request: dict[str, Any]) -> None:
    if request.get("background"):
        raise DialectError.unsupported("background: answers are made while you wait, or streamed", "background")
    if isinstance(request.get("prompt"), dict):
        raise DialectError.unsupported("prompt: there are no prompts kept here; send instructions and input", "prompt")
    if request.get("previous_response_id") is not None and request.get("conversation") is not None:
        raise DialectError("a request goes on from a response or from a conversation, not both", "conversation")
    for key, kinds in (("instructions", str), ("previous_response_id", str), ("store", bool), ("include", list)):
        if request.get(key) is not None and not isinstance(request[key], kinds):
            raise DialectError(f"{key}: must be a {kinds.__name__}", key)
    if request.get("truncation") not in (None, "auto", "disabled"):
        raise DialectError("truncation: must be 'auto' or 'disabled'", "truncation")
    for key in ("text", "reasoning"):
        if not isinstance(request.get(key), dict | None):
            raise DialectError(f"{key}: must be an object", key)
    check_metadata(request.get("metadata"))


def _translate_tools(tools: object, choice: object) -> dict[str, Any]:
    """Functions. Tools that would run on OpenAI's servers are left out, as the engine itself does."""
    if tools is not None and not isinstance(tools, list):
        raise DialectError("tools: must be a list", "tools")
    functions = []
    for position, tool in enumerate(tools or []):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind == "function":
            functions.append(_translate_tool(tool, f"tools[{position}]"))
        elif not isinstance(kind, str) or kind == "custom":
            param = f"tools[{position}].type"
            raise DialectError.unsupported(f"{param}: {kind!r} is not available here", param)
    left, wanted = take_tools(functions, _translate_choice(choice))
    chat: dict[str, Any] = {"tools": left} if left else {}
    return chat if wanted is None else {**chat, "tool_choice": wanted}


def _translate_choice(choice: object) -> object:
    """Here a choice names a function directly, in a chat within an object of its own."""
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": mode, "tools": list(allowed)}:
            names = [tool.get("name") for tool in allowed if isinstance(tool, dict) and tool.get("type") == "function"]
            tools = [{"type": "function", "function": {"name": name}} for name in names]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
    return choice


def _translate_tool(tool: dict[str, Any], param: str) -> dict[str, Any]:
    if not isinstance(tool.get("name"), str):
        raise DialectError(f"{param}.name: a string is required", f"{param}.name")
    keys = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: tool[key] for key in keys if tool.get(key) is not None}}


def _translate_format(text: dict[str, Any] | None) -> dict[str, Any]:
    match (text or {}).get("format"):
        case None | {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"response_format": {"type": "json_object"}}
        case {"type": "json_schema", "schema": dict()} as given:
            keys = ("name", "description", "schema", "strict")
            schema = {key: given[key] for key in keys if given.get(key) is not None}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise DialectError("text.format: must be 'text', 'json_object', or 'json_schema' with a schema", "text.format")


def _translate_reasoning(reasoning: dict[str, Any] | None) -> dict[str, Any]:
    match (reasoning or {}).get("effort"):
        case None:
            return {}
        case str(effort):
            return {"reasoning_effort": effort}
    raise DialectError("reasoning.effort: must be a string", "reasoning.effort")


def _translate_logprobs(request: dict[str, Any]) -> dict[str, Any]:
    count = request.get("top_logprobs") or 0
    if type(count) is not int or not 0 <= count <= 20:
        raise DialectError("top_logprobs: must be a number from 0 to 20", "top_logprobs")
    if not count and _LOGPROBS not in (request.get("include") or ()):
        return {}
    return {"logprobs": True, "top_logprobs": count}
