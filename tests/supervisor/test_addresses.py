"""What an address says, and what is none."""

from __future__ import annotations

import pytest

from hugind.supervisor.addresses import is_loopback, split_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, None, None, "")),
        ("h", (None, "h", None, "")),
        (" h:1 ", (None, "h", 1, "")),
        (":1", (None, None, 1, "")),
        ("::1", (None, "::1", None, "")),
        ("[::1]:7", (None, "::1", 7, "")),
        ("HTTP://H:1/Path", ("http", "h", 1, "/Path")),
        ("ftp://h", ("ftp", "h", None, "")),
    ],
)
def test_addresses(text: str, expected: tuple[str | None, str | None, int | None, str]) -> None:
    """As Ollama reads them; what is not said is None."""
    assert expected == split_address(text)


@pytest.mark.parametrize("text", ["h:port", "h:99999", "[h", "http://[::1"])
def test_no_addresses(text: str) -> None:
    """Neither a port nor a host."""
    with pytest.raises(ValueError, match=r"."):
        split_address(text)


def test_loopback() -> None:
    """This machine, whatever the network."""
    hosts = ("127.0.0.1", "::1", "localhost", "10.0.0.5", "gpu-box")

    assert [True, True, True, False, False] == [is_loopback(host) for host in hosts]
