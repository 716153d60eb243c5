"""How much memory does a model take? Pure."""

from __future__ import annotations
