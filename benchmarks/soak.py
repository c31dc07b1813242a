"""A gateway's memory over very many requests: `python -m benchmarks.soak 100000`. Takes as long as they take.

Prints the memory of the gateway's process after the first thousand and after each tenth of the rest, plain requests
and streams in turn.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import psutil
import trio

from benchmarks import gateway
from benchmarks.http_load import load, request
from benchmarks.peer_backend import MODEL

WARM = 1_000
AT_ONCE = 16
ROUND_S = 5.0
REPORTS = 10


async def soak(requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with gateway.open_ours(Path(folder)) as place:
            process = psutil.Process(place.pid)
            body = {"model": MODEL, "messages": [{"role": "user", "content": "one two three four five"}]}
            kinds = [
                (request(place.url, place.headers, {**body, "stream": stream}), stream) for stream in (False, True)
            ]
            done, told, first_mb, begun = 0, WARM, 0.0, time.perf_counter()
            while done < requests:
                for sent, stream in kinds:
                    result = await load(place.url, sent, AT_ONCE, ROUND_S, 5 if stream else 0)
                    done += len(result.took_ms)
                    if result.errors:
                        sys.stdout.write(f"{len(result.errors)} errors, the first: {result.errors[0]}\n")
                if done >= min(told, requests):
                    memory_mb = process.memory_info().rss / 1e6
                    first_mb = first_mb or memory_mb
                    more = 100 * (memory_mb / first_mb - 1)
                    seconds = time.perf_counter() - begun
                    sys.stdout.write(f"{done:>8} requests  {memory_mb:6.1f} MB  {more:+5.1f} %  {seconds:6.0f} s\n")
                    sys.stdout.flush()
                    told = done + (requests - WARM) // REPORTS


if __name__ == "__main__":
    trio.run(soak, int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
