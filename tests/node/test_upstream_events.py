"""Server-sent events, taken apart however they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.upstream_events import Events
from cxp2p_node.engines.upstream_faults import ServerFault


@given(st.data())
def test_events_are_whole_however_the_network_cuts_them(data: st.DataObject) -> None:
    """Two to a read, or one over many; with comments, carriage returns and several lines between."""
    stream = (
        b': ping\n\ndata: {"a": 1}\r\n\r\nevent: x\ndata: one\ndata: two\n\ndata:[DONE]\n\nerror: {"message": "x"}\n\n'
    )
    whole = [b'{"a": 1}', b"one\ntwo", b"[DONE]", b'{"error": {"message": "x"}}']
    events, found = Events(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += events.feed(stream[:cut])
        stream = stream[cut:]
    assert found + events.end() == whole


def test_the_last_event_needs_no_blank_line() -> None:
    events = Events()
    assert events.feed(b"data: a\n\ndata: b") == [b"a"]
    assert events.end() == [b"b"]


@pytest.mark.parametrize("line", [b"data: " + b"x" * 200, b"x" * 200, b"data: " + b"x" * 60 + b"\ndata: " + b"y" * 60])
def test_an_event_that_does_not_end_is_not_kept(line: bytes) -> None:
    with pytest.raises(ServerFault, match="longer than 100 bytes"):
        Events(100).feed(line)
