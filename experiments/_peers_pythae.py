"""pythae with the weights and the networks of ours: its models, and its trainer."""

import importlib
import io
import logging
import tempfile
from contextlib import redirect_stderr
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments._peers import LEARNING_RATE, Peer, Problem
from experiments._peers_torch import TorchVAE, import_torch, torch_params, torch_vae
from experiments._run import UsageError
from vae_jax.types import Params


class Pythae(NamedTuple):
    """The parts of pythae that are used."""

    models: Any
    bases: Any
    output: Any
    trainers: Any
    datasets: Any


def import_pythae() -> Pythae:
    """pythae, which only this comparison needs.

    Raises:
        UsageError: if it, or PyTorch, is not installed.
    """
    import_torch()
    try:
        return Pythae(
            importlib.import_module("pythae.models"),
            importlib.import_module("pythae.models.nn"),
            importlib.import_module("pythae.models.base.base_utils").ModelOutput,
            importlib.import_module("pythae.trainers"),
            importlib.import_module("pythae.data.datasets"),
        )
    except ImportError:
        raise UsageError(
            "pythae is not installed, and the benchmark compares with it: "
            "pip install 'vae_jax[bench]'"
        ) from None


def pythae_vae(params: Params, pixels: int, latent_dim: int) -> tuple[Any, TorchVAE]:
    """Pythae's Bernoulli VAE with our fully connected networks, and these networks."""
    torch, pythae = import_torch(), import_pythae()
    twin = torch_vae(params)

    class Encoder(pythae.bases.BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = twin.encoder

        def forward(self, x: Any) -> Any:
            mean, log_var = self.network(x).chunk(2, dim=1)
            return pythae.output(embedding=mean, log_covariance=log_var)

    class Decoder(pythae.bases.BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = twin.decoder

        def forward(self, z: Any) -> Any:
            return pythae.output(reconstruction=torch.sigmoid(self.network(z)))

    settings = pythae.models.VAEConfig(
        input_dim=(pixels,), latent_dim=latent_dim, reconstruction_loss="bce"
    )
    return pythae.models.VAE(settings, encoder=Encoder(), decoder=Decoder()), twin


def pythae_peer(problem: Problem) -> Peer:
    """Pythae's `BaseTrainer`, an epoch of its training step, without validation or files."""
    torch, pythae = import_torch(), import_pythae()
    pixels: Float[np.ndarray, "n pixels"] = problem.images.reshape(len(problem.images), -1) / 255
    model, twin = pythae_vae(problem.params, pixels.shape[1], problem.vae.latent_dim)
    labels = torch.zeros(len(pixels))
    # It sets the level of its own loggers, and tells of every epoch.
    logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pythae.trainers.BaseTrainer(
            model,
            train_dataset=pythae.datasets.BaseDataset(torch.from_numpy(pixels).float(), labels),
            training_config=pythae.trainers.BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=problem.batch_size,
                learning_rate=LEARNING_RATE,
                seed=problem.seed,
                no_cuda=True,
            ),
        )
        trainer.prepare_training()
    done = 0

    def epoch() -> float:
        nonlocal done
        done += 1
        with redirect_stderr(io.StringIO()):  # its progress bar
            return float(trainer.train_step(done))

    return Peer(epoch, lambda: torch_params(twin))
