"""A download is all there or not seen; what interrupts it costs only what was not fetched yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hugind.supervisor.models.download import download
from hugind.supervisor.models.download_plan import DownloadError
from hugind.supervisor.models.hub import Hub
from hugind.supervisor.models.library import HIDDEN_FOLDER, Library
from hugind.supervisor.models.repository import parse_reference
from hugind.supervisor.paths import Home
from tests.eventually import eventually_sync
from tests.hub import COMMIT, LocalHub, serving_hub

DATA = bytes(range(256)) * 4096  # 1 MiB
REPO = "someone/tiny-GGUF"
FILES = {
    "README.md": b"# tiny",
    "tiny-Q4_K_M.gguf": DATA,
    "tiny-Q8_0.gguf": DATA * 2,
    "tiny-F16-00001-of-00002.gguf": DATA[:1000],
    "tiny-F16-00002-of-00002.gguf": DATA[:2000],
}


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A hub with one repository."""
    with serving_hub() as local:
        local.add(REPO, FILES)
        yield local


def fetch(hub: LocalHub, home: Home, text: str = f"{REPO}:Q4_K_M", token: str | None = None) -> list[str]:
    """Plan and download `text`. Names of the files."""
    client = Hub(endpoint=hub.url, token=token)
    return [path.name for path in download(client.plan(parse_reference(text)), home, client)]


def test_projector_comes_along(hub: LocalHub, home: Home) -> None:
    """A vision projector is fetched before the model, f16 rather than another; of folders, only the name is kept."""
    projectors = {"mmproj-F32.gguf": b"32", "mmproj-F16.gguf": b"16"}
    hub.add("a/seeing", {"Q4_K_M/seeing-Q4_K_M.gguf": b"m", **projectors})

    assert ["mmproj-F16.gguf", "seeing-Q4_K_M.gguf"] == fetch(hub, home, "a/seeing")
    (model,) = Library(home).models()
    assert home.root / "a" / "seeing" / "mmproj-F16.gguf" == model.mmproj


def test_token(hub: LocalHub, home: Home) -> None:
    """The token that was given is sent, and no other."""
    fetch(hub, home)
    assert {None} == {one.token for one in hub.asked}
    hub.asked.clear()
    fetch(hub, home, f"{REPO}:Q8_0", token="hf_secret")
    assert {"hf_secret"} == {one.token for one in hub.asked}


def test_files_elsewhere(hub: LocalHub, home: Home) -> None:
    """Where the hub sends us for a file the token does not go; what is missing is asked for there."""
    with serving_hub() as store:
        store.add(REPO, FILES)
        store.cuts = [5000]
        hub.stored_at = store.url
        fetch(hub, home, token="hf_secret")

    assert [(0, None), (5000, None)] == [(one.start, one.token) for one in store.asked]
    assert DATA == (home.root / REPO / "tiny-Q4_K_M.gguf").read_bytes()


def test_progress_and_content(hub: LocalHub, home: Home) -> None:
    """What comes is what was there; progress goes from nothing to all, with the checksum."""
    client, told = Hub(endpoint=hub.url), list[tuple[str, str | None, int, int]]()
    (path,) = download(found := client.plan(parse_reference(REPO)), home, client, lambda *seen: told.append(seen))

    assert DATA == path.read_bytes()
    assert home.root / "someone" / "tiny-GGUF" / "tiny-Q4_K_M.gguf" == path
    assert ("tiny-Q4_K_M.gguf", found.files[0].sha256, 0, len(DATA)) == told[0]
    assert ("tiny-Q4_K_M.gguf", found.files[0].sha256, len(DATA), len(DATA)) == told[-1]
    assert [one[2] for one in told] == sorted(one[2] for one in told)
    assert not (path.parent / HIDDEN_FOLDER).exists()


def test_what_is_there_is_not_fetched_again(hub: LocalHub, home: Home) -> None:
    """The same file is left alone; one that is damaged, or that the hub has changed, is fetched anew."""
    fetch(hub, home)
    fetch(hub, home)
    assert 1 == len(hub.fetched())

    path = home.root / REPO / "tiny-Q4_K_M.gguf"
    path.write_bytes(DATA[:-1] + b"x")
    fetch(hub, home)
    assert DATA == path.read_bytes()

    hub.add(REPO, {"tiny-Q4_K_M.gguf": b"new"}, commit="d" * 40)
    fetch(hub, home)
    assert b"new" == path.read_bytes()


def test_cut_connections(hub: LocalHub, home: Home) -> None:
    """Each time it goes on where it ended, at any point."""
    cuts = [0, 1, 100, 4095, 65_536, 100_000, 1, 200_000, 300_000, 12_345]
    hub.cuts = list(cuts)
    hub.answers = [503]

    assert ["tiny-Q4_K_M.gguf"] == fetch(hub, home)
    assert DATA == (home.root / REPO / "tiny-Q4_K_M.gguf").read_bytes()
    starts = [sum(cuts[:i]) for i in range(len(cuts) + 1)]
    assert [0, *starts] == [one.start for one in hub.fetched()]


def test_hub_that_cannot_resume(hub: LocalHub, home: Home) -> None:
    """It begins again where ranges are not heeded."""
    hub.cuts = [5000]
    hub.ignores_ranges = True

    fetch(hub, home)
    assert DATA == (home.root / REPO / "tiny-Q4_K_M.gguf").read_bytes()


def test_wrong_checksum(hub: LocalHub, home: Home) -> None:
    """What is not what was promised is thrown away, and never listed."""
    hub.repos[REPO].sha256["tiny-Q4_K_M.gguf"] = "0" * 64
    with pytest.raises(DownloadError, match="SHA-256") as caught:
        fetch(hub, home)
    assert "damaged" == caught.value.problem
    assert [] == Library(home).models()

    hub.repos[REPO].sha256.clear()
    fetch(hub, home)
    assert ["tiny-Q4_K_M"] == [model.name for model in Library(home).models()]


def test_cancelled_and_resumed(hub: LocalHub, home: Home) -> None:
    """A flag ends it, nothing is listed, and the next attempt asks for the rest only."""
    client, flag = Hub(endpoint=hub.url), threading.Event()
    found = client.plan(parse_reference(REPO))
    hub.cuts = [5000]

    def cancel_at_cut(_file: str, _digest: str | None, done: int, _total: int) -> None:
        if done:
            flag.set()

    with pytest.raises(DownloadError) as caught:
        download(found, home, client, cancel_at_cut, flag)
    assert "cancelled" == caught.value.problem
    assert [] == Library(home).models()

    download(found, home, client)
    assert [0, 5000] == [one.start for one in hub.fetched()]
    assert DATA == (home.root / REPO / "tiny-Q4_K_M.gguf").read_bytes()


def test_progress_that_raises(hub: LocalHub, home: Home) -> None:
    """It passes through as it is, even if it looks like a failure of the disk."""
    client = Hub(endpoint=hub.url)

    def leave(*_seen: object) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError):
        download(client.plan(parse_reference(REPO)), home, client, leave)


def test_two_share_one_download(hub: LocalHub, home: Home) -> None:
    """The second waits, is told how far the first is, and fetches nothing."""
    client, told, waits = Hub(endpoint=hub.url), list[int](), threading.Event()
    found = client.plan(parse_reference(REPO))
    hub.held_after = 500_000

    def watch(_file: str, _digest: str | None, done: int, _total: int) -> None:
        told.append(done)
        waits.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(download, found, home, client)
        assert hub.is_holding.wait(30)
        second = pool.submit(download, found, home, client, watch)
        assert waits.wait(30)
        assert [] == Library(home).models()
        hub.release()
        assert first.result(30) == second.result(30)

    assert 1 == len(hub.fetched())
    assert len(DATA) == told[-1]
    assert ["tiny-Q4_K_M"] == [model.name for model in Library(home).models()]


def test_no_room(hub: LocalHub, home: Home) -> None:
    """What does not fit on the disk is not begun."""
    client = Hub(endpoint=hub.url)
    found = client.plan(parse_reference(REPO))
    huge = type(found.files[0])("huge.gguf", 1 << 60, None)

    with pytest.raises(DownloadError, match="GB") as caught:
        download(type(found)("a", "b", COMMIT, (huge,), "huge.gguf"), home, client)
    assert "disk" == caught.value.problem
    assert [] == hub.fetched()


def test_folder_that_cannot_be_written(hub: LocalHub, tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "someone").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(hub, Home(tmp_path))


def test_more_than_was_promised(hub: LocalHub, home: Home) -> None:
    """It is not read to its end: what comes without one does not fill the disk."""
    client, flag = Hub(endpoint=hub.url), threading.Event()
    (file,) = (found := client.plan(parse_reference(REPO))).files
    hub.held_after = 500_000
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(download, replace(found, files=(replace(file, size_bytes=1000),)), home, client, None, flag)
        eventually_sync(lambda: len(hub.fetched()) > 1)
        flag.set()
        with pytest.raises(DownloadError, match="cancelled"):
            task.result(30)

    assert [0, 0] == [one.start for one in hub.fetched()]
    assert [] == list(home.root.glob("*/*/*"))
