"""Routes without a server: what `app` would have found out of a request is put there instead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from hugind.proxy.access.accounts import Accounts
from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.exchange import Exchange
from hugind.proxy.failures import add_handlers
from hugind.proxy.records.database import Database
from hugind.proxy.routes.records import Records, records_router

ROOT = Principal("root", scopes=ALL_SCOPES, key_id="rootkey1")
"""Who asks, where a test says nothing else."""
REQUEST_ID = "req_test"


class Asking:
    """An ASGI app whose requests come from one principal."""

    def __init__(self, *routers: APIRouter, principal: Principal = ROOT) -> None:
        self.principal = principal
        self.app = FastAPI(openapi_url=None)
        for router in routers:
            self.app.include_router(router)
        add_handlers(self.app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, send)
            exchange.request_id, exchange.principal = REQUEST_ID, self.principal
            given = {"principal": self.principal, "request_id": REQUEST_ID, "exchange": exchange}
            scope = {**scope, **given, "client": ("10.1.2.3", 5000)}
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Sends requests to it; a fault of ours is raised in the test."""
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url="http://gateway/admin/v1") as client:
            yield client


@asynccontextmanager
async def asking_records(database: Database, principal: Principal = ROOT) -> AsyncIterator[httpx.AsyncClient]:
    """The routes about what is on record."""
    async with Asking(records_router(Records(database, Accounts(database))), principal=principal).client() as client:
        yield client
