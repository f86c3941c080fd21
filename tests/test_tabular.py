import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.likelihoods import COLUMN_LIKELIHOODS
from vae_jax.model import VAE, elbo_terms
from vae_jax.networks.table import ScaleOf
from vae_jax.tabular import make_table_vae
from vae_jax.types import Params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BLOCKS = [("continuous", 2), ("heavy_tailed", 1), ("binary", 1), ("count", 2), ("categorical", 3)]
COUNTS = slice(4, 6)


def table_vae(scale_of: ScaleOf = "column") -> VAE:
    return make_table_vae(
        BLOCKS, hidden=(6,), latent_dim=2, activation=jax.nn.tanh, scale_of=scale_of
    )


def initialised(vae: VAE, key: jax.Array) -> Params:
    return jax.tree.map(np.asarray, jax.jit(vae.init)(key))


@pytest.fixture
def x() -> jax.Array:
    return jnp.array([0.3, -1.0, 0.2, 1.0, 3.0, 800.0, 0.0, 1.0, 0.0])


def test_every_kind_has_its_likelihood(key, x):
    vae = table_vae()
    params = initialised(vae, key)
    theta = np.asarray(jax.jit(vae.decode)(params, jnp.array([0.5, -0.5])))
    x = np.asarray(x)
    assert theta.shape == (9, 2)
    per_dim, start = np.asarray(jax.jit(vae.likelihood.log_prob_per_dim)(theta, x)), 0
    assert {kind for kind, _ in BLOCKS} == COLUMN_LIKELIHOODS.keys()
    for kind, width in BLOCKS:
        likelihood, own = COLUMN_LIKELIHOODS[kind](), slice(start, start + width)
        own_theta = theta[own, : likelihood.theta_dim]
        expected = jax.jit(likelihood.log_prob_per_dim)(own_theta, x[own])
        np.testing.assert_allclose(per_dim[own], expected, rtol=1e-6)
        start += width


@pytest.mark.parametrize("scale_of", ["row", "column", "table"])
def test_the_spread_depends_on_what_was_chosen(key, scale_of):
    vae = table_vae(scale_of)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), initialised(vae, key)
    )
    decode = jax.jit(vae.decode)
    one, other = (np.asarray(decode(params, z)) for z in (jnp.zeros(2), jnp.ones(2)))
    assert np.all(one[:, 0] != other[:, 0])
    assert np.all(one[:, 1] == other[:, 1]) == (scale_of != "row")
    assert len(np.unique(one[:, 1])) == (1 if scale_of == "table" else 9)


def test_the_encoder_sees_the_mean_where_a_value_is_missing(key, x):
    vae = table_vae()
    params = initialised(vae, key)
    missing = np.array([0, 3, 4, 6, 7, 8])
    holes, filled = x.at[missing].set(jnp.nan), x.at[missing].set(0.0)
    encode = jax.jit(vae.encode)
    for found, expected in zip(encode(params, holes), encode(params, filled), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_missing_has_no_part_in_the_gradient(key, x):
    vae = table_vae()
    params = initialised(vae, key)
    missing = np.array([1, 2, 5])

    def elbo(params, x):
        terms = elbo_terms(key, vae, params, x)
        return terms.log_lik - terms.kl_per_dim.sum()

    value, grads = jax.jit(jax.value_and_grad(elbo))(params, x.at[missing].set(jnp.nan))
    grads = jax.tree.map(np.asarray, grads)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    decoder = grads["decoder"]["params"]
    np.testing.assert_array_equal(decoder["others"][missing], 0)
    np.testing.assert_array_equal(decoder["Dense_1"]["bias"][missing], 0)
    assert np.all(np.delete(decoder["Dense_1"]["bias"], missing) != 0)


def test_the_encoder_sees_counts_on_a_log_scale(key, x):
    vae = table_vae()
    params = initialised(vae, key)
    kernel = params["encoder"]["params"]["Dense_0"]["kernel"]
    # To the first order around a small weight the network is linear in what it sees.
    small = jax.tree.map(np.zeros_like, params)
    small["encoder"]["params"]["Dense_0"]["kernel"] = 1e-3 * kernel
    small["encoder"]["params"]["Dense_1"]["kernel"] = params["encoder"]["params"]["Dense_1"][
        "kernel"
    ]
    seen = np.asarray(x).copy()
    seen[COUNTS] = np.log1p(seen[COUNTS])
    weights = small["encoder"]["params"]
    expected = seen @ weights["Dense_0"]["kernel"] @ weights["Dense_1"]["kernel"]
    mean = jax.jit(vae.encode)(small, x).mean
    np.testing.assert_allclose(mean, expected[:2], rtol=1e-3, atol=1e-6)


def test_a_table_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"kind 'text': one of continuous, .* is needed"):
        make_table_vae([("text", 2)], hidden=(4,), latent_dim=2, activation=jax.nn.tanh)
    with pytest.raises(ValueError, match="1 or more"):
        make_table_vae([], hidden=(4,), latent_dim=2, activation=jax.nn.tanh)
    with pytest.raises(ValueError, match="latent_dim 0"):
        make_table_vae(BLOCKS, hidden=(4,), latent_dim=0, activation=jax.nn.tanh)
