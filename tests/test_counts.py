"""What a step costs, in counts that hold on a noisy machine: operations, programs, host reads."""

import functools
import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call

from experiments import mnist
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.remedies import make_text_trainer
from vae_jax.text import make_text_vae
from vae_jax.train import make_trainer
from vae_jax.types import Hyper

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Instructions of the compiled program of one optimiser step, all of its computations together.
# A change that needs more says so here, with its reason in the commit.
OPERATIONS = {"mlp": 1988, "conv": 2994, "text": 8239}
GROWTH = 1.1


def trainer_and_batch(name: str) -> tuple[Any, np.ndarray]:
    if name == "text":
        model = make_text_vae(50, 12, embedding=8, hidden=16, latent_dim=4)
        lengths = np.full(64, 12)
        trainer = make_text_trainer(model.vae, batch_size=16, lengths=lengths, buckets=(6, 12))
        return trainer, np.ones((16, 12), np.uint16)
    encoder, decoder = NETWORKS[name]((400,), x_shape=(28, 28, 1), latent_dim=20, theta_dim=1)
    vae = make_vae(encoder, decoder, bernoulli(), x_shape=(28, 28, 1), latent_dim=20)
    trainer = make_trainer(vae, OBJECTIVES["beta"](), batch_size=128)
    return trainer, np.zeros((128, 28, 28, 1), np.uint8)


@functools.cache
def compiled_step(name: str) -> str:
    trainer, batch = trainer_and_batch(name)
    hyper = Hyper(*map(jnp.float32, Hyper()))
    state = jax.eval_shape(trainer.init, jax.random.key(0), hyper)
    return trainer.step.lower(state, hyper, batch).compile().as_text()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_step_has_no_more_operations_than_were_recorded(name):
    found = len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", compiled_step(name), re.MULTILINE))
    recorded = OPERATIONS[name]
    assert found <= GROWTH * recorded, f"{found} operations in a step, {recorded} were recorded"
    # A record that is far above what there is would let the next growth through.
    assert found >= recorded / GROWTH, f"{found} operations: record them in the place of {recorded}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_step_never_asks_the_host(name):
    text = compiled_step(name)
    for operation in ("infeed", "outfeed", "send(", "recv(", "python_cpu_callback"):
        assert operation not in text


def test_the_host_reads_once_an_epoch(tmp_path, monkeypatch):
    """Of a sweep of two models in the real command line: epochs, and the evaluation at the end."""
    reads = Counter()
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: reads.update(["get"]) or device_get(tree))
    flags = ["--dataset", "digits", "--hidden", "8", "--epochs", "3", "--beta", "1", "2"]
    done = call(mnist, tmp_path, *flags, "--figures", "none", "--checkpoint-every", "100")
    assert done.code == 0
    assert reads["get"] == 3 + 1
