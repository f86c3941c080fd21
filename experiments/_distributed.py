"""One of several processes: joining the others, and saying clearly when one is lost."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import jax

from experiments._options import RunOptions
from experiments._run import UsageError
from vae_jax import sharding

# JAX ends a process that has lost its peers from within, with a page of its own log. What
# outlives it for a moment says in one line what happened.
_WATCHER = """
import sys
line, done = sys.argv[1], sys.stdin.read()
if done != "done":
    print(line, file=sys.stderr, flush=True)
"""


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
    try:
        sharding.join(peers)
    except ValueError as error:
        raise UsageError(f"--distributed: {error}") from None
    who = f"process {jax.process_index()} of {jax.process_count()}"
    lost = f"error: {who} has lost another process; start all of them again with --resume"
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-c", _WATCHER, lost],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )

    def dismiss() -> None:
        if watcher.poll() is None:
            watcher.communicate(b"done")

    print(f"{who}, {jax.local_device_count()} of {jax.device_count()} devices", flush=True)
    try:
        with contextlib.ExitStack() as stack:
            if not sharding.is_first():
                silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            yield
    except jax.errors.JaxRuntimeError as error:
        # Without its peers this process cannot even leave in an orderly way.
        dismiss()
        reason = next(iter(str(error).splitlines()), "")[:160]
        print(f"{lost} ({reason})", file=sys.stderr, flush=True)
        os._exit(1)
    except BaseException:
        dismiss()
        raise
    dismiss()
    sharding.leave()
