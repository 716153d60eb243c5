"""The npm package `ollama` against a gateway on the real engine, with a key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import chat_config, embed_config
from tests.e2e.gateway_process import KEY, GatewayProcess, running
from tests.npm import npm_package
from tools.random_gguf import make_llama_gguf

pytestmark = pytest.mark.e2e

DEADLINE_S = 60
SCRIPT = Path(__file__).with_name("ollama_client.mjs")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """`chat`, `calling` (tools) and `embed`."""
    folder = tmp_path_factory.mktemp("ollama-js")
    calling = chat_config(folder)
    calling["model"] = {"model_path": str(make_llama_gguf(folder / "calls.gguf", ctx=4096, calls=True))}
    with running(folder, {"chat": chat_config(folder), "calling": calling, "embed": embed_config(folder)}) as process:
        yield process


@pytest.fixture(scope="module")
def seen(served: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the package returned for each of its calls."""
    packages = npm_package("ollama")
    script = shutil.copy(SCRIPT, tmp_path_factory.mktemp("script") / SCRIPT.name)
    (Path(script).parent / "node_modules").symlink_to(packages / "node_modules")
    done = subprocess.run(
        ["node", script],
        env={**os.environ, "HUGIND_URL": served.url, "HUGIND_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_models(seen: dict[str, Any]) -> None:
    """Listed with a tag; those in memory, too; and what one of them is."""
    names = {"chat:latest", "calling:latest", "embed:latest"}

    assert names == set(seen["list"]) == set(seen["ps"])
    assert "completion" in seen["show"]["capabilities"]
    assert "llama" == seen["show"]["model_info"]["general.architecture"]


def test_answers_are_the_same_streamed_or_not(seen: dict[str, Any]) -> None:
    """The same text, and figures at the end."""
    whole, parts = seen["whole"], seen["streamed"]

    assert whole["message"]["content"]
    assert whole["message"]["content"] == "".join(part["message"]["content"] for part in parts)
    assert (True, "length", 8) == (whole["done"], whole["done_reason"], whole["eval_count"])
    assert [True] == [part["done"] for part in parts if part["done"]]
    assert seen["generated"]["response"] == "".join(part["response"] for part in seen["generatedParts"])


def test_embeddings(seen: dict[str, Any]) -> None:
    assert 2 == len(seen["embedded"]["embeddings"])
    assert 64 == len(seen["oldEmbedded"]["embedding"])


def test_tools(seen: dict[str, Any]) -> None:
    """Arguments are an object; streamed calls come before the end."""
    (call,) = seen["called"]["message"]["tool_calls"]
    streamed = [call for part in seen["calledParts"] for call in part["message"].get("tool_calls", [])]

    assert ("add", {"a": 3}) == (call["function"]["name"], call["function"]["arguments"])
    assert [{"a": 3}] == [call["function"]["arguments"] for call in streamed]
    assert {"n": 3} == json.loads(seen["formatted"]["message"]["content"])


def test_an_abort_frees_the_slot(seen: dict[str, Any], served: GatewayProcess) -> None:
    assert "AbortError" == seen["aborted"]["name"]
    assert 2 <= seen["aborted"]["count"] < 1000  # what had come already; a thousand is the end
    assert 0 == served.engine("chat")["waiting"]


def test_errors(seen: dict[str, Any]) -> None:
    """Its own exceptions, with our words."""
    assert ("ResponseError", 404) == (seen["unknown"]["name"], seen["unknown"]["status"])
    assert "'nope' not found" in seen["unknown"]["message"]
    assert ("ResponseError", 401) == (seen["stranger"]["name"], seen["stranger"]["status"])
