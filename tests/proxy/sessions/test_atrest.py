"""What is packed comes back as it was, or not at all."""

from __future__ import annotations

import errno
import random
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hugind.proxy.sessions.atrest import CHUNK, AtRestError, KeyFolder, pack, seal, unpack, unseal

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
WAYS = [(None, True), (KEY, False), (KEY, True)]
"""Key and compression, where there is anything to unpack."""
SIZES = [0, 1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 12345]
HEADER = 6 + 32

ways = pytest.mark.parametrize(("key", "compress"), WAYS)


def content(size: int) -> bytes:
    """Half of it compresses."""
    return random.Random(size).randbytes(size // 2) + bytes(size - size // 2)


def records(packed: bytes) -> list[bytes]:
    """The records of an encrypted file, each with its head."""
    found, at = [], HEADER
    while at < len(packed):
        (size,) = struct.unpack_from("<I", packed, at)
        end = at + 4 + (size & 0x7FFFFFFF)
        found.append(packed[at:end])
        at = end
    return found


@ways
@pytest.mark.parametrize("size", SIZES)
def test_files(tmp_path: Path, key: bytes | None, compress: bool, size: int) -> None:
    """A file comes back as it was; what is made is private, and nothing else is left."""
    plain, packed, back = (tmp_path / name for name in ("plain", "packed", "back"))
    plain.write_bytes(content(size))
    pack(plain, packed, key=key, compress=compress)
    unpack(packed, back, key=key)

    assert plain.read_bytes() == back.read_bytes()
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in (packed, back)}
    assert {plain, packed, back} == set(tmp_path.iterdir())


@pytest.mark.parametrize("size", SIZES)
def test_plain_copy(tmp_path: Path, size: int) -> None:
    """Without key and compression it is the same bytes, and needs no unpacking."""
    (tmp_path / "plain").write_bytes(content(size))
    pack(tmp_path / "plain", tmp_path / "copy", key=None, compress=False)

    assert content(size) == (tmp_path / "copy").read_bytes()
    assert 0o600 == stat.S_IMODE((tmp_path / "copy").stat().st_mode)
    with pytest.raises(AtRestError, match="not a packed file"):
        unpack(tmp_path / "copy", tmp_path / "back", key=None)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second filesystem")
def test_plain_copy_from_memory(tmp_path: Path) -> None:
    """A copy from one filesystem to another is the same bytes."""
    with TemporaryDirectory(dir="/dev/shm") as memory:
        (Path(memory) / "plain").write_bytes(content(3 * CHUNK + 7))
        pack(Path(memory) / "plain", tmp_path / "copy", key=None, compress=False)

    assert content(3 * CHUNK + 7) == (tmp_path / "copy").read_bytes()


def test_compresses(tmp_path: Path) -> None:
    """Compressed is smaller, encrypted or not; encrypted shows nothing of what is in it."""
    data = b"once upon a time " * 10_000

    assert len(seal(data, key=None, compress=True)) < len(data) / 10
    assert len(seal(data, key=KEY, compress=True)) < len(data) / 10
    assert b"once upon" not in seal(data, key=KEY, compress=False)
    assert seal(data, key=KEY, compress=False) != seal(data, key=KEY, compress=False)


@given(st.binary(max_size=2000), st.sampled_from([*WAYS, (None, False)]))
def test_small_things(data: bytes, way: tuple[bytes | None, bool]) -> None:
    """Bytes come back as they were."""
    key, compress = way

    assert data == unseal(seal(data, key=key, compress=compress), key=key)


@ways
@given(data=st.data())
def test_any_flip(key: bytes | None, compress: bool, data: st.DataObject) -> None:
    """A changed byte is noticed; one that changes nothing of what comes back may pass where there is no key."""
    plain = data.draw(st.binary(max_size=300))
    sealed = bytearray(seal(plain, key=key, compress=compress))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    try:
        came_back = unseal(bytes(sealed), key=key)
    except AtRestError:
        return

    assert key is None
    assert plain == came_back


@ways
@given(data=st.data())
def test_any_cut(key: bytes | None, compress: bool, data: st.DataObject) -> None:
    """A missing end is noticed, wherever the cut is; so is a missing piece."""
    sealed = seal(data.draw(st.binary(max_size=300)), key=key, compress=compress)
    start = data.draw(st.integers(0, len(sealed) - 1))
    end = data.draw(st.just(len(sealed)) | st.integers(start + 1, len(sealed)))
    with pytest.raises(AtRestError):
        unseal(sealed[:start] + sealed[end:], key=key)


@ways
@given(plain=st.binary(max_size=300), more=st.binary(min_size=1, max_size=50))
def test_anything_added(key: bytes | None, compress: bool, plain: bytes, more: bytes) -> None:
    """What was added at the end is noticed."""
    with pytest.raises(AtRestError):
        unseal(seal(plain, key=key, compress=compress) + more, key=key)


@given(st.binary(max_size=500), st.sampled_from((None, KEY)))
def test_rubbish(rubbish: bytes, key: bytes | None) -> None:
    """Anything else is refused as what it is, with and without a plausible beginning."""
    for data in (rubbish, b"hgnd\x01" + rubbish, b"hgnd\x01\x03" + rubbish):
        with pytest.raises(AtRestError):
            unseal(data, key=key)


@settings(max_examples=10)
@given(st.sampled_from(("swap", "drop", "repeat", "drop last", "foreign")), st.booleans())
def test_records_moved(what: str, compress: bool) -> None:
    """Records that changed places, are missing, are there twice or come from another file of that key are noticed."""
    sealed = seal(content(3 * CHUNK), key=KEY, compress=compress)
    other = records(seal(content(3 * CHUNK), key=KEY, compress=compress))
    a, b, c = records(sealed)
    moved = {
        "swap": (b, a, c),
        "drop": (a, c),
        "repeat": (a, a, b, c),
        "drop last": (a, b[:3] + bytes([b[3] | 0x80]) + b[4:]),
        "foreign": (a, other[1], c),
    }[what]

    assert content(3 * CHUNK) == unseal(sealed[:HEADER] + a + b + c, key=KEY)
    with pytest.raises(AtRestError):
        unseal(sealed[:HEADER] + b"".join(moved), key=KEY)


@pytest.mark.parametrize("compress", [False, True])
def test_wrong_key(compress: bool) -> None:
    """Another key does not open it, nor does none; and what is not encrypted does not pass for what is."""
    sealed = seal(b"secret", key=KEY, compress=compress)
    with pytest.raises(AtRestError, match="another key"):
        unseal(sealed, key=OTHER_KEY)
    with pytest.raises(AtRestError, match="no key"):
        unseal(sealed, key=None)
    with pytest.raises(AtRestError, match="not encrypted"):
        unseal(seal(b"forged", key=None, compress=compress), key=KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        seal(b"", key=b"short", compress=compress)


def test_bound_to(tmp_path: Path) -> None:
    """A file that was put in the place of another one of the same owner is noticed."""
    (tmp_path / "plain").write_bytes(b"of the first session")
    pack(tmp_path / "plain", tmp_path / "packed", key=KEY, compress=True, bound_to="first")
    unpack(tmp_path / "packed", tmp_path / "back", key=KEY, bound_to="first")
    with pytest.raises(AtRestError):
        unpack(tmp_path / "packed", tmp_path / "other", key=KEY, bound_to="second")

    assert b"x" == unseal(seal(b"x", key=KEY, compress=False, bound_to="a"), key=KEY, bound_to="a")
    assert not (tmp_path / "other").exists()


@ways
@pytest.mark.parametrize("at", [0, HEADER + 50, CHUNK // 2, -1])
def test_damaged_file(tmp_path: Path, key: bytes | None, compress: bool, at: int) -> None:
    """Nothing is left of a file that turns out damaged, however late."""
    packed = tmp_path / "packed"
    (tmp_path / "plain").write_bytes(random.Random(1).randbytes(2 * CHUNK))
    pack(tmp_path / "plain", packed, key=key, compress=compress)
    damaged = bytearray(packed.read_bytes())
    damaged[at] ^= 1
    packed.write_bytes(damaged)
    with pytest.raises(AtRestError):
        unpack(packed, tmp_path / "back", key=key)

    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(("key", "compress"), [*WAYS, (None, False)])
def test_target_is_there(tmp_path: Path, key: bytes | None, compress: bool) -> None:
    """A target that is there is neither written nor removed; one that is a link is not followed."""
    plain, there, link = (tmp_path / name for name in ("plain", "there", "link"))
    plain.write_bytes(b"new")
    there.write_bytes(b"old")
    link.symlink_to(tmp_path / "nowhere")
    for target in (there, link):
        with pytest.raises(FileExistsError):
            pack(plain, target, key=key, compress=compress)

    assert b"old" == there.read_bytes()
    assert {plain, there, link} == set(tmp_path.iterdir())


def test_source_is_a_link(tmp_path: Path) -> None:
    """A source that is a link, or missing, is not read; no target is made."""
    (tmp_path / "plain").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    for name in ("link", "missing"):
        with pytest.raises(OSError, match=name):
            pack(tmp_path / name, tmp_path / "packed", key=KEY, compress=True)
        with pytest.raises(OSError, match=name):
            unpack(tmp_path / name, tmp_path / "packed", key=KEY)

    assert not (tmp_path / "packed").exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
from hugind.proxy.sessions.atrest import pack, unpack

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
what, source, target, key, compress = sys.argv[1:]
key = bytes.fromhex(key) or None
try:
    if what == "pack":
        pack(Path(source), Path(target), key=key, compress=compress == "True")
    else:
        unpack(Path(source), Path(target), key=key)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


@pytest.mark.parametrize(("key", "compress"), [*WAYS, (None, False)])
def test_full_disk(tmp_path: Path, key: bytes | None, compress: bool) -> None:
    """Where a file cannot be written to its end, nothing of it is left."""
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(random.Random(1).randbytes(300_000))
    fail_to("pack", plain, packed, key, compress)

    assert [plain] == list(tmp_path.iterdir())


@ways
def test_full_memory(tmp_path: Path, key: bytes | None, compress: bool) -> None:
    """The same for what is unpacked."""
    plain, packed, back = (tmp_path / name for name in ("plain", "packed", "back"))
    plain.write_bytes(random.Random(1).randbytes(300_000))
    pack(plain, packed, key=key, compress=compress)
    fail_to("unpack", packed, back, key, compress)

    assert {plain, packed} == set(tmp_path.iterdir())


def fail_to(what: str, source: Path, target: Path, key: bytes | None, compress: bool) -> None:
    arguments = [what, str(source), str(target), (key or b"").hex(), str(compress)]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, timeout=60, check=True
    )

    assert f"OSError {errno.EFBIG}\n" == done.stdout


OWNER, OTHER = "0123456789abcdef", "fedcba9876543210"


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_keys(tmp_path: Path) -> None:
    """Each owner has a key of 32 bytes that stays, in a private file."""
    keys = KeyFolder(tmp_path / "keys")
    key = keys.key(OWNER)

    assert 32 == len(key)
    assert key == keys.key(OWNER) == KeyFolder(tmp_path / "keys").key(OWNER)
    assert key != keys.key(OTHER)
    assert [f"{OWNER}.key", f"{OTHER}.key"] == sorted(names(tmp_path / "keys"))
    assert 0o600 == stat.S_IMODE((tmp_path / "keys" / f"{OWNER}.key").stat().st_mode)
    assert 0o700 == stat.S_IMODE((tmp_path / "keys").stat().st_mode)


def test_forget(tmp_path: Path) -> None:
    """What a forgotten key sealed can be read no more: the key is gone from its file, too."""
    keys = KeyFolder(tmp_path)
    key, other = keys.key(OWNER), keys.key(OTHER)
    sealed = seal(b"secret", key=key, compress=False)
    with (tmp_path / f"{OWNER}.key").open("rb") as still_open:
        keys.forget(OWNER)

        assert key not in still_open.read()
    assert [f"{OTHER}.key"] == names(tmp_path)
    with pytest.raises(AtRestError):
        unseal(sealed, key=keys.key(OWNER))
    assert other == keys.key(OTHER)


def test_forget_nothing(tmp_path: Path) -> None:
    """An owner without a key is forgotten already, in a folder that is not there, too."""
    KeyFolder(tmp_path).forget(OWNER)
    KeyFolder(tmp_path / "missing").forget(OWNER)

    assert [] == list(tmp_path.iterdir())


def test_keys_in_threads(tmp_path: Path) -> None:
    """All who ask at once get the same key, whether or not they share the object."""
    found = []
    start = threading.Barrier(8)

    def ask(keys: KeyFolder) -> None:
        start.wait()
        found.append(keys.key(OWNER))

    shared = KeyFolder(tmp_path / "keys")
    askers = [
        threading.Thread(target=ask, args=[shared if number % 2 else KeyFolder(tmp_path / "keys")])
        for number in range(8)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()

    assert [shared.key(OWNER)] * 8 == found
    assert [f"{OWNER}.key"] == names(tmp_path / "keys")


@pytest.mark.parametrize("left", [b"", bytes(31), bytes(33)])
def test_damaged_key(tmp_path: Path, left: bytes) -> None:
    """A damaged key is said to be so and stays: a new one would hide that the sessions are lost."""
    (tmp_path / f"{OWNER}.key").write_bytes(left)
    with pytest.raises(AtRestError, match="damaged"):
        KeyFolder(tmp_path).key(OWNER)

    assert left == (tmp_path / f"{OWNER}.key").read_bytes()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "0123456789ABCDEF", "0123456789abcdef\n"])
def test_no_digest(tmp_path: Path, name: str) -> None:
    """What is no digest never becomes a path."""
    with pytest.raises(ValueError, match="not a digest"):
        KeyFolder(tmp_path).key(name)
    with pytest.raises(ValueError, match="not a digest"):
        KeyFolder(tmp_path).forget(name)
