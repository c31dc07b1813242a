"""What becomes of a worker process when one of its threads meets an error: it says so and ends, whole."""

from __future__ import annotations

import os
import sys
import threading

EXIT_FAULT = 1


def end_with_traceback(fault: threading.ExceptHookArgs) -> None:
    """For `threading.excepthook`. Such an error is a bug, or no memory is left; the node starts a fresh worker."""
    try:
        sys.__excepthook__(fault.exc_type, fault.exc_value or fault.exc_type(), fault.exc_traceback)
        sys.stderr.flush()
    finally:
        os._exit(EXIT_FAULT)  # also if there is no memory left to say so
