"""Which llama-server is run, and what it says of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hugind.supervisor.errors import BinaryError
from hugind.supervisor.llama.binary import resolve_binary
from tests.engines import engine_binary

_GOOD = """\
#!/bin/sh
case "$1" in
--version) echo "version: {version}" >&2; echo "built with cc for linux" >&2 ;;
--help) echo "-m,    --model FNAME    model, see --other-flag"; echo "--no-ui                 off" ;;
*) exit 1 ;;
esac
"""


@pytest.fixture(autouse=True)
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but a shell."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _make(path: Path, text: str = _GOOD, version: str = "1 (abc)") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("{version}", version))
    path.chmod(0o755)
    return path


# ---- the order


def test_order(tmp_path: Path, empty_path: Path) -> None:
    """The command line comes before the config, that before the settings, and those before PATH."""
    named = [str(_make(tmp_path / name / "llama-server")) for name in ("line", "config", "settings")]
    on_path = str(_make(empty_path / "llama-server"))
    found = [
        resolve_binary(*named),
        resolve_binary(None, *named[1:]),
        resolve_binary(None, None, named[2]),
        resolve_binary(),
    ]

    assert [binary.argv for binary in found] == [(path,) for path in (*named, on_path)]
    assert [binary.reason for binary in found] == [
        "named on the command line",
        "named in the config",
        "named in settings.yml (lib)",
        "llama-server on PATH",
    ]


def test_nothing_found() -> None:
    """Without any native one the embedded engine runs."""
    binary = resolve_binary()

    assert binary.kind == "embedded"
    assert binary.argv[0] == sys.executable
    assert "xllamacpp" in binary.build


def test_embedded_by_name(empty_path: Path) -> None:
    """`embedded` names the embedded engine although there is a native one."""
    _make(empty_path / "llama-server")

    assert resolve_binary("embedded").kind == "embedded"


def test_engine_under_test() -> None:
    """The engine that the tests drive names its build and its flags."""
    binary = resolve_binary(engine_binary())

    assert binary.build
    assert {"--model", "--parallel", "--slot-save-path", "--no-kv-unified"} <= binary.flags


# ---- what may be named


def test_file(tmp_path: Path) -> None:
    """An executable of any name."""
    path = _make(tmp_path / "my-server", version="7 (f00)")
    binary = resolve_binary(str(path))

    assert (binary.argv, binary.kind, binary.build) == ((str(path),), "native", "7 (f00)")


def test_flags_of_the_help(tmp_path: Path) -> None:
    """Flags are read from the start of the lines of the help; those that a description mentions are none."""
    binary = resolve_binary(str(_make(tmp_path / "llama-server")))

    assert {"-m", "--model", "--no-ui"} <= binary.flags


@pytest.mark.parametrize("place", ["llama-server", "bin/llama-server", "build/bin/llama-server"])
def test_folder(tmp_path: Path, place: str) -> None:
    """A folder that holds one, where builds and releases put it."""
    path = _make(tmp_path / "llama.cpp" / place)

    assert resolve_binary(str(tmp_path / "llama.cpp")).argv == (str(path),)


@pytest.mark.parametrize("library", ["lib/libllama.so", "lib/libllama.so.0", "lib/libllama.dylib", "bin/libllama.so"])
def test_library(tmp_path: Path, library: str) -> None:
    """A libllama stands for the llama-server beside it."""
    path = _make(tmp_path / "bin" / "llama-server")
    (tmp_path / library).parent.mkdir(exist_ok=True)
    (tmp_path / library).touch()

    assert resolve_binary(str(tmp_path / library)).argv == (str(path),)


def test_home_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` and variables are expanded."""
    path = _make(tmp_path / "llama-server")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WHERE", str(tmp_path))

    assert resolve_binary("~/llama-server").argv == resolve_binary("$WHERE/llama-server").argv == (str(path),)


# ---- what may not


def test_missing(tmp_path: Path) -> None:
    """A place that is named and empty is an error: nothing else is taken instead."""
    with pytest.raises(BinaryError, match="there is no /no/such"):
        resolve_binary("/no/such")
    with pytest.raises(BinaryError, match="holds no llama-server"):
        resolve_binary(str(tmp_path))


def test_library_alone(tmp_path: Path) -> None:
    """A libllama with no llama-server beside it is of no use."""
    (tmp_path / "libllama.so").touch()
    with pytest.raises(BinaryError, match=r"libllama\.so is a library, and there is no llama-server beside it"):
        resolve_binary(str(tmp_path / "libllama.so"))


def test_not_executable(tmp_path: Path) -> None:
    """A file that may not be run comes with the command that lets it."""
    path = _make(tmp_path / "llama-server")
    path.chmod(0o644)
    with pytest.raises(BinaryError, match="is not executable") as caught:
        resolve_binary(str(path))

    assert caught.value.hint == f"chmod +x {path}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\necho hello\n", "names no version: 'hello'"),
        ("#!/bin/sh\necho no such library >&2\nexit 3\n", "ended with 3: no such library"),
        ("#!/no/interpreter\n", "does not run"),
        ("neither script nor program\n", "does not run"),
    ],
)
def test_not_a_llama_server(tmp_path: Path, text: str, message: str) -> None:
    """What is no llama-server, or cannot run here, is told in its own words."""
    path = _make(tmp_path / "llama-server", text)
    with pytest.raises(BinaryError, match=message):
        resolve_binary(str(path))


def test_mended(tmp_path: Path) -> None:
    """A binary that failed is asked again."""
    path = _make(tmp_path / "llama-server", "#!/bin/sh\nexit 3\n")
    with pytest.raises(BinaryError):
        resolve_binary(str(path))
    _make(path)

    assert resolve_binary(str(path)).kind == "native"


def test_replaced(tmp_path: Path) -> None:
    """A binary that was replaced by another build is asked again: its flags may differ."""
    path = _make(tmp_path / "llama-server", version="1")
    before = resolve_binary(str(path)).build
    path.unlink()
    _make(path, version="a newer one")

    assert (before, resolve_binary(str(path)).build) == ("1", "a newer one")
