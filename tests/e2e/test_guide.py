"""The blocks of the guide that are marked `network`, run against one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.conftest import Up
from pages import Fence, pages

pytestmark = pytest.mark.slow

NETWORK = [fence for each in pages() for fence in each.fences if "network" in fence.words]


def test_the_guide_has_blocks_to_run() -> None:
    assert len(NETWORK) >= 12


@pytest.mark.parametrize("fence", NETWORK, ids=lambda fence: f"{fence.page}:{fence.line}")
def test_a_block_of_the_guide_works_when_pasted(up: Up, fence: Fence, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OPENAI_BASE_URL": up.base_url,
        "OPENAI_API_KEY": up.access["api_key"],
        "CX_USER_ID": up.access["user_id"],
        "CXP2P_BOOTSTRAP": up.access["bootstrap"],
        "CX_PAGE": up.access["page"],
    }
    caller = [sys.executable, "-c"] if fence.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run(
        [*caller, fence.text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.strip()) > 3
    assert '"error"' not in done.stdout
