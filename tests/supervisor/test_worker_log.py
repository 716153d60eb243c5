"""A worker's words: kept, bounded, and the telling ones found."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.supervisor.worker_log import MAX_PARTIAL, TAIL_LINES, WorkerLog, describe_exit, telling_lines


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WorkerLog]:
    """A log with room for 100 bytes and two older parts."""
    log = WorkerLog(tmp_path / "w.log", max_bytes=100, backups=2)
    yield log
    log.close()


def _texts(log: WorkerLog) -> list[str]:
    return [path.read_text() for path in sorted(log.path.parent.glob("w.log*"))]


def test_private(log: WorkerLog) -> None:
    """Only this user can read it: prompts may be in it."""
    log.write(b"secret\n")

    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_rotation(log: WorkerLog) -> None:
    """A full file becomes the first older part; no more than so many parts are kept."""
    for letter in b"abcde":
        log.write(bytes([letter]) * 60)

    assert [text[0] for text in _texts(log)] == ["e", "d", "c"]
    assert all(len(text) == 60 for text in _texts(log))


def test_full_file_of_an_earlier_life(log: WorkerLog) -> None:
    """A file that is full when it is opened is put aside first; one that is not is continued."""
    log.path.write_bytes(b"x" * 100)
    log.write(b"new\n")
    log.close()
    log.write(b"more\n")

    assert _texts(log) == ["new\nmore\n", "x" * 100]


def test_more_than_a_file_at_once(log: WorkerLog) -> None:
    """What is larger than a file is written whole."""
    log.write(b"a" * 500)
    log.write(b"b")

    assert [len(text) for text in _texts(log)] == [1, 500]


def test_tail(log: WorkerLog) -> None:
    """The last lines, however they were cut into pieces; an unfinished one counts."""
    log.write(b"one\ntw")
    log.write(b"o\n\n  \nthr")

    assert log.tail() == ["one", "two", "thr"]
    assert log.tail(1) == ["thr"]


def test_tail_is_bounded(log: WorkerLog) -> None:
    """Neither many lines nor an endless one fill the memory."""
    log.write(b"line\n" * 1000)
    log.write(b"x" * 10_000)

    assert len(log.tail(10_000)) == TAIL_LINES + 1
    assert len(log.tail()[-1]) == MAX_PARTIAL


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_pieces_make_no_difference(pieces: list[bytes]) -> None:
    """The tail depends on the bytes, not on how they came."""
    whole, parts = WorkerLog(Path("/dev/null")), WorkerLog(Path("/dev/null"))
    whole.write(b"".join(pieces))
    for piece in pieces:
        parts.write(piece)
    tails = whole.tail(), parts.tail()
    whole.close()
    parts.close()

    assert tails[0] == tails[1]
    assert whole.bytes_written == parts.bytes_written


def test_begin(log: WorkerLog) -> None:
    """The tail is that of the current process; the file keeps all."""
    log.write(b"old\npart")
    log.begin()
    log.write(b"new\n")

    assert log.tail() == ["new"]
    assert _texts(log) == ["old\npartnew\n"]


def test_note(log: WorkerLog) -> None:
    """Our own notes stand on lines of their own and are not the worker's words."""
    log.write(b"its words\nunfinished")
    log.note("ended with 1")

    assert log.tail() == ["its words", "unfinished"]
    assert _texts(log) == ["its words\nunfinished\n[hugind] ended with 1\n"]
    assert log.bytes_written == len("its words\nunfinished")


def test_disk_that_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be written the tail is still there, it is said once, and writing goes on when it can."""
    log = WorkerLog(tmp_path / "later" / "w.log")
    log.write(b"one\n")
    log.write(b"two\n")
    complaints = len(caplog.records)
    log.path.parent.mkdir()
    log.write(b"three\n")
    log.close()

    assert complaints == 1
    assert log.tail() == ["one", "two", "three"]
    assert log.path.read_text() == "three\n"


# Recorded from llama.cpp b11434 and b11549.
_TRUNCATED = """\
0.00.031.114 I srv    load_model: loading model '/m/trunc.gguf'
0.00.033.010 E llama_model_load: error loading model: tensor 'blk.1.ffn_up.weight' data is not within the file \
bounds, model is corrupted or incomplete
0.00.033.014 E llama_model_load_from_file_impl: failed to load model
0.00.033.019 E common_fit_params: encountered an error while trying to fit params to free device memory
0.00.033.050 E common_init_from_params: failed to load model '/m/trunc.gguf'
0.00.033.052 E srv    load_model: failed to load model, '/m/trunc.gguf'
0.00.033.060 I srv    operator(): operator(): cleaning up before exit...
0.00.033.070 E srv  llama_server: exiting due to model loading error
""".splitlines()
_BUSY = """\
0.00.021.114 I srv  init: using 3 threads for HTTP server
0.00.022.000 E srv           start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080
0.00.022.010 E srv  llama_server: exiting due to HTTP server error
""".splitlines()


def test_cause_of_a_bad_model() -> None:
    """Of all the errors that follow one another only the cause is told, without its stamp."""
    assert telling_lines(_TRUNCATED) == [
        "llama_model_load: error loading model: tensor 'blk.1.ffn_up.weight' data is not within the file bounds, "
        "model is corrupted or incomplete"
    ]


def test_cause_of_a_busy_port() -> None:
    """The line about the port is told, and what follows from it is not."""
    assert telling_lines(_BUSY) == ["srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080"]


@pytest.mark.parametrize(
    "line",
    [
        "error: invalid argument: --no-such-flag",
        'error while handling argument "--threads": stoi',
        "/m/llama.cpp/ggml.c:123: GGML_ASSERT(x) failed",
        "ggml_cuda: CUDA error: out of memory",
        "terminate called after throwing: bad alloc: cannot allocate memory",
    ],
)
def test_lines_without_a_stamp(line: str) -> None:
    """What is said before or beside llama.cpp's log is found by its words."""
    assert telling_lines(["usage: llama-server", line]) == [line]


def test_warnings_do_not_tell() -> None:
    """A stamped line tells only when it is marked as an error."""
    assert telling_lines(["0.00.021.114 W load: control-looking token failed", "0.00.021.115 I not an error"]) == []


def test_few_and_each_once() -> None:
    """At most three lines are told, and none twice."""
    tail = [f"error {number}" for number in (1, 1, 2, 3, 4)]

    assert telling_lines(tail) == ["error 1", "error 2", "error 3"]


def test_describe_exit() -> None:
    """A code or a signal by name, with words that tell, or for a plain exit the last ones."""
    assert describe_exit(1, _BUSY) == f"ended with exit code 1 ({telling_lines(_BUSY)[0]})"
    assert describe_exit(0, ["bye"]) == "ended with exit code 0 (bye)"
    assert describe_exit(3, []) == "ended with exit code 3"
    assert describe_exit(-signal.SIGKILL, ["loading"]) == "died by SIGKILL"
    assert describe_exit(-signal.SIGABRT, ["GGML_ASSERT(x) failed"]) == "died by SIGABRT (GGML_ASSERT(x) failed)"
    assert describe_exit(-99, []) == "died by signal 99"
