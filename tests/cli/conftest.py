"""Fixtures of the command line's tests."""

from __future__ import annotations

from tests.cli.hugind_command import hugind

__all__ = ["hugind"]
