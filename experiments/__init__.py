"""Experiments: `python -m experiments.NAME --help`."""

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType

START = "-m"  # what stands for the name of a module that is about to be run
_M_ARENA_MAX = -8  # of glibc's malloc.h
_HEAPS = 2  # with one alone, every thread would wait for the same lock


def _stop_before_start(number: int, frame: FrameType | None) -> None:
    """Nothing is begun yet, so nothing can be lost: one line in place of a traceback."""
    os.write(sys.stderr.fileno(), b"stopped\n")
    os._exit(130)


def started() -> None:
    """Give Ctrl-C back its usual meaning, when all is imported."""
    if signal.getsignal(signal.SIGINT) is _stop_before_start:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _share_heap() -> None:
    """Let threads take from few heaps.

    With glibc each has its own, and what one that compiles has freed, some 50 MB in all, is of no
    use to the others.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, _HEAPS)


# Where another program imports an experiment, the heaps and the signals are that program's.
if sys.argv[:1] == [START]:
    _share_heap()  # before there are threads, each with its own
    # Importing what an experiment stands on takes seconds. A background job keeps ignoring Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop_before_start)
