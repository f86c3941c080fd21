"""Where an epoch's time goes, by XLA's profiler: `python -m experiments.benchmark profile`.

The profiler gives the time of every instruction of the compiled program; the program's text says
what each of them computes.
"""

import dataclasses
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments._benchmark_cost import PRODUCTS
from experiments._benchmark_job import check_counts, subject
from experiments._benchmark_model import OneModel, begin_model, checked, widths_of
from experiments._peers import LEARNING_RATE, trainer_of
from experiments._timing import Bystanders, machine, seconds_of, write_results
from vae_jax.types import Hyper

OPTIMISER, LIKELIHOOD = "Adam", "exp and log of likelihood and KL"
GATHER, NOISE, REST = "minibatches gathered and cast", "random numbers", "everything else"
# What an instruction is, by the first of these operations that is in it.
KINDS = {
    PRODUCTS: ("dot", "custom-call"),
    GATHER: ("gather", "dynamic-slice"),
    NOISE: ("xor", "rng-bit-generator", "sort"),
    LIKELIHOOD: ("exponential", "log-plus-one", "log", "logistic", "exponential-minus-one"),
}
# `%name = f32[128,400]{1,0} fusion(...), kind=kLoop, calls=%computation, ...`
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = \(?(\w+\[[\d,]*\]).*? ([a-z][\w-]*)\(")
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Profile(OneModel):
    """The time of each operation in an epoch of one VAE, on the CPU."""

    instructions: int = 12
    """How many are listed, the costliest first."""


def run(config: Profile) -> None:
    """Profile an epoch, and write what came out.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
    """
    config = checked(config)
    check_counts(config, "instructions")
    begun = begin_model("profile", config)
    problem, batch = begun.problem, config.batch_size
    trainer = trainer_of(problem.vae, batch)
    hyper = jax.tree.map(jnp.float32, Hyper(learning_rate=LEARNING_RATE))
    state = trainer.init(jax.random.key(config.seed), hyper)
    data = jnp.asarray(problem.images)
    epoch = jax.jit(trainer.epoch, donate_argnums=0).lower(state, hyper, data).compile()
    bystanders = Bystanders()

    def once() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(epoch(state, hyper, data))

    once()
    began = time.process_time()
    plain = seconds_of(once)
    processors = (time.process_time() - began) / plain
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            traced = seconds_of(once)
        times, counts = instruction_seconds(Path(folder))
    weights = {leaf.shape for leaf in jax.tree.leaves(problem.params)}
    kinds = kinds_of(str(epoch.as_text()), weights)
    times = {name: seconds for name, seconds in times.items() if name in kinds}
    total = sum(times.values())
    by_kind: dict[str, float] = {}
    for name, seconds in times.items():
        by_kind[kinds[name]] = by_kind.get(kinds[name], 0.0) + seconds
    by_kind = dict(sorted(by_kind.items(), key=lambda item: -item[1]))
    costly = sorted(times, key=lambda name: -times[name])[: config.instructions]
    result = {
        **subject(begun.job, config, begun.images),
        "architecture": widths_of(config, begun.pixels),
        "seconds_per_epoch": plain,
        "seconds_per_epoch_profiled": traced,
        "processors_busy": processors,
        "seconds_of_instructions": total,
        "by_kind": by_kind,
        "instructions": [
            {
                "name": name,
                "kind": kinds[name],
                "seconds": times[name],
                "calls": counts[name],
            }
            for name in costly
        ],
        "machine": machine(bystanders),
    }
    listed = ", ".join(f"`{n}` ({kinds[n]}) {100 * times[n] / total:.1f}%" for n in costly)
    write_results(
        begun.files,
        f"VAE {result['architecture']} on {begun.images.name}, batch {batch}: an epoch's time, CPU",
        result,
        [
            {"": kind, "seconds": f"{s:.3f}", "share": f"{100 * s / total:.1f}%"}
            for kind, s in by_kind.items()
        ],
        f"One epoch, {begun.steps * batch} images, in {plain:.2f} s, with the profiler in "
        f"{traced:.2f} s, on {processors:.2f} processors. Seconds are from the start of an "
        "instruction to its end: one that the threads share counts once, two that run beside "
        "each other both count, so that they do not add up to the epoch. An instruction that "
        "fuses several operations counts as the first of: matrix product, gathering, random "
        "numbers, exp or log; then, if it makes an array of a weight's shape, Adam.",
        f"The costliest instructions of a step: {listed}.",
    )
    print(f"{begun.files.name}.json and .md are in {begun.files.parent}")


def instruction_seconds(folder: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and calls of everything that a trace has of the CPU's threads, by name."""
    [file] = folder.glob("**/*.xplane.pb")
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                seconds[event.name] = seconds.get(event.name, 0.0) + event.duration_ns / 1e9
                calls[event.name] = calls.get(event.name, 0) + 1
    return seconds, calls


def kinds_of(program: str, weights: set[tuple[int, ...]]) -> dict[str, str]:
    """What each instruction of a compiled program is, by its name.

    Args:
        program: as XLA writes it.
        weights: shapes of the parameters.

    Returns:
        The kinds; of loops and calls none, as what is in them has its own time.
    """
    bodies = dict(_computations(program))
    kinds = {}
    for body in bodies.values():
        for line in body:
            found = _INSTRUCTION.match(line)
            if found is None or found[3] in ("while", "call", "conditional", "parameter"):
                continue
            inner = _operations(line, bodies)
            kind = next((k for k, ops in KINDS.items() if not inner.isdisjoint(ops)), None)
            shape = tuple(map(int, re.findall(r"\d+", found[2].partition("[")[2])))
            kinds[found[1]] = kind or (OPTIMISER if shape in weights else REST)
    return kinds


def _computations(program: str) -> Iterator[tuple[str, list[str]]]:
    """The computations of a program, their lines by their names."""
    name, body = "", []
    for line in program.splitlines():
        head = re.match(r"^(?:ENTRY )?%?([\w.-]+) .*\{$", line)
        if head is not None:
            name, body = head[1], []
        elif line.startswith("}"):
            yield name, body
        else:
            body.append(line)


def _operations(line: str, bodies: Mapping[str, list[str]]) -> set[str]:
    """The operations of an instruction, those of what it fuses among them."""
    found = _INSTRUCTION.match(line)
    operations = set() if found is None else {found[3]}
    for name in _CALLS.findall(line):
        for inner in bodies.get(name, []):
            operations |= _operations(inner, bodies)
    return operations
