"""Who is asking? From the credentials of a request to a principal."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import replace

from hugind.proxy.access.principal import ANONYMOUS, Principal
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Keyring:
    """The keys that open this gateway, as SHA-256 digests. Lives as long as the gateway.

    Keys are random and long, so a fast hash is enough; a lookup by digest tells an attacker nothing about the key.
    """

    def __init__(self) -> None:
        self._principals: dict[bytes, Principal] = {}
        self._has_user_key = False

    def add(self, key: str, principal: Principal) -> None:
        """Let `key` open the gateway for `principal`; a key that is known already opens for both what either did."""
        digest = _digest(key.encode())
        known = self._principals.get(digest)
        if known is not None:
            engines = None if None in (known.engines, principal.engines) else _both(known, principal)
            principal = replace(known, engines=engines, scopes=known.scopes | principal.scopes)
        self._principals[digest] = principal
        self._has_user_key = self._has_user_key or not principal.is_admin

    def principals(self, engine: str) -> list[str]:
        """Who may use an engine, by name, the admin left out; `ANONYMOUS` where no key is needed."""
        if self.is_open:
            return [ANONYMOUS.name]
        users = (principal for principal in self._principals.values() if not principal.is_admin)
        return sorted({principal.name for principal in users if principal.may_use(engine)})

    @property
    def is_open(self) -> bool:
        """No key was configured for users: everybody on this machine may ask."""
        return not self._has_user_key

    def opens(self, engine: str) -> bool:
        """Whether anybody but the admin may use `engine`."""
        users = [principal for principal in self._principals.values() if not principal.is_admin]
        return self.is_open or any(principal.may_use(engine) for principal in users)

    def authenticate(self, exchange: Exchange) -> Principal:
        """The principal of a request: `Authorization: Bearer`, `x-api-key`, or Basic with the key as password.

        Raises:
            ApiError: 401 without a valid key; 403 where no key is needed but the request comes from a web page or
                under another name than this machine's.
        """
        key = _presented(exchange)
        if key is not None:
            digest = _digest(key)
            principal = self._principals.get(digest)
            if principal is not None:
                return principal
        if self.is_open:
            _refuse_foreign_pages(exchange)
            return ANONYMOUS
        if key is None:
            raise ApiError(
                401, "an API key is required: send it as 'Authorization: Bearer KEY'", code="missing_api_key"
            )
        raise ApiError(401, "this API key is not valid", code="invalid_api_key")


def _presented(exchange: Exchange) -> bytes | None:
    authorization = exchange.header(b"authorization")
    if authorization is None:
        return exchange.header(b"x-api-key")
    scheme, _, value = authorization.partition(b" ")
    value = value.strip()
    if scheme.lower() == b"basic":
        try:
            value = base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    elif scheme.lower() != b"bearer":
        return b""
    other = exchange.header(b"x-api-key")
    if other is not None and not hmac.compare_digest(other, value):
        raise ApiError(400, "Authorization and x-api-key carry different keys")
    return value


def _refuse_foreign_pages(exchange: Exchange) -> None:
    """Without keys, a page in a browser must not reach us: not by its own origin, not by a name rebound to loopback."""
    host = (exchange.header(b"host") or b"").decode("latin-1")
    if host and _host_name(host) not in LOOPBACK_NAMES:
        raise ApiError(403, f"no key is configured, and '{host}' is not a name of this machine", code="host_refused")
    origin = (exchange.header(b"origin") or b"").decode("latin-1")
    if origin and _host_name(origin.partition("://")[2]) not in LOOPBACK_NAMES:
        raise ApiError(403, f"no key is configured, and pages of '{origin}' may not ask", code="origin_refused")


def _host_name(authority: str) -> str:
    """`name`, `name:port`, `[address]` or `[address]:port` without port and brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].lower()


def _both(one: Principal, other: Principal) -> frozenset[str]:
    return (one.engines or frozenset()) | (other.engines or frozenset())


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
