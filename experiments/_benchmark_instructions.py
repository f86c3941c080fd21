"""What the instructions of a compiled program compute, and how long each of them takes."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from experiments._benchmark_cost import PRODUCTS

OPTIMISER, LIKELIHOOD = "Adam", "exp and log of likelihood and KL"
GATHER, NOISE, REST = "minibatches gathered and cast", "random numbers", "everything else"
COPIES = "weights copied or selected"
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


class Weights(NamedTuple):
    """How a program holds parameters, their gradients and moments.

    Attributes:
        shapes: of the arrays of one model.
        models: that an array may have side by side, in one leading axis or in several.
        is_flat: whether they are the one vector of `vae_jax.train.flat`. What reads it belongs
            to it as well: the new weights are cut out of it, and have shapes that the outputs of
            a minibatch may have too.
    """

    shapes: set[tuple[int, ...]]
    models: int = 1
    is_flat: bool = False

    def are_in(self, made: tuple[int, ...], read: set[tuple[int, ...]]) -> bool:
        """Whether an instruction is about weights.

        Args:
            made: the shape of what it makes.
            read: the shapes of what it fuses.
        """
        return any(map(self._have, {made} | read if self.is_flat else {made}))

    def _have(self, shape: tuple[int, ...]) -> bool:
        lead = (1, self.models)
        cuts = range(len(shape) + 1)
        return any(math.prod(shape[:i]) in lead and shape[i:] in self.shapes for i in cuts)


def instruction_seconds(folder: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and calls of every instruction that a trace has, by name.

    On a GPU those of its kernels, each under the name of its instruction; on a CPU those of the
    threads.
    """
    [file] = folder.glob("**/*.xplane.pb")
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    planes = [*jax.profiler.ProfileData.from_file(str(file)).planes]
    kernels = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in kernels or planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is None:
                    continue
                seconds[name] = seconds.get(name, 0.0) + event.duration_ns / 1e9
                calls[name] = calls.get(name, 0) + 1
    return seconds, calls


def kinds_of(program: str, weights: Weights) -> dict[str, str]:
    """What each instruction of a compiled program is, by its name.

    Args:
        program: as XLA writes it.
        weights: of the models in it.

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
            within = [*_within(line, bodies)]
            inner = {_operation(*one) for one in within}
            kind = next((k for k, ops in KINDS.items() if not inner.isdisjoint(ops)), None)
            # Adam multiplies; what does not has moved the weights, or chosen between two.
            of_weights = OPTIMISER if "multiply" in inner else COPIES
            moves = kind == GATHER and "multiply" not in inner
            if kind is None or moves:
                about = weights.are_in(_shape(found), {_shape(one) for _, one in within})
                kind = of_weights if about else kind
            kinds[found[1]] = kind or REST
    return kinds


def _shape(found: re.Match[str]) -> tuple[int, ...]:
    """Of what an instruction makes; of the first of several."""
    return tuple(map(int, re.findall(r"\d+", found[2].partition("[")[2])))


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


def _within(line: str, bodies: Mapping[str, list[str]]) -> Iterator[tuple[str, re.Match[str]]]:
    """An instruction and all that it fuses, as lines and what was found in them."""
    found = _INSTRUCTION.match(line)
    if found is not None:
        yield line, found
    for name in _CALLS.findall(line):
        for inner in bodies.get(name, []):
            yield from _within(inner, bodies)


def _operation(line: str, found: re.Match[str]) -> str:
    """An operation by its name; on a GPU a library sorts, as it multiplies matrices."""
    is_call = found[3] == "custom-call"
    is_sort = is_call and re.search(r'custom_call_target="[^"]*Sort', line)
    return "sort" if is_sort else found[3]
