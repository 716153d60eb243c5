"""The snippets of docs/clients.md, as they stand: programs are run, settings are read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import chat_config
from tests.e2e.gateway_process import KEY, GatewayProcess, running
from tests.engines import ROOT, engine_binary
from tests.npm import npm_package
from tools.random_gguf import make_llama_gguf

pytestmark = pytest.mark.e2e

DEADLINE_S = 60
WHERE = "http://127.0.0.1:11434"
_BLOCK = re.compile(r"^## (?P<title>.+?)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A fenced block, and the heading that it stands under."""

    title: str
    language: str
    code: str


def _snippets() -> list[Snippet]:
    found, title = [], "start"
    for block in _BLOCK.finditer((ROOT / "docs" / "clients.md").read_text("utf-8")):
        title = block["title"] or title
        if block["language"]:
            found.append(Snippet(title, block["language"], block["code"]))
    return found


SNIPPETS = _snippets()


def _of(*languages: str) -> list[object]:
    wanted = [snippet for snippet in SNIPPETS if snippet.language in languages]
    return [pytest.param(snippet, id=f"{snippet.title}-{at}") for at, snippet in enumerate(wanted)]


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serves `my-model` and `my-embedder`."""
    folder = tmp_path_factory.mktemp("clients")
    model = make_llama_gguf(folder / "embed.gguf", ctx=512)
    embedder = {
        "model": {"model_path": str(model), "task": "embedding", "pooling": "mean"},
        "context": {"ctx_size": 512},
        "engine": {"binary": engine_binary()},
    }
    with running(folder, {"my-model": chat_config(folder), "my-embedder": embedder}) as process:
        yield process


def _run(argv: list[str], code: str, at: GatewayProcess, folder: Path) -> str:
    done = subprocess.run(
        argv,
        input=code.replace(WHERE, at.url),
        env={**os.environ, "HUGIND_API_KEY": KEY},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_one_for_every_client() -> None:
    """By its heading."""
    text = (ROOT / "docs" / "clients.md").read_text("utf-8")
    wanted = "curl openai anthropic ollama LangChain Open\\ WebUI Home\\ Assistant Zed Continue".replace(
        "\\ ", "_"
    ).split()

    assert [] == [name for name in wanted if f"## {name.replace('_', ' ')}" not in text]
    assert {"bash", "sh", "python", "javascript", "json", "yaml"} == {snippet.language for snippet in SNIPPETS}


@pytest.mark.parametrize("snippet", _of("python"))
def test_python(snippet: Snippet, documented: GatewayProcess, tmp_path: Path) -> None:
    """It runs, and prints something."""
    assert _run([sys.executable, "-"], snippet.code, documented, tmp_path).strip()


@pytest.mark.parametrize("snippet", _of("sh"))
def test_shell(snippet: Snippet, documented: GatewayProcess, tmp_path: Path) -> None:
    """It runs; what it asks for is answered, not refused."""
    said = _run(["sh", "-eu"], snippet.code, documented, tmp_path)

    assert ("curl" in snippet.code) == bool(said)
    assert '"error"' not in said


@pytest.mark.parametrize("snippet", _of("javascript"))
def test_javascript(snippet: Snippet, documented: GatewayProcess) -> None:
    """As the Python ones, with the npm package."""
    folder = npm_package("ollama")
    node = shutil.which("node")
    assert node is not None

    assert _run([node, "--input-type=module", "-"], snippet.code, documented, folder).strip()


@pytest.mark.parametrize("snippet", _of("json", "yaml"))
def test_settings(snippet: Snippet) -> None:
    """They can be read, and say where."""
    parsed = json.loads(snippet.code) if snippet.language == "json" else yaml.safe_load(snippet.code)

    assert isinstance(parsed, dict)
    assert WHERE in snippet.code
