"""Members spread over eight devices, which a process of its own pretends to have."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import ROOT, command, environment, run_of
from test_experiments import TINY, rows_of
from test_sweep import One, at, distance, evaluation, leaves, rounding, sweep_of, train, trainer_of

from experiments import _sweep
from experiments._chunks import useful_devices
from experiments._options import RunOptions
from vae_jax import sharding
from vae_jax.data import load_images
from vae_jax.sweep import (
    Plan,
    Population,
    Report,
    Subsets,
    Sweep,
    make_members,
    make_sweep,
    place_members,
    plan_chunks,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")

DEVICES = 8
NUMBERS = (8, 5, 11)  # of members: one for each device, too few, two for some
EXECUTIONS = ("map", "vmap")
MANY = [One(seed, b, 1e-3) for b in (0.5, 1.0, 4.0, 8.0) for seed in (7, 3, 5)][: max(NUMBERS)]


def on_eight_devices() -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**environment(), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}


def with_nothing_said() -> dict[str, str]:
    """Of how many devices the processor counts as."""
    kept = {k: v for k, v in environment().items() if k != "JAX_NUM_CPU_DEVICES"}
    flags = [flag for flag in kept.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    return {**kept, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}


def ended(
    words: list[str], env: dict[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """A process that came to its end, well or not, and what it said."""
    where = {"env": env, "timeout": 500, **options}
    return subprocess.run(words, capture_output=True, text=True, check=False, **where)


# What is checked, in the process with eight devices.


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def sharded(
    sweep: Sweep, mesh: sharding.Mesh, number: int, images: np.ndarray, test: np.ndarray
) -> tuple[Population, Report]:
    """The first members after two epochs, filled up to a multiple of the devices."""
    size = plan_chunks(number, shards=mesh.size).chunk
    some = MANY[:number]
    members = make_members([one.hyper for one in some], [one.seed for one in some], size=size)
    members = place_members(members._replace(seeds=all_seeds(members.seeds)), mesh)
    data = [sharding.place(array, mesh) for array in (images, test)]
    return train(sweep, members, *data, epochs=2)


def waiting_in(
    sweep: Sweep, mesh: sharding.Mesh, images: np.ndarray, test: np.ndarray
) -> list[str]:
    """The instructions of an epoch in which a device waits for the others."""
    some = MANY[: mesh.size]
    members = make_members([one.hyper for one in some], [one.seed for one in some])
    members = place_members(members, mesh)
    data = [sharding.place(array, mesh) for array in (images, test)]
    text = sweep.epoch.lower(sweep.init(members), members, *data).compile().as_text()
    return re.findall(r"(?:[\w-]*all-[\w-]+|collective-[\w-]+|reduce-scatter[\w-]*)\(", text)


def all_seeds(seeds: Any) -> np.ndarray:
    """Filled up to three, so that five members and eight are one program."""
    return np.resize(np.asarray(seeds), 3)


def compare() -> dict[str, dict[str, Any]]:
    mesh = sharding.member_mesh()
    assert mesh is not None
    digits = load_images("digits").train_images
    images, test = digits[:200], digits[200:250]
    whole = make_members([one.hyper for one in MANY], [one.seed for one in MANY])
    one_device = (jnp.asarray(images), jnp.asarray(test))
    tolerance = rounding(sweep_of("map"), whole, *one_device, epochs=2)
    seen = {}
    for execution in EXECUTIONS:
        plain, plain_report = train(sweep_of(execution), whole, *one_device, epochs=2)
        sweep = make_sweep(trainer_of("mlp"), evaluation(), execution=execution, mesh=mesh)
        collectives = waiting_in(sweep, mesh, images, test)
        with pytest.raises(ValueError, match="11 members on 8 devices") as refused:
            sweep.init(whole)
        for number in NUMBERS:
            population, report = sharded(sweep, mesh, number, images, test)
            again = sharded(sweep, mesh, number, images, test)
            real, filling = np.arange(number), np.arange(number, len(population.train.step))
            first = at(plain, real)
            seen[f"{execution}-{number}"] = {
                "size": len(population.train.step),
                "devices": len(population.train.step.sharding.device_set),
                "shares": [len(s.data) for s in population.train.step.addressable_shards],
                "refused": str(refused.value),
                "collectives": collectives,
                "same_bits": same_bits(
                    at((population, report), real), (first, at(plain_report, real))
                ),
                "distance": distance(at(population, real), first),
                "tolerance": tolerance,
                "repeatable": same_bits((population, report), again),
                "masked": not population.train.step[filling].any(),
                "picked": same_bits(
                    sweep.pick(population, number - 1), at(population.train.params, number - 1)
                ),
            }
    return seen


# The tests.


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("sharded") / "seen.json"
    done = ended([sys.executable, __file__, str(path)], on_eight_devices())
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text("utf-8"))


CASES = [f"{execution}-{number}" for execution, number in itertools.product(EXECUTIONS, NUMBERS)]
FIRST = [f"{execution}-{NUMBERS[0]}" for execution in EXECUTIONS]


@pytest.mark.parametrize("case", CASES)
def test_members_are_spread_evenly_and_filled_up(case, seen):
    number = int(case.split("-")[1])
    on_each = -(-number // DEVICES)
    assert seen[case]["devices"] == DEVICES
    assert seen[case]["size"] == on_each * DEVICES
    assert seen[case]["shares"] == [on_each] * DEVICES
    assert seen[case]["masked"]
    assert seen[case]["picked"]


@pytest.mark.parametrize("case", FIRST)
def test_members_that_the_devices_do_not_divide_are_refused(case, seen):
    needed = (
        "11 members on 8 devices: a multiple is needed, make_members(..., size=16) fills them up"
    )
    assert seen[case]["refused"] == needed


@pytest.mark.parametrize("case", FIRST)
def test_no_device_waits_for_another_in_an_epoch(case, seen):
    """One that waits for a minute is taken for dead by XLA, which ends the process."""
    assert seen[case]["collectives"] == []


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("map")])
def test_map_on_eight_devices_is_map_on_one_to_the_bit(case, seen):
    assert seen[case]["same_bits"]


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_are_one_to_the_rounding_of_float32(case, seen):
    assert seen[case]["distance"] < seen[case]["tolerance"]
    # A step of Adam is 1e-3: another draw or another member would be seen.
    assert seen[case]["tolerance"] < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_a_layout_gives_the_same_bits_again(case, seen):
    assert seen[case]["repeatable"]


@pytest.mark.slow
def test_the_command_line_finds_the_devices_and_the_same_numbers(tmp_path, monkeypatch):
    """Three models on as many devices as a run chooses, on two, filled up, and on one.

    XLA has a thread for each device, and NPROC at least; with another number of threads the
    sums of the report (not the weights) are rounded otherwise.
    """
    runs = {}
    flags = (*TINY, "--epochs", "2", "--beta", "0.5", "1", "4", "--figures", "none")
    monkeypatch.setenv("NPROC", str(DEVICES))
    chosen = min(3, sharding.usable_cores())
    for name, devices in {"chosen": chosen, "two": 2, "one": 1}.items():
        env = {**with_nothing_said(), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
        env = env if name == "chosen" else {**env, "JAX_NUM_CPU_DEVICES": str(devices)}
        done = ended(command(*flags, "--name", name), env, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        runs[name] = run_of(tmp_path, done.stdout)
        on = f" on {devices} devices" if devices > 1 else ""
        assert f"3 models (map){on}: " in done.stdout
    rows = rows_of(runs["two"])
    assert len(rows) == 3 * 2
    assert rows == rows_of(runs["one"]) == rows_of(runs["chosen"])
    members = [
        json.loads((run / "summary.json").read_text("utf-8"))["members"] for run in runs.values()
    ]
    assert members[0] == members[1] == members[2]


# A device for each core.

SPLIT = """
import jax
from vae_jax import sharding
sharding.split_cpu(3)
print(len(jax.devices()))
sharding.split_cpu(4)
print(len(jax.devices()))
"""


@pytest.mark.parametrize(
    ("said", "devices"),
    [
        ({}, 3),
        ({"JAX_NUM_CPU_DEVICES": "2"}, 2),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
    ],
    ids=["nothing", "jax", "xla"],
)
def test_the_processor_is_split_unless_the_user_has_said_how(said, devices):
    env = {**with_nothing_said(), **said}
    out = subprocess.check_output([sys.executable, "-c", SPLIT], env=env, text=True)
    assert out.split() == [str(devices)] * 2


@pytest.mark.parametrize(("said", "cores"), [("3", 3), ("", None), ("0", None), ("many", None)])
def test_the_cores_are_those_that_xla_has(monkeypatch, said, cores):
    monkeypatch.setenv("NPROC", said)
    assert sharding.num_cores() == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000\n", 8), ("250000 100000\n", 2), ("50000 100000\n", 1), ("1600000 100000", 8)],
)
def test_a_container_may_have_the_time_of_fewer_cores(monkeypatch, tmp_path, limit, cores):
    monkeypatch.setattr(sharding, "num_cores", lambda: 8)
    monkeypatch.setattr(sharding, "CGROUP", tmp_path)
    assert sharding.usable_cores() == 8
    (tmp_path / "cpu.max").write_text(limit, encoding="utf-8")
    assert sharding.usable_cores() == cores


def rows(count: int, *, fixed: bool = False) -> np.ndarray:
    """Rows of 30 numbers, which take no memory before they are read."""
    found = np.empty((count, 30), np.float32)
    found.flags.writeable = not fixed
    return found


@pytest.mark.parametrize(
    ("models", "execution", "chunk", "data", "devices"),
    [
        (24, "map", None, rows(7000), 24),
        (1, "map", None, rows(7000), 1),
        (24, "map", 3, rows(7000), 3),
        (250, "vmap", None, rows(7000), 31),
        (250, "vmap", 8, rows(7000), 1),
        (7, "vmap", None, rows(7000), 1),
        # A copy takes 72 MB.
        (24, "map", None, rows(600_000), 3),
        (24, "map", None, rows(3_000_000), 1),
        (24, "map", None, rows(3_000_000, fixed=True), 24),
    ],
)
def test_a_model_or_eight_at_once_are_worth_a_device(models, execution, chunk, data, devices):
    for examples in (data, Subsets(data, np.zeros((1, 1), np.int32))):
        parts = (examples, rows(1, fixed=True))
        assert useful_devices(models, parts, execution, chunk) == devices


@pytest.mark.parametrize(("distributed", "used"), [(False, 1), (True, 8)])
def test_where_a_model_on_each_device_does_not_fit_fewer_are_used(monkeypatch, distributed, used):
    def plan_of(devices: Any, _: Any) -> Plan:
        return Plan((7,), devices, chunk_bytes=devices * 100, free_bytes=300)

    monkeypatch.setattr(jax, "devices", lambda: list(range(8)))
    monkeypatch.setattr(sharding, "member_mesh", len)
    monkeypatch.setattr(_sweep, "_loop", lambda *words: words[-1])
    monkeypatch.setattr(_sweep, "plan_of", plan_of)
    task: Any = None
    loop, plan = _sweep._planned(RunOptions(distributed=distributed), task, [], "map", 7)
    assert loop == plan.chunk == used  # of 7, and of 3


# JAX has not started when a run says how many devices it is to have.
BEGINS = """
import sys
import jax
from experiments import _sweep, {modules}
from experiments._run import parse

class Asked(Exception): pass

def useful_devices(models, *_):
    jax.config.update("jax_num_cpu_devices", 2)  # an error if JAX has started
    raise Asked(models)

_sweep.useful_devices = useful_devices
for line in sys.stdin:
    sys.argv = line.split()
    module = sys.modules[f"experiments.{{sys.argv[0]}}"]
    try:
        module.run(parse(module.Config, sys.argv[0]))
    except Asked as asked:
        print(sys.argv[0], *asked.args)
"""
BEGUN = {
    "mnist --dataset digits --beta 1 4": 2,
    "tabular --dataset iris --folds 2": 2,
    "anomaly --dataset wine --seed 0 1 2": 3,
    "compress --dataset digits --seed 0 1": 2,
    "text --sentences 300 --seed 0 1": 6,
    "iwae --budget smoke": 1,
    "aevb --budget smoke": 3,
    "disentangle --budget smoke --seed 0 --beta 1 2": 2,
}


def test_no_experiment_starts_jax_before_it_is_known_how_many_devices_are_of_use(tmp_path):
    modules = ", ".join(words.split()[0] for words in BEGUN)
    done = ended(
        [sys.executable, "-c", BEGINS.format(modules=modules)],
        with_nothing_said(),
        input="".join(f"{words} --output-dir {tmp_path}\n" for words in BEGUN),
    )
    assert done.returncode == 0, done.stderr
    asked = [f"{words.split()[0]} {models}" for words, models in BEGUN.items()]
    assert [line for line in done.stdout.splitlines() if line in asked] == asked, done.stdout


def test_a_run_of_two_models_is_on_two_devices(tmp_path):
    flags = (*TINY, "--epochs", "1", "--beta", "1", "4", "--figures", "none")
    env = {**with_nothing_said(), "NPROC": "2"}
    done = ended(command(*flags), env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    devices = min(2, sharding.usable_cores())
    assert ("2 models (map) on 2 devices" in done.stdout) == (devices == 2)
    provenance = json.loads((run_of(tmp_path, done.stdout) / "provenance.json").read_text("utf-8"))
    assert len(provenance["runs"][0]["devices"]) == devices


# Placing arrays, where there is one device.


def test_one_device_needs_no_mesh():
    assert sharding.member_mesh(jax.devices()[:1]) is None
    assert sharding.num_shards(None) == 1
    array = np.arange(3, dtype=np.float32)
    for split in (True, False):
        placed = sharding.place({"a": array}, None, split=split)["a"]
        assert isinstance(placed, jax.Array)
        assert np.array_equal(placed, array)


def test_one_process_asks_nobody():
    assert sharding.is_first()
    assert [sharding.any_of(flag) for flag in (True, False)] == [True, False]
    assert sharding.gather(np.arange(3)).tolist() == [[0, 1, 2]]


def test_free_memory_is_what_the_machine_has_at_most():
    free = sharding.free_bytes()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free <= total


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(compare()), encoding="utf-8")
