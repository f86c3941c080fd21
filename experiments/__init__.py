"""Experiments: `python -m experiments.NAME --help`."""

import os
import signal
import sys
from types import FrameType

START = "-m"  # what stands for the name of a module that is about to be run


def _stop(number: int, frame: FrameType | None) -> None:
    """Nothing is begun yet, so nothing can be lost: one line in place of a traceback."""
    os.write(sys.stderr.fileno(), b"stopped\n")
    os._exit(130)


def started() -> None:
    """Give Ctrl-C back its usual meaning, when all is imported."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Importing what an experiment stands on takes seconds. A background job keeps ignoring Ctrl-C.
if sys.argv[:1] == [START] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _stop)
