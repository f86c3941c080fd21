import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from vae_jax.evaluation import estimate_elbo
from vae_jax.likelihoods import bernoulli, gaussian
from vae_jax.model import batch_elbo_terms, elbo_terms, make_vae
from vae_jax.networks import NETWORKS, mlp
from vae_jax.objectives import OBJECTIVES, beta, elbo
from vae_jax.preprocess import BINARIZE, intensities
from vae_jax.train import _OWN_SUMS, OPTIMIZERS, _are_known, make_trainer, quick_options
from vae_jax.types import Hyper

IMAGE = (28, 28, 1)


def hyper(**settings) -> Hyper:
    return Hyper(*map(jnp.float32, Hyper(**settings)))


# Cached, because a trainer that is made again is compiled again.
@functools.cache
def image_vae(network="mlp", hidden=(16,)):
    encoder, decoder = NETWORKS[network](hidden, x_shape=IMAGE, latent_dim=2, theta_dim=1)
    return make_vae(encoder, decoder, bernoulli(), x_shape=IMAGE, latent_dim=2)


@functools.cache
def trainer(batch_size=32, objective="beta", **options):
    return make_trainer(image_vae(), OBJECTIVES[objective](), batch_size=batch_size, **options)


def leaves(tree) -> list[np.ndarray]:
    plain = jax.tree.map(
        lambda leaf: (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ),
        tree,
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(plain)]


def compilations(jitted: Any) -> int:
    return jitted._cache_size()


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def images(digits):
    return jnp.asarray(digits[:200])


def test_training_raises_the_elbo(images):
    train, settings = trainer(), hyper(learning_rate=1e-2)
    state = train.init(jax.random.key(0), settings)
    elbos = []
    for _ in range(20):
        state, metrics = train.epoch(state, settings, images)
        elbos.append(float(metrics["elbo"]))
    # From ln 2 a pixel, 543 nats, to below the best that ignores x, about 345: no noise in
    # the minibatches explains it.
    assert elbos[0] < -500
    assert elbos[-1] > -340
    assert bool(state.alive)
    assert int(state.step) == 20 * (200 // 32)


def test_an_epoch_is_the_loop_of_its_steps_bit_for_bit(images):
    """The scan adds nothing: the same steps on the same batches, called one by one."""
    train = trainer()
    scanned, _ = train.epoch(train.init(jax.random.key(3), hyper()), hyper(), images)
    state = train.init(jax.random.key(3), hyper())
    key_shuffle = jax.random.split(jax.random.key(3), 3)[1]
    order = jax.random.permutation(jax.random.fold_in(key_shuffle, 0), len(images))
    for i in range(len(images) // 32):
        state, _ = train.step(state, hyper(), images[order[32 * i : 32 * (i + 1)]])
    assert_same_bits(scanned, state)


def test_every_epoch_sees_other_batches_and_each_image_once(images):
    """With batches of one, the steps of an epoch are a permutation of the data."""
    seen = []

    def spy(key, pixels):
        jax.debug.callback(lambda p: seen.append(int(p.sum())), pixels)
        return intensities(key, pixels)

    distinct = jnp.arange(7, dtype=jnp.uint8).reshape(7, 1, 1, 1) * jnp.ones((1, *IMAGE), jnp.uint8)
    train = make_trainer(image_vae(), beta(), batch_size=1, preprocess=spy)
    state = train.init(jax.random.key(0), hyper())
    epochs = []
    for _ in range(2):
        seen.clear()
        state, _ = jax.block_until_ready(train.epoch(state, hyper(), distinct))
        jax.effects_barrier()
        epochs.append(list(seen))
    assert sorted(epochs[0]) == sorted(epochs[1]) == [784 * k for k in range(7)]
    assert epochs[0] != epochs[1]


def test_another_value_of_a_swept_setting_recompiles_nothing(images):
    train = trainer(objective="warmup", preprocess=BINARIZE["threshold"])
    state = train.init(jax.random.key(0), hyper())
    for settings in (
        {"beta": 1.0},
        {"beta": 4.0, "learning_rate": 3e-4, "warmup_steps": 50.0},
    ):
        state, _ = train.epoch(state, hyper(**settings), images)
        train.step(train.init(jax.random.key(1), hyper()), hyper(**settings), images[:32])
    assert compilations(train.epoch) == 1
    assert compilations(train.step) == 1


def test_the_state_is_donated(images):
    train = trainer()
    state = train.init(jax.random.key(0), hyper())
    train.epoch(state, hyper(), images)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_the_unweighted_elbo_is_reported_whatever_was_optimised(images):
    metrics = {}
    for b in (1.0, 10.0):
        train = trainer(batch_size=200)
        _, metrics[b] = train.epoch(train.init(jax.random.key(0), hyper()), hyper(beta=b), images)
    # One step: the same weights and the same noise, only the bound differs.
    assert float(metrics[1.0]["elbo"]) == pytest.approx(float(metrics[10.0]["elbo"]), rel=1e-6)
    one, ten = (float(metrics[b]["loss"]) for b in (1.0, 10.0))
    # Each of the two losses, near 550 nats, is rounded to float32.
    rounding = 2 * float(np.spacing(np.float32(ten)))
    assert ten - one == pytest.approx(9 * float(metrics[1.0]["kl"]), abs=rounding)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_trains_with_a_traced_learning_rate(name, images):
    train = trainer(optimizer=OPTIMIZERS[name])
    settings = hyper(learning_rate=1e-4)
    state = train.init(jax.random.key(0), settings)
    elbos = []
    for _ in range(4):
        state, metrics = train.epoch(state, settings, images)
        elbos.append(float(metrics["elbo"]))
    assert elbos[-1] > elbos[0]
    frozen, _ = train.epoch(train.init(jax.random.key(0), settings), hyper(learning_rate=0), images)
    assert_same_bits(frozen.params, train.init(jax.random.key(0), settings).params)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_of_the_bound_matches_finite_differences(network):
    """Of every parameter at once, in float64, along random directions."""
    with jax.enable_x64(True):
        encoder, decoder = NETWORKS[network](
            (5,), x_shape=(4, 4, 1), latent_dim=2, theta_dim=1, activation=jnp.tanh
        )
        vae = make_vae(encoder, decoder, bernoulli(), x_shape=(4, 4, 1), latent_dim=2)
        key, rng = jax.random.key(0), np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: np.asarray(leaf, float), jax.jit(vae.init)(key))
        xs, keys = jnp.asarray(rng.uniform(size=(3, 4, 4, 1))), jax.random.split(key, (3, 1))

        @jax.jit
        def bound_and_gradient(params):
            def bound(params):
                return elbo().bound(batch_elbo_terms(keys, vae, params, xs), Hyper(), 0)[0]

            return jax.value_and_grad(bound)(params)

        _, grads = bound_and_gradient(params)
        step = 1e-5
        for _ in range(3):
            direction = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
            ahead = jax.tree.map(lambda p, d: p + step * d, params, direction)
            behind = jax.tree.map(lambda p, d: p - step * d, params, direction)
            slope = (bound_and_gradient(ahead)[0] - bound_and_gradient(behind)[0]) / (2 * step)
            along = sum(
                np.vdot(g, d)
                for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
            )
            assert float(slope) == pytest.approx(float(along), rel=1e-6)


def test_a_model_has_one_number_of_each(images):
    several: list[Any] = [jnp.array([1.0, 4.0]), [1.0, 4.0], None]
    for betas in several:
        with pytest.raises(ValueError, match=r"^beta: one number is needed"):
            trainer().init(jax.random.key(0), hyper()._replace(beta=betas))
    state = trainer().init(jax.random.key(0), hyper())
    with pytest.raises(ValueError, match=r"^beta: one number is needed"):
        trainer().epoch(state, hyper()._replace(beta=several[0]), images)


def test_an_objective_of_ones_own_does_not_rename_the_elbo(images):
    def bound(terms, hyper, step):
        return beta().bound(terms, hyper, step)[0], {"elbo": jnp.float32(5), "own": jnp.float32(7)}

    train = make_trainer(image_vae(), beta()._replace(bound=bound), batch_size=100)
    _, metrics = train.epoch(train.init(jax.random.key(0), hyper()), hyper(), images)
    assert metrics["elbo"] < 0
    assert metrics["own"] == 7


def test_a_diverged_model_is_rolled_back_and_stays(images):
    train = trainer()
    state = train.init(jax.random.key(0), hyper())
    state, _ = train.epoch(state, hyper(), images)
    before = jax.tree.map(jnp.copy, state)
    state, metrics = train.epoch(state, hyper(learning_rate=1e30), images)
    assert not bool(state.alive)
    assert int(metrics["bad_loss"]) < 200 // 32
    assert_same_bits(state._replace(alive=jnp.array(True)), before)
    state, _ = train.epoch(state, hyper(), images)
    assert_same_bits(state._replace(alive=jnp.array(True)), before)
    assert not bool(state.alive)


def test_an_overflow_hidden_in_the_optimiser_is_a_divergence_too(images):
    """Adam divides by the root of an infinite moment: no update, and every loss finite."""
    train = trainer()
    state = train.init(jax.random.key(0), hyper())
    before = jax.tree.map(jnp.copy, state)
    state, metrics = train.epoch(state, hyper(beta=1e25), images)
    assert jnp.isfinite(metrics["loss"])
    assert not bool(state.alive)
    assert_same_bits(state._replace(alive=jnp.array(True)), before)


def test_a_batch_larger_than_the_data_is_refused(images):
    train = trainer(batch_size=201)
    with pytest.raises(ValueError, match="batch_size 201: more than the 200 examples"):
        train.epoch(train.init(jax.random.key(0), hyper()), hyper(), images)
    with pytest.raises(ValueError, match="batch_size 0"):
        trainer(batch_size=0)


def test_a_linear_vae_reaches_the_maximum_likelihood_of_probabilistic_pca():
    rng = np.random.default_rng(1)
    xs = oracles.sample(oracles.random_model(rng, x_dim=6), rng, 500)
    best = oracles.maximum_likelihood(xs, latent_dim=2)
    log_p = oracles.log_marginal(best, xs).mean()
    encoder, decoder = mlp((), x_shape=(6,), latent_dim=2, theta_dim=1)
    vae = make_vae(encoder, decoder, gaussian(best.scale), x_shape=(6,), latent_dim=2)
    data = jnp.asarray(xs, jnp.float32)
    train = make_trainer(vae, elbo(), batch_size=len(xs), preprocess=lambda key, x: x)
    state = train.init(jax.random.key(0), hyper())
    for rate in (1e-2, 1e-3):
        for _ in range(2000):
            state, _ = train.epoch(state, hyper(learning_rate=rate), data)
    # log p(x, z) - log q(z | x) has next to no variance once q is the posterior.
    keys = jax.random.split(jax.random.key(1), (len(xs), 50))
    terms = jax.jit(batch_elbo_terms, static_argnums=1)(keys, vae, state.params, data)
    bounds = np.asarray(terms.log_lik + terms.log_prior - terms.log_posterior)
    error = bounds.std() / np.sqrt(bounds.size)
    gap = log_p - bounds.mean()
    # No model beats the maximum likelihood; what is left are 2000 noisy steps at 1e-3.
    assert -3 * error < gap < 0.01 + 3 * error


@pytest.mark.parametrize(("n", "batch_size"), [(1, 32), (7, 1), (40, 32), (40, 40)])
@pytest.mark.parametrize("binarize", BINARIZE)
def test_the_estimate_does_not_depend_on_the_batch_size(n, batch_size, binarize, images):
    """A short last batch weighs what it should, and example i keeps its noise."""
    vae, key = image_vae(), jax.random.key(5)
    params = jax.jit(vae.init)(key)
    batched = estimate_elbo(key, vae, BINARIZE[binarize], params, images[:n], batch_size=batch_size)
    # One by one, from the documented keys.
    log_lik, kl = [], []
    for i, image in enumerate(np.asarray(images[:n])):
        terms = one_example(jax.random.fold_in(key, i), vae, BINARIZE[binarize], params, image)
        log_lik.append(terms.log_lik)
        kl.append(terms.kl_per_dim)
    np.testing.assert_allclose(batched.log_lik, np.mean(log_lik), rtol=1e-5)
    np.testing.assert_allclose(batched.kl_per_dim, np.mean(kl, axis=0), rtol=1e-4, atol=1e-6)
    assert float(batched.elbo) == pytest.approx(
        float(np.mean(log_lik) - np.mean(kl, axis=0).sum()), rel=1e-5
    )


def test_an_estimate_of_as_many_as_there_are(images):
    """What stands behind the count is not averaged, and a count that cannot be is NaN."""
    vae, key = image_vae(), jax.random.key(1)
    params, data = vae.init(jax.random.key(0)), images[:5]
    of = functools.partial(estimate_elbo, key, vae, intensities, params)
    assert float(of(data, jnp.int32(3)).elbo) == pytest.approx(float(of(data[:3]).elbo), rel=1e-6)
    for count in (-1, 0, 6):
        assert np.isnan(of(data, jnp.int32(count)).elbo)


@functools.partial(jax.jit, static_argnums=(1, 2))
def one_example(key, vae, preprocess, params, image):
    key_preprocess, key_latent = jax.random.split(key)
    return elbo_terms(key_latent, vae, params, preprocess(key_preprocess, image))


def test_an_estimate_of_nothing_is_refused(images):
    vae, key = image_vae(), jax.random.key(0)
    params = jax.jit(vae.init)(key)
    with pytest.raises(ValueError, match="0 examples in batches of 1000"):
        estimate_elbo(key, vae, intensities, params, images[:0])
    with pytest.raises(ValueError, match="200 examples in batches of 0"):
        estimate_elbo(key, vae, intensities, params, images, batch_size=0)


def test_active_dimensions_are_those_that_cost_something():
    from vae_jax.evaluation import ElboEstimate

    estimate = ElboEstimate(jnp.array(-90.0), jnp.array([0.0099, 0.0101, 3.0]))
    assert int(estimate.active_dims) == 2
    assert float(estimate.kl) == pytest.approx(3.02)
    assert float(estimate.elbo) == pytest.approx(-93.02)


def test_compiler_options_are_those_that_xla_has():
    """What is experimental is left out where it is gone; nothing is said to an accelerator."""
    options = quick_options("many")
    jax.jit(jnp.sin, compiler_options=options).lower(1.0).compile()
    assert options.items() >= {"xla_backend_optimization_level": 1}.items()
    name, value = next(iter(_OWN_SUMS.items()))
    assert not _are_known(**{name: f"{value}_AS_IT_IS_NOT_CALLED"})
    assert not _are_known(xla_cpu_option_of_another_version="1")
