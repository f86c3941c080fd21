"""Compression: exact networks, the stack of bits, bits back, and the container."""

import contextlib
import functools
import inspect
import itertools
import os
import subprocess
import sys
import threading
import tokenize
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_jax.compression import (
    PIXELS,
    Codec,
    CodecError,
    container,
    load_codec,
    make_codec,
    model_hash,
    pack,
    pop_chain,
    push_chain,
    read,
    save_codec,
    tables,
    unpack,
)
from vae_jax.compression.bits_back import SPARE_BITS, padding, pop_batch, push_batch
from vae_jax.compression.exact import LARGEST, STEP, Layer, apply, check_exact, rounded, steps
from vae_jax.compression.stack import CHANCES, Discrete, Stack
from vae_jax.evaluation import estimate_elbo
from vae_jax.likelihoods import LIKELIHOODS, bernoulli
from vae_jax.model import VAE, make_vae
from vae_jax.networks import mlp
from vae_jax.objectives import beta
from vae_jax.preprocess import BINARIZE
from vae_jax.train import make_trainer
from vae_jax.types import Hyper, Params

ROOT = Path(__file__).resolve().parent.parent
IMAGE = (28, 28, 1)
LATENT, EPOCHS = 8, 12

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@functools.cache
def model() -> VAE:
    networks = mlp((48,), x_shape=IMAGE, latent_dim=LATENT, theta_dim=1)
    return make_vae(*networks, bernoulli(), x_shape=IMAGE, latent_dim=LATENT)


@pytest.fixture(scope="module")
def params(digits) -> Params:
    """A small model of thresholded digits, trained for a second or two."""
    trainer = make_trainer(model(), beta(), batch_size=64, preprocess=BINARIZE["threshold"])
    hyper = Hyper(*map(jnp.float32, Hyper()))
    state, data = trainer.init(jax.random.key(0), hyper), jnp.asarray(digits)
    epoch = jax.jit(trainer.epoch)
    for _ in range(EPOCHS):
        state, _ = epoch(state, hyper, data)
    return jax.device_get(state.params)


@pytest.fixture(scope="module")
def codec(params) -> Codec:
    return make_codec(params["encoder"], params["decoder"], "bernoulli", IMAGE)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """The 360 test digits as bits, 0 and 255: none of them was trained on."""
    from vae_jax.data import load_images

    return np.where(load_images("digits").test_images >= 128, 255, 0).astype(np.uint8)


def as_bits(images: np.ndarray) -> np.ndarray:
    return (images > 0).astype(np.uint8).reshape(-1, 784)


@pytest.fixture(scope="module")
def content(codec, images) -> bytes:
    """A small container of three lanes."""
    return pack(codec, images[:30], lane=12)


def random_layers(rng: np.random.Generator, *widths: int) -> tuple[Layer, ...]:
    return tuple(
        Layer(rounded(rng.normal(size=shape)), rounded(rng.normal(size=shape[1])))
        for shape in itertools.pairwise(widths)
    )


# Exact networks


def test_a_network_is_that_of_whole_numbers():
    """Python's integers know no rounding, so they are what the sums really come to."""
    layers = random_layers(np.random.default_rng(0), 20, 7, 3)
    xs = rounded(np.random.default_rng(1).normal(size=(5, 20)))
    hs = steps(xs).astype(object)
    for index, layer in enumerate(layers):
        sums = hs.dot(steps(layer.kernel).astype(object)) + steps(layer.bias) * 2**16
        if index < len(layers) - 1:
            sums = np.maximum(sums, 0)
        # Halves to the even neighbour, as np.rint.
        hs = np.vectorize(lambda total: round(total / 2**16), otypes=[object])(sums)
    check_exact(layers, float(np.abs(xs).max()), "network")
    np.testing.assert_array_equal(steps(apply(layers, xs)), hs.astype(np.int64))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_for_every_batch_size_and_number_of_threads(threads):
    rng = np.random.default_rng(2)
    layers = random_layers(rng, 784, 100, 80)
    xs = rounded(rng.random((1000, 784)))
    check_exact(layers, 1.0, "network")
    whole = apply(layers, xs)
    with threadpoolctl.threadpool_limits(threads):
        for size in (1, 7, 100, 1000):
            parts = [apply(layers, xs[at : at + size]) for at in range(0, 1000, size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    # The sums in another order: what no threads or batches could be sure to bring about.
    order = rng.permutation(784)
    first = Layer(layers[0].kernel[order], layers[0].bias)
    np.testing.assert_array_equal(apply((first, layers[1]), xs[:, order]), whole)


def test_plain_floats_would_not_do():
    """The control of the test above: unrounded, the order of the sums shows."""
    rng = np.random.default_rng(3)
    kernel, x, order = rng.normal(size=(784, 100)), rng.random((1, 784)), rng.permutation(784)
    assert np.any(x @ kernel != x[:, order] @ kernel[order])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_no_sum_is_larger_than_was_checked(seed):
    rng = np.random.default_rng(seed)
    layer = Layer(rounded(rng.normal(size=(6, 4)) * 1e5), rounded(rng.normal(size=4)))
    # The worst input of all: the sign of each weight, turned to the bias.
    worst = float((np.abs(layer.kernel).sum(axis=0) + np.abs(layer.bias)).max())
    if worst >= LARGEST:
        with pytest.raises(CodecError, match="too large"):
            check_exact([layer], 1.0, "network")
    else:
        check_exact([layer], 1.0, "network")
        signs = np.array(list(itertools.product([-1.0, 1.0], repeat=6)))
        assert np.abs(signs @ layer.kernel + layer.bias).max() < LARGEST


def test_activations_that_are_rounded_upwards_are_reckoned_with():
    """3/4 of a step becomes a whole one, and only that one makes the second sum too large."""
    first = Layer(np.array([[0.75]]), np.zeros(1))
    assert apply([first], np.array([[STEP]])) == STEP
    second = Layer(np.array([[LARGEST / STEP]]), np.zeros(1))
    with pytest.raises(CodecError, match="network, layer 2: its sums may reach"):
        check_exact([first, second], STEP, "network")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda kernel: kernel * np.nan, "encoder, Dense_0: a weight is NaN or infinite"),
        (lambda kernel: kernel + np.inf, "encoder, Dense_0: a weight is NaN or infinite"),
        (lambda kernel: kernel * 1e9, "the weights are too large"),
        (lambda kernel: kernel[:-1], "do not lead from 784 to 16"),
    ],
)
def test_a_model_that_cannot_code_is_refused_before_the_coder_sees_it(params, spoil, said):
    dense = params["encoder"]["params"]
    first = {**dense["Dense_0"], "kernel": spoil(np.asarray(dense["Dense_0"]["kernel"]))}
    spoilt = {"params": {**dense, "Dense_0": first}}
    with pytest.raises(CodecError, match=said):
        make_codec(spoilt, params["decoder"], "bernoulli", IMAGE)


def test_other_networks_likelihoods_and_settings_are_refused(params):
    both = params["encoder"], params["decoder"]
    two_layers = {"first": both[0], "second": both[0]}
    for other in ({"params": {"Conv_0": {}}}, two_layers):
        with pytest.raises(CodecError, match="encoder: not a chain of dense layers"):
            make_codec(other, both[1], "bernoulli", IMAGE)
    with pytest.raises(CodecError, match="likelihood gaussian: only bernoulli"):
        make_codec(*both, "gaussian", IMAGE)
    with pytest.raises(CodecError, match="bucket_bits 15: 1 to 14"):
        make_codec(*both, "bernoulli", IMAGE, bucket_bits=15)
    with pytest.raises(CodecError, match="do not lead from 64 to 16"):
        make_codec(*both, "bernoulli", (8, 8, 1))


def test_a_shape_may_be_a_list(params, codec):
    listed = make_codec(params["encoder"], params["decoder"], "bernoulli", list(IMAGE))
    assert listed.x_shape == IMAGE
    assert model_hash(listed) == model_hash(codec)


# Tables


@pytest.mark.parametrize(
    ("table", "function"),
    [
        (tables.normal_mass, lambda x: scipy.special.ndtr(x) * tables.MASS),
        (tables.logistic_mass, lambda x: scipy.special.expit(x) * tables.MASS),
        (tables.exponential, np.exp),
    ],
)
def test_a_table_is_its_function(table, function):
    points = np.random.default_rng(4).uniform(-7, 7, 1000)
    # A straight line over h = 2^-8 is wrong by h^2 / 8 times the second derivative, which is
    # e^x itself, or 0.25 units of mass at the most; a value in the table by half its last digit.
    if table is tables.exponential:
        error = (2.0**-19 + 2.0**-24) * np.exp(points + 2**-8)
    else:
        error = np.full_like(points, 2.0**-19 * 0.25 * tables.MASS + 0.5)
    np.testing.assert_array_less(abs(table().at(points) - function(points)), error)
    assert np.all(np.diff(table().values) >= 0)
    assert table().at(np.array([1e9]))[0] == table().values[-1]
    assert table().at(np.array([-1e9]))[0] == table().values[0]


def test_buckets_have_equal_mass():
    edges, centres = tables.buckets(10)
    # An edge is rounded by half a step at most, where the density is 0.4 at most.
    mass = np.diff(scipy.special.ndtr(edges), prepend=0, append=1)
    np.testing.assert_allclose(mass, 2.0**-10, atol=0.4 * STEP)
    assert np.all((centres[1:-1] > edges[:-1]) & (centres[1:-1] < edges[1:]))


# The stack


def random_discrete(rng: np.random.Generator, size: int, levels: int) -> Discrete:
    mass = rng.integers(100, 1000, (size, levels))
    mass[:, 0] += 10**6 - mass.sum(axis=1)  # as black pixels are
    below = np.concatenate([np.zeros((size, 1), int), mass.cumsum(axis=1)], axis=1)
    first = int(rng.integers(1, levels))
    return Discrete(size, levels, 10**6, lambda which, level: below[which, level], first)


def probabilities(discrete: Discrete) -> np.ndarray:
    every = np.arange(discrete.size)
    inner = [
        discrete.mass_below(every, np.full_like(every, level))
        for level in range(1, discrete.levels)
    ]
    ends = [np.zeros_like(every), np.full_like(every, discrete.total)]
    return np.diff([ends[0], *inner, ends[1]], axis=0).T / discrete.total


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(0, 30))
@settings(max_examples=30)
def test_what_is_pushed_is_popped_at_the_cost_of_its_probability(seed, levels, size):
    rng = np.random.default_rng(seed)
    discrete = random_discrete(rng, size, levels)
    symbols = rng.integers(0, levels, size)
    words = padding_of(100)
    stack = Stack(words, seal=True)
    before = stack.bits
    stack.push(symbols, discrete)
    cost = -np.log2(probabilities(discrete)[np.arange(size), symbols]).sum()
    # A chance is 1e-4 at the least, and rounded by 0.5 / CHANCES: 0.5% of it, 0.007 bits. The
    # coder's own count of bits is whole.
    assert abs(stack.bits - before - cost) < 1 + size * 0.5 / CHANCES / 1e-4 / np.log(2)
    np.testing.assert_array_equal(stack.pop(discrete), symbols)
    assert stack.holds(words)


def padding_of(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 2**32, count, dtype=np.uint32)


def test_popping_random_bits_draws_from_the_distribution():
    discrete = random_discrete(np.random.default_rng(6), 1, 4)
    many = discrete._replace(
        size=20_000,
        mass_below=lambda which, level: discrete.mass_below(np.zeros_like(which), level),
    )
    found = np.bincount(Stack(padding_of(9000), seal=True).pop(many), minlength=4) / 20_000
    wanted = probabilities(discrete)[0]
    error = np.sqrt(wanted * (1 - wanted) / 20_000)
    assert np.all(np.abs(found - wanted) < 4 * error + 2 / 20_000)


def test_a_missing_coder_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(CodecError, match="constriction is needed: pip install"):
        Stack(padding_of(3))


# Distributions


def of_the_likelihood(name: str, theta: np.ndarray) -> np.ndarray:
    """The probability of every level of a pixel, for each theta."""
    row, likelihood = PIXELS[name], LIKELIHOODS[name]()
    xs = jnp.arange(row.levels, dtype=jnp.float32) / (row.levels - 1)
    log_probs = jax.vmap(
        lambda own: likelihood.log_prob_per_dim(
            jnp.broadcast_to(own, (row.levels, row.theta_dim)), xs
        )
    )(jnp.asarray(theta, jnp.float32))
    return np.exp(log_probs)


@pytest.mark.parametrize("name", PIXELS)
def test_a_row_of_pixels_is_its_likelihood(name):
    """Masses against log-probabilities, of every level of a pixel."""
    row, likelihood = PIXELS[name], LIKELIHOODS[name]()
    assert row.theta_dim == likelihood.theta_dim
    theta = rounded(np.random.default_rng(7).normal(size=(40, row.theta_dim)) * 2)
    found, wanted = probabilities(row.discrete(theta)), of_the_likelihood(name, theta)
    assert found.min() > 0
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    # What it costs to code one distribution under the other, in nats.
    divergence = np.sum(wanted * np.log(np.maximum(wanted, 1e-30) / found), axis=1)
    assert divergence.max() < 1e-3
    assert abs(divergence).mean() < 1e-4


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        # With the ends at -12 and 10, alpha / beta is e^-2 and e^2.
        ("beta_binomial", [[-20, -10], [20, 8]]),
        # An edge of bins, and a pixel far outside, one clipped scale from the location.
        (
            "discretized_logistic_mixture",
            [[0] * 5 + [0.5 / 255 + np.exp(-9)] * 5 + [-20] * 5, [0] * 5 + [1096] * 5 + [20] * 5],
        ),
    ],
)
def test_parameters_are_clipped_as_those_of_the_likelihood(name, theta):
    """Other ends, by one, would move a tenth of the mass; float32 and the tables under 1e-4."""
    theta = rounded(np.array(theta, np.float64))
    found, wanted = probabilities(PIXELS[name].discrete(theta)), of_the_likelihood(name, theta)
    assert np.abs(found - wanted).sum(axis=1).max() / 2 < 2e-4


def test_the_posterior_on_the_buckets_is_the_normal(codec, images):
    xs = as_bits(images[:3])
    found = probabilities(codec.posterior(xs))
    mean, log_var = np.split(apply(codec.encoder, xs.astype(float)), 2, axis=1)
    edges = tables.buckets(codec.bucket_bits).edges
    points = (edges[None, :] - mean.reshape(-1, 1)) / np.exp(log_var.reshape(-1, 1) / 2)
    wanted = np.diff(scipy.special.ndtr(points), axis=1, prepend=0, append=1)
    # Two points of the table, each wrong by 5e-7 at most, and precisions by 2e-6 of themselves.
    np.testing.assert_allclose(found, wanted, atol=5e-6)
    assert found.min() > 0


# Bits back


def test_a_batch_gives_back_what_it_borrowed(codec, images):
    words = padding_of(500)
    stack = Stack(words, seal=True)
    push_batch(stack, codec, as_bits(images[:20]))
    np.testing.assert_array_equal(pop_batch(stack, codec, 20), as_bits(images[:20]))
    assert stack.holds(words)


@pytest.mark.parametrize("count", [0, 1, 2, 360])
@pytest.mark.parametrize("batch_size", [1, 250])
def test_images_come_back(codec, images, count, batch_size):
    xs = as_bits(images[: count if batch_size > 1 else min(count, 20)])
    chain = push_chain(codec, xs, batch_size=batch_size)
    assert sum(chain.batches) == len(xs)
    np.testing.assert_array_equal(pop_chain(codec, chain), xs)


def test_images_unlike_any_that_were_trained_on_come_back(codec):
    rng = np.random.default_rng(8)
    xs = np.concatenate([np.zeros((40, 784)), np.ones((40, 784)), rng.integers(0, 2, (40, 784))])
    xs = xs.astype(np.uint8)
    np.testing.assert_array_equal(pop_chain(codec, push_chain(codec, xs)), xs)


def test_a_model_of_random_weights_codes_too(images):
    params = model().init(jax.random.key(1))
    codec = make_codec(params["encoder"], params["decoder"], "bernoulli", IMAGE, bucket_bits=4)
    xs = as_bits(images[:50])
    np.testing.assert_array_equal(pop_chain(codec, push_chain(codec, xs)), xs)


def negative_elbo_bits(codec: Codec, xs: np.ndarray, samples: int) -> float:
    """Of the rounded model, by SciPy: equation 10 of arXiv 1312.6114 without any table."""
    mean, log_var = np.split(apply(codec.encoder, xs.astype(float)), 2, axis=1)
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum()
    rng, log_lik = np.random.default_rng(9), 0.0
    for _ in range(samples):
        zs = mean + np.exp(log_var / 2) * rng.normal(size=mean.shape)
        logits = apply(codec.decoder, rounded(zs))
        log_lik += scipy.special.log_expit(np.where(xs, logits, -logits)).sum() / samples
    return float(kl - log_lik) / np.log(2)


def test_the_bits_are_the_negative_elbo(codec, images):
    """One sample of z an image stands in the message: its mean has an error of under 0.3%."""
    xs = as_bits(images)
    chain = push_chain(codec, xs)
    net = 32 * (len(chain.words) - len(padding(codec)))
    assert net == pytest.approx(negative_elbo_bits(codec, xs, samples=20), rel=0.01)


@pytest.mark.parametrize("name", ["beta_binomial", "discretized_logistic_mixture"])
def test_grey_levels_come_back_at_the_cost_of_the_likelihood(name, digits):
    """Of a model whose weights are random: its ELBO by JAX, with samples of its own."""
    row = PIXELS[name]
    networks = mlp((16,), x_shape=IMAGE, latent_dim=LATENT, theta_dim=row.theta_dim)
    vae = make_vae(*networks, LIKELIHOODS[name](), x_shape=IMAGE, latent_dim=LATENT)
    params = vae.init(jax.random.key(2))
    codec = make_codec(params["encoder"], params["decoder"], name, IMAGE)
    xs = digits[:100].reshape(100, -1)
    chain = push_chain(codec, xs)
    np.testing.assert_array_equal(pop_chain(codec, chain), xs)
    estimate = estimate_elbo(
        jax.random.key(0), vae, BINARIZE["none"], params, jnp.asarray(digits[:100]), num_samples=8
    )
    net = 32 * (len(chain.words) - len(padding(codec)))
    assert net == pytest.approx(-float(estimate.elbo) * 100 / np.log(2), rel=0.01)


def test_rounding_costs_nothing(codec, params, images):
    """The ELBO of the rounded model is that of the float32 one, within the error of sampling."""
    own = negative_elbo_bits(codec, as_bits(images), samples=50) / len(images)
    estimate = estimate_elbo(
        jax.random.key(0),
        model(),
        BINARIZE["threshold"],
        params,
        jnp.asarray(images),
        num_samples=50,
    )
    assert own == pytest.approx(-float(estimate.elbo) / np.log(2), rel=2e-3)


def test_the_bits_to_begin_with_are_those_of_one_image(codec, images):
    first = LATENT * codec.bucket_bits + SPARE_BITS
    assert first <= 32 * len(padding(codec)) <= first + 96
    batches = push_chain(codec, as_bits(images)).batches
    assert batches[0] == 1
    assert max(batches) > 50


def test_a_stack_that_runs_empty_is_noticed(codec, images):
    with pytest.raises(CodecError, match="did not suffice"):
        push_batch(Stack(padding_of(2), seal=True), codec, as_bits(images[:5]))
    chain = push_chain(codec, as_bits(images[:20]))
    with pytest.raises(CodecError, match="ends too early"):
        pop_chain(codec, chain._replace(words=chain.words[-30:]))


# The container


def test_every_byte_comes_back_in_its_shape(codec, images):
    for some in (images[:40], images[:40, :, :, 0], images[:40] // 255, images[:0], images[:1]):
        found = unpack(codec, pack(codec, some, lane=16))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, some)


def test_the_header_is_all_that_is_not_the_message(codec, content, images):
    header, chains = read(content)
    assert [sum(chain.batches) for chain in chains] == [12, 12, 6]
    assert header["count"] == 30
    assert header["model"] == model_hash(codec)
    assert {"jaxlib", "numpy", "scipy", "constriction", "NPROC"} <= header["environment"].keys()
    words = sum(len(chain.words) for chain in chains)
    assert len(content) - 4 * words < 800
    assert pack(codec, images[:30], lane=12) == content


def test_damage_gives_an_error_or_the_right_images(codec, content, images):
    """1,000 damaged containers: flipped bits, truncations, swapped and repeated parts."""
    rng = np.random.default_rng(10)
    refused = 0
    for number in range(1000):
        damaged = bytearray(content)
        a, b, c = sorted(int(place) for place in rng.integers(0, len(content), 3))
        if number % 4 == 0:
            damaged[a] ^= 1 << int(rng.integers(8))
        elif number % 4 == 1:
            damaged = damaged[:a]
        elif number % 4 == 2:
            damaged = damaged[:a] + damaged[b:c] + damaged[a:b] + damaged[c:]
        else:
            damaged[a:b] = bytes(b - a)
        try:
            found = unpack(codec, bytes(damaged))
        except CodecError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, images[:30])
            assert bytes(damaged) == content
    assert refused > 950


def test_swapped_lanes_are_noticed(codec, images):
    """Of the same length, and each with the right words: only their places are wrong."""
    content = pack(codec, np.concatenate([images[:12], images[:12]]), lane=12)
    size = 4 * len(read(content).chains[0].words)
    first, second = content[-2 * size : -size], content[-size:]
    assert first == second  # so that there is nothing to notice
    content = pack(codec, images[:24], lane=12)
    _, chains = read(content)
    one, two = (chain.words.astype("<u4").tobytes() for chain in chains)
    assert content.endswith(one + two)
    with pytest.raises(CodecError, match="lane 0 is damaged"):
        unpack(codec, content[: -len(one + two)] + two + one)


def test_a_message_that_is_whole_but_wrong_is_noticed(codec, images):
    """Checksums aside: what is left at the end must be the bits to begin with."""
    chain = push_chain(codec, as_bits(images[:20]))
    rng = np.random.default_rng(11)
    for _ in range(50):
        words = chain.words.copy()
        words[rng.integers(len(words))] ^= np.uint32(1 << int(rng.integers(32)))
        with pytest.raises(CodecError, match=r"left of the message|too early|no stack's"):
            pop_chain(codec, chain._replace(words=words))


def test_what_is_too_long_too_short_or_something_else_is_refused(codec, content):
    for changed, said in (
        (b"", "not a container"),
        (b"PK\x03\x04" + bytes(50), "not a container"),
        (content + b"\0", "1 bytes too many"),
        (content[:-1], "truncated: lane 2"),
        (content[:20], "truncated: 20 bytes"),
        (content[:8] + b"\x09\0" + content[10:], "of version 9; this program reads 1"),
    ):
        with pytest.raises(CodecError, match=said):
            unpack(codec, changed)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 31},
        {"count": -1},
        {"count": "30"},
        {"unit": 7},
        {"lanes": None},
        {"lanes": [{"words": 1, "batches": [30], "crc": True}]},
        {"lanes": [{"words": 1, "batches": [2**40], "crc": 1}], "count": 2**40},
        {"model": 5},
        {"shape": [28.0, 28]},
    ],
)
def test_a_forged_header_is_refused(codec, images, change, monkeypatch):
    dumps = container.json.dumps
    monkeypatch.setattr(container.json, "dumps", lambda header, **_: dumps(header | change))
    monkeypatch.setattr(container, "model_hash", lambda codec: "0" * 64)
    forged = pack(codec, images[:30])
    with pytest.raises(CodecError, match="does not say what a container must say"):
        unpack(codec, forged)


def test_another_model_is_refused_by_name(params, codec, content):
    both = params["encoder"], params["decoder"]
    kernel = codec.decoder[0].kernel.copy()
    kernel[0, 0] += STEP
    one_step = codec._replace(decoder=(codec.decoder[0]._replace(kernel=kernel), codec.decoder[1]))
    for other in (one_step, make_codec(*both, "bernoulli", IMAGE, bucket_bits=9)):
        names = model_hash(codec)[:12], model_hash(other)[:12]
        said = f"packed with model {names[0]}, and this is {names[1]}"
        with pytest.raises(CodecError, match=said):
            unpack(other, content)


def test_another_environment_is_refused_by_name(codec, content, monkeypatch):
    here = container.environment(codec)
    for name in container.DECISIVE:
        monkeypatch.setattr(container, "environment", lambda _, name=name: {**here, name: "9.9.9"})
        with pytest.raises(CodecError, match=f"packed where {name} is .* here it is 9.9.9"):
            unpack(codec, content)
    # Those that decide nothing may differ.
    others = {"jaxlib": "1", "NPROC": "96", "instructions": "NEON", "numpy": "3"}
    monkeypatch.setattr(container, "environment", lambda _: {**here, **others})
    assert len(unpack(codec, content)) == 30


def test_images_that_the_model_cannot_code_are_refused(codec, images):
    grey = images[:3].copy()
    grey[1, 2, 3] = 128
    with pytest.raises(CodecError, match=r"one of bits.* np.where\(x >= 128, 255, 0\)"):
        pack(codec, grey)
    unchecked = inspect.unwrap(pack)  # as outside of tests, where no types are checked
    for other in (images[:3] / 255, images[:3].astype(np.int64), images[:3] > 0):
        with pytest.raises(CodecError, match=f"pixels of type {other.dtype}: bytes"):
            unchecked(codec, other)
    with pytest.raises(CodecError, match="lane 0: at least 1 image is needed"):
        pack(codec, images[:3], lane=0)
    with pytest.raises(CodecError, match="images of 14 x 14 x 1: those of the model are 28 x 28"):
        pack(codec, images[:3, ::2, ::2])
    with pytest.raises(CodecError, match="pixel 3: the highest is 1"):
        push_chain(codec, np.full((1, 784), 3, np.uint8))
    with pytest.raises(CodecError, match="batch_size 0: 1 to 1000 is allowed"):
        push_chain(codec, as_bits(images[:3]), batch_size=0)


def test_a_header_that_could_not_be_read_is_not_written(codec, images, monkeypatch):
    pack(codec, images[:3], lane=1)
    monkeypatch.setattr(container, "LONGEST_HEADER", 600)
    with pytest.raises(CodecError, match="20 lanes of 1 images: too many, make longer ones"):
        pack(codec, images[:20], lane=1)


def test_a_failure_ends_the_other_lanes_soon(codec, images, monkeypatch):
    """Of two lanes that run at once, one would code 200 batches more after the other failed."""
    monkeypatch.setattr(container.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(container, "push_chain", functools.partial(push_chain, batch_size=1))
    begun, last = threading.Event(), [0]

    def progress(lane: int, images: int, bits: int) -> None:
        if lane == 0:
            begun.wait(60)
            raise KeyboardInterrupt
        begun.set()
        last[0] = images

    with pytest.raises(KeyboardInterrupt):
        pack(codec, images, lane=180, progress=progress)
    assert 0 < last[0] < 180


# Files and processes


def test_a_codec_is_a_file(codec, tmp_path):
    save_codec(tmp_path / "model.npz", codec)
    found = load_codec(tmp_path / "model.npz")
    assert model_hash(found) == model_hash(codec)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_codec_that_cannot_be_written_leaves_nothing(codec, tmp_path, monkeypatch):
    def full(file: Path, **arrays: np.ndarray) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space left"):
        save_codec(tmp_path / "model.npz", codec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [MemoryError(), OverflowError(), SyntaxError(), tokenize.TokenError()]
)
def test_whatever_numpy_says_of_a_damaged_codec_it_is_refused(codec, tmp_path, monkeypatch, error):
    save_codec(tmp_path / "model.npz", codec)

    def load(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(CodecError, match=r"model.npz: damaged, or no codec"):
        load_codec(tmp_path / "model.npz")


def test_a_damaged_codec_is_refused(codec, tmp_path):
    path = tmp_path / "model.npz"
    save_codec(path, codec)
    whole = path.read_bytes()
    rng = np.random.default_rng(12)
    for number in range(60):
        place = int(rng.integers(len(whole)))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(whole[:place] if number % 2 else flipped)
        with contextlib.suppress(CodecError):  # a flip in what zip does not use is none
            assert model_hash(load_codec(path)) == model_hash(codec)
    path.write_bytes(whole[:1000])
    with pytest.raises(CodecError, match=r"model.npz: damaged, or no codec"):
        load_codec(path)
    path.unlink()
    with pytest.raises(CodecError, match="No such file"):
        load_codec(path)


def test_a_fresh_process_with_other_instructions_gives_the_same_images(
    codec, content, images, tmp_path
):
    """Another BLAS kernel, another number of threads, and NumPy without vector instructions."""
    save_codec(tmp_path / "model.npz", codec)
    (tmp_path / "images.vae").write_bytes(content)
    code = (
        "import numpy as np, pathlib, vae_jax.compression as c\n"
        "codec = c.load_codec('model.npz')\n"
        "for name in c.PIXELS:\n"
        "    print(c.environment(codec._replace(likelihood=name))['tables'])\n"
        "np.save('out.npy', c.unpack(codec, pathlib.Path('images.vae').read_bytes()))\n"
    )
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    variables = {
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_CORETYPE": "Nehalem",
        "OPENBLAS_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": " ".join(found),
    }
    env = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env=env, capture_output=True
    )
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), images[:30])
    here = [container.environment(codec._replace(likelihood=name))["tables"] for name in PIXELS]
    assert done.stdout.decode().split() == here
