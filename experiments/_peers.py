"""What the benchmark compares: this library and plain PyTorch loops, training the same VAE."""

import functools
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
NOISE_SEED = 0

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
        compile_seconds: that the program was compiled in before the first epoch; None if it is
            not compiled ahead.
    """

    epoch: Callable[[], float]
    params: Callable[[], Params]
    compile_seconds: float | None = None


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


@functools.cache
def trainer_of(vae: VAE, batch_size: int) -> Trainer:
    """The library's training functions, compiled once for all the seeds of a model."""
    return make_trainer(vae, beta(), batch_size=batch_size)


class Compiled(NamedTuple):
    """A program, and the seconds that it was compiled in."""

    program: Any
    seconds: float


def compiled_for(function: Any, *arguments: Any) -> Compiled:
    """Compile a jitted function ahead, for arguments of such shapes and types."""
    began = time.perf_counter()
    program = function.lower(*arguments).compile()
    return Compiled(program, time.perf_counter() - began)


@functools.cache
def compiled_epoch(vae: VAE, batch_size: int, shape: tuple[int, ...]) -> Compiled:
    """An epoch on uint8 images of a shape, compiled once for all the seeds of a model."""
    trainer, hyper = trainer_of(vae, batch_size), Hyper(*map(jnp.float32, Hyper()))
    state = jax.eval_shape(trainer.init, jax.random.key(0), hyper)
    return compiled_for(trainer.epoch, state, hyper, jax.ShapeDtypeStruct(shape, jnp.uint8))


def jax_peer(problem: Problem) -> Peer:
    """This library, an epoch as one compiled program."""
    trainer = trainer_of(problem.vae, problem.batch_size)
    compiled = compiled_epoch(problem.vae, problem.batch_size, problem.images.shape)
    hyper = jax.tree.map(jnp.float32, Hyper(learning_rate=LEARNING_RATE))
    state = trainer.init(jax.random.key(problem.seed), hyper)
    # Copied, because an epoch donates what it is given.
    state = state._replace(params=jax.tree.map(jnp.array, problem.params))
    data = jnp.asarray(problem.images)

    def epoch() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(compiled.program(state, hyper, data))
        return float(metrics["loss"])

    return Peer(epoch, lambda: state.params, compiled.seconds)


def plain_loss(vae: VAE, params: Params, eps: jax.Array, x: jax.Array) -> jax.Array:
    """The negative ELBO of a minibatch (nats per image), written out as a user would.

    Args:
        vae: the model, of Bernoulli pixels.
        params: its weights.
        eps: [batch, latent], standard normal noise.
        x: [batch, height, width, 1], intensities on [0, 1].
    """
    q = jax.vmap(vae.encode, (None, 0))(params, x)
    z = q.mean + jnp.exp(q.log_var / 2) * eps
    logits = jax.vmap(vae.decode, (None, 0))(params, z)[..., 0]
    log_lik = -optax.sigmoid_binary_cross_entropy(logits, x).sum()
    kl = -0.5 * jnp.sum(1 + q.log_var - q.mean**2 - jnp.exp(q.log_var))
    return (kl - log_lik) / len(x)


def jax_steps_peer(problem: Problem) -> Peer:
    """A JAX loop that dispatches every step, in the style of Flax's VAE example.

    An optimiser step of the same networks is one jitted function with optax's Adam, called with
    minibatches that NumPy gathers.
    """
    vae, batch = problem.vae, problem.batch_size
    optimizer = optax.adam(LEARNING_RATE)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, moments: Any, key: jax.Array, x: jax.Array) -> Any:
        eps = jax.random.normal(key, (len(x), vae.latent_dim))
        loss, gradient = jax.value_and_grad(plain_loss, 1)(vae, params, eps, x)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, loss

    params = jax.tree.map(jnp.array, problem.params)
    moments, done = optimizer.init(params), 0
    images = problem.images.astype(np.float32) / 255
    order_of, root = np.random.default_rng(problem.seed), jax.random.key(problem.seed)
    compiled = compiled_for(step, params, moments, root, images[:batch])

    def epoch() -> float:
        nonlocal params, moments, done
        order, losses = order_of.permutation(len(images)), []
        for start in range(0, len(images) - batch + 1, batch):
            x = images[order[start : start + batch]]
            key = jax.random.fold_in(root, done)
            params, moments, loss = compiled.program(params, moments, key, x)
            losses.append(loss)
            done += 1
        return float(jnp.stack(losses).mean())

    return Peer(epoch, lambda: params, compiled.seconds)


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


def neg_elbo_of(vae: VAE, params: Params, images: Images) -> float:
    """The negative ELBO over a whole test split (nats per image), one ruler for every peer."""
    estimate = estimate_elbo(
        key=jax.random.key(NOISE_SEED),
        vae=vae,
        preprocess=intensities,
        params=params,
        data=jnp.asarray(images),
    )
    return -float(estimate.elbo)
