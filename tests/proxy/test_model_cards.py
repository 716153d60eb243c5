"""What clients are told of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.proxy.access.principal import ALL_SCOPES, Principal
from hugind.proxy.model_cards import Dossier, dossier, loaded_cards, visible_cards
from hugind.supervisor.aliases import Alias
from tests.proxy.houses import House, add_model, keeping_house

ALL = Principal("tester", scopes=ALL_SCOPES)
OWN = """
model: {model_path: maker/own-GGUF/own.gguf}
context: {ctx_size: 1024}
sampling: {temp: 0.5, top_k: 7}
chat: {system_prompt: Be brief., template: chatml}
"""
BROKEN = "model: {model_path: nothing.gguf, task: embedding}"


async def test_cards(tmp_path: Path) -> None:
    """Of models, of aliases of them, and of a model whose file cannot be read; by its config where there is one."""
    async with keeping_house(tmp_path, {"own": OWN, "broken": BROKEN}) as house:
        add_model(house.home, "maker/own-GGUF/own.gguf", seed=1, ctx=4096, half=True)
        house.gateway.aliases.put("mario", Alias(model="tiny", system="hi", created_at=5.0))
        house.gateway.aliases.put("lost", Alias(model="gone"))
        cards = {card.name: card for card in await visible_cards(house.gateway, ALL)}
        tiny, own, mario, broken = (cards[name] for name in ("tiny", "own", "mario", "broken"))

        assert 4 == len(cards)
        assert (("llama",), "F32", 2048, 64, ("completion",)) == (
            tiny.families,
            tiny.quantization_level,
            tiny.context_length,
            tiny.embedding_length,
            tiny.capabilities,
        )
        assert ("F16", 1024) == (own.quantization_level, own.context_length)
        assert ("tiny", 5.0, tiny.size_bytes) == (mario.parent, mario.modified_at, mario.size_bytes)
        assert 4 == len({card.digest for card in cards.values()})
        assert all(len(card.digest) == 64 for card in cards.values())
        assert (0, (), ()) == (broken.size_bytes, broken.families, broken.capabilities)


async def test_only_what_the_caller_may_use(tmp_path: Path) -> None:
    """Others' models do not exist, nor their aliases."""
    async with keeping_house(tmp_path, {"own": OWN}) as house:
        house.gateway.aliases.put("mario", Alias(model="tiny"))
        house.gateway.aliases.put("luigi", Alias(model="own"))
        restricted = Principal("tester", engines=frozenset({"tiny"}))

        assert {"tiny", "mario"} == {card.name for card in await visible_cards(house.gateway, restricted)}


async def test_what_is_loaded(tmp_path: Path) -> None:
    """Nothing is before somebody asks; then its slots are told, and how long it stays."""
    async with keeping_house(tmp_path) as house:
        before = await loaded_cards(house.gateway, ALL)
        await house.gateway.fleet.load("tiny")
        ((card, stand),) = await loaded_cards(house.gateway, ALL)
        hidden = await loaded_cards(house.gateway, Principal("other", engines=frozenset({"own"})))

        assert [] == before == hidden
        assert ("tiny", "ready", 2) == (card.name, stand.state, stand.slots)


async def test_a_dossier(tmp_path: Path) -> None:
    """The settings of a config, and over them those of an alias; the context is what is served."""
    async with keeping_house(tmp_path, {"own": OWN}) as house:
        add_model(house.home, "maker/own-GGUF/own.gguf", seed=1, ctx=4096)
        own = await _dossier(house, "own")
        house.gateway.aliases.put("mario", Alias(model="own", system="hi", parameters={"top_k": 9, "num_ctx": 99}))
        mario = await _dossier(house, "mario")
        tiny = await _dossier(house, "tiny")

        assert {"temperature": 0.5, "top_k": 7, "num_ctx": 1024} == own.settings.parameters
        assert {"temperature": 0.5, "top_k": 9, "num_ctx": 1024} == mario.settings.parameters
        assert ("Be brief.", "hi", None) == (own.settings.system, mario.settings.system, tiny.settings.system)
        assert "chatml" == own.settings.template
        assert "im_start" in tiny.settings.template
        assert ("llama", [], 4096) == tuple(
            own.model_info[key] for key in ("general.architecture", "tokenizer.ggml.tokens", "llama.context_length")
        )
        assert own.parameters > 100_000


async def test_files_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are left out, and the log says so."""
    config = "model: {model_path: maker/tiny-GGUF/tiny.gguf}\nchat: {template_file: a.jinja, system_prompt_file: b.txt}"
    async with keeping_house(tmp_path) as house:
        (house.home.root / "a.jinja").write_text("template")
        (house.home.root / "b.txt").write_text("system")
        house.home.config("own").write_text(config)
        await house.reloader.reload()
        there = await _dossier(house, "own")
        for name in ("a.jinja", "b.txt"):
            (house.home.root / name).unlink()
        gone = await _dossier(house, "own")

        assert ("template", "system") == (there.settings.template, there.settings.system)
        assert ("", None) == (gone.settings.template, gone.settings.system)
        assert "its template cannot be read" in caplog.text


async def _dossier(house: House, name: str) -> Dossier:
    return await dossier(house.gateway.target_for(name, ALL), name)
