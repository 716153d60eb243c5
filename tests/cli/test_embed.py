"""`hugind embed`: what it asks. Against a real model: tests/cli/test_serve.py."""

from __future__ import annotations

import json

import pytest

from tests.cli.answering import answering
from tests.cli.hugind_command import HugindCommand


@pytest.mark.parametrize(("options", "said"), [((), {}), (("--dimensions", "2"), {"dimensions": 2})])
def test_asked_and_answered(hugind: HugindCommand, options: tuple[str, ...], said: dict[str, int]) -> None:
    """All texts in one request; the answer as it is, on one line; nothing else on stdout."""
    hugind.is_here = True
    with answering(b'{"embeddings": [[0.5, 1]]}') as server:
        done = hugind("embed", "m", "one", "two", *options, "--url", server.url, "--key", "k")
        (asked,) = server.asked

    assert done.stdout == '{"embeddings": [[0.5, 1]]}\n'
    assert asked.path == "/api/embed"
    assert json.loads(asked.body) == {"model": "m", "input": ["one", "two"], **said}
    assert asked.headers["authorization"] == "Bearer k"
