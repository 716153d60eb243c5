"""What is known of a session: written down and read back, or refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.sessions.record import RECORD_VERSION, Owner, Session, Snapshot

SNAPSHOT = Snapshot("a.kv", tokens=9, size_bytes=900, checksum="c", n_stream=2, fingerprint="f", saved_at=10.0)
RUNTIME = ("quiet_since", "turn_lock", "kv_lock", "messages", "template", "source")

texts = st.text(max_size=8)
counts = st.integers(0, 2**53)
times = st.floats(0, 2**40)
snapshots = st.builds(
    Snapshot,
    file=texts,
    tokens=counts,
    size_bytes=counts,
    checksum=texts,
    n_stream=st.none() | counts,
    fingerprint=texts,
    saved_at=times,
)
sessions = st.builds(
    Session,
    owner=st.builds(Owner, texts, st.none() | texts),
    engine=texts,
    family=texts,
    name=st.none() | texts,
    chain=st.lists(st.binary(min_size=16, max_size=16), max_size=3).map(tuple),
    id=texts,
    memory=st.none() | snapshots,
    disk=st.none() | snapshots,
    is_kept=st.booleans(),
    is_pinned=st.booleans(),
    created_at=times,
    used_at=times,
    turns=counts,
    hits=st.dictionaries(st.sampled_from(("hot", "warm", "cold", "new")), counts).map(Counter),
    hollow=counts,
)


def written(session: Session | None = None) -> Any:
    """As it lies on the disk."""
    session = session or Session(Owner("ann"), "chat", "f", memory=SNAPSHOT, hits=Counter(new=1))
    return orjson.loads(orjson.dumps(session.to_json()))


@given(sessions)
def test_round_trip(session: Session) -> None:
    """What is written down is read back, all of it and as it was."""
    read = Session.from_json(written(session))

    for f in fields(Session):
        if f.name not in RUNTIME:
            assert getattr(session, f.name) == getattr(read, f.name)
    assert session.to_json() == read.to_json()
    assert 0 == read.hits["of a label that was not counted yet"]


def test_what_is_not_written() -> None:
    """Locks, and what was said, are not in a record; whoever reads one cannot be given them."""
    session = Session(Owner("ann"), "chat", "f", messages=[{"role": "user", "content": "secret"}])
    record = written(session)

    assert not set(RUNTIME) & record.keys()
    assert "secret" not in str(record)
    for name in RUNTIME:
        with pytest.raises(ValueError):
            Session.from_json({**record, name: None})


def test_a_field_that_is_newer() -> None:
    """A record from before a field was there is read, with what the field is by itself."""
    record = written()
    del record["hollow"]

    assert 0 == Session.from_json(record).hollow


@pytest.mark.parametrize(
    "change",
    [
        {"version": RECORD_VERSION + 1},
        {"version": None},
        {"more": 1},
        {"owner": None},
        {"owner": "ann"},
        {"owner": {"principal": None}},
        {"owner": {"principal": "ann", "user": 5}},
        {"owner": {"principal": "ann", "more": 1}},
        {"engine": None},
        {"name": 5},
        {"chain": None},
        {"chain": ["no hex"]},
        {"chain": [5]},
        {"id": None},
        {"memory": {}},
        {"memory": "a.kv"},
        {"memory": {**written()["memory"], "file": None}},
        {"memory": {**written()["memory"], "tokens": 1.5}},
        {"disk": {**written()["memory"], "more": 1}},
        {"is_pinned": 1},
        {"used_at": "today"},
        {"turns": True},
        {"hits": 5},
        {"hits": ["hot"]},
        {"hits": {"hot": "often"}},
    ],
    ids=str,
)
def test_foreign_shapes(change: dict[str, Any]) -> None:
    """A record of another version or shape is refused in one way, so that one bad file cannot stop a start."""
    with pytest.raises(ValueError):
        Session.from_json({**written(), **change})


@pytest.mark.parametrize("missing", ["version", "owner", "engine", "family", "chain", "memory", "disk", "hits"])
def test_missing_fields(missing: str) -> None:
    """A record without what every record has is none."""
    record = written()
    del record[missing]

    with pytest.raises(ValueError):
        Session.from_json(record)


@pytest.mark.parametrize("value", [None, [], {}, "text", 5, [["version", 1]]])
def test_no_record(value: Any) -> None:
    """Other JSON is no record."""
    with pytest.raises(ValueError):
        Session.from_json(value)


tricky = st.text(alphabet='ab\0/"\\,[]\ud800', max_size=4)
owners = st.builds(Owner, tricky, st.none() | tricky)


@given(owners, owners)
def test_owners_are_told_apart(one: Owner, other: Owner) -> None:
    """Two owners have one name for files only if they are one: whatever stands in what a client calls its users."""
    assert (one == other) is (one.digest == other.digest)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Owner("a"), Owner("a", "")),
        (Owner("a"), Owner("a", "null")),
        (Owner("a\0named", "b"), Owner("a", "named\0b")),
        (Owner("a/b"), Owner("a", "b")),
        (Owner("ab", "c"), Owner("a", "bc")),
        (Owner("é"), Owner("e\u0301")),
    ],
)
def test_owners_that_look_alike(one: Owner, other: Owner) -> None:
    """No separator, empty name or spelling makes two owners one."""
    assert one.digest != other.digest


@given(owners)
def test_digests_are_names_of_folders(owner: Owner) -> None:
    """Nothing of the owner's is in it."""
    assert 32 == len(owner.digest)
    assert set(owner.digest) <= set("0123456789abcdef")


def test_owners_as_people_read_them() -> None:
    """The principal, and which of its people."""
    assert ("ann", "ann/bob") == (str(Owner("ann")), str(Owner("ann", "bob")))


def test_the_newest_snapshot() -> None:
    """That in memory, whatever the clock said; whichever there is where there is one."""
    older, newer = replace(SNAPSHOT, saved_at=1.0), replace(SNAPSHOT, saved_at=2.0)
    session = Session(Owner("ann"), "chat", "f")

    assert session.newest is None
    session.disk = older
    assert session.newest is older
    session.memory = newer
    assert session.newest is newer
    session.memory, session.disk = older, newer  # the clock was put back
    assert session.newest is older
    session.memory = replace(newer, file="other.kv")
    assert session.newest is session.memory


def test_worth_keeping() -> None:
    """What has a snapshot, what is kept here and what is pinned is missed when it is gone."""
    plain = Session(Owner("ann"), "chat", "f")

    assert not plain.is_worth_keeping
    assert Session(Owner("ann"), "chat", "f", disk=SNAPSHOT).is_worth_keeping
    assert Session(Owner("ann"), "chat", "f", is_kept=True).is_worth_keeping
    assert Session(Owner("ann"), "chat", "f", is_pinned=True).is_worth_keeping


def test_ids() -> None:
    """Each session has one of its own, that fits into a file name and cannot be guessed."""
    ids = {Session(Owner("ann"), "chat", "f").id for _ in range(100)}

    assert 100 == len(ids)
    assert all(session.startswith("ses_") and session[4:].isalnum() and len(session) == 28 for session in ids)
