"""One of several processes: joining the others, and saying clearly when one is lost."""

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator

import jax

from experiments._options import RunOptions
from experiments._run import Interrupted, RefusedError, UsageError, explained
from vae_jax import sharding

# JAX ends a process that does not find its peers, or loses them, from within and with a page of
# its own log. What outlives it for a moment says in one line what happened: the last it was told.
_WATCHER = """
import sys
told = sys.stdin.read().splitlines()
if told and told[-1] != "done":
    print(told[-1], file=sys.stderr, flush=True)
"""


class _Watcher:
    """A process that says how this one ended, unless it is told that all is done."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WATCHER],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is not for it
        )

    def tell(self, line: str) -> None:
        """What to say if this process ends now."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Let it end without a word."""
        if self._process.poll() is None:
            self._process.communicate("done\n")


@contextlib.contextmanager
def connected(options: RunOptions) -> Iterator[None]:
    """Join the other processes of a distributed run, if it is one.

    Only the first process prints what a run reports; all of them print errors.

    Raises:
        UsageError: if the others are not found.
    """
    if not options.distributed:
        yield
        return
    peers = sharding.Peers(
        options.coordinator, options.num_processes, options.process_id, options.heartbeat
    )
    watcher = _Watcher()
    watcher.tell("error: --distributed: the other processes were not found in time")
    try:
        sharding.join(peers)
    except ValueError as error:
        watcher.dismiss()
        raise UsageError(f"--distributed: {error}") from None
    who = f"process {jax.process_index()} of {jax.process_count()}"
    lost = f"error: {who} has lost another process; start all of them again with --resume"
    watcher.tell(lost)
    print(f"{who}, {jax.local_device_count()} of {jax.device_count()} devices", flush=True)
    try:
        with contextlib.ExitStack() as stack:
            if not sharding.is_first():
                silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            yield
    except (SystemExit, Interrupted, RefusedError):
        watcher.dismiss()  # all processes end here together
        raise
    except BaseException as error:
        # The others wait for this one, and it would wait for them in leaving as it should.
        watcher.dismiss()
        said, broken = explained(error), _broken_collective(error)
        if broken is not None:
            said = f"{lost} ({next(iter(str(broken).splitlines()), '')[:160]})", 1
        if said is None:
            traceback.print_exc()
            said = f"error: {who}: {type(error).__name__}", 1
        print(said[0], file=sys.stderr, flush=True)
        os._exit(said[1])
    watcher.dismiss()
    sharding.leave()


def _broken_collective(error: BaseException | None) -> BaseException | None:
    """What JAX said of a lost process, also where a checkpoint failed because of it."""
    while error is not None:
        is_jax = isinstance(error, jax.errors.JaxRuntimeError)
        is_jax = is_jax and "RESOURCE_EXHAUSTED" not in str(error)
        if is_jax or "Barrier failed" in str(error):
            return error
        error = error.__cause__ or error.__context__
    return None
