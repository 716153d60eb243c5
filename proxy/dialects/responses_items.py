"""Items of the Responses API: as a client gives them, as they are kept, and as an engine's chat messages. Pure.

Kept items are whole: each has an id, a type and a status, as OpenAI's own service lists them. What is put before a
later turn is always made from kept ones, so that the same conversation gives the same prompt, turn after turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hugind.proxy.dialects.errors import DialectError

Item = dict[str, Any]

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9a-f]{4,8}")


@dataclass
class Ids:
    """Mints the ids of a response and of the items that belong to it. An item's id tells its response."""

    token: str
    """32 hexadecimal digits that nobody can guess."""
    count: int = 0

    @property
    def response(self) -> str:
        """Of the response itself."""
        return f"resp_{self.token}"

    def item(self, kind: str) -> str:
        """Of the next item. `kind`: `msg`, `fc`, `fco` or `rs`."""
        self.count += 1
        return f"{kind}_{self.token}{self.count:04x}"


def response_of(item_id: str) -> str | None:
    """The response that an item belongs to, if we made its id for one."""
    found = _ITEM_ID.fullmatch(item_id)
    return f"resp_{found[1]}" if found else None


def references(given: object) -> list[str]:
    """The ids of items that are meant, and not said again."""
    items = given if isinstance(given, list) else []
    return [str(item.get("id")) for item in items if _is_reference(item)]


def keep_items(given: object, ids: Ids, known: dict[str, Item] | None = None, param: str = "input") -> list[Item]:
    """What a client gives, as it is kept. `known`: what its references mean.

    Raises:
        DialectError: it is of no kind that can be used here.
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise DialectError(f"{param}: must be a string or a list of items", param)
    return [_keep(item, ids, known or {}, f"{param}[{index}]") for index, item in enumerate(given)]


def to_messages(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The chat messages that say what kept items say.

    An assistant's text, its thoughts and its calls are one message to a chat template; here they are items.
    """
    messages: list[dict[str, Any]] = []
    thoughts: list[str] = []
    message: dict[str, Any]
    for item in items:
        match item["type"]:
            case "reasoning":
                thoughts += [part["text"] for part in item.get("content") or ()]
                continue
            case "function_call_output":
                content = _tool_content(item["output"])
                message = {"role": "tool", "tool_call_id": item["call_id"], "content": content}
            case "function_call":
                call = {"name": item["name"], "arguments": item["arguments"]}
                calls = [{"id": item["call_id"], "type": "function", "function": call}]
                last = messages[-1] if messages and not thoughts else {}
                if last.get("role") == "assistant":
                    last.setdefault("tool_calls", []).extend(calls)
                    continue
                message = {"role": "assistant", "content": "", "tool_calls": calls}
            case _:
                role = "system" if item["role"] == "developer" else item["role"]
                message = {"role": role, "content": _content(role, item["content"])}
        if thoughts and message["role"] == "assistant":
            message["reasoning_content"] = "".join(thoughts)
        thoughts = []
        messages.append(message)
    return messages


def drop_oldest(messages: list[dict[str, Any]], head: int) -> list[dict[str, Any]] | None:
    """Messages without the older half of their turns; None: there is one turn left. The first `head` stay.

    A turn begins where the user speaks, so that no tool's answer is left without its call.
    """
    begins = [index for index, message in enumerate(messages) if message["role"] == "user" and index >= head]
    if len(begins) < 2:
        return None
    return [*messages[:head], *messages[begins[(len(begins) + 1) // 2] :]]


def _keep(item: object, ids: Ids, known: dict[str, Item], param: str) -> Item:
    if not isinstance(item, dict):
        raise DialectError(f"{param}: must be an object", param)
    if _is_reference(item):
        found = known.get(str(item.get("id")))
        if found is None:
            raise DialectError(f"{param}: there is no item with id '{item.get('id')}'", param)
        return {**found, "id": ids.item(found["id"].partition("_")[0])}  # said twice, it is two items
    match item.get("type", "message"):
        case "message":
            return _keep_message(item, ids, param)
        case "function_call":
            said = {key: _take(item, key, param) for key in ("call_id", "name", "arguments")}
            return {"id": ids.item("fc"), "type": "function_call", "status": "completed", **said}
        case "function_call_output":
            output = item.get("output")
            if not isinstance(output, str):
                output = _keep_parts("user", output, f"{param}.output")
            call_id = _take(item, "call_id", param)
            about = {"id": ids.item("fco"), "type": "function_call_output", "status": "completed"}
            return {**about, "call_id": call_id, "output": output}
        case "reasoning":
            content = [{"type": "reasoning_text", "text": text} for text in _thoughts(item, param)]
            return {"id": ids.item("rs"), "type": "reasoning", "status": "completed", "summary": [], "content": content}
        case other:
            raise DialectError.unsupported(f"{param}: items of type {other!r} are not available here", f"{param}.type")


def _keep_message(item: Item, ids: Ids, param: str) -> Item:
    role = item.get("role")
    if role not in _ROLES:
        raise DialectError(f"{param}.role: must be one of {', '.join(_ROLES)}", f"{param}.role")
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = _keep_parts(role, content, f"{param}.content")
    return {"id": ids.item("msg"), "type": "message", "status": "completed", "role": role, "content": parts}


def _keep_parts(role: str, parts: object, param: str) -> list[Item]:
    if not isinstance(parts, list):
        raise DialectError(f"{param}: must be a string or a list of parts", param)
    return [_keep_part(role, part, f"{param}[{index}]") for index, part in enumerate(parts)]


def _keep_part(role: str, part: object, param: str) -> Item:
    kind = part.get("type") if isinstance(part, dict) else None
    match part:
        case {"type": str(kind), "text": str(text)} if kind in _TEXTS:
            return text_part(text) if role == "assistant" else {"type": "input_text", "text": text}
        case {"type": "refusal", "refusal": str(refusal)} if role == "assistant":
            return {"type": "refusal", "refusal": refusal}
        case {"type": "input_image", "image_url": str(url), **rest} if role != "assistant":
            return {"type": "input_image", "image_url": url, "detail": rest.get("detail") or "auto"}
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(form)}} if role != "assistant":
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        case {"type": "input_image" | "input_file"}:
            raise DialectError.unsupported(
                f"{param}: files are not kept here; send an image as 'image_url', text as text", param
            )
    raise DialectError.unsupported(f"{param}: parts of type {kind!r} are not available here", f"{param}.type")


def text_part(text: str) -> Item:
    """A piece of text that the model said."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _thoughts(item: Item, param: str) -> list[str]:
    content = item.get("content") or []
    if not isinstance(content, list):
        raise DialectError(f"{param}.content: must be a list of parts", f"{param}.content")
    return [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _content(role: str, parts: list[Item]) -> str | list[Item]:
    """A single text as a plain string, and whatever the assistant said: as the engine first wrote it."""
    if role == "assistant":
        return "".join(part.get("text") or part.get("refusal") or "" for part in parts)
    if len(parts) == 1 and parts[0]["type"] == "input_text":
        return str(parts[0]["text"])
    return [_chat_part(part) for part in parts]


def _tool_content(output: str | list[Item]) -> str | list[Item]:
    if isinstance(output, str):
        return output
    if all(part["type"] == "input_text" for part in output):
        return "\n".join(part["text"] for part in output)
    return [_chat_part(part) for part in output]


def _chat_part(part: Item) -> Item:
    match part["type"]:
        case "input_image":
            return {"type": "image_url", "image_url": {"url": part["image_url"]}}
        case "input_audio":
            return part
        case _:
            return {"type": "text", "text": part["text"]}


def _is_reference(item: object) -> bool:
    """The SDK lets a reference go without its type."""
    if not isinstance(item, dict):
        return False
    return item.get("type") == "item_reference" or (item.get("type") is None and item.keys() == {"id"})


def _take(item: Item, key: str, param: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise DialectError(f"{param}.{key}: a string is required", f"{param}.{key}")
    return value
