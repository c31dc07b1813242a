"""A real voice on two real nodes: who hears them notices neither where they take turns nor that one is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import pytest
import trio

from benchmarks.network import Front, open_network
from cxp2p.sound import RATE
from cxp2p.speech import split
from e2e.conftest import VOICE

pytestmark = pytest.mark.slow

MODELS = f'[[models]]\nname = "{VOICE}"\nthreads = 1\n'
TEXT = " ".join(f"This is sentence number {number}, and there are some more of them." for number in range(40))
STEP_MAX = 0.002  # of full scale: between two samples, where one node's sound ends and another's begins
ROUNDING_MAX = 2  # of 32,768
BYTES_HEARD = 2_000_000  # a tenth of a text of 10,000 characters
PATIENCE_S = 120.0

Sound = npt.NDArray[np.int16]


def client_of(front: Front) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=front.base_url, headers=front.headers, timeout=PATIENCE_S)


async def until(holds: Callable[[], bool]) -> None:
    """Polls real processes, which tell nobody what they do."""
    with trio.fail_after(PATIENCE_S):
        while True:
            if await trio.to_thread.run_sync(holds):
                return
            await trio.sleep(0.1)


def offers(front: Front) -> list[dict[str, Any]]:
    """What nodes tell the network of themselves."""
    command = [sys.executable, "-m", "cxp2p", "offers", "-b", front.bootstrap, "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    return [json.loads(line) for line in listed.stdout.splitlines()]


async def until_found(client: httpx.AsyncClient, nodes: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while True:
            models = (await client.get("/models")).raise_for_status().json()["data"]
            if any(model["id"] == VOICE and model["providers"]["count"] == nodes for model in models):
                return
            await trio.sleep(0.1)


def node_processes(number: int) -> Iterable[psutil.Process]:
    """A node, and its workers."""
    for child in psutil.Process().children():
        if any(word.endswith(f"node-{number}.toml") for word in child.cmdline()):
            yield child
            yield from child.children()


async def read(
    client: httpx.AsyncClient, text: str, *, at_byte: int = 0, call: Callable[[], None] = lambda: None
) -> tuple[Sound, str]:
    """A text as it is heard, and the id of its receipts. `call` is called when more than so many bytes are here."""
    body = {"model": "tts-1", "input": text, "voice": VOICE, "response_format": "pcm"}
    data, called = bytearray(), False
    async with client.stream("POST", "/audio/speech", json=body) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            data += part
            if len(data) > at_byte and not called:
                called = True
                call()
    return np.frombuffer(data, np.dtype("<i2")), answer.headers["x-cx-generation-id"]


async def receipts_of(client: httpx.AsyncClient, generation: str) -> list[dict[str, Any]]:
    kept = (await client.get(f"/receipts/{generation}")).raise_for_status().json()
    return [each["receipt"]["fields"] for each in kept["data"]]


async def test_a_node_that_is_killed_in_the_middle_is_not_heard(tmp_path: Path) -> None:
    """The same samples as without it, each once; the nodes' sounds join in silence, and as they are alone."""

    def kill() -> None:
        node, *_ = node_processes(1)
        node.kill()

    async with open_network(tmp_path, MODELS, nodes=2) as front, client_of(front) as client:
        await until_found(client, 2)
        undisturbed, first = await read(client, TEXT)
        alone = [(await read(client, job))[0] for job in split(TEXT)]
        disturbed, second = await read(client, TEXT, at_byte=undisturbed.nbytes // 4, call=kill)
        before, after = await receipts_of(client, first), await receipts_of(client, second)

    assert len({receipt["node"] for receipt in before}) == 2
    assert len({receipt["node"] for receipt in after[len(after) // 2 :]}) == 1
    for name in ("in_units", "out_units"):
        assert sum(receipt[name] for receipt in before) == sum(receipt[name] for receipt in after)
    assert len(disturbed) == len(undisturbed)
    assert furthest(disturbed, undisturbed) <= ROUNDING_MAX

    *joins, end = accumulate(len(sound) for sound in alone)
    assert end == len(undisturbed)
    assert furthest(np.concatenate(alone), undisturbed) <= ROUNDING_MAX
    loud = undisturbed / 32_768
    assert len(joins) > 5
    assert max(abs(float(loud[at] - loud[at - 1])) for at in joins) < STEP_MAX
    assert max(float(np.abs(loud[at - 20 : at + 20]).max()) for at in joins) < 0.05
    assert float(np.abs(np.diff(loud)).max()) > 50 * STEP_MAX


def furthest(one: Sound, other: Sound) -> int:
    """The largest difference between two samples in the same place."""
    return int(np.abs(one.astype(np.int32) - other).max())


async def test_a_client_that_leaves_stops_the_nodes(tmp_path: Path) -> None:
    """In the middle of a long text, of which they only end what they have begun, if that; the next one is heard."""
    body = {"model": "tts-1", "input": (TEXT * 4)[:10_000], "voice": VOICE, "response_format": "pcm"}

    async with open_network(tmp_path, MODELS, nodes=2) as front, client_of(front) as client:
        await until_found(client, 2)
        processes = [process for number in (1, 2) for process in node_processes(number)]
        begun = cpu_s(processes)
        with trio.CancelScope() as hearing:
            async with client.stream("POST", "/audio/speech", json=body) as answer:
                heard = 0
                async for part in answer.aiter_bytes():
                    heard += len(part)
                    if heard > BYTES_HEARD:
                        hearing.cancel()
        left = cpu_s(processes)
        await until(lambda: not any(offer["running"] for offer in offers(front)))
        sound, _ = await read(client, "Hello there. I am here again.")
        spent = cpu_s(processes) - left

    assert len(sound) > RATE
    assert spent < left - begun, "the rest of the text would take ten times as much"


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))
