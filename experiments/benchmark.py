"""How fast the library is: `python -m experiments.benchmark single`.

Each job writes `<output-dir>/benchmark/<job>-<device>.json` and `.md`. What is compared takes
turns in one process, because the clock of a machine drifts more from minute to minute than
from turn to turn; a ratio is read within a turn.
"""

import dataclasses
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, check_output
from typing import Annotated

import jax
import numpy as np
import tyro

from experiments import _benchmark_evaluation as evaluation
from experiments import _benchmark_gpu as sweep_gpu
from experiments import _benchmark_growth as growth
from experiments import _benchmark_sweep as sweep_cpu
from experiments import _benchmark_tabular as tabular
from experiments import _benchmark_text as sentences
from experiments._benchmark_evaluation import Evaluation
from experiments._benchmark_growth import Growth
from experiments._benchmark_job import Job, begin, check_counts, data_arguments, isolated, subject
from experiments._benchmark_sweep import Sweep
from experiments._benchmark_tabular import Tabular
from experiments._benchmark_text import Text
from experiments._peers import OURS, PEERS, Images, Problem, import_torch, neg_elbo_of
from experiments._run import UsageError, check, main
from experiments._timing import (
    Bystanders,
    alternate,
    compared,
    machine,
    seconds_of,
    single_figure,
    spread,
    write_results,
)
from vae_jax import figures
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import NETWORKS

PROG = "python -m experiments.benchmark"
COLD, WARM = "mnist, empty cache", "mnist, filled cache"
OWN_IMPORT, PLAIN_IMPORT = "import vae_jax", "import jax, flax.linen, optax"


@dataclasses.dataclass(frozen=True)
class Single(Job):
    """Time per epoch of one fully connected VAE, against plain PyTorch loops.

    All start from the same weights and train the same model with the same optimiser, in
    turns of some epochs each. Needs PyTorch: pip install 'vae_jax[bench]'.
    """

    epochs_per_turn: int = 1
    """Epochs of one peer before the next has its turn."""
    turns: int = 5
    """How often each has its turn; an epoch that compiles and warms up precedes them."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's layers; the decoder mirrors them."""
    latent_dim: int = 20
    """Dimensions of the latent z."""
    batch_size: int = 128
    """Images in a minibatch; the remainder of an epoch that fills none is left out."""
    seed: int = 0
    """Of the weights, the shuffling and the noise."""


@dataclasses.dataclass(frozen=True)
class Startup(Job):
    """Time from the start of `python -m experiments.mnist` to its first finished epoch.

    With an empty and with a filled compilation cache; and the time of importing the library
    beside that of the packages it is built on.
    """

    turns: int = 3
    """How often each is measured; what fills the other caches precedes them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the speed of the library; each job has its own --help."""

    job: Annotated[
        Single | Startup | Sweep | Tabular | Evaluation | Text | Growth,
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.OmitArgPrefixes,
    ]
    """What to measure."""


def run(config: Config) -> None:
    """Run the job that was asked for."""
    job = config.job
    if isinstance(job, Single):
        run_single(job)
    elif isinstance(job, Startup):
        run_startup(job)
    elif isinstance(job, Tabular):
        tabular.run(job)
    elif isinstance(job, Evaluation):
        evaluation.run(job)
    elif isinstance(job, Text):
        sentences.run(job)
    elif isinstance(job, Growth):
        growth.run(job)
    elif job.device == "cpu":
        sweep_cpu.run(job)
    else:
        sweep_gpu.run(job)


def run_single(config: Single) -> None:
    """Time the peers and write what came out.

    Raises:
        UsageError: if PyTorch is missing, or a setting, the data or the folder does not
            allow it.
    """
    check_counts(config, "epochs_per_turn", "turns", "latent_dim", "batch_size")
    for width in config.hidden:
        check(width >= 1, "--hidden", width, "widths of 1 or more are needed")
    check(0 <= config.seed < 2**32, "--seed", config.seed, "0 to 2^32 - 1 is needed")
    import_torch()
    files, images = begin("single", config)
    batch, total = config.batch_size, len(images.train_images)
    check(batch <= total, "--batch-size", batch, f"at most the {total} images of {images.name}")

    problem = problem_of(config, images.train_images)
    peers = {name: row.build(problem) for name, row in PEERS.items()}
    measures = {name: partial(seconds_of, peer.epoch) for name, peer in peers.items()}
    bystanders = Bystanders()
    first: dict[str, float] = {}
    for name, measure in measures.items():
        first[name] = measure()
        print(f"first  {name}  {first[name]:.3f} s", flush=True)
    turns = alternate(measures, turns=config.turns, calls=config.epochs_per_turn)
    hardware = machine(bystanders)

    per_epoch = total // batch * batch
    widths = (images.train_images[0].size, *config.hidden, config.latent_dim)
    result = {
        **subject("single", config, images),
        "architecture": "-".join(map(str, widths)),
        "images_per_epoch": per_epoch,
        "epochs": 1 + config.turns * config.epochs_per_turn,
        "peers": {
            name: {
                "description": PEERS[name].description,
                "first_epoch_seconds": first[name],
                **spread(turns[name]),
                "images_per_second": per_epoch / spread(turns[name])["median_seconds"],
                **compared(turns[name], turns[OURS]),
                "test_neg_elbo": neg_elbo_of(problem.vae, peer.params(), images.test_images),
            }
            for name, peer in peers.items()
        },
        "machine": hardware,
    }
    title = f"VAE {result['architecture']} on {images.name}, batch {batch}"
    rows = [
        {
            "peer": name,
            **{which: f"{peer[f'{which}_seconds']:.3f}" for which in ("median", "min", "max")},
            "images/s": f"{peer['images_per_second']:,.0f}",
            "times ours": f"{peer['ratio_of_medians']:.2f}",
            "by turns": f"{peer['median_of_turn_ratios']:.2f}",
            "first epoch": f"{peer['first_epoch_seconds']:.2f}",
            f"-ELBO, {result['epochs']} epochs": f"{peer['test_neg_elbo']:.2f}",
        }
        for name, peer in result["peers"].items()
    ]
    write_results(
        files,
        f"{title}: seconds per epoch, CPU",
        result,
        rows,
        f"An epoch is {per_epoch} images. Median, minimum and maximum over {config.turns} turns "
        f"of {config.epochs_per_turn}, in which the peers alternate in one process. Times ours: "
        "ratio of the medians; by turns: median of the ratios within a turn. The first epoch "
        "compiles and warms up and is not in the others. All start from the same weights; "
        "-ELBO is in nats per image on the whole test split, with the same noise for each.",
        "\n".join(f"- `{name}`: {row.description}" for name, row in PEERS.items()),
    )
    seconds = {name: np.array(turns[name]) for name in turns}
    figures.save(single_figure(title, turns), files.with_suffix(".png"), **seconds)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def problem_of(config: Single, images: Images) -> Problem:
    """The model that a checked configuration describes, with fresh weights, and its data."""
    x_shape, latent_dim, likelihood = images.shape[1:], config.latent_dim, bernoulli()
    encoder, decoder = NETWORKS["mlp"](
        config.hidden, x_shape=x_shape, latent_dim=latent_dim, theta_dim=likelihood.theta_dim
    )
    vae = make_vae(encoder, decoder, likelihood, x_shape=x_shape, latent_dim=latent_dim)
    params = vae.init(jax.random.key(config.seed))
    return Problem(vae, config.batch_size, config.seed, params, images)


def run_startup(config: Startup) -> None:
    """Time the start of an experiment and the imports, and write what came out.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it, or the experiment
            fails.
    """
    check_counts(config, "turns")
    files, images = begin("startup", config)
    with tempfile.TemporaryDirectory() as scratch:
        caches, environment = isolated(Path(scratch))
        arguments = data_arguments(config, images)
        measures = {
            COLD: lambda: first_epoch_seconds(arguments, environment, empty=caches / "xla"),
            WARM: lambda: first_epoch_seconds(arguments, environment),
            OWN_IMPORT: lambda: import_seconds(OWN_IMPORT, environment),
            PLAIN_IMPORT: lambda: import_seconds(PLAIN_IMPORT, environment),
        }
        # Matplotlib's list of fonts and the compiled Python files are written only once.
        import_seconds("import experiments.mnist", environment)
        bystanders = Bystanders()
        turns = alternate(measures, turns=config.turns)
        hardware = machine(bystanders)
    result = {
        **subject("startup", config, images),
        "measures": {name: spread(seconds) for name, seconds in turns.items()},
        "ratios": {
            f"{name} / {other}": compared(turns[name], turns[other])
            for name, other in ((WARM, COLD), (OWN_IMPORT, PLAIN_IMPORT))
        },
        "machine": hardware,
    }
    rows = [
        {
            "measure": name,
            **{which: f"{measure[f'{which}_seconds']:.2f}" for which in ("median", "min", "max")},
        }
        for name, measure in result["measures"].items()
    ]
    write_results(
        files,
        f"Start of experiments.mnist on {images.name}, and imports: seconds, CPU",
        result,
        rows,
        "`mnist`: from the start of the process `python -m experiments.mnist --epochs 1` to the "
        "line of its first epoch, which has trained, tested and compiled, with an empty or a "
        "filled compilation cache; the data are on the disk. Imports: each in a fresh process, "
        f"without the start of Python. Over {config.turns} turns, in which the four alternate.",
    )
    print(f"{files.name}.json and .md are in {files.parent}")


def first_epoch_seconds(
    arguments: Sequence[str], environment: Mapping[str, str], empty: Path | None = None
) -> float:
    """Seconds from the start of the MNIST experiment to its first finished epoch.

    It gets the arguments and the environment; the cache folder `empty` is removed first.

    Raises:
        UsageError: if it stops before, with the last line that it printed.
    """
    if empty is not None:
        shutil.rmtree(empty, ignore_errors=True)
    command = [sys.executable, "-m", "experiments.mnist", "--epochs", "1", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--output-dir", folder]
        began = time.perf_counter()
        with Popen(command, env=environment, stdout=PIPE, stderr=STDOUT, text=True) as child:
            line = ""
            for line in child.stdout or ():
                if "epoch 1/1" in line:
                    seconds = time.perf_counter() - began
                    # All that was compiled for this line is in the cache by now; the figures
                    # that would follow are not measured.
                    child.kill()
                    return seconds
    raise UsageError(f"python -m experiments.mnist: no epoch was finished ({line.strip()})")


def import_seconds(statement: str, environment: Mapping[str, str]) -> float:
    """Seconds of an import statement in a fresh process, without the start of Python."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return float(check_output(command, env=environment, stderr=PIPE, text=True))


if __name__ == "__main__":
    # PyTorch needs room on the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # The first epoch is timed with its compilation, whatever an earlier run left behind.
    jax.config.update("jax_enable_compilation_cache", False)
    main(Config, run, PROG)
