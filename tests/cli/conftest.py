"""Fixtures of the command line's tests."""

from __future__ import annotations

from tests.cli.hugind_command import either, hugind

__all__ = ["either", "hugind"]
