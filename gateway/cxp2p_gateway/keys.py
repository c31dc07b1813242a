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
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from cxp2p_gateway.spending import Reset

ID_BYTES: Final = 5  # 8 characters of base32
SECRET_BYTES: Final = 32  # 43 characters of base64url
_KEY: Final = re.compile(r"sk-cx-([a-z2-7]{8})-[A-Za-z0-9_-]{43}")
_SECRET: Final = re.compile(r"\b(sk-(?:cx-[a-z2-7]{8}\b)?)[A-Za-z0-9_-]{4,}")  # ours up to its id, and other people's


class Kind(StrEnum):
    """A base key has no limits, and may do what its account may. A virtual key is for one use, within its limits."""

    BASE = "base"
    VIRTUAL = "virtual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the owner of a virtual key says of it.

    Limits, None: none. `spend_limit` is in µcredits for each period of `spend_reset`; `rpm` and `tpm` are requests and
    tokens a minute; `parallel_max` is requests at once. `services` and `models`: empty for all.
    """

    name: str = ""
    spend_limit: int | None = None
    spend_reset: Reset = Reset.NEVER
    services: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    parallel_max: int | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Terms):
    """What is kept of a key. Times are wall-clock ms, None: never. `used_at_ms` lags behind by up to an hour.

    After a rotation `old_digest` is that of the key before, which is good until `old_until_ms`.
    """

    id: str
    account: str
    digest: bytes
    created_at_ms: int
    revoked_at_ms: int | None = None
    used_at_ms: int | None = None
    kind: Kind = Kind.BASE
    old_digest: bytes | None = None
    old_until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made. `text` is what its holder gets to see, once; it is never logged or kept."""

    id: str
    text: str = field(repr=False)
    digest: bytes


def make_key(random_bytes: Callable[[int], bytes], key_id: str | None = None) -> NewKey:
    """A new key from `random_bytes(count)`, which must be fit for secrets: `secrets.token_bytes`.

    `key_id`: of the key that this is to be a new secret of.
    """
    key_id = key_id or b32encode(random_bytes(ID_BYTES)).decode().lower()
    secret = urlsafe_b64encode(random_bytes(SECRET_BYTES)).decode().rstrip("=")
    text = f"sk-cx-{key_id}-{secret}"
    return NewKey(id=key_id, text=text, digest=_digest(text))


def key_id(token: str) -> str | None:
    """The id in a stranger's token, which may be of any length and characters; None if it is not shaped like a key."""
    match = _KEY.fullmatch(token)
    return match[1] if match else None


def without_keys(text: str) -> str:
    """Text without the secrets of keys, which clients put into paths, titles and models' names by mistake."""
    return _SECRET.sub(r"\1***", text)


def matches(token: str, digest: bytes) -> bool:
    """Whether `token`, which has a key's shape, is the key with this digest. Takes as long whether it is or not."""
    return hmac.compare_digest(_digest(token), digest)


def opens(token: str, key: Key, wall_ms: int) -> bool:
    """Whether `token` is this key, as it is or, for as long as that is good, as it was before it was rotated."""
    is_new, is_old = matches(token, key.digest), matches(token, key.old_digest or NOBODY.digest)
    return is_new or (is_old and key.old_until_ms is not None and wall_ms < key.old_until_ms)


def rotated(key: Key, made: NewKey, wall_ms: int, grace_ms: int) -> Key:
    """The key with the secret of `made`, and the old one good for `grace_ms` more. One before that ends at once."""
    if not grace_ms:
        return replace(key, digest=made.digest, old_digest=None, old_until_ms=None)
    return replace(key, digest=made.digest, old_digest=key.digest, old_until_ms=wall_ms + grace_ms)


def usable(key: Key, wall_ms: int) -> bool:
    """Whether a key is neither revoked nor expired."""
    return key.revoked_at_ms is None and (key.expires_at_ms is None or wall_ms < key.expires_at_ms)


NOBODY: Final = Key(id="", account="", digest=bytes(hashlib.sha256().digest_size), created_at_ms=0)
"""A key that no token opens, to be tried where there is none: it takes as long."""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
