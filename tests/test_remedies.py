"""The remedies of a text model: each is what it says, and none does anything by default."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import assert_same_bits, compilations, hyper, leaves

from vae_jax.evaluation import estimate_elbo
from vae_jax.model import VAE, batch_elbo_terms
from vae_jax.objectives import OBJECTIVES, elbo
from vae_jax.preprocess import tokens_as_stored
from vae_jax.remedies import ENCODER_STEPS, hide_words, make_text_trainer, remedied
from vae_jax.sweep import make_members, make_sweep
from vae_jax.text import make_text_vae
from vae_jax.train import OPTIMIZERS, Trainer, TrainState, keys_of
from vae_jax.types import END, UNKNOWN, ElboTerms, Hyper, Normal

# Every test compiles a program that runs for a moment.
pytestmark = pytest.mark.usefixtures("compiled_quickly")

VOCABULARY, LENGTH, BATCH = 8, 9, 4
BUCKETS, TWO_BUCKETS = (3, 6, LENGTH), (5, LENGTH)


def sentences(n: int) -> np.ndarray:
    """Of every length from 1 to the longest, in no order."""
    rng = np.random.default_rng(0)
    rows = np.zeros((n, LENGTH), np.uint16)
    for i in range(n):
        words = rng.integers(UNKNOWN, VOCABULARY, i % LENGTH)
        rows[i, : len(words) + 1] = [*words, END]
    return rng.permutation(rows)


DATA = sentences(62)  # 15 minibatches, and 2 that fill none
LENGTHS = np.sum(DATA != 0, axis=1)


@functools.cache
def vae() -> VAE:
    return make_text_vae(VOCABULARY, LENGTH, embedding=3, hidden=4, latent_dim=2).vae


@functools.cache
def trainer(buckets: tuple[int, ...] = BUCKETS, optimizer: str = "adam") -> Trainer:
    return make_text_trainer(
        vae(),
        batch_size=BATCH,
        lengths=LENGTHS,
        buckets=buckets,
        optimizer=OPTIMIZERS[optimizer],
    )


def copy(tree: Any) -> Any:
    """Of what is about to be donated."""
    return jax.tree.map(jnp.copy, tree)


# The objective.


@pytest.fixture
def terms() -> ElboTerms:
    """Of eight sentences; one latent dimension has more KL than is free below, the other less."""
    rng = np.random.default_rng(1)
    log_lik = jnp.float32(rng.normal(-20, 3, (8, 1)))
    kl_per_dim = jnp.float32(rng.exponential([2.0, 0.1], (8, 1, 2)))
    nothing = jnp.zeros((8, 1, 2))
    return ElboTerms(log_lik, kl_per_dim, log_lik, log_lik, nothing, q=Normal(nothing, nothing))


@pytest.mark.parametrize("step", [1, 1_500_000])
def test_by_default_the_objective_is_the_elbo_with_its_gradient(step, terms):
    """By the terms, and so by all that they depend on."""
    found, expected = (
        jax.value_and_grad(lambda terms, bound=one.bound: bound(terms, hyper(), step)[0])(terms)
        for one in (remedied(), elbo())
    )
    # The KL is averaged before it is taken off, or after: one more rounding or two.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


SINGLE = {
    "beta": {"beta": 2.5},
    "warmup": {"beta": 2.0, "warmup_steps": 100.0},
    "cyclical": {"beta": 0.5, "cycle_steps": 80.0},
    "free_bits": {"beta": 3.0, "free_bits": 0.7},
}


@pytest.mark.parametrize("step", [1, 30, 79, 250])
@pytest.mark.parametrize("name", SINGLE)
def test_one_remedy_alone_is_its_own_objective(name, step, terms):
    settings = hyper(**SINGLE[name])
    found, aux = remedied().bound(terms, settings, step)
    expected, own = OBJECTIVES[name]().bound(terms, settings, step)
    # The weight exactly, and what is free: the KL is averaged before it is weighed, or after.
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    if name == "free_bits":
        assert found == expected
    else:
        assert aux["kl_weight"] == own["kl_weight"]


@pytest.mark.parametrize("step", [0, 30, 90, 250])
def test_all_remedies_at_once_are_the_written_formula(step, terms):
    settings = hyper(beta=2.0, warmup_steps=100.0, cycle_steps=80.0, free_bits=0.7)
    found, aux = remedied().bound(terms, settings, step)
    weight = 2.0 * min(1, step / 100) * min(1, (step % 80) / 40)
    kl_per_dim = np.mean(np.asarray(terms.kl_per_dim, np.float64), axis=(0, 1))
    assert kl_per_dim[0] > 0.7 > kl_per_dim[1]
    expected = np.mean(np.asarray(terms.log_lik)) - weight * np.maximum(0.7, kl_per_dim).sum()
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(aux["kl_weight"]) == pytest.approx(weight, rel=1e-6)


def test_the_objective_reads_the_settings_that_it_says_and_no_others(terms):
    # At a step at which every schedule is on its way, and with something free.
    base = Hyper(beta=2.0, warmup_steps=100.0, cycle_steps=80.0, free_bits=1.0, num_examples=9.0)
    before, _ = remedied().bound(terms, base, 30)
    for name, number in base._asdict().items():
        after, _ = remedied().bound(terms, base._replace(**{name: number + 3.0}), 30)
        assert (after != before) == (name in remedied().reads), name


# The loss of a minibatch.


def batch_of(shortest: int, longest: int) -> jax.Array:
    rows = DATA[(shortest <= LENGTHS) & (longest >= LENGTHS)][:BATCH]
    assert len(rows) == BATCH
    return jnp.array(rows)


@functools.cache
def params_of_float64() -> Any:
    shapes = jax.eval_shape(vae().init, jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.array(rng.normal(size=leaf.shape)), shapes)


def step_of_descent(settings: Hyper, batch: jax.Array) -> tuple[Any, Any]:
    """The metrics of step 3, and its gradient: what a rate of 1 takes off."""
    train, params = trainer(BUCKETS, "sgd"), params_of_float64()
    # This optimiser has nothing to remember, so the form of its state is the state.
    form = jax.eval_shape(train.init, jax.random.key(0), settings)
    state = TrainState(
        copy(params), form.opt_state, jnp.int32(3), jax.random.key(0), jnp.array(True)
    )
    after, metrics = train.step(state, settings, batch)
    return metrics, jax.tree.map(lambda old, new: old - new, params, after.params)


@functools.cache
def bound_and_gradient() -> Any:
    """The ELBO of a minibatch at its whole length, with the keys of step 3."""
    model = vae()

    def bound(params: Any, xs: jax.Array) -> jax.Array:
        key_step = jax.random.fold_in(keys_of(jax.random.key(0)).steps, 3)
        key_loss = jax.random.split(key_step)[1]
        key_latent = jax.random.split(key_loss)[1]
        keys = jax.random.split(key_latent, (BATCH, 1))
        return elbo().bound(batch_elbo_terms(keys, model, params, xs), Hyper(), 3)[0]

    return jax.jit(jax.value_and_grad(bound))


def test_a_cut_minibatch_has_the_loss_and_the_gradient_of_the_whole_one():
    """In every bucket, and between them; in float64, so that rounding hides nothing."""
    with jax.enable_x64(True):
        settings = Hyper(*map(jnp.float64, Hyper(learning_rate=1.0)))
        for shortest, longest in ((1, 3), (4, 6), (7, 9), (1, 9), (3, 4)):
            batch = batch_of(shortest, longest)
            bound, slope = bound_and_gradient()(params_of_float64(), batch.astype(jnp.float64))
            metrics, grad = step_of_descent(settings, batch)
            assert float(metrics["loss"]) == pytest.approx(-float(bound), rel=1e-12)
            assert float(metrics["elbo"]) == pytest.approx(float(bound), rel=1e-12)
            # A parameter of order 1 was rounded when the gradient was taken off it.
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, -b, rtol=1e-12, atol=1e-13),
                grad,
                slope,
            )
        # Minibatches of every bucket run in one program.
        assert compilations(trainer(BUCKETS, "sgd").step) == 1


def test_with_all_words_hidden_the_decoder_reads_none_of_them():
    with jax.enable_x64(True):
        settings = Hyper(*map(jnp.float64, Hyper(learning_rate=1.0)))
        batch = batch_of(4, 6)
        hidden, _ = step_of_descent(settings._replace(word_dropout=jnp.float64(1.0)), batch)
        bound, _ = bound_and_gradient()(params_of_float64(), -batch.astype(jnp.float64))
        assert float(hidden["loss"]) == pytest.approx(-float(bound), rel=1e-12)
        shown, _ = step_of_descent(settings, batch)
        assert abs(float(hidden["loss"] - shown["loss"])) > 1e-3


def test_a_word_is_hidden_with_its_probability(key):
    x = jnp.tile(jnp.array([5.0, 3.0, 1.0, 0.0]), 5000)
    hide = jax.jit(hide_words)
    np.testing.assert_array_equal(hide(key, x, 0.0), x)
    np.testing.assert_array_equal(hide(key, x, 1.0), -x)
    found = hide(key, x, 0.3)
    np.testing.assert_array_equal(abs(found), x)
    n = int(np.sum(x > 0))
    assert abs(np.sum(found < 0) / n - 0.3) < 4 * np.sqrt(0.3 * 0.7 / n)
    assert jnp.any(hide(jax.random.key(1), x, 0.3) != found)


# The order of the sentences.


def buckets_of(batches: jax.Array) -> np.ndarray:
    return np.searchsorted(BUCKETS, LENGTHS)[np.asarray(batches)]


def test_an_epoch_gives_every_sentence_at_most_once_among_others_of_its_length():
    shuffle, root_key = trainer().shuffle, jax.random.key(0)
    steps = len(DATA) // BATCH
    first, second = (shuffle(root_key, step, len(DATA)) for step in (0, steps))
    for batches in (first, second):
        assert batches.shape == (steps, BATCH)
        assert len(np.unique(batches)) == steps * BATCH
        assert set(np.unique(batches)) <= set(range(len(DATA)))
        ranks = buckets_of(batches)
        # Sorted by bucket, only those minibatches are mixed in which one bucket gives way.
        assert np.sum(ranks.min(axis=1) != ranks.max(axis=1)) <= len(BUCKETS) - 1
        # And yet no epoch begins with the short ones and ends with the long ones.
        assert np.any(np.diff(ranks.max(axis=1)) < 0)
    np.testing.assert_array_equal(shuffle(root_key, 0, len(DATA)), first)
    # Another epoch and another key have other minibatches, not the same in another order.
    for other in (second, shuffle(jax.random.key(1), 0, len(DATA))):
        assert {frozenset(row) for row in first.tolist()}.isdisjoint(
            frozenset(row) for row in other.tolist()
        )


@pytest.mark.parametrize(("lengths", "buckets"), [((3, 10), BUCKETS), ((5,), (4,)), ((), BUCKETS)])
def test_sentences_that_no_bucket_holds_are_refused(lengths, buckets):
    with pytest.raises(ValueError, match="one must hold every sentence"):
        make_text_trainer(vae(), batch_size=2, lengths=np.array(lengths, int), buckets=buckets)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size 0"):
        make_text_trainer(vae(), batch_size=0, lengths=LENGTHS, buckets=BUCKETS)


# The two networks.


def test_the_decoder_rests_while_the_encoder_is_trained_aggressively():
    """Parameters and moments, bit for bit; in one step of several, and after them, both move."""
    train, settings = trainer((LENGTH,)), hyper(aggressive_steps=12.0, learning_rate=1e-2)
    state = train.init(jax.random.key(0), settings)
    for step in range(15):
        assert int(state.step) == step
        before = copy((state.params, state.opt_state))
        state, _ = train.step(state, settings, batch_of(1, LENGTH))
        for old, new in zip(before, (state.params, state.opt_state), strict=True):
            assert any((a != b).any() for a, b in pairs(old["encoder"], new["encoder"])), step
            if step < 12 and step % ENCODER_STEPS != 0:
                assert_same_bits(old["decoder"], new["decoder"])
            else:
                assert any((a != b).any() for a, b in pairs(old["decoder"], new["decoder"])), step


def pairs(a: Any, b: Any) -> Any:
    return zip(leaves(a), leaves(b), strict=True)


def trained(settings: Hyper, epochs: int, seed: int = 0) -> tuple[TrainState, Any]:
    """A member as `Trainer.epoch` trains it."""
    state, metrics = trainer(TWO_BUCKETS).init(jax.random.key(seed), settings), None
    for _ in range(epochs):
        state, metrics = trainer(TWO_BUCKETS).epoch(state, settings, DATA)
    return state, metrics


def test_without_z_the_decoder_is_a_language_model_of_the_same_shape():
    log_lik, x = jax.jit(vae().log_lik), jnp.array(DATA[0], jnp.float32)
    for latent in (0.0, 1.0):
        state, _ = trained(hyper(latent=latent, learning_rate=1e-2), 2)
        here, there = (log_lik(state.params, z, x) for z in (jnp.zeros(2), jnp.array([1.0, -2.0])))
        assert (here == there) == (latent == 0)
        own = state.params["decoder"]["params"]
        for name in ("z_in", "z_first"):
            assert bool(jnp.all(own[name]["kernel"] == 0)) == (latent == 0)
            assert own[name]["kernel"].shape[0] == 2
    # Both begin with the same weights, but for those of z.
    with_z, without = (
        trainer(TWO_BUCKETS).init(jax.random.key(0), hyper(latent=latent)).params
        for latent in (1.0, 0.0)
    )
    assert_same_bits(with_z["encoder"], without["encoder"])
    for name in ("embed", "words_in", "gru", "out"):
        assert_same_bits(with_z["decoder"]["params"][name], without["decoder"]["params"][name])


def test_training_comes_to_the_entropy_of_the_sentences():
    """No model gives them more, and one that knows their order loses little."""
    shares = np.array([0.5, 0.25, 0.25])
    three = np.array([[3, 4, 1, 0, 0], [5, 1, 0, 0, 0], [5, 6, 7, 2, 1]], np.uint16)
    data = jnp.array(np.repeat(three, (16, 8, 8), axis=0))
    own = make_text_vae(VOCABULARY, 5, embedding=4, hidden=8, latent_dim=2).vae
    lengths = np.sum(np.asarray(data) != 0, axis=1)
    train = make_text_trainer(own, batch_size=16, lengths=lengths, buckets=(5,))
    settings = hyper(learning_rate=2e-2)
    state, elbos = train.init(jax.random.key(0), settings), []
    for _ in range(150):
        state, metrics = train.epoch(state, settings, data)
        elbos.append(float(metrics["elbo"]))
    entropy = -np.sum(shares * np.log(shares))
    # Uniform over seven tokens, 3.25 in each, they cost six times as many nats. What is left at
    # the end is a KL that is not 0 and a rate that is not small.
    assert elbos[0] < -5 * entropy
    assert -1.15 * entropy < np.mean(elbos[-20:]) < -0.99 * entropy
    assert bool(state.alive)


# A sweep.

REMEDIES = (
    {},
    {"word_dropout": 0.5, "free_bits": 0.2, "warmup_steps": 20.0},
    {"aggressive_steps": 17.0, "cycle_steps": 8.0, "beta": 0.5},
    {"latent": 0.0},
)


@pytest.mark.usefixtures("compiled_fully")
def test_a_sweep_over_remedies_is_every_member_alone_bit_for_bit():
    """And an epoch alone is in the order of `shuffle`, as those of a sweep are."""

    def evaluate(params: Any, test: Any) -> Any:
        return estimate_elbo(jax.random.key(9), vae(), tokens_as_stored, params, test)

    hypers = [hyper(**remedy, learning_rate=1e-2) for remedy in REMEDIES]
    sweep = make_sweep(trainer(TWO_BUCKETS), evaluate, execution="map")
    members, report = make_members(hypers, [3] * len(hypers)), None
    population = sweep.init(members)
    for _ in range(2):
        population, report = sweep.epoch(population, members, DATA, DATA[:8])
    assert report is not None
    for i, settings in enumerate(hypers):
        state, metrics = trained(settings, 2, seed=3)
        assert_same_bits(jax.tree.map(lambda leaf, i=i: leaf[i], population.train), state)
        assert_same_bits(jax.tree.map(lambda leaf, i=i: leaf[i], report.metrics), metrics)
    # Another remedy is another number, not another program.
    assert compilations(trainer(TWO_BUCKETS).epoch) == 1
    assert report.status.cause.tolist() == [0] * len(hypers)
    # All members end in different places.
    assert len(np.unique(report.test.log_lik)) == len(hypers)
