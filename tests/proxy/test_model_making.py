"""Models and aliases made, copied and removed."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gguf
import pytest

from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.dialects.ollama_create import read_recipe
from hugind.proxy.errors import ApiError
from hugind.proxy.model_making import Made, ModelMaker
from hugind.supervisor.aliases import Alias
from hugind.supervisor.config import load_config
from hugind.supervisor.models.blobs import Blobs
from tests.proxy.houses import House, add_model, keeping_house
from tools.random_gguf import make_llama_gguf

ALL = Principal("tester", scopes=ALL_SCOPES)
OWN = """
model: {model_path: maker/tiny-GGUF/tiny.gguf}
context: {ctx_size: 512}
server: {api_key: secret, port: 9999, max_slots: 3}
"""


def refusal(status: int) -> AbstractContextManager[pytest.ExceptionInfo[ApiError]]:
    """What a block must be refused with."""
    return pytest.raises(ApiError, check=lambda error: error.status == status)


def send(house: House, path: Path) -> str:
    """Have a file in the blobs; returns its digest."""
    data = path.read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with Blobs(house.home).upload(digest) as upload:
        upload.write(data)
        upload.finish()
    return digest


def send_model(house: House, seed: int) -> str:
    return send(house, make_llama_gguf(house.home.root.parent / f"{seed}.gguf", seed=seed, ctx=1024))


def send_adapter(house: House, architecture: str = "llama") -> str:
    path = house.home.root.parent / f"{architecture}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return send(house, path)


async def make(house: House, maker: ModelMaker, name: str, **body: Any) -> Made:
    return await maker.make(read_recipe(body, name), ALL)


async def test_an_alias_of_an_alias(tmp_path: Path) -> None:
    """It is one of the model itself, with what both say."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        await make(house, maker, "mario", **{"from": "tiny", "system": "hi", "parameters": {"top_k": 1}})
        made = await make(house, maker, "luigi", **{"from": "mario:latest", "parameters": {"seed": 5}})
        alias = house.gateway.aliases.all()["luigi"]

        assert ("luigi", True) == (made.name, made.is_served)
        assert ("tiny", "hi", {"top_k": 1, "seed": 5}) == (alias.model, alias.system, alias.parameters)
        for body in ({"parameters": {"heat": 1}}, {"messages": [{"role": "dog"}]}, {"template": "{{ .Prompt }}"}):
            with refusal(400):
                await make(house, maker, "peach", **{"from": "tiny", **body})
        with refusal(404):
            await make(house, maker, "peach", **{"from": "nothing"})


async def test_a_model_of_files(tmp_path: Path) -> None:
    """It is served at once; made again of another file, that one is; removed, nothing of it is left."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        made = await make(house, maker, "mine", files={"x": send_model(house, 1)})
        first = house.gateway.fleet.engines["mine"]
        await make(house, maker, "mine", files={"x": send_model(house, 2)})
        second = house.gateway.fleet.engines["mine"]
        names = house.names()
        removed = await maker.remove("Mine:latest", ALL)

        assert Made("mine", send_model(house, 1).removeprefix("sha256:"), is_served=True) == made
        assert first is not second
        assert ["mine", "tiny"] == names
        assert ("mine", ["tiny"]) == (removed, house.names())
        assert not (house.home.root / "local").exists()


async def test_what_is_said_of_it_is_an_alias(tmp_path: Path) -> None:
    """The model has a name beside it, and goes with it."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        digest = send_model(house, 1)
        await make(house, maker, "me/mine:7b", files={"x": digest}, system="hi")
        await make(house, maker, "me/mine:7b", files={"x": digest}, system="ho")
        names, alias = house.names(), house.gateway.aliases.all()["me/mine:7b"]
        with refusal(409):
            await make(house, maker, "me-mine:7b", files={"x": digest})
        await maker.remove("me/mine:7b", ALL)

        assert ["me-mine-7b-base", "tiny"] == names
        assert ("me-mine-7b-base", "ho") == (alias.model, alias.system)
        assert (["tiny"], {}) == (house.names(), house.gateway.aliases.all())
        assert Blobs(house.home).find(digest) is None


async def test_an_alias_gives_way_to_a_model(tmp_path: Path) -> None:
    """Made again of files alone, the name is a model's: the alias would never be reached."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        await make(house, maker, "mine", **{"from": "tiny", "system": "hi"})
        await make(house, maker, "mine", files={"x": send_model(house, 1)})

        assert ({}, ["mine", "tiny"]) == (house.gateway.aliases.all(), house.names())


async def test_adapters(tmp_path: Path) -> None:
    """A config of its own, as that of the model below it but for its address and key."""
    async with keeping_house(tmp_path, {"own": OWN}) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        adapter = send_adapter(house)
        await make(house, maker, "mine", **{"from": "own", "adapters": {"a": adapter}})
        config = load_config(house.home.config("mine"))
        both = await make(house, maker, "both", files={"x": send_model(house, 1)}, adapters={"a": adapter})
        library = load_config(house.home.config("both"))
        names = house.names()
        await make(house, maker, "both", files={"x": send_model(house, 1)})
        plain = house.gateway.fleet.engines["both"].config.model.lora_paths
        await maker.remove("mine", ALL)

        assert (512, 3, None, None) == (
            config.context.ctx_size,
            config.server.max_slots,
            config.server.port,
            config.server.api_key,
        )
        assert ("maker/tiny-GGUF/tiny.gguf", ("local/mine/adapters/0.gguf",)) == (
            config.model.model_path,
            config.model.lora_paths,
        )
        assert ("local/both/both.gguf", 8192, True) == (
            library.model.model_path,
            library.context.ctx_size,
            both.is_served,
        )
        assert ["both", "mine", "own"] == names
        assert () == plain
        assert not house.home.config("mine").exists()
        assert ["both", "own"] == house.names()


async def test_what_cannot_be_made(tmp_path: Path) -> None:
    """It is said why, and nothing is left of the attempt."""
    async with keeping_house(tmp_path, {"own": OWN}) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        model, adapter = send_model(house, 1), send_adapter(house)
        text = tmp_path / "text"
        text.write_text("no model")
        for name, body, status, words in (
            ("mine", {"files": {"x": "sha256:" + "0" * 64}}, 400, "blob not found"),
            ("mine", {"files": {"x": "nonsense"}}, 400, "invalid digest"),
            ("mine", {"files": {"x": send(house, text)}}, 400, "not a GGUF file"),
            ("mine", {"files": {"x": adapter}}, 400, "adapters"),
            ("mine", {"files": {"x": model}, "template": "{{ .Prompt }}"}, 400, "template"),
            ("mine", {"from": "own", "adapters": {"x": model}}, 400, "must be a LoRA adapter"),
            ("mine", {"from": "own", "adapters": {"x": send_adapter(house, "qwen2")}}, 400, "is for qwen2"),
            ("own", {"files": {"x": model}}, 409, "not made here"),
            ("tiny", {"from": "own"}, 409, "already"),
        ):
            with refusal(status) as refused:
                await make(house, maker, name, **body)

            assert words in refused.value.message
            assert str(house.home.root) not in refused.value.message

        assert ["own"] == house.names()
        assert not (house.home.root / "local").exists()


async def test_what_cannot_be_removed(tmp_path: Path) -> None:
    """A config's model, and what something else is made of."""
    async with keeping_house(tmp_path, {"own": OWN}) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        add_model(house.home, "maker/other-GGUF/other.gguf", seed=1)
        add_model(house.home, "maker/third-GGUF/third.gguf", seed=2)
        house.home.config("user").write_text(
            "model: {model_path: maker/tiny-GGUF/tiny.gguf, draft_path: maker/third-GGUF/third.gguf}"
        )
        await house.reloader.reload()
        house.gateway.aliases.put("mario", Alias(model="other"))
        for name, status, words in (
            ("own", 400, "comes from a config"),
            ("other", 409, "remove them first: mario"),
            ("third", 409, "another model needs"),
            ("nothing", 404, "model 'nothing' not found"),
        ):
            with refusal(status) as refused:
                await maker.remove(name, ALL)

            assert words in refused.value.message


async def test_a_base_that_is_still_needed(tmp_path: Path) -> None:
    """The alias goes, and the model that others are made of stays."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        await make(house, maker, "mine", files={"x": send_model(house, 1)}, system="hi")
        await maker.copy("mine", "other", ALL)
        await maker.remove("mine", ALL)

        assert (["other"], ["mine-base", "tiny"]) == (list(house.gateway.aliases.all()), house.names())


async def test_what_is_loaded_is_unloaded_first(tmp_path: Path) -> None:
    """Whoever asks then finds nothing."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        await house.gateway.fleet.load("tiny")
        engine = house.gateway.fleet.engines["tiny"]
        await maker.remove("maker/tiny-GGUF", ALL)

        assert engine.has_ended
        assert ([], []) == (house.names(), list(house.home.root.glob("maker/**/*.gguf")))


async def test_without_a_reloader(tmp_path: Path) -> None:
    """What is made is there, and served after the next start; it can be removed all the same."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, None)
        made = await make(house, maker, "mine", files={"x": send_model(house, 1)})
        unseen = Principal("other", engines=frozenset({"tiny"}))
        with refusal(404):
            await maker.remove("mine", unseen)
        removed = await maker.remove("local/mine", ALL)

        assert (False, "mine") == (made.is_served, removed)


async def test_a_reload_that_is_refused(tmp_path: Path) -> None:
    """The model is not left behind, and the reason is told."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        digest = send_model(house, 1)
        (house.home.root / "settings.yml").write_text("nonsense: 1")
        with refusal(409) as refused:
            await make(house, maker, "mine", files={"x": digest})

        assert "cannot be brought in line" in refused.value.message
        assert not (house.home.root / "local").exists()
        assert Blobs(house.home).find(digest) is not None


async def test_a_name_that_is_taken(tmp_path: Path) -> None:
    """Of the model with settings, neither part is made."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        with refusal(409):
            await make(house, maker, "tiny", files={"x": send_model(house, 1)}, system="hi")

        assert ["tiny"] == house.names()
        assert not (house.home.root / "local").exists()


async def test_a_key_for_some_models(tmp_path: Path) -> None:
    """It makes aliases of these, and puts no model where another's is."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        bound = Principal("other", engines=frozenset({"tiny"}), scopes=ALL_SCOPES)
        await make(house, maker, "mine", files={"x": send_model(house, 1)})
        before = house.gateway.fleet.engines["mine"]
        for body in ({"files": {"x": send_model(house, 2)}}, {"from": "tiny", "adapters": {"x": send_adapter(house)}}):
            with refusal(403):
                await maker.make(read_recipe(body, "mine"), bound)
        made = await maker.make(read_recipe({"from": "tiny", "system": "hi"}, "his"), bound)

        assert before is house.gateway.fleet.engines["mine"]
        assert ("his", True) == (made.name, made.is_served)


async def test_two_that_share_a_projector(tmp_path: Path) -> None:
    """One can go; the projector goes with the last."""
    async with keeping_house(tmp_path) as house:
        maker = ModelMaker(house.gateway, house.reloader)
        for at, quant in enumerate(("Q4_0", "Q8_0")):
            path = add_model(house.home, f"maker/seeing-GGUF/seeing-{quant}.gguf", seed=at)
        projector = path.with_name("mmproj-F16.gguf")
        projector.write_bytes(path.read_bytes())
        await house.reloader.reload()
        await maker.remove("seeing-Q4_0", ALL)
        left = house.names(), projector.exists()
        await maker.remove("seeing-Q8_0", ALL)

        assert (["seeing-Q8_0", "tiny"], True) == left
        assert not path.parent.exists()
