"""`functions` and `function_call` of OpenAI's older clients, as tools and calls of tools, and back. Pure.

The engine ignores the old fields, and its templates leave out messages of the role `function`.
"""

from __future__ import annotations

from typing import Any

from hugind.proxy.dialects.errors import DialectError


def take_functions(request: dict[str, Any]) -> bool:
    """Put a request's `functions` and `function_call` into tools; whether its answer must speak of functions.

    Raises:
        DialectError: they make no sense.
    """
    functions, wanted = request.pop("functions", None), request.pop("function_call", None)
    if functions is None:
        if wanted not in (None, "none", "auto"):
            raise DialectError("function_call: there are no functions to call", "function_call")
        return False
    if request.get("tools") is not None:
        raise DialectError("functions: give either these or tools", "functions")
    if not isinstance(functions, list) or not functions:
        raise DialectError("functions: a list with at least one function", "functions")
    request["tools"] = [_tool(function, f"functions[{position}]") for position, function in enumerate(functions)]
    request["parallel_tool_calls"] = False
    match wanted:
        case None | "auto" | "none":
            request["tool_choice"] = wanted or "auto"
        case {"name": str(name)}:
            if not any(function["name"] == name for function in functions):
                raise DialectError(f"function_call: no function is called {name!r}", "function_call")
            request["tool_choice"] = {"type": "function", "function": {"name": name}}
        case _:
            raise DialectError("function_call: 'auto', 'none', or {\"name\": ...}", "function_call")
    return True


def to_tool_messages(messages: list[Any]) -> list[Any]:
    """Messages that call functions, and those that answer such calls, in the words of tools; others as they are."""
    translated: list[Any] = []
    calls = 0
    for message in messages:
        if not isinstance(message, dict):
            translated.append(message)
        elif message.get("role") == "function":
            content = message.get("content")
            translated.append({"role": "tool", "tool_call_id": _call_id(calls), "content": content or ""})
        elif isinstance(call := message.get("function_call"), dict) and not message.get("tool_calls"):
            calls += 1
            rest = {key: value for key, value in message.items() if key != "function_call"}
            translated.append({**rest, "tool_calls": [{"id": _call_id(calls), "type": "function", "function": call}]})
        else:
            translated.append(message)
    return translated


def function_event(event: dict[str, Any]) -> dict[str, Any]:
    """A chunk of a stream; there is one call, whatever the engine says."""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        for fragment in delta.pop("tool_calls", None) or ():
            if fragment.get("index", 0) == 0:
                delta["function_call"] = fragment.get("function") or {}
        _rename_reason(choice)
    return event


def function_body(body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer."""
    for choice in body["choices"]:
        message = choice["message"]
        if calls := message.pop("tool_calls", None):
            message["content"] = message.get("content") or None
            message["function_call"] = calls[0]["function"]
        _rename_reason(choice)
    return body


def _rename_reason(choice: dict[str, Any]) -> None:
    if choice.get("finish_reason") == "tool_calls":
        choice["finish_reason"] = "function_call"


def _tool(function: Any, param: str) -> dict[str, Any]:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DialectError(f"{param}.name: a string is required", f"{param}.name")
    return {"type": "function", "function": function}


def _call_id(number: int) -> str:
    """The same in every request of a conversation, or its past would not be recognised."""
    return f"call_{number}"
