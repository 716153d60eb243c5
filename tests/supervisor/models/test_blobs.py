"""Files under their SHA-256."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from hugind.supervisor.models.blobs import MAX_BYTES, BlobError, Blobs
from hugind.supervisor.paths import Home

DATA = b"GGUF and more"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


def send(blobs: Blobs, data: bytes = DATA, digest: str = DIGEST) -> None:
    with blobs.upload(digest) as upload:
        upload.write(data[:4])
        upload.write(data[4:])
        upload.finish()


def test_upload(tmp_path: Path) -> None:
    """It is found once it is whole, and its owner alone can read it."""
    blobs = Blobs(Home(tmp_path))
    before = blobs.find(DIGEST)
    send(blobs)
    path = blobs.find(DIGEST)

    assert before is None
    assert path is not None
    assert DATA == path.read_bytes()
    assert 0o600 == path.stat().st_mode & 0o777
    assert 0o700 == path.parent.stat().st_mode & 0o777
    assert [path] == list(path.parent.iterdir())


def test_a_second_upload_leaves_the_first(tmp_path: Path) -> None:
    """Its file may be a model's by now."""
    blobs = Blobs(Home(tmp_path))
    send(blobs)
    first = blobs.find(DIGEST)
    assert first is not None
    inode = first.stat().st_ino
    send(blobs)

    assert inode == first.stat().st_ino
    assert 1 == len(list(first.parent.iterdir()))


def test_another_file_than_was_said(tmp_path: Path) -> None:
    """Nothing is kept of it."""
    home = Home(tmp_path)
    with pytest.raises(BlobError, match="digest mismatch"):
        send(Blobs(home), b"something else")

    assert [] == list(home.blobs.iterdir())


def test_an_upload_that_breaks_off(tmp_path: Path) -> None:
    """Nothing is kept of it, either."""
    home = Home(tmp_path)
    with Blobs(home).upload(DIGEST) as upload:
        upload.write(DATA)

    assert [] == list(home.blobs.iterdir())


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 64, "sha256:" + "a" * 65, "sha256:../" + "a" * 61]
)
def test_no_digest(tmp_path: Path, digest: str) -> None:
    """It never becomes a path."""
    with pytest.raises(BlobError, match="invalid digest"):
        Blobs(Home(tmp_path)).find(digest)


def test_prune(tmp_path: Path) -> None:
    """What was asked for lately stays, and its time of writing with it; the rest goes, halves of uploads, too."""
    home = Home(tmp_path)
    blobs = Blobs(home)
    blobs.prune()
    old = time.time() - 1000
    names = ["sha256-" + letter * 64 for letter in "abc"]
    home.blobs.mkdir()
    for name in [*names, "upload-1", "upload-2"]:
        (home.blobs / name).write_bytes(b"")
        os.utime(home.blobs / name, (old, old))
    os.utime(home.blobs / "upload-2")
    os.utime(home.blobs / names[1])
    asked = blobs.find(names[0])
    assert asked is not None
    blobs.prune(kept_s=100)

    assert {names[0], names[1], "upload-2"} == {path.name for path in home.blobs.iterdir()}
    assert old == pytest.approx(asked.stat().st_mtime)


def test_forget(tmp_path: Path) -> None:
    """With a model goes what it was made of, and nothing else."""
    blobs = Blobs(Home(tmp_path))
    blobs.forget([])
    send(blobs)
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    send(blobs, b"other", other)
    path = blobs.find(DIGEST)
    assert path is not None
    os.link(path, tmp_path / "model.gguf")
    blobs.forget([tmp_path / "model.gguf", tmp_path / "nothing.gguf"])

    assert blobs.find(DIGEST) is None
    assert blobs.find(other) is not None
    assert (tmp_path / "model.gguf").exists()


def test_room(tmp_path: Path) -> None:
    """There is a limit, and some of the disk is left."""
    assert 0 <= Blobs(Home(tmp_path)).room_bytes() <= MAX_BYTES
