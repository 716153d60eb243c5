"""Talk to a running server, here or elsewhere, in Ollama's dialect: which one it is, who asks, and plain errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from hugind.supervisor.addresses import OLLAMA_PORT, is_loopback, split_address
from hugind.supervisor.errors import HugindError
from hugind.supervisor.run_folder import GatewayRecord, live_gateways

if TYPE_CHECKING:
    from hugind.supervisor.settings import Environment

CONNECT_S = 10
ANSWER_S = 120
"""For what needs no model."""
SCHEME_PORTS = {"http": 80, "https": 443}
ANY_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - what to ask instead


@dataclass(frozen=True)
class Place:
    """Where a server is."""

    scheme: str
    host: str
    port: int
    path: str = ""
    """In front of every route; it may carry a key."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


class Server:
    """Blocking calls to one server; opens a connection for each."""

    def __init__(self, url: str, key: str | None, record: GatewayRecord | None = None) -> None:
        """`record`: of the gateway of this home that it is."""
        self.url = url
        self.record = record
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Any:
        """What a route tells.

        Raises:
            ServerError: it refuses.
            HugindError: nothing answers there, or not as a hugind would.
        """
        return self._call("GET", path, ANSWER_S)

    def post(self, path: str, body: Mapping[str, Any], *, waits: bool = False) -> Any:
        """Have something done. `waits`: however long it takes, as for a model that has to be loaded.

        Raises:
            ServerError, HugindError: as `get`.
        """
        return self._call("POST", path, None if waits else ANSWER_S, body)

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Remove something.

        Raises:
            ServerError, HugindError: as `get`.
        """
        return self._call("DELETE", path, ANSWER_S, body)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The objects that a route tells one by one. Leaving it early ends the request.

        Raises:
            ServerError: it refuses, or something went wrong on the way.
            HugindError: as `get`; or the answer broke off.
        """
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        try:
            with httpx.stream(
                "POST", self.url + path, json=body, headers=self._headers, timeout=timeout, trust_env=False
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise self._refused(response)
                for line in response.iter_lines():
                    if line.strip():
                        yield self._read_line(line)
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _call(self, method: str, path: str, timeout_s: float | None, body: Mapping[str, Any] | None = None) -> Any:
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
        try:
            response = httpx.request(
                method, self.url + path, json=body, headers=self._headers, timeout=timeout, trust_env=False
            )
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if response.status_code >= 400:
            raise self._refused(response)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise self._stranger() from None

    def _read_line(self, line: str) -> dict[str, Any]:
        try:
            told = json.loads(line)
        except ValueError:
            raise self._stranger() from None
        if not isinstance(told, dict):
            raise self._stranger()
        if told.get("error"):
            raise ServerError(_message(told) or line, 200, hint=None)
        return told

    def _refused(self, response: httpx.Response) -> HugindError:
        try:
            message = _message(response.json())
        except ValueError:
            message = None
        if message is None:
            return self._stranger(f"{response.request.method} {response.request.url.path}: {response.status_code}")
        hint = None
        if response.status_code in (401, 403):
            hint = "say who asks: --key KEY, or HUGIND_API_KEY in the environment"
        elif response.status_code == 404:
            hint = "hugind list"
        return ServerError(message, response.status_code, hint=hint)

    def _silent(self, error: httpx.HTTPError) -> HugindError:
        if self.record is not None:
            return HugindError(
                f"the gateway at {self.url} (pid {self.record.process.pid}) does not answer: {_words(error)}",
                hint=f"see its log: {self.record.log}",
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return HugindError(
                f"nothing answers at {self.url}: {_words(error)}", hint="hugind serve; or say where: --url URL"
            )
        return HugindError(f"{self.url} does not answer: {_words(error)}", hint="try again, or ask whoever runs it")

    def _stranger(self, what: str = "no JSON") -> HugindError:
        return HugindError(f"{self.url} does not answer as hugind would: {what}", hint="say where: --url URL")


class ServerError(HugindError):
    """What a server refuses."""

    def __init__(self, message: str, status: int, *, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def find_server(environment: Environment, url: str | None, key: str | None) -> Server:
    """The server that is meant: `named_server`, else one that may listen where OLLAMA_* say, or on 11434.

    Raises:
        HugindError: an address cannot be read.
    """
    server = named_server(environment, url, key)
    return _foreign(default_place(environment), environment, key) if server is None else server


def named_server(environment: Environment, url: str | None, key: str | None) -> Server | None:
    """`url`, else where OLLAMA_HOST names another machine, else the gateway of this home that runs; None: no such word.

    A gateway of this home is asked as its owner, unless there is a key.

    Raises:
        HugindError: an address cannot be read.
    """
    usual = default_place(environment)
    place = parse_place(url) if url is not None else None
    records = live_gateways(environment.home)
    record = next((record for record in records if _is_at(record, place or usual)), None)
    is_elsewhere = environment.ollama_host is not None and not is_loopback(usual.host)
    if record is None and place is None and records and not is_elsewhere:
        record = records[0]
    if record is not None:
        return Server(record.url, key or _secret(environment.client_key) or record.token, record)
    if place is None and not is_elsewhere:
        return None
    return _foreign(place or usual, environment, key)


def _foreign(place: Place, environment: Environment, key: str | None) -> Server:
    return Server(place.url, key or _secret(environment.client_key) or _secret(environment.ollama_key))


def default_place(environment: Environment) -> Place:
    """Where OLLAMA_HOST and OLLAMA_LOCAL_PORT say.

    Raises:
        HugindError: OLLAMA_HOST cannot be read.
    """
    return parse_place(environment.ollama_host or "", environment.ollama_port or OLLAMA_PORT)


def parse_place(text: str, default_port: int = OLLAMA_PORT) -> Place:
    """An address as OLLAMA_HOST and --url have it: `host`, `host:port`, `:port`, `https://host/path`.

    With a scheme the default port is the scheme's. Asking "any address" means this machine.

    Raises:
        HugindError: it is none.
    """
    try:
        scheme, host, port, path = split_address(text)
    except ValueError:
        raise _no_address(text) from None
    if scheme not in (None, *SCHEME_PORTS) or " " in text.strip():
        raise _no_address(text)
    if port is None:
        port = default_port if scheme is None else SCHEME_PORTS[scheme]
    host = host or ""
    return Place(scheme or "http", ANY_ADDRESSES.get(host, host), port, path.rstrip("/"))


def _no_address(text: str) -> HugindError:
    return HugindError(f"{text!r} is no address of a server", hint="write it as http://127.0.0.1:11434")


def _is_at(record: GatewayRecord, place: Place) -> bool:
    here = parse_place(record.url)
    same_host = here.host == place.host or (is_loopback(here.host) and is_loopback(place.host))
    return (here.scheme, here.port, here.path) == (place.scheme, place.port, place.path) and same_host


def _message(told: Any) -> str | None:
    """The words of an error, in whatever dialect."""
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else None


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _secret(value: Any) -> str | None:
    return None if value is None else value.get_secret_value()
