"""Strictness for every test: silent broadcasting between ranks is an error."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

# Two devices' worth of threads is all that CI has; a fixed number fixes the bits too.
os.environ.setdefault("NPROC", "2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A thread for each worker: waiting for a second one takes small fits of scikit-learn a second.
# Workers are started after this, before they import NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jax
import numpy as np
import pytest
from jax._src import compiler

jax.config.update("jax_numpy_rank_promotion", "raise")
# One device, whatever test is the first: an experiment would count each core as one.
jax.devices()
# The first call compiles, so a deadline would measure XLA; the same examples in every run.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True)
hypothesis.settings.load_profile("here")


# Options with which XLA is done in a fifth of the time.
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
COMPILE_OPTIONS = compiler.get_compile_options
# Modules that take minutes, in falling order. They are begun first, so that no worker is left
# alone with one of them at the end.
LONGEST = (
    "test_survival",
    "test_experiments",
    "test_distributed",
    "test_sweep",
    "test_tabular_experiments",
    "test_estimator",
    "test_shards",
    "test_benchmark",
    "test_sharding",
    "test_checkpoint",
    "test_evaluate",
    "test_disentangle_experiment",
    "test_aevb",
    "test_iwae",
    "test_two_layer",
    "test_text_experiment",
    "test_compress_experiment",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers, and the processes that they start, compile every program once."""
    if not hasattr(config, "workerinput") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="vae_jax_xla_")
        config.add_cleanup(cache.cleanup)
        # Workers read it when they import JAX, and are started after this.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="module")
def compiled_quickly() -> Iterator[None]:
    """For modules that compile for longer than they compute, and the processes they start.

    That a sweep has the bits of its models alone, and a scan those of a loop, is tested at XLA's
    full effort in test_sweep and test_train.
    """

    def quick(*args: Any, env_options_overrides: Any = None, **kwargs: Any) -> Any:
        options = {**(env_options_overrides or {}), **QUICKLY}
        return COMPILE_OPTIONS(*args, env_options_overrides=options, **kwargs)

    jax.jit(lambda: 0)()  # XLA reads its flags now, and not those that follow
    flags = [f"--{name}={str(value).lower()}" for name, value in QUICKLY.items()]
    with pytest.MonkeyPatch.context() as patch:
        # Only a whole process can be given options otherwise.
        patch.setattr(compiler, "get_compile_options", quick)
        patch.setenv("XLA_FLAGS", " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip())
        yield


@pytest.fixture(scope="module")
def drawn_small() -> Iterator[None]:
    """For modules that write many figures and look only whether they are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_jax.figures.style.DPI", 50)
        yield


@pytest.fixture
def compiled_fully(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test of bits in a module that is otherwise compiled quickly."""
    jax.clear_caches()  # what others have compiled
    monkeypatch.setattr(compiler, "get_compile_options", COMPILE_OPTIONS)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """The 1,437 training digits of scikit-learn, [n, 28, 28, 1] uint8."""
    from vae_jax.data import load_images

    return load_images("digits").train_images
