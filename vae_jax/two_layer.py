"""A variational autoencoder with two stochastic layers, as a bundle whose prior is N(0, I)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.gaussian import (
    kl_to_standard_normal,
    log_density,
    log_density_per_dim,
    reparameterize,
)
from vae_jax.likelihoods import Likelihood
from vae_jax.model import VAE, Module, as_normal
from vae_jax.types import Chain, Normal, Params, PRNGKey, Sample


def make_two_layer_vae(
    encoder: Module,
    upper_encoder: Module,
    upper_decoder: Module,
    decoder: Module,
    likelihood: Likelihood,
    *,
    x_shape: Sequence[int],
    latent_dims: Sequence[int],
) -> VAE:
    """Bundle four networks and a likelihood into a VAE with two stochastic layers.

    p(x, h1, h2) = p(x | h1) p(h1 | h2) p(h2),  q(h1, h2 | x) = q(h1 | x) q(h2 | h1),

    where p(h2) = N(0, I) and the other densities of h1 and h2 are diagonal normals. The latent
    vector is z = (e, h2), in which e is the noise of h1 = mean(h2) + scale(h2) e under p(h1 | h2).
    Its prior is N(0, I), so that whatever asks for the prior and the decoder works as it does
    with one layer. The posterior is

    log q(z | x) = log q(h1 | x) + log q(h2 | h1) + sum_j log scale_j(h2),

    and the log-weights log p(x, z) - log q(z | x) are those of h1 and h2. The KL of a unit of h1
    is estimated by one sample, as log q(h1_j | x) - log p(h1_j | h2); that of a unit of h2 is
    exact given h1.

    Args:
        encoder: a linen module from x to the means and log-variances of q(h1 | x).
        upper_encoder: from h1 to those of q(h2 | h1).
        upper_decoder: from h2 to those of p(h1 | h2).
        decoder: from h1 to theta.
        likelihood: the observation model that theta parameterises.
        x_shape: shape of one example.
        latent_dims: units of h1 and of h2.

    Returns:
        The bundle: `encode` gives q(h1 | x), `latent_dim` is the sum of `latent_dims`, and
        `params` holds the recognition networks under "encoder", the generative ones under
        "decoder", each with the layers "first" and "second".

    Raises:
        ValueError: if there are not two latent sizes of 1 or more, or a network returns another
            shape.

    Example:
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.networks import two_layer_mlp
        >>> networks = two_layer_mlp(
        ...     ((16,), (8,)), x_shape=(8, 8, 1), latent_dims=(4, 2), theta_dim=1)
        >>> vae = make_two_layer_vae(
        ...     *networks, bernoulli(), x_shape=(8, 8, 1), latent_dims=(4, 2))
        >>> params = vae.init(jax.random.key(0))
        >>> vae.decode(params, jnp.zeros(vae.latent_dim)).shape
        (8, 8, 1, 1)

    Reference:
        Burda et al., Importance weighted autoencoders (arXiv 1509.00519), sections 2 and 5.
    """
    if len(latent_dims) != 2 or min(latent_dims) < 1:
        raise ValueError(f"latent_dims {tuple(latent_dims)}: two of at least 1 are needed")
    first_dim, second_dim = latent_dims
    theta_shape = (*x_shape, likelihood.theta_dim)
    # Of each network: where its parameters are, and the shapes of what it takes and gives.
    networks = {
        ("encoder", "first"): (encoder, tuple(x_shape), (2 * first_dim,)),
        ("encoder", "second"): (upper_encoder, (first_dim,), (2 * second_dim,)),
        ("decoder", "second"): (upper_decoder, (second_dim,), (2 * first_dim,)),
        ("decoder", "first"): (decoder, (first_dim,), theta_shape),
    }
    for (side, layer), (network, taken, given) in networks.items():
        found = _output_shape(network, taken)
        if found != given:
            raise ValueError(f"{layer} {side}: an output of shape {found}, {given} is needed")

    def init(key: PRNGKey) -> Params:
        params: dict[str, dict[str, Params]] = {"encoder": {}, "decoder": {}}
        keys = jax.random.split(key, len(networks))
        for key_network, ((side, layer), (network, taken, _)) in zip(
            keys, networks.items(), strict=True
        ):
            params[side][layer] = network.init(key_network, jnp.zeros(taken))
        return params

    def encode(params: Params, x: Float[Array, "*x"]) -> Normal:
        return as_normal(encoder.apply(params["encoder"]["first"], x))

    def prior_of(params: Params, h2: Float[Array, " second"]) -> Normal:
        return as_normal(upper_decoder.apply(params["decoder"]["second"], h2))

    def decode(params: Params, z: Float[Array, " latent"]) -> Float[Array, "*x theta"]:
        if z.shape != (first_dim + second_dim,):
            raise ValueError(f"z of shape {z.shape}: {(first_dim + second_dim,)} is needed")
        e, h2 = z[:first_dim], z[first_dim:]
        prior = prior_of(params, h2)
        h1 = prior.mean + jnp.exp(prior.log_var / 2) * e
        return decoder.apply(params["decoder"]["first"], h1)

    def draw(key: PRNGKey, params: Params, q: Normal) -> Sample:
        key_first, key_second = jax.random.split(key)
        h1 = reparameterize(key_first, q)
        upper_q = as_normal(upper_encoder.apply(params["encoder"]["second"], h1))
        h2 = reparameterize(key_second, upper_q)
        prior = prior_of(params, h2)
        log_q = log_density_per_dim(q, h1)
        chain = Chain(
            # sum(log_var) / 2 is the sum of the log-scales: the density of e, not of h1.
            log_posterior=jnp.sum(log_q + prior.log_var / 2) + log_density(upper_q, h2),
            kl_per_dim=jnp.concatenate(
                [log_q - log_density_per_dim(prior, h1), kl_to_standard_normal(upper_q)]
            ),
            q=jax.tree.map(lambda *layers: jnp.concatenate(layers), q, upper_q),
        )
        e = (h1 - prior.mean) * jnp.exp(-prior.log_var / 2)
        return Sample(jnp.concatenate([e, h2]), chain)

    return VAE(init, encode, decode, likelihood, first_dim + second_dim, draw, is_layered=True)


def _output_shape(network: Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an input of a shape, traced without computing anything."""

    def run() -> Array:
        x = jnp.zeros(shape)
        return network.apply(network.init(jax.random.key(0), x), x)

    return jax.eval_shape(run).shape
