"""The sessions of a home, where no gateway serves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hugind.cli.session_home import SessionHome
from hugind.proxy.sessions.record import Owner, Session
from hugind.proxy.sessions.store import Store
from hugind.proxy.sessions.transcript import Scope, Talk, chat_chain
from hugind.supervisor.config import SessionsSection
from hugind.supervisor.errors import HugindError
from hugind.supervisor.paths import Home

ALICE, BOB = Owner("tester", "alice"), Owner("tester", "bob")
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


def store_of(home: Home, engine: str) -> Store:
    """A store that was loaded; to be closed."""
    store = Store(engine, home, SessionsSection())
    store.load()
    return store


def remember(store: Store, owner: Owner, *, used_at: float = 1.0) -> Session:
    """A session that is written down."""
    scope = Scope(owner, store.name, "model")
    session = store.create(Talk(scope, chat_chain(scope, HELLO), messages=HELLO))
    session.turns, session.used_at = 1, used_at
    store.write_record(session)
    store.write_messages(session, HELLO)
    return session


def test_the_newest_of_all_engines_come_first(home: Home) -> None:
    """However many engines there are or were, one list, within its limit; each engine is described."""
    one, other = store_of(home, "one"), store_of(home, "other")
    sessions = [remember(one, ALICE, used_at=1), remember(other, BOB, used_at=2), remember(one, BOB, used_at=3)]
    one.close()
    other.close()
    found = SessionHome(home).overview(limit=2)
    only = SessionHome(home).overview(engine="other", limit=10)

    assert [row["id"] for row in found["sessions"]] == [sessions[2].id, sessions[1].id]
    assert (found["total"], [about["engine"] for about in found["engines"]]) == (3, ["one", "other"])
    assert [row["id"] for row in only["sessions"]] == [sessions[1].id]
    assert found["sessions"][0]["gateway"] is None


def test_a_session_is_found_by_its_beginning(home: Home) -> None:
    """Shown with what was said, and forgotten; nobody else's is touched."""
    store = store_of(home, "one")
    alice, bob = remember(store, ALICE), remember(store, BOB)
    store.close()
    sessions = SessionHome(home)
    row = sessions.find(alice.id[:12])
    shown = sessions.show(row)
    sessions.forget(row)
    left = sessions.overview(limit=10)["sessions"]

    assert (shown["id"], shown["messages"]) == (alice.id, HELLO)
    assert [row["id"] for row in left] == [bob.id]
    with pytest.raises(HugindError, match="there is no session 'nothing'"):
        sessions.find("nothing")


def test_everything_of_a_user_is_forgotten(home: Home) -> None:
    """With all engines, also where no config is left."""
    one, other = store_of(home, "one"), store_of(home, "other")
    gone = {remember(one, ALICE).id, remember(other, ALICE).id}
    bob = remember(one, BOB)
    one.close()
    other.close()
    sessions = SessionHome(home)
    forgotten = sessions.forget_all(user="alice", principal=None, engine=None)

    assert set(forgotten) == gone
    assert [row["id"] for row in sessions.overview(limit=10)["sessions"]] == [bob.id]


def test_what_somebody_else_has_open_is_left_alone(home: Home) -> None:
    """A process that holds the sessions is not disturbed."""
    store = store_of(home, "one")
    remember(store, ALICE)
    with pytest.raises(HugindError, match="another process has the sessions of 'one' open"):
        SessionHome(home).overview(limit=10)
    store.close()


def test_what_needs_a_gateway_says_so(home: Home) -> None:
    """With the command that starts one."""
    store = store_of(home, "one")
    remember(store, ALICE)
    store.close()
    sessions = SessionHome(home)
    with pytest.raises(HugindError) as of_engine:
        sessions.gateway_of("one")
    with pytest.raises(HugindError, match="no running gateway serves 'one'"):
        sessions.gateway(sessions.find("ses_"))

    assert not sessions.runs
    assert of_engine.value.hint == "hugind server start one"
