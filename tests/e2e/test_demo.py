"""`make demo`, as a stranger sees it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import psutil
import pytest

from e2e.conftest import start

pytestmark = pytest.mark.slow


def test_the_demo_asks_and_verifies_and_leaves_nothing_running(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("signature valid (node), countersign valid (gateway): accepted") == 4
    assert "How lighthouses work (A. Keeper, 2024-05-17)" in done.stdout
    assert re.search(r"\d+ tokens, \d+ tokens/s, first token after \d+ ms", done.stdout)
    assert len(re.findall(r"node +12D3KooW\w+, attempt 1", done.stdout)) == 3
    assert len(re.findall(r"found +by (dht|exchange) look-up in \d+ ms", done.stdout)) == 3
    verified = re.findall(r"ok: epoch (\d+) of 12D3KooW\w+: (\d+) receipts make root [0-9a-f]{64}", done.stdout)
    assert verified
    assert sum(int(count) for _, count in verified) >= 4
    assert re.findall(r"epoch (\d+), 2.*, rules [0-9a-f]{64}", done.stdout) == [epoch for epoch, _ in verified]
    assert "credits from users" in done.stdout
    length_s, first_ms = re.findall(
        r"demo\.wav is ([\d.]+) s long.*?first sound after (\d+) ms", done.stdout, re.DOTALL
    )[0]
    with wave.open(str(tmp_path / "demo.wav")) as file:
        assert file.getparams()[:3] == (1, 2, 22_050)
        assert file.getnframes() / 22_050 == pytest.approx(float(length_s), abs=0.01) == pytest.approx(5, abs=1.5)
    assert int(first_ms) < 5000
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])
    ]


def test_a_second_start_works_after_everything_was_killed(tmp_path: Path) -> None:
    with start(tmp_path, leaves_orphans=True) as first:
        os.kill(first.process.pid, signal.SIGKILL)
        os.kill(first.access["gateway_pid"], signal.SIGKILL)
    orphans = [psutil.Process(node["pid"]) for node in first.access["nodes"]]
    assert all(orphan.is_running() for orphan in orphans)
    with start(tmp_path) as second:
        assert second.access["api_key"] == first.access["api_key"]
        assert [model.id for model in second.client().models.list()]
        assert not any(orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE for orphan in orphans)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_network_in_seconds(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path) as running:
        begun = time.monotonic()
        running.process.send_signal(number)
        assert running.process.wait(10) == 130
        assert time.monotonic() - begun < 5.0  # one to two on a machine that does nothing else
