"""Piper's own HTTP server (`python -m piper.http_server`), told how many threads it has. It needs Flask.

The settings name the voice's file, the port and the threads; without the last it takes what it takes by itself.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    import onnxruntime  # noqa: PLC0415
    from piper import http_server  # noqa: PLC0415

    if settings["threads"]:
        usual = onnxruntime.SessionOptions

        def limited() -> Any:
            options = usual()
            options.intra_op_num_threads = settings["threads"]
            return options

        onnxruntime.SessionOptions = limited
    sys.argv = ["http_server", "-m", settings["path"], "--host", "127.0.0.1", "--port", str(settings["port"])]
    http_server.main()


if __name__ == "__main__":
    main()
