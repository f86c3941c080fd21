"""What a step costs, in counts that hold on a noisy machine: operations, programs, host reads."""

import contextlib
import ctypes
import functools
import importlib.metadata
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import ROOT, call
from jax._src.array import ArrayImpl

from experiments import mnist, tabular
from experiments._noise import elbo_of
from experiments._progress import TrainingProgress
from vae_jax.data import load_table
from vae_jax.data.encoding import fit_encoding
from vae_jax.estimator import VAE as Estimator
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import NETWORKS, mlp, two_layer_mlp
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import as_stored, intensities
from vae_jax.remedies import make_text_trainer
from vae_jax.sweep import Execution, make_members, make_sweep
from vae_jax.tabular import make_table_vae
from vae_jax.text import make_text_vae
from vae_jax.train import OPTIMIZERS, flat, make_trainer
from vae_jax.two_layer import make_two_layer_vae
from vae_jax.types import Hyper
from vae_jax.wake_sleep import make_wake_sleep

pytestmark = pytest.mark.usefixtures("compiled_quickly")

IMAGE = (28, 28, 1)
# Operations of the program of an optimiser step, or of a sweep's epoch, as it is given to XLA:
# all of its functions together, before any optimisation, so that no compiler option changes
# them. A change that needs more says so here, with its reason in the commit.
OPERATIONS = {
    "mlp": 1084,
    "conv": 1753,
    "iwae": 1187,
    "table": 972,
    "text": 2901,
    "two-layer": 2541,
    "wake-sleep": 1594,
    "sweep, map": 3102,
    "sweep, vmap": 2935,
}
EXECUTIONS: dict[str, Execution] = {"sweep, map": "map", "sweep, vmap": "vmap"}
RECORDED_WITH = "0.10.2"  # jaxlib, and JAX
GROWTH = 1.1


class Row(NamedTuple):
    """A `Trainer`, and a minibatch as it is stored."""

    trainer: Any
    batch: np.ndarray


def of_images(network: str, objective: str = "beta", batch_size: int = 128, **options: Any) -> Row:
    encoder, decoder = NETWORKS[network]((400,), x_shape=IMAGE, latent_dim=20, theta_dim=1)
    vae = make_vae(encoder, decoder, bernoulli(), x_shape=IMAGE, latent_dim=20)
    trainer = make_trainer(vae, OBJECTIVES[objective](**options), batch_size=batch_size)
    return Row(trainer, np.zeros((batch_size, *IMAGE), np.uint8))


def of_a_table() -> Row:
    table = load_table("wine")
    blocks = fit_encoding(table.values, table.columns).blocks
    vae = make_table_vae(blocks, hidden=(32,), latent_dim=2, activation=jax.nn.relu)
    trainer = make_trainer(
        vae,
        OBJECTIVES["beta"](),
        batch_size=32,
        optimizer=flat(OPTIMIZERS["adam"]),
        preprocess=as_stored,
    )
    return Row(trainer, np.zeros((32, len(table.columns)), np.float32))


def of_sentences() -> Row:
    vae = make_text_vae(50, 12, embedding=8, hidden=16, latent_dim=4).vae
    lengths = np.full(64, 12)
    trainer = make_text_trainer(vae, batch_size=16, lengths=lengths, buckets=(6, 12))
    return Row(trainer, np.ones((16, 12), np.uint16))


def of_two_layers() -> Row:
    networks = two_layer_mlp(
        ((200, 200), (100, 100)), x_shape=IMAGE, latent_dims=(100, 50), theta_dim=1
    )
    vae = make_two_layer_vae(*networks, bernoulli(), x_shape=IMAGE, latent_dims=(100, 50))
    trainer = make_trainer(vae, OBJECTIVES["iwae"](num_samples=5), batch_size=20)
    return Row(trainer, np.zeros((20, *IMAGE), np.uint8))


def of_dreams() -> Row:
    networks = mlp((32,), x_shape=IMAGE, latent_dim=3, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=IMAGE, latent_dim=3)
    return Row(make_wake_sleep(vae, batch_size=50), np.zeros((50, *IMAGE), np.uint8))


STEPS: dict[str, Callable[[], Row]] = {
    "mlp": functools.partial(of_images, "mlp"),
    "conv": functools.partial(of_images, "conv"),
    "iwae": functools.partial(of_images, "mlp", "iwae", 20, num_samples=5),
    "table": of_a_table,
    "text": of_sentences,
    "two-layer": of_two_layers,
    "wake-sleep": of_dreams,
}


@functools.cache
def row_of(name: str) -> Row:
    return STEPS[name]()


def numbers(**settings: float) -> Hyper:
    return Hyper(*map(jnp.float32, Hyper(**settings)))


@functools.cache
def program_of(name: str) -> str:
    """The program as JAX hands it to XLA."""
    if name in STEPS:
        trainer, batch = row_of(name)
        state = jax.eval_shape(trainer.init, jax.random.key(0), numbers())
        return trainer.step.lower(state, numbers(), batch).as_text()
    networks = mlp((400,), x_shape=IMAGE, latent_dim=20, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=IMAGE, latent_dim=20)
    trainer = make_trainer(vae, OBJECTIVES["beta"](), batch_size=128)
    sweep = make_sweep(trainer, elbo_of(vae, intensities), execution=EXECUTIONS[name])
    members = make_members([Hyper(beta=beta) for beta in (1.0, 2.0, 4.0, 8.0)], [0, 1, 0, 1])
    population = jax.eval_shape(sweep.init, members)
    images = np.zeros((256, *IMAGE), np.uint8)
    return sweep.epoch.lower(population, members, images, images[:128]).as_text()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_step_has_no_more_operations_than_were_recorded(name):
    found = len(re.findall(r"\b(?:stablehlo|chlo)\.\w+|\bcall @", program_of(name)))
    recorded = OPERATIONS[name]
    versions = f"with jaxlib {RECORDED_WITH}; this is {importlib.metadata.version('jaxlib')}"
    assert found <= GROWTH * recorded, f"{found} operations, {recorded} were recorded {versions}"
    # A record that is far above what there is would let the next growth through.
    assert found >= recorded / GROWTH, f"{found} operations: record them for {recorded}, {versions}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_step_never_asks_the_host(name):
    for operation in ("infeed", "outfeed", "send", "recv", "python", "callback"):
        assert operation not in re.sub(r"loc\(.*", "", program_of(name))


# `mlp` is in test_train and test_sweep.
@pytest.mark.parametrize("name", ["conv", "iwae", "table", "text", "two-layer", "wake-sleep"])
def test_a_second_step_compiles_nothing(name):
    """With another minibatch, other numbers and the state that the first has made."""
    trainer, batch = row_of(name)
    state = trainer.init(jax.random.key(0), numbers())
    for beta in (1.0, 2.0):
        state, _ = trainer.step(state, numbers(beta=beta), jnp.asarray(batch))
    assert trainer.step._cache_size() == 1
    assert int(state.step) == 2


# What the host reads.

# Where a type keeps its functions of the buffer protocol: the 21st word of `PyTypeObject`.
AS_BUFFER = 20 * ctypes.sizeof(ctypes.c_void_p)


def buffers_of(kind: type) -> int:
    return ctypes.c_void_p.from_address(id(kind) + AS_BUFFER).value or 0


@contextlib.contextmanager
def host_reads() -> Iterator[list[str]]:
    """Every time that the host reads an array, until this is left: by what line of the project.

    `device_get` of a whole tree is one; whatever else reads an array is one for each. On a CPU
    NumPy looks at the array's own memory, which no transfer guard sees and nothing in Python;
    with that way closed it asks `__array__`, as on an accelerator.
    """
    reads: list[str] = []
    getting = threading.local()
    value, device_get, dlpack = ArrayImpl._value, jax.device_get, ArrayImpl.__dlpack__

    def note() -> None:
        if not getattr(getting, "now", False):
            frames = traceback.extract_stack()
            own = [f for f in frames if Path(f.filename).is_relative_to(ROOT)][:-2]
            reads.append(f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "a thread")

    def noted(array: Any) -> np.ndarray:
        note()
        return value.fget(array)

    def exported(array: Any, **how: Any) -> Any:
        note()
        return dlpack(array, **how)

    def whole(tree: Any) -> Any:
        reads.append("device_get")
        getting.now = True
        try:
            return device_get(tree)
        finally:
            getting.now = False

    assert sys.implementation.name == "cpython"
    # The word is what it is taken for: what has buffers has it, what has none has not.
    assert all(map(buffers_of, (bytes, bytearray, memoryview, ArrayImpl)))
    assert not any(map(buffers_of, (int, dict, float)))
    get_buffer = ctypes.c_void_p.from_address(buffers_of(ArrayImpl))
    before = get_buffer.value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayImpl, "_value", property(noted))
        patch.setattr(ArrayImpl, "__dlpack__", exported)
        patch.setattr(jax, "device_get", whole)
        get_buffer.value = None
        try:
            yield reads
        finally:
            get_buffer.value = before


READERS: dict[str, Callable[[Any], Any]] = {
    "np.asarray": np.asarray,
    "np.array": np.array,
    "a function of NumPy": np.count_nonzero,
    "a ufunc of NumPy": np.isfinite,
    "dlpack": lambda x: np.from_dlpack(x),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool(x[0] > 1),
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "format": lambda x: f"{x[0]:.1f}",
    "device_get": lambda x: jax.device_get({"a": x, "b": 2 * x}),
}


@pytest.mark.parametrize("reader", READERS)
def test_whatever_reads_an_array_is_seen(reader):
    x = jnp.arange(3.0)
    with host_reads() as reads:
        READERS[reader](x + 1)
    assert len(reads) == 1
    with host_reads() as reads:
        jax.block_until_ready(x + 1)
    assert not reads
    assert bytes(memoryview(x)) == np.arange(3, dtype=np.float32).tobytes()  # as before


def reads_of(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]
) -> tuple[list[list[str]], list[str]]:
    """What the host reads before each line of an epoch since the line before; and after the last.

    The first has what precedes the training too.
    """
    by_line: list[list[str]] = []
    report = TrainingProgress.epoch
    with host_reads() as reads:

        def reported(*arguments: Any) -> None:
            by_line.append(reads[:])
            reads.clear()
            report(*arguments)

        monkeypatch.setattr(TrainingProgress, "epoch", reported)
        run()
        return by_line, reads[:]


DIGITS = ("--dataset", "digits", "--hidden", "8", "--epochs", "6", "--beta", "1", "2")
WINE = ("--dataset", "wine", "--hidden", "4", "--folds", "2", "--epochs", "30")
PLAIN = ("--figures", "none", "--checkpoint-every", "100")


def test_the_host_reads_once_an_epoch(tmp_path, monkeypatch):
    """Of two models under `vmap` in the real command line, without pictures and checkpoints.

    From the first line on: what is compiled and placed before it reads nothing either.
    """
    flags = (*DIGITS, *PLAIN, "--execution", "vmap")
    by_line, _ = reads_of(monkeypatch, lambda: call(mnist, tmp_path, *flags))
    assert by_line == [["device_get"]] * 6


def test_the_host_reads_once_a_report_of_a_table(tmp_path, monkeypatch):
    """Models of two folds at once under `vmap`; a report is of ten epochs."""
    by_line, _ = reads_of(monkeypatch, lambda: call(tabular, tmp_path, *WINE, *PLAIN))
    assert by_line == [["device_get"]] * 3


@pytest.mark.usefixtures("drawn_small")
def test_only_pictures_and_checkpoints_read_more(tmp_path, monkeypatch):
    """Under `map` the same, but for two exceptions, each behind the line of its epoch.

    After epochs 1, 2 and 5 pictures are drawn with the parameters of one member: an array of a
    layer is a read. After epoch 3 a checkpoint is written, and Orbax copies the population.
    """
    flags = (*DIGITS, "--checkpoint-every", "3")
    by_line, after = reads_of(monkeypatch, lambda: call(mnist, tmp_path, *flags))
    # What stands before the line of an epoch was read behind that of the one before.
    read_behind = {epoch: set(reads) for epoch, reads in enumerate(by_line)}
    exceptions = {1, 2, 3, 5}
    assert {epoch for epoch, reads in read_behind.items() if reads != {"device_get"}} == exceptions
    for reads in by_line:
        assert reads.count("device_get") == 1
    assert after


def test_the_estimator_reads_once_in_512_steps():
    """Its history, four arrays, after a call of so many steps; an epoch here is of two.

    It reads by steps and not by epochs, so that Ctrl-C is answered after a moment however long
    an epoch is. A table whose epochs are of more than 512 steps is read in the midst of them.
    """
    X = np.random.default_rng(0).normal(size=(64, 3))

    def reads_in(steps: int) -> list[str]:
        with host_reads() as reads:
            Estimator(hidden=(4,), batch_size=32, epochs=steps // 2, random_state=0).fit(X)
        return reads

    once, thrice = reads_in(512), reads_in(3 * 512)
    assert len(thrice) - len(once) == 2 * 4
