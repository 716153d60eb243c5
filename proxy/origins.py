"""Which web pages may ask, and under which names of this machine? Pure.

A page in a browser sends its origin with what it asks. Pages of this machine and programs that are built like one may
ask, and whom the settings name. What is no page, and has no origin, is none of this file's business.

Where only this machine can reach the gateway, the name that it was asked under must be one of this machine's, too: a
page can have its own name lead to 127.0.0.1 after it was loaded ("DNS rebinding"), and is of the same origin then.

The lists are Ollama's but for two things: where no key is needed, browser extensions are refused until they are named;
and of names that end in `.local`, for which anybody in the same network may answer, only this machine's own is good.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from hugind.proxy.errors import ApiError

Headers = list[tuple[bytes, bytes]]

LOCAL_PAGES = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "[::1]"})  # noqa: S104 - a name in a URL
"""Hosts whose pages may ask, whatever their port."""
APP_SCHEMES = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
"""Of programs that are installed here and show pages. They could ask without an origin as well."""
EXTENSION_SCHEMES = frozenset({"chrome-extension", "moz-extension", "safari-web-extension"})
"""Of browser extensions: they may ask where a key is needed."""

ALLOWED_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = frozenset(
    {
        *("authorization", "content-type", "user-agent", "accept", "x-requested-with", "idempotency-key"),
        *("openai-beta", "openai-organization", "openai-project", "traceparent", "tracestate"),
        *("x-api-key", "anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"),
    }
)
ALLOWED_PREFIXES = ("x-stainless-", "x-hugind-")
"""Of further header names that a page may send."""
EXPOSED_HEADERS = b", ".join(
    (
        b"x-request-id, retry-after, retry-after-ms, x-should-retry",
        b"x-hugind-queue-ms, x-hugind-overhead-ms, x-hugind-session, x-hugind-session-id, x-hugind-restore-ms",
        *(b"x-ratelimit-%b-requests, x-ratelimit-%b-tokens" % (w, w) for w in (b"limit", b"remaining", b"reset")),
        *(
            b"anthropic-ratelimit-requests-%b, anthropic-ratelimit-tokens-%b" % (w, w)
            for w in (b"limit", b"remaining", b"reset")
        ),
    )
)
"""What a page may read of an answer, beside what it always may."""
PREFLIGHT_MAX_AGE_S = 3600
KEPT_VERDICTS = 256
"""Names and origins that were found good are remembered, so many at most."""

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(?::[0-9]{1,5})?")
_HEADER_NAME = re.compile(r"[a-z0-9-]+")
_SAID = 100


class Origins:
    """The rules of one gateway. Lives until a reload brings others."""

    def __init__(self, configured: Iterable[str] = (), *, is_loopback: bool = True, hostname: str = "") -> None:
        """`configured`: origins as `https://chat.example.org`; `*` in them stands for any part, alone for all.

        A name without a scheme is http and https. `is_loopback`: only this machine can reach us. `hostname`: its own.
        """
        wanted = [entry.strip().rstrip("/").lower() for entry in configured]
        self._allows_all = "*" in wanted
        self._allows_null = "null" in wanted
        named = [entry for entry in wanted if entry not in ("", "*", "null")]
        spelled = [entry if "://" in entry else f"http*://{entry}" for entry in named]
        self._pages = [_pattern(entry) for entry in spelled]
        web = [host for entry in spelled if entry.startswith("http") and (host := _host_of(entry)).strip("*.")]
        self._is_loopback = is_loopback
        self._hosts = [_pattern(host) for host in web]
        own = hostname.lower().rstrip(".")
        short = own.partition(".")[0]
        self._names = {"localhost", own, short, f"{short}.local"} - {"", ".local"}
        self._good_hosts: set[bytes] = set()
        self._good_pages: set[tuple[bytes, bytes | None, bool]] = set()

    def check_host(self, host: bytes) -> None:
        """The name that a request was sent to, from its `host` header.

        Raises:
            ApiError: 403, it is none of this machine's, and only this machine should be able to ask.
        """
        if not self._is_loopback or host in self._good_hosts:
            return
        text = host.decode("latin-1")
        if not self._is_our_name(text):
            raise ApiError(
                403,
                f"'{text[:_SAID]}' is not a name of this machine; one that leads here belongs into 'origins' of "
                "settings.yml",
                code="host_refused",
            )
        if len(self._good_hosts) >= KEPT_VERDICTS:
            self._good_hosts.clear()
        self._good_hosts.add(host)

    def check_page(self, origin: bytes, host: bytes | None, *, is_open: bool) -> None:
        """The page that a request comes from, by its `origin` header. `is_open`: no key is needed.

        Raises:
            ApiError: 403, it may not ask.
        """
        asked = (origin, host, is_open)
        if asked in self._good_pages:
            return
        text = origin.decode("latin-1")
        if not self._may_ask(text.lower(), (host or b"").decode("latin-1").lower(), is_open=is_open):
            raise ApiError(
                403,
                f"pages of '{text[:_SAID]}' may not ask; those that may belong into 'origins' of settings.yml or "
                "OLLAMA_ORIGINS",
                code="origin_refused",
            )
        if len(self._good_pages) >= KEPT_VERDICTS:
            self._good_pages.clear()
        self._good_pages.add(asked)

    def _is_our_name(self, host: str) -> bool:
        found = _AUTHORITY.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1]
        if name in self._names or name.endswith((".localhost", ".internal")):
            return True
        if any(pattern.fullmatch(name) for pattern in self._hosts):
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or address.is_private  # an address cannot be made to lead elsewhere

    def _may_ask(self, origin: str, host: str, *, is_open: bool) -> bool:
        if origin == "null":  # a page in a sandbox, or out of a file: anybody's
            return self._allows_null
        scheme, mark, authority = origin.partition("://")
        if not mark:
            return False
        if self._allows_all or any(pattern.fullmatch(origin) for pattern in self._pages):
            return True
        if scheme in APP_SCHEMES or (scheme in EXTENSION_SCHEMES and not is_open):
            return True
        found = _AUTHORITY.fullmatch(authority)
        if scheme not in ("http", "https") or found is None:
            return False
        return authority == host or found[1] in LOCAL_PAGES


def page_headers(origin: bytes) -> Headers:
    """What every answer to a page carries, so that it may read it."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED_HEADERS),
        (b"vary", b"origin"),
    ]


def preflight_headers(wanted: bytes, *, is_private: bool) -> Headers:
    """What a page may send, in answer to what it wants to (`access-control-request-headers`).

    `is_private`: its browser asks whether it may reach into a private network.
    """
    names = [name.strip().lower() for name in wanted.decode("latin-1").split(",")]
    good = [name for name in names if name in ALLOWED_HEADERS or _has_prefix(name)]
    headers = [
        (b"access-control-allow-methods", ALLOWED_METHODS),
        (b"access-control-max-age", b"%d" % PREFLIGHT_MAX_AGE_S),
    ]
    if good:
        headers.append((b"access-control-allow-headers", ", ".join(good).encode()))
    if is_private:
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers


def _has_prefix(name: str) -> bool:
    return name.startswith(ALLOWED_PREFIXES) and _HEADER_NAME.fullmatch(name) is not None


def _pattern(entry: str) -> re.Pattern[str]:
    return re.compile(re.escape(entry).replace(r"\*", "[^/]*"))


def _host_of(entry: str) -> str:
    """The host of an origin as it may be configured, without its port."""
    authority = entry.partition("://")[2]
    return authority if authority.endswith("]") else re.sub(r":[0-9*]*$", "", authority)
