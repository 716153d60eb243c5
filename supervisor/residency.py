"""Which engines are loaded, which must go, which may come? Pure.

To be called by `fleet.py` with what it sees; it does what is decided.
"""

from __future__ import annotations
