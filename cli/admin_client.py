"""The admin API for commands: of the gateway of this home that runs; or, where none does, in this process.

Either way it is the same routes, with the same checks and the same audit log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

from hugind.cli import output
from hugind.supervisor.errors import HugindError
from hugind.supervisor.run_folder import GatewayRecord, live_gateways

if TYPE_CHECKING:
    from sqlalchemy import URL

    from hugind.supervisor.settings import Environment

TIMEOUT_S = 60
"""Sums over years of usage take their time."""
PAGE_ROWS = 1000
ROOT = "/admin/v1"
ACTOR = "control"
"""Who is on record for changes: the owner of the home, whichever way they take."""


class AdminClient:
    """Blocking calls, inside `with`. Lives as long as a command."""

    def __init__(self, record: GatewayRecord | None, url: URL | None) -> None:
        """Of a gateway, or else of the database at `url`."""
        self._record = record
        self._url = url
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()
        self._client: httpx.AsyncClient

    @classmethod
    def of_home(cls, environment: Environment) -> AdminClient:
        """Of the gateway that runs; else of the database, and that is said.

        Raises:
            HugindError: no gateway runs, and the database's address cannot be used.
        """
        for record in live_gateways(environment.home):
            return cls(record, None)
        from hugind.cli.home_database import configured_url  # drags the database in

        url = configured_url(environment)
        output.say(f"no gateway runs: asking {url.render_as_string(hide_password=True)}")
        return cls(None, url)

    def __enter__(self) -> Self:
        try:
            self._client = self._runner.run(self._open.enter_async_context(self._connected()))
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._runner.run(self._open.aclose())
        finally:
            self._runner.close()

    def get(self, path: str, **params: str | int | bool | None) -> Any:
        """What a route tells.

        Raises:
            HugindError: it refuses; the gateway does not answer, the database cannot be used.
        """
        given = {name: value for name, value in params.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Make something.

        Raises:
            HugindError: as `get`.
        """
        return self._call("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Change something.

        Raises:
            HugindError: as `get`.
        """
        return self._call("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        """Remove something.

        Raises:
            HugindError: as `get`.
        """
        return self._call("DELETE", path)

    def pages(
        self, path: str, field: str, *, limit: int, page_rows: int = PAGE_ROWS, **params: str | int | bool | None
    ) -> Iterator[dict[str, Any]]:
        """Rows of a route that tells them page by page, at most `limit`; 0: all.

        Raises:
            HugindError: as `get`.
        """
        left, before = limit, None
        while True:
            wanted = min(left, page_rows) if limit else page_rows
            page = self.get(path, **params, limit=wanted, before=before)
            yield from page[field]
            left, before = left - len(page[field]), page["next"]
            if before is None or (limit and left <= 0):
                return

    def _call(self, method: str, path: str, **how: Any) -> Any:
        try:
            response = self._runner.run(self._client.request(method, ROOT + path, **how))
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if response.status_code >= 400:
            raise _refused(response)
        return response.json()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[httpx.AsyncClient]:
        if self._record is not None:
            headers = {"Authorization": f"Bearer {self._record.token}"}
            async with httpx.AsyncClient(
                base_url=self._record.url, headers=headers, timeout=TIMEOUT_S, trust_env=False
            ) as client:
                yield client
            return
        from hugind.cli.home_database import opened
        from hugind.proxy.access.accounts import Accounts
        from hugind.proxy.routes.records import Records, records_app

        assert self._url is not None
        async with opened(self._url) as database:
            await database.prepare()
            app = records_app(Records(database, Accounts(database)), ACTOR)
            transport = _Plain(app, database.address)
            async with httpx.AsyncClient(base_url="http://hugind", transport=transport) as client:
                yield client

    def _silent(self, error: httpx.HTTPError) -> HugindError:
        assert self._record is not None
        return HugindError(
            f"the gateway at {self._record.url} (pid {self._record.process.pid}) does not answer: "
            f"{error or type(error).__name__}",
            hint=f"see its log: {self._record.log}",
        )


def path_of(what: str, name: str) -> str:
    """The path of one `user` or `key`.

    Raises:
        HugindError: none can have this name.
    """
    if not name or "/" in name or name in (".", ".."):
        raise _unknown(f"there is no {what} '{name}'", what)
    return f"/{what}s/{quote(name, safe='')}"


class _Plain(httpx.ASGITransport):
    """What breaks in the database is told as such, not as a fault of ours."""

    def __init__(self, app: Any, address: str) -> None:
        super().__init__(app)
        self._address = address

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        from hugind.cli.home_database import told_plainly

        with told_plainly(self._address):
            return await super().handle_async_request(request)


def _refused(response: httpx.Response) -> HugindError:
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), error["code"]
    except (ValueError, KeyError, TypeError):
        message, code = f"{response.request.method} {response.request.url.path}: {response.status_code}", None
    for what in ("user", "key"):
        if code == f"{what}_not_found":
            return _unknown(message, what)
    return HugindError(message)


def _unknown(message: str, what: str) -> HugindError:
    return HugindError(message, hint=f"hugind {what} list")
