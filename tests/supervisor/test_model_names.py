"""Which name is meant."""

from __future__ import annotations

import pytest

from hugind.supervisor.model_names import match_name


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("demo", ["demo"], "demo"),
        ("demo:latest", ["demo"], "demo"),
        ("demo", ["demo:latest"], "demo:latest"),
        ("demo.gguf", ["demo"], "demo"),
        ("Demo", ["demo"], "demo"),
        ("demo", ["Demo", "demo"], "demo"),
        ("HF.co/User/Repo:q4_k_m", ["hf.co/user/repo:Q4_K_M"], "hf.co/user/repo:Q4_K_M"),
        ("demo:7b", ["demo"], None),
        ("dem", ["demo"], None),
        ("", ["demo"], None),
    ],
)
def test_match(given: str, known: list[str], meant: str | None) -> None:
    """Itself first, then without `:latest` or `.gguf`, then whatever the case; never half a name."""
    assert meant == match_name(given, known)
