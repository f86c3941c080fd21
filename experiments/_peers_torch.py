"""The same VAE in PyTorch: its networks, weights in both layouts, and the loops that train it."""

import functools
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._peers import LEARNING_RATE, Peer, Problem
from experiments._run import UsageError
from vae_jax.types import Params

# The minibatches of an epoch, as tensors.
Batches = Callable[[], Iterable[Any]]


class TorchVAE(NamedTuple):
    """The same networks in PyTorch, each an `nn.Sequential`."""

    encoder: Any
    decoder: Any


class Twin(NamedTuple):
    """The networks of a kind in PyTorch.

    Attributes:
        build: them, with the weights to start from.
        params: their weights, in the layout of `vae_jax`.
    """

    build: Callable[[Problem], TorchVAE]
    params: Callable[[TorchVAE], Params]


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

    def copied(tensor: Any) -> jax.Array:
        return jnp.array(tensor.detach().cpu().numpy())

    def layers(network: Any) -> Params:
        return {
            "params": {
                f"Dense_{index}": {
                    "kernel": copied(linear.weight.T),
                    "bias": copied(linear.bias),
                }
                for index, linear in enumerate(list(network)[::2])
            }
        }

    return {"encoder": layers(model.encoder), "decoder": layers(model.decoder)}


# The fully connected networks; the convolutional ones are in `_peers_conv`.
MLP = Twin(lambda problem: torch_vae(problem.params), torch_params)


def torch_elbo_terms(model: TorchVAE, x: Any, eps: Any) -> tuple[Any, Any]:
    """The terms log p(x | z) and KL(q(z | x) || p(z)), each summed over a minibatch.

    Args:
        model: the networks.
        x: tensor [batch, pixels], intensities on [0, 1].
        eps: tensor [batch, latent], standard normal noise.

    Returns:
        The two scalars, nats.
    """
    # A statement, because `torch.compile` does not follow `import_torch`.
    import torch  # pyright: ignore[reportMissingImports]

    mean, log_var = model.encoder(x).chunk(2, dim=1)
    logits = model.decoder(mean + torch.exp(log_var / 2) * eps)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mean**2 - log_var.exp())
    return -cross_entropy, kl


def tensor_batches(x: Any, batch_size: int) -> Batches:
    """Shuffled minibatches of a tensor, gathered by index."""
    torch = import_torch()

    def batches() -> Iterator[Any]:
        order = torch.randperm(len(x), device=x.device)
        for start in range(0, len(x) - batch_size + 1, batch_size):
            yield x.index_select(0, order[start : start + batch_size])

    return batches


def loader_batches(x: Any, batch_size: int) -> Batches:
    """Shuffled minibatches of a tensor by PyTorch's own `DataLoader`, in this process."""
    data = import_torch().utils.data
    loader = data.DataLoader(data.TensorDataset(x), batch_size, shuffle=True, drop_last=True)
    return lambda: (batch for (batch,) in loader)


def torch_peer(
    problem: Problem,
    batches_of: Callable[[Any, int], Batches],
    device: str = "cpu",
    *,
    compiled: bool = False,
    channels_last: bool = False,
    twin: Twin = MLP,
) -> Peer:
    """The eager PyTorch loop, with what is fast about it: float32 data in memory, fused Adam.

    Its noise comes from PyTorch's global generator.

    Args:
        problem: what to train.
        batches_of: the minibatches of a tensor.
        device: where everything is, `cpu` or `cuda`.
        compiled: fuse the loss and its gradient by `torch.compile`, which needs a C++ compiler.
        channels_last: lay images and kernels out with their channels last.
        twin: the networks.
    """
    model, weights, batches = _torch_parts(problem, batches_of, device, twin)
    torch = import_torch()
    if channels_last:
        for network in model:
            network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(weights, LEARNING_RATE, fused=True)
    terms = torch.compile(torch_elbo_terms) if compiled else torch_elbo_terms
    compile_seconds = None
    if compiled:
        # Its first call compiles both ways; what it finds is not learnt from.
        began = time.perf_counter()
        some = next(iter(batches()))
        torch_loss(model, some, problem.vae.latent_dim, terms).backward()
        optimizer.zero_grad()
        compile_seconds = time.perf_counter() - began
        torch.manual_seed(problem.seed)

    def step(x: Any) -> Any:
        loss = torch_loss(model, x, problem.vae.latent_dim, terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    epoch = functools.partial(_torch_epoch, step, batches)
    return Peer(epoch, lambda: twin.params(model), compile_seconds)


def torch_graph_peer(problem: Problem, device: str = "cuda") -> Peer:
    """The PyTorch loop compiled and captured: a whole step is one CUDA graph.

    `torch.compile` fuses the loss and its gradient; the graph replays them, the noise and the
    fused Adam without Python. What the three steps before the capture learnt is undone.

    Reference:
        https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
    """
    model, weights, batches = _torch_parts(problem, tensor_batches, device, MLP)
    torch = import_torch()
    optimizer = torch.optim.Adam(weights, LEARNING_RATE, fused=True, capturable=True)
    compiled = torch.compile(torch_elbo_terms)
    x = torch.rand(problem.batch_size, problem.images[0].size, device=device)

    def step() -> Any:
        loss = torch_loss(model, x, problem.vae.latent_dim, compiled)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    before = [weight.detach().clone() for weight in weights]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    with torch.no_grad():
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
            for moment in optimizer.state[weight].values():
                moment.zero_()

    def replay(batch: Any) -> Any:
        x.copy_(batch)
        graph.replay()
        return loss.clone()

    return Peer(functools.partial(_torch_epoch, replay, batches), lambda: torch_params(model))


def torch_loss(
    model: TorchVAE, x: Any, latent_dim: int, terms: Callable[..., Any] = torch_elbo_terms
) -> Any:
    """The negative ELBO of a minibatch, nats per image, by `torch_elbo_terms` or its like."""
    eps = import_torch().randn(len(x), latent_dim, device=x.device)
    log_lik, kl = terms(model, x, eps)
    return (kl - log_lik) / len(x)


def _torch_parts(
    problem: Problem,
    batches_of: Callable[[Any, int], Batches],
    device: str,
    twin: Twin,
) -> tuple[TorchVAE, list[Any], Batches]:
    """The networks on a device, their weights, and the minibatches."""
    torch = import_torch()
    torch.manual_seed(problem.seed)
    model = TorchVAE(*(network.to(device) for network in twin.build(problem)))
    weights = [*model.encoder.parameters(), *model.decoder.parameters()]
    pixels = torch.tensor(problem.images.reshape(len(problem.images), -1), device=device)
    return model, weights, batches_of(pixels.float() / 255, problem.batch_size)


def _torch_epoch(step: Callable[[Any], Any], batches: Batches) -> float:
    """Train one epoch; the average loss is read once, in the end, and waits for the device."""
    losses = [step(x) for x in batches()]
    return float(import_torch().stack(losses).mean())
