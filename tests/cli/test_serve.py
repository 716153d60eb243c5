"""`hugind serve` and the commands that ask it, on the real engine, from an empty home on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.cli.hugind_command import KEY, HugindCommand
from tests.engines import DEMO_MODEL, engine_binary
from tests.eventually import eventually_sync
from tests.hub import serving_hub


def serve(hugind: HugindCommand, *options: str) -> dict[str, Any]:
    """Start it in the background on a free port; the gateway as `status` tells it."""
    arguments = ("serve", "--port", "0", "--binary", engine_binary(), *options)
    done = hugind(*arguments, "--detach")
    assert done.returncode == 0, done.stderr
    gateway: dict[str, Any] = hugind.json("server", "status")["gateways"][0]
    return {**gateway, "said": done.stderr}


def test_from_an_empty_home(hugind: HugindCommand) -> None:
    """It says what to do next; that done, the model is listed, shown, loaded when asked for, and unloaded."""
    with serving_hub() as hub:
        hub.add("someone/tiny-GGUF", {"tiny-Q8_0.gguf": DEMO_MODEL.read_bytes()})
        hugind.env |= {"HF_ENDPOINT": hub.url, "OLLAMA_KEEP_ALIVE": "10m"}
        gateway = serve(hugind)
        again = hugind("serve", "--detach")
        hugind.is_here = True
        nothing = hugind.json("list")
        pulled = hugind("pull", "someone/tiny-GGUF")
    (row,) = hugind.json("list")
    unloaded = hugind("server", "status").stdout
    shown = hugind("show", "someone/tiny-GGUF")
    absent = hugind("show", "nope")
    _chat(gateway["url"], "tiny-Q8_0")
    (loaded,) = hugind.json("ps")
    table, plain = hugind("ps").stdout, hugind("ps", "--plain").stdout
    status = hugind("server", "status").stdout
    stopped = hugind("stop", "tiny-q8_0.gguf")

    assert "hugind pull USER/REPO" in gateway["said"]
    assert f"OLLAMA_HOST={gateway['url']}" in gateway["said"]
    assert "it already runs" in again.stderr
    assert nothing == []
    assert pulled.returncode == 0, pulled.stderr
    assert f"tiny-Q8_0.gguf: all {DEMO_MODEL.stat().st_size:,} bytes are here" in pulled.stderr
    assert pulled.stderr.splitlines()[-1] == "success"
    assert (row["name"], row["kind"], row["state"]) == ("tiny-Q8_0", "library", "unloaded")
    assert "unloaded" in unloaded
    assert "capabilities" in shown.stdout
    assert "completion" in shown.stdout
    assert (absent.returncode, absent.stdout) == (1, "")
    assert "hint:  hugind list" in absent.stderr
    assert (loaded["name"], loaded["refs"]) == ("tiny-Q8_0:latest", 0)
    assert re.search(r"tiny-Q8_0:latest +\S+ MB +100% CPU +\d+ +0 +in 10 min", table)
    assert re.fullmatch(r"tiny-Q8_0:latest: refs=0 expires=\d{4}-\d\d-\d\dT[\d:.]+\+00:00\n", plain)
    assert re.search(r"tiny-Q8_0 +ready +0 +\S+ MB +in 10 min", status)
    assert stopped.returncode == 0, stopped.stderr
    eventually_sync(lambda: hugind.json("ps") == [], timeout_s=20)


def test_several_models(hugind: HugindCommand) -> None:
    """Vectors; aliases by the server; other names; away with them; from elsewhere, with a key; restarted, it is the
    same again."""
    model = f"model:\n  model_path: {DEMO_MODEL}\n"
    hugind.write_config("demo", model)
    hugind.write_config("vectors", f"{model}  task: embedding\n  pooling: mean\n")
    gateway = serve(hugind, "--max-resident-models", "1", "--model-ttl", "-1")
    url = gateway["url"]
    hugind.is_here = True
    vectors = json.loads(hugind("embed", "vectors", "one text", "another", "--dimensions", "8").stdout)
    made = hugind("alias", "create", "tutor", "--model", "demo", "--top-k", "1", "--url", url)
    refused = hugind("alias", "create", "demo", "--model", "vectors", "--url", url)
    listed = hugind.json("alias", "list", "--url", url)
    shown = hugind.json("alias", "show", "tutor", "--url", url)
    copied = hugind("cp", "tutor", "gpt-4o")
    _chat(url, "gpt-4o")
    (loaded,) = hugind.json("ps")
    removed = hugind("rm", "gpt-4o", "--yes"), hugind("alias", "rm", "tutor", "--url", url)
    elsewhere = HugindCommand(hugind.home.with_name("elsewhere"))
    elsewhere.is_here = True
    keyless, with_key = elsewhere("list", "--url", url), elsewhere("list", "--url", url, "--key", KEY)
    by_host = elsewhere("ps", "--plain", env={"OLLAMA_HOST": url, "OLLAMA_API_KEY": KEY})
    nobody = elsewhere("ps", env={"OLLAMA_LOCAL_PORT": "1"})

    assert [len(vector) for vector in vectors["embeddings"]] == [8, 8]
    assert made.returncode == 0, made.stderr
    assert refused.returncode == 1
    assert "already" in refused.stderr
    assert [alias["name"] for alias in listed] == ["tutor"]
    assert (shown["model"], shown["parameters"]) == ("demo", {"top_k": 1})
    assert copied.returncode == 0, copied.stderr
    assert loaded["name"] == "demo:latest"
    assert [done.returncode for done in removed] == [0, 0], removed
    assert "HUGIND_API_KEY" in keyless.stderr
    assert "demo:latest" in with_key.stdout
    assert by_host.stdout == "demo:latest: refs=0 expires=never\n"
    assert "nothing answers at http://127.0.0.1:1" in nobody.stderr

    hugind.is_here = False
    restarted = hugind("server", "restart")
    hugind.is_here = True
    (again,) = hugind.json("server", "status")["gateways"]
    config = hugind("config", "remove", "vectors", "--yes")
    assert restarted.returncode == 0, restarted.stderr
    assert "loads what is asked for: demo, vectors" in restarted.stderr
    assert again["pid"] != gateway["pid"]
    assert config.returncode == 0, config.stderr
    assert [engine["state"] for engine in again["engines"]] == ["unloaded", "unloaded"]


def test_room_for_fewer_than_are_started(hugind: HugindCommand) -> None:
    """`server start a b` with room for one: it returns when one is ready, and the other is loaded when asked for."""
    for name in ("a", "b"):
        hugind.write_config(name, f"model:\n  model_path: {DEMO_MODEL}\nengine:\n  binary: {engine_binary()}\n")
    started = hugind("server", "start", "a", "b.gguf", "--port", "0", "--max-resident-models", "1", "--detach")
    hugind.is_here = True
    rows = {row["config"]: row for row in hugind.json("server", "list")}
    table = hugind("server", "list").stdout

    assert started.returncode == 0, started.stderr
    assert {name: row["state"] for name, row in rows.items()} == {"a": "ready", "b": "unloaded"}
    assert re.search(r"a +ready +http\S+ +1/1 +\S+ MB +never", table)
    _chat(rows["a"]["url"], "b")
    assert [model["name"] for model in hugind.json("ps")] == ["b:latest"]


def test_in_the_foreground(hugind: HugindCommand) -> None:
    """Who watches is told what to do next as soon as it listens; Ctrl-C ends it."""
    argv = [sys.executable, "-m", "hugind.cli.main", "serve", "--port", "0"]
    with subprocess.Popen(argv, env=hugind.env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "ANTHROPIC_BASE_URL" in line:
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert "hugind pull USER/REPO" in said
    assert "hugind config demo" in said


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--model-ttl", "soon"), 2, "'soon' is neither"),
        (("--max-resident-models", "-1"), 2, "--max-resident-models"),
        (("--host", "0.0.0.0", "--check"), 1, "no API key is configured"),  # noqa: S104 - to see it refused
        (("--check",), 0, ""),
    ],
)
def test_before_it_starts(hugind: HugindCommand, options: tuple[str, ...], code: int, words: str) -> None:
    """What cannot be is told before anything listens; an empty home can be served."""
    hugind.is_here = True
    done = hugind("serve", *options, env={"LLAMA_API_KEY": ""})

    assert done.returncode == code, done.stderr
    assert words in done.stderr


def test_help_names_the_environment(hugind: HugindCommand) -> None:
    """Every variable that has a say."""
    hugind.is_here = True
    told = hugind("serve", "--help").stdout

    for variable in (
        "OLLAMA_HOST",
        "OLLAMA_LOCAL_PORT",
        "OLLAMA_KEEP_ALIVE",
        "LLAMA_API_KEY",
        "HF_TOKEN",
        "HUGIND_HOME",
    ):
        assert variable in told
    assert "hugind serve --host" in told


def _chat(url: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
