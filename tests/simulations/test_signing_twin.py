from __future__ import annotations

import pytest

from cxp2p.errors import RemoteProtocolError
from cxp2p.identity import Kind
from simulations.signing import PEER_BYTES, QuickSigning, RealSigning, Signing

SEEDS = (b"a" * 32, b"b" * 32)


@pytest.fixture(params=[QuickSigning, RealSigning])
def signing(request: pytest.FixtureRequest) -> Signing:
    """Both ways to sign: what holds of one has to hold of the other."""
    made: Signing = request.param()
    return made


def test_the_same_seed_gives_the_same_peer_with_an_id_as_long_as_real_ones(signing: Signing) -> None:
    one, again, other = (signing.signer(seed).peer for seed in (SEEDS[0], *SEEDS))

    assert one == again != other
    assert len(one) == PEER_BYTES
    assert one.startswith("12D3KooW")


def test_what_was_sealed_opens_to_who_sealed_it_and_the_bytes(signing: Signing) -> None:
    signer = signing.signer(SEEDS[0])
    envelope = signer.seal(Kind.ORDER, b"the order")
    opened = signing.open(Kind.ORDER, envelope)

    assert (opened.peer, opened.body, opened.envelope) == (signer.peer, b"the order", envelope)
    assert signer.seal(Kind.ORDER, b"the order") == envelope


@pytest.mark.parametrize("at", [0, 20, 70, -1])
def test_a_changed_byte_anywhere_is_seen(signing: Signing, at: int) -> None:
    """Signature, signer and body are all covered."""
    envelope = bytearray(signing.signer(SEEDS[0]).seal(Kind.ORDER, b"the order of 1000 tokens"))
    envelope[at] ^= 1

    with pytest.raises(RemoteProtocolError):
        signing.open(Kind.ORDER, bytes(envelope))


def test_what_is_sealed_as_one_kind_is_not_valid_as_another(signing: Signing) -> None:
    envelope = signing.signer(SEEDS[0]).seal(Kind.ORDER, b"the order")

    with pytest.raises(RemoteProtocolError):
        signing.open(Kind.RECEIPT, envelope)


@pytest.mark.parametrize("envelope", [b"", b"short", b"\xff" * 200])
def test_rubbish_is_refused(signing: Signing, envelope: bytes) -> None:
    """What no signer made has no signer, and breaks nothing."""
    with pytest.raises(RemoteProtocolError):
        signing.open(Kind.ORDER, envelope)
