"""Addresses of servers, as OLLAMA_HOST and --url have them: `host`, `host:port`, `:port`, a URL. Pure."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

OLLAMA_PORT = 11434
"""Where Ollama's clients ask, and `hugind serve` listens."""


class AddressParts(NamedTuple):
    """What an address says. None: not said."""

    scheme: str | None
    """In lower case."""
    host: str | None
    port: int | None
    path: str


def split_address(text: str) -> AddressParts:
    """What `text` says; an IPv6 address without a port needs no brackets.

    Raises:
        ValueError: it is no address.
    """
    scheme, _, rest = text.strip().rpartition("://")
    parts = urlsplit(f"//{f'[{rest}]' if _is_ipv6(rest) else rest}")
    return AddressParts(scheme.lower() or None, parts.hostname, parts.port, parts.path)


def is_loopback(host: str) -> bool:
    """Whether it names this machine, whatever the network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
