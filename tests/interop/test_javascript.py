"""js-libp2p reads what this library signs: PROTOCOL.md is enough for a second implementation."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import golden
from cxp2p.identity import Kind

HERE = Path(__file__).parent
FORGED_ROOT = (golden.EPOCH_ROOT_ENVELOPE[:-1] + bytes([golden.EPOCH_ROOT_ENVELOPE[-1] ^ 1])).hex()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script with its pinned packages beside it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("interop")
    for name in ("package.json", "verify.mjs"):
        shutil.copy(HERE / name, folder)
    words = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    installed = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=180)
    if installed.returncode:
        pytest.skip(f"npm cannot install the pinned packages: {installed.stderr[:300]}")
    return folder / "verify.mjs"


def verify(script: Path, vectors: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", str(script), str(vectors)], capture_output=True, text=True, timeout=120)


def test_javascript_verifies_the_golden_bytes(script: Path) -> None:
    """Offer, order, receipt, countersign and root open under js-libp2p; every proof and the published epoch hold."""
    result = verify(script, golden.VECTORS)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)

    assert set(told["envelopes"]) == set(Kind)
    assert told["proofs"] == sum(len(tree["leaves"]) for tree in golden.files()["sums.json"])
    assert told["published"] == told["inclusions"] == len(golden.EPOCH_ENTRIES)
    # What js-libp2p lets pass of the flipped bytes are spellings of the root's envelope: it says the same under them.
    assert told["flipped"]["bytes"] - told["flipped"]["refused"] <= 8
    assert told["flipped"]["refused"] > 1_000


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("envelopes.json", '"sequence": 7', '"sequence": 8', "offer: its fields are"),
        ("envelopes.json", golden.RECEIPT_ENVELOPE.hex(), golden.ORDER_ENVELOPE.hex(), "signature is not valid"),
        ("sums.json", '"amount": 11', '"amount": 12', "has another root"),
        ("epochs.json", golden.EPOCH_ROOT_ENVELOPE.hex(), FORGED_ROOT, "signature is not valid"),
    ],
)
def test_javascript_refuses_other_bytes(
    script: Path, tmp_path: Path, name: str, old: str, new: str, reason: str
) -> None:
    """The script can tell: what was changed in the vectors is refused for what it is."""
    vectors = tmp_path / "vectors"
    shutil.copytree(golden.VECTORS, vectors)
    text = (vectors / name).read_text()
    assert old in text
    (vectors / name).write_text(text.replace(old, new))
    result = verify(script, vectors)

    assert result.returncode == 1
    assert reason in result.stderr
