"""The beginning of every request for a model, whatever its dialect: its body, what it means, and whether it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hugind.proxy.abilities import template_takes
from hugind.proxy.access.principal import Principal
from hugind.proxy.admission import admit
from hugind.proxy.dialects.defaults import add_messages, add_parameters
from hugind.proxy.dialects.errors import DialectError
from hugind.proxy.dialects.plain_tools import has_tool_messages, to_plain_messages
from hugind.proxy.dialects.remote_images import find_remote
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.gateway import Gateway, Target
from hugind.supervisor.engine import Engine
from hugind.supervisor.keep_alive import parse_keep_alive
from hugind.supervisor.models.capabilities import Task

BYTES_OF_MB = 1048576


async def read_body(gateway: Gateway, exchange: Exchange, principal: Principal) -> dict[str, Any]:
    """The body, as large as any model that the caller may use allows.

    Raises:
        ApiError: 400 or 413.
    """
    visible = gateway.visible_engines(principal)
    limit_mb = max((engine.config.limits.max_body_mb for engine in visible), default=1)
    if gateway.books.records_content:
        exchange.copy = []
    return await exchange.read_json(int(limit_mb * BYTES_OF_MB))


def find_target(gateway: Gateway, exchange: Exchange, principal: Principal, model: object, task: Task | None) -> Target:
    """What `model` means. `task`: what it must be made for.

    Raises:
        ApiError: 404 for the model, 400 when it is not made for this route.
    """
    target = gateway.target_for(model, principal)
    made_for = target.engine.config.model.task
    if task is not None and made_for != task:
        path, name = exchange.scope["path"], target.engine.name
        raise ApiError(400, f"'{name}' serves {made_for}, and {path} needs a model for {task}", param="model")
    return target


async def begin(
    gateway: Gateway, exchange: Exchange, target: Target, request: dict[str, Any], keep_alive: object = None
) -> None:
    """Admit a request, which is in the engine's words by now, and have its engine loaded.

    `keep_alive`: how long the engine shall stay afterwards, as the client said it.

    Raises:
        ApiError: 429 when the caller has used up a limit, 400 for a `keep_alive` that is none.
    """
    try:
        keep_alive_s = parse_keep_alive(keep_alive)
    except ValueError as error:
        raise ApiError(400, str(error), param="keep_alive") from None
    engine = target.engine
    await admit(exchange, gateway.books, engine.name, engine.config.context.ctx_size, request)
    gateway.use(engine, exchange, keep_alive_s)


async def read_request(
    gateway: Gateway,
    exchange: Exchange,
    principal: Principal,
    *,
    task: Task | None,
    take: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Target, dict[str, Any]]:
    """The model that a request means, and its body. It is admitted then.

    What an alias says is in the request, but for its messages: see `put_before`. `take` puts it into the engine's
    words, and may refuse it (DialectError), before it counts.

    Raises:
        ApiError: as `read_body`, `find_target`, `refusing` and `begin`.
    """
    request = await read_body(gateway, exchange, principal)
    target = find_target(gateway, exchange, principal, request.get("model"), task)
    keep_alive = request.pop("keep_alive", None)
    if target.alias is not None and task == "chat":
        add_parameters(request, target.alias.parameters)
    if take is not None:
        with refusing():
            take(request)
    await begin(gateway, exchange, target, request, keep_alive)
    return target, request


@contextmanager
def refusing() -> Iterator[None]:
    """What a dialect cannot honour is the client's to know.

    Raises:
        ApiError: 400 instead of a DialectError.
    """
    try:
        yield
    except DialectError as error:
        raise ApiError(400, error.message, param=error.param, code=error.code) from None


def refuse_remote(engine: Engine, request: dict[str, Any]) -> None:
    """Have the engine fetch nothing that a request names by an address, unless its config lets it.

    It would ask from this machine, which may reach what its callers may not.

    Raises:
        ApiError: 400.
    """
    if not engine.config.limits.image_urls and (where := find_remote(request.get("messages"))):
        raise ApiError(
            400,
            f"{where}: '{engine.name}' fetches no pictures (limits.image_urls): send them as data: URLs",
            param=where,
            code="unsupported_value",
        )


def fit_template(engine: Engine, request: dict[str, Any]) -> None:
    """Have a chat speak of tools only as far as the template of the engine, which is loaded, knows of any.

    Without, the engine leaves tools out in silence, and calls of them from the messages.

    Raises:
        ApiError: 400, the request brings tools that could never be called, or calls that are none; as `refuse_remote`.
    """
    refuse_remote(engine, request)
    takes = template_takes(engine)
    if takes is None:
        return
    if "supports_tools" not in takes and request.get("tools"):
        if request.get("tool_choice") != "none":
            raise ApiError(400, f"'{engine.name}' does not support tools", param="tools", code="unsupported_value")
        del request["tools"]
    if "supports_tool_calls" not in takes and has_tool_messages(request.get("messages")):
        with refusing():
            request["messages"] = to_plain_messages(request["messages"])


def put_before(target: Target, messages: Any) -> Any:
    """A chat's messages behind what an alias puts before them."""
    alias = target.alias
    return messages if alias is None else add_messages(messages, alias.system, alias.messages)
