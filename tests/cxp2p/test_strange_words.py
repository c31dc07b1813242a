"""Strangers' words reach logs, terminals and error texts: they must not move the cursor there, nor fill the page."""

from __future__ import annotations

import cbor2
import pytest

from cxp2p.errors import RemoteProtocolError
from cxp2p.identity import Kind, open_envelope
from cxp2p.net.attempt import refused_with
from cxp2p.program import plain
from cxp2p.records import Offer, Refusal, RefusalCode
from cxp2p.testing.records import make_capability, make_identity, make_offer, sealed_offer
from cxp2p.wire import decode, encode

ESCAPES = "\x1b[2J\x1b]0;mine\x07"


@pytest.mark.parametrize("word", [ESCAPES, "a\nb", "a\rb", "a\x00", "\u202eevil", "\u2028"])
@pytest.mark.parametrize("field", ["agent", "owner", "addresses", "model", "runtime"])
def test_an_offer_with_unprintable_words_is_refused(word: str, field: str) -> None:
    """Nobody needs them in the name of a model."""
    body = cbor2.loads(encode(make_offer(make_identity(1), 1)))
    if field in ("model", "runtime"):
        body["capabilities"][0][field] = word
    else:
        body[field] = [word] if field == "addresses" else word
    with pytest.raises(RemoteProtocolError, match=field):
        decode(Offer, cbor2.dumps(body))


def test_an_offer_in_any_language_is_taken() -> None:
    """Names are printable, not ASCII."""
    made = make_offer(make_identity(1), 1, capabilities=(make_capability("小さな-модель é"),), agent="a b")
    assert decode(Offer, encode(made)) == made


def test_a_refusal_is_told_in_one_printable_line() -> None:
    """What a node gives as its reason is shown to people."""
    error = refused_with(Refusal(code=RefusalCode.BUSY, reason="no" + ESCAPES + "\nroot: ok", retry_after_ms=2**31 - 1))
    assert str(error).isprintable()
    assert "no" in str(error)
    assert error.retry_after_ms == 60_000


def test_an_answer_cannot_drive_the_terminal() -> None:
    """Lines and tabs are text; what else is not printable is shown as what it is."""
    assert plain("a\tb\nc é 小" + ESCAPES) == "a\tb\nc é 小\\x1b[2J\\x1b]0;mine\\x07"


def test_faults_are_short() -> None:
    """However long what a stranger sent is, what is said of it fits a line of the log."""
    long = "k" * 9000 + ESCAPES
    twice = b"\xa2" + cbor2.dumps(long) + b"\x01" + cbor2.dumps(long) + b"\x02"
    envelope = sealed_offer(make_identity(1), 1).replace(b"/cxp2p/offer/1", b"/cxp2p/\x1b[22J/1")
    for act in (
        lambda: decode(Refusal, twice),
        lambda: decode(Refusal, cbor2.dumps({long: 1})),
        lambda: decode(Refusal, cbor2.dumps({"code": long, "reason": "", "retry_after_ms": 0})),
        lambda: open_envelope(Kind.OFFER, envelope),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            act()
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()
