"""The sessions of a home: through the gateways that run, and from the files of engines that nobody serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hugind.cli.client import GatewayClient
from hugind.supervisor.config import SessionsSection, load_config
from hugind.supervisor.errors import ConfigError, HugindError
from hugind.supervisor.paths import CONFIG_NAME, Home
from hugind.supervisor.run_folder import GatewayRecord, live_gateways

if TYPE_CHECKING:
    from hugind.proxy.sessions.desk import Desk  # half the gateway: imported where files are read

AMBIGUOUS_SHOWN = 5


class SessionHome:
    """Blocking calls. Looks once at what runs; lives as long as a command."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._records = live_gateways(home)
        served = {name for record in self._records for name in record.configs}
        self.unserved = [name for name in _names_in(home) if name not in served]
        """Engines whose sessions are read from the files."""

    @property
    def runs(self) -> bool:
        """Whether any gateway does."""
        return bool(self._records)

    def overview(
        self,
        *,
        engine: str | None = None,
        user: str | None = None,
        principal: str | None = None,
        prefix: str | None = None,
        limit: int,
    ) -> dict[str, Any]:
        """`engines`, `sessions` (newest first, `limit` at most, each with its `gateway`) and their `total`.

        Raises:
            HugindError: a gateway does not answer; there is no such engine; somebody else keeps the files.
        """
        whole: dict[str, Any] = {"engines": [], "sessions": [], "total": 0}
        for record in self._serving(engine):
            part = GatewayClient(record).sessions(engine=engine, user=user, principal=principal, id=prefix, limit=limit)
            _add(whole, part, record.url)
        for name in self._unserved(engine):
            with self._open(name) as desk:
                _add(whole, asyncio.run(_overview(desk, user, principal, prefix, limit)), None)
        whole["sessions"] = sorted(whole["sessions"], key=lambda row: row["used_at"], reverse=True)[:limit]
        return whole

    def find(self, prefix: str) -> dict[str, Any]:
        """The one session whose id begins so, as `overview` tells of it.

        Raises:
            HugindError: there is none, or several.
        """
        found = self.overview(prefix=prefix, limit=AMBIGUOUS_SHOWN)["sessions"]
        if not found:
            raise HugindError(f"there is no session '{prefix}'", hint="hugind session list")
        if len(found) > 1:
            raise HugindError(
                f"'{prefix}' is the beginning of several: {', '.join(row['id'] for row in found)}",
                hint="give more of the id",
            )
        row: dict[str, Any] = found[0]
        return row

    def show(self, row: dict[str, Any]) -> dict[str, Any]:
        """A session that was found, with its `messages`.

        Raises:
            HugindError: it is gone, or the gateway does not answer.
        """
        if row["gateway"] is None:
            with self._open(row["engine"]) as desk:
                return {**row, "messages": asyncio.run(_transcript(desk, row["id"]))}
        return {**self.gateway(row).session(row["id"]), "gateway": row["gateway"]}

    def forget(self, row: dict[str, Any]) -> None:
        """Forget a session that was found.

        Raises:
            HugindError: it is in use, or the gateway does not answer.
        """
        if row["gateway"] is not None:
            self.gateway(row).forget_session(row["id"])
            return
        with self._open(row["engine"]) as desk:
            asyncio.run(desk.forget(desk.store.sessions[row["id"]]))

    def forget_all(self, *, user: str | None, principal: str | None, engine: str | None) -> list[str]:
        """Forget every session of a user, or all; returns their ids.

        Raises:
            HugindError: some are in use, or as `overview`. What could be forgotten is.
        """
        forgotten: list[str] = []
        refusals: list[HugindError] = []
        for record in self._serving(engine):
            try:
                forgotten += GatewayClient(record).forget_sessions(user=user, principal=principal, engine=engine)
            except HugindError as error:
                refusals.append(error)
        for name in self._unserved(engine):
            with self._open(name) as desk:
                forgotten += asyncio.run(_forget_all(desk, user, principal))
        if refusals:
            raise refusals[0]
        return forgotten

    def gateway(self, row: dict[str, Any]) -> GatewayClient:
        """The gateway that has a session.

        Raises:
            HugindError: none serves its engine.
        """
        for record in self._records:
            if record.url == row["gateway"]:
                return GatewayClient(record)
        raise self._not_served(row["engine"])

    def gateway_of(self, engine: str) -> GatewayClient:
        """A gateway that serves an engine.

        Raises:
            HugindError: none does.
        """
        for record in self._serving(engine, is_needed=False):
            return GatewayClient(record)
        raise self._not_served(engine)

    def _serving(self, engine: str | None, *, is_needed: bool = True) -> list[GatewayRecord]:
        if engine is None:
            return self._records
        serving = [record for record in self._records if engine in record.configs]
        if is_needed and not serving and engine not in self.unserved:
            raise HugindError(f"there is no engine '{engine}' with sessions", hint="hugind session list")
        return serving

    def _unserved(self, engine: str | None) -> list[str]:
        return [name for name in self.unserved if engine in (None, name)]

    def _not_served(self, engine: str) -> HugindError:
        return HugindError(f"no running gateway serves '{engine}'", hint=f"hugind server start {engine}")

    @contextmanager
    def _open(self, name: str) -> Iterator[Desk]:
        from hugind.proxy.sessions.desk import Desk
        from hugind.proxy.sessions.store import Store

        store = Store(name, self._home, self._settings(name))
        try:
            if not store.is_persistent:
                raise HugindError(f"another process has the sessions of '{name}' open", hint="hugind server status")
            store.load()
            yield Desk(store)
        finally:
            store.close()

    def _settings(self, name: str) -> SessionsSection:
        """A config that is gone or wrong is no reason not to see, or forget, what it left."""
        try:
            return load_config(self._home.config(name)).sessions
        except (ConfigError, OSError):
            return SessionsSection()


def _names_in(home: Home) -> list[str]:
    """Engines of which there are, or were, sessions."""
    if not home.sessions.is_dir():
        return []
    return sorted(path.name for path in home.sessions.iterdir() if path.is_dir() and CONFIG_NAME.fullmatch(path.name))


def _add(whole: dict[str, Any], part: dict[str, Any], gateway: str | None) -> None:
    whole["engines"] += [{**engine, "gateway": gateway} for engine in part["engines"]]
    whole["sessions"] += [{**session, "gateway": gateway} for session in part["sessions"]]
    whole["total"] += part["total"]


async def _overview(
    desk: Desk, user: str | None, principal: str | None, prefix: str | None, limit: int
) -> dict[str, Any]:
    from hugind.proxy.sessions.desk import Which, list_sessions

    rows, total = await list_sessions([desk], Which(principal, user, prefix), limit)
    return {"engines": [desk.summary()], "sessions": rows, "total": total}


async def _transcript(desk: Desk, session_id: str) -> list[Any] | None:
    return await desk.transcript(desk.store.sessions[session_id])


async def _forget_all(desk: Desk, user: str | None, principal: str | None) -> list[str]:
    from hugind.proxy.sessions.desk import Which

    return await desk.forget_all(Which(principal, user))
