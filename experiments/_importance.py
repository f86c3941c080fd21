"""Importance-weighted log-likelihood of a whole data set: its progress, and what it comes to."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.progress import Progress

from experiments._progress import console
from vae_jax.evaluation import Importance, average_log_likelihood, estimate_log_likelihood
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.types import Params, PRNGKey

AT_ONCE = 1000  # examples between two signs of progress
# Nats of log p(x) that an estimate may lack before there is a warning: papers compare hundredths.
LACKING = 0.1


def importance_of(
    key: PRNGKey,
    vae: VAE,
    preprocess: Preprocess,
    params: Params,
    test: Array,
    *,
    num_samples: int,
    name: str,
) -> Importance:
    """The estimate of every example, some at a time to show progress.

    Args:
        key: of the estimate.
        vae: the model.
        preprocess: from a stored example to x.
        params: the model's parameters.
        test: the stored examples.
        num_samples: K of each.
        name: of the model, beside the bar.

    Returns:
        As `estimate_log_likelihood`, the same numbers.
    """
    parts, terminal = [], console()
    with Progress(console=terminal, disable=not terminal.is_terminal, transient=True) as progress:
        bar = progress.add_task(f"{name}: log p(x)", total=len(test))
        for first in range(0, len(test), AT_ONCE):
            some = test[first : first + AT_ONCE]
            found = estimate_log_likelihood(
                key, vae, preprocess, params, some, num_samples=num_samples, first=first
            )
            parts.append(jax.block_until_ready(found))
            progress.advance(bar, len(some))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def summed_up(found: Importance) -> dict[str, float]:
    """What the estimates of a data set come to, by the names that every experiment has for it.

    Args:
        found: the estimate of each example.

    Returns:
        `neg_log_likelihood`, `log_likelihood_error` (the standard error of the mean over the
        examples), `log_likelihood_sampling_error` (what of it other samples would change), all
        in nats, and `effective_samples_median` and `effective_samples_5th`, of the median
        example and the 5th percentile.
    """
    average = average_log_likelihood(found)
    effective = np.asarray(found.effective_samples)
    return {
        "neg_log_likelihood": -float(average.mean),
        "log_likelihood_error": float(average.standard_error),
        "log_likelihood_sampling_error": float(average.sampling_error),
        "effective_samples_median": float(np.median(effective)),
        "effective_samples_5th": float(np.percentile(effective, 5)),
    }


def enough_samples(num_samples: int) -> float:
    """The effective samples that an estimate needs if it is not to lack over `LACKING` nats.

    By the delta method it lacks (1 / ESS - 1 / K) / 2 of log p(x), so that is where
    ESS = 1 / (2 LACKING + 1 / K): 5 of very many, 2.2 of 4. With few effective samples the weights
    do not show how far they spread, and what is lacking is more; a single one shows nothing.

    Args:
        num_samples: K, of the estimate; of annealed importance sampling its chains.

    Returns:
        The number; under 1, which no estimate is, for K = 1.
    """
    return 1 / (2 * LACKING + 1 / num_samples)


def few_samples(models: Mapping[str, Mapping[str, float]], num_samples: int) -> list[str]:
    """A warning where estimates rest on too few effective samples.

    Args:
        models: the numbers of `summed_up` by the model's name; without those of the effective
            samples a model is passed over.
        num_samples: K, of each estimate.

    Returns:
        One line, or none.
    """
    enough = enough_samples(num_samples)
    weak = {
        name: numbers["effective_samples_median"] < enough
        for name, numbers in models.items()
        if numbers.get("effective_samples_5th", enough) < enough
    }
    if not weak:
        return []
    several = "" if len(weak) == 1 else f" and {len(weak) - 1} more"
    half, of_whom = sum(weak.values()), "for one example in twenty"
    if half == len(weak):
        of_whom = "for every second example"
    elif half:
        of_whom += f", with {half} of these models for every second one,"
    return [
        f"warning: {next(iter(weak))}{several}: {of_whom} the estimate rests on under {enough:.2g} "
        f"effective samples of {num_samples:,}, so its -log p(x) is too high by at least about "
        f"{LACKING:g} nats"
    ]
