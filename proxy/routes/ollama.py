"""Ollama's routes that generate or embed. A chat is translated to the engine's own, and its stream to lines of JSON."""

from __future__ import annotations

from hugind.proxy.gateway import Handler

ROUTES: dict[str, Handler] = {}
