"""What can a model do? Read from its header. Pure."""

from __future__ import annotations
