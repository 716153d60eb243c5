"""Which pages may ask, and under which names of this machine."""

from __future__ import annotations

import pytest

from hugind.proxy.errors import ApiError
from hugind.proxy.origins import KEPT_VERDICTS, Origins, page_headers, preflight_headers

HOSTNAME = "Mybox.example.org"


def host_code(origins: Origins, host: str) -> str | None:
    """Why a request to this name is refused; None: it is not."""
    try:
        origins.check_host(host.encode("latin-1"))
    except ApiError as error:
        return f"{error.status} {error.code}"
    return None


def page_code(
    origins: Origins, origin: str, host: str | None = "localhost:8080", *, is_open: bool = False
) -> str | None:
    """Why a page is refused; None: it is not."""
    try:
        origins.check_page(origin.encode("latin-1"), host.encode() if host else None, is_open=is_open)
    except ApiError as error:
        return f"{error.status} {error.code}"
    return None


OUR_NAMES = (
    "localhost", "LocalHost:8080", "localhost.", "localhost.:8080", "chat.localhost:8080", "127.0.0.1:8080",
    "127.9.9.9", "[::1]", "[::1]:8080", "0.0.0.0:8080", "192.168.1.5:8080", "10.0.0.7", "[fd00::1]:8080", "mybox",
    "MYBOX:8080", "mybox.example.org", "mybox.local", "host.docker.internal:11434",
)  # fmt: skip

FOREIGN_NAMES = (
    "evil.example", "rebound.example:8080", "localhost.evil.example", "evillocalhost", "8.8.8.8", "[::2]:8080",
    "[2001:4860:4860::8888]", "other.local", "internal", "mybox.evil.example", "localhost:80@evil.example",
    "127.0.0.1.nip.io", "0x7f.1", "a b", "[::1", "local host", "localhost:99999999", "caf\xe9", "-", ".", ":8080",
)  # fmt: skip


@pytest.mark.parametrize("host", OUR_NAMES)
def test_names_of_this_machine(host: str) -> None:
    """As Ollama has them: what cannot be made to lead here by somebody elsewhere."""
    assert host_code(Origins(hostname=HOSTNAME), host) is None


@pytest.mark.parametrize("host", FOREIGN_NAMES)
def test_other_names_are_refused_on_loopback(host: str) -> None:
    """A page whose name was rebound to 127.0.0.1 gets nowhere; where others can reach us anyway, any name will do."""
    assert host_code(Origins(hostname=HOSTNAME), host) == "403 host_refused"
    assert host_code(Origins(is_loopback=False), host) is None


def test_a_configured_page_names_its_host() -> None:
    """So a proxy on this machine may hand its name on. `*` alone names none."""
    origins = Origins(("https://chat.example.org:8443", "http://*.lan", "plain.example", "*", "chrome-extension://abc"))

    for host in ("chat.example.org", "CHAT.example.org:99", "a.lan", "plain.example:80"):
        assert host_code(origins, host) is None
    for host in ("evil.example", "example.org", "lan", "abc", "chat.example.org.evil.example"):
        assert host_code(origins, host) == "403 host_refused"


LOCAL_PAGES = (
    "http://localhost:3000", "http://localhost", "https://localhost:8443", "http://127.0.0.1", "https://127.0.0.1:1",
    "http://0.0.0.0:3000", "http://[::1]", "http://[::1]:3000", "app://obsidian.md", "file://", "tauri://localhost",
    "vscode-webview://0a1b", "vscode-file://vscode-app",
)  # fmt: skip

EXTENSIONS = ("chrome-extension://abcdef", "moz-extension://0-1-2", "safari-web-extension://ABC")

FOREIGN_PAGES = (
    "https://evil.example", "http://localhost.evil.example:80", "https://evil.example/localhost", "null", "localhost",
    "", "http://localhost:80@evil.example", "http://localhost@evil.example", "ftp://localhost", "http://localhost:x",
    "https://192.168.1.5", "http://evil.example?http://localhost", "data://x", "chrome://settings",
)  # fmt: skip


@pytest.mark.parametrize("origin", LOCAL_PAGES)
def test_pages_of_this_machine_may_ask(origin: str) -> None:
    """With keys and without; programs that are made of pages, too."""
    assert page_code(Origins(), origin) is None
    assert page_code(Origins(), origin, is_open=True) is None


@pytest.mark.parametrize("origin", EXTENSIONS)
def test_extensions_may_ask_with_a_key_or_when_named(origin: str) -> None:
    """Where no key is needed somebody has to say that they may, as with Ollama."""
    named = Origins((f"{origin.partition('://')[0]}://*",))

    assert page_code(Origins(), origin) is None
    assert page_code(Origins(), origin, is_open=True) == "403 origin_refused"
    assert page_code(named, origin, is_open=True) is None


@pytest.mark.parametrize("origin", FOREIGN_PAGES)
def test_foreign_pages_may_not_ask(origin: str) -> None:
    """Whatever they call themselves."""
    assert page_code(Origins(), origin) == "403 origin_refused"
    assert page_code(Origins(), origin, is_open=True) == "403 origin_refused"


@pytest.mark.parametrize(
    ("entry", "good", "bad"),
    [
        ("https://chat.example.org", ["https://chat.example.org", "HTTPS://Chat.Example.Org"],
         ["http://chat.example.org", "https://chat.example.org:8443", "https://xchat.example.org"]),
        ("https://chat.example.org/", ["https://chat.example.org"], ["https://chat.example.orgs"]),
        ("https://*.example.org", ["https://a.example.org", "https://a.b.example.org"],
         ["https://example.org", "https://a.example.org:1", "https://evil/.example.org"]),
        ("http://10.0.0.*:3000", ["http://10.0.0.7:3000"], ["http://10.0.1.7:3000", "http://10.0.0.7"]),
        ("http://site.example:*", ["http://site.example:1"], ["http://site.example"]),
        ("chat.example.org", ["https://chat.example.org", "http://chat.example.org"], ["https://example.org"]),
        ("*", ["https://anything.example", "chrome-extension://x", "app://y"], ["null", "nonsense"]),
        ("null", ["null"], ["https://x.example"]),
        ("", [], ["", "https://x.example"]),
    ],
)  # fmt: skip
def test_what_is_configured(entry: str, good: list[str], bad: list[str]) -> None:
    """`*` stands for any part, and alone for every page that has a name."""
    origins = Origins((f" {entry} ",))

    assert [None] * len(good) == [page_code(origins, origin, is_open=True) for origin in good]
    assert ["403 origin_refused"] * len(bad) == [page_code(origins, origin, is_open=True) for origin in bad]


def test_our_own_pages_may_ask() -> None:
    """A page that came from here: its origin is the name that we were asked by."""
    origins = Origins(is_loopback=False)

    assert page_code(origins, "https://gpu.example.org", "GPU.example.org") is None
    assert page_code(origins, "http://gpu.example.org:8001", "gpu.example.org:8001") is None
    for origin, host in (
        ("http://gpu.example.org:3000", "gpu.example.org:8001"), ("http://gpu.example.org", None),
        ("app2://gpu.example.org", "gpu.example.org"), ("null", "null"),
    ):  # fmt: skip
        assert page_code(origins, origin, host) == "403 origin_refused"


def test_verdicts_are_remembered_but_not_for_ever() -> None:
    """A verdict for one mode is none for the other, and many names take no more memory than few."""
    origins = Origins(("*",), is_loopback=True)
    extension = Origins()

    assert page_code(extension, EXTENSIONS[0]) is None
    assert page_code(extension, EXTENSIONS[0], is_open=True) == "403 origin_refused"
    for number in range(3 * KEPT_VERDICTS):
        assert page_code(origins, f"https://{number}.example") is None
        assert host_code(origins, f"{number}.localhost") is None
    assert len(origins._good_hosts) <= KEPT_VERDICTS
    assert len(origins._good_pages) <= KEPT_VERDICTS


def test_what_a_page_may_send_and_read() -> None:
    """What SDKs send is echoed; nothing else is, and no header can be smuggled in."""
    wanted = (
        "Authorization, content-type,X-Stainless-OS , x-api-key, anthropic-version, cookie, x-stainless-\r\nx: y, x-a"
    )
    headers = dict(preflight_headers(wanted.encode(), is_private=False))
    nothing = dict(preflight_headers(b"", is_private=True))

    assert headers[b"access-control-allow-headers"] == (
        b"authorization, content-type, x-stainless-os, x-api-key, anthropic-version"
    )
    assert b"DELETE" in headers[b"access-control-allow-methods"]
    assert b"access-control-allow-private-network" not in headers
    assert b"access-control-allow-headers" not in nothing
    assert nothing[b"access-control-allow-private-network"] == b"true"
    answer = dict(page_headers(b"http://localhost:3000"))
    assert (answer[b"access-control-allow-origin"], answer[b"vary"]) == (b"http://localhost:3000", b"origin")
    for name in (b"x-request-id", b"x-ratelimit-remaining-tokens", b"retry-after", b"anthropic-ratelimit-tokens-reset"):
        assert name in answer[b"access-control-expose-headers"].split(b", ")
