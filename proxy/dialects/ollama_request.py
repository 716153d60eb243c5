"""Ollama's requests that generate, as what asks the engine for the same: a chat, a completion or an infill. Pure.

Source: `api/types.go` and `server/routes.go` of ollama v0.33; reference/ollama.md, section (a). Where Ollama answers
500 to what a client said wrong, it is 400 here. Fields that Ollama does not have go on to the engine, `tool_choice` or
`grammar` for example. Options that it does not have are ignored, and so are those of loading:
`num_ctx` reloads nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from hugind.proxy.dialects.defaults import ENGINE_NAMES
from hugind.proxy.dialects.errors import DialectError, write_json
from hugind.supervisor.alias_parameters import read_options

DEFAULTS = {"top_p": 0.9, "min_p": 0.0}
"""Where Ollama's defaults are not llama-server's; all others are the same, `repeat_penalty` 1.0 included."""

MAX_LOGPROBS = 20
LEVELS = ("high", "medium", "low", "max")

_OWN = frozenset(
    {
        *("model", "messages", "prompt", "suffix", "system", "template", "context", "raw", "images"),
        *(
            "tools",
            "format",
            "options",
            "think",
            "logprobs",
            "top_logprobs",
            "keep_alive",
            "stream",
            "truncate",
            "shift",
        ),
        *("_debug_render_only", "name"),
    }
)
# Would take other people's slots, or change the form of the stream.
_NEVER = frozenset({"n", "n_cmpl", "id_slot", "stream_options", "response_fields", "return_progress", "n_probs"})
_ROLES = ("system", "user", "assistant", "tool", "developer")
_GO_KINDS: dict[type, str] = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_GO_TYPES: dict[type, str] = {bool: "bool", str: "string", list: "[]", dict: "map[string]", int: "int"}
_SNIFFED = 18
_IMAGES = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"))
_SOUNDS = ((b"ID3", "mp3"), (b"\xff\xfb", "mp3"))


def wants_stream(request: Mapping[str, Any]) -> bool:
    """Whether the answer comes in lines: yes, unless a client says no.

    Raises:
        DialectError: it is no boolean.
    """
    return take(request, "stream", bool) is not False


def asks_nothing(request: Mapping[str, Any], *fields: str) -> bool:
    """A request that is only to load the model, or to unload it: nothing is in any of `fields`."""
    return not any(request.get(field) for field in fields)


def to_chat(request: Mapping[str, Any]) -> dict[str, Any]:
    """`/api/chat` as a chat completion. `stream` is the client's.

    Raises:
        DialectError: the request says something that cannot be honoured.
    """
    chat = _common(request)
    chat["messages"] = _Messages().translate(take(request, "messages", list) or [])
    if tools := take(request, "tools", list):
        chat["tools"] = [_tool(tool) for tool in tools]
    return chat | _format(request.get("format")) | _think(request.get("think")) | _logprobs(request, "logprobs")


def prompt_to_chat(request: Mapping[str, Any], before: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """`/api/generate` as a chat completion of one message, with the model's own template around it.

    `before`: what was said earlier, from the request's `context`.

    Raises:
        DialectError: as `to_chat`; also for a template of the request's own, which the engine cannot take.
    """
    if take(request, "template", str):
        raise DialectError("template: a model keeps its own template here; it cannot be replaced", "template")
    chat = _common(request)
    system = take(request, "system", str)
    message = {"role": "user", "content": take(request, "prompt", str) or "", "images": request.get("images")}
    messages = [one for one in before or [] if not (system and one.get("role") == "system")]
    head = [{"role": "system", "content": system}] if system else []
    chat["messages"] = [*head, *messages, *_Messages().translate([message])]
    return chat | _format(request.get("format")) | _think(request.get("think")) | _logprobs(request, "logprobs")


def prompt_to_completion(request: Mapping[str, Any]) -> dict[str, Any]:
    """`/api/generate` with `raw`: the prompt as it is, to the engine's `/completion`.

    Raises:
        DialectError: as `to_chat`; also for what only a template could place.
    """
    if any(request.get(key) for key in ("template", "system", "context")):
        raise DialectError("raw mode does not support template, system, or context", "raw")
    if take(request, "images", list):
        raise DialectError("raw mode does not support images here: a template places them", "images")
    completion = _common(request) | {"prompt": take(request, "prompt", str) or ""}
    match _format(request.get("format")).get("response_format"):
        case {"type": "json_object"}:
            completion["json_schema"] = {"type": "object"}
        case {"json_schema": {"schema": schema}}:
            completion["json_schema"] = schema
    return completion | _logprobs(request, "n_probs")


def prompt_to_infill(request: Mapping[str, Any]) -> dict[str, Any]:
    """`/api/generate` with a `suffix`: what stands between, by the engine's `/infill`.

    Raises:
        DialectError: as `to_chat`.
    """
    infill = _common(request)
    infill["input_prefix"] = take(request, "prompt", str) or ""
    infill["input_suffix"] = take(request, "suffix", str) or ""
    return infill | _logprobs(request, "n_probs")


def add_defaults(request: dict[str, Any], configured: Mapping[str, Any]) -> None:
    """What Ollama's clients get where nobody says: not the request, no alias, and not the config (`configured`)."""
    for field, value in DEFAULTS.items():
        if request.get(field) is None and configured.get(field) is None:
            request[field] = value


def has_images(chat: Mapping[str, Any]) -> bool:
    """Whether something in a translated chat is to be seen."""
    return any(
        part.get("type") == "image_url"
        for message in chat.get("messages") or ()
        for part in (message["content"] if isinstance(message.get("content"), list) else ())
    )


def thinks(chat: Mapping[str, Any]) -> bool | None:
    """Whether the model is asked to think; None: it is not said."""
    wanted = (chat.get("chat_template_kwargs") or {}).get("enable_thinking")
    return wanted if isinstance(wanted, bool) else None


def drop_oldest(messages: list[dict[str, Any]], share: float) -> list[dict[str, Any]] | None:
    """A conversation of at most so large a `share` of this one: without its oldest messages, whole turns of them.

    System messages at its beginning stay, and so does all from the last message of the user on. None: it cannot be
    shorter.
    """
    head = 0
    while head < len(messages) and messages[head].get("role") in ("system", "developer"):
        head += 1
    asked = [at for at in range(head + 1, len(messages)) if messages[at].get("role") == "user"]
    sizes = [_size(message) for message in messages]
    wanted = sum(sizes) * share
    for at in asked:
        if at == asked[-1] or sum(sizes[:head]) + sum(sizes[at:]) <= wanted:
            return messages[:head] + messages[at:]
    return None


def take(request: Mapping[str, Any], key: str, kind: type) -> Any:
    """A field, or None where it is missing or null.

    Raises:
        DialectError: it is of another type, in Go's words.
    """
    value = request.get(key)
    if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    given, wanted = _GO_KINDS.get(type(value), "object"), _GO_TYPES[kind]
    raise DialectError(f"json: cannot unmarshal {given} into field {key} of type {wanted}", key)


def _common(request: Mapping[str, Any]) -> dict[str, Any]:
    """What all translations have in common: what is not Ollama's own, the options, and whether it streams."""
    translated = {key: value for key, value in request.items() if key not in _OWN and key not in _NEVER}
    try:
        options = read_options(take(request, "options", dict) or {})
    except ValueError as error:
        raise DialectError(str(error), "options") from None
    take(request, "chat_template_kwargs", dict)  # Ollama has none, and `thinks` looks into it
    for name, value in options.items():
        if (field := ENGINE_NAMES.get(name)) is not None:
            translated[field] = max(value, -1) if name == "num_predict" else value
    translated["stream"] = wants_stream(request)
    return translated


def _format(value: object) -> dict[str, Any]:
    if value in (None, ""):
        return {}
    if value == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(value, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "schema", "schema": value}}}
    given = write_json(value, "format")
    raise DialectError(f'invalid format: {given}; expected "json" or a valid JSON Schema object', "format")


def _think(value: object) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, bool):
        return {"chat_template_kwargs": {"enable_thinking": value}}
    if value in LEVELS:
        return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": value}}
    given = write_json(value, "think")
    message = f'invalid think value: {given} (must be "high", "medium", "low", "max", true, or false)'
    raise DialectError(message, "think")


def _logprobs(request: Mapping[str, Any], field: str) -> dict[str, Any]:
    """`field`: what this engine route calls it. The engine gives none at all where 0 alternatives are wanted."""
    top = take(request, "top_logprobs", int) or 0
    if not 0 <= top <= MAX_LOGPROBS:
        raise DialectError(f"top_logprobs must be between 0 and {MAX_LOGPROBS}", "top_logprobs")
    if not take(request, "logprobs", bool):
        return {}
    return {"logprobs": True, "top_logprobs": max(top, 1)} if field == "logprobs" else {field: max(top, 1)}


def _tool(tool: object) -> dict[str, Any]:
    if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
        raise DialectError("tools: each must be an object with a function", "tools")
    return tool if tool.get("type") else {**tool, "type": "function"}


class _Messages:
    """Translates the messages of one chat. Calls that have no id get one, and the answers to them the same."""

    def __init__(self) -> None:
        self._calls = 0
        self._unanswered: list[tuple[str, str]] = []
        """Id and name of the calls, in their order."""

    def translate(self, messages: list[Any]) -> list[dict[str, Any]]:
        return [self._message(message, f"messages.{at}") for at, message in enumerate(messages)]

    def _message(self, message: object, param: str) -> dict[str, Any]:
        if not isinstance(message, dict):
            raise DialectError(f"{param}: must be an object", param)
        role = (take(message, "role", str) or "").lower()
        if role not in _ROLES:
            raise DialectError(f'invalid role: "{role}", role must be one of [system, user, assistant, tool]', param)
        text = take(message, "content", str) or ""
        images = [_media(image, f"{param}.images") for image in take(message, "images", list) or ()]
        translated: dict[str, Any] = {"role": role}
        translated["content"] = [*images, *([{"type": "text", "text": text}] if text else [])] if images else text
        if role == "assistant":
            if thought := take(message, "thinking", str):
                translated["reasoning_content"] = thought
            if calls := take(message, "tool_calls", list):
                translated["tool_calls"] = [self._call(call, f"{param}.tool_calls") for call in calls]
        elif role == "tool":
            translated |= self._answered(take(message, "tool_call_id", str), _tool_name(message))
        return translated

    def _call(self, call: object, param: str) -> dict[str, Any]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            raise DialectError(f"{param}: each must be an object with a function", param)
        name = take(function, "name", str) or ""
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = write_json({} if arguments is None else arguments, param)
        call_id = take(call, "id", str) or f"call_{self._calls}"
        self._calls += 1
        self._unanswered.append((call_id, name))
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _answered(self, call_id: str | None, name: str | None) -> dict[str, str]:
        """Which call a tool's message answers: the one that it names, else the first one left (of its tool)."""
        for known, called in self._unanswered:
            if call_id == known or (not call_id and name in (None, called)):
                self._unanswered.remove((known, called))
                return {"tool_call_id": known, "name": name or called}
        return {"tool_call_id": call_id or f"call_{self._calls}", **({"name": name} if name else {})}


def _tool_name(message: Mapping[str, Any]) -> str | None:
    name: str | None = take(message, "tool_name", str) or take(message, "name", str)
    return name or None


def _media(data: object, param: str) -> dict[str, Any]:
    """An image or a sound, told by its first bytes."""
    if not isinstance(data, str):
        raise DialectError(f"{param}: each must be a string of base64", param)
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        start = base64.b64decode(data[: -(-_SNIFFED // 3) * 4], validate=True)
    except (binascii.Error, ValueError):
        raise DialectError(f"{param}: illegal base64 data", param) from None
    if start[:4] == b"RIFF" and start[8:12] == b"WAVE":
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    for mark, kind in _SOUNDS:
        if start.startswith(mark):
            return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}
    kinds = [kind for mark, kind in _IMAGES if start.startswith(mark)]
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        kinds = ["webp"]
    if not kinds:
        raise DialectError(f"{param}: neither a PNG, JPEG, WebP, GIF or BMP image nor a WAV or MP3 sound", param)
    return {"type": "image_url", "image_url": {"url": f"data:image/{kinds[0]};base64,{data}"}}


def _size(message: Mapping[str, Any]) -> int:
    """Roughly as many bytes as it is worth in tokens; images weigh little, whatever their bytes."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = sum(len(str(part.get("text") or "").encode()) for part in parts if isinstance(part, dict))
    return texts + sum(len(str(call)) for call in message.get("tool_calls") or ()) + 16
