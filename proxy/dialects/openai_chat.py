"""OpenAI's chat requests as the engine takes them, and its answers as they were asked for. Pure.

Measured of the engine (b11549): a `tool_choice` that names a tool is taken for `auto`; `response_format` wins over
`required`; a `json_schema` without a schema, a `response_format` that is no object, `modalities`, `audio` and
`web_search_options` are ignored without a word.
"""

from __future__ import annotations

from typing import Any

import orjson

from hugind.proxy.dialects.errors import DialectError, EngineStreamError
from hugind.proxy.dialects.functions import function_body, function_event, take_functions, to_tool_messages

_NOT_JSON = "the answer is not the JSON that response_format asked for; ask again"


class ChatForm:
    """One chat request. Lives as long as it."""

    def __init__(self) -> None:
        self._speaks_of_functions = False
        self._is_json = False

    def take(self, request: dict[str, Any]) -> None:
        """As `Form.take`."""
        _refuse_other_media(request)
        self._speaks_of_functions = take_functions(request)
        if isinstance(messages := request.get("messages"), list):
            request["messages"] = _take_messages(messages)
        is_called = _take_tools(request)
        is_json = _check_response_format(request)
        if is_called:
            request.pop("response_format", None)  # the engine would write JSON and call nothing
        self._is_json = is_json and not is_called and not request.get("stop")  # a stop may cut it anywhere

    @property
    def is_plain(self) -> bool:
        """As `Form.is_plain`. JSON is not read in a stream: the client will see whether it ends well."""
        return not self._speaks_of_functions

    def event(self, event: dict[str, Any]) -> dict[str, Any]:
        """As `Form.event`."""
        return function_event(event) if self._speaks_of_functions else event

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """As `Form.body`."""
        if self._is_json:
            for choice in body["choices"]:
                _check_json(choice)
        return function_body(body) if self._speaks_of_functions else body


def take_tools(tools: Any, choice: Any) -> tuple[list[dict[str, Any]], str | None]:
    """The tools that may be called, and how the engine is told whether one must be.

    The engine cannot be told which tool to call, only that it must call one: it is left that one.

    Raises:
        DialectError: one of them makes no sense.
    """
    functions = _check_tools(tools)
    match choice:
        case None | "auto" | "none":
            return functions, choice if functions else None
        case "required":
            wanted = functions
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            wanted = _only(functions, {name})
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(allowed)}}:
            wanted = _only(functions, {_name(tool, "tool_choice.allowed_tools.tools") for tool in allowed})
            if mode == "auto":
                return wanted, "auto"
        case {"type": "custom"}:
            raise DialectError.unsupported("tool_choice: only functions can be called here", "tool_choice")
        case _:
            raise DialectError(
                "tool_choice: 'auto', 'none', 'required', or an object that names a function", "tool_choice"
            )
    if not wanted:
        raise DialectError("tool_choice: there is no tool to call", "tool_choice")
    return wanted, "required"


def _take_tools(request: dict[str, Any]) -> bool:
    """Whether the answer has to be a call."""
    if request.get("tools") is None and request.get("tool_choice") is None:
        return False
    tools, choice = take_tools(request.pop("tools", None), request.pop("tool_choice", None))
    if tools:
        request["tools"] = tools
    if choice is not None:
        request["tool_choice"] = choice
    return choice == "required"


def _check_tools(tools: Any) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise DialectError("tools: must be a list", "tools")
    for position, tool in enumerate(tools):
        _name(tool, f"tools[{position}]")
    return tools


def _name(tool: Any, param: str) -> str:
    if not isinstance(tool, dict):
        raise DialectError(f"{param}: must be an object", param)
    if tool.get("type", "function") != "function":
        raise DialectError.unsupported(f"{param}.type: only 'function' is available here", f"{param}.type")
    match tool.get("function"):
        case {"name": str(name)}:
            return name
    raise DialectError(f"{param}.function.name: a string is required", f"{param}.function.name")


def _only(functions: list[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    known = {function["function"]["name"] for function in functions}
    if missing := sorted(names - known):
        raise DialectError(f"tool_choice: no tool is called {missing[0]!r}", "tool_choice")
    return [function for function in functions if function["function"]["name"] in names]


def _take_messages(messages: list[Any]) -> list[Any]:
    is_old = False
    for position, message in enumerate(messages):
        if isinstance(message, dict):
            if not isinstance(message.get("role"), str):
                param = f"messages[{position}].role"
                raise DialectError(f"{param}: a string is required", param)
            is_old = is_old or message["role"] == "function" or message.get("function_call") is not None
    return to_tool_messages(messages) if is_old else messages


def _refuse_other_media(request: dict[str, Any]) -> None:
    """Text in, text out; what else a model sees or hears comes in messages."""
    modalities = request.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise DialectError.unsupported("modalities: only 'text' is available here", "modalities")
    if request.get("audio") is not None:
        raise DialectError.unsupported("audio: answers are text only here", "audio")
    if request.get("web_search_options") is not None:
        raise DialectError.unsupported("web_search_options: nothing is searched here", "web_search_options")


def _check_response_format(request: dict[str, Any]) -> bool:
    """Whether the answer must be JSON."""
    match request.get("response_format"):
        case None | {"type": "text"}:
            return False
        case {"type": "json_object"} | {"type": "json_schema", "json_schema": {"schema": dict()}}:
            return True
        case {"type": "json_schema"}:
            param = "response_format.json_schema.schema"
            raise DialectError(f"{param}: a JSON schema is required", param, "missing_required_parameter")
        case _:
            message = "response_format: an object whose type is 'text', 'json_object' or 'json_schema'"
            raise DialectError(message, "response_format", "unsupported_value")


def _check_json(choice: dict[str, Any]) -> None:
    if choice["finish_reason"] != "stop":
        return
    try:
        orjson.loads(choice["message"].get("content") or "")
    except orjson.JSONDecodeError:
        raise EngineStreamError({"code": 502, "message": _NOT_JSON, "type": "invalid_json"}) from None
