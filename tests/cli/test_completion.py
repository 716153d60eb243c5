"""Tab behind a command."""

from __future__ import annotations

import pytest

from tests.cli.hugind_command import HugindCommand


@pytest.mark.parametrize(("typed", "offered"), [("hugind show d", ["demo"]), ("hugind show x", [])])
def test_models(hugind: HugindCommand, typed: str, offered: list[str]) -> None:
    """The names of the home that begin as what was typed."""
    hugind.is_here = True
    hugind("config", "demo")
    hugind.is_here = False
    words = {"_HUGIND_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "2"}
    code = "from hugind.cli.main import app; app(prog_name='hugind')"

    assert hugind.python(code, env=words).stdout.split() == offered


def test_a_spoiled_home_offers_nothing(hugind: HugindCommand) -> None:
    """No error between what is typed."""
    hugind.home.mkdir()
    (hugind.home / "aliases.json").write_text("[")
    words = {"_HUGIND_COMPLETE": "complete_bash", "COMP_WORDS": "hugind stop ", "COMP_CWORD": "2"}
    done = hugind.python("from hugind.cli.main import app; app(prog_name='hugind')", env=words)

    assert (done.stdout.split(), done.stderr) == ([], "")
