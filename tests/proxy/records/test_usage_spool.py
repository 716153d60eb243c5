from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hugind.proxy.records.usage import Entry
from hugind.proxy.records.usage_spool import CHUNK_BYTES, UsageFolder, count_lines, make_folder, read_entries, take_over
from tests.engines import ROOT
from tests.proxy.records.turns import turn

HOLDER = """
import sys
from pathlib import Path
from hugind.proxy.records.usage_spool import make_folder
from tests.proxy.records.turns import turn
folder = make_folder(Path(sys.argv[1]))
folder.append(folder.new_file(), [(turn("ended"), None)])
folder.write_running([turn("ran")], 5.0)
print(folder.path, flush=True)
sys.stdin.read()
"""


def entries(*names: str) -> list[Entry]:
    return [(turn(name), None) for name in names]


def names(file: Path) -> list[str]:
    return [row.request_id for row, _ in read_entries(file, 0, 1000)[0]]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    file = folder.new_file()
    said: Entry = (turn("a", stream=True, ttft_ms=None, error_code="é"), ("wie?", "so\n"))
    folder.append(file, [said])
    folder.append(file, entries("b"))

    found, broken, end = read_entries(file, 0, 10)

    assert found == [said, (turn("b"), None)]
    assert (broken, end) == (0, file.stat().st_size)
    assert read_entries(file, end, 10) == ([], 0, end)
    assert count_lines(file) == 2


def test_everything_is_private(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "usage")
    folder.append(folder.new_file(), entries("a"))
    folder.write_running([turn("b")], 0)
    for path in (tmp_path / "usage").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_read_in_pieces(tmp_path: Path) -> None:
    """So many lines at a time, or so many bytes."""
    folder = make_folder(tmp_path)
    file = folder.new_file()
    folder.append(file, entries(*map(str, range(10))))
    big: list[Entry] = [(turn(name), ("x" * (CHUNK_BYTES // 2 + 1), "")) for name in ("x", "y", "z")]
    folder.append(file, big)
    offset, sizes = 0, []
    while True:
        found, _, after = read_entries(file, offset, 4)
        if after == offset:
            break
        offset = after
        sizes.append(len(found))
    assert sizes == [4, 4, 4, 1]


def test_a_line_that_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed while it was written, or damaged later: the others count."""
    folder = make_folder(tmp_path)
    file = folder.new_file()
    folder.append(file, entries("a"))
    with file.open("ab") as opened:
        opened.write(b'[{"request_id": "other release"}, null, null]\nnonsense\n[1]\n')
    folder.append(file, entries("b"))
    with file.open("ab") as opened:
        opened.write(b'[{"request_id":"c","cre')
    found, broken, end = read_entries(file, 0, 10)
    assert [row.request_id for row, _ in found] == ["a", "b"]
    assert broken == len(caplog.records) == 4
    assert end == file.stat().st_size


def test_a_full_disk_leaves_no_half_lines(tmp_path: Path) -> None:
    """What was written before and is written after is whole."""
    folder = make_folder(tmp_path)
    file = folder.new_file()
    folder.append(file, entries("a"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OSError):
            folder.append(file, entries("b", "c"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder.append(file, entries("d"))
    assert names(file) == ["a", "d"]


def test_what_runs_is_replaced(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert folder.read_running() == (0, [])
    folder.write_running([turn("a"), turn("b", path="\ud800")], 1.0)
    folder.write_running([turn("b")], 2.0)
    assert folder.read_running() == (2.0, [turn("b")])
    folder.write_running([], 3.0)
    assert folder.read_running() == (0, [])
    assert list(folder.path.iterdir()) == []


def test_what_ran_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_folder(tmp_path)
    for damaged in ("", "{}", '[1, [{"request_id": 1}]]'):
        (folder.path / "running.json").write_text(damaged)
        assert folder.read_running() == (0, [])
    assert len(caplog.records) == 3


def test_the_folder_of_who_lives_is_left_alone(tmp_path: Path) -> None:
    """Also if it is in this very process."""
    folder = make_folder(tmp_path)
    folder.append(folder.new_file(), entries("a"))
    assert take_over(tmp_path) == []
    other = make_folder(tmp_path)
    assert other.path != folder.path
    assert other.close()


def test_the_folder_of_who_was_killed_is_taken_over(tmp_path: Path) -> None:
    """By one only; when that one gives up, by the next."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        path = Path(holder.stdout.readline().decode().strip())
        assert take_over(tmp_path) == []
        holder.kill()
    assert path.name.startswith(f"{holder.pid}-")

    for _ in range(2):
        (taken,) = take_over(tmp_path)
        assert taken.path == path
        assert take_over(tmp_path) == []
        assert [names(file) for file in taken.files()] == [["ended"]]
        assert taken.read_running() == (5.0, [turn("ran")])
        assert not taken.close()

    (taken,) = take_over(tmp_path)
    for file in taken.files():
        file.unlink()
    taken.write_running([], 0)
    assert taken.close()
    assert list(tmp_path.iterdir()) == []


def test_new_files_go_behind_the_others(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    made = [folder.new_file() for _ in range(12)]
    for file in made:
        folder.append(file, entries("a"))
    assert folder.files() == made


def test_other_things_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "readme").mkdir()
    (tmp_path / "1-ff").write_text("a file, not a folder")
    assert [folder.path for folder in take_over(tmp_path)] == []
    assert (tmp_path / "1-ff").exists()
    assert (tmp_path / "readme").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder: UsageFolder = make_folder(tmp_path / "usage")
    file = folder.new_file()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        folder.append(file, entries("a"))
    assert not (tmp_path / "elsewhere").exists()
    assert os.listdir(folder.path) == [file.name]  # noqa: PTH208 - a dangling link counts
