"""Has the gateway read a sentence aloud."""

from __future__ import annotations

import time
import wave
from pathlib import Path

import click
import httpx

from demo.asking import headers_of, print_receipt
from demo.network import Network

SENTENCE = "This is a peer to peer network, and one of its nodes has just read this sentence aloud."
FILE = Path("demo.wav")
BYTES_PER_SAMPLE = 2


def speak(network: Network) -> str:
    """One sentence, streamed into `demo.wav` in this folder; how long it is, and the receipt. Returns its id."""
    click.secho(f"\n> {SENTENCE}", bold=True)
    body = {"model": "tts-1", "input": SENTENCE, "voice": "af_bella", "response_format": "pcm"}
    started = time.perf_counter()
    first_s, data = 0.0, bytearray()
    with httpx.stream(
        "POST", f"{network.base_url}/audio/speech", json=body, headers=headers_of(network), timeout=60
    ) as reply:
        reply.raise_for_status()
        for part in reply.iter_bytes():
            first_s = first_s or time.perf_counter() - started
            data += part
    seconds = time.perf_counter() - started
    rate = int(reply.headers["x-cx-sample-rate"])
    with wave.open(str(FILE), "wb") as file:
        file.setparams((1, BYTES_PER_SAMPLE, rate, 0, "NONE", ""))
        file.writeframes(data)
    length_s = len(data) / BYTES_PER_SAMPLE / rate
    click.echo(f"{FILE} is {length_s:.2f} s long, spoken by {reply.headers['x-cx-voice']}")
    click.secho(f"  speed    {seconds:.2f} s, first sound after {1000 * first_s:.0f} ms", dim=True)
    print_receipt(network, reply.headers["x-cx-generation-id"], int(length_s * 1000))
    return reply.headers["x-cx-generation-id"]
