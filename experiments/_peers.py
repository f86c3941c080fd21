"""What the benchmark compares: this library and plain PyTorch loops, training the same VAE."""

import functools
import importlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from experiments._run import UsageError
from vae_jax.evaluation import estimate_elbo
from vae_jax.model import VAE
from vae_jax.objectives import beta
from vae_jax.preprocess import intensities
from vae_jax.train import Trainer, make_trainer
from vae_jax.types import Hyper, Params

OURS = "vae_jax"
LEARNING_RATE = 1e-3
# Every model is judged with the same noise on the same test images.
EVALUATION_SEED = 0

# Intensities 0 to 255.
Images = UInt8[np.ndarray, "n height width channels"]
# The minibatches of an epoch, as tensors.
Batches = Callable[[], Iterable[Any]]


class Problem(NamedTuple):
    """What every peer trains; the seed is of shuffling and noise, `params` are where to start."""

    vae: VAE
    batch_size: int
    seed: int
    params: Params
    images: Images


class Peer(NamedTuple):
    """A model in training.

    Attributes:
        epoch: train one epoch, and return its average loss (nats per image) when it is done.
        params: the weights as they are now, in the layout of `vae_jax`.
    """

    epoch: Callable[[], float]
    params: Callable[[], Params]


class TorchVAE(NamedTuple):
    """The same networks in PyTorch, each an `nn.Sequential`."""

    encoder: Any
    decoder: Any


@functools.cache
def trainer_of(vae: VAE, batch_size: int) -> Trainer:
    """The library's training functions, compiled once for all the seeds of a model."""
    return make_trainer(vae, beta(), batch_size=batch_size)


def jax_peer(problem: Problem) -> Peer:
    """This library, an epoch as one compiled program."""
    trainer = trainer_of(problem.vae, problem.batch_size)
    hyper = jax.tree.map(jnp.float32, Hyper(learning_rate=LEARNING_RATE))
    state = trainer.init(jax.random.key(problem.seed), hyper)
    # Copied, because an epoch donates what it is given.
    state = state._replace(params=jax.tree.map(jnp.array, problem.params))
    data = jnp.asarray(problem.images)

    def epoch() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(trainer.epoch(state, hyper, data))
        return float(metrics["loss"])

    return Peer(epoch, lambda: state.params)


def import_torch() -> Any:
    """PyTorch, which only this comparison needs.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise UsageError(
            "PyTorch is not installed, and the benchmark compares with it: "
            "pip install 'vae_jax[bench]'"
        ) from None


def torch_vae(params: Params) -> TorchVAE:
    """The PyTorch networks that compute what linen's fully connected ones do with weights."""
    torch = import_torch()

    def network(layers: Mapping[str, Any]) -> Any:
        modules = []
        for index in range(len(layers)):
            kernel, bias = (np.array(layers[f"Dense_{index}"][k]) for k in ("kernel", "bias"))
            linear = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(kernel.T))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])

    return TorchVAE(network(params["encoder"]["params"]), network(params["decoder"]["params"]))


def torch_params(model: TorchVAE) -> Params:
    """The weights of the PyTorch networks, copied into the layout of `vae_jax`."""

    def layers(network: Any) -> Params:
        return {
            "params": {
                f"Dense_{index}": {
                    "kernel": jnp.array(linear.weight.detach().numpy().T),
                    "bias": jnp.array(linear.bias.detach().numpy()),
                }
                for index, linear in enumerate(list(network)[::2])
            }
        }

    return {"encoder": layers(model.encoder), "decoder": layers(model.decoder)}


def torch_elbo_terms(model: TorchVAE, x: Any, eps: Any) -> tuple[Any, Any]:
    """The terms log p(x | z) and KL(q(z | x) || p(z)), each summed over a minibatch.

    Args:
        model: the networks.
        x: tensor [batch, pixels], intensities on [0, 1].
        eps: tensor [batch, latent], standard normal noise.

    Returns:
        The two scalars, nats.
    """
    torch = import_torch()
    mean, log_var = model.encoder(x).chunk(2, dim=1)
    logits = model.decoder(mean + torch.exp(log_var / 2) * eps)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mean**2 - log_var.exp())
    return -cross_entropy, kl


def tensor_batches(x: Any, batch_size: int) -> Batches:
    """Shuffled minibatches of a tensor, gathered by index."""
    torch = import_torch()

    def batches() -> Iterator[Any]:
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch_size + 1, batch_size):
            yield x.index_select(0, order[start : start + batch_size])

    return batches


def loader_batches(x: Any, batch_size: int) -> Batches:
    """Shuffled minibatches of a tensor by PyTorch's own `DataLoader`, in this process."""
    data = import_torch().utils.data
    loader = data.DataLoader(data.TensorDataset(x), batch_size, shuffle=True, drop_last=True)
    return lambda: (batch for (batch,) in loader)


def torch_peer(problem: Problem, batches_of: Callable[[Any, int], Batches]) -> Peer:
    """The eager PyTorch loop, with what is fast about it: float32 data in memory, fused Adam.

    Its noise comes from PyTorch's global generator.
    """
    torch = import_torch()
    torch.manual_seed(problem.seed)
    model = torch_vae(problem.params)
    weights = [*model.encoder.parameters(), *model.decoder.parameters()]
    optimizer = torch.optim.Adam(weights, LEARNING_RATE, fused=True)
    pixels = torch.from_numpy(problem.images.reshape(len(problem.images), -1))
    batches = batches_of(pixels.float() / 255, problem.batch_size)

    def epoch() -> float:
        losses = []
        for x in batches():
            log_lik, kl = torch_elbo_terms(model, x, torch.randn(len(x), problem.vae.latent_dim))
            loss = (kl - log_lik) / len(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return statistics.fmean(losses)

    return Peer(epoch, lambda: torch_params(model))


class PeerRow(NamedTuple):
    """A row of `PEERS`: how to build the peer, and a few words for the tables."""

    build: Callable[[Problem], Peer]
    description: str


# A new peer is a row here; the first one is what the others are compared with.
PEERS = {
    OURS: PeerRow(jax_peer, "an epoch is one compiled scan; uint8 images in memory"),
    "torch": PeerRow(
        functools.partial(torch_peer, batches_of=tensor_batches),
        "PyTorch eager, fused Adam; float32 tensor in memory, gathered by index",
    ),
    "torch-loader": PeerRow(
        functools.partial(torch_peer, batches_of=loader_batches),
        "the same, with DataLoader(TensorDataset, shuffle=True)",
    ),
}


def neg_elbo_of(vae: VAE, params: Params, images: Images) -> float:
    """The negative ELBO over a whole test split (nats per image), one ruler for every peer."""
    estimate = estimate_elbo(
        key=jax.random.key(EVALUATION_SEED),
        vae=vae,
        preprocess=intensities,
        params=params,
        data=jnp.asarray(images),
    )
    return -float(estimate.elbo)
