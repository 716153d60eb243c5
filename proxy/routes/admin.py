"""The engines of a gateway, for those who run it: how they are, who waits, restart and reload."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Gateway
from hugind.proxy.reload import Reloader
from hugind.proxy.routes.callers import actor_of, principal_of
from hugind.proxy.routes.operators import operators_router
from hugind.proxy.routes.records import Records
from hugind.proxy.waits import WaitsFor
from hugind.supervisor.errors import HugindError
from hugind.supervisor.fleet import Residency


class Worker(BaseModel):
    """One llama-server."""

    index: int
    state: str
    pid: int | None
    reason: str | None
    """Why it is not ready, with the engine's own words; or how it last ended."""
    since_s: float
    """Seconds in this state."""
    restarts: int
    in_flight: int
    slots: int
    endpoint: str | None
    log: str


class Engine(BaseModel):
    """The workers of one config."""

    name: str
    state: str
    """ready (at least one worker is), loading, draining, unloaded (it comes when asked for), failed or stopped."""
    task: str
    reason: str | None
    binary: str
    workers: list[Worker]
    waiting: int
    """Turns that wait for a slot."""
    free_slots: int
    residency: Residency


class Moved(BaseModel):
    """What became of an engine that was to be loaded or unloaded."""

    engine: str
    state: str
    reason: str | None


class Pin(BaseModel, extra="forbid"):
    pinned: bool


class Pinned(BaseModel):
    engine: str
    pinned: bool


class Restarting(BaseModel):
    status: Literal["restarting"] = "restarting"
    engine: str


class Reloaded(BaseModel):
    """Engines by what became of them."""

    added: list[str]
    removed: list[str]
    replaced: list[str]
    kept: list[str]


class Turn(BaseModel):
    """A turn that waits, or runs."""

    request_id: str
    user: str
    end_user: str | None
    """On whose behalf a delegating key asked."""
    session: str | None
    priority: int
    since_s: float
    """Seconds that it has waited, or run."""


class Waiting(Turn):
    waits_for: WaitsFor = Field(alias="for")
    position: int | None
    """1 is next; null: it waits for an earlier turn of its session, and is in no queue yet."""


class Running(Turn):
    worker: int
    slot: int


class Queue(BaseModel):
    """Who waits for an engine, and for whom."""

    engine: str
    scheduling: str
    free_slots: int
    waiting: list[Waiting]
    """In the order in which they would be served now."""
    running: list[Running]


class Queues(BaseModel):
    engines: list[Queue]


def admin_router(gateway: Gateway, reloader: Reloader | None, records: Records) -> APIRouter:
    """Without a reloader none reloads."""
    router = operators_router("engines")

    @router.get("/engines")
    async def list_engines() -> list[Engine]:
        """Every engine with its workers."""
        return [
            Engine.model_validate(
                {
                    **asdict(engine.status()),
                    "waiting": gateway.leases(engine).waiting,
                    "free_slots": gateway.leases(engine).free,
                    "residency": gateway.fleet.residency(engine),
                }
            )
            for engine in gateway.fleet.engines.values()
        ]

    @router.get("/queue")
    async def show_queue() -> Queues:
        """Who waits for what, and since when."""
        queues = []
        for engine in gateway.fleet.engines.values():
            leases = gateway.leases(engine)
            queues.append(
                Queue(
                    engine=engine.name,
                    scheduling=engine.config.server.scheduling,
                    free_slots=leases.free,
                    waiting=[Waiting(**turn) for turn in leases.waiting_list()],
                    running=[Running(**turn) for turn in leases.running_list()],
                )
            )
        return Queues(engines=queues)

    @router.post("/engines/{name}/restart", status_code=202)
    async def restart_engine(name: str, request: Request) -> Restarting:
        """Give every worker of an engine a fresh process; also the way out of `failed`. An unloaded one is loaded."""
        engine = gateway.engine_for(name, principal_of(request))
        if engine.is_wanted:
            engine.restart()
        else:
            gateway.fleet.begin_load(engine.name)
        await records.note(actor_of(request), "engine.restart", engine.name)
        return Restarting(engine=engine.name)

    @router.post("/engines/{name}/load")
    async def load_engine(name: str, request: Request, wait: bool = True) -> Moved:
        """Load an engine, even if it has just failed; idle ones leave for it. Returns when it is ready or failed.

        `wait=false`: returns at once.
        """
        engine = gateway.engine_for(name, principal_of(request))
        if wait:
            await gateway.fleet.load(engine.name)
        else:
            gateway.fleet.begin_load(engine.name)
        await records.note(actor_of(request), "engine.load", engine.name)
        return Moved(engine=engine.name, state=engine.state, reason=engine.reason)

    @router.post("/engines/{name}/unload")
    async def unload_engine(name: str, request: Request) -> Moved:
        """Unload an engine, and keep its sessions. Returns when it is gone: its running turns are waited for.

        It comes back as soon as somebody asks for it; those who wait for it now do.
        """
        engine = gateway.engine_for(name, principal_of(request))
        await gateway.fleet.unload(engine.name)
        await records.note(actor_of(request), "engine.unload", engine.name)
        return Moved(engine=engine.name, state=engine.state, reason=engine.reason)

    @router.post("/engines/{name}/pin")
    async def pin_engine(name: str, pin: Pin, request: Request) -> Pinned:
        """Say whether an engine stays once it is loaded, until the gateway ends. The settings say it for good."""
        engine = gateway.engine_for(name, principal_of(request))
        gateway.fleet.pin(engine.name, is_pinned=pin.pinned)
        await records.note(actor_of(request), "engine.pin", engine.name, {"pinned": pin.pinned})
        return Pinned(engine=engine.name, pinned=pin.pinned)

    if reloader is None:
        return router

    @router.post("/reload")
    async def reload_configs(request: Request) -> Reloaded:
        """Read configs and settings anew and exchange the engines that changed; returns when the old ones are gone."""
        try:
            difference = asdict(await reloader.reload())
        except HugindError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise ApiError(400, error.message + hint, code="config_error") from error
        await records.note(actor_of(request), "gateway.reload", "gateway", difference)
        return Reloaded(**difference)

    return router
