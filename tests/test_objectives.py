"""Every objective is a row of one table that the tests below run over."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.gaussian import kl_to_standard_normal, log_density, standard_log_density
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import mlp
from vae_jax.objectives import OBJECTIVES, Objective
from vae_jax.train import make_trainer
from vae_jax.types import ElboTerms, Hyper, Normal

# Settings under which each objective is the ELBO.
AS_ELBO = {
    "elbo": Hyper(beta=7.0),
    "beta": Hyper(beta=1.0),
    "warmup": Hyper(beta=1.0, warmup_steps=1.0),
    "cyclical": Hyper(beta=1.0, cycle_steps=2e6),
    "capacity": Hyper(gamma=1.0, capacity=0.0),
    "free_bits": Hyper(beta=1.0, free_bits=0.0),
}
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
    return OBJECTIVES[name]().bound(terms, hyper, step)[0]


def elbo_of(terms) -> float:
    return float(jnp.mean(terms.log_lik - terms.kl_per_dim.sum(axis=-1)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_the_elbo_at_some_setting(name, terms):
    assert value(name, terms, AS_ELBO[name]) == pytest.approx(elbo_of(terms), rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_rises_with_the_likelihood_nat_for_nat(name, terms):
    grad = jax.grad(lambda log_lik: value(name, terms._replace(log_lik=log_lik), AS_ELBO[name]))
    # An average over examples: one more nat for one of six is a sixth of a nat.
    np.testing.assert_allclose(grad(terms.log_lik), np.full((6, 1), 1 / 6), rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_reads_the_settings_that_it_says_and_no_others(name, terms):
    base = Hyper(
        beta=2.0, warmup_steps=400.0, cycle_steps=800.0, capacity=3.0, capacity_steps=500.0,
        gamma=5.0, free_bits=0.3,
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
    more = terms._replace(kl_per_dim=terms.kl_per_dim + 1)
    assert value(name, more, Hyper()) < value(name, terms, Hyper())
