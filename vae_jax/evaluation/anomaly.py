"""How unlike the training data an example is, and where to draw the line.

Scores are costs: the higher, the more anomalous. They are functions of the example and of one
key, so the same example has the same score in every batch and on every call.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vae_jax.evaluation.log_likelihood import log_likelihood
from vae_jax.evaluation.memory import samples_at_once
from vae_jax.gaussian import kl_to_standard_normal
from vae_jax.model import VAE
from vae_jax.types import Nats, Params, PRNGKey, Sample


class AnomalyScores(NamedTuple):
    """The scores of one example, in nats.

    Attributes:
        reconstruction: -log p(x | z) at the posterior's mean, z = E[z | x]; where the posterior
            has several layers, the mean of the K samples.
        neg_elbo: the negative ELBO, its expectation by K samples.
        neg_log_likelihood: -log p(x), importance-weighted with the same number of samples.
        kl: KL(q(z | x) || p(z)); where the posterior has several layers, by K samples.
        per_dim: what each dimension of x contributes to `reconstruction`.
        kl_per_dim: what each latent dimension contributes to `kl`.
    """

    reconstruction: Nats
    neg_elbo: Nats
    neg_log_likelihood: Nats
    kl: Nats
    per_dim: Float[Array, "*x"]
    kl_per_dim: Float[Array, " latent"]


SCORES = ("reconstruction", "neg_elbo", "neg_log_likelihood", "kl")


def anomaly_scores(
    key: PRNGKey, vae: VAE, params: Params, x: Num[Array, "*x"], num_samples: int = 128
) -> AnomalyScores:
    """Score one example; callers `vmap`, with one key for all or a key that the example decides.

    Args:
        key: the key of the posterior's samples.
        vae: the model, whatever it is of: images, rows of a table, sentences.
        params: its parameters.
        x: one example; bits may be whole numbers.
        num_samples: K, samples of the posterior behind `neg_elbo` and `neg_log_likelihood`,
            and behind the mean and the KL of a posterior of several layers.

    Returns:
        The scores.

    Raises:
        ValueError: if num_samples is under 1, or the decoder's output does not fit x.

    Example:
        >>> from vae_jax.likelihoods import gaussian
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> networks = mlp((8,), x_shape=(3,), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, gaussian(1.0), x_shape=(3,), latent_dim=2)
        >>> params = vae.init(jax.random.key(0))
        >>> near, far = (
        ...     anomaly_scores(jax.random.key(1), vae, params, jnp.full(3, value))
        ...     for value in (0.0, 10.0))
        >>> bool(far.neg_log_likelihood > near.neg_log_likelihood)
        True

    Reference:
        An and Cho, Variational autoencoder based anomaly detection using reconstruction
        probability (2015), which averages log p(x | z) over samples of z; `reconstruction` has it
        at their mean. Tonnaer's thesis (Eindhoven 2023) scores by the negative ELBO.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples}: at least 1 is needed")
    x = x.astype(jnp.result_type(x, jnp.float32))
    q = vae.encode(params, x)

    def sampled(key: PRNGKey) -> tuple[Nats, Sample | None]:
        sample = vae.draw(key, params, q)
        cost = -vae.log_lik(params, sample.z, x)
        return cost, sample if vae.is_layered else None

    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_samples))
    costs, samples = jax.lax.map(
        sampled, keys, batch_size=samples_at_once(vae, params, x, num_samples)
    )
    mean, kl_per_dim = q.mean, kl_to_standard_normal(q)
    if samples is not None:  # q is the first layer alone
        mean = jnp.mean(samples.z, axis=0)
        kl_per_dim = jnp.mean(samples.chain.kl_per_dim, axis=0)
    theta = vae.theta_of(params, mean, x)
    if theta.shape[:-1] != x.shape:
        raise ValueError(f"theta of shape {theta.shape} does not fit x of shape {x.shape}")
    per_dim = -vae.likelihood.log_prob_per_dim(theta, x)
    kl = jnp.sum(kl_per_dim)
    return AnomalyScores(
        reconstruction=jnp.sum(per_dim),
        neg_elbo=jnp.mean(costs) + kl,
        neg_log_likelihood=-log_likelihood(key, vae, params, x, num_samples).log_likelihood,
        kl=kl,
        per_dim=per_dim,
        kl_per_dim=kl_per_dim,
    )


def threshold_at(scores: Float[np.ndarray, " n"], contamination: float) -> float:
    """The score that a share of the data exceeds.

    Args:
        scores: of data of which that share is taken to be anomalous.
        contamination: the share, above 0 and at most 0.5.

    Returns:
        The 1 - contamination quantile, linearly interpolated; between an infinite score and
        another the lower of the two.

    Raises:
        ValueError: if there are no scores, one is NaN, or the share is not allowed.
    """
    if len(scores) == 0:
        raise ValueError("0 scores: at least 1 is needed")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: nothing would exceed the threshold")
    if not 0 < contamination <= 0.5:
        raise ValueError(f"contamination {contamination}: above 0 and at most 0.5 is needed")
    low, high = (np.quantile(scores, 1 - contamination, method=m) for m in ("lower", "higher"))
    if np.isinf([low, high]).any():  # which has no difference to interpolate by
        return float(low)
    return float(np.quantile(scores, 1 - contamination))


def conformal_p_values(
    calibration: Float[np.ndarray, " n"], scores: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " m"]:
    """How extreme each score is among those of held-out normal data.

    p = (1 + #{calibration >= score}) / (n + 1)

    If the calibration data were not trained on and a new normal example comes from where they
    come from, P(p <= alpha) <= alpha for every alpha: calling p <= alpha an anomaly gives
    false alarms at that rate at most, whatever the model. The rate is an average over
    calibration sets; alpha under 1 / (n + 1) never alarms.

    Args:
        calibration: scores of normal data that the model was not trained on.
        scores: scores to judge.

    Returns:
        A p-value for each.

    Raises:
        ValueError: if there is no calibration score, or one is NaN.

    Example:
        >>> conformal_p_values(np.arange(99.0), np.array([98.5, 49.5])).tolist()
        [0.01, 0.5]

    Reference:
        Bates et al., Testing for outliers with conformal p-values (arXiv 2104.08279),
        equation 2.
    """
    if len(calibration) == 0:
        raise ValueError("0 calibration scores: at least 1 is needed")
    if np.isnan(calibration).any() or np.isnan(scores).any():
        raise ValueError("a score that is NaN has no place among the others")
    ordered = np.sort(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (len(ordered) + 1)
