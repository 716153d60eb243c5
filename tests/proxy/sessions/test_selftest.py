"""What a restored slot is worth is found out by trying, once, and is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.sessions.selftest import Ability, SelfTestFailed, Verdict, Verdicts, self_test
from hugind.supervisor.errors import WorkerUnreachable
from hugind.supervisor.llama.client import SlotActionRefused, SlotState
from hugind.supervisor.models.family import Family
from tests.fakes.standin import StartStandin, standin_model, start_standin
from tests.proxy.sessions.engine_slots import SLOTS, FakeSlots, client_of, slot_file

__all__ = ["standin_model", "start_standin"]

CTX = 4096


class FakeModel(FakeSlots):
    """A slot of a model that reuses as much of what was restored as the test wants."""

    def __init__(self, folder: Path, *, extended: float = 1, cut: float = 0.5, per_word: int = 4) -> None:
        super().__init__(folder)
        self._reuse = {"extended": extended, "cut": cut}
        self._per_word = per_word
        self._held = ""
        self.prompts: list[str] = []
        self.is_restored = False
        self.refuses: str | None = None
        """A path that it answers with an error."""
        self.dies = False

    @property
    def _tokens(self) -> int:
        return len(self._held.split()) * self._per_word

    async def ask(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if self.dies:
            raise WorkerUnreachable("dead")
        if path == self.refuses:
            raise SlotActionRefused(f"{path} answered 500")
        if path == "/tokenize":
            return {"tokens": [1] * (len(body["content"].split()) * self._per_word)}
        assert (path, 0, 0) == ("/completion", body["n_predict"], body["id_slot"])
        before, self._held = self._held, body["prompt"]
        self.prompts.append(self._held)
        if not self.is_restored:
            self.state = SlotState(0, is_processing=False, tokens=self._tokens)
            self.data = slot_file(self._tokens)
            self.saved = type(self.saved)(self._tokens, len(self.data))
            self.restored = self._tokens
            return {"timings": {"cache_n": 0}}
        share = self._reuse["extended" if self._held.startswith(before) else "cut"]
        return {"timings": {"cache_n": int(self.restored * share)}}

    async def restore(self, slot: int, file: str) -> int:
        self.is_restored, self._held = True, self.prompts[0]
        return await super().restore(slot, file)


async def verdict_of(
    model: FakeModel, family: Family = Family.ATTENTION, *, ctx: int = CTX, window: int = 0
) -> Verdict:
    """Of a test in the fake's slot."""
    return await self_test(model.client, 0, model.folder, SLOTS, ctx, family, window)


@pytest.mark.parametrize(
    ("family", "extended", "cut", "ability"),
    [
        (Family.ATTENTION, 1, 0.5, Ability.ANY_PREFIX),
        (Family.ATTENTION, 0.98, 0.4, Ability.ANY_PREFIX),
        (Family.ATTENTION, 1, 0.3, Ability.EXTENSION),
        (Family.ATTENTION, 1, 0, Ability.EXTENSION),
        (Family.ATTENTION, 0.7, 0.5, Ability.NONE),
        (Family.ATTENTION, 0, 0, Ability.NONE),
        (Family.RECURRENT, 1, 0, Ability.EXTENSION),
        (Family.HYBRID, 1, 0.5, Ability.EXTENSION),
        (Family.SWA, 1, 0.5, Ability.EXTENSION),
        (Family.SWA, 0.2, 0.1, Ability.NONE),
    ],
)
async def test_verdicts(tmp_path: Path, family: Family, extended: float, cut: float, ability: Ability) -> None:
    """By what was reused of a text that goes on, and of one that leaves it half way; and by what the model is."""
    model = FakeModel(tmp_path, extended=extended, cut=cut)
    verdict = await verdict_of(model, family)

    assert ability is verdict.ability
    assert (ability is not Ability.NONE) is verdict.is_worth_saving
    assert str(family) in verdict.reason
    assert "erase" == model.asked[-1][0]
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("per_word", [1, 4, 9])
@pytest.mark.parametrize("window", [0, 64, 1024])
async def test_the_text_is_longer_than_a_window(tmp_path: Path, window: int, per_word: int) -> None:
    """Within one, a restore always works; whatever the vocabulary makes of the text, it goes beyond."""
    model = FakeModel(tmp_path, per_word=per_word)
    await verdict_of(model, window=window)
    tokens = len(model.prompts[0].split()) * per_word

    assert max(window, 20) < tokens < CTX


async def test_the_text_fits_into_the_context(tmp_path: Path) -> None:
    """Even into a small one."""
    model = FakeModel(tmp_path)
    await verdict_of(model, ctx=256, window=4096)

    assert len(model.prompts[1].split()) * 4 < 256


@pytest.mark.parametrize("refuses", ["/tokenize", "/completion"])
async def test_a_test_that_cannot_be_done(tmp_path: Path, refuses: str) -> None:
    """It says nothing about the model, and what was wrong is told."""
    model = FakeModel(tmp_path)
    model.refuses = refuses
    with pytest.raises(SelfTestFailed, match=f"{refuses} answered 500"):
        await verdict_of(model)

    assert "erase" == model.asked[-1][0]
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("lie", ["saved", "restored"])
async def test_an_engine_that_lies(tmp_path: Path, lie: str) -> None:
    """What does not agree is no verdict either; no file is left."""

    class Liar(FakeModel):
        async def restore(self, slot: int, file: str) -> int:
            return await super().restore(slot, file) - (lie == "restored")

        async def slots(self, timeout_s: float) -> list[SlotState]:
            return [] if lie == "saved" else await super().slots(timeout_s)

    with pytest.raises(SelfTestFailed):
        await verdict_of(Liar(tmp_path))

    assert [] == list(tmp_path.iterdir())


async def test_a_worker_that_dies(tmp_path: Path) -> None:
    """Nothing was found out; that is not for the test to handle."""
    model = FakeModel(tmp_path)
    model.dies = True
    with pytest.raises(WorkerUnreachable):
        await verdict_of(model)

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "ability"),
    [((), Ability.ANY_PREFIX), (("--extend-only",), Ability.EXTENSION), (("--hollow-after", "0"), Ability.NONE)],
)
async def test_on_a_running_engine(
    start_standin: StartStandin, tmp_path: Path, flags: tuple[str, ...], ability: Ability
) -> None:
    """The slot is empty afterwards, and so is the folder."""
    folder = tmp_path / "slots"
    folder.mkdir()
    standin = start_standin("--parallel", str(SLOTS), "--slot-save-path", str(folder), *flags)
    client = client_of(standin)
    verdict = await self_test(client, 1, folder, SLOTS, CTX, Family.ATTENTION, 0)
    left = (await client.slots(5))[1].tokens
    client.close()

    assert ability is verdict.ability
    assert 0 == left
    assert [] == list(folder.iterdir())


# ---- what is remembered


def test_verdicts_are_remembered(tmp_path: Path) -> None:
    """Each by its fingerprint, by whoever asks later."""
    path = tmp_path / "verdicts.json"
    given = {str(number): Verdict(ability, f"because {number}") for number, ability in enumerate(Ability)}
    for fingerprint, verdict in given.items():
        Verdicts(path).put(fingerprint, verdict)

    assert given == {fingerprint: Verdicts(path).get(fingerprint) for fingerprint in given}
    assert Verdicts(path).get("9") is None
    assert 0o600 == path.stat().st_mode & 0o777


def test_the_last_verdict_counts(tmp_path: Path) -> None:
    """One may change."""
    verdicts = Verdicts(tmp_path / "verdicts.json")
    for ability in (Ability.NONE, Ability.EXTENSION):
        verdicts.put("a", Verdict(ability, "why"))

    assert Verdict(Ability.EXTENSION, "why") == verdicts.get("a")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[1]", b'{"a":1}', b'{"a":{}}', b'{"a":{"ability":"psychic","reason":"x"}}', b"\xff"],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """It only costs another test, and is replaced."""
    path = tmp_path / "verdicts.json"
    if content is not None:
        path.write_bytes(content)
    before = Verdicts(path).get("a")
    Verdicts(path).put("a", Verdict(Ability.NONE, "why"))

    assert before is None
    assert Verdict(Ability.NONE, "why") == Verdicts(path).get("a")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """It costs another test, too."""
    verdicts = Verdicts(tmp_path / "none" / "verdicts.json")
    verdicts.put("a", Verdict(Ability.NONE, "why"))

    assert verdicts.get("a") is None
