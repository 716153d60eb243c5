"""Is a snapshot worth its time? Learned from what this worker's turns and saves really took. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT = 0.2
"""Of a new measurement against what was known."""
DOUBT = 1.1
"""Saving is taken to be so much faster than it was with each save that was not made."""
MIN_TOKENS = 64
"""A prompt with fewer new tokens says little about the speed of long ones."""


@dataclass
class Rates:
    """What one engine can do. Lives as long as its keeper; zero means not measured yet."""

    prefill: float = 0.0
    """Tokens a second."""
    save: float = 0.0
    """Bytes a second."""
    bytes_per_token: float = 0.0

    def saw_prefill(self, tokens: int, seconds: float) -> None:
        """A prompt was computed."""
        if tokens >= MIN_TOKENS and seconds > 0:
            self.prefill = _learned(self.prefill, tokens / seconds)

    def saw_save(self, tokens: int, size_bytes: int, seconds: float) -> None:
        """A slot was saved and checked."""
        if tokens > 0 and seconds > 0:
            self.save = _learned(self.save, size_bytes / seconds)
            self.bytes_per_token = size_bytes / tokens

    def saw_no_save(self) -> None:
        """A save did not seem to pay. Only saves teach how fast they are: one bad one would count for ever."""
        self.save *= DOUBT

    def predicted_bytes(self, tokens: int) -> int:
        """How large a snapshot of so many tokens will be; 0 where none was made yet."""
        return int(self.bytes_per_token * tokens)

    def is_worth_saving(self, tokens: int) -> bool:
        """Whether saving takes less than computing the tokens again. True while it is not known."""
        if not self.prefill or not self.save:
            return True
        return self.predicted_bytes(tokens) / self.save < tokens / self.prefill


def _learned(known: float, seen: float) -> float:
    return seen if not known else known + WEIGHT * (seen - known)
