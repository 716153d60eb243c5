"""`hugind alias`, on a home's own file."""

from __future__ import annotations

import pytest

from tests.cli.hugind_command import HugindCommand


@pytest.fixture
def aliases(hugind: HugindCommand) -> HugindCommand:
    """`hugind` in this process, in a home with the demo."""
    hugind.is_here = True
    assert hugind("config", "demo").returncode == 0
    return hugind


def test_from_options_to_the_file(aliases: HugindCommand) -> None:
    """Every option arrives under Ollama's name; the mission's names are known, too."""
    made = aliases(
        *("alias", "create", "tutor", "--model", "demo", "--system", "Explain."),
        *("--temperature", "0.7", "--top-p", "0.9", "--top-k", "0", "--min-p", "0.05", "--seed", "-1"),
        *("--repetition-penalty", "1.1", "--presence-penalty", "-0.5", "--frequency-penalty", "0.25"),
        *("--max-new-tokens", "64", "--stop", "<|eot_id|>", "--stop", "\n", "--parameter", "num_keep=4"),
        *("--parameter", "mirostat=2", "--message", "user=a=b", "--message", "assistant=c"),
    )
    shown = aliases.json("alias", "show", "tutor")
    table = aliases("alias", "show", "tutor").stdout
    listed = aliases("alias", "list").stdout

    assert made.returncode == 0, made.stderr
    assert "tutor is demo now" in made.stderr
    assert shown["parameters"] == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.05,
        "seed": -1,
        "repeat_penalty": 1.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "num_predict": 64,
        "stop": ["<|eot_id|>", "\n"],
        "num_keep": 4,
        "mirostat": 2,
    }
    assert shown["messages"] == [{"role": "user", "content": "a=b"}, {"role": "assistant", "content": "c"}]
    assert (shown["model"], shown["system"]) == ("demo", "Explain.")
    for words in ("demo", "Explain.", "temperature", "<|eot_id|>", "a=b"):
        assert words in table
    assert "tutor" in listed
    assert "temperature 0.7" in listed

    assert aliases("alias", "rm", "tutor").returncode == 0
    assert aliases.json("alias", "list") == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--load-in-8bit", "--load-in-4bit"), 2, "either --load-in-8bit"),
        (("--parameter", "x"), 2, "KEY=VALUE"),
        (("--message", "hello"), 2, "ROLE=TEXT"),
        (("--top-p", "2"), 2, "--top-p"),
        (("--load-in-8bit",), 1, "hugind pull hugind/demo:Q8_0"),
        (("--parameter", "foo=1"), 1, "unknown parameter 'foo'"),
    ],
)
def test_refused(aliases: HugindCommand, options: tuple[str, ...], code: int, words: str) -> None:
    """What cannot be meant is wrong usage; what cannot be done says what to try."""
    done = aliases("alias", "create", "x", "--model", "demo", *options)

    assert done.returncode == code
    assert words in done.stderr
