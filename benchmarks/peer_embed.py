"""Another program that gives vectors: texts in on standard input, one JSON list a line, seconds out. See `embed`.

`xllamacpp` is llama.cpp's own server engine, `llama-cpp-python` the class that most Python programs use. Both with
their own defaults, but for the threads and for the model's context.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

Embed: TypeAlias = Callable[[list[str]], int]
"""Takes texts, returns how many vectors it gave."""


def main() -> None:
    settings = json.loads(sys.argv[1])
    embed = {"xllamacpp": open_server, "llama-cpp-python": open_class}[settings["peer"]](settings)
    sys.stdout.write("0\n")
    sys.stdout.flush()
    for line in sys.stdin:
        texts = json.loads(line)
        begun = time.perf_counter()
        count = embed(texts)
        took_s = time.perf_counter() - begun
        if count != len(texts):
            raise SystemExit(f"{count} vectors for {len(texts)} texts")
        sys.stdout.write(json.dumps(took_s) + "\n")
        sys.stdout.flush()


def open_server(settings: dict[str, Any]) -> Embed:
    import xllamacpp  # noqa: PLC0415 - only one of the two is loaded

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.embedding = True
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["context"] * settings["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.verbosity = 0
    server = xllamacpp.Server(params)

    def embed(texts: list[str]) -> int:
        answer = server.handle_embeddings({"input": texts})
        return len(answer["data"])

    return embed


def open_class(settings: dict[str, Any]) -> Embed:
    from llama_cpp import Llama  # noqa: PLC0415 - only one of the two is loaded

    model = Llama(
        settings["path"],
        embedding=True,
        n_ctx=settings["context"],
        n_threads=settings["threads"],
        n_threads_batch=settings["threads"],
        verbose=False,
    )

    def embed(texts: list[str]) -> int:
        return len(model.embed(texts, normalize=True))

    return embed


if __name__ == "__main__":
    main()
