"""How fast may one address try keys that are none? So that guessing is slow, and cheap for us. Pure."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address, ip_network

BURST = 20
"""Misses at once."""
INTERVAL_S = 0.5
"""And one more each time this has passed."""
LONGEST_WAIT_S = 60.0
"""However many misses were under way at the same time."""
MAX_ADDRESSES = 10_000
"""The one that missed longest ago is forgotten."""


class Misses:
    """Who tried keys that are not good. Lives as long as the cache of keys.

    Only misses count: however many people come from one address, those with good keys use nothing up.
    """

    def __init__(self) -> None:
        self._paid_at: OrderedDict[str, float] = OrderedDict()
        """When the last miss of an address will have been made up for."""

    def wait_s(self, address: str | None, now: float) -> float:
        """How long `address` must wait before its next try; 0: not at all. `now`: of a clock that does not jump."""
        debt_s = self._paid_at.get(_place(address), now) - now
        return max(0.0, debt_s - (BURST - 1) * INTERVAL_S)

    def add(self, address: str | None, now: float) -> None:
        """A key from `address` was none."""
        place = _place(address)
        paid_at = max(now, self._paid_at.pop(place, now)) + INTERVAL_S
        self._paid_at[place] = min(paid_at, now + LONGEST_WAIT_S + (BURST - 1) * INTERVAL_S)
        if len(self._paid_at) > MAX_ADDRESSES:
            self._paid_at.popitem(last=False)


def _place(address: str | None) -> str:
    """What counts as one address: in IPv6 a whole /64, of which everybody has as many addresses as they like."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return ""
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ip_network((found.packed, 64), strict=False))
