"""What `import cxp2p` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cxp2p


def test_every_public_name_is_there() -> None:
    for name in cxp2p.__all__:
        assert getattr(cxp2p, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cxp2p.nothing  # noqa: B018


def test_a_worker_process_does_not_import_libp2p() -> None:
    code = "import sys, cxp2p_node.engines.frames, cxp2p_node.engines.slots; sys.exit('libp2p' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
