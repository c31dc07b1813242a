"""Waits until the demo's receipts stand under signed roots; fresh processes check these, and who earned what."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import httpx

from demo.asking import headers_of
from demo.network import EPOCH_S_SHORT, DemoError, Network

CLOSED_S = 6.0 * EPOCH_S_SHORT
CHECK_S = 60.0


def close_and_check(network: Network, generations: list[str]) -> None:
    """Prints each receipt's epoch, and what `cxp2p` finds in the published files alone. Raises DemoError."""
    click.secho(f"\n> Epochs of {EPOCH_S_SHORT} s close, as hours do elsewhere", bold=True)
    epochs = sorted({epoch for generation in generations for epoch in _counted_in(network, generation)})
    with TemporaryDirectory(prefix="cxp2p-demo-") as folder:
        for epoch in epochs:
            file = Path(folder) / f"epoch-{epoch}.cxp2p"
            file.write_bytes(httpx.get(f"{network.base_url}/epochs/{epoch}/file").raise_for_status().content)
            click.secho(f"  {_cxp2p('epoch', 'verify', str(file))}", fg="green")
            for line in _cxp2p("rewards", "compute", str(file), "--epoch-s", str(EPOCH_S_SHORT)).splitlines():
                click.secho(f"  {line}", dim=True)


def _counted_in(network: Network, generation: str) -> list[int]:
    """The epochs of the receipts of one answer, once these are closed."""
    deadline = time.monotonic() + CLOSED_S
    while True:
        reply = httpx.get(f"{network.base_url}/receipts/{generation}", headers=headers_of(network)).raise_for_status()
        standing: list[dict[str, Any]] = [each["counts"] for each in reply.json()["data"]]
        if all(each["state"] == "counted" for each in standing):
            return [each["epoch"] for each in standing]
        if time.monotonic() > deadline:
            raise DemoError(f"the receipts of {generation} did not stand under a root in {CLOSED_S:g} s: {standing}")
        time.sleep(0.1)


def _cxp2p(*arguments: str) -> str:
    """What a process of its own says, which has never heard of this network."""
    command = [sys.executable, "-m", "cxp2p", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S, check=False)
    if done.returncode:
        raise DemoError(f"cxp2p {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()
