"""What a run of images sweeps over, and what it is called."""

from collections.abc import Sequence

from experiments._grid import Axis, Member, described, grid, short, shown_axes
from experiments._mnist_options import DEFAULT_SCALE, EPOCHS, OBJECTIVE_DEFAULTS, Config
from experiments._options import folder_name
from experiments._run import check
from vae_jax.objectives import OBJECTIVES

PIXELS = {"none": "grey", "dynamic": "dynamically binarised", "threshold": "thresholded"}
# Choices that say what a run's numbers are of; its name tells those that are not the default.
IN_THE_NAME = ("likelihood", "binarize", "objective", "compute_dtype", "budget")


def axes_of(config: Config, steps_per_epoch: int = 1) -> list[Axis]:
    """The settings that may be swept; the first one stands in every name.

    Args:
        config: with its defaults filled in.
        steps_per_epoch: optimiser steps in an epoch.

    Returns:
        Beta where the objective has one, its other settings, the learning rate.
    """
    reads = OBJECTIVES[config.objective]().reads
    axes = [Axis("beta", config.beta, "beta")] if "beta" in reads else []
    for field in OBJECTIVE_DEFAULTS:
        values = getattr(config, field)
        if values is not None:
            hyper = field.replace("_epochs", "_steps")
            axes.append(Axis(field, values, hyper, 1 if hyper == field else steps_per_epoch))
    return [*axes, Axis("learning_rate", config.learning_rate, "learning_rate")]


def lead_of(config: Config) -> str | None:
    """The setting that stands in every name: beta, or the capacity that replaces it."""
    reads = OBJECTIVES[config.objective]().reads
    return next((field for field in ("beta", "capacity") if field in reads), None)


def members_of(config: Config, num_examples: int) -> list[Member]:
    """Every combination of the swept settings and the seeds.

    Args:
        config: with its defaults filled in.
        num_examples: in the training set.

    Returns:
        The members, setting by setting.

    Raises:
        UsageError: if a cycle is shorter than two steps.
    """
    steps_per_epoch = num_examples // config.batch_size
    for cycle in config.cycle_epochs or ():
        long_enough = cycle * steps_per_epoch >= 2
        check(long_enough, "--cycle-epochs", cycle, "at least two steps are needed")
    members = grid(axes_of(config, steps_per_epoch), config.seed, lead=lead_of(config))
    if "num_examples" not in OBJECTIVES[config.objective]().reads:
        return members
    return [
        member._replace(hyper=member.hyper._replace(num_examples=float(num_examples)))
        for member in members
    ]


def run_name(config: Config) -> str:
    """The folder's name: data, network, latent size, the choices `IN_THE_NAME`, what is swept.

    A choice stands in it where it is not the default, and so do several samples of a bound, and the
    epochs beside a budget that has others. Other settings never do, so that resuming with another
    one is noticed.

    Raises:
        UsageError: if it is too long for a folder.
    """
    parts = [config.dataset, f"{config.network}{_hidden(config)}", f"z{config.latent_dim}"]
    parts += _changed(config, IN_THE_NAME)
    parts += [f"epochs{config.epochs}"] if _has_other_epochs(config) else []
    parts += [f"k{config.samples}"] if config.samples not in (None, 1) else []
    for axis in shown_axes(axes_of(config), lead_of(config)):
        parts.append(axis.field + "+".join(map(short, axis.values)))
    parts.append("seed" + "+".join(map(str, config.seed)))
    return folder_name(parts)


def title_of(config: Config) -> str:
    """What is trained for how long, and every setting of it that is not the default."""
    of_budget = f" of {EPOCHS[config.budget]}" if _has_other_epochs(config) else ""
    return " · ".join(
        [
            f"{config.dataset}, {PIXELS[config.binarize]}",
            f"{config.network} {_hidden(config)}",
            f"z {config.latent_dim}",
            *_words(config),
            f"{config.epochs}{of_budget} epoch{'' if config.epochs == 1 else 's'}",
            *([] if config.budget is None else [f"budget {config.budget}"]),
        ]
    )


def _words(config: Config) -> list[str]:
    """Every setting of the model that is not the default and not swept, as words for a title.

    The pixels and the budget have words of their own.
    """
    own = {"binarize", "budget"}
    words = _changed(
        config, ("activation", "optimizer", *(name for name in IN_THE_NAME if name not in own))
    )
    usual = {
        "batch_size": Config.batch_size,
        "scale": DEFAULT_SCALE.get(config.likelihood),
        "samples": 1,
    }
    for field, default in usual.items():
        value = getattr(config, field)
        if value is not None and value != default:
            words.append(f"{field.replace('_', ' ')} {value:g}")
    usual = {"learning_rate": Config.learning_rate[0], **OBJECTIVE_DEFAULTS}
    for axis in axes_of(config):
        if axis.field in usual and len(axis.values) == 1 and axis.values[0] != usual[axis.field]:
            words.append(described({axis.field: axis.values[0]}))
    return words


def _has_other_epochs(config: Config) -> bool:
    """Whether a budget was given, and another length of training than its own."""
    return config.budget is not None and config.epochs not in (None, EPOCHS[config.budget])


def _hidden(config: Config) -> str:
    return "-".join(map(str, config.hidden)) or "linear"


def _changed(config: Config, fields: Sequence[str]) -> list[str]:
    """Those of some choices that are not the default."""
    values = {field: getattr(config, field) for field in fields}
    return [value for field, value in values.items() if value != getattr(Config, field)]
