"""Snapshots are made and used only where they have shown, or are still believed, to be worth it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hugind.proxy.sessions.policy import HOLLOW_LIMIT, Policy
from hugind.proxy.sessions.record import Owner, Session
from hugind.proxy.sessions.selftest import Ability, Verdict, Verdicts
from hugind.supervisor.config import Config
from hugind.supervisor.engine import Engine
from tests.proxy.serving import serving, standin_config
from tests.proxy.sessions.parts import idle, parts
from tests.proxy.sessions.storing import ENGINE, memory_folder, needs_memory
from tools.random_gguf import make_swa_gguf

pytestmark = needs_memory

GOOD = Verdict(Ability.ANY_PREFIX, "good")
MIN_TOKENS = 100
SMALL: Any = {"dim": 32, "layers": 2, "heads": 2, "kv_heads": 1, "ff": 32}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, as `sessions.memory_folder`."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def known(tmp_path: Path, memory: Path) -> Iterator[Policy]:
    """Of a model that can be restored."""
    with idle(tmp_path, memory, min_tokens=MIN_TOKENS) as made:
        made.policy.verdict = GOOD
        yield made.policy


def session_of(principal: str) -> Session:
    return Session(Owner(principal), ENGINE, "model")


def restore(policy: Policy, session: Session, reused: int, of: int = 100) -> None:
    """A turn after a restore, as the keeper tells of it."""
    session.hits["warm"] += 1
    policy.judge_restore(session, of, reused)


# ---- hollow restores


@pytest.mark.parametrize(("reused", "hollow"), [(0, 1), (49, 1), (50, 0), (100, 0)])
def test_what_counts_as_hollow(known: Policy, reused: int, hollow: int) -> None:
    """A restore of which less than half was of use is counted, with its session."""
    session = session_of("alice")
    restore(known, session, reused)

    assert (hollow, hollow) == (session.hollow, known._store.hollow)


def test_hollow_restores_of_one_session(known: Policy) -> None:
    """After three it is restored no more, others are; nobody else pays for who says something else each time."""
    session, other = session_of("alice"), session_of("alice")
    worth = []
    for _ in range(HOLLOW_LIMIT):
        worth.append(known.is_worth_restoring(session))
        restore(known, session, 0)

    assert [True] * HOLLOW_LIMIT == worth
    assert not known.is_worth_restoring(session)
    assert known.is_worth_restoring(other)
    assert known.is_worth_saving(MIN_TOKENS)


def test_a_session_whose_restores_are_good_mostly(known: Policy) -> None:
    """Hollow ones that are not more than half of all end nothing."""
    session = session_of("alice")
    for _ in range(HOLLOW_LIMIT):
        restore(known, session, 100)
        restore(known, session, 0)

    assert HOLLOW_LIMIT == session.hollow
    assert known.is_worth_restoring(session)


def test_hollow_restores_of_one_principal(known: Policy) -> None:
    """However many sessions of one there are, they say nothing about the model."""
    for _ in range(HOLLOW_LIMIT * 2):
        restore(known, session_of("alice"), 0)

    assert known.can_restore


def test_hollow_restores_of_everybody(known: Policy) -> None:
    """After those of three principals in a row nothing is restored or saved any more."""
    sessions = [session_of(name) for name in ("alice", "bob", "carol")]
    before = []
    for session in sessions:
        before.append(known.can_restore)
        restore(known, session, 0)

    assert [True] * 3 == before
    assert known.verdict
    assert (Ability.NONE, "the restores of 3 users in a row saved nothing") == (
        known.verdict.ability,
        known.verdict.reason,
    )
    assert not known.can_restore
    assert not known.is_worth_restoring(session_of("dora"))
    assert [False, False] == [known.is_worth_saving(tokens) for tokens in (0, MIN_TOKENS)]


def test_a_good_restore_in_between(known: Policy) -> None:
    """It is counted anew after that."""
    for reused, names in ((0, "ab"), (100, "c"), (0, "de")):
        for name in names:
            restore(known, session_of(name), reused)
    before = known.can_restore
    restore(known, session_of("f"), 0)

    assert before
    assert not known.can_restore


# ---- is a save worth it


@pytest.mark.parametrize(
    ("tokens", "is_worth_it"), [(0, True), (1, False), (MIN_TOKENS - 1, False), (MIN_TOKENS, True)]
)
def test_how_many_tokens_are_saved(known: Policy, tokens: int, is_worth_it: bool) -> None:
    """`sessions.min_tokens` at least; where it is not known how many there are, it is looked."""

    assert is_worth_it == known.is_worth_saving(tokens)


@pytest.mark.parametrize("verdict", [None, Verdict(Ability.NONE, "bad")])
def test_nothing_is_saved_for_nothing(known: Policy, verdict: Verdict | None) -> None:
    """Where it is not known yet, or known not to be of use, nothing is saved or restored."""
    known.verdict = verdict

    assert [False, False] == [known.is_worth_saving(tokens) for tokens in (0, MIN_TOKENS)]
    assert not known.is_worth_restoring(session_of("alice"))
    assert not known.must_render


def test_what_is_computed_faster_than_saved(known: Policy) -> None:
    """Is not saved, however many tokens it has; but unknown ones are looked at."""
    known.rates.saw_save(tokens=1000, size_bytes=1_000_000, seconds=10)
    known.rates.saw_prefill(tokens=1000, seconds=1)

    assert [False, True] == [known.is_worth_saving(tokens) for tokens in (5000, 0)]


def test_turns_without_a_save_are_another_chance(known: Policy) -> None:
    """A slow save is forgotten little by little: after some turns it is tried again."""
    known.rates.saw_save(tokens=1000, size_bytes=1_000_000, seconds=10)
    turns = 0
    while not (turns and known.is_worth_saving(5000)):
        known.saw_turn({"prompt_n": 1000, "prompt_ms": 1000.0}, 5000)
        turns += 1

        assert turns < 100
    assert turns > 1


def test_figures_that_an_engine_does_not_tell(known: Policy) -> None:
    """Change nothing."""
    known.saw_turn({}, 5000)

    assert 0 == known.rates.prefill
    assert known.is_worth_saving(5000)


@pytest.mark.parametrize(
    ("ability", "must_render"), [(Ability.ANY_PREFIX, False), (Ability.EXTENSION, True), (Ability.NONE, False)]
)
def test_what_must_be_rendered(known: Policy, ability: Ability, must_render: bool) -> None:
    """Only models whose slots can only be extended."""
    known.verdict = Verdict(ability, "")

    assert must_render == known.must_render


# ---- verdicts


def verdicts_of(engine: Engine) -> Verdicts:
    """What is written down."""
    return Verdicts(engine.home.sessions / "verdicts.json")


def test_nothing_is_known_at_first(tmp_path: Path, memory: Path) -> None:
    """Before the first worker is there nothing is saved or restored."""
    with idle(tmp_path, memory) as made:
        assert (None, None, False) == (made.policy.identity, made.policy.verdict, made.policy.can_restore)


async def test_a_verdict_is_found_and_remembered(tmp_path: Path, memory: Path) -> None:
    """A test on a worker says what the model can do; that is written down for the next start."""
    async with parts(tmp_path, memory) as made:
        verdict = made.policy.verdict

        assert verdict
        assert Ability.ANY_PREFIX == verdict.ability
        assert verdict == verdicts_of(made.engine).get(made.policy.fingerprint)
        assert [0, 0] == [await made.tokens(slot) for slot in (0, 1)]


async def test_a_remembered_verdict_is_not_tested_again(tmp_path: Path, memory: Path) -> None:
    """What was found out about this fingerprint before is believed, as long as it is this one."""
    async with parts(tmp_path, memory) as made:
        verdicts, spawn = verdicts_of(made.engine), made.served.spawn()
        remembered = Verdict(Ability.EXTENSION, "remembered")
        verdicts.put(made.policy.fingerprint, remembered)
        again = Policy(made.engine, made.store)
        await again.learn(spawn)
        verdicts.put(made.policy.fingerprint, GOOD)
        await again.learn(spawn)

        assert remembered == again.verdict


async def test_a_failed_test_is_not_remembered(tmp_path: Path, memory: Path) -> None:
    """It says nothing about the model: nothing is saved for now, and the next worker that starts tries again."""
    async with parts(tmp_path, memory) as made:
        verdicts, slots, aside = verdicts_of(made.engine), made.store.slots.path, memory / "aside"
        (made.engine.home.sessions / "verdicts.json").unlink()
        slots.rename(aside)
        policy = Policy(made.engine, made.store)
        await policy.learn(made.served.spawn())
        failed, remembered = policy.verdict, verdicts.get(policy.fingerprint)
        aside.rename(slots)
        await policy.learn(made.served.spawn())
        later = policy.verdict

        assert failed
        assert Ability.NONE == failed.ability
        assert failed.reason.startswith("the self-test failed: ")
        assert None is remembered
        assert later
        assert Ability.ANY_PREFIX == later.ability


async def test_sessions_that_are_not_enabled(tmp_path: Path, memory: Path) -> None:
    """Nothing is tested or saved; and that says nothing about the model."""
    async with parts(tmp_path, memory, enabled=False) as made:
        assert Verdict(Ability.NONE, "sessions.enabled is false") == made.policy.verdict
        assert None is verdicts_of(made.engine).get(made.policy.fingerprint)


async def test_a_whole_cache_for_a_sliding_window(tmp_path: Path, memory: Path) -> None:
    """With `context.swa_full` nothing is restored: the engine would not notice what is missing."""
    async with serving(tmp_path, {ENGINE: _swa_config(tmp_path, memory, swa_full=True)}) as served:
        policy = served.gateway.keeper(served.engine()).policy

        assert policy.verdict
        assert Ability.NONE == policy.verdict.ability
        assert "swa_full" in policy.verdict.reason


async def test_a_sliding_window(tmp_path: Path, memory: Path) -> None:
    """Without `context.swa_full` its slots are of use, to be extended."""
    async with serving(tmp_path, {ENGINE: _swa_config(tmp_path, memory, swa_full=False)}) as served:
        policy = served.gateway.keeper(served.engine()).policy

        assert policy.must_render


def _swa_config(folder: Path, memory: Path, *, swa_full: bool) -> Config:
    model = make_swa_gguf(folder / "swa.gguf", **SMALL)
    return standin_config(
        folder,
        model={"model_path": str(model)},
        context={"swa_full": swa_full},
        sessions={"memory_folder": str(memory)},
    )
