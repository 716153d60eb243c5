"""What is kept of responses and conversations: every key sees its own, changes it, and has it forgotten."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from hugind.proxy.dialects.responses_items import Ids, Item, keep_items
from hugind.proxy.dialects.responses_request import check_metadata
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.gateway import Gateway
from hugind.proxy.records.conversations import Conversation, Order, TooLargeError
from hugind.proxy.records.owned import Reader
from hugind.proxy.routes.asking import BYTES_OF_MB, refusing
from hugind.proxy.routes.callers import end_user_of, principal_of
from hugind.proxy.routes.responses import no_conversation, too_large
from hugind.proxy.sessions.record import Owner

MAX_PAGE = 100
MAX_ITEMS = 20
"""That may be added at a time, as OpenAI has it."""

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def kept_router(gateway: Gateway) -> APIRouter:
    """`/v1/responses/...` and `/v1/conversations`."""
    router = APIRouter(include_in_schema=False)
    router.include_router(_responses_router(gateway))
    router.include_router(_conversations_router(gateway))
    return router


def page(items: list[Item], limit: int, order: Order, after: str | None) -> tuple[list[Item], bool]:
    """A page of items, which come the oldest first, and whether there is more. `after`: an id, unknown ones ignored."""
    ordered = items if order == "asc" else items[::-1]
    begin = next((index + 1 for index, item in enumerate(ordered) if item["id"] == after), 0)
    return ordered[begin : begin + limit], len(ordered) > begin + limit


def _responses_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/responses")
    responses = gateway.books.responses

    @router.get("/{response_id}")
    async def show_response(response_id: str, request: Request, stream: bool = False) -> Response:
        """A response as it was answered."""
        if stream:
            raise ApiError(400, "stream: it was streamed when it was made, or not", param="stream")
        found = await responses.find(_reader(request), response_id)
        if found is None:
            raise _no_response(response_id)
        return _json(found)

    @router.delete("/{response_id}")
    async def delete_response(response_id: str, request: Request) -> Response:
        """Forget it. What goes on from it stays, with what was said in it."""
        if not await responses.remove(_reader(request), response_id):
            raise _no_response(response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    @router.post("/{response_id}/cancel")
    async def cancel_response(response_id: str, request: Request) -> Response:
        """Nothing runs in the background here."""
        if await responses.find(_reader(request), response_id) is None:
            raise _no_response(response_id)
        raise ApiError(400, "only a response with background: true can be cancelled, and none is here")

    @router.get("/{response_id}/input_items")
    async def list_input(
        response_id: str, request: Request, limit: Limit = 20, order: Order = "desc", after: str | None = None
    ) -> Response:
        """All that it was made from, what was said before its request among it."""
        room = _room(gateway, request)
        try:
            found = await responses.inputs(_reader(request), response_id, room)
        except TooLargeError as error:
            raise too_large(error, room) from None
        if found is None:
            raise _no_response(response_id)
        return _list(*page(found, limit, order, after))

    return router


def _conversations_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(prefix="/v1/conversations")
    conversations = gateway.books.responses.conversations

    async def known(request: Request, conversation_id: str) -> Conversation:
        found = await conversations.find(_reader(request), conversation_id)
        if found is None:
            raise no_conversation(conversation_id)
        return found

    @router.post("")
    async def create(request: Request) -> Response:
        """A new one, with what was said in it so far."""
        given = await _body(gateway, request, may_be_empty=True)
        with refusing():
            notes, items = check_metadata(given.get("metadata")), _items(given)
        return _json(_shown(await conversations.create(_reader(request).owner, notes, items)))

    @router.get("/{conversation_id}")
    async def show(conversation_id: str, request: Request) -> Response:
        """One of them, without what was said."""
        return _json(_shown(await known(request, conversation_id)))

    @router.post("/{conversation_id}")
    async def change(conversation_id: str, request: Request) -> Response:
        """Give it other metadata."""
        given = await _body(gateway, request)
        with refusing():
            notes = check_metadata(given.get("metadata"))
        changed = await conversations.note(_reader(request), conversation_id, notes)
        if changed is None:
            raise no_conversation(conversation_id)
        return _json(_shown(changed))

    @router.delete("/{conversation_id}")
    async def delete(conversation_id: str, request: Request) -> Response:
        """Forget it, and what was said in it."""
        if not await conversations.remove(_reader(request), conversation_id):
            raise no_conversation(conversation_id)
        return _json({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    @router.get("/{conversation_id}/items")
    async def list_items(
        conversation_id: str, request: Request, limit: Limit = 20, order: Order = "desc", after: str | None = None
    ) -> Response:
        """What was said."""
        await known(request, conversation_id)
        return _list(*await conversations.list_items(conversation_id, limit, order, after))

    @router.post("/{conversation_id}/items")
    async def add_items(conversation_id: str, request: Request) -> Response:
        """Say more in it, for somebody."""
        await known(request, conversation_id)
        given, room = await _body(gateway, request), _room(gateway, request)
        with refusing():
            items = _items(given)
        try:
            is_there = await conversations.append(conversation_id, items, room)
        except TooLargeError as error:
            raise too_large(error, room) from None
        if not is_there:
            raise no_conversation(conversation_id)
        return _list(items, False)

    @router.get("/{conversation_id}/items/{item_id}")
    async def show_item(conversation_id: str, item_id: str, request: Request) -> Response:
        """One thing that was said."""
        await known(request, conversation_id)
        found = await conversations.find_item(conversation_id, item_id)
        if found is None:
            raise _no_item(item_id)
        return _json(found)

    @router.delete("/{conversation_id}/items/{item_id}")
    async def delete_item(conversation_id: str, item_id: str, request: Request) -> Response:
        """Unsay it."""
        conversation = await known(request, conversation_id)
        if not await conversations.remove_item(conversation_id, item_id):
            raise _no_item(item_id)
        return _json(_shown(conversation))

    return router


def _reader(request: Request) -> Reader:
    end_user = end_user_of(request)
    return Reader(Owner(principal_of(request).name, end_user), is_delegated=end_user is not None)


def _room(gateway: Gateway, request: Request) -> int:
    visible = gateway.visible_engines(principal_of(request))
    return int(max((engine.config.limits.max_body_mb for engine in visible), default=1) * BYTES_OF_MB)


async def _body(gateway: Gateway, request: Request, *, may_be_empty: bool = False) -> dict[str, Any]:
    exchange = request.scope["exchange"]
    assert isinstance(exchange, Exchange)
    if may_be_empty and request.headers.get("content-length", "0") == "0":
        return {}
    return await exchange.read_json(_room(gateway, request))


def _items(given: dict[str, Any]) -> list[Item]:
    items = given.get("items") or []
    if isinstance(items, list) and len(items) > MAX_ITEMS:
        raise ApiError(400, f"items: at most {MAX_ITEMS} at a time", param="items")
    return keep_items(items, Ids(secrets.token_hex(16)), param="items")


def _shown(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.notes,
    }


def _list(items: list[Item], has_more: bool) -> Response:
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return _json({"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": has_more})


def _no_response(response_id: str) -> ApiError:
    return ApiError(404, f"Response with id '{response_id}' not found.", code="response_not_found")


def _no_item(item_id: str) -> ApiError:
    return ApiError(404, f"Item with id '{item_id}' not found.", code="item_not_found")


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
