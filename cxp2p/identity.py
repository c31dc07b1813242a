"""Who a peer is: an Ed25519 key, the peer id made from it, its file, and what it signs.

Signatures travel in libp2p's signed envelope (libp2p RFC 0002): domain-separated, so that what was signed as one kind
is never valid as another, and any libp2p implementation can check it. The exact bytes that were sent are what is
hashed, stored and verified; nothing is encoded again to be verified.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from google.protobuf.message import DecodeError
from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.peer.envelope import Envelope, make_unsigned, unmarshal_envelope
from libp2p.peer.id import ID

from cxp2p import protocols
from cxp2p.errors import IdentityError, RemoteProtocolError

KEY_FILE_BYTES_MAX = 16 * 1024
PEERS_REMEMBERED_MAX = 4096  # by their public keys, about 300 bytes each


class Kind(StrEnum):
    """What a signature is about. The envelope's domain is `cxp2p/<kind>/1`, its payload type `/cxp2p/<kind>/1`."""

    OFFER = "offer"
    ORDER = "order"
    VOUCHER = "voucher"
    RECEIPT = "receipt"
    COUNTERSIGN = "countersign"
    EPOCH_ROOT = "epoch-root"


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope whose signature holds: who signed, what, and the bytes that prove it."""

    peer: str
    body: bytes
    envelope: bytes


class Identity:
    """A peer's key. Make one with `new_identity`, `identity_from_seed` or `load_identity`."""

    def __init__(self, key_pair: KeyPair) -> None:
        self.key_pair = key_pair
        self.peer = str(ID.from_pubkey(key_pair.public_key))

    def __repr__(self) -> str:
        return f"<Identity {self.peer}>"

    def seal(self, kind: Kind, body: bytes) -> bytes:
        """Signs `body` as `kind` and returns the envelope."""
        domain, payload_type = _domain(kind)
        signature = self.key_pair.private_key.sign(make_unsigned(domain, payload_type, body))
        return Envelope(self.key_pair.public_key, payload_type, body, signature).marshal_envelope()

    def secret(self, purpose: str) -> bytes:
        """32 bytes that only this peer can make, the same every time, for one purpose (HKDF, RFC 5869)."""
        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"cxp2p/{purpose}/1".encode())
        return derive.derive(self.key_pair.private_key.to_bytes()[:32])


def new_identity() -> Identity:
    """A fresh random identity."""
    return Identity(create_new_key_pair())


def identity_from_seed(seed: bytes) -> Identity:
    """The identity of 32 secret bytes: the same seed gives the same peer id."""
    return Identity(create_new_key_pair(seed))


def open_envelope(kind: Kind, envelope: bytes, bytes_max: int = protocols.ENVELOPE_BYTES_MAX) -> Opened:
    """Checks a signed envelope. Raises RemoteProtocolError: too large, malformed, another kind, not Ed25519, forged."""
    if len(envelope) > bytes_max:
        raise RemoteProtocolError(f"{kind} envelope of {len(envelope)} bytes is over the limit of {bytes_max}")
    domain, payload_type = _domain(kind)
    try:
        opened = unmarshal_envelope(envelope)
    except (DecodeError, ValueError, TypeError) as error:
        raise RemoteProtocolError(f"{kind} envelope is malformed: {error}") from None
    if opened.payload_type != payload_type:
        raise RemoteProtocolError(f"envelope holds {opened.payload_type[:64]!r}, expected {payload_type!r}")
    key = opened.public_key
    if not isinstance(key, Ed25519PublicKey) or len(opened.signature) != 64:
        raise RemoteProtocolError(f"{kind} envelope is not signed with Ed25519")
    if not key.verify(make_unsigned(domain, payload_type, opened.raw_payload), opened.signature):
        raise RemoteProtocolError(f"{kind} signature is not valid")
    return Opened(_peer_of(key.to_bytes()), opened.raw_payload, envelope)


def load_identity(path: Path, passphrase: str | None = None) -> Identity:
    """The identity in `path`, a PKCS#8 PEM file; made on first use with mode 0600, encrypted if a passphrase is given.

    Raises IdentityError for a wrong or missing passphrase, a broken file, another kind of key, or a file that others
    may read. The file is never changed once it exists.
    """
    try:
        data = _read_private(path)
    except FileNotFoundError:
        return _create(path, passphrase)
    password = passphrase.encode() if passphrase else None
    try:
        key = load_pem_private_key(data, password)
    except TypeError:
        wanted = "is encrypted: give its passphrase" if password is None else "is not encrypted: give no passphrase"
        raise IdentityError(f"key file {path} {wanted}") from None
    except ValueError:
        encrypted = b"ENCRYPTED" in data and password is not None
        fault = "cannot be opened with this passphrase" if encrypted else "is not a PKCS#8 PEM private key"
        raise IdentityError(f"key file {path} {fault}; it was left as it was") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"key file {path} holds a {type(key).__name__}, expected Ed25519; it was left as it was")
    return identity_from_seed(key.private_bytes_raw())


def _read_private(path: Path) -> bytes:
    try:
        status = path.stat()
        if status.st_mode & 0o077:
            raise IdentityError(f"key file {path} can be read by others: run `chmod 600 {path}`")
        if status.st_size > KEY_FILE_BYTES_MAX:
            raise IdentityError(f"key file {path} is {status.st_size} bytes: that is no key; it was left as it was")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IdentityError(f"key file {path} cannot be read: {error.strerror}") from None


def _create(path: Path, passphrase: str | None) -> Identity:
    identity = new_identity()
    key = Ed25519PrivateKey.from_private_bytes(identity.key_pair.private_key.to_bytes()[:32])
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written whole under another name and then linked: a crash leaves no half key, a rival start wins cleanly.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return load_identity(path, passphrase)
        finally:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
    except OSError as error:
        raise IdentityError(f"key file {path} cannot be written: {error.strerror}") from None
    return identity


@lru_cache(maxsize=PEERS_REMEMBERED_MAX)
def _peer_of(key: bytes) -> str:
    """The peer id of a public key: base 58 takes as long as a third of a signature's check, and peers come again."""
    return str(ID.from_pubkey(Ed25519PublicKey.from_bytes(key)))


def _domain(kind: Kind) -> tuple[str, bytes]:
    return f"cxp2p/{kind}/1", f"/cxp2p/{kind}/1".encode()
