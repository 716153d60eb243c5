"""Talk to a gateway that runs on this machine, with the token that it left for its home's owner."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import FILE_MODE
from hugind.supervisor.run_folder import GatewayRecord

TIMEOUT_S = 10
RELOAD_TIMEOUT_S = 600
"""Engines that are replaced finish their running turns first."""
SESSION_TIMEOUT_S = 600
"""A large snapshot is saved, checked and copied; of many sessions each may have a turn that is waited for."""
SESSIONS = "/admin/v1/sessions"


class GatewayClient:
    """Blocking calls to one gateway; opens a connection for each."""

    def __init__(self, record: GatewayRecord) -> None:
        self._record = record

    def engines(self) -> list[dict[str, Any]]:
        """Its engines with their workers.

        Raises:
            HugindError: it does not answer.
        """
        engines = self._call("GET", "/admin/v1/engines")
        assert isinstance(engines, list)
        return engines

    def restart_engine(self, name: str) -> None:
        """Ask for fresh workers; returns at once.

        Raises:
            HugindError: it does not answer, or has no such engine.
        """
        self._call("POST", f"/admin/v1/engines/{name}/restart")

    def queue(self) -> list[dict[str, Any]]:
        """Its engines with who waits for them.

        Raises:
            HugindError: it does not answer.
        """
        engines: list[dict[str, Any]] = self._call("GET", "/admin/v1/queue")["engines"]
        return engines

    def reload(self) -> dict[str, list[str]]:
        """Have it read its configs anew; blocks until engines that were replaced are gone.

        Raises:
            HugindError: it does not answer, or a config cannot be used.
        """
        difference = self._call("POST", "/admin/v1/reload", timeout_s=RELOAD_TIMEOUT_S)
        assert isinstance(difference, dict)
        return difference

    def sessions(self, **which: str | int | None) -> dict[str, Any]:
        """`engines`, `sessions` and their `total`; by engine, user, principal, id (how it begins) and limit.

        Raises:
            HugindError: it does not answer, or has no such engine.
        """
        found = self._call("GET", SESSIONS, params=which)
        assert isinstance(found, dict)
        return found

    def session(self, session_id: str) -> dict[str, Any]:
        """One session with its `messages`.

        Raises:
            HugindError: it does not answer, or has no such session.
        """
        about = self._call("GET", f"{SESSIONS}/{session_id}")
        assert isinstance(about, dict)
        return about

    def forget_session(self, session_id: str) -> None:
        """Forget one session; blocks while it has a turn.

        Raises:
            HugindError: it does not answer, or the session is in use.
        """
        self._call("DELETE", f"{SESSIONS}/{session_id}", timeout_s=SESSION_TIMEOUT_S)

    def forget_sessions(self, *, user: str | None, principal: str | None, engine: str | None) -> list[str]:
        """Forget every session of a user, or all where none is given; returns their ids.

        Raises:
            HugindError: it does not answer, or some are in use.
        """
        which = {"user": user, "principal": principal, "engine": engine, "all": "true" if user is None else None}
        forgotten: list[str] = self._call("DELETE", SESSIONS, params=which, timeout_s=SESSION_TIMEOUT_S)["forgotten"]
        return forgotten

    def pin_session(self, session_id: str, *, is_pinned: bool) -> None:
        """Have a session kept, or not any more.

        Raises:
            HugindError: it does not answer, or has no such session.
        """
        self._call("POST", f"{SESSIONS}/{session_id}/pin", json={"pinned": is_pinned})

    def export_session(self, session_id: str, target: Path) -> int:
        """Write a session into a file (mode 0600), which is there whole or not at all; returns its size.

        Raises:
            HugindError: it does not answer, or refuses; the file is as it was.
            OSError: it cannot be written.
        """
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        url = f"{self._record.url}{SESSIONS}/{session_id}/export"
        size = 0
        try:
            with (
                os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file,
                httpx.stream("GET", url, headers=self._headers, timeout=SESSION_TIMEOUT_S, trust_env=False) as response,
            ):
                if response.status_code >= 400:
                    response.read()
                    raise _refused(response)
                for piece in response.iter_bytes():
                    size += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return size

    def import_session(
        self, source: BinaryIO, *, engine: str, user: str | None, principal: str | None
    ) -> dict[str, Any]:
        """Make a session from an exported file; what became of it, `problem` tells what was left out.

        Raises:
            HugindError: it does not answer, or refuses the file.
        """
        which = {"engine": engine, "user": user, "principal": principal}
        about = self._call("POST", f"{SESSIONS}/import", params=which, content=source, timeout_s=SESSION_TIMEOUT_S)
        assert isinstance(about, dict)
        return about

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._record.token}"}

    def _call(
        self,
        method: str,
        path: str,
        timeout_s: float = TIMEOUT_S,
        params: Mapping[str, str | int | None] | None = None,
        json: Any = None,
        content: BinaryIO | None = None,
    ) -> Any:
        given = {key: value for key, value in (params or {}).items() if value is not None}
        try:
            response = httpx.request(
                method, self._record.url + path, headers=self._headers, params=given, json=json, content=content,
                timeout=timeout_s, trust_env=False,
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if response.status_code >= 400:
            raise _refused(response)
        return response.json()

    def _silent(self, error: httpx.HTTPError) -> HugindError:
        return HugindError(
            f"the gateway at {self._record.url} (pid {self._record.process.pid}) does not answer: {error}",
            hint=f"see its log: {self._record.log}",
        )


def _refused(response: httpx.Response) -> HugindError:
    return HugindError(f"the gateway refused: {response.json().get('error', {}).get('message', response.text)}")
