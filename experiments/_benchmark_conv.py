"""The convolutional network as matrix products against the same one as native convolutions."""

import math
from functools import partial
from typing import Any

import flax.linen as nn

from experiments import mnist
from experiments._benchmark_cost import architecture
from experiments._benchmark_sweep import Sweep, model_of
from experiments._benchmark_trial import Trial
from experiments._noise import elbo_of
from experiments._sweep import Task
from experiments._timing import alternate, compared, seconds_of, spread
from vae_jax.data import ImageData
from vae_jax.model import VAE, make_vae
from vae_jax.networks import CONV_CHANNELS, conv
from vae_jax.networks.conv import ConvDecoder, ConvEncoder
from vae_jax.objectives import beta
from vae_jax.preprocess import intensities
from vae_jax.train import make_trainer

MEMBERS = (1, 4, 16)
HIDDEN, LATENT_DIM = (256,), 2


class NativeEncoder(ConvEncoder):
    """`ConvEncoder` with linen's convolutions, and weights of the same names and layout."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Encode one image."""
        for i, features in enumerate(self.channels):
            layer = nn.Conv(features, (4, 4), (2, 2), padding=1, name=f"DownConv_{i}")
            x = self.activation(layer(x))
        x = x.reshape(-1)
        for width in self.hidden:
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(2 * self.latent_dim)(x)


class NativeDecoder(ConvDecoder):
    """`ConvDecoder` with linen's transposed convolutions, likewise."""

    @nn.compact
    def __call__(self, z: Any) -> Any:
        """Decode one latent vector."""
        height, width, *depth = self.theta_shape
        shrink = 2 ** len(self.channels)
        smallest = (height // shrink, width // shrink, self.channels[0])
        for size in (*self.hidden, math.prod(smallest)):
            z = self.activation(nn.Dense(size)(z))
        z = z.reshape(smallest)
        outputs = [*self.channels[1:], math.prod(depth)]
        for i, features in enumerate(outputs):
            z = nn.ConvTranspose(features, (4, 4), (2, 2), name=f"UpConv_{i}")(z)
            z = self.activation(z) if i < len(outputs) - 1 else z
        return z.reshape(self.theta_shape)


def native_twin(vae: VAE, x_shape: tuple[int, ...]) -> VAE:
    """The model with native convolutions of the same shapes."""
    shape = {"x_shape": x_shape, "latent_dim": LATENT_DIM}
    nets = conv(HIDDEN, theta_dim=vae.likelihood.theta_dim, **shape)
    down, up = nets
    encoder = NativeEncoder(down.channels, down.hidden, down.latent_dim)
    decoder = NativeDecoder(up.channels, up.hidden, up.theta_shape)
    return make_vae(encoder, decoder, vae.likelihood, **shape)


def compare(config: Sweep, images: ImageData) -> dict[str, Any]:
    """Seconds of an epoch of some members under vmap, with its evaluation, in both forms.

    Returns:
        `architecture`, and `forms`: by the number of members, the times of each form.
    """
    widths = architecture(*CONV_CHANNELS, *HIDDEN, LATENT_DIM)
    forms = {str(members): compare_of(config, images, members) for members in MEMBERS}
    return {"architecture": widths, "forms": forms}


def compare_of(config: Sweep, images: ImageData, members: int) -> dict[str, Any]:
    """The times of both forms of as many members, in turns."""
    tasks = tasks_of(config, images, members)
    trials = {name: Trial(task, task.members, "vmap") for name, task in tasks.items()}
    for trial in trials.values():
        trial.epoch()
    measures = {name: partial(seconds_of, trial.epoch) for name, trial in trials.items()}
    turns = alternate(measures, turns=config.turns)
    return {
        name: {**spread(turns[name]), **compared(turns[name], turns["conv, matmul"])}
        for name in turns
    }


def tasks_of(config: Sweep, images: ImageData, members: int) -> dict[str, Task]:
    """The members to train, in both forms."""
    model = model_of(config, images, members, network="conv", hidden=HIDDEN, latent_dim=LATENT_DIM)
    task = mnist.prepare(model)[1]
    x_shape = images.train_images.shape[1:]
    twin = native_twin(task.vae, x_shape)
    trainer = make_trainer(twin, beta(), batch_size=config.batch_size)
    native = task._replace(trainer=trainer, evaluate=elbo_of(twin, intensities))
    return {"conv, matmul": task, "conv, native": native}
