"""The stand-in as a process: how it starts, fails and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hugind.cli.bench.standin import write_launcher
from tests.fakes.standin import StartStandin, wait_until

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ENDLESS = {**CHAT, "max_tokens": 1000, "stream": True, "standin": {"token_ms": 20}}


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hugind.cli.bench.standin", *flags]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


def test_tells_version_and_flags(standin_binary: Path) -> None:
    """The launcher answers what is asked of every llama-server before it is used."""
    version = subprocess.run([standin_binary, "--version"], capture_output=True, text=True, check=True)
    flags = subprocess.run([standin_binary, "--help"], capture_output=True, text=True, check=True).stdout

    assert "version: 0 (standin)" in version.stdout + version.stderr
    assert "\n--slot-save-path " in flags


def test_launcher_carries_flags(tmp_path: Path) -> None:
    """Flags given to the launcher stand before those of its caller."""
    launcher = write_launcher(tmp_path / "odd name", "--fail-start", "it's broken")
    done = subprocess.run(
        [launcher, "--model", launcher, "--host", tmp_path / "a.sock"], capture_output=True, text=True
    )

    assert done.returncode == 1
    assert "it's broken" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--what",), "error: invalid argument: --what"),
        (("--model",), 'error while handling argument "--model": expected value for argument'),
        (("--model", "/no/such.gguf"), "failed to open GGUF file '/no/such.gguf'"),
        (("--model", __file__, "--mmproj", "/no/such.gguf"), "failed to open GGUF file '/no/such.gguf'"),
        (("--model", __file__, "--slot-save-path", "/no/such"), "not a directory: /no/such"),
        (("--model", __file__, "--host", "/no/such/a.sock"), "couldn't bind HTTP server socket"),
    ],
)
def test_refuses_to_start(flags: tuple[str, ...], words: str) -> None:
    """What llama-server refuses is refused: exit code 1, the reason on stderr."""
    done = run(*flags)

    assert done.returncode == 1
    assert words in done.stderr


def test_left_over_socket_is_in_the_way(start_standin: StartStandin, standin_model: Path) -> None:
    """Like llama-server it neither removes its socket nor takes over another's."""
    standin = start_standin()
    standin.process.kill()
    standin.wait_exit()

    assert run("--model", str(standin_model), "--host", str(standin.socket)).returncode == 1


def test_listens_on_tcp(start_standin: StartStandin) -> None:
    """A host that is no path ends in .sock is a TCP address; port 0 is chosen and logged."""
    standin = start_standin("--host", "127.0.0.1", "--port", "0", is_ready=False)
    wait_until(lambda: b"listening on" in standin.log.read_bytes(), "it listens")
    url = standin.log.read_text().rsplit("listening on ", 1)[1].strip()

    assert httpx.get(f"{url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize("flag", ["--slow-load", "--silent-load"])
def test_loads_slowly(start_standin: StartStandin, flag: str) -> None:
    """While loading every route says 503; a slow load shows output, a silent one none."""
    standin = start_standin(flag, "1", is_ready=False)
    wait_until(standin.is_listening, "it listens")
    loading = [standin.client.get("/health"), standin.client.post("/v1/chat/completions", json=CHAT)]
    standin.wait_ready()

    assert [answer.status_code for answer in loading] == [503, 503]
    assert loading[0].json()["error"]["message"] == "Loading model"
    assert (flag == "--slow-load") == (b".....\n" in standin.log.read_bytes())


def test_fails_to_start(start_standin: StartStandin) -> None:
    """--fail-start ends it with a message, and with the code that was asked for."""
    standin = start_standin("--fail-start", "out of memory", "--exit-code", "3", is_ready=False)

    assert standin.wait_exit() == 3
    assert "out of memory\n" in standin.log.read_text()


def test_crashes_at_start(start_standin: StartStandin) -> None:
    """--crash-at-start dies by SIGABRT once it listens."""
    standin = start_standin("--crash-at-start", is_ready=False)

    assert standin.wait_exit() == -signal.SIGABRT
    assert "listening on" in standin.log.read_text()


def test_exits_later(start_standin: StartStandin) -> None:
    """--exit-after ends a ready one by itself."""
    assert start_standin("--exit-after", "0.3", "--exit-code", "7").wait_exit() == 7


def test_hangs(start_standin: StartStandin) -> None:
    """After N answers to POSTs nothing is answered; connections are still accepted."""
    standin = start_standin("--hang-after", "2")
    answers = [standin.client.post("/v1/chat/completions", json=CHAT).status_code for _ in range(2)]

    assert answers == [200, 200]
    for path in ("/health", "/slots"):
        with pytest.raises(httpx.ReadTimeout):
            standin.client.get(path, timeout=0.2)


def test_sigterm_when_idle(start_standin: StartStandin) -> None:
    """SIGTERM ends an idle one with 0 although a keep-alive connection is open."""
    standin = start_standin()
    standin.process.terminate()

    assert standin.wait_exit() == 0


def test_sigterm_while_loading(start_standin: StartStandin) -> None:
    """SIGTERM while it loads is a death by signal."""
    standin = start_standin("--silent-load", "60", is_ready=False)
    wait_until(standin.is_listening, "it listens")
    standin.process.terminate()

    assert standin.wait_exit() == -signal.SIGTERM


def test_sigterm_in_flight(start_standin: StartStandin) -> None:
    """SIGTERM leaves a request in flight alone; when its client is gone the process ends with 0."""
    standin = start_standin()
    with standin.client.stream("POST", "/v1/chat/completions", json=ENDLESS) as answer:
        lines = answer.iter_lines()
        next(lines)
        standin.process.terminate()
        wait_until(lambda: not standin.is_listening(), "it does not listen any more")
        after_signal = [next(lines) for _ in range(20)]

        assert standin.process.poll() is None
        assert any('"content"' in line for line in after_signal)

    assert standin.wait_exit() == 0


def test_second_sigterm_ends_it(start_standin: StartStandin) -> None:
    """A second signal ends it with 1, whoever is being served."""
    standin = start_standin()
    with standin.client.stream("POST", "/v1/chat/completions", json=ENDLESS) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the stream with it
        next(lines)
        standin.process.terminate()
        wait_until(lambda: not standin.is_listening(), "it does not listen any more")
        standin.process.terminate()

        assert standin.wait_exit() == 1


def test_ignores_sigterm(start_standin: StartStandin) -> None:
    """--ignore-sigterm leaves SIGKILL as the only way."""
    standin = start_standin("--ignore-sigterm")
    standin.process.terminate()

    assert standin.is_healthy()

    standin.process.kill()

    assert standin.wait_exit() == -signal.SIGKILL
