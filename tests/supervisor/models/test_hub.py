"""What the hub does not give, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hugind.supervisor.models.download_plan import DownloadError
from hugind.supervisor.models.hub import Hub
from hugind.supervisor.models.repository import parse_reference
from tests.hub import COMMIT, LocalHub, serving_hub

REPO = "someone/tiny-GGUF"
MODEL = {"README.md": b"# tiny", "tiny-Q8_0.gguf": b"GGUF"}


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A hub with one repository."""
    with serving_hub() as local:
        local.add(REPO, MODEL)
        yield local


def read_first(hub: LocalHub, text: str) -> bytes:
    """The file that comes first of what is planned."""
    client = Hub(endpoint=hub.url)
    plan = client.plan(parse_reference(text))
    with client.read(plan, plan.files[0], 0) as (_, chunks):
        return b"".join(chunks)


def test_plan(hub: LocalHub) -> None:
    """Only what models are made of, at the commit that is there now; it can be read."""
    found = Hub(endpoint=hub.url).plan(parse_reference(REPO))

    assert (COMMIT, ["tiny-Q8_0.gguf"]) == (found.revision, [file.name for file in found.files])
    assert MODEL["tiny-Q8_0.gguf"] == read_first(hub, REPO)


@pytest.mark.parametrize(
    ("text", "problem", "words"),
    [
        ("someone/else", "not_found", ("someone/else", "HF_TOKEN")),
        (f"{REPO}@v9", "not_found", ("v9",)),
        ("a/plain", "not_gguf", ("no GGUF", "-GGUF")),
        ("a/gated", "forbidden", ("gated", "ask for access at http://", "HF_TOKEN")),
        ("a/closed", "forbidden", ("403", "HF_TOKEN")),
        ("a/broken", "unreachable", ("500",)),
        ("configs/evil", "not_found", ("cannot be",)),
        ("Settings.yml/evil", "not_found", ("cannot be",)),
        ("Local/evil", "not_found", ("cannot be",)),
    ],
)
def test_what_cannot_be_had(hub: LocalHub, text: str, problem: str, words: tuple[str, ...]) -> None:
    """Every refusal says what to do."""
    hub.add("a/plain", {"model.safetensors": b"x"})
    for repo in ("a/gated", "a/closed", "a/broken", "configs/evil", "Settings.yml/evil", "Local/evil"):
        hub.add(repo, MODEL)
    hub.refuse("a/gated", 403, code="GatedRepo")
    hub.refuse("a/closed", 403, whole=True)
    hub.refuse("a/broken", 500, whole=True)

    with pytest.raises(DownloadError) as caught:
        read_first(hub, text)

    said = f"{caught.value.message} {caught.value.hint}"
    assert problem == caught.value.problem
    assert all(word in said for word in words), said


def test_no_hub() -> None:
    """Where nobody listens, that is said."""
    with serving_hub() as gone:
        url = gone.url
    with pytest.raises(DownloadError, match="no answer from"):
        Hub(endpoint=url).plan(parse_reference("a/b"))
