"""The snippets of docs/clients.md, as they stand: programs are run, settings are read, applications played.

What applications ask was read in their sources (reference page ollama, sections e and f).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from hugind.supervisor.paths import Home
from tests.e2e.conftest import chat_config, embed_config
from tests.e2e.gateway_process import KEY, GatewayProcess, running
from tests.engines import ROOT
from tests.npm import npm_package

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
    home = Home(folder)
    home.create()
    home.settings.write_text(yaml.safe_dump({"access": {"path_keys": True}}))
    with running(folder, {"my-model": chat_config(folder), "my-embedder": embed_config(folder)}) as process:
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


# ---- applications, by what they ask

HELLO = [{"role": "user", "content": "hello"}]


def _chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines of a stream, as strict clients take them."""
    assert answer.status_code == 200, answer.text
    chunks = [json.loads(line) for line in answer.text.splitlines()]
    for chunk in chunks:
        assert isinstance(chunk["created_at"], str)
        assert isinstance(chunk["message"]["content"], str)
        assert "assistant" == chunk["message"]["role"]
    assert [False] * (len(chunks) - 1) + [True] == [chunk["done"] for chunk in chunks]
    return chunks


def test_open_webui(documented: GatewayProcess) -> None:
    """Version, tags, what is loaded, and a chat of one of its people, whom this key may not name."""
    ask = documented.client
    people = {"X-OpenWebUI-User-Id": "u1", "X-OpenWebUI-Chat-Id": "c1"}
    listed = ask.get("/api/tags").json()["models"]
    loaded = ask.get("/api/ps").json()["models"]
    body = {"model": "my-model:latest", "messages": HELLO, "stream": True, "options": {"num_predict": 4}}

    assert ask.get("/api/version").json()["version"]
    assert {"my-model:latest", "my-embedder:latest"} == {model["model"] for model in listed}
    assert all(model["name"] == model["model"] and datetime.fromisoformat(model["modified_at"]) for model in listed)
    assert all(datetime.fromisoformat(model["expires_at"]) for model in loaded)
    assert 4 == _chunks(ask.post("/api/chat", json=body, headers=people))[-1]["eval_count"]


def test_home_assistant(documented: GatewayProcess) -> None:
    """It lists to see whether the key is good, and sends a context size of its own."""
    ask = documented.client
    body = {
        "model": "my-model", "messages": HELLO, "stream": True, "keep_alive": "-1s", "think": False,
        "options": {"num_ctx": 8192, "num_predict": 4},
    }  # fmt: skip

    assert 401 == ask.get("/api/tags", headers={"Authorization": "Bearer wrong"}).status_code
    assert "my-model:latest" in [model["model"] for model in ask.get("/api/tags").json()["models"]]
    assert _chunks(ask.post("/api/chat", json=body))


def test_zed(documented: GatewayProcess) -> None:
    """Nothing may be null where it wants a text."""
    ask = documented.client
    for model in ask.get("/api/tags").json()["models"]:
        details = model["details"]
        assert all(
            isinstance(details[key], str) for key in ("format", "family", "parameter_size", "quantization_level")
        )
        assert isinstance(ask.post("/api/show", json={"model": model["name"]}).json()["capabilities"], list)
    body = {
        "model": "my-model:latest", "messages": HELLO, "stream": True, "keep_alive": -1,
        "options": {"num_ctx": 16384, "num_predict": 4, "stop": [], "temperature": 1.0},
    }  # fmt: skip

    assert _chunks(ask.post("/api/chat", json=body))


def test_continue(documented: GatewayProcess) -> None:
    """It reads the parameters of a model line by line, and trips over others."""
    shown = documented.client.post("/api/show", json={"name": "my-model"}).json()
    lines = [line for line in shown["parameters"].split("\n") if line]
    body = {"model": "my-model", "messages": HELLO, "keep_alive": 1800, "options": {"num_predict": 4, "num_ctx": 4096}}

    assert all(re.fullmatch(r'(\S+)\s+((?:".*")|\S+)', line) for line in lines)
    assert isinstance(shown["template"], str)
    assert _chunks(documented.client.post("/api/chat", json=body))


def test_copilot(documented: GatewayProcess) -> None:
    """A version that it takes for new enough, and what it looks for in a model; its key is in the path."""
    ask = httpx.Client(base_url=f"{documented.url}/k/{KEY}", timeout=DEADLINE_S, trust_env=False)
    version = [int(part) for part in ask.get("/api/version").json()["version"].split(".")]
    shown = ask.post("/api/show", json={"model": "my-model"}, headers={"user-agent": "GitHubCopilotChat/1"}).json()
    architecture = shown["model_info"]["general.architecture"]
    chat = ask.post("/v1/chat/completions", json={"model": "my-model", "messages": HELLO, "max_tokens": 4})

    assert version >= [0, 6, 4]
    assert isinstance(shown["capabilities"], list)
    assert shown["model_info"][f"{architecture}.context_length"] > 0
    assert shown["model_info"]["general.basename"]
    assert 200 == chat.status_code
    ask.close()


def test_the_ollama_command(documented: GatewayProcess) -> None:
    """A sign of life, a load, a chat, the lists; it cuts digests at twelve characters. Its key is in the path."""
    ask = httpx.Client(base_url=f"{documented.url}/k/{KEY}", timeout=DEADLINE_S, trust_env=False)
    lives = ask.head("/")
    load = ask.post("/api/generate", json={"model": "my-model", "prompt": ""})
    chat = ask.post("/api/chat", json={"model": "my-model", "messages": HELLO, "options": {"num_predict": 4}})
    listed, loaded = ask.get("/api/tags").json()["models"], ask.get("/api/ps").json()["models"]
    unload = ask.post("/api/generate", json={"model": "my-embedder", "keep_alive": 0})

    assert 200 == lives.status_code
    assert 200 == ask.post("/api/show", json={"model": "my-model"}).status_code
    assert ("load", True) == (load.json()["done_reason"], load.json()["done"])
    assert _chunks(chat)
    assert all(re.fullmatch("[0-9a-f]{64}", model["digest"]) for model in [*listed, *loaded])
    assert "unload" == unload.json()["done_reason"]
    ask.close()
