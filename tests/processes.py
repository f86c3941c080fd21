"""Several processes of one command line on this machine, for the tests of distributed runs."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from command_line import environment


def free_port(among: Sequence[int] = (0,)) -> int:
    """A port that nobody listens on; 0 is any."""
    for port in among:
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind(("127.0.0.1", port))
            return server.getsockname()[1]
    raise OSError("every port is taken")


def on_devices(number: int, **variables: str) -> dict[str, str]:
    """The environment of a process that pretends to have some devices.

    XLA has a thread for each device, and NPROC at least; with another number of threads sums
    are rounded otherwise, so that all of them are given as many as any needs.
    """
    flag = f"--xla_force_host_platform_device_count={number}"
    fixed = {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu", "NPROC": "8"}
    return {**environment(), **fixed, **variables}


class Ended(NamedTuple):
    """A process that ended."""

    code: int
    out: str
    err: str


class Started(NamedTuple):
    """A process that runs, its output in files, so that none waits for another to be read."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def wait(self, seconds: float) -> Ended:
        """Its end, or `subprocess.TimeoutExpired`."""
        code = self.process.wait(seconds)
        return Ended(code, self.out.read_text("utf-8"), self.err.read_text("utf-8"))


@contextlib.contextmanager
def together(
    commands: Sequence[tuple[Sequence[str], dict[str, str]]], folder: Path
) -> Iterator[list[Started]]:
    """Start commands, each in its environment; whatever happens, none outlives the context."""
    logs = folder / f"logs-{time.monotonic_ns()}"
    logs.mkdir()
    started: list[Started] = []
    try:
        for number, (words, env) in enumerate(commands):
            out, err = logs / f"{number}.out", logs / f"{number}.err"
            with out.open("wb") as stdout, err.open("wb") as stderr:
                process = subprocess.Popen(
                    list(words), cwd=folder, env=env, stdout=stdout, stderr=stderr
                )
            started.append(Started(process, out, err))
        yield started
    finally:
        for one in started:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()


def until(happened: Callable[[], bool], seconds: float, alive: Sequence[Started] = ()) -> None:
    """Wait for something that processes do.

    Raises:
        AssertionError: if the time is up, or one of them ended before.
    """
    end = time.monotonic() + seconds
    while not happened():
        for one in alive:
            assert one.process.poll() is None, one.err.read_text("utf-8")
        assert time.monotonic() < end, "the time is up"
        time.sleep(0.02)
