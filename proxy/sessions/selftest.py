"""What a restored slot is worth with this model: found out once, by saving, restoring and asking what was reused."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import orjson

from hugind.proxy.sessions import snapshots
from hugind.proxy.sessions.prompts import PROMPT_TIMEOUT_S, hold_prompt
from hugind.supervisor.errors import HugindError
from hugind.supervisor.llama.client import SlotActionRefused, WorkerClient
from hugind.supervisor.models.family import Family
from hugind.supervisor.paths import write_private

logger = logging.getLogger(__name__)

_SENTENCE = "One two three four five six seven eight nine ten eleven twelve. "
_MIN_TOKENS = 128
_MAX_TOKENS = 4000
_CONTEXT_SHARE = 0.75
"""What follows must fit behind the text."""
_ENOUGH = 0.75
"""Of the tokens that could have been reused: the last one is always computed, and text may split otherwise at a cut."""


class Ability(StrEnum):
    """What a restored slot can be continued with."""

    ANY_PREFIX = "any-prefix"
    """Whatever begins as it does: a tail that is rendered otherwise costs only itself."""
    EXTENSION = "extension"
    """Only with what has every saved token as its beginning."""
    NONE = "none"
    """Nothing: all would be computed anew."""


@dataclass(frozen=True)
class Verdict:
    """What is known of a model."""

    ability: Ability
    reason: str

    @property
    def is_worth_saving(self) -> bool:
        """Whether a snapshot can be of any use."""
        return self.ability is not Ability.NONE


class SelfTestFailed(HugindError):  # noqa: N818 - as in "the test failed"
    """It came to no verdict: something else was wrong."""


async def self_test(
    client: WorkerClient, slot: int, folder: Path, slots: int, ctx_size: int, family: Family, window: int
) -> Verdict:
    """Save, restore and continue a short text in an idle slot of nobody's; it is empty afterwards.

    `window`: of a sliding attention, which the text should exceed: within it a restore always works.

    Raises:
        SelfTestFailed: it could not be done.
        WorkerUnreachable: the worker is gone.
    """
    source = None
    try:
        text = await _text(client, ctx_size, window)
        await hold_prompt(client, slot, text)
        snapshot = await snapshots.save(client, slot, folder, fingerprint="")
        source = folder / snapshot.file

        async def reused(next_text: str) -> int:
            await client.erase(slot)
            await snapshots.restore(client, slot, snapshot, folder / snapshot.file, folder, slots)
            return await hold_prompt(client, slot, next_text)

        longer = await reused(text + "And then?")
        other = await reused(text[: len(text) // 2] + "And then?")
    except (snapshots.SnapshotError, SlotActionRefused) as error:
        message = error.message if isinstance(error, HugindError) else str(error)
        raise SelfTestFailed(f"the self-test failed: {message}") from error
    finally:
        if source is not None:
            source.unlink(missing_ok=True)
        await client.erase(slot)
    tokens = snapshot.tokens
    if longer < tokens * _ENOUGH:
        return Verdict(Ability.NONE, f"{family} model: {longer} of {tokens} restored tokens were reused")
    if other < tokens / 2 * _ENOUGH or family is not Family.ATTENTION:
        return Verdict(Ability.EXTENSION, f"{family} model: a restored slot can only be extended")
    return Verdict(Ability.ANY_PREFIX, f"{family} model: {longer} of {tokens} restored tokens were reused")


async def _text(client: WorkerClient, ctx_size: int, window: int) -> str:
    """As long as it must be, and may be. A vocabulary decides how many tokens a sentence is: from 12 to 65."""
    answer = await client.ask("/tokenize", {"content": _SENTENCE}, PROMPT_TIMEOUT_S)
    per_sentence = max(len(answer.get("tokens", ())), 1)
    most = min(int(ctx_size * _CONTEXT_SHARE), _MAX_TOKENS)
    return _SENTENCE * max(min(max(_MIN_TOKENS, 2 * window), most) // per_sentence, 1)


class Verdicts:
    """What was found out before, by fingerprint, in one small file. Methods block on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, fingerprint: str) -> Verdict | None:
        """What is known, if anything."""
        try:
            known = self._read()[fingerprint]
            return Verdict(Ability(known["ability"]), known["reason"])
        except (KeyError, TypeError, ValueError):  # not there, or of another version
            return None

    def put(self, fingerprint: str, verdict: Verdict) -> None:
        """Remember it; a file that cannot be written only costs another test."""
        try:
            write_private(self._path, orjson.dumps({**self._read(), fingerprint: asdict(verdict)}).decode())
        except OSError as error:
            logger.warning("the verdict on a model was not written down: %s", error)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            known = orjson.loads(self._path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        return known if isinstance(known, dict) else {}
