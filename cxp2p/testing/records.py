"""Records with only what matters said, and who signs them."""

from __future__ import annotations

from typing import Any

from cxp2p import protocols
from cxp2p.identity import Identity, Kind, identity_from_seed
from cxp2p.merkle import EMPTY
from cxp2p.records import Capability, EpochRoot, Load, Offer, Prices, Service
from cxp2p.wire import encode


def make_capability(model: str = "echo", **changes: Any) -> Capability:
    """A chat capability; `changes` are its fields."""
    fields: dict[str, Any] = {
        "service": Service.CHAT,
        "model": model,
        "model_digest": b"d" * 32,
        "runtime": "test",
        "context_units": 4096,
        "output_units_max": 1024,
        "prices": Prices(input=1_000_000, output=2_000_000),
        "slots": 2,
        "queue_max": 4,
        "load": Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
    }
    return Capability(**{**fields, **changes})


def make_offer(identity: Identity, sequence: int, wall_ms: int = 1_800_000_000_000, **changes: Any) -> Offer:
    """An offer of one chat model that was issued at `wall_ms` and lives 15 minutes; `changes` are its fields."""
    fields: dict[str, Any] = {
        "peer": identity.peer,
        "sequence": sequence,
        "issued_at_ms": wall_ms,
        "expires_at_ms": wall_ms + protocols.OFFER_LIFE_MS_MAX,
        "addresses": (),
        "agent": "test",
        "owner": "",
        "draining": False,
        "capabilities": (make_capability(),),
    }
    return Offer(**{**fields, **changes})


def sealed_offer(identity: Identity, sequence: int, **changes: Any) -> bytes:
    """The envelope of `make_offer`, signed by `identity`."""
    return identity.seal(Kind.OFFER, encode(make_offer(identity, sequence, **changes)))


def make_root(identity: Identity, epoch: int, **changes: Any) -> EpochRoot:
    """A root over nothing; `changes` are its fields."""
    fields: dict[str, Any] = {
        "gateway": identity.peer,
        "epoch": epoch,
        "root": EMPTY.hash,
        "sum": 0,
        "count": 0,
        "prev_root": None,
        "rules_hash": b"r" * 32,
    }
    return EpochRoot(**{**fields, **changes})


def sealed_root(identity: Identity, epoch: int, **changes: Any) -> bytes:
    """The envelope of `make_root`, signed by `identity`."""
    return identity.seal(Kind.EPOCH_ROOT, encode(make_root(identity, epoch, **changes)))


def make_identity(number: int) -> Identity:
    """The same identity for the same number."""
    return identity_from_seed(number.to_bytes(32, "big"))
