"""Where an epoch's time goes, by XLA's profiler: `python -m experiments.benchmark profile`.

The profiler gives the time of every instruction of the compiled program; the program's text says
what each of them computes.
"""

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments import mnist
from experiments._benchmark_instructions import Weights, instruction_seconds, kinds_of
from experiments._benchmark_job import begin, files_of, subject
from experiments._benchmark_model import OneModel, begin_model, checked, widths_of
from experiments._benchmark_sweep import Sweep, model_of, resolved
from experiments._benchmark_trial import Trial, yardstick
from experiments._benchmark_wine import OurSweep
from experiments._peers import LEARNING_RATE, trainer_of
from experiments._run import check, check_counts
from experiments._timing import Bystanders, machine, seconds_of, write_results
from vae_jax.data import ImageData
from vae_jax.types import Hyper, Params

# The files of this job in `all`, and the flags that make them.
RUNS = {
    "profile": (),
    "profile-conv": ("--network", "conv"),
    "profile-tabular": ("--of", "tabular"),
    "profile-sweep": ("--of", "sweep"),
}
# A whole epoch of 24 members is more instructions than the profiler keeps.
SWEEP_STEPS = 50
GPU_MEMBERS = 64


@dataclasses.dataclass(frozen=True)
class Profile(OneModel):
    """The time of each operation in an epoch: of one VAE, of many of a table, or of a sweep."""

    of: Literal["single", "tabular", "sweep"] = "single"
    """single: the model of the other settings; tabular: 250 models of Wine at once; sweep: a
    member of 784-512-256-2 (GPU: 784-400-20) among others, and beside it the model alone."""
    members: int | None = None
    """Of the sweep, 24 one after the other; on a GPU 64 at once."""
    instructions: int = 12
    """How many are listed, the costliest first."""


class Program(NamedTuple):
    """A compiled program to profile.

    Attributes:
        text: as XLA writes it.
        call: it once, and wait for it.
        weights: how it holds the parameters, their gradients and moments.
        members: that its seconds are divided by.
    """

    text: str
    call: Callable[[], object]
    weights: Weights
    members: int = 1


class Subject(NamedTuple):
    """What is profiled.

    Attributes:
        job: its name.
        files: where to write, without an ending.
        images: the data, unless it is a table.
        title: of the note.
        call: what a call is, in words.
        programs: by their names.
    """

    job: str
    files: Path
    images: ImageData | None
    title: str
    call: str
    programs: dict[str, Program]


def run(config: Profile) -> None:
    """Profile an epoch, and write what came out.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
    """
    check_counts(config, "instructions", "members")
    one_member = config.members is None or config.of == "sweep"
    check(one_member, "--members", config.members, "belongs to --of sweep")
    mlp = config.of == "single" or config.network == "mlp"
    check(mlp, "--network", config.network, "belongs to --of single")
    if config.device == "gpu":
        # What the GPU replays as one graph the profiler does not tell apart. XLA reads its
        # flags when it starts, which is below.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_command_buffer=".strip()
    begin_of = {"single": _single, "tabular": _tabular, "sweep": _sweep}
    about = begin_of[config.of](config)
    bystanders = Bystanders()
    found = {name: profiled(program, config) for name, program in about.programs.items()}
    result = {
        **subject(about.job, config, about.images),
        "call": about.call,
        "programs": found,
        "machine": machine(bystanders),
    }
    kinds = dict.fromkeys(kind for one in found.values() for kind in one["by_kind"])
    several = len(found) > 1
    rows = [
        {"": kind} | {
            f"{name} {what}" if several else what: cell
            for name, one in found.items()
            for what, cell in _cells(kind, one).items()
        }
        for kind in kinds
    ]  # fmt: skip
    timed = "; ".join(
        f"{f'`{name}`: ' if several else ''}{one['seconds']:.3g} s, with the profiler "
        f"{one['seconds_profiled']:.3g} s, on {one['processors_busy']:.2f} processors"
        for name, one in found.items()
    )
    write_results(
        about.files,
        f"{about.title}: where the time goes, {config.device.upper()}",
        result,
        rows,
        f"{about.call}: {timed}. Seconds are from the start of an "
        "instruction to its end: one that the threads share counts once, two that run beside "
        "each other both count, so that they do not add up to the whole. An instruction that "
        "fuses several operations counts as the first of: matrix product, gathering, random "
        "numbers, exp or log; then, if it makes an array of a weight's shape, or makes or reads "
        "the vector that a table's models are updated in, Adam or, if it multiplies nothing, a "
        "copy.",
        *(_listed(name if several else "", one) for name, one in found.items()),
    )
    print(f"{about.files.name}.json and .md are in {about.files.parent}")


def _cells(kind: str, one: Mapping[str, Any]) -> dict[str, str]:
    seconds, total = one["by_kind"].get(kind, 0.0), one["seconds_of_instructions"]
    return {"seconds": f"{seconds:.3f}", "share": f"{100 * seconds / total:.1f}%"}


def _listed(name: str, one: Mapping[str, Any]) -> str:
    total = one["seconds_of_instructions"]
    listed = ", ".join(
        f"`{each['name']}` ({each['kind']}) {100 * each['seconds'] / total:.1f}%"
        for each in one["instructions"]
    )
    return f"The costliest instructions{f' of `{name}`' if name else ''}: {listed}."


def profiled(program: Program, config: Profile) -> dict[str, Any]:
    """The time of a call, and of what is in it by its kind and by its instruction."""
    program.call()
    began = time.process_time()
    plain = seconds_of(program.call)
    processors = (time.process_time() - began) / plain
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            traced = seconds_of(program.call)
        times, counts = instruction_seconds(Path(folder))
    kinds = kinds_of(program.text, program.weights)
    each = program.members
    times = {name: seconds / each for name, seconds in times.items() if name in kinds}
    by_kind: dict[str, float] = {}
    for name, seconds in times.items():
        by_kind[kinds[name]] = by_kind.get(kinds[name], 0.0) + seconds
    costly = sorted(times, key=lambda name: -times[name])[: config.instructions]
    return {
        "seconds": plain / each,
        "seconds_profiled": traced / each,
        "processors_busy": processors,
        "seconds_of_instructions": sum(times.values()),
        "by_kind": dict(sorted(by_kind.items(), key=lambda item: -item[1])),
        "instructions": [
            {
                "name": name,
                "kind": kinds[name],
                "seconds": times[name],
                "calls": counts[name],
            }
            for name in costly
        ],
    }


def _single(config: Profile) -> Subject:
    """One model, as `single` trains it."""
    config = checked(config)
    begun = begin_model("profile", config)
    problem, batch = begun.problem, config.batch_size
    trainer = trainer_of(problem.vae, batch)
    hyper = jax.tree.map(jnp.float32, Hyper(learning_rate=LEARNING_RATE))
    state = trainer.init(jax.random.key(config.seed), hyper)
    data = jnp.asarray(problem.images)
    epoch = jax.jit(trainer.epoch, donate_argnums=0).lower(state, hyper, data).compile()

    def once() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(epoch(state, hyper, data))

    return Subject(
        begun.job,
        begun.files,
        begun.images,
        f"VAE {widths_of(config, begun.pixels)} on {begun.images.name}, batch {batch}",
        f"An epoch of {begun.steps * batch} images",
        {"single": Program(str(epoch.as_text()), once, Weights(shapes_of(problem.params)))},
    )


def _tabular(config: Profile) -> Subject:
    """The models of `tabular`, between two of their reports."""
    ours = OurSweep()  # first, for it says how many devices JAX starts with
    files = files_of("profile-tabular", config)
    started = ours.start()
    models = len(ours.task.members)
    population = started.population

    def once() -> None:
        nonlocal population
        arguments = (population, started.members, started.data, started.test)
        population, _ = jax.block_until_ready(started.epoch(*arguments))

    # As they are on each device: a share of the members, in the one vector that Adam updates.
    leaves = jax.tree.leaves(started.population.train.params)
    on_device = leaves[0].sharding.num_devices
    vector = (sum(math.prod(leaf.shape[1:]) for leaf in leaves),)
    weights = Weights({vector}, len(leaves[0]) // on_device, is_flat=True)
    program = Program(str(started.epoch.as_text()), once, weights)
    title = f"{models} models of a table at once, {ours.task.title}, batch {ours.task.batch_size}"
    call = f"{ours.task.passes} epochs of all, spread over {on_device} devices, and an evaluation"
    return Subject("profile-tabular", files, None, title, call, {"vmap": program})


def _sweep(config: Profile) -> Subject:
    """A member of the population that `sweep` trains, and the model alone."""
    files, images = begin("profile-sweep", config)
    on_cpu = config.device == "cpu"
    size = config.members or (24 if on_cpu else GPU_MEMBERS)
    settings = resolved(
        Sweep(
            dataset=config.dataset,
            data_dir=config.data_dir,
            device=config.device,
            members=(size,),
            hidden=config.hidden,
            latent_dim=config.latent_dim,
            batch_size=config.batch_size,
        )
    )
    task = mnist.prepare(model_of(settings, images, size))[1]
    steps = min(SWEEP_STEPS, len(images.train_images) // config.batch_size)
    rows = steps * config.batch_size
    # As large a part of the test images, or evaluating them would take more than its share.
    tested = max(1, len(images.test_images) * rows // len(images.train_images))
    task = task._replace(data=images.train_images[:rows], test=images.test_images[:tested])
    execution = "map" if on_cpu else "vmap"
    trials = {
        "solo": Trial(task, [yardstick(task.members)], "map"),
        execution: Trial(task, task.members, execution),
    }
    alone = {shape[1:] for shape in shapes_of(trials["solo"].population.train.params)}
    programs = {
        name: Program(
            trial.program_text(),
            trial.epoch,
            Weights(alone, trial.size),
            trial.size,
        )
        for name, trial in trials.items()
    }
    title = f"{size} members of a sweep, {task.title}, batch {config.batch_size}"
    call = f"{steps} steps of a member and its evaluation on {tested} images"
    return Subject("profile-sweep", files, images, title, call, programs)


def shapes_of(params: Params) -> set[tuple[int, ...]]:
    """The shapes of some parameters."""
    return {leaf.shape for leaf in jax.tree.leaves(params)}
