"""Stand-ins for all tests of the bench."""

from __future__ import annotations

from tests.fakes.standin import standin_binary, standin_model, start_standin

__all__ = ["standin_binary", "standin_model", "start_standin"]
