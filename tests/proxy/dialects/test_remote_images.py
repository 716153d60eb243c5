"""What an engine would fetch from elsewhere is found, whatever it is."""

from __future__ import annotations

from typing import Any

import pytest

from hugind.proxy.dialects.remote_images import find_remote


def _chat(*parts: Any) -> list[Any]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
        {"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": "https://a/b.png"},
        {"type": "input_video", "input_video": {"url": "https://a/b.mp4"}},
    ],
)
def test_from_elsewhere(part: dict[str, Any]) -> None:
    """By its place in the request."""
    assert "messages.1.content.1" == find_remote(_chat({"type": "text", "text": "see https://a"}, part))


@pytest.mark.parametrize(
    "messages",
    [
        _chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,aHR0cDovLw=="}}),
        _chat({"type": "text", "text": "https://a/b.png"}),
        _chat({"type": "image_url"}, {"type": "image_url", "image_url": {"url": 5}}, "https://a", None),
        [{"role": "user", "content": "https://a/b.png"}],
        ["https://a"],
        None,
    ],
)
def test_in_the_request(messages: Any) -> None:
    """Or nothing that is fetched, or nothing that makes sense: then the engine says so."""
    assert find_remote(messages) is None
