"""llama.cpp's own server engine as a program: bursts of chats in on standard input, speeds out. See `engine`."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import astuple
from typing import Any

import xllamacpp

from benchmarks.engine import turn_of


def main() -> None:
    settings = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.n_ctx = settings["context"] * settings["slots"]
    params.n_parallel = settings["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.verbosity = 0
    server = xllamacpp.Server(params)
    sys.stdout.write("[]\n")
    sys.stdout.flush()
    for line in sys.stdin:
        talks = json.loads(line)
        tokens: list[int] = []
        heard: list[list[float]] = []
        begun = time.perf_counter()
        asking = [
            threading.Thread(target=ask, args=(server, talk, settings["tokens"], tokens, heard)) for talk in talks
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        sys.stdout.write(json.dumps(astuple(turn_of(sum(tokens), begun, heard))) + "\n")
        sys.stdout.flush()


def ask(server: Any, talk: list[dict[str, str]], tokens_max: int, tokens: list[int], heard: list[list[float]]) -> None:
    made = 0
    times: list[float] = []

    def take(chunk: Any) -> None:
        nonlocal made
        for event in chunk if isinstance(chunk, list) else [chunk]:
            facts = event if isinstance(event, dict) else json.loads(event)
            if any(choice.get("delta", {}).get("content") for choice in facts.get("choices", [])):
                times.append(time.perf_counter())
            made = (facts.get("timings") or {}).get("predicted_n") or made

    asked = {"messages": talk, "max_tokens": tokens_max, "stream": True, "temperature": 0, "timings_per_token": True}
    server.handle_chat_completions(asked, take)
    tokens.append(made)
    heard.append(times)


if __name__ == "__main__":
    main()
