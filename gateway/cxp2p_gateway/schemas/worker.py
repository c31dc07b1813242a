"""The process that checks answers: a line of JSON in, a line out. Run by `schemas.apart`, never by a person.

It ends when standard input closes, and by itself when one check takes longer than anybody waits for it: what was begun
for a gateway that is no more must not go on.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Final

from cxp2p_gateway.schemas.checking import Checker

ROOM_BYTES_MAX: Final = 1024 * 1024 * 1024  # of the whole process; the largest schemas that are compiled take 100 MB
ALONE_S_MAX: Final = 5.0
READY: Final = b"ready\n"


def main() -> None:
    """`python -m cxp2p_gateway.schemas.worker`: lines `[schema, answer or null]`, each answered with a JSON string."""
    resource.setrlimit(resource.RLIMIT_AS, (ROOM_BYTES_MAX, ROOM_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal: the gateway ends this one
    checker = Checker()
    out = sys.stdout.buffer
    out.write(READY)
    out.flush()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, ALONE_S_MAX)
        schema, answer = json.loads(line)
        said = checker.refusal(schema) if answer is None else checker.breach(schema, answer)
        signal.setitimer(signal.ITIMER_REAL, 0)
        out.write(json.dumps(said).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
