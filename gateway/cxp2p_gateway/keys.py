"""API keys: how one looks, what is kept of it, and how it is recognised. Pure.

A key is `sk-cx-<id>-<secret>`. The id says which key it is and is no secret; the secret is 32 random bytes. What is
kept is the SHA-256 of the whole key. Nobody guesses 256 random bits; a slow hash, which is for passwords that people
think up, would only slow down every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

ID_BYTES: Final = 5  # 8 characters of base32
SECRET_BYTES: Final = 32  # 43 characters of base64url
_KEY: Final = re.compile(r"sk-cx-([a-z2-7]{8})-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of a key. Times are wall-clock ms, None: never. `used_at_ms` lags behind by up to an hour."""

    id: str
    account: str
    digest: bytes
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    used_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made. `text` is what its holder gets to see, once; it is never logged or kept."""

    id: str
    text: str = field(repr=False)
    digest: bytes


def make_key(random_bytes: Callable[[int], bytes]) -> NewKey:
    """A new key from `random_bytes(count)`, which must be fit for secrets: `secrets.token_bytes`."""
    key_id = b32encode(random_bytes(ID_BYTES)).decode().lower()
    secret = urlsafe_b64encode(random_bytes(SECRET_BYTES)).decode().rstrip("=")
    text = f"sk-cx-{key_id}-{secret}"
    return NewKey(id=key_id, text=text, digest=_digest(text))


def key_id(token: str) -> str | None:
    """The id in a stranger's token, which may be of any length and characters; None if it is not shaped like a key."""
    match = _KEY.fullmatch(token)
    return match[1] if match else None


def matches(token: str, digest: bytes) -> bool:
    """Whether `token`, which has a key's shape, is the key with this digest. Takes as long whether it is or not."""
    return hmac.compare_digest(_digest(token), digest)


def usable(key: Key, wall_ms: int) -> bool:
    """Whether a key is neither revoked nor expired."""
    return key.revoked_at_ms is None and (key.expires_at_ms is None or wall_ms < key.expires_at_ms)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
