"""Tokens that browsers hold: how one looks, what is kept of it, and the proof that a form came from our page. Pure.

A token is 32 random bytes; what is kept is its SHA-256, so that whoever reads the database can be nobody. The proof
(CSRF token) is an HMAC under the token itself: a page may show it, and it is of no use without the cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Final

TOKEN_BYTES: Final = 32  # 43 characters of base64url
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_LINK: Final = b"link:"  # no token holds a colon: a link is never taken for a session, nor the other way round


def new_token(random_bytes: Callable[[int], bytes]) -> str:
    """A new token; `random_bytes` must be fit for secrets."""
    return urlsafe_b64encode(random_bytes(TOKEN_BYTES)).decode().rstrip("=")


def is_token(text: str | None) -> bool:
    """Whether a stranger's text is shaped like a token."""
    return text is not None and _TOKEN.fullmatch(text) is not None


def session_digest(token: str) -> bytes:
    """What is kept of a session's token."""
    return hashlib.sha256(token.encode()).digest()


def link_digest(token: str) -> bytes:
    """What is kept of the token in a link that works once."""
    return hashlib.sha256(_LINK + token.encode()).digest()


def proof_of(token: str) -> str:
    """What a form must send along that is sent with this token in a cookie."""
    return urlsafe_b64encode(hmac.digest(token.encode(), b"cxp2p form", "sha256")).decode().rstrip("=")


def is_proof(proof: str, token: str) -> bool:
    """Whether `proof` is this token's. Takes as long whether it is or not."""
    return hmac.compare_digest(proof.encode(), proof_of(token).encode())
