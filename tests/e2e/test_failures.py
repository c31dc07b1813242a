"""Nodes and workers that are killed under real requests."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from e2e.conftest import MODEL, Up, start

pytestmark = pytest.mark.slow

STORY: Any = [{"role": "user", "content": "Write a long story about a dog."}]
PATIENCE_S = 30.0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Up]:
    """A network that a test may break."""
    with start(tmp_path) as running:
        yield running


def until(holds: Callable[[], bool]) -> None:
    """Polls real processes, which tell nobody what they do."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.05)


def live_nodes(up: Up) -> int:
    listed = httpx.get(f"{up.base_url}/models", headers=up.headers).json()["data"]
    return int(listed[0]["providers"]["count"]) if listed else 0


def test_a_node_killed_before_its_first_token_is_never_seen(own: Up) -> None:
    first, second = own.access["nodes"]
    workers = [*own.workers(first), *own.workers(second)]
    for worker in workers:
        worker.suspend()

    def ask(_: int) -> tuple[str | None, int]:
        with own.client(max_retries=0) as client:
            done = client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=16)
        return done.choices[0].message.content, (done.model_extra or {})["cx"]["attempts"]

    with ThreadPoolExecutor(4) as threads:
        asked: list[Future[tuple[str | None, int]]] = [threads.submit(ask, number) for number in range(4)]
        until(lambda: running_jobs(own) == 4)
        psutil.Process(first["pid"]).kill()
        for worker in workers:
            worker.resume()
        answers = [future.result(PATIENCE_S) for future in asked]
    assert all(text for text, _ in answers)
    assert max(attempts for _, attempts in answers) == 2  # some were on the node that died
    until(lambda: live_nodes(own) == 1)


def running_jobs(up: Up) -> int:
    """Jobs that nodes have taken, as they tell the network."""
    command = [sys.executable, "-m", "cxp2p", "offers", "-b", up.access["bootstrap"], "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return sum(json.loads(line)["running"] for line in listed.stdout.splitlines())


def test_a_worker_killed_in_the_middle_ends_the_stream_with_an_error(own: Up) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": STORY, "stream": True, "max_tokens": 400}
    with httpx.stream("POST", f"{own.base_url}/chat/completions", json=asked, headers=own.headers) as answer:
        events: list[str] = []
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
            if len(events) == 5:
                for node in own.access["nodes"]:
                    for worker in own.workers(node):
                        worker.kill()
    assert events[-1] != "[DONE]"
    assert json.loads(events[-1])["error"]["code"] == "upstream_disconnected"
    until(lambda: live_nodes(own) == 2)  # the nodes stayed, their workers came back
    with own.client() as client:
        again = client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=4)
    assert again.choices[0].message.content


def test_a_client_that_leaves_stops_the_engine(own: Up) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": STORY, "stream": True, "max_tokens": 4000}
    with own.client() as client:
        stream = client.chat.completions.create(**asked)
        next(iter(stream))
        stream.close()
    workers = [worker for node in own.access["nodes"] for worker in own.workers(node)]

    def busy_s() -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in workers)

    def idle() -> bool:
        before = busy_s()
        threading.Event().wait(0.3)
        return busy_s() - before < 0.02

    begun = time.monotonic()
    until(idle)
    assert time.monotonic() - begun < 2.0


def test_a_node_that_hangs_is_dropped_and_taken_back_when_it_returns(own: Up) -> None:
    node = psutil.Process(own.access["nodes"][0]["pid"])
    node.suspend()
    try:
        begun = time.monotonic()
        until(lambda: live_nodes(own) == 1)
        assert time.monotonic() - begun < 6.0  # three beats of a second, and the look
        with own.client(max_retries=0) as client:
            answers = [client.chat.completions.create(model=MODEL, messages=STORY, max_tokens=4) for _ in range(4)]
        assert all(answer.choices[0].message.content for answer in answers)
    finally:
        node.resume()
    until(lambda: live_nodes(own) == 2)


def test_all_nodes_gone_is_told(own: Up) -> None:
    for node in own.access["nodes"]:
        psutil.Process(node["pid"]).kill()
    until(lambda: live_nodes(own) == 0)
    with own.client(max_retries=0) as client, pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model=MODEL, messages=STORY)
    assert "No provisions available for the requested model" in failed.value.message
