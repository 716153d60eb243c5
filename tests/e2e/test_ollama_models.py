"""Models looked at, fetched, made, copied and removed with the `ollama` package, on the real engine, with keys on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ollama
import pytest
from ollama import ResponseError

from hugind.supervisor.paths import Home
from hugind.supervisor.run_folder import live_gateways
from tests.e2e.gateway_process import KEY, GatewayProcess, running
from tests.engines import engine_binary
from tests.hub import LocalHub, serving_hub
from tests.proxy.houses import add_model
from tools.random_gguf import make_llama_gguf

pytestmark = pytest.mark.e2e

FEW = {"num_predict": 4}
SYSTEM = "You are Mario, and you answer as Mario does."
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
EXACT = {"temperature": 0.0, "seed": 1}


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with serving_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def on_demand(tmp_path_factory: pytest.TempPathFactory, hub: LocalHub) -> Iterator[GatewayProcess]:
    """`hugind serve` with one model in its library, which tests leave there."""
    folder = tmp_path_factory.mktemp("serve")
    add_model(Home(folder), "maker/tiny-GGUF/tiny.gguf", ctx=2048)
    with running(folder, {}, variables={"HF_ENDPOINT": hub.url}, serve=["--binary", engine_binary()]) as process:
        yield process


@pytest.fixture
def user(on_demand: GatewayProcess) -> Iterator[ollama.Client]:
    """Who may ask models."""
    with ollama.Client(host=on_demand.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture
def keeper(on_demand: GatewayProcess) -> Iterator[ollama.Client]:
    """Who may change them, too."""
    token = live_gateways(on_demand.home)[0].token
    with ollama.Client(host=on_demand.url, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def test_look(user: ollama.Client) -> None:
    """What there is, what it is, and what is loaded."""
    user.generate("tiny", "hello", options=FEW)
    shown, (listed,), loaded = user.show("maker/tiny-GGUF"), user.list().models, user.ps().models[0]

    assert listed.details is not None
    assert shown.modelinfo is not None
    assert ("tiny:latest", "llama", "F32") == (
        listed.model,
        listed.details.family,
        listed.details.quantization_level,
    )
    assert ("llama", 2048) == (shown.modelinfo["general.architecture"], shown.modelinfo["llama.context_length"])
    assert ["completion"] == shown.capabilities
    assert ("tiny:latest", 2048, listed.digest) == (loaded.model, loaded.context_length, loaded.digest)
    assert loaded.expires_at is not None


def test_who_may_only_ask(user: ollama.Client) -> None:
    """Changes nothing."""
    changes: list[Callable[[], object]] = [
        partial(user.create, "mario", from_="tiny"),
        partial(user.pull, "maker/new-GGUF"),
        partial(user.delete, "tiny"),
    ]
    for change in changes:
        with pytest.raises(ResponseError) as refused:
            change()

        assert 403 == refused.value.status_code
        assert "'models'" in refused.value.error


def test_an_alias_in_every_dialect(on_demand: GatewayProcess, keeper: ollama.Client) -> None:
    """Its system prompt, temperature, length and stop hold wherever its name is asked for; what a request says beats
    them."""
    said = _complete(on_demand, "tiny", [{"role": "system", "content": SYSTEM}, *HELLO], max_tokens=12, **EXACT)
    stop = next(letter for letter in said[4:] if letter not in said[:4])
    until = said.partition(stop)[0]
    parameters = {**EXACT, "num_predict": 12, "stop": [stop]}
    done = keeper.create("mario", from_="tiny", system=SYSTEM, parameters=parameters)
    try:
        chat = keeper.chat("mario", HELLO)
        other = [{"role": "system", "content": "Be somebody else."}, *HELLO]

        assert "success" == done.status
        assert until == chat.message.content
        assert until == _complete(on_demand, "mario", HELLO)
        assert until == _message(on_demand, max_tokens=12)
        assert until == _respond(on_demand)

        assert said == keeper.chat("mario", HELLO, options={"stop": ["never said"]}).message.content
        assert said[:3] == keeper.chat("mario", HELLO, options={"num_predict": 3}).message.content
        assert said[:3] == _complete(on_demand, "mario", HELLO, max_tokens=3)
        assert said[:3] == _message(on_demand, max_tokens=3)
        assert said[:3] == _respond(on_demand, max_output_tokens=3)
        alike = {"max_tokens": 12, "stop": [stop], **EXACT}
        assert _complete(on_demand, "tiny", other, **alike) == _complete(on_demand, "mario", other)
    finally:
        keeper.delete("mario")


def test_a_model_of_ones_own(tmp_path: Path, user: ollama.Client, keeper: ollama.Client) -> None:
    """Sent, made with a system prompt, asked, copied, shown, removed."""
    digest = keeper.create_blob(make_llama_gguf(tmp_path / "own.gguf", seed=5, ctx=1024))
    steps = [
        step.status
        for step in keeper.create("me/own:1", files={"own.gguf": digest}, system=SYSTEM, parameters=FEW, stream=True)
    ]
    keeper.copy("me/own:1", "ours")
    answer = user.chat("ours", HELLO)
    shown = user.show("ours")
    names = {model.model for model in user.list().models}
    keeper.delete("ours")
    keeper.delete("me/own:1")

    assert [f"using existing layer {digest}", "success"] == [steps[0], steps[-1]]
    assert 4 == len(answer.message.content or "")
    assert {"me/own:1", "ours:latest", "me-own-1-base:latest", "tiny:latest"} == names
    assert shown.modelfile is not None
    assert f"SYSTEM {SYSTEM}\n" in shown.modelfile
    assert "num_predict" in (shown.parameters or "")
    assert ["tiny:latest"] == [model.model for model in user.list().models]
    with pytest.raises(ResponseError, match="model 'ours' not found"):
        user.show("ours")


def test_pull(tmp_path: Path, hub: LocalHub, user: ollama.Client, keeper: ollama.Client) -> None:
    """Fetched with progress, and served at once under the name that it was fetched by."""
    data = make_llama_gguf(tmp_path / "new.gguf", seed=6, ctx=1024).read_bytes()
    hub.add("maker/new-GGUF", {"new-Q4_K_M.gguf": data})
    steps = list(keeper.pull("hf.co/maker/new-GGUF:Q4_K_M", stream=True))
    answer = user.generate("hf.co/maker/new-GGUF:Q4_K_M", "hello", options=FEW)
    keeper.delete("maker/new-GGUF")

    assert ("pulling manifest", "success") == (steps[0].status, steps[-1].status)
    assert any(len(data) == step.total == step.completed and step.digest for step in steps)
    assert 4 == len(answer.response or "")
    with pytest.raises(ResponseError, match="file does not exist"):
        keeper.pull("llama3.2")


def test_push_is_refused(keeper: ollama.Client) -> None:
    """Clearly."""
    with pytest.raises(ResponseError, match="push is not supported") as refused:
        keeper.push("tiny")

    assert 501 == refused.value.status_code


def _complete(gateway: GatewayProcess, model: str, messages: list[Any], **fields: Any) -> str:
    answer = gateway.client.post("/v1/chat/completions", json={"model": model, "messages": messages, **fields})
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


def _message(gateway: GatewayProcess, **fields: Any) -> str:
    answer = gateway.client.post("/v1/messages", json={"model": "mario", "messages": HELLO, **fields})
    text: str = answer.json()["content"][0]["text"]
    return text


def _respond(gateway: GatewayProcess, **fields: Any) -> str:
    answer = gateway.client.post("/v1/responses", json={"model": "mario", "input": "hello", **fields})
    text: str = answer.json()["output"][0]["content"][0]["text"]
    return text
