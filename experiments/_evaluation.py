"""The numbers of one trained model on its held-out set: what `experiments.evaluate` finds."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments._importance import importance_of, summed_up
from experiments._loaded import Loaded
from experiments._noise import EVALUATION_SEED, SURGERY_SEED
from experiments._spread import mean_and_error
from experiments._sweep import Task
from vae_jax.evaluation import (
    Annealed,
    ElboEstimate,
    Importance,
    Moments,
    active_units,
    annealed_log_likelihood,
    elbo_surgery,
    encode_all,
    knn_accuracy,
    linear_accuracy,
    posterior_mean_variance,
)
from vae_jax.evaluation.memory import fitting, theta_bytes
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.sweep import Subsets, evaluated_part, part_of
from vae_jax.types import Normal

FITTED = 10_000  # training examples, at most, that the classifiers are fitted on
SURGERY = 2000  # samples of the aggregate posterior, about
# What a chain keeps of theta at once: of its point and its proposal, each with a gradient.
COPIES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is measured."""

    num_samples: int = 500
    """Samples of z for each example behind log p(x); 5000 is what papers report."""
    annealed: int = 4
    """Examples whose log p(x) is estimated by annealed importance sampling too; 0 for none."""
    chains: int = 16
    """Chains of each."""
    temperatures: int = 500
    """Steps of each chain from the prior to the posterior."""
    threshold: float = 0.01
    """Variance of its posterior mean above which a latent unit is active."""


class Found(NamedTuple):
    """What is found of one model.

    Attributes:
        numbers: by name, nats per example; NaN for what its posterior does not give.
        arrays: of the latent dimensions and the examples.
    """

    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]


def measured(settings: Settings, task: Task, loaded: Loaded) -> Found:
    """Measure a model on all of its held-out examples.

    Args:
        settings: how.
        task: what trained it.
        loaded: the model.

    Returns:
        The numbers and the arrays.
    """
    params, split = loaded.params, loaded.member.split
    key = jax.random.key(EVALUATION_SEED)
    model = (task.vae, task.preprocess, params)
    stored, *count = evaluated_part(task.test, split)
    elbo = task.evaluate(params, stored, *count)
    # In the shape that all splits share, so that nothing slow compiles once for each length. What
    # fills a split up is cut off from here on.
    own = slice(int(count[0]) if count else None)
    every = importance_of(
        key, *model, stored, num_samples=settings.num_samples, name=loaded.member.name
    )
    found = every, encode_all(key, *model, stored), stored
    estimate, posteriors, test = jax.tree.map(lambda leaf: leaf[own], found)
    parts, per_dim = _surgery(posteriors, elbo)
    numbers = {
        "neg_elbo": -float(elbo.elbo),
        "reconstruction": -float(elbo.log_lik),
        "kl": float(elbo.kl),
        **summed_up(estimate),
        "active_units": float(active_units(posteriors, settings.threshold)),
        **parts,
        **_classes(key, task, loaded, np.asarray(posteriors.mean)),
        **_annealed(key, settings, task, loaded, test, estimate),
    }
    arrays = {
        "variance": posterior_mean_variance(posteriors),
        **per_dim,
        "log_likelihood": estimate.log_likelihood,
        "standard_error": estimate.standard_error,
        "effective_samples": estimate.effective_samples,
    }
    return Found(numbers, {name: np.asarray(array) for name, array in arrays.items()})


def _surgery(
    posteriors: Normal | Moments, elbo: ElboEstimate
) -> tuple[dict[str, float], dict[str, Array]]:
    """Where the KL goes, jointly and for each dimension.

    Moments do not tell the density of a posterior of two layers: of one there is only what the
    ELBO says, the KL of each dimension.
    """
    n, names = len(posteriors.mean), ("mutual_information", "marginal_kl", "total_correlation")
    names = (*names, "dimension_kl", "mutual_information_error")
    if isinstance(posteriors, Moments):
        unknown = jnp.full_like(elbo.kl_per_dim, jnp.nan)
        numbers = {**dict.fromkeys(names, float("nan")), "information_bound": float(np.log(n))}
        return numbers, {"kl_per_dim": elbo.kl_per_dim, "information_per_dim": unknown}
    # Few posteriors give several samples each.
    samples = max(1, SURGERY // n)
    parts = elbo_surgery(jax.random.key(SURGERY_SEED), posteriors, num_samples=samples)
    values = (parts.mutual_information, parts.marginal_kl, parts.total_correlation)
    values = (*values, parts.dimension_kl, parts.standard_error)
    numbers = {name: float(value) for name, value in zip(names, values, strict=True)}
    return {**numbers, "information_bound": float(parts.information_bound)}, {
        "kl_per_dim": parts.kl_per_dim,
        "information_per_dim": parts.mutual_information_per_dim,
    }


def _classes(key: Any, task: Task, loaded: Loaded, means: np.ndarray) -> dict[str, float]:
    """What the posterior means tell of the classes, where there are any."""
    split = loaded.member.split
    if task.labels is None:
        return {}
    train_labels, test_labels = (
        np.asarray(part_of(stored._replace(examples=labels), split))
        if isinstance(stored, Subsets)
        else labels
        for stored, labels in zip((task.data, task.test), task.labels, strict=True)
    )
    # At random: a table may be sorted by its classes.
    some = np.random.default_rng(0).permutation(len(train_labels))[:FITTED]
    train = part_of(task.data, split)[some]
    fitted = encode_all(key, task.vae, task.preprocess, loaded.params, train)
    halves = (np.asarray(fitted.mean), train_labels[some], means, test_labels[: len(means)])
    return {"knn_accuracy": knn_accuracy(*halves), "linear_accuracy": linear_accuracy(*halves)}


def _annealed(
    key: Any, settings: Settings, task: Task, loaded: Loaded, test: Array, estimates: Importance
) -> dict[str, float]:
    """Both estimates of log p(x) of a few examples, drawn at random."""
    count = min(settings.annealed, len(test))
    if count == 0:
        return {}
    some = np.sort(np.random.default_rng(0).permutation(len(test))[:count])
    estimate = _annealed_estimate(task.vae, task.preprocess, settings.chains, settings.temperatures)
    found = jax.device_get(estimate(key, loaded.params, jnp.asarray(some), test[some]))
    weighted = np.asarray(estimates.log_likelihood)[some]
    gain, error = mean_and_error(found.log_likelihood - weighted)
    return {
        "annealed_examples": count,
        "annealed_neg_log_likelihood": -float(np.mean(found.log_likelihood)),
        "importance_neg_log_likelihood_of_them": -float(np.mean(weighted)),
        "annealed_gain": gain,
        "annealed_difference_error": error,
        "annealed_effective_samples": float(np.median(found.effective_samples)),
        "annealed_acceptance": float(np.mean(found.acceptance)),
    }


@functools.cache
def _annealed_estimate(vae: VAE, preprocess: Preprocess, chains: int, temperatures: int) -> Any:
    """Compiled once for all models of a run."""

    def all_of(key: Any, params: Any, indices: Array, stored: Array) -> Annealed:
        def one(place: tuple[Array, Array]) -> Annealed:
            index, example = place
            # As in `estimate_log_likelihood`, so that both are of the same binarisation.
            key_x, key_z = jax.random.split(jax.random.fold_in(key, index))
            x = preprocess(key_x, example)
            settings = {"num_chains": chains, "num_temperatures": temperatures}
            return annealed_log_likelihood(key_z, vae, params, x, **settings)

        x = jax.eval_shape(preprocess, key, stored[0])
        of_example = COPIES * chains * theta_bytes(vae, params, x)
        at_once = fitting(of_example, most=len(stored))
        return jax.lax.map(one, (indices, stored), batch_size=at_once)

    return jax.jit(all_of)
