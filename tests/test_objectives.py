"""Every objective is a row of one table that the tests below run over."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree

from vae_jax.gaussian import kl_to_standard_normal, log_density, standard_log_density
from vae_jax.likelihoods import bernoulli
from vae_jax.model import VAE, batch_elbo_terms, make_vae
from vae_jax.networks import mlp
from vae_jax.objectives import OBJECTIVES, Objective, _stratified, beta_tc, dreg, iwae
from vae_jax.train import make_trainer
from vae_jax.types import ElboTerms, Hyper, Normal, Params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Settings under which each objective is the ELBO.
AS_ELBO = {
    "elbo": Hyper(beta=7.0),
    "beta": Hyper(beta=1.0),
    "warmup": Hyper(beta=1.0, warmup_steps=1.0),
    "cyclical": Hyper(beta=1.0, cycle_steps=2e6),
    "capacity": Hyper(gamma=1.0, capacity=0.0),
    "free_bits": Hyper(beta=1.0, free_bits=0.0),
    "beta_tc": Hyper(beta=1.0),
}
# With one sample these are the ELBO too, but for the KL, which is that of the sample.
IMPORTANCE_WEIGHTED = ("iwae", "dreg")
STEP = 1_500_000


@pytest.fixture
def terms(key) -> ElboTerms:
    """Six examples, one sample each, two latent dimensions of unlike KL."""
    keys = jax.random.split(key, 3)
    shape = (6, 1, 2)
    width = jnp.array([1.0, 0.1]).reshape(1, 1, 2)
    q = Normal(width * jax.random.normal(keys[0], shape), width * jax.random.normal(keys[1], shape))
    z = q.mean

    def each(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(jax.vmap(function))

    return ElboTerms(
        log_lik=-100 + jax.random.normal(keys[2], (6, 1)),
        kl_per_dim=each(kl_to_standard_normal)(q),
        log_prior=each(standard_log_density)(z),
        log_posterior=each(log_density)(q, z),
        z=z,
        q=q,
    )


def value(name, terms, hyper, step=STEP):
    return OBJECTIVES[name](num_samples=1).bound(terms, hyper, step)[0]


def elbo_of(terms, name="elbo") -> float:
    kl = terms.kl_per_dim.sum(axis=-1)
    if name in IMPORTANCE_WEIGHTED:
        kl = terms.log_posterior - terms.log_prior
    return float(jnp.mean(terms.log_lik - kl))


def test_every_objective_has_a_row():
    assert OBJECTIVES.keys() == AS_ELBO.keys() | set(IMPORTANCE_WEIGHTED)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_the_elbo_at_some_setting(name, terms):
    found = value(name, terms, AS_ELBO.get(name, Hyper()))
    assert found == pytest.approx(elbo_of(terms, name), rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_rises_with_the_likelihood_nat_for_nat(name, terms):
    hyper = AS_ELBO.get(name, Hyper())
    grad = jax.grad(lambda log_lik: value(name, terms._replace(log_lik=log_lik), hyper))
    # An average over examples: one more nat for one of six is a sixth of a nat.
    np.testing.assert_allclose(grad(terms.log_lik), np.full((6, 1), 1 / 6), rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_reads_the_settings_that_it_says_and_no_others(name, terms):
    base = Hyper(
        beta=2.0, warmup_steps=400.0, cycle_steps=800.0, capacity=3.0, capacity_steps=500.0,
        gamma=5.0, free_bits=0.3, num_examples=50.0,
    )  # fmt: skip
    read = set()
    for field in set(Hyper._fields) - {"learning_rate"}:
        changed = base._replace(**{field: getattr(base, field) * 1.5})
        if value(name, terms, base, 100) != value(name, terms, changed, 100):
            read.add(field)
    assert read == OBJECTIVES[name]().reads


@pytest.mark.parametrize("name", OBJECTIVES)
def test_settings_are_traced_and_recompile_nothing(name, terms):
    objective, compiled = OBJECTIVES[name](), 0

    @jax.jit
    def bound(terms, hyper, step):
        nonlocal compiled
        compiled += 1
        return objective.bound(terms, hyper, step)

    for beta in (0.5, 4.0):
        bound(terms, Hyper(*map(jnp.float32, Hyper(beta=beta))), jnp.int32(3))
    assert compiled == 1


def test_beta_weighs_a_kl_in_nats_per_example(terms):
    kl = float(jnp.mean(terms.kl_per_dim.sum(axis=-1)))
    at_4 = value("beta", terms, Hyper(beta=4.0))
    assert at_4 == pytest.approx(float(jnp.mean(terms.log_lik)) - 4 * kl, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "step", "weight"),
    [
        ("warmup", 0, 0.0),
        ("warmup", 25, 0.5),
        ("warmup", 100, 2.0),
        ("warmup", 9000, 2.0),
        ("cyclical", 0, 0.0),
        ("cyclical", 20, 1.0),
        ("cyclical", 40, 2.0),
        ("cyclical", 79, 2.0),
        ("cyclical", 80, 0.0),
        ("cyclical", 100, 1.0),
    ],
)
def test_schedules_of_the_kl_weight(name, step, weight, terms):
    hyper = Hyper(beta=2.0, warmup_steps=100.0, cycle_steps=80.0)
    bound, aux = OBJECTIVES[name]().bound(terms, hyper, jnp.int32(step))
    assert aux["kl_weight"] == pytest.approx(weight)
    kl = float(jnp.mean(terms.kl_per_dim.sum(axis=-1)))
    assert bound == pytest.approx(float(jnp.mean(terms.log_lik)) - weight * kl, rel=1e-6)


def test_capacity_holds_the_kl_at_a_rising_target(terms):
    kl = float(jnp.mean(terms.kl_per_dim.sum(axis=-1)))
    hyper = Hyper(capacity=2 * kl, capacity_steps=100.0, gamma=10.0)
    log_lik = float(jnp.mean(terms.log_lik))
    # Half way the target is the KL itself; before and after, the distance counts either way.
    for step, distance in ((0, kl), (50, 0.0), (100, kl), (500, kl)):
        bound, aux = OBJECTIVES["capacity"]().bound(terms, hyper, step)
        assert bound == pytest.approx(log_lik - 10 * distance, rel=1e-5)
        assert aux["capacity"] == pytest.approx(2 * kl * min(step / 100, 1), rel=1e-6)


def test_free_bits_average_over_the_batch_before_the_maximum(terms):
    kl = np.asarray(terms.kl_per_dim.mean(axis=(0, 1)))
    free = float(kl.mean())  # between the two dimensions
    bound = value("free_bits", terms, Hyper(free_bits=free))
    expected = float(jnp.mean(terms.log_lik)) - np.maximum(free, kl).sum()
    assert bound == pytest.approx(expected, rel=1e-6)
    per_example = np.maximum(free, np.asarray(terms.kl_per_dim)).sum(axis=-1).mean()
    assert abs(np.maximum(free, kl).sum() - per_example) > 0.01  # the other reading differs
    grad = jax.grad(
        lambda kl_per_dim: value(
            "free_bits", terms._replace(kl_per_dim=kl_per_dim), Hyper(free_bits=free)
        )
    )(terms.kl_per_dim)
    # A dimension under its free bits is not pushed, the other pays in full.
    np.testing.assert_allclose(grad[..., np.argmin(kl)], 0)
    np.testing.assert_allclose(grad[..., np.argmax(kl)], -1 / 6, rtol=1e-6)


def test_a_bound_over_samples_and_batch_trains_through_the_same_signature(key):
    """The importance-weighted bound looks along the samples, the total correlation along the
    batch: an objective of both needs no other arguments."""
    seen = []

    def bound(terms, hyper, step):
        seen.append(jax.tree.map(jnp.shape, terms))
        log_w = terms.log_lik + terms.log_prior - terms.log_posterior
        weighted = jnp.mean(jax.nn.logsumexp(log_w, axis=1) - jnp.log(log_w.shape[1]))
        q = jax.tree.map(lambda leaf: leaf[:, 0], terms.q)
        # log q(z_i | x_j) of every pair of the batch.
        pairs = jax.vmap(lambda z: jax.vmap(log_density, (0, None))(q, z))(terms.z[:, 0])
        return weighted - 0.1 * jnp.mean(jax.nn.logsumexp(pairs, axis=1)), {}

    networks = mlp((4,), x_shape=(4, 4, 1), latent_dim=2, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=(4, 4, 1), latent_dim=2)
    trainer = make_trainer(vae, Objective(5, bound), batch_size=6)
    state = trainer.init(key, Hyper())
    batch = jnp.full((6, 4, 4, 1), 200, jnp.uint8)
    state, metrics = trainer.step(state, Hyper(), batch)
    assert seen[0].log_lik == (6, 5)
    assert seen[0].kl_per_dim == seen[0].z == seen[0].q.mean == (6, 5, 2)
    assert int(state.step) == 1
    assert float(metrics["loss"]) != pytest.approx(-float(metrics["elbo"]))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_forgets_the_kl_at_its_default_settings(name, terms):
    """Past its warm-up, every objective falls when the KL rises."""
    more = terms._replace(kl_per_dim=terms.kl_per_dim + 1, log_posterior=terms.log_posterior + 1)
    if name == "dreg":  # which computes the posterior's density itself
        more = terms._replace(log_prior=terms.log_prior - 1)
    assert value(name, more, Hyper()) < value(name, terms, Hyper())


@pytest.mark.parametrize("num_samples", [0, -1])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_bound_of_no_sample_is_not_trained(name, num_samples):
    """It would be a mean over none, NaN."""
    vae = oracles.as_vae(oracles.random_model(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=f"num_samples {num_samples}: at least 1 is needed"):
        make_trainer(vae, OBJECTIVES[name](num_samples), batch_size=4)


# Of dreg the gradient is not that of its bound: z carries the weight once more, on purpose.
@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"dreg"}))
def test_gradients_match_finite_differences(name):
    """In float64, of all parameters along some directions, at settings that differ from the ELBO.

    A central difference with step h errs by h^2 of the third derivative and by rounding over h;
    with h = 1e-5 both are near 1e-10 of the bound's hundred nats.
    """
    hyper = Hyper(
        beta=2.0, warmup_steps=400.0, cycle_steps=800.0, capacity=3.0, capacity_steps=500.0,
        gamma=5.0, free_bits=0.3, num_examples=50.0,
    )  # fmt: skip
    with jax.enable_x64(True):
        networks = mlp((4,), x_shape=(6,), latent_dim=2, theta_dim=1, activation=jnp.tanh)
        vae = make_vae(*networks, bernoulli(), x_shape=(6,), latent_dim=2)
        params = jax.tree.map(
            lambda leaf: 3 * leaf.astype(jnp.float64), vae.init(jax.random.key(0))
        )
        xs = jax.random.bernoulli(jax.random.key(1), 0.5, (5, 6)).astype(jnp.float64)
        objective = OBJECTIVES[name](num_samples=3)
        keys = jax.random.split(jax.random.key(2), (5, 3))

        @jax.jit
        def bound(params: Params) -> jax.Array:
            terms = batch_elbo_terms(keys, vae, params, xs, objective.weigh_z)
            return objective.bound(terms, hyper, jnp.int32(100))[0]

        flat, unflatten = ravel_pytree(params)
        assert flat.dtype == jnp.float64
        slope = ravel_pytree(jax.jit(jax.grad(bound))(params))[0]
        assert slope.dtype == jnp.float64
        for seed in range(4):
            direction = jax.random.normal(jax.random.key(10 + seed), flat.shape, jnp.float64)
            step = 1e-5 * direction
            rise = bound(unflatten(flat + step)) - bound(unflatten(flat - step))
            np.testing.assert_allclose(slope @ direction, rise / 2e-5, rtol=1e-6, atol=1e-7)


# Importance weighting, on a model whose log p(x) is known.


def linear(shift: float) -> tuple[oracles.LinearGaussian, VAE, Params]:
    """Probabilistic PCA with parameters for the posterior and the decoder to differentiate.

    The posterior is the true one, but for its mean, which is off by a shift.
    """
    model = oracles.random_model(np.random.default_rng(1))
    exact = oracles.as_vae(model)
    params = {
        "shift": jnp.full(2, shift),
        "log_var": jnp.zeros(2),
        "offset": jnp.asarray(model.offset, jnp.float32),
    }

    def encode(params: Any, x: jax.Array) -> Normal:
        q = exact.encode({}, x)
        return Normal(q.mean + params["shift"], q.log_var + params["log_var"])

    def decode(params: Any, z: jax.Array) -> jax.Array:
        weights = jnp.asarray(model.weights, jnp.float32)
        return (weights @ z + params["offset"])[:, None]

    return model, exact._replace(encode=encode, decode=decode), params


def rows_of(model: oracles.LinearGaussian, n: int = 8) -> jax.Array:
    return jnp.asarray(oracles.sample(model, np.random.default_rng(2), n), jnp.float32)


def bound_of(objective: Objective, vae: VAE, xs: jax.Array) -> Callable[[Params, jax.Array], Any]:
    def bound(params: Params, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, (len(xs), objective.num_samples))
        terms = batch_elbo_terms(keys, vae, params, xs, objective.weigh_z)
        return objective.bound(terms, Hyper(), 0)[0]

    return bound


def gradients(objective: Objective, shift: float, repeats: int) -> dict[str, np.ndarray]:
    """The gradient of every parameter, for many keys."""
    model, vae, params = linear(shift)
    gradient = jax.grad(bound_of(objective, vae, rows_of(model)))
    keys = jax.random.split(jax.random.key(3), repeats)
    found = jax.jit(jax.vmap(gradient, (None, 0)))(params, keys)
    return jax.tree.map(np.asarray, found)


def assert_same_mean(a: np.ndarray, b: np.ndarray) -> None:
    """Within five standard errors of the difference of two means."""
    error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
    np.testing.assert_array_less(np.abs(a.mean(axis=0) - b.mean(axis=0)), 5 * error + 1e-6)


@pytest.mark.parametrize("make", [iwae, dreg])
def test_the_importance_weighted_bound_rises_with_k_to_log_p(make):
    model, vae, params = linear(shift=0.4)
    xs = rows_of(model)
    keys = jax.random.split(jax.random.key(4), 2000)
    means, errors = [], []
    for num_samples in (1, 4, 16, 64):
        bound = bound_of(make(num_samples), vae, xs)
        found = np.asarray(jax.jit(jax.vmap(bound, (None, 0)))(params, keys))
        means.append(found.mean())
        errors.append(found.std() / np.sqrt(len(keys)))
    means.append(oracles.log_marginal(model, np.asarray(xs)).mean())
    # Each step is far more than its standard error, but the last, which may be next to none.
    assert all(low + 5 * e < high for low, high, e in zip(means, means[1:4], errors, strict=False))
    assert means[3] < means[4] + 5 * errors[3]
    # The gap falls as 1 / K: from 16 to 64 to a quarter, or to a half at most.
    assert means[4] - means[3] < 0.5 * (means[4] - means[2])


@pytest.mark.parametrize("name", IMPORTANCE_WEIGHTED)
def test_with_one_sample_the_importance_weighted_bound_is_the_elbo_in_expectation(name):
    model, vae, params = linear(shift=0.4)
    keys = jax.random.split(jax.random.key(4), 4000)
    values, found = [], []
    for objective in (OBJECTIVES[one](num_samples=1) for one in (name, "elbo")):
        bound = bound_of(objective, vae, rows_of(model))
        values.append(np.asarray(jax.jit(jax.vmap(bound, (None, 0)))(params, keys)))
        found.append(gradients(objective, 0.4, 4000))
    ours, elbo = values
    # The same samples of z, so that what differs is the KL by them and the exact one.
    difference = ours - elbo
    assert difference.std() > 0.1
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(keys))
    for parameter in found[0]:
        assert_same_mean(found[0][parameter], found[1][parameter])


@pytest.mark.parametrize("num_samples", [8, 64])
def test_the_doubly_reparameterised_gradient_has_the_same_mean(num_samples):
    naive, double = (gradients(make(num_samples), 0.4, 4000) for make in (iwae, dreg))
    for name in naive:
        assert_same_mean(naive[name], double[name])
    # The decoder's is not touched: the same numbers, key by key.
    np.testing.assert_allclose(naive["offset"], double["offset"], rtol=1e-4, atol=1e-5)


def test_the_doubly_reparameterised_gradient_has_less_variance_at_64_samples():
    naive, double = (gradients(make(64), 0.4, 1000) for make in (iwae, dreg))
    for name in ("shift", "log_var"):
        assert np.all(double[name].var(axis=0) < 0.5 * naive[name].var(axis=0))


def test_where_the_posterior_is_true_the_doubly_reparameterised_gradient_vanishes():
    """All weights are alike whatever z is, so z has nothing to gain; the naive one is noise."""
    naive, double = (gradients(make(8), 0.0, 20) for make in (iwae, dreg))
    for name in ("shift", "log_var"):
        assert np.abs(double[name]).max() < 1e-4 < np.abs(naive[name]).max()


def test_the_doubly_reparameterised_gradient_computes_nothing_twice():
    """Its weights are of the same samples as its bound: XLA finds that out."""
    networks = mlp((4,), x_shape=(4, 4, 1), latent_dim=2, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=(4, 4, 1), latent_dim=2)
    products = []
    for make in (iwae, dreg):
        trainer = make_trainer(vae, make(3), batch_size=6)
        state = jax.eval_shape(lambda trainer=trainer: trainer.init(jax.random.key(0), Hyper()))
        batch = jax.ShapeDtypeStruct((6, 4, 4, 1), jnp.uint8)
        hyper = jax.tree.map(jnp.float32, Hyper())
        compiled = jax.jit(trainer.step).lower(state, hyper, batch).compile()
        products.append(str(compiled.as_text()).count(" dot("))
    assert products[0] == products[1] > 4


def test_the_weight_goes_to_the_best_sample(key):
    log_lik = jnp.array([[-100.0, -90.0, -95.0]])
    flat = jnp.zeros((1, 3, 1))
    terms = ElboTerms(log_lik, flat, flat[..., 0], flat[..., 0], flat, Normal(flat, flat))
    grad = jax.grad(lambda values: iwae(3).bound(terms._replace(log_lik=values), Hyper(), 0)[0])
    weights = np.asarray(grad(log_lik))[0]
    np.testing.assert_allclose(
        weights, np.exp([-10, 0, -5]) / np.exp([-10, 0, -5]).sum(), rtol=1e-5
    )
    share = dreg(3).weigh_z
    assert share is not None
    np.testing.assert_allclose(share(terms)[0], weights, rtol=1e-5)


# Total correlation from a minibatch.


def test_the_stratified_weights_estimate_the_aggregate_posterior_without_bias():
    """Averaged over every minibatch, the weights of an example's row are 1 / N each."""
    n, size = 5, 3
    weights = np.asarray(_stratified(size, float(n)))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    total = np.zeros((n, n))
    batches = list(itertools.permutations(range(n), size))
    for batch in batches:
        for place, example in enumerate(batch):
            total[example, list(batch)] += weights[place]
    # Every example stands in a share of size / n of the minibatches.
    np.testing.assert_allclose(total / (len(batches) * size / n), 1 / n, rtol=1e-6)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_total_correlation_is_that_of_its_definition(key, num_samples):
    rng, size, n = np.random.default_rng(5), 4, 50
    mean, log_var = rng.normal(size=(size, 1, 2)), rng.normal(size=(size, 1, 2))
    z = rng.normal(size=(size, num_samples, 2))
    q = Normal(
        *(jnp.asarray(np.repeat(a, num_samples, axis=1), jnp.float32) for a in (mean, log_var))
    )
    zeros = jnp.zeros((size, num_samples))
    terms = ElboTerms(
        zeros, jnp.zeros((*zeros.shape, 2)), zeros, zeros, jnp.asarray(z, jnp.float32), q
    )
    density = np.exp(-((z[:, :, None] - mean[:, 0]) ** 2) / 2 / np.exp(log_var[:, 0]))
    density /= np.sqrt(2 * np.pi * np.exp(log_var[:, 0]))  # [batch samples batch latent]
    weights = np.asarray(_stratified(size, float(n)), np.float64)[:, None]
    joint = np.log((weights * density.prod(axis=-1)).sum(axis=-1))
    marginals = np.log((weights[..., None] * density).sum(axis=2)).sum(axis=-1)
    expected = (joint - marginals).mean()
    bound, aux = beta_tc(num_samples).bound(terms, Hyper(beta=3.0, num_examples=float(n)), 0)
    assert aux["total_correlation"] == pytest.approx(expected, rel=1e-4)
    assert bound == pytest.approx(-2 * expected, rel=1e-4)


def test_total_correlation_of_one_example_is_refused(terms):
    one = jax.tree.map(lambda leaf: leaf[:1], terms)
    with pytest.raises(ValueError, match="a minibatch of 1: total correlation needs 2 examples"):
        value("beta_tc", one, Hyper(beta=2.0, num_examples=100.0))
