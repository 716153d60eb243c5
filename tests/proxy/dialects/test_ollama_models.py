"""Ollama's objects about models, as its clients read them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import pytest
from ollama import ListResponse, ProcessResponse, ShowResponse

from hugind.proxy.dialects.ollama_models import (
    FOREVER_S,
    Card,
    Loaded,
    Settings,
    digest_of,
    header_info,
    list_entry,
    loaded_entry,
    longest_first,
    modelfile,
    newest_first,
    parameters_text,
    progress_line,
    projector_info,
    served_info,
    show_answer,
    tagged,
    time_text,
)

CARD = Card(
    "demo",
    size_bytes=1000,
    digest="ab" * 32,
    modified_at=1_700_000_000.123456,
    families=("llama", "clip"),
    parameter_size="7.6B",
    quantization_level="Q4_K_M",
    context_length=8192,
    embedding_length=64,
    capabilities=("completion", "tools"),
)
LOADED = Loaded(900, 600, None, "ready", refs=1, is_pinned=False, slots=2, free_slots=1, waiting=0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("demo", "demo:latest"), ("demo:7b", "demo:7b"), ("host:80/me/demo", "host:80/me/demo:latest")],
)
def test_tagged(name: str, shown: str) -> None:
    """The part behind a colon is a tag in the last part of a name only."""
    assert shown == tagged(name)


def test_list_entry() -> None:
    """What Ollama's own client and stricter ones need of it."""
    entry = list_entry(CARD)
    read = ListResponse.model_validate({"models": [entry]}).models[0]

    assert ("demo:latest", 1000, "ab" * 32) == (read.model, read.size, read.digest)
    assert entry["name"] == entry["model"]
    assert "2023-11-14T22:13:20.123456+00:00" == entry["modified_at"]
    assert all(value is not None for value in entry["details"].values())
    assert ("llama", ["llama", "clip"]) == (entry["details"]["family"], entry["details"]["families"])


def test_what_nothing_is_known_of() -> None:
    """Texts are texts, if empty ones: no null."""
    entry = list_entry(Card("demo", 0, "00" * 32, 0.0))

    assert ("", [], "", "gguf") == tuple(
        entry["details"][key] for key in ("family", "families", "parameter_size", "format")
    )


def test_orders() -> None:
    """Tags: newest first. Loaded: what stays longest first."""
    older, newer = replace(CARD, name="a", modified_at=1.0), replace(CARD, name="b", modified_at=2.0)
    soon, late = replace(LOADED, expires_at=10.0), replace(LOADED, expires_at=20.0)
    by_stay = longest_first([(CARD, soon), (older, LOADED), (newer, late)], now=5.0)

    assert ["b", "a"] == [card.name for card in newest_first([older, newer])]
    assert ["a", "b", "demo"] == [card.name for card, _ in by_stay]


def test_loaded_entry() -> None:
    """Clients read when it goes; "never" is 292 years ahead, as Ollama has it."""
    now = 1_700_000_000.0
    stays = loaded_entry(CARD, LOADED, now)
    goes = loaded_entry(CARD, replace(LOADED, expires_at=now + 60), now)
    read = ProcessResponse.model_validate({"models": [stays]}).models[0]

    assert (900, 600, 8192) == (read.size, read.size_vram, read.context_length)
    assert datetime.fromisoformat(stays["expires_at"]).year == 2315
    assert now + 60 == datetime.fromisoformat(goes["expires_at"]).timestamp()
    assert (1, 2, 1, 0, False, "ready") == tuple(
        stays[key] for key in ("refs", "slots", "free_slots", "waiting", "pinned", "state")
    )


def test_a_time_that_has_no_end() -> None:
    """It can be written, too."""
    assert datetime.fromisoformat(time_text(1e300)).year == 9999
    assert FOREVER_S > 291 * 365 * 86400


def test_show() -> None:
    """All that clients look for is there, in the types that they expect."""
    settings = Settings(
        parameters={"temperature": 0.7, "stop": ["<|im_end|>", 'a "quoted"\nline'], "num_ctx": 8192},
        system="You are Mario.",
        messages=[{"role": "user", "content": "hi"}],
        template="{{ messages }}",
        license="MIT",
    )
    answer = show_answer(CARD, settings, {"general.architecture": "llama"}, {"clip.has_vision_encoder": True})
    read = ShowResponse.model_validate(answer)

    assert {"general.architecture": "llama"} == read.modelinfo
    assert ["completion", "tools"] == read.capabilities
    assert "You are Mario." == answer["system"]
    assert [{"role": "user", "content": "hi"}] == answer["messages"]
    assert {"clip.has_vision_encoder": True} == answer["projector_info"]
    assert "projector_info" not in show_answer(CARD, settings, {})


def test_parameters_text() -> None:
    """A name, spaces, and a value as Go's %#v has it: what clients read with a pattern of that."""
    given: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 0.95,
        "min_p": 1e-05,
        "seed": 42,
        "use_mmap": True,
        "stop": ["a b", 'say "\\x"\n\x00\x7f\u2028é'],
        "huge": 1e22,
    }

    assert [
        "temperature                    1",
        "top_p                          0.95",
        "min_p                          1e-05",
        "seed                           42",
        "use_mmap                       true",
        'stop                           "a b"',
        'stop                           "say \\"\\\\x\\"\\n\\x00\\x7f\\u2028é"',
        "huge                           1e+22",
    ] == parameters_text(given).split("\n")


def test_modelfile() -> None:
    """It names the model, never a file, and quotes what must be quoted."""
    settings = Settings(
        parameters={"temperature": 0.7, "stop": [" end "]},
        system='Say "yes".\nThen stop.',
        messages=[{"role": "user", "content": "hi"}],
        template="{{ x }}",
        license="MIT",
    )

    assert [
        "FROM base",
        "TEMPLATE {{ x }}",
        'SYSTEM """Say "yes".',
        'Then stop."""',
        "PARAMETER temperature 0.7",
        'PARAMETER stop " end "',
        "LICENSE MIT",
        "MESSAGE user hi",
        "",
    ] == modelfile(replace(CARD, parent="base"), settings).split("\n")[1:]
    assert "FROM demo\n" in modelfile(CARD, Settings(parameters={}))


def test_header_info() -> None:
    """Long arrays are shown when asked for; those that were not read are empty either way."""
    values = {
        "general.name": "x",
        "a.b": 5,
        "a.short": (1, 2),
        "a.long": tuple(range(6)),
        "tokenizer.chat_template": "",
    }
    lengths = {"a.short": 2, "a.long": 6, "tokens": 30_000}

    assert {"a.b": 5, "a.short": (1, 2), "a.long": [], "tokens": []} == header_info(values, lengths, is_verbose=False)
    assert tuple(range(6)) == header_info(values, lengths, is_verbose=True)["a.long"]


def test_served_info() -> None:
    """The context that a client may use is what is served; one client wants to find its own name for the model."""
    info = {"general.architecture": "llama", "general.basename": "Llama", "llama.context_length": 131072}
    served = served_info(info, CARD, 7_600_000_000, "Demo:latest", "curl/8")
    copilot = served_info(info, CARD, 7_600_000_000, "Demo:latest", "GitHubCopilotChat/0.30")

    assert (8192, 131072) == (served["llama.context_length"], served["hugind.trained_context"])
    assert 7_600_000_000 == served["general.parameter_count"]
    assert ("Llama", "Demo:latest") == (served["general.basename"], copilot["general.basename"])
    assert "hugind.trained_context" not in served_info({}, CARD, 0, "demo", "")


def test_what_the_command_line_takes_for_granted() -> None:
    """It breaks where these are missing."""
    told = projector_info({"general.architecture": "clip", "clip.vision.projection_dim": 64}, 1000)

    assert (0, 64, 1000) == tuple(
        told[key] for key in ("clip.vision.embedding_length", "clip.vision.projection_dim", "general.parameter_count")
    )
    assert "" == served_info({}, CARD, 0, "demo", "")["general.architecture"]


def test_digest() -> None:
    """The same for the same, in whatever order it is said."""
    digest = digest_of({"a": 1, "b": 2})

    assert digest == digest_of({"b": 2, "a": 1})
    assert digest != digest_of({"a": 1, "b": 3})
    assert 64 == len(digest)


def test_progress_line() -> None:
    """One object, one line."""
    line = progress_line("pulling abc", total=3)

    assert {"status": "pulling abc", "total": 3} == orjson.loads(line)
    assert line.endswith(b"}\n")
