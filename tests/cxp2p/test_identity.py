from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.errors import IdentityError, RemoteProtocolError
from cxp2p.identity import Kind, identity_from_seed, load_identity, new_identity, open_envelope

ALICE = identity_from_seed(b"a" * 32)


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes the file with mode 0600; later starts find the same peer."""
    path = tmp_path / "deep" / "identity.key"
    first = load_identity(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_identity(path).peer == first.peer
    assert first.peer.startswith("12D3KooW")
    assert list(path.parent.iterdir()) == [path]


def test_a_passphrase_encrypts_the_file(tmp_path: Path) -> None:
    """With a passphrase the file is encrypted PKCS#8, and opens with that passphrase alone."""
    path = tmp_path / "identity.key"
    first = load_identity(path, "open sesame")

    assert b"ENCRYPTED" in path.read_bytes()
    assert load_identity(path, "open sesame").peer == first.peer


@pytest.mark.parametrize(
    ("made_with", "opened_with", "fault"),
    [
        ("right", "wrong", "cannot be opened with this passphrase"),
        ("right", None, "is encrypted"),
        (None, "any", "is not encrypted"),
    ],
)
def test_a_wrong_passphrase_is_a_clear_error(
    tmp_path: Path, made_with: str | None, opened_with: str | None, fault: str
) -> None:
    """The error says what is wrong, and the file stays as it was."""
    path = tmp_path / "identity.key"
    load_identity(path, made_with)
    before = path.read_bytes()

    with pytest.raises(IdentityError, match=fault):
        load_identity(path, opened_with)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"x" * 20_000]
)
def test_a_broken_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A file that is no key is an error, never overwritten with a new identity."""
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(IdentityError, match="left as it was"):
        load_identity(path)
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Only Ed25519 makes a peer here."""
    path = tmp_path / "identity.key"
    key = X25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)

    with pytest.raises(IdentityError, match="expected Ed25519"):
        load_identity(path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key file with loose permissions is not used; the error says how to mend it."""
    path = tmp_path / "identity.key"
    load_identity(path)
    path.chmod(0o644)

    with pytest.raises(IdentityError, match="chmod 600"):
        load_identity(path)


def test_a_seed_always_gives_the_same_peer() -> None:
    """Simulations name peers by seed."""
    assert identity_from_seed(b"a" * 32).peer == ALICE.peer != new_identity().peer


@given(st.binary(max_size=500), st.sampled_from(Kind))
def test_what_was_sealed_opens(body: bytes, kind: Kind) -> None:
    """An envelope gives back its signer and the exact bytes."""
    opened = open_envelope(kind, ALICE.seal(kind, body))

    assert (opened.peer, opened.body) == (ALICE.peer, body)


@given(st.data())
def test_a_changed_envelope_never_opens_as_something_else(data: st.DataObject) -> None:
    """Any changed byte is refused, or opens to exactly what was signed by the same peer."""
    envelope = bytearray(ALICE.seal(Kind.RECEIPT, b"the body that was signed"))
    index = data.draw(st.integers(0, len(envelope) - 1))
    envelope[index] ^= data.draw(st.integers(1, 255))
    try:
        opened = open_envelope(Kind.RECEIPT, bytes(envelope))
    except RemoteProtocolError:
        return

    assert (opened.peer, opened.body) == (ALICE.peer, b"the body that was signed")


@given(st.binary(max_size=400))
def test_garbage_is_never_an_envelope(data: bytes) -> None:
    """Bytes that nobody signed raise RemoteProtocolError and nothing else."""
    with pytest.raises(RemoteProtocolError):
        open_envelope(Kind.OFFER, data)


def test_an_oversized_envelope_is_refused_unread() -> None:
    """The size is checked before anything is parsed."""
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        open_envelope(Kind.ORDER, bytes(protocols.ENVELOPE_BYTES_MAX + 1))
