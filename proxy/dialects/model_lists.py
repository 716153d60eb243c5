"""The models that are served, as OpenAI's clients and Anthropic's list them. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hugind.proxy.dialects.errors import DialectError

OWNER = "hugind"
DEFAULT_PAGE, LARGEST_PAGE = 20, 1000
"""https://platform.claude.com/docs/en/api/models/list"""


@dataclass(frozen=True)
class ListedModel:
    """A model, or an alias of one."""

    id: str
    created: float
    """Unix seconds."""
    meta: Mapping[str, Any]
    parent: str | None = None
    """Of an alias: what it stands for."""


def openai_model(model: ListedModel) -> dict[str, Any]:
    """One model, as OpenAI has it; `meta` is of our own, and of llama-server's."""
    parent = {} if model.parent is None else {"parent": model.parent}
    return {
        "id": model.id,
        "object": "model",
        "created": int(model.created),
        "owned_by": OWNER,
        **parent,
        "meta": dict(model.meta),
    }


def openai_list(models: Sequence[ListedModel]) -> dict[str, Any]:
    """All of them."""
    return {"object": "list", "data": [openai_model(model) for model in models]}


def anthropic_model(model: ListedModel) -> dict[str, Any]:
    """One model, as Anthropic has it."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(model.created))
    return {"type": "model", "id": model.id, "display_name": model.id, "created_at": created}


def anthropic_page(models: Sequence[ListedModel], asked: Mapping[str, str]) -> dict[str, Any]:
    """A page of them. `asked`: `limit`, and `after_id` or `before_id`, as they came in the query.

    Raises:
        DialectError: one of them makes no sense.
    """
    limit = _limit(asked.get("limit"))
    after, before = asked.get("after_id"), asked.get("before_id")
    if after and before:
        raise DialectError("before_id: give either this or after_id", "before_id")
    ids = [model.id for model in models]
    if before:
        end = _place(ids, before, "before_id")
        begin = max(end - limit, 0)
        has_more = begin > 0
    else:
        begin = _place(ids, after, "after_id") + 1 if after else 0
        end = begin + limit
        has_more = end < len(ids)
    data = [anthropic_model(model) for model in models[begin:end]]
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_PAGE
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= LARGEST_PAGE:
        raise DialectError(f"limit: a number from 1 to {LARGEST_PAGE}", "limit")
    return int(given)


def _place(ids: Sequence[str], given: str, param: str) -> int:
    if given not in ids:
        raise DialectError(f"{param}: there is no model {given!r} here", param)
    return ids.index(given)
