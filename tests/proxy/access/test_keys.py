"""A key is recognised by its form and checksum, taken off a path, and blanked in every text."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hugind.proxy.access.keys import digest_of, is_key_id, key_id, make_key, mask, split_key_path

BASE62 = string.digits + string.ascii_letters

texts = st.text(st.characters(codec="utf-8"), max_size=80)


def test_a_new_key() -> None:
    """It is recognised by its public id, and its digest is what is looked up."""
    for _ in range(50):
        new = make_key()

        assert new.id == key_id(new.secret.encode())
        assert is_key_id(new.id)
        assert len("hgk_") + 8 + len("_") + 43 + 6 == len(new.secret)
        assert hashlib.sha256(new.secret.encode()).hexdigest() == new.digest == digest_of(new.secret.encode())
        assert new.secret.startswith(f"hgk_{new.id}_")


@given(st.integers(0, 61), st.characters(codec="utf-8"))
def test_one_changed_character_never_passes(position: int, character: str) -> None:
    """A slip of the hand is seen without asking anybody."""
    secret = make_key().secret
    changed = secret[:position] + character + secret[position + 1 :]

    assert changed == secret or key_id(changed.encode()) is None


@given(st.integers(0, 61))
def test_a_lost_or_doubled_character_never_passes(position: int) -> None:
    secret = make_key().secret

    assert key_id((secret[:position] + secret[position + 1 :]).encode()) is None
    assert key_id((secret[:position] + secret[position] + secret[position:]).encode()) is None


@given(st.binary(max_size=80))
def test_anything_else_is_no_key(other: bytes) -> None:
    assert key_id(other) is None
    assert key_id(make_key().secret.encode() + b"\n") is None


def test_no_two_are_alike() -> None:
    """In no part that is drawn."""
    keys = [make_key() for _ in range(2000)]

    assert 2000 == len({key.id for key in keys}) == len({key.secret[13:56] for key in keys})
    assert set(BASE62) == set("".join(key.secret[13:56] for key in keys))


def test_the_secret_is_not_shown() -> None:
    """Neither it nor its digest, however the value is printed."""
    key = make_key()
    for shown in (repr(key), str(key), f"{key}"):
        assert key.id in shown
        assert key.secret[13:] not in shown
        assert key.digest not in shown


@pytest.mark.parametrize(
    "text", ["", "short", "toolong89", "with_bar", "nul\0nul1", "' OR 1=1", "éééééééé", "12345678\n"]
)
def test_what_is_no_key_id(text: str) -> None:
    assert not is_key_id(text)


@pytest.mark.parametrize(
    ("path", "key", "rest"),
    [
        ("/k/hgk_a_b/v1/chat/completions", "hgk_a_b", "/v1/chat/completions"),
        ("/k/any/v1/models/a/b", "any", "/v1/models/a/b"),
        ("/k/any/k/other/x", "any", "/k/other/x"),
        ("/k/any", "any", "/"),
        ("/k/any/", "any", "/"),
        ("/k/", "", "/"),
        ("/k//v1/models", "", "/v1/models"),
        ("/k", None, "/k"),
        ("/", None, "/"),
        ("", None, ""),
        ("/v1/k/any/x", None, "/v1/k/any/x"),
        ("/K/any/x", None, "/K/any/x"),
        ("k/any/x", None, "k/any/x"),
    ],
)
def test_a_key_in_the_path(path: str, key: str | None, rest: str) -> None:
    assert (key, rest) == split_key_path(path)


@given(texts)
def test_a_path_keeps_what_follows_the_key(rest: str) -> None:
    secret = make_key().secret

    assert (secret, "/" + rest) == split_key_path(f"/k/{secret}/{rest}")


@given(texts, texts)
def test_no_text_shows_a_key(before: str, after: str) -> None:
    """Wherever in it the key is; what is no key stays."""
    key = make_key()
    masked = mask(f"{before}/{key.secret}?{after}")

    assert key.secret[13:] not in masked
    assert f"hgk_{key.id}_***" in masked
    assert mask(masked) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("GET /k/hgk_AbCd1234_xyz/v1/x 200", "GET /k/hgk_AbCd1234_***/v1/x 200"),
        ("a hgk_AbCd1234_x, b hgk_AbCd1235_y.", "a hgk_AbCd1234_***, b hgk_AbCd1235_***."),
        ("hgk_AbCd1234", "hgk_***"),
        ("hgk_short", "hgk_***"),
        ("Bearer hgd_8CS6-W_61Z", "Bearer hgd_***"),
        ("keys begin with hgk_ or hgd_", "keys begin with hgk_ or hgd_"),
        ("nothing here", "nothing here"),
    ],
)
def test_masking(text: str, masked: str) -> None:
    """The public id is left, for who looks for the key; half a key is blanked as well."""
    assert masked == mask(text)
