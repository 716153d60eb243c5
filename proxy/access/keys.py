"""What a key looks like: `hgk_<public id>_<random><checksum>`. Makes, recognises, splits off and masks them. Pure.

A key has 256 random bits, so one SHA-256 keeps it as well as any slow hash would: there is nothing to guess from. What
is stored and looked up is the digest. Nowhere is a key compared with another: no time tells how much of one was right.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

PREFIX = "hgk_"
PATH_PREFIX = "/k/"
"""Where a key stands in the path: `/k/KEY/v1/...`."""

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 8
_RANDOM_LENGTH = 43
_CHECKSUM_LENGTH = 6

_KEY = re.compile(rb"hgk_([0-9A-Za-z]{8})_[0-9A-Za-z]{49}")
_KEY_ID = re.compile(r"[0-9A-Za-z]{8}")
_ANYWHERE = re.compile(r"((?>hgk_[0-9A-Za-z]{8}_|hg[kd]_))[0-9A-Za-z_-]+")


@dataclass(frozen=True)
class NewKey:
    """A key that nobody has yet. The only value that holds a secret: hand it over once, and drop it."""

    id: str
    """Its public part, to name it by."""
    secret: str = field(repr=False)
    """The whole key."""
    digest: str = field(repr=False)


def make_key() -> NewKey:
    """A key unlike every other."""
    public, random = _random(_ID_LENGTH), _random(_RANDOM_LENGTH)
    body = f"{PREFIX}{public}_{random}"
    secret = body + _checksum(body.encode())
    return NewKey(public, secret, digest_of(secret.encode()))


def key_id(key: bytes) -> str | None:
    """The public id of what has a key's form and checksum; None: it is no key, and nobody need be asked about it."""
    found = _KEY.fullmatch(key)
    if found is None or _checksum(key[:-_CHECKSUM_LENGTH]).encode() != key[-_CHECKSUM_LENGTH:]:
        return None
    return found[1].decode()


def is_key_id(text: str) -> bool:
    """Whether a public id looks like this."""
    return _KEY_ID.fullmatch(text) is not None


def digest_of(key: bytes) -> str:
    """What is stored of a key: its SHA-256 in hex."""
    return hashlib.sha256(key).hexdigest()


def split_key_path(path: str) -> tuple[str | None, str]:
    """The key that a path begins with, and the path without it; None and the path where it begins with none.

    Whatever follows `/k/` is taken for a key, good or not: it shall not show up in an error or a log.
    """
    if not path.startswith(PATH_PREFIX):
        return None, path
    key, _, rest = path[len(PATH_PREFIX) :].partition("/")
    return key, "/" + rest


def mask(text: str) -> str:
    """A text for a log, with every key blanked; the public ids stay, to tell which keys they were."""
    return _ANYWHERE.sub(r"\1***", text)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: bytes) -> str:
    """CRC-32 in base62: any one changed character changes it."""
    rest, digits = zlib.crc32(body), ""
    for _ in range(_CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
