"""Who is asking? From the credentials of a request to a principal."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from dataclasses import replace

from hugind.proxy.access.principal import ANONYMOUS, Principal
from hugind.proxy.access.user_keys import UserKeys
from hugind.proxy.errors import ApiError
from hugind.proxy.exchange import Exchange
from hugind.proxy.sessions.talks import CHAT_HEADER

MAX_END_USER = 256


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

    def find(self, key: bytes) -> Principal | None:
        """Who has this key."""
        return self._principals.get(_digest(key))


class Doorman:
    """Lets requests in: by a key of the configuration, or of a user. Lives as long as the gateway."""

    def __init__(self, keyring: Keyring, users: UserKeys, *, needs_key: bool) -> None:
        """`needs_key`: nobody comes in without one, whatever is configured."""
        self.keyring = keyring
        self._users = users
        self._needs_key = needs_key

    @property
    def is_open(self) -> bool:
        """Everybody on this machine may ask: there is no key, and no user who could have one."""
        return self.keyring.is_open and not self._needs_key and not self._users.has_users

    async def authenticate(self, exchange: Exchange) -> Principal:
        """The principal of a request: `Authorization: Bearer`, `x-api-key`, Basic with the key as password, the path.

        Raises:
            ApiError: 401 without a valid key; 403 for one that is not to be used from there; 429 or 503 where the key
                cannot be looked up now.
        """
        key = _presented(exchange)
        if key is not None:
            principal = self.keyring.find(key) or self._users.known(key)
            if principal is None:
                principal = await self._users.look_up(key, exchange.client_ip)
            if principal is not None:
                if principal.networks:
                    _refuse_other_networks(exchange, principal)
                return principal
        if self.is_open:
            return ANONYMOUS
        if key is None:
            raise ApiError(
                401, "an API key is required: send it as 'Authorization: Bearer KEY'", code="missing_api_key"
            )
        raise ApiError(401, "this API key is not valid", code="invalid_api_key")


def end_user_of(exchange: Exchange, principal: Principal) -> str | None:
    """On whose behalf a request is made, where its key may say so. Open WebUI's header is ignored where not.

    Raises:
        ApiError: 403 when it says so all the same; 400 for a name that is too long.
    """
    ours = exchange.header(b"x-hugind-user")
    if not principal.delegates:
        if ours is not None:
            raise ApiError(403, "this key may not ask on another's behalf", code="not_delegating")
        return None
    given = ours or exchange.header(b"x-openwebui-user-id") or b""
    if len(given) > MAX_END_USER:
        raise ApiError(400, f"the name of a user has at most {MAX_END_USER} characters")
    return given.decode("utf-8", "replace") or None


def believed_header(exchange: Exchange, name: bytes) -> bytes | None:
    """A header of the request, but the chat only where the key may name it.

    Raises:
        ApiError: 400 when it is given twice.
    """
    return exchange.header(name) if name != CHAT_HEADER or exchange.principal.delegates else None


def _presented(exchange: Exchange) -> bytes | None:
    if exchange.path_key is not None:
        return exchange.path_key
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


def _refuse_other_networks(exchange: Exchange, principal: Principal) -> None:
    try:
        address = ipaddress.ip_address(exchange.client_ip or "")
    except ValueError:
        raise ApiError(403, "this API key is not to be used from here", code="network_refused") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not any((mapped or address) in network for network in principal.networks):
        raise ApiError(403, f"this API key is not to be used from {address}", code="network_refused")


def _both(one: Principal, other: Principal) -> frozenset[str]:
    return (one.engines or frozenset()) | (other.engines or frozenset())


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
