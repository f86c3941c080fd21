"""Latent sizes as programs of their own, or padded to one: the same model, and its measurement."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _benchmark_panels
from experiments._benchmark_panels import Panels, maskable
from experiments._run import UsageError
from vae_jax.likelihoods import bernoulli
from vae_jax.model import VAE, elbo_terms, make_vae
from vae_jax.networks import mlp

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LARGE, SMALL, SHAPE = 5, 2, (3, 3, 1)


def model(latent_dim: int) -> VAE:
    sizes = {"x_shape": SHAPE, "latent_dim": latent_dim}
    return make_vae(*mlp((4,), theta_dim=1, **sizes), bernoulli(), **sizes)


def test_a_masked_model_is_the_smaller_one(key):
    """With the weights that lead to its dimensions and come from them, at the same sample of z."""
    large, small = maskable(model(LARGE)), model(SMALL)
    params = large.init(key)
    params["encoder"]["mask"]["latent"] = jnp.array([1.0, 1.0, 0.0, 0.0, 0.0])
    head = params["encoder"]["params"]["Dense_1"]
    # Means, then log-variances.
    columns = np.r_[:SMALL, LARGE : LARGE + SMALL]
    own = {
        "encoder": {
            "params": {
                "Dense_0": params["encoder"]["params"]["Dense_0"],
                "Dense_1": {name: leaf[..., columns] for name, leaf in head.items()},
            }
        },
        "decoder": {
            "params": {
                **params["decoder"]["params"],
                "Dense_0": {
                    "kernel": params["decoder"]["params"]["Dense_0"]["kernel"][:SMALL],
                    "bias": params["decoder"]["params"]["Dense_0"]["bias"],
                },
            }
        },
    }
    x = jnp.linspace(0, 1, 9).reshape(SHAPE)
    q, wanted = large.encode(params, x), small.encode(own, x)
    z = jnp.arange(1.0, LARGE + 1)

    def close(one, other):
        # The rounding of sums of 4 and 9 products in another order.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    for value, other in zip(q, wanted, strict=True):
        close(value[:SMALL], other)
        assert not value[SMALL:].any()
    close(large.decode(params, z), small.decode(own, z[:SMALL]))
    kl = elbo_terms(key, large, params, x).kl_per_dim
    close(kl[:SMALL], elbo_terms(key, small, own, x).kl_per_dim)
    assert not kl[SMALL:].any()


def test_what_is_masked_has_no_gradient(key):
    vae = maskable(model(LARGE))
    params = vae.init(key)
    params["encoder"]["mask"]["latent"] = jnp.array([1.0, 1.0, 0.0, 0.0, 0.0])

    def bound(params):
        terms = elbo_terms(key, vae, params, jnp.ones(SHAPE))
        return terms.log_lik - jnp.sum(terms.kl_per_dim)

    gradient = jax.grad(bound)(params)
    assert not gradient["encoder"]["mask"]["latent"].any()
    rows = gradient["decoder"]["params"]["Dense_0"]["kernel"]
    head = gradient["encoder"]["params"]["Dense_1"]["kernel"]
    assert rows[:SMALL].any(axis=1).all()  # but for the units that are off
    assert not rows[SMALL:].any()
    for half in (head[:, :LARGE], head[:, LARGE:]):
        assert half[:, :SMALL].any()
        assert not half[:, SMALL:].any()


def test_both_ways_are_measured(tmp_path):
    config = Panels(
        dataset="digits", latent_dims=(2, 3), images=(200, 100), turns=2, output_dir=tmp_path
    )
    _benchmark_panels.run(config)
    result = json.loads((tmp_path / "benchmark" / "panels-cpu.json").read_text("utf-8"))
    assert result["points_per_turn"] == 400
    for way in result["ways"].values():
        assert way["compile_seconds"] > 0
        assert way["low"] <= way["seconds_per_million_points"] <= way["high"]
        assert way["seconds_per_million_points"] == pytest.approx(way["median_seconds"] * 2500)
        # Four epochs of two steps are enough to know more than a guess of 784 bits.
        assert all(-543 < bound < 0 for bound in way["test_elbo"])
    own, padded = result["measured"]
    per_million = [way["seconds_per_million_points"] for way in result["ways"].values()]
    assert [own["median"], padded["median"]] == pytest.approx(per_million)
    assert "programs of their own" in padded["times"]
    table = (tmp_path / "benchmark" / "panels-cpu.md").read_text("utf-8")
    assert table.startswith("# digits, 784-500-z for z = 2, 3, CPU")
    assert "| padded and masked |" in table
    with np.load(tmp_path / "benchmark" / "panels-cpu.npz") as arrays:
        drawn = np.median(arrays["padded_and_masked"])
    assert drawn == pytest.approx(per_million[1])
    assert (tmp_path / "benchmark" / "panels-cpu.png").is_file()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latent_dims": (3,)}, "--latent-dims 3: 2 or more are needed"),
        ({"latent_dims": (3, 3)}, "--latent-dims 3: given twice"),
        ({"latent_dims": (0, 3)}, "--latent-dims 0: a whole number of 1 or more"),
        ({"turns": 0}, "--turns 0: a whole number of 1 or more"),
        ({"images": (200,)}, "--images 200: two numbers are needed"),
        ({"images": (50, 50)}, "--images 50: 100 training images are needed"),
    ],
)
def test_what_cannot_be_measured_is_one_line(settings, said, tmp_path):
    with pytest.raises(UsageError) as caught:
        _benchmark_panels.run(Panels(dataset="digits", output_dir=tmp_path, **settings))
    assert said in str(caught.value)
