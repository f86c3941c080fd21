"""A run that is asked to stop: how it hears of it, and the command that goes on with it."""

import shlex
import signal
import sys
from types import FrameType, TracebackType

from experiments._folder import module_name
from experiments._run import Interrupted


class StopRequest:
    """Ctrl-C asks to stop after this epoch, a second one stops now.

    A scheduler asks by SIGTERM or SIGUSR2, and may ask by both.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            now = "; again to stop at once" if number == signal.SIGINT else ""
            print(f"\nstopping after this epoch{now}", file=sys.stderr, flush=True)
        self.requested = True


def interruption(what: str, epoch: int, epochs: int) -> Interrupted:
    """That a run was stopped after an epoch, and the command that goes on with it.

    Args:
        what: the models in training.
        epoch: the last one, which is saved.
        epochs: how many there were to be.
    """
    done = f"stopped after epoch {epoch} of {epochs} of {what}, which is saved"
    left_to_do = "go on" if epoch < epochs else "finish"
    return Interrupted(f"{done}; to {left_to_do}:\n  {_resume_command()}")


def _resume_command() -> str:
    again = ("--resume", "--overwrite", "--requeue")
    words = [word for word in sys.argv[1:] if word not in again]
    return shlex.join(["python", "-m", module_name(), *words, "--resume"])
