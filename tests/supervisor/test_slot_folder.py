"""Slot files are in memory where that is private, else in the home."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hugind.supervisor.paths import Home
from hugind.supervisor.slot_folder import SlotFolder, choose_slot_folder, free_bytes, look_for_memory, total_bytes

ON_DISK = "/dev/vda / ext4 rw,relatime 0 0\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A folder that the mounts below say is a tmpfs."""
    folder = tmp_path / "memory"
    folder.mkdir(mode=0o700)
    return folder


def mounted(folder: Path, kind: str = "tmpfs") -> str:
    point = str(folder).replace("\\", r"\134").replace(" ", r"\040")
    return f"{ON_DISK}tmpfs {point} {kind} rw,nosuid,nodev 0 0\n"


def choose(home: Home, memory: Path, mounts: str | None = None, uid: int | None = None) -> SlotFolder:
    return choose_slot_folder(home, "demo", str(memory), mounts=mounts or mounted(memory), uid=uid)


def assert_on_disk(home: Home, found: SlotFolder, reason: str) -> None:
    assert SlotFolder(home.slots / "demo", False, found.reason) == found
    assert reason in found.reason
    assert 0o700 == stat.S_IMODE(found.path.stat().st_mode)


def modes(folder: Path, top: Path) -> list[int]:
    below = [folder, *folder.parents]
    return [stat.S_IMODE(each.stat().st_mode) for each in below[: below.index(top)]]


def test_in_memory(home: Home, memory: Path) -> None:
    """In a tmpfs, each user, home and config has a folder, and each level of it is closed; again is the same."""
    found = choose(home, memory)

    assert found.is_memory
    assert found == choose(home, memory)
    assert [0o700] * 3 == modes(found.path, memory)
    assert (f"hugind-{os.getuid()}", "demo") == (found.path.parents[1].name, found.path.name)
    assert memory == found.path.parents[2]


def test_two_homes(home: Home, memory: Path, tmp_path: Path) -> None:
    """Two homes do not share folders; two names for one home do."""
    link = tmp_path / "link"
    link.symlink_to(home.root)

    assert choose(home, memory).path != choose(Home(tmp_path / "other"), memory).path
    assert choose(home, memory).path == choose(Home(link), memory).path


def test_left_open(home: Home, memory: Path) -> None:
    """A level of ours that is open is closed, whatever the umask of whoever made it."""
    path = choose(home, memory).path
    for level in (path, path.parent, path.parent.parent):
        level.chmod(0o755)

    assert choose(home, memory).is_memory
    assert [0o700] * 3 == modes(path, memory)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_link(home: Home, memory: Path, tmp_path: Path, level: int) -> None:
    """A level that is a link is not followed, even to a folder of ours."""
    path = choose(home, memory).path
    link = (path, *path.parents)[level]
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")

    assert_on_disk(home, choose(home, memory), f"{link} is not a folder")


def test_file(home: Home, memory: Path) -> None:
    """A level that is a file is no folder."""
    path = choose(home, memory).path
    path.rmdir()
    path.touch()

    assert_on_disk(home, choose(home, memory), f"{path} is not a folder")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("level", [0, 1, 2])
def test_of_somebody_else(home: Home, memory: Path, level: int) -> None:
    """A folder that somebody else made under our name is not used."""
    path = choose(home, memory).path
    folder = (path, *path.parents)[level]
    os.chown(folder, 12345, -1)

    assert_on_disk(home, choose(home, memory), f"{folder} belongs to somebody else")


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_open_without_sticky_bit(home: Home, memory: Path, mode: int) -> None:
    """Where others may rename our folder away, it is not made."""
    memory.chmod(mode)
    found = choose(home, memory)

    assert_on_disk(home, found, "sticky bit")
    assert [] == list(memory.iterdir())


def test_shared_as_usual(home: Home, memory: Path) -> None:
    """A folder like /dev/shm, open to all with the sticky bit, will do."""
    memory.chmod(0o1777)

    assert choose(home, memory).is_memory


def test_memory_folder_of_another_user(home: Home, memory: Path) -> None:
    """A tmpfs of somebody who is neither us nor root is theirs to rename things in."""
    if memory.stat().st_uid == 0:
        os.chown(memory, 12345, -1)
        assert_on_disk(home, choose(home, memory), "ours or root's")
    else:
        assert_on_disk(home, choose(home, memory, uid=os.getuid() + 1), "ours or root's")


@pytest.mark.parametrize("mounts", [ON_DISK, "", "rubbish\n\n", "tmpfs /elsewhere tmpfs rw 0 0\n"])
def test_no_memory(home: Home, memory: Path, mounts: str) -> None:
    """A folder that is on disk, or of which nothing is known, is said to be so and the home is used."""
    found = choose_slot_folder(home, "demo", str(memory), mounts=mounts)

    assert_on_disk(home, found, f"{memory} is not in memory")


def test_missing(home: Home, tmp_path: Path) -> None:
    """A configured folder that is not there is not made."""
    missing = tmp_path / "missing"

    assert_on_disk(home, choose(home, missing), f"{missing}: No such file or directory")
    assert not missing.exists()


def test_not_a_folder(home: Home, memory: Path) -> None:
    """A configured file is no folder."""
    (memory / "file").touch()
    found = choose_slot_folder(home, "demo", str(memory / "file"), mounts=mounted(memory))

    assert_on_disk(home, found, "is not a folder")


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_nearest_mount_decides(home: Home, memory: Path, kind: str) -> None:
    """A folder is on the innermost mount, the last of those on one point; blanks in its name are written as codes."""
    disk = memory / "a disk"
    tmpfs = disk / "in it"
    tmpfs.mkdir(parents=True, mode=0o700)
    mounts = mounted(memory) + mounted(disk, "xfs") + mounted(tmpfs, "ext4") + mounted(tmpfs, kind)

    assert choose(home, tmpfs, mounts).is_memory
    assert_on_disk(home, choose(home, disk, mounts), "but on xfs")


def test_through_a_link(home: Home, memory: Path, tmp_path: Path) -> None:
    """A configured folder may be a link: what it leads to counts."""
    link = tmp_path / "link"
    link.symlink_to(memory)

    assert choose(home, link, mounted(memory)).is_memory
    assert not choose(home, link, mounted(link)).is_memory


def test_home_without_folders(tmp_path: Path) -> None:
    """The folder in the home is private even where the home was not made yet."""
    found = choose_slot_folder(Home(tmp_path / "new"), "demo", None, mounts="")

    assert [0o700] * 2 == modes(found.path, tmp_path / "new")
    assert "/dev/shm" in found.reason


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/mounts")
def test_this_machine(home: Home) -> None:
    """With nothing passed in, the machine is asked; what is made can be used."""
    found = choose_slot_folder(home, "demo", None)
    try:
        assert found.is_memory is found.path.is_relative_to("/dev/shm")
        assert found.reason
        (found.path / "file").write_bytes(b"x")
    finally:
        (found.path / "file").unlink()
        found.path.rmdir()
        with suppress(OSError):  # a gateway may use the upper one
            found.path.parent.rmdir()
            found.path.parent.parent.rmdir()


def test_space(tmp_path: Path) -> None:
    """Free bytes are a part of all bytes."""
    assert 0 <= free_bytes(tmp_path) <= total_bytes(tmp_path)
    assert total_bytes(tmp_path) == psutil.disk_usage(str(tmp_path)).total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a filesystem without blocks")
def test_filesystem_without_a_size() -> None:
    """A filesystem that has no limit of its own has that of memory."""
    assert psutil.virtual_memory().total == total_bytes(Path("/proc"))
    assert 0 < free_bytes(Path("/proc")) <= total_bytes(Path("/proc"))


def test_looking_makes_nothing(memory: Path, tmp_path: Path) -> None:
    """Whether there is memory for them is told, with the reason, and nothing is made."""
    found = look_for_memory(str(memory), mounts=mounted(memory))
    on_disk = look_for_memory(str(memory), mounts=ON_DISK)
    missing = look_for_memory(str(tmp_path / "missing"), mounts=ON_DISK)

    assert found == (True, f"{memory} is in memory")
    assert on_disk == (False, f"{memory} is not in memory but on ext4")
    assert missing == (False, f"{tmp_path / 'missing'}: No such file or directory")
    assert list(memory.iterdir()) == []
