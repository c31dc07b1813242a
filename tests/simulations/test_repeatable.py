"""The same seed gives the same bytes, whatever the order of Python's hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.scenario import all_scenarios

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("name", list(all_scenarios()))
def test_three_hash_seeds_give_the_same_bytes(name: str) -> None:
    """Figures, curves and the digest over every event and fact, of each scenario at a twentieth of its length."""
    scenario, _ = all_scenarios()[name]
    size = ("--peers", str(scenario.peers), "--hours", f"{scenario.hours / 20:g}", "--seed", "6")
    answers = []
    for hash_seed in ("0", "1", "4242"):
        told = subprocess.run(
            [sys.executable, "-m", "simulations", name, *size, "--json"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert told.returncode == 0, told.stderr
        answers.append(json.loads(told.stdout) | {"took_s": 0, "commit": ""})  # somebody may commit meanwhile

    assert answers[0] == answers[1] == answers[2]
    assert all(answers[0]["digests"].values())
