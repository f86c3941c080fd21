"""What an epoch leaves of a member: its row of `metrics.csv`, or why it was stopped."""

import numpy as np

from experiments._folder import Row
from experiments._grid import Member
from experiments._program import Loop
from vae_jax.evaluation import ElboEstimate
from vae_jax.sweep import CAUSES, Report, Status


def row_of(member: Member, epoch: int, report: Report, i: int, rate: float) -> Row:
    """A row of `metrics.csv`: nats per example, costs positive."""
    metrics = {name: float(values[i]) for name, values in report.metrics.items()}
    test = ElboEstimate(*(leaf[i] for leaf in report.test))
    named = ("loss", "elbo", "log_lik", "kl", "bad_loss", "bad_gradient", "max_log_var")
    scheduled = {f"train_{name}": metrics[name] for name in metrics if name not in named}
    return {
        "member": member.name,
        **member.columns,
        "epoch": epoch,
        "train_loss": metrics["loss"],
        "train_neg_elbo": -metrics["elbo"],
        "train_reconstruction": -metrics["log_lik"],
        "train_kl": metrics["kl"],
        **scheduled,
        "train_max_log_var": metrics["max_log_var"],
        "test_neg_elbo": -float(test.elbo),
        "test_reconstruction": -float(test.log_lik),
        "test_kl": float(test.kl),
        "active_dims": int(test.active_dims),
        "collapsed_dims": len(test.kl_per_dim) - int(test.active_dims),
        "examples_per_second": round(rate, 1),
    }


def problem_of(status: Status, i: int, loop: Loop) -> str | None:
    """Why a member was stopped, in words; None if it was not."""
    if status.cause[i] == 0:
        return None
    epoch, step = divmod(int(status.step[i]) - 1, loop.steps_per_epoch)
    what = CAUSES[status.cause[i]]
    seen = {
        "gradient": "at step {}: its gradient, or the square of it, was",
        "parameters": "by step {}: its parameters or the optimiser's moments were",
    }.get(what, f"at step {{}}: its {what} was")
    step_of = f"{step + 1} of {loop.steps_per_epoch}"
    return (
        f"diverged in epoch {epoch + 1} {seen.format(step_of)} not finite, largest log-variance "
        f"{status.max_log_var[i]:.3g}; kept as after epoch {good_epochs(loop, status, 0)[i]}"
    )


def good_epochs(loop: Loop, status: Status, done: int) -> list[int]:
    """Up to which epoch each member is good, of those that are done."""
    epochs = (np.asarray(status.step) - 1) // loop.steps_per_epoch // loop.passes * loop.passes
    return np.where(np.asarray(status.cause) == 0, done, epochs).tolist()
