"""Strictness for every test: silent broadcasting between ranks is an error."""

import os

# Two devices' worth of threads is all that CI has; a fixed number fixes the bits too.
os.environ.setdefault("NPROC", "2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# The first call compiles, so a deadline would measure XLA; the same examples in every run.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True)
hypothesis.settings.load_profile("here")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """The 1,437 training digits of scikit-learn, [n, 28, 28, 1] uint8."""
    from vae_jax.data import load_images

    return load_images("digits").train_images
