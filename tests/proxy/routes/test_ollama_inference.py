"""What Ollama's routes that generate or embed have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.access.principal import ANONYMOUS
from hugind.proxy.errors import ApiError
from hugind.proxy.gateway import Target
from hugind.proxy.routes.ollama_inference import Asked
from tests.proxy.exchanges import FakeClient
from tests.proxy.test_abilities import engine_of


@pytest.mark.parametrize(("request_", "name"), [({"model": "Chat:latest"}, "Chat:latest"), ({}, "chat")])
def test_the_model_is_called_as_the_client_wrote_it(tmp_path: Path, request_: dict[str, Any], name: str) -> None:
    """In every object of the answer, and where it is refused."""
    asked = Asked(FakeClient().exchange, ANONYMOUS, request_, Target(engine_of(tmp_path)))

    assert name == asked.name
    asked.require("chat", "generate")
    with pytest.raises(ApiError, match=f'"{name}" does not support embeddings'):
        asked.require("embedding", "embeddings")
