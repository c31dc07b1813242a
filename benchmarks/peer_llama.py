"""llama.cpp's own server engine as a program: bursts of chats in on standard input, speeds out. See `engine`."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from typing import Any

import xllamacpp


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
        firsts: list[float] = []
        begun = time.perf_counter()
        asking = [
            threading.Thread(target=ask, args=(server, talk, settings["tokens"], tokens, firsts)) for talk in talks
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        rate = sum(tokens) / (time.perf_counter() - begun)
        sys.stdout.write(json.dumps([rate, 1000 * statistics.median(firsts)]) + "\n")
        sys.stdout.flush()


def ask(server: Any, talk: list[dict[str, str]], tokens_max: int, tokens: list[int], firsts: list[float]) -> None:
    begun = time.perf_counter()
    made = 0
    heard = False

    def take(chunk: Any) -> None:
        nonlocal made, heard
        for event in chunk if isinstance(chunk, list) else [chunk]:
            facts = event if isinstance(event, dict) else json.loads(event)
            content = [choice.get("delta", {}).get("content") for choice in facts.get("choices", [])]
            if any(content) and not heard:
                heard = True
                firsts.append(time.perf_counter() - begun)
            made = (facts.get("timings") or {}).get("predicted_n") or made

    asked = {"messages": talk, "max_tokens": tokens_max, "stream": True, "temperature": 0, "timings_per_token": True}
    server.handle_chat_completions(asked, take)
    tokens.append(made)


if __name__ == "__main__":
    main()
