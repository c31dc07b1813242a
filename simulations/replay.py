"""Which state of the source a run was made with, so that whoever reads of it can run it again."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str:
    """The short name of the commit, with a `+` if anything was changed since; "unknown" without git."""
    folder = Path(__file__).parent
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=folder, capture_output=True, text=True
    )
    return told.stdout.strip() or "unknown"
