"""A variational autoencoder as a bundle of pure functions, and its ELBO terms."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from vae_jax.gaussian import (
    kl_to_standard_normal,
    log_density,
    reparameterize,
    standard_log_density,
)
from vae_jax.likelihoods import Likelihood
from vae_jax.types import Conditional, ElboTerms, Nats, Normal, Params, PRNGKey, Sample

# exp(log_var) and the KL stay finite in float32; no useful posterior comes near either end.
LOG_VAR_RANGE = (-30.0, 20.0)


@runtime_checkable
class Module(Protocol):
    """What the bundle asks of a network: linen's `init` and `apply`."""

    def init(self, rngs: Any, *args: Any) -> Any:
        """Draw the parameters."""
        ...

    def apply(self, variables: Any, *args: Any) -> Any:
        """Run the network on one example."""
        ...


def draw_normal(key: PRNGKey, params: Params, q: Normal) -> Sample:
    """Draw z ~ q from a posterior that is one normal.

    Args:
        key: the key of the sample.
        params: the model's parameters, which q already knows all about.
        q: the posterior.

    Returns:
        The sample.
    """
    return Sample(reparameterize(key, q))


class VAE(NamedTuple):
    """A variational autoencoder, as pure functions of one example.

    The prior of z is N(0, I).

    Attributes:
        init: `key -> params`.
        encode: `(params, x) -> q(z | x)`, or the first layer of it.
        decode: `(params, z) -> theta`, the parameters of p(x | z).
        likelihood: what theta means.
        latent_dim: dimensions of z.
        draw: `(key, params, q) -> z` and, of a posterior of several layers, its density there.
        decode_given: `(params, z, x) -> theta` of a decoder that reads, for each dimension of
            x, the ones before it (teacher forcing); `decode` then reads what it makes itself.
            None where the dimensions of x are independent given z.
        is_layered: whether the posterior has several layers, so that the KL is estimated.
    """

    init: Callable[[PRNGKey], Params]
    encode: Callable[[Params, Float[Array, "*x"]], Normal]
    decode: Callable[[Params, Float[Array, " latent"]], Float[Array, "*x theta"]]
    likelihood: Likelihood
    latent_dim: int
    draw: Callable[[PRNGKey, Params, Normal], Sample] = draw_normal
    decode_given: Callable[[Params, Array, Array], Array] | None = None
    is_layered: bool = False

    def theta_of(
        self, params: Params, z: Float[Array, " latent"], x: Float[Array, "*x"]
    ) -> Float[Array, "*x theta"]:
        """The parameters of p(x | z) at x, the only place where a decoder may read x."""
        if self.decode_given is None:
            return self.decode(params, z)
        return self.decode_given(params, z, x)

    def log_lik(self, params: Params, z: Float[Array, " latent"], x: Float[Array, "*x"]) -> Nats:
        """Log p(x | z) in nats, summed over the dimensions of x."""
        return self.likelihood.log_prob(self.theta_of(params, z, x), x)


def make_vae(
    encoder: Module,
    decoder: Module,
    likelihood: Likelihood,
    *,
    x_shape: Sequence[int],
    latent_dim: int,
    compute_dtype: DTypeLike | None = None,
) -> VAE:
    """Bundle two networks and a likelihood into a VAE with the prior N(0, I).

    Args:
        encoder: a linen module from x to `2 * latent_dim` numbers, means then log-variances.
        decoder: a linen module from z to theta.
        likelihood: the observation model that theta parameterises.
        x_shape: shape of one example.
        latent_dim: dimensions of z.
        compute_dtype: what the networks compute in, and what x and z are rounded to for them;
            None is what they are. The parameters and their gradients, the posterior, theta,
            and so the likelihood, the KL and every sum stay float32.

    Returns:
        The bundle.

    Raises:
        ValueError: if latent_dim is under 1, or a network returns another shape.

    Example:
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.networks import mlp
        >>> networks = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, bernoulli(), x_shape=(8, 8, 1), latent_dim=2)
        >>> params = vae.init(jax.random.key(0))
        >>> vae.encode(params, jnp.zeros((8, 8, 1))).mean.shape
        (2,)
    """
    if latent_dim < 1:
        raise ValueError(f"latent_dim {latent_dim}: at least 1 is needed")

    def init(key: PRNGKey) -> Params:
        key_encoder, key_decoder = jax.random.split(key)
        return {
            "encoder": encoder.init(key_encoder, jnp.zeros(x_shape)),
            "decoder": decoder.init(key_decoder, jnp.zeros(latent_dim)),
        }

    def applied(network: Module, params: Params, inputs: Array) -> Array:
        if compute_dtype is None:
            return network.apply(params, inputs)
        low = jax.tree.map(lambda leaf: leaf.astype(compute_dtype), (params, inputs))
        return network.apply(*low).astype(jnp.float32)

    def encode(params: Params, x: Float[Array, "*x"]) -> Normal:
        return as_normal(applied(encoder, params["encoder"], x))

    def decode(params: Params, z: Float[Array, " latent"]) -> Float[Array, "*x theta"]:
        return applied(decoder, params["decoder"], z)

    vae = VAE(init, encode, decode, likelihood, latent_dim)
    _check_shapes(vae, tuple(x_shape))
    return vae


def as_normal(output: Float[Array, " two_latent"]) -> Normal:
    """The normal that a network describes.

    Args:
        output: means, then log-variances.

    Returns:
        The normal, its log-variances clipped to `LOG_VAR_RANGE`.
    """
    mean, log_var = jnp.split(output, 2)
    # Clipped here, once, so that the sample and the KL speak of the same distribution.
    return Normal(mean, jnp.clip(log_var, *LOG_VAR_RANGE))


def _check_shapes(vae: VAE, x_shape: tuple[int, ...]) -> None:
    """Trace the bundle without computing anything, and compare the shapes."""
    params = jax.eval_shape(lambda: vae.init(jax.random.key(0)))
    q = jax.eval_shape(vae.encode, params, jax.ShapeDtypeStruct(x_shape, jnp.float32))
    z = jax.ShapeDtypeStruct((vae.latent_dim,), jnp.float32)
    theta = jax.eval_shape(vae.decode, params, z)
    for name, got, wanted in (
        ("encoder: mean", q.mean.shape, (vae.latent_dim,)),
        ("decoder: theta", theta.shape, (*x_shape, vae.likelihood.theta_dim)),
    ):
        if got != wanted:
            raise ValueError(f"{name} has shape {got}, {wanted} is needed")


def elbo_terms(key: PRNGKey, vae: VAE, params: Params, x: Float[Array, "*x"]) -> ElboTerms:
    """The terms of the ELBO for one example and one sample of its posterior.

    ELBO = E_q(z | x)[log p(x | z)] - KL(q(z | x) || p(z)), the expectation by one sample of
    z and the KL exactly, unless the posterior has several layers.

    Args:
        key: the key of the sample.
        vae: the model.
        params: its parameters.
        x: one example.

    Returns:
        The terms, in nats; `log_lik - sum(kl_per_dim)` is the ELBO.

    Reference:
        arXiv 1312.6114, equation 7 (the estimator with the analytic KL).
    """
    q = vae.encode(params, x)
    sample = vae.draw(key, params, q)
    return _terms(vae.log_lik(params, sample.z, x), q, sample)


def log_posterior(q: Normal, sample: Sample) -> Nats:
    """The value of log q(z | x) at a sample.

    Args:
        q: what `VAE.encode` returned.
        sample: what `VAE.draw` made of it.

    Returns:
        Nats, summed over the latent dimensions.
    """
    return log_density(q, sample.z) if sample.chain is None else sample.chain.log_posterior


def _terms(log_lik: Nats, q: Normal, sample: Sample) -> ElboTerms:
    chain = sample.chain
    return ElboTerms(
        log_lik=log_lik,
        kl_per_dim=kl_to_standard_normal(q) if chain is None else chain.kl_per_dim,
        log_prior=standard_log_density(sample.z),
        log_posterior=log_posterior(q, sample),
        z=sample.z,
        q=q if chain is None else Conditional(*chain.q),
    )


def batch_elbo_terms(
    keys: Key[Array, "batch samples"],
    vae: VAE,
    params: Params,
    xs: Float[Array, "batch *x"],
    weigh_z: Callable[[ElboTerms], Float[Array, "batch samples"]] | None = None,
) -> ElboTerms:
    """`elbo_terms` of every example and sample: the place that maps a model over examples.

    The same algebra in an order that is fast: an example is encoded once, whatever the
    number of samples, and all samples are decoded together.

    Args:
        keys: the key of each sample of each example.
        vae: the model.
        params: its parameters.
        xs: the examples.
        weigh_z: of the terms, factors of the gradient that flows back through each sample.

    Returns:
        The terms with leading axes `[batch, samples]`.
    """
    qs = jax.vmap(vae.encode, (None, 0))(params, xs)
    samples = jax.vmap(jax.vmap(vae.draw, (0, None, None)), (0, None, 0))(keys, params, qs)
    if weigh_z is None:
        return _terms_at(samples, qs, vae, params, xs)
    # Forward this is computed twice on paper and once by XLA, which sees the same numbers.
    factors = weigh_z(jax.lax.stop_gradient(_terms_at(samples, qs, vae, params, xs)))
    weighed = samples._replace(z=_weigh_gradient(samples.z, factors[..., None]))
    return _terms_at(weighed, qs, vae, params, xs)


@jax.custom_vjp
def _weigh_gradient(values: Array, factors: Array) -> Array:
    """The values; what flows back through them is multiplied by the factors."""
    return values


_weigh_gradient.defvjp(
    lambda values, factors: (values, factors),
    lambda factors, flowing: (flowing * factors, jnp.zeros_like(factors)),
)


def _terms_at(
    samples: Sample,
    qs: Normal,
    vae: VAE,
    params: Params,
    xs: Float[Array, "batch *x"],
) -> ElboTerms:
    """The terms of samples `[batch samples]` that are drawn."""

    def log_lik_of(z: Float[Array, " latent"], x: Float[Array, "*x"]) -> Nats:
        return vae.log_lik(params, z, x)

    zs = samples.z
    # Over one flat axis: two nested ones cost a transpose in every weight gradient.
    repeated = jnp.repeat(xs, zs.shape[1], axis=0)
    log_lik = jax.vmap(log_lik_of)(zs.reshape(-1, vae.latent_dim), repeated)
    return jax.vmap(jax.vmap(_terms, (0, None, 0)))(log_lik.reshape(zs.shape[:2]), qs, samples)
