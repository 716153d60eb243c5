"""Talk to a gateway that runs on this machine, with the token that it left for its home's owner."""

from __future__ import annotations

from typing import Any

import httpx

from hugind.supervisor.errors import HugindError
from hugind.supervisor.run_folder import GatewayRecord

TIMEOUT_S = 10
RELOAD_TIMEOUT_S = 600
"""Engines that are replaced finish their running turns first."""


class GatewayClient:
    """Blocking calls to one gateway; opens a connection for each."""

    def __init__(self, record: GatewayRecord) -> None:
        self._record = record

    def engines(self) -> list[dict[str, Any]]:
        """Its engines with their workers.

        Raises:
            HugindError: it does not answer.
        """
        engines = self._call("GET", "/admin/engines")
        assert isinstance(engines, list)
        return engines

    def restart_engine(self, name: str) -> None:
        """Ask for fresh workers; returns at once.

        Raises:
            HugindError: it does not answer, or has no such engine.
        """
        self._call("POST", f"/admin/engines/{name}/restart")

    def reload(self) -> dict[str, list[str]]:
        """Have it read its configs anew; blocks until engines that were replaced are gone.

        Raises:
            HugindError: it does not answer, or a config cannot be used.
        """
        difference = self._call("POST", "/admin/reload", timeout_s=RELOAD_TIMEOUT_S)
        assert isinstance(difference, dict)
        return difference

    def _call(self, method: str, path: str, timeout_s: float = TIMEOUT_S) -> Any:
        headers = {"Authorization": f"Bearer {self._record.token}"}
        try:
            response = httpx.request(
                method, self._record.url + path, headers=headers, timeout=timeout_s, trust_env=False
            )
        except httpx.HTTPError as error:
            raise HugindError(
                f"the gateway at {self._record.url} (pid {self._record.process.pid}) does not answer: {error}",
                hint=f"see its log: {self._record.log}",
            ) from error
        if response.status_code >= 400:
            message = response.json().get("error", {}).get("message", response.text)
            raise HugindError(f"the gateway refused: {message}")
        return response.json()
