"""An Anthropic `/v1/messages` request as the chat completions request that asks the engine for the same.

The engine has a `/v1/messages` of its own, but it drops `id_slot`, so a turn could not be pinned to its user's slot.
"""

from __future__ import annotations

import re
from typing import Any

from hugind.proxy.dialects.errors import DialectError, write_json

_TRANSLATED = {
    "messages",
    "system",
    "max_tokens",
    "stop_sequences",
    "tools",
    "tool_choice",
    "metadata",
    "thinking",
    "output_config",
}
# Meaningless on a machine of one's own: tiers, regions, cache marks, diagnostics.
_DROPPED = {
    "betas",
    "cache_control",
    "context_management",
    "diagnostics",
    "inference_geo",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
}
_REFUSED = {"container": "code execution containers", "mcp_servers": "MCP servers"}

# Claude Code heads its system prompt with a stamp that differs in every request; in front of everything else it would
# keep every conversation from matching its own past (https://github.com/ggml-org/llama.cpp/pull/21793).
_BILLING_STAMP = re.compile(r"\Ax-anthropic-billing-header:[^\n]*?\bcch=\w+;\s*")


def to_chat(request: dict[str, Any]) -> dict[str, Any]:
    """The chat request. Raises DialectError on what cannot be honoured; fields it does not know pass through."""
    for key, what in _REFUSED.items():
        if request.get(key):
            raise DialectError(f"{what} are not available here", key)
    known = _TRANSLATED | _DROPPED | _REFUSED.keys()
    chat = {key: value for key, value in request.items() if key not in known}
    chat["messages"] = _translate_system(request.get("system")) + _translate_messages(request.get("messages"))
    chat["max_tokens"] = _check_max_tokens(request.get("max_tokens"))
    chat |= _translate_stop(request.get("stop_sequences"))
    chat |= _translate_metadata(request.get("metadata"))
    chat |= _translate_tools(request.get("tools"), request.get("tool_choice"))
    chat |= _translate_thinking(request.get("thinking"), request.get("chat_template_kwargs"))
    if chat.get("tool_choice") != "required":  # the engine would write JSON and call nothing
        chat |= _translate_format(request.get("output_config"))
    return chat


def _check_max_tokens(value: object) -> int:
    if value is None:
        raise DialectError("max_tokens: Field required", "max_tokens")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DialectError("max_tokens: must be an integer of at least 1", "max_tokens")
    return value


def _translate_system(system: object) -> list[dict[str, Any]]:
    if not system:
        return []
    texts = [_BILLING_STAMP.sub("", part["text"]) for part in _translate_parts(system, "system", only_text=True)]
    text = "\n".join(text for text in texts if text)
    return [{"role": "system", "content": text}] if text else []


def _translate_messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise DialectError("messages: at least one message is required", "messages")
    translated: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        param = f"messages.{position}"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant", "system"):
            raise DialectError(f"{param}.role: must be 'user', 'assistant' or 'system'", f"{param}.role")
        if "content" not in message:
            raise DialectError(f"{param}.content: Field required", f"{param}.content")
        translate = _translate_assistant if role == "assistant" else _translate_user
        translated += translate(role, message["content"], f"{param}.content")
    return translated


def _translate_user(role: str, content: object, param: str) -> list[dict[str, Any]]:
    """Tool results become messages of their own, in front: they answer the assistant's message before this one."""
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for position, block in enumerate(_check_blocks(content, param)):
        where = f"{param}.{position}"
        if block.get("type") == "tool_result":
            results.append(_translate_tool_result(block, where))
        else:
            parts += _translate_part(block, where)
    return [*results, {"role": role, "content": _simplify(parts)}] if parts else results


def _translate_assistant(role: str, content: object, param: str) -> list[dict[str, Any]]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for position, block in enumerate(_check_blocks(content, param)):
        where = f"{param}.{position}"
        match block.get("type"):
            case "text":
                texts.append(_take(block, "text", where))
            case "thinking":
                thoughts.append(_take(block, "thinking", where))
            case "redacted_thinking":
                pass  # Encrypted for Anthropic's own servers: nothing here can read it, and no model misses it.
            case "tool_use":
                calls.append(_translate_tool_use(block, where))
            case other:
                raise _unsupported(other, where)
    if not (texts or thoughts or calls):
        return []
    # Joined without a break, as the engine first wrote it: one more character and the cached prefix no longer matches.
    message: dict[str, Any] = {"role": role, "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message]


def _translate_tool_use(block: dict[str, Any], param: str) -> dict[str, Any]:
    arguments = write_json(block.get("input") or {}, f"{param}.input")
    function = {"name": _take(block, "name", param), "arguments": arguments}
    return {"id": _take(block, "id", param), "type": "function", "function": function}


def _translate_tool_result(block: dict[str, Any], param: str) -> dict[str, Any]:
    content = _simplify(_translate_parts(block.get("content") or "", f"{param}.content"))
    if isinstance(content, list) and all(part["type"] == "text" for part in content):
        content = "\n".join(part["text"] for part in content)
    # Chat completions have no field for a failure, so the model is told in words.
    if block.get("is_error"):
        content = f"Error: {content}" if isinstance(content, str) else [_text_part("Error:"), *content]
    return {"role": "tool", "tool_call_id": _take(block, "tool_use_id", param), "content": content}


def _translate_parts(content: object, param: str, *, only_text: bool = False) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for position, block in enumerate(_check_blocks(content, param)):
        if only_text and block.get("type") != "text":
            raise _unsupported(block.get("type"), f"{param}.{position}")
        parts += _translate_part(block, f"{param}.{position}")
    return parts


def _translate_part(block: dict[str, Any], param: str) -> list[dict[str, Any]]:
    match block.get("type"):
        case "text":
            return [_text_part(_take(block, "text", param))]
        case "image":
            return [_translate_image(block.get("source"), f"{param}.source")]
        case "document":
            return _translate_document(block, param)
        case other:
            raise _unsupported(other, param)


def _translate_image(source: object, param: str) -> dict[str, Any]:
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            url = f"data:{media_type};base64,{data}"
        case {"type": "url", "url": str(url)}:
            pass
        case _:
            raise DialectError(f"{param}: an image must be 'base64' (media_type, data) or 'url'", param)
    return {"type": "image_url", "image_url": {"url": url}}


def _translate_document(block: dict[str, Any], param: str) -> list[dict[str, Any]]:
    match block.get("source"):
        case {"type": "text", "data": str(data)}:
            parts = [_text_part(data)]
        case {"type": "content", "content": content}:
            parts = _translate_parts(content, f"{param}.source.content")
        case _:
            raise DialectError(f"{param}.source: only documents of plain text can be read here", f"{param}.source")
    headings = [_text_part(_take(block, key, param)) for key in ("title", "context") if block.get(key)]
    return headings + parts


def _translate_stop(sequences: object) -> dict[str, Any]:
    if not sequences:
        return {}
    if not isinstance(sequences, list) or not all(isinstance(sequence, str) for sequence in sequences):
        raise DialectError("stop_sequences: must be a list of strings", "stop_sequences")
    # Without `verbose` the engine does not tell which sequence matched, nor whether one did.
    return {"stop": sequences, "verbose": True}


def _translate_metadata(metadata: object) -> dict[str, Any]:
    if not metadata:
        return {}
    if not isinstance(metadata, dict):
        raise DialectError("metadata: must be an object", "metadata")
    return {"user": metadata["user_id"]} if metadata.get("user_id") else {}


def _translate_tools(tools: object, choice: object) -> dict[str, Any]:
    if tools is not None and not isinstance(tools, list):
        raise DialectError("tools: must be a list", "tools")
    functions = [_translate_tool(tool, f"tools.{position}") for position, tool in enumerate(tools or [])]
    chat: dict[str, Any] = {}
    match choice:
        case None:
            pass
        case {"type": "auto" | "none" as kind}:
            chat["tool_choice"] = kind
        case {"type": "any"} if functions:
            chat["tool_choice"] = "required"
        case {"type": "tool", "name": str(name)}:
            # The engine cannot be told which tool to call, only that it must call one: leave it one.
            functions = [function for function in functions if function["function"]["name"] == name]
            if not functions:
                raise DialectError(f"tool_choice.name: no tool is called {name!r}", "tool_choice.name")
            chat["tool_choice"] = "required"
        case _:
            message = "tool_choice: must be 'auto', 'none', 'any' (with tools) or 'tool' (with a name)"
            raise DialectError(message, "tool_choice")
    if isinstance(choice, dict) and "disable_parallel_tool_use" in choice:
        chat["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    return {**chat, "tools": functions} if functions else chat


def _translate_tool(tool: object, param: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise DialectError(f"{param}: must be an object", param)
    if tool.get("type") not in (None, "custom"):
        message = f"{param}.type: {tool['type']!r} runs on Anthropic's servers and is not available here"
        raise DialectError(message, f"{param}.type")
    if not isinstance(schema := tool.get("input_schema"), dict):
        raise DialectError(f"{param}.input_schema: Field required", f"{param}.input_schema")
    function = {"name": _take(tool, "name", param), "description": tool.get("description") or "", "parameters": schema}
    return {"type": "function", "function": function}


def _translate_thinking(thinking: object, kwargs: object) -> dict[str, Any]:
    """A switch for the template, and a budget that the engine keeps where the model thinks between marks it knows."""
    budget: dict[str, Any] = {}
    match thinking:
        case None:
            return {}
        case {"type": "enabled" | "adaptive" | "between_tools", **rest}:
            enabled = True
            budget = _translate_budget(rest.get("budget_tokens"))
        case {"type": "disabled"}:
            enabled = False
        case _:
            raise DialectError("thinking.type: must be 'enabled', 'adaptive' or 'disabled'", "thinking.type")
    if not isinstance(kwargs, dict | None):
        raise DialectError("chat_template_kwargs: must be an object", "chat_template_kwargs")
    return {**budget, "chat_template_kwargs": {**(kwargs or {}), "enable_thinking": enabled}}


def _translate_budget(tokens: object) -> dict[str, Any]:
    if tokens is None:
        return {}
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        message = "thinking.budget_tokens: must be an integer of at least 1"
        raise DialectError(message, "thinking.budget_tokens")
    return {"thinking_budget_tokens": tokens}


def _translate_format(output_config: object) -> dict[str, Any]:
    match output_config:
        case {"format": {"type": "json_schema", "schema": dict(schema)}}:
            return {"response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}}
        case {"format": wrong} if wrong is not None:
            raise DialectError("output_config.format: must be a 'json_schema' with a schema", "output_config.format")
    return {}


def _check_blocks(content: object, param: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise DialectError(f"{param}: must be a string or a list of content blocks", param)
    return content


def _simplify(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A single text as a plain string, the form that every chat template takes."""
    if not parts:
        return ""
    return str(parts[0]["text"]) if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _take(block: dict[str, Any], key: str, param: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise DialectError(f"{param}.{key}: a string is required", f"{param}.{key}")
    return value


def _unsupported(kind: object, param: str) -> DialectError:
    return DialectError(f"{param}: content blocks of type {kind!r} are not supported here", param)
