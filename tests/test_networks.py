import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.networks import ACTIVATIONS, NETWORKS, SentenceDecoder, SentenceEncoder
from vae_jax.networks.conv import DownConv, UpConv, depth_to_space, space_to_depth
from vae_jax.networks.recurrent import GRU
from vae_jax.networks.rows import Dense, dot_rows, matmul_rows

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PAIRS = {
    "down": (DownConv(5), nn.Conv(5, (4, 4), strides=(2, 2), padding=1)),
    "up": (UpConv(5), nn.ConvTranspose(5, (4, 4), strides=(2, 2))),
    # With as many channels the products of the four shifts are apart.
    "up, wide": (UpConv(9), nn.ConvTranspose(9, (4, 4), strides=(2, 2))),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 6, 1), (14, 4, 2), (6, 4, 9)])
def test_the_matmul_form_equals_linens_convolution(pair, shape, key):
    ours, theirs = PAIRS[pair]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    params = drawn(theirs, jnp.asarray(x), scale=1.0)

    @jax.jit
    def outputs_and_gradients(params, x):
        def loss(params, x, network):
            out = network.apply(params, x)
            return jnp.sum(jnp.sin(out)), out

        grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return grad(params, x, ours), grad(params, x, theirs)

    (ours_grads, out), (their_grads, expected) = outputs_and_gradients(params, x)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), ours_grads, their_grads
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_the_weights_have_linens_names_shapes_and_scale(pair, key):
    ours, theirs = (jax.jit(one.init)(key, jnp.zeros((16, 16, 64))) for one in PAIRS[pair])
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, theirs)
    ours_std, their_std = (np.std(p["params"]["kernel"]) for p in (ours, theirs))
    # The relative standard error of a standard deviation of n numbers is 1 / sqrt(2 n).
    assert abs(ours_std / their_std - 1) < 4 / np.sqrt(ours["params"]["kernel"].size)


def test_rows_stay_rows_of_a_product_and_of_its_gradients(key):
    """Under vmap over examples, of one matrix and of one each, as plain products would."""
    keys = jax.random.split(key, 3)
    xs, w = jax.random.normal(keys[0], (3, 4, 5, 2)), jax.random.normal(keys[1], (2, 6))
    ws = jax.random.normal(keys[2], (3, 2, 6))

    def loss(multiply, x, w):
        # Squared, so that second derivatives are not all zero.
        return jnp.sum(multiply(x, w) ** 2)

    def summed(multiply, xs, w):
        return jnp.sum(jax.vmap(lambda x: loss(multiply, x, w))(xs))

    def everything(multiply):
        gradient = jax.grad(functools.partial(summed, multiply), argnums=(0, 1))
        one = functools.partial(loss, multiply)
        pushed = jax.jvp(gradient, (xs, w), (jnp.ones_like(xs), jnp.ones_like(w)))
        backwards = jax.vmap(multiply, (None, 0), 1)(xs[0], ws)
        members = jax.vmap(gradient, (None, 0))(xs, ws)
        last = jax.vmap(multiply, (3, None))(jnp.moveaxis(xs, 0, 3), w)
        alone = jax.grad(one, argnums=(0, 1))(xs[0], w), multiply(xs[0, 0, 0], w)
        return pushed, members, jax.vmap(jax.grad(one))(xs, ws), backwards, last, alone

    found, expected = (jax.jit(everything, static_argnums=0)(f) for f in (matmul_rows, jnp.matmul))
    # Sums of at most 60 float32 products of order 1, in another order.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(("pair", "channels"), [*((pair, 9) for pair in PAIRS), ("down", 1)])
def test_every_product_of_a_convolution_sums_over_one_axis(pair, channels, key):
    """What `matmul_rows` is for: XLA copies no operand into another order to sum over two."""
    network, xs = PAIRS[pair][0], jnp.zeros((8, 4, 4, channels))
    params = jax.eval_shape(network.init, key, xs[0])

    def loss(params, xs):
        return jnp.sum(jax.vmap(network.apply, (None, 0))(params, xs) ** 2)

    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, xs).as_text()
    contracted = re.findall(r"dot_general .*contracting_dims = \[([\d, ]*)\] x", program)
    # Forward, of the weights and of the input: of all four shifts at once, or of each.
    assert len(contracted) == (3 if pair == "up" or channels == 1 else 12)
    assert all(len(axes) == 1 for axes in contracted), contracted


def test_rows_of_two_types_and_of_the_wrong_length():
    """As JAX promotes them, in the gradient too; what does not fit is refused at once."""
    x, w = jnp.ones((3, 2), jnp.bfloat16), jnp.ones((2, 5), jnp.float32)
    assert jax.eval_shape(matmul_rows, x, w).dtype == matmul_rows(x, w).dtype == jnp.float32
    gradients = jax.grad(lambda x, w: jnp.sum(matmul_rows(x, w)), argnums=(0, 1))(x, w)
    assert [one.dtype for one in gradients] == [jnp.bfloat16, jnp.float32]
    with pytest.raises(TypeError):
        jax.eval_shape(matmul_rows, w, w)


@pytest.mark.parametrize("axes", [None, (0, None), (0, 0)])
def test_products_have_the_precision_of_the_layer_or_of_where_they_are_called(axes):
    """Forward and in the gradients, of one model and of many, as `jnp.matmul` has it."""
    batch = () if axes is None else (2,)
    x = jnp.ones((*batch, 4, 3))
    w = jnp.ones((*batch, 3, 5) if axes == (0, 0) else (3, 5))

    def precisions(multiply, **asked):
        def loss(x, w):
            each = functools.partial(multiply, **asked)
            with jax.default_matmul_precision("high"):
                return jnp.sum((each if axes is None else jax.vmap(each, axes))(x, w))

        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, w).as_text()
        return re.findall(r"dot_general .*precision = \[(\w+), (\w+)\]", program)

    for asked, expected in (({}, "HIGH"), ({"precision": "highest"}, "HIGHEST")):
        assert set(precisions(matmul_rows, **asked)) == {(expected, expected)}
        assert set(precisions(jnp.matmul, **asked)) <= {(expected, expected)}


def test_a_layer_of_rows_is_that_of_linen(key):
    ours, theirs = Dense(5, precision="highest"), nn.Dense(5, precision="highest")
    x = jax.random.normal(key, (4, 3))
    params = ours.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(key, x))
    # Sums of three products of order 1.
    found, expected = (jnp.asarray(layer.apply(params, x)) for layer in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "asked",
    [
        {"dims": (((0,), (0,)), ((), ()))},
        {"dims": (((1,), (1,)), ((), ()))},
        {"dims": (((1,), (0,)), ((), ())), "preferred_element_type": jnp.bfloat16},
    ],
)
def test_a_product_of_anything_but_rows_is_refused(asked):
    with pytest.raises(ValueError, match="the last axis of x and the first of the kernel"):
        dot_rows(jnp.ones((3, 3)), jnp.ones((3, 3)), **asked)


def test_rows_are_made_again_under_checkpoint_and_inside_shard_map(key):
    x, w = jax.random.normal(key, (4, 3)), jnp.ones((3, 5))

    def loss(w):
        return jnp.sum(jax.checkpoint(matmul_rows)(x, w) ** 2)

    expected = jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w)
    # Sums of a dozen products of order 1.
    np.testing.assert_allclose(jax.grad(loss)(w), expected, rtol=1e-5)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("member",), auto, devices=jax.devices()[:1])
    spec = jax.sharding.PartitionSpec("member")
    spread = jax.shard_map(
        lambda x: matmul_rows(x, w), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    np.testing.assert_allclose(jax.jit(spread)(x), x @ w, rtol=1e-5)


def test_space_to_depth_moves_pixels_where_it_says(key):
    x = np.asarray(jax.random.normal(key, (4, 6, 3)))
    folded = np.asarray(jax.jit(space_to_depth)(x))
    assert folded.shape == (2, 3, 12)
    assert np.array_equal(folded[1, 2, 3 * 2 : 3 * 3], x[3, 4])
    assert np.array_equal(jax.jit(depth_to_space)(folded), x)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("theta_dim", [1, 2])
@pytest.mark.parametrize("hidden", [(), (7, 5)])
def test_every_network_maps_x_to_a_posterior_and_z_to_theta(name, theta_dim, hidden, key):
    x_shape = (8, 4, 3)
    encoder, decoder = NETWORKS[name](
        hidden, x_shape=x_shape, latent_dim=3, theta_dim=theta_dim, activation=jnp.tanh
    )
    out, params = jax.jit(encoder.init_with_output)(key, jnp.ones(x_shape))
    assert out.shape == (6,)
    assert {"params"} == set(params)  # nothing that mutates: no BatchNorm
    theta, _ = jax.jit(decoder.init_with_output)(key, jnp.ones(3))
    assert theta.shape == (*x_shape, theta_dim)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_is_its_examples(name, key):
    encoder, _ = NETWORKS[name]((6,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
    xs = np.asarray(jax.random.normal(key, (5, 8, 8, 1)))
    params = jax.jit(encoder.init)(key, xs[0])
    apply = jax.jit(encoder.apply)
    batch = np.asarray(jax.jit(jax.vmap(encoder.apply, (None, 0)))(params, xs))
    for x, out in zip(xs, batch, strict=True):
        np.testing.assert_allclose(apply(params, x), out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(28, 30, 1), (784,)])
def test_images_that_cannot_be_halved_twice_are_refused(shape):
    with pytest.raises(ValueError, match="divisible by 4"):
        NETWORKS["conv"]((8,), x_shape=shape, latent_dim=2, theta_dim=1)


def test_a_convolutional_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match=r"channels \(\): at least one convolution is needed"):
        NETWORKS["conv"]((8,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1, channels=())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_what_linen_calls_so(name):
    x = jnp.linspace(-2, 2, 5)
    assert jnp.array_equal(ACTIVATIONS[name](x), getattr(nn, name)(x))


def test_the_first_weights_of_an_mlp_may_be_chosen(key):
    """Of both networks and all layers; left alone, they are uniform of variance 1 / (3 fan_in)."""
    shapes = {"x_shape": (40,), "latent_dim": 30, "theta_dim": 1}
    encoder, decoder = NETWORKS["mlp"](
        (50,), **shapes, kernel_init=nn.initializers.constant(2.0), bias_init=nn.initializers.ones
    )
    usual, _ = NETWORKS["mlp"]((50,), **shapes)
    for network, width in ((encoder, 40), (decoder, 30)):
        for layer in jax.jit(network.init)(key, jnp.zeros(width))["params"].values():
            assert np.all(np.asarray(layer["kernel"]) == 2.0)
            assert np.all(np.asarray(layer["bias"]) == 1.0)
    params = jax.jit(usual.init)(key, jnp.zeros(40))["params"]
    kernel = np.asarray(params["Dense_0"]["kernel"])
    # A uniform variable's square has a relative standard error of sqrt(4 / 5 / n).
    assert abs(kernel.var() * 3 * 40 - 1) < 4 * np.sqrt(0.8 / kernel.size)
    assert np.max(np.abs(kernel)) <= 1 / np.sqrt(40)


def drawn(network: nn.Module, *args: Any, scale: float = 0.5) -> Any:
    """Parameters of float64 of which none is 0, so that none can be forgotten."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *args)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, scale, leaf.shape), shapes)


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def gru_states(own: dict, h: np.ndarray, added: np.ndarray, is_word: list[bool]) -> np.ndarray:
    """The written equations, one gate and one time after the other."""
    of_reset, of_update, of_new = np.split(own["kernel"], 3, axis=1)
    states = []
    for (a_reset, a_update, a_new), word in zip(
        (np.split(now, 3) for now in added), is_word, strict=True
    ):
        reset = sigmoid(a_reset + h @ of_reset)
        update = sigmoid(a_update + h @ of_update)
        new = np.tanh(a_new + reset * (h @ of_new + own["bias"]))
        h = update * h + (1 - update) * new if word else h
        states.append(h)
    return np.array(states)


def dense(own: dict, x: np.ndarray) -> np.ndarray:
    return x @ own["kernel"] + own.get("bias", 0.0)


def test_the_states_of_a_gru_are_those_of_its_equations():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        h, added = rng.normal(size=4), rng.normal(size=(6, 12))
        is_word = [True, True, False, True, False, False]
        gru, args = GRU(4), (jnp.array(h), jnp.array(added), jnp.array(is_word))
        params = drawn(gru, *args)
        last, states = jax.jit(gru.apply)(params, *args)
        expected = gru_states(params["params"], h, added, is_word)
        # Six steps of sums of four products, in float64.
        np.testing.assert_allclose(states, expected, rtol=1e-12)
        np.testing.assert_array_equal(last, states[-1])
        # What is no word changes no state.
        np.testing.assert_array_equal(states[2], states[1])
        np.testing.assert_array_equal(states[4], states[3])
        np.testing.assert_array_equal(states[5], states[3])


def test_the_encoder_of_sentences_is_its_equations():
    with jax.enable_x64(True):
        encoder, x = SentenceEncoder(6, 3, 4, 2), jnp.array([4.0, -3.0, 5.0, 1.0, 0.0, 0.0])
        params = drawn(encoder, x)
        own = params["params"]
        added = dense(own["Dense_0"], own["Embed_0"]["embedding"][[4, 3, 5, 1, 0, 0]])
        states = gru_states(own["GRU_0"], np.zeros(4), added, [True] * 4 + [False] * 2)
        expected = dense(own["Dense_1"], states[-1])
        np.testing.assert_allclose(jax.jit(encoder.apply)(params, x), expected, rtol=1e-12)


def test_the_decoder_of_sentences_is_its_equations():
    with jax.enable_x64(True):
        decoder, x = SentenceDecoder(6, 5, 3, 4), jnp.array([4.0, -3.0, 5.0, 1.0, 0.0])
        z = np.array([0.7, -1.1])
        params = drawn(decoder, jnp.array(z))
        own = params["params"]
        # Nothing before the first word, and the hidden one is read as an unknown one, 2.
        before = own["embed"]["embedding"][[0, 4, 2, 5, 1]]
        added = dense(own["words_in"], before) + dense(own["z_in"], z)
        first = np.tanh(dense(own["z_first"], z))
        states = gru_states(own["gru"], first, added, [True] * 4 + [False])
        given = jax.jit(decoder.apply, static_argnames="method")
        found = given(params, jnp.array(z), x, method="given")
        np.testing.assert_allclose(found, dense(own["out"], states), rtol=1e-12)
