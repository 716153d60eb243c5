"""One gateway on the real engine for all tests that only talk to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gateway_process import GatewayProcess, running
from tests.engines import engine_binary
from tools.random_gguf import make_llama_gguf


def chat_config(folder: Path, **sections: Any) -> dict[str, Any]:
    """A model whose answers only a limit ends, with two slots."""
    model = folder / "chat.gguf"
    if not model.exists():
        make_llama_gguf(model, ctx=4096)
    return {
        "model": {"model_path": str(model)},
        "context": {"ctx_size": 2048},
        "server": {"max_slots": 2},
        "engine": {"binary": engine_binary()},
        **sections,
    }


def embed_config(folder: Path) -> dict[str, Any]:
    """A model that embeds."""
    model = make_llama_gguf(folder / "embed.gguf", ctx=512)
    return {
        "model": {"model_path": str(model), "task": "embedding", "pooling": "mean"},
        "context": {"ctx_size": 512},
        "engine": {"binary": engine_binary()},
    }


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serves `chat` and `embed`; tests leave it as they found it."""
    folder = tmp_path_factory.mktemp("gateway")
    with running(
        folder, {"chat": chat_config(folder, limits={"max_body_mb": 2}), "embed": embed_config(folder)}
    ) as process:
        yield process
