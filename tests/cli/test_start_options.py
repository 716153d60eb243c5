"""What is wanted, and the words that say it again."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from hugind.cli.start_options import Wanted, is_config_file, read_ttl


def test_arguments_start_the_same_again() -> None:
    """What was told on the command line is told again, and nothing else."""
    told = Wanted(("a", "b"), autoload=True, port=0, binary="embedded", max_resident=0, model_ttl_s=-1.0)

    assert told.arguments() == [
        *("server", "start", "a", "b", "--autoload", "--port", "0", "--binary", "embedded"),
        *("--max-resident-models", "0", "--model-ttl", "-1"),
    ]
    assert Wanted(is_on_demand=True).arguments() == ["serve"]
    assert Wanted(is_on_demand=True, host="::", model_ttl_s=900.0).arguments() == [
        *("serve", "--host", "::", "--model-ttl", "900")
    ]


def test_arguments_hold_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`server restart` may be called from elsewhere: files are named whole; a model of the library is no file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "b").touch()
    told = Wanted(("dir/a.yml", "dir/b", "user/repo"), binary="./llama-server").arguments()

    assert told == [
        *("server", "start", str(tmp_path / "dir/a.yml"), str(tmp_path / "dir/b"), "user/repo"),
        *("--binary", str(tmp_path / "llama-server")),
    ]
    assert not is_config_file("dir")


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("900", 900), ("15m", 900), ("1h30m", 5400), ("0", 0), ("-1", -1), ("-5m", -1)]
)
def test_ttl(text: str | None, seconds: float | None) -> None:
    """Seconds or a duration; negative is never, whatever the number."""
    assert read_ttl(text) == seconds


def test_no_ttl() -> None:
    """What is neither is a usage error."""
    with pytest.raises(typer.BadParameter, match="'soon' is neither"):
        read_ttl("soon")
