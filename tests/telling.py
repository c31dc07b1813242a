"""Programs that tell with `--json` how they do, run as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEAVE_S = 10.0


@contextmanager
def program(*arguments: str, log_path: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """Runs `cxp2p ARGUMENTS`; what it told until it was ready, by event."""
    command = [sys.executable, "-m", "cxp2p", *arguments, "--json"]
    with (
        log_path.open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            facts: dict[str, dict[str, Any]] = {}
            while "ready" not in facts:
                line = process.stdout.readline()
                assert line, log_path.read_text()
                told = json.loads(line)
                facts[told["event"]] = told
            yield facts
        finally:
            process.terminate()
            process.wait(LEAVE_S)
