"""Shorter patience: these tests wait for it."""

from __future__ import annotations

import pytest

from cxp2p.net import libp2p_ends


@pytest.fixture(autouse=True)
def _short_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_ends, "LINGER_S", 0.5)
