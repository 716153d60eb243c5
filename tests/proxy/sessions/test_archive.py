"""A session comes out of its archive as it went in, and nothing else ever does."""

from __future__ import annotations

import hashlib
import io
import random
import stat
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.sessions.archive import NOBODY, ArchiveError, read_archive, write_archive
from hugind.proxy.sessions.record import Owner, Session, Snapshot

ROOMY = 1 << 30
MESSAGES = [{"role": "user", "content": "Hallo, ä\x00"}, {"role": "assistant", "content": None, "x": [1, 2.5]}]
KV = random.Random(1).randbytes(1500)


def snapshot_of(data: bytes) -> Snapshot:
    return Snapshot(
        file="0123.kv",
        tokens=77,
        size_bytes=len(data),
        checksum=xxhash.xxh3_128_hexdigest(data),
        n_stream=4,
        fingerprint="f" * 32,
        saved_at=1234.5,
    )


def a_session(data: bytes | None = KV) -> Session:
    """A session with something in every field; `data`: its snapshot, in memory."""
    return Session(
        owner=Owner("secret-principal", "secret-user"),
        engine="demo",
        family="ab" * 16,
        name="my chat",
        chain=(b"a" * 16, b"b" * 16),
        memory=snapshot_of(data) if data is not None else None,
        is_kept=True,
        is_pinned=True,
        created_at=1000.25,
        used_at=2000.5,
        turns=9,
        hits=Counter({"hot": 4, "new": 1}),
        hollow=1,
    )


def archived(session: Session, messages: list[Any] | None, data: bytes | None) -> bytes:
    with TemporaryDirectory() as folder:
        path = None
        if data is not None:
            path = Path(folder) / "snapshot"
            path.write_bytes(data)
        target = io.BytesIO()
        write_archive(target, session, messages, path)
        return target.getvalue()


FULL = archived(a_session(), MESSAGES, KV)
BARE = archived(a_session(None), None, None)


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def tar_of(files: dict[str, bytes], **fields: object) -> bytes:
    """As `write_archive` packs them, but for `fields` of the last header."""
    target = io.BytesIO()
    for name, data in files.items():
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o600
        if name == list(files)[-1]:
            for field, value in fields.items():
                setattr(info, field, value)
        target.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
    return target.getvalue() + bytes(1024)


def forged(archive: bytes, **changes: object) -> bytes:
    """The archive with another transcript, or other values in its manifest (`session__turns`), digests made anew."""
    files = members(archive)
    manifest = orjson.loads(files["manifest.json"])
    files["transcript.json"] = bytes(changes.pop("transcript", files["transcript.json"]))  # type: ignore[call-overload]
    manifest["transcript"] = {
        "size": len(files["transcript.json"]),
        "sha256": hashlib.sha256(files["transcript.json"]).hexdigest(),
    }
    for key, value in changes.items():
        *places, last = key.split("__")
        inner = manifest
        for place in places:
            inner = inner[place]
        inner[last] = value
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()
    files["manifest.json"] = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
    return tar_of(files)


def refuse(archive: bytes, message: str | None = None, *, max_bytes: int = ROOMY) -> None:
    with TemporaryDirectory() as folder:
        with pytest.raises(ArchiveError, match=message):
            read_archive(io.BytesIO(archive), Path(folder), max_bytes=max_bytes)

        assert [] == list(Path(folder).iterdir())


def test_everything(tmp_path: Path) -> None:
    """Transcript, snapshot and all that is known come back; whose it is and where it was stay behind."""
    found = read_archive(io.BytesIO(FULL), tmp_path, max_bytes=ROOMY)
    session = a_session()
    assert found.snapshot is not None
    assert session.memory is not None
    told = {**session.to_json(), "owner": {"principal": "", "user": None}, "id": found.session.id, "memory": None}
    told["disk"] = {**session.memory.__dict__, "file": found.snapshot.name}

    assert told == found.session.to_json()
    assert NOBODY == found.session.owner
    assert session.id != found.session.id
    assert MESSAGES == found.messages
    assert KV == found.snapshot.read_bytes()
    assert 0o600 == stat.S_IMODE(found.snapshot.stat().st_mode)
    assert [found.snapshot] == list(tmp_path.iterdir())
    assert b"secret-" not in FULL
    assert session.id.encode() not in FULL


def test_nothing_but_the_record(tmp_path: Path) -> None:
    """A session without transcript and snapshot has an archive as well."""
    found = read_archive(io.BytesIO(BARE), tmp_path, max_bytes=ROOMY)

    assert (None, None, None, None) == (found.messages, found.snapshot, found.session.memory, found.session.disk)
    assert a_session().hits == found.session.hits
    assert [] == list(tmp_path.iterdir())


@given(st.binary(max_size=3000), st.lists(st.dictionaries(st.text(), st.text() | st.integers(0, 99) | st.none())))
def test_any_content(data: bytes, messages: list[dict[str, Any]]) -> None:
    """Whatever the snapshot and the messages hold comes back."""
    messages = [{**message, "role": "user"} for message in messages]
    with TemporaryDirectory() as folder:
        found = read_archive(io.BytesIO(archived(a_session(data), messages, data)), Path(folder), max_bytes=ROOMY)

        assert messages == found.messages
        assert found.snapshot is not None
        assert data == found.snapshot.read_bytes()


def test_a_tar_for_all(tmp_path: Path) -> None:
    """Any tool lists and unpacks it."""
    (tmp_path / "archive.tar").write_bytes(FULL)
    listed = subprocess.run(
        ["tar", "-tf", "archive.tar"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )

    assert ["manifest.json", "transcript.json", "snapshot.kv"] == listed.stdout.split() == list(members(FULL))
    assert MESSAGES == orjson.loads(members(FULL)["transcript.json"])
    assert KV == members(FULL)["snapshot.kv"]


class Pipe(io.RawIOBase):
    """Gives a few bytes at a time and cannot seek, as a socket does."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 100))


def test_from_a_pipe(tmp_path: Path) -> None:
    """A source that gives less than was asked for is read on."""
    found = read_archive(Pipe(FULL), tmp_path, max_bytes=ROOMY)  # type: ignore[arg-type]

    assert MESSAGES == found.messages


@given(st.sampled_from((FULL, BARE)), st.data())
def test_any_flip(archive: bytes, data: st.DataObject) -> None:
    """A changed byte is noticed, wherever it is."""
    changed = bytearray(archive)
    changed[data.draw(st.integers(0, len(archive) - 1))] ^= data.draw(st.integers(1, 255))
    refuse(bytes(changed))


@given(st.sampled_from((FULL, BARE)), st.data())
def test_any_cut(archive: bytes, data: st.DataObject) -> None:
    """A missing end or piece is noticed."""
    start = data.draw(st.integers(0, len(archive) - 1))
    end = data.draw(st.just(len(archive)) | st.integers(start + 1, len(archive)))
    refuse(archive[:start] + archive[end:])


@given(st.binary(min_size=1, max_size=2000))
def test_anything_added(more: bytes) -> None:
    """Something at the end, or anything else than an archive, is refused."""
    refuse(FULL + more, "added at the end")
    refuse(more)


@pytest.mark.parametrize(
    "files",
    [
        ("transcript.json", "manifest.json", "snapshot.kv"),
        ("manifest.json", "snapshot.kv", "transcript.json"),
        ("manifest.json", "transcript.json"),
        ("manifest.json",),
        ("manifest.json", "transcript.json", "snapshot.kv", "snapshot.kv"),
        (),
    ],
)
def test_members(files: tuple[str, ...]) -> None:
    """Members that are missing, in another order or too many are refused."""
    parts = members(FULL)
    archive = b"".join(tar_of({name: parts[name]})[:-1024] for name in files) + bytes(1024)
    refuse(archive)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "./snapshot.kv", "snapshot.kv/", "Snapshot.kv", "x" * 90])
def test_names(name: str) -> None:
    """A member of another name is refused, and its name used for nothing."""
    parts = members(FULL)
    parts[name] = parts.pop("snapshot.kv")
    refuse(tar_of(parts), "something else is where snapshot.kv should be")


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "manifest.json"},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"type": tarfile.XHDTYPE},
        {"type": tarfile.GNUTYPE_LONGNAME},
        {"mode": 0o4755},
        {"uid": 1000},
        {"size": -1},
    ],
)
def test_no_regular_file(fields: dict[str, object]) -> None:
    """Links, folders, devices, sparse files and extensions of the format are refused."""
    refuse(tar_of(members(FULL), **fields), "something else is where snapshot.kv should be")


def test_too_large() -> None:
    """No more is read than was allowed, whatever the headers claim; and all of what was."""
    total = sum(map(len, members(FULL).values()))
    refuse(FULL, "too large", max_bytes=total - 1)
    refuse(FULL, "too large", max_bytes=10)
    for name in ("manifest.json", "transcript.json", "snapshot.kv"):
        claim = tarfile.TarInfo(name)
        claim.size, claim.mode = 1 << 60, 0o600
        before = FULL[: FULL.index(name.encode() + bytes(20))]
        refuse(before + claim.tobuf(tarfile.GNU_FORMAT), "too large|another size")
    with TemporaryDirectory() as folder:
        assert read_archive(io.BytesIO(FULL), Path(folder), max_bytes=total).snapshot


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format"),
        ({"extra": 1}, "extra"),
        ({"session__version": 2}, "session.version"),
        ({"session__owner": {"principal": "root"}}, "session.owner"),
        ({"session__id": "../../x"}, "session.id"),
        ({"session__turn_lock": 1}, "session.turn_lock"),
        ({"session__memory": None}, "session.memory"),
        ({"session__engine": "../x"}, "session.engine"),
        ({"session__turns": -1}, "session.turns"),
        ({"session__turns": True}, "session.turns"),
        ({"session__turns": "1"}, "session.turns"),
        ({"session__name": "x" * 2000}, "session.name"),
        ({"session__chain": ["xy"]}, "session.chain.0"),
        ({"session__chain": ["abc"]}, "session.chain.0"),
        ({"session__hits": {"lukewarm": 1}}, "session.hits"),
        ({"session__is_pinned": 1}, "session.is_pinned"),
        ({"session__disk__file": "/etc/passwd"}, "session.disk.file"),
        ({"session__disk__n_stream": 1.5}, "session.disk.n_stream"),
        ({"session__disk__checksum": "0" * 32}, "is not the one"),
        ({"session__disk__size_bytes": 1}, "is not the one"),
        ({"session__disk": None}, "there is a snapshot and nothing about it"),
        ({"snapshot": None}, "there is a snapshot and nothing about it"),
        ({"snapshot__size": 1}, "another size"),
        ({"snapshot__sha256": "0" * 64}, "snapshot.kv was changed"),
        ({"transcript": b"{"}, "no JSON"),
        ({"transcript": b'"\xff"'}, "no JSON"),
        ({"transcript": b"[" * 100_000}, "no JSON"),
        ({"transcript": b'[{"role":"user","x":' + b"[" * 500 + b"]" * 500 + b"}]"}, "transcript.json"),
        ({"transcript": b"{}"}, "no list of messages"),
        ({"transcript": b"[1]"}, "message 0 has no role"),
        ({"transcript": b'[{"role":"user"},{"role":null}]'}, "message 1 has no role"),
    ],
)
def test_forged(changes: dict[str, object], message: str) -> None:
    """Values that no session has are refused, by name, even if all digests agree."""
    refuse(forged(FULL, **changes), message)


def test_forging_works(tmp_path: Path) -> None:
    """The archives of the test above are refused for what was changed in them."""
    assert FULL == forged(FULL)
    assert 10 == read_archive(io.BytesIO(forged(FULL, session__turns=10)), tmp_path, max_bytes=ROOMY).session.turns


def test_written_otherwise() -> None:
    """A manifest that means the same and is written in another way is refused: something may hide in it."""
    files = members(FULL)
    for hidden in (b" ", b'"turns":1,'):
        manifest = files["manifest.json"].replace(b"{", b"{" + hidden, 1)
        refuse(tar_of({**files, "manifest.json": manifest}), "manifest.json")


def test_every_field_is_archived() -> None:
    """What is written down of a session is in its archive, but for whose it is and where."""
    told = set(orjson.loads(members(FULL)["manifest.json"])["session"])

    assert set(a_session().to_json()) - {"owner", "id", "memory"} == told


@pytest.mark.parametrize(
    ("session", "messages", "data", "message"),
    [
        (a_session(b"other"), MESSAGES, KV, "not the newest"),
        (a_session(None), MESSAGES, KV, "not the newest"),
        (a_session(), [{"role": "user", "content": "\ud800"}], KV, "transcript.json"),
        (a_session(), [{"role": "user", "content": object()}], KV, "transcript.json"),
        (a_session(), [{"content": "x"}], KV, "message 0 has no role"),
    ],
)
def test_what_cannot_be_archived(session: Session, messages: list[Any], data: bytes, message: str) -> None:
    """What could not be read back is not written, not even its beginning."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "snapshot").write_bytes(data)
        target = io.BytesIO()
        with pytest.raises(ArchiveError, match=message):
            write_archive(target, session, messages, Path(folder) / "snapshot")

        assert b"" == target.getvalue()


def test_newest(tmp_path: Path) -> None:
    """Of two snapshots, the archive tells about the newer one: that in memory."""
    session = a_session()
    session.disk = replace(snapshot_of(b"old"), saved_at=9999.0)
    found = read_archive(io.BytesIO(archived(session, None, KV)), tmp_path, max_bytes=ROOMY)
    assert found.session.disk is not None

    assert 1234.5 == found.session.disk.saved_at


FULL_DISK = """
import resource, sys
from pathlib import Path
from hugind.proxy.sessions.archive import read_archive

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    read_archive(sys.stdin.buffer, Path(sys.argv[1]), max_bytes=1 << 30)
except OSError as error:
    print("OSError")
"""


def test_full_disk(tmp_path: Path) -> None:
    """Where the snapshot cannot be written to its end, nothing of it is left."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], input=FULL, capture_output=True, check=True, timeout=60
    )

    assert b"OSError\n" == done.stdout
    assert [] == list(tmp_path.iterdir())
