"""API keys: their shape, what is kept of them, and that no stranger's string gets past or breaks them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_gateway.keys import Key, key_id, make_key, matches, usable

KEY = make_key(Random(1).randbytes)


def test_a_key_has_the_documented_shape() -> None:
    """`sk-cx-`, 8 characters of id, 43 of secret; the secret is 32 bytes of the source that was given."""
    asked: list[int] = []

    def source(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    key = make_key(source)

    assert asked == [5, 32]
    assert key.text == "sk-cx-aaaaaaaa-" + "A" * 43
    assert re.fullmatch(r"sk-cx-[a-z2-7]{8}-[A-Za-z0-9_-]{43}", KEY.text)
    assert key_id(KEY.text) == KEY.id


def test_what_is_kept_does_not_hold_the_key() -> None:
    """The digest is of the whole key, and the key's text does not show in its repr."""
    assert KEY.digest == hashlib.sha256(KEY.text.encode()).digest()
    assert KEY.text[15:] not in repr(KEY)


@given(st.integers(0, 2**32))
def test_a_key_matches_only_itself(seed: int) -> None:
    """Another key's digest never matches, whatever random bytes made them."""
    other = make_key(Random(seed).randbytes)

    assert matches(other.text, other.digest)
    assert matches(other.text, KEY.digest) == (other.text == KEY.text)


@given(st.integers(15, 57), st.characters())
def test_one_other_character_is_another_key(place: int, character: str) -> None:
    """Any change of the secret is refused, also one that decodes to the same bytes."""
    token = KEY.text[:place] + character + KEY.text[place + 1 :]

    assert (key_id(token) is not None and matches(token, KEY.digest)) == (token == KEY.text)


@given(st.text() | st.text(min_size=58, max_size=58) | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_strangers_string_raises(token: str) -> None:
    """Any characters of any length are simply no key."""
    assert key_id(token) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        KEY.text + "\n",
        KEY.text[:-1],
        KEY.text[:-1] + "=",
        KEY.text[:-1] + "\u0660",  # a digit, but not ASCII
        KEY.text[:-1] + "\ud800",  # half a surrogate pair cannot be encoded
        KEY.text.upper(),
        " " + KEY.text[1:],
        "sk-cx-" + "A" * 52,
        "x" * 10_000_000,
    ],
)
def test_what_is_nearly_a_key_is_none(token: str) -> None:
    """Wrong by a character, a newline, a case or ten megabytes."""
    assert key_id(token) is None


def test_revoked_and_expired_keys_are_not_usable() -> None:
    """A key ends when it is revoked, and at its time of expiry, not after it."""
    key = Key(id=KEY.id, account="user_1", digest=KEY.digest, created_at_ms=0)

    assert usable(key, 10**15)
    assert not usable(replace(key, revoked_at_ms=5), 4)
    assert usable(replace(key, expires_at_ms=5), 4)
    assert not usable(replace(key, expires_at_ms=5), 5)
