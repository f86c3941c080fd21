"""What the latent space holds: active units, and where the KL of the ELBO goes.

Everything here is computed from the posteriors of a data set, which `encode_all` makes once.
The data set is what they are exact about: the aggregate posterior is the mixture
q(z) = (1 / n) sum_i q(z | x_i) of these n examples, not of the population behind them.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from vae_jax.gaussian import kl_to_standard_normal, log_density_per_dim, reparameterize
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.types import Nats, Normal, Params, PRNGKey

# Samples of a posterior of several layers behind its moments: their noise raises the variance of
# a unit's mean by 1 / 256 of the unit's own at most, where 0.01 makes it active.
_MOMENT_SAMPLES = 256


class Moments(NamedTuple):
    """Mean and variance of each unit under a posterior that is no single normal.

    Attributes:
        mean: E[h_j | x].
        variance: Var[h_j | x].
    """

    mean: Float[Array, "*n latent"]
    variance: Float[Array, "*n latent"]


@partial(jax.jit, static_argnames=("vae", "preprocess", "batch_size"))
def encode_all(
    key: PRNGKey,
    vae: VAE,
    preprocess: Preprocess,
    params: Params,
    data: Num[Array, "n *x"],
    *,
    batch_size: int = 1000,
) -> Normal | Moments:
    """The posterior q(z | x) of every example of a data set.

    Example i is preprocessed with the first part of `fold_in(key, i)`, so its posterior does not
    depend on the batch size, and the same key gives every model, and every estimate of this
    package, the same binarisation.

    A posterior of several layers is summed up by the moments of its units, of all layers side
    by side: of the first exactly, of the next by 256 samples of the layers before it, which the
    second part of `fold_in(key, i)` draws.

    Args:
        key: the key of the preprocessing, and of those samples.
        vae: the model.
        preprocess: from one stored example to x.
        params: the model's parameters.
        data: the stored examples.
        batch_size: examples that are encoded at once; the last batch may be short.

    Returns:
        The posteriors, `[n latent]`; of several layers their moments, in the coordinates of the
        units and not of z.

    Raises:
        ValueError: if there are no data, or the batch size is under 1.

    Example:
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> from vae_jax.preprocess import binarize_dynamic
        >>> networks = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, bernoulli(), x_shape=(8, 8, 1), latent_dim=2)
        >>> key, images = jax.random.key(0), jnp.zeros((5, 8, 8, 1), jnp.uint8)
        >>> params = vae.init(key)
        >>> encode_all(key, vae, binarize_dynamic, params, images).mean.shape
        (5, 2)
    """
    if len(data) == 0 or batch_size < 1:
        raise ValueError(f"{len(data)} examples in batches of {batch_size}: at least 1 is needed")

    def encode(index: Int[Array, ""]) -> Normal | Moments:
        key_x, key_z = jax.random.split(jax.random.fold_in(key, index))
        q = vae.encode(params, preprocess(key_x, data[index]))
        return _moments(key_z, vae, params, q) if vae.is_layered else q

    return jax.lax.map(encode, jnp.arange(len(data)), batch_size=min(batch_size, len(data)))


def _moments(key: PRNGKey, vae: VAE, params: Params, q: Normal) -> Moments:
    """By the law of total variance, of the normals that samples of the layers give each other."""
    keys = jax.random.split(key, _MOMENT_SAMPLES)
    chains = jax.lax.map(lambda key: vae.draw(key, params, q).chain, keys)
    within = jnp.mean(jnp.exp(chains.q.log_var), axis=0)
    return Moments(jnp.mean(chains.q.mean, axis=0), within + jnp.var(chains.q.mean, axis=0))


def posterior_mean_variance(posteriors: Normal | Moments) -> Float[Array, " latent"]:
    """How far the posterior mean of each latent dimension moves over the data.

    A_j = Var_x(E[z_j | x])

    Args:
        posteriors: of every example, `[n latent]`.

    Returns:
        The variances (divided by n, not n - 1), in the order of the dimensions: 0 for one
        that ignores x, near 1 for one whose posteriors are narrow and fill the prior.

    Raises:
        ValueError: if there are no posteriors.

    Example:
        >>> mean = jnp.array([[1.0, 5.0], [-1.0, 5.0]])
        >>> posterior_mean_variance(Normal(mean, jnp.zeros((2, 2)))).tolist()
        [1.0, 0.0]

    Reference:
        Burda et al., Importance weighted autoencoders (arXiv 1509.00519), section 5.2.
    """
    _count(posteriors)
    return jnp.var(posteriors.mean, axis=0)


def active_units(posteriors: Normal | Moments, threshold: float = 0.01) -> Int[Array, ""]:
    """How many latent dimensions the encoder uses.

    #{j : Var_x(E[z_j | x]) > threshold}

    Args:
        posteriors: of every example, `[n latent]`.
        threshold: the variance that an active dimension exceeds.

    Returns:
        The number of active dimensions.

    Raises:
        ValueError: if there are no posteriors, or the threshold is negative or not finite.

    Example:
        >>> mean = jnp.array([[1.0, 5.0], [-1.0, 5.0]])
        >>> int(active_units(Normal(mean, jnp.zeros((2, 2)))))
        1

    Reference:
        arXiv 1509.00519, section 5.2, with its threshold.
    """
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold {threshold}: finite and at least 0 is needed")
    return jnp.sum(posterior_mean_variance(posteriors) > threshold)


class ElboSurgery(NamedTuple):
    """Where the KL goes, in nats per example; those of a population lead with its axis.

    kl = mutual_information + marginal_kl
    marginal_kl = total_correlation + sum_j marginal_kl_per_dim_j

    What is estimated is the mutual information, jointly and for each dimension. The other
    terms are differences between it and the exact KL, so both identities hold to rounding.
    No estimate is clipped: one may leave its range, [0, log n] for the information and the
    positive numbers for the others, by its standard error.

    Attributes:
        kl_per_dim: KL(q(z_j | x) || p(z_j)), exact, averaged over the data.
        mutual_information: I(x; z) = KL(q(z | x) || q(z)) averaged over the data. It says
            which of the n examples z came from, so it never exceeds `information_bound`,
            and at the bound it says no more than that the posteriors do not overlap.
        mutual_information_per_dim: I(x; z_j), what one dimension tells by itself.
        information_bound: log n.
        standard_error: of `mutual_information`, and so of `marginal_kl`.
        standard_error_per_dim: of `mutual_information_per_dim` and `marginal_kl_per_dim`.
        standard_error_total_correlation: of `total_correlation`.
    """

    kl_per_dim: Float[Array, "*member latent"]
    mutual_information: Float[Array, "*member"]
    mutual_information_per_dim: Float[Array, "*member latent"]
    information_bound: Float[Array, "*member"]
    standard_error: Float[Array, "*member"]
    standard_error_per_dim: Float[Array, "*member latent"]
    standard_error_total_correlation: Float[Array, "*member"]

    @property
    def kl(self) -> Float[Array, "*member"]:
        """KL(q(z | x) || p(z)), averaged over the data: the KL of the ELBO."""
        return jnp.sum(self.kl_per_dim, axis=-1)

    @property
    def marginal_kl(self) -> Float[Array, "*member"]:
        """KL(q(z) || p(z)): how far the aggregate posterior is from the prior."""
        return self.kl - self.mutual_information

    @property
    def marginal_kl_per_dim(self) -> Float[Array, "*member latent"]:
        """KL(q(z_j) || p(z_j)) of each latent dimension."""
        return self.kl_per_dim - self.mutual_information_per_dim

    @property
    def dimension_kl(self) -> Float[Array, "*member"]:
        """The dimension-wise KL, sum_j KL(q(z_j) || p(z_j))."""
        return jnp.sum(self.marginal_kl_per_dim, axis=-1)

    @property
    def total_correlation(self) -> Float[Array, "*member"]:
        """KL(q(z) || prod_j q(z_j)): how much the dimensions tell of each other."""
        # The exact KL is in both marginal KLs and leaves their difference.
        return jnp.sum(self.mutual_information_per_dim, axis=-1) - self.mutual_information


@partial(jax.jit, static_argnames=("num_samples", "batch_size"))
def elbo_surgery(
    key: PRNGKey, posteriors: Normal | Moments, *, num_samples: int = 1, batch_size: int = 128
) -> ElboSurgery:
    """Divide the average KL of the ELBO among its causes.

    KL(q(z | x) || p(z)) = I(x; z) + KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j)),
    q(z) = (1 / n) sum_i q(z | x_i), everything averaged over the data.

    Every posterior gives `num_samples` samples, and log q(z) is exact: a log-sum-exp over
    all n posteriors, the joint one and that of each dimension. That is
    O(n^2 num_samples latent) time; memory holds a few tiles of `batch_size`^2 latent numbers
    and four numbers for each sample and dimension.

    The mutual information is the mean of log q(z | x) - log q(z), corrected by the analytic
    KL: u = log q(z | x) - log p(z) has the known mean KL, so a (mean(u) - KL) may be taken off
    for any a. With a = 0 the estimate is exact where the posteriors do not overlap; with a = 1
    it is the KL less a sampled KL(q(z) || p(z)), exact where the aggregate is the prior. Here a
    is the least-squares slope, which is at least as good as either, at the price of a bias of
    the order of 1 / (n num_samples). The standard errors are those of independent samples of
    q(z), and so are too large, if anything: every example is drawn from equally often, and
    what differs from one to the next adds nothing to the noise.

    Args:
        key: the key of the samples, which may be that of `encode_all`: sample s of example i is
            drawn with `fold_in(k, s)`, k the second part of `split(fold_in(key, i))`, of which
            the first is what the example is preprocessed with.
        posteriors: of every example, `[n latent]`.
        num_samples: samples of each posterior; more where there are few examples.
        batch_size: samples and posteriors that are compared at once. The result depends on
            it by rounding only.

    Returns:
        The decomposition. The standard errors are NaN where there are under 3 samples in all.

    Raises:
        ValueError: if there are no posteriors, num_samples or the batch size is under 1, or the
            posteriors have several layers, of which moments do not tell the density.

    Example:
        >>> far_apart = Normal(jnp.array([[-9.0, 0.0], [9.0, 0.0]]), jnp.zeros((2, 2)))
        >>> parts = elbo_surgery(jax.random.key(0), far_apart, num_samples=4)
        >>> float(parts.kl), round(float(parts.mutual_information), 4)  # log 2
        (40.5, 0.6931)
        >>> [round(float(nats), 4) for nats in parts.mutual_information_per_dim]
        [0.6931, 0.0]

    Reference:
        Hoffman and Johnson, ELBO surgery (NIPS workshop on approximate inference 2016), for
        the information and its bound; Chen et al. (arXiv 1802.04942), equation 2, for the
        three terms; Owen, Monte Carlo theory, methods and examples, section 8.9, for the slope.
    """
    n = _count(posteriors)
    if num_samples < 1 or batch_size < 1:
        raise ValueError(
            f"num_samples {num_samples}, batch_size {batch_size}: at least 1 is needed"
        )
    if isinstance(posteriors, Moments):
        raise ValueError("posteriors of two stochastic layers: those of one layer are needed")
    chunks = _in_chunks(posteriors, min(batch_size, n))
    prior = Normal(*(jnp.zeros_like(leaf[0]) for leaf in posteriors))

    def compare(row: Int[Array, ""]) -> tuple[_Sampled, _Sampled]:
        example, sample = jnp.divmod(row, num_samples)
        q = jax.tree.map(lambda leaf: leaf[example], posteriors)
        _, key_z = jax.random.split(jax.random.fold_in(key, example))
        z = reparameterize(jax.random.fold_in(key_z, sample), q)
        log_q = log_density_per_dim(q, z)
        log_aggregate, log_aggregates = _log_mixture(chunks, n, z)
        kl_per_dim = log_q - log_density_per_dim(prior, z)
        return (
            _Sampled(jnp.sum(log_q) - log_aggregate, jnp.sum(kl_per_dim)),
            _Sampled(log_q - log_aggregates, kl_per_dim),
        )

    rows = jnp.arange(n * num_samples)
    joint, per_dim = jax.lax.map(compare, rows, batch_size=min(batch_size, len(rows)))

    kl_per_dim = jnp.mean(jax.vmap(kl_to_standard_normal)(posteriors), axis=0)
    information, residuals = _controlled(joint, jnp.sum(kl_per_dim))
    of_dims = jax.vmap(_controlled, (1, 0), (0, 1))
    information_per_dim, residuals_per_dim = of_dims(per_dim, kl_per_dim)
    return ElboSurgery(
        kl_per_dim=kl_per_dim,
        mutual_information=information,
        mutual_information_per_dim=information_per_dim,
        information_bound=jnp.full((), math.log(n)),
        standard_error=_standard_error(residuals),
        standard_error_per_dim=jax.vmap(_standard_error, 1)(residuals_per_dim),
        standard_error_total_correlation=_standard_error(
            jnp.sum(residuals_per_dim, axis=1) - residuals
        ),
    )


class _Sampled(NamedTuple):
    """Of one sample: log q(z | x) - log q(z) and log q(z | x) - log p(z)."""

    information: Float[Array, "*axes"]
    kl: Float[Array, "*axes"]


def _count(posteriors: Normal | Moments) -> int:
    shape = posteriors.mean.shape
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(f"posteriors of shape {shape}: [n latent] with n at least 1 is needed")
    return shape[0]


def _in_chunks(posteriors: Normal, size: int) -> Normal:
    """Posteriors `[chunks size latent]`; those that fill up the last have no density anywhere."""
    n, latent = posteriors.mean.shape
    missing = ((0, -n % size), (0, 0))
    mean = jnp.pad(posteriors.mean, missing)
    log_var = jnp.pad(posteriors.log_var, missing, constant_values=jnp.inf)
    return Normal(mean.reshape(-1, size, latent), log_var.reshape(-1, size, latent))


def _log_mixture(
    chunks: Normal, n: int, z: Float[Array, " latent"]
) -> tuple[Nats, Float[Array, " latent"]]:
    """The values of log q(z) and log q(z_j) under the mixture of n posteriors, streamed."""

    def add(
        total: tuple[Nats, Float[Array, " latent"]], chunk: Normal
    ) -> tuple[tuple[Nats, Float[Array, " latent"]], None]:
        per_dim = jax.vmap(log_density_per_dim, (0, None))(chunk, z)
        joint = jax.nn.logsumexp(jnp.sum(per_dim, axis=1))
        sums = (joint, jax.nn.logsumexp(per_dim, axis=0))
        return jax.tree.map(jnp.logaddexp, total, sums), None

    nothing = (jnp.full((), -jnp.inf, z.dtype), jnp.full_like(z, -jnp.inf))
    total, _ = jax.lax.scan(add, nothing, chunks)
    return jax.tree.map(lambda log_sum: log_sum - math.log(n), total)


def _controlled(
    sampled: _Sampled, kl: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, " rows"]]:
    """The mean information with the sampled KL as its control variate, and the residuals."""
    information, control = jax.tree.map(jnp.mean, sampled)
    off, control_off = sampled.information - information, sampled.kl - control
    spread = jnp.sum(control_off**2)
    # Where the posterior is the prior the control is constant, and nothing is to be corrected.
    slope = jnp.where(spread > 0, jnp.sum(off * control_off) / jnp.where(spread > 0, spread, 1), 0)
    return information - slope * (control - kl), off - slope * control_off


def _standard_error(residuals: Float[Array, " rows"]) -> Float[Array, ""]:
    # Two degrees of freedom went into the mean and the slope.
    rows = len(residuals)
    if rows < 3:
        return jnp.full((), jnp.nan)
    return jnp.sqrt(jnp.sum(residuals**2) / (rows - 2) / rows)
