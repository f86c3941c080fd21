"""Slices of a grid: trained apart, joined again, and submitted as jobs."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Here, where nothing is redirected: it closes the logs of all that was imported before.
import submitit
from command_line import (
    Done,
    command,
    environment,
    read_json,
    surroundings,  # noqa: F401
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_experiments import TINY, call, good, refused, rows_of, tree

from experiments import mnist
from experiments._grid import Member
from experiments._options import RunOptions
from experiments._run import parse
from experiments._shards import SliceJob, as_arguments
from experiments._sweep import _slice
from vae_jax.types import Hyper

pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")

SLICES = 3
GRID = (*TINY, "--epochs", "2", "--beta", "0.5", "4", "--seed", "0", "1", "--figures", "none")
MEMBERS = ["beta0.5-seed0", "beta0.5-seed1", "beta4-seed0", "beta4-seed1"]


def ran(words: list[str], folder: Path) -> Done:
    """A command line in a process of its own."""
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return good(call(tmp_path_factory.mktemp("whole"), *GRID))


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which every slice was trained, one command each."""
    folder = tmp_path_factory.mktemp("sliced")
    for number in range(1, SLICES + 1):
        good(call(folder, *GRID, "--name", "cut", "--shard", f"{number}/{SLICES}"))
    return folder


CUT = Path("results") / "mnist" / "cut"


@pytest.fixture
def cut(sliced: Path, tmp_path: Path) -> Path:
    """The run of the slices where a test may change it; `tmp_path` is where to call from."""
    return Path(shutil.copytree(sliced / CUT, tmp_path / CUT))


# Joined again.


def test_slices_partition_the_grid(sliced):
    names = {}
    for number in range(1, SLICES + 1):
        run = sliced / CUT / "shards" / f"{number}-of-{SLICES}"
        names[number] = [member["name"] for member in read_json(run / "summary.json")["members"]]
        assert [row["member"] for row in rows_of(run)] == [n for n in names[number] for _ in "12"]
    # Dealt in turn, so that every slice has its share of each setting.
    assert names == {1: [MEMBERS[0], MEMBERS[3]], 2: [MEMBERS[1]], 3: [MEMBERS[2]]}


@given(st.integers(1, 60), st.data())
def test_every_member_is_in_one_slice(members, data):
    slices = data.draw(st.integers(1, members))
    grid = [Member(f"seed{i}", i, Hyper(), {"seed": i}) for i in range(members)]
    shares = [
        _slice(RunOptions(shard=f"{number}/{slices}"), grid) for number in range(1, slices + 1)
    ]
    assert sorted(m.seed for share in shares for m in share) == list(range(members))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert min(map(len, shares)) > 0


def table_of(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(("┏", "┃", "┡", "│", "└"))]


def test_joined_slices_are_the_run_that_was_not_cut(cut, whole, tmp_path):
    """To the last digit: what is trained apart is not trained differently."""
    joined = good(call(tmp_path, "--merge", str(CUT)))
    assert rows_of(cut) == rows_of(whole.run)
    summary, expected = read_json(cut / "summary.json"), read_json(whole.run / "summary.json")
    assert summary.pop("missing_slices") == []
    assert summary == expected
    assert [member["name"] for member in summary["members"]] == MEMBERS
    assert table_of(joined.out) == table_of(whole.out)
    assert len(table_of(joined.out)) == 6
    assert f"3 of 3 slices, 4 models: in {CUT}" in joined.out
    # A configuration as that of a whole run, but for its name and what the memory took.
    config, expected = read_json(cut / "config.json"), read_json(whole.run / "config.json")
    assert config.pop("name") == "cut"
    del config["chunk"], expected["chunk"], expected["name"], expected["shard"]
    assert config == expected


@pytest.mark.parametrize("left", ["nothing", "no summary"])
def test_missing_slices_are_named(left, cut, whole, tmp_path):
    lost = cut / "shards" / "2-of-3"
    if left == "nothing":
        shutil.rmtree(lost)
    else:
        (lost / "summary.json").unlink()
    joined = call(tmp_path, "--merge", str(CUT))
    assert (joined.code, joined.err) == (1, "missing: 2/3\n")
    assert "2 of 3 slices, 3 models" in joined.out
    assert "\n- missing: 2/3\n" in (cut / "table.md").read_text("utf-8")
    summary = read_json(cut / "summary.json")
    assert summary["missing_slices"] == ["2/3"]
    kept = [name for name in MEMBERS if name != "beta0.5-seed1"]
    assert [member["name"] for member in summary["members"]] == kept
    assert rows_of(cut) == [row for row in rows_of(whole.run) if row["member"] in kept]
    # Once the slice is there, joining again completes the report.
    good(call(tmp_path, *GRID, "--name", "cut", "--shard", "2/3", "--overwrite"))
    good(call(tmp_path, "--merge", str(CUT)))
    assert rows_of(cut) == rows_of(whole.run)


def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        path = run / "shards" / "2-of-3" / name
        value = json.loads(path.read_text("utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    return spoil


def written(name: str, text: str) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        (run / "shards" / "2-of-3" / name).write_text(text, encoding="utf-8")

    return write


def without_rows(run: Path) -> None:
    (run / "shards" / "2-of-3" / "metrics.csv").unlink()


def cut_short(run: Path) -> None:
    path = run / "shards" / "2-of-3" / "metrics.csv"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].replace(",", ",x", 3)]) + "\n", "utf-8")


SPOILT = {
    "another sweep": (changed("config.json", lambda c: c.update(beta=[1.0])), "--beta is .*1.0"),
    "another model": (changed("config.json", lambda c: c.update(hidden=[9])), "--hidden is"),
    "another length": (changed("config.json", lambda c: c.update(epochs=7)), "--epochs is .* 7"),
    "another number": (
        lambda run: (run / "shards" / "2-of-3").rename(run / "shards" / "2-of-4"),
        "cut into 3 and 4",
    ),
    "none": (lambda run: shutil.rmtree(run / "shards"), "there are no slices in it"),
    "none done": (
        lambda run: [path.unlink() for path in run.glob("shards/*/summary.json")],
        "none of its 3 slices is done",
    ),
    "not cut": (lambda run: (run / "checkpoints").mkdir(), "a run that was not cut"),
    "half a configuration": (written("config.json", '{"beta": '), "config.json: cannot be read"),
    "a list": (written("summary.json", "[]"), "summary.json: a JSON object is needed"),
    "no members": (written("summary.json", "{}"), "2-of-3: damaged"),
    "no number": (
        changed("summary.json", lambda s: s["members"][0].pop("kl")),
        "2-of-3: damaged .*kl",
    ),
    "a row": (cut_short, "2-of-3: damaged"),
    "rows": (without_rows, r"2-of-3: damaged \(metrics.csv has 0 rows of"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_cannot_be_joined_is_refused(how, cut, tmp_path):
    spoil, says = SPOILT[how]
    spoil(cut)
    before = tree(tmp_path)
    line = refused(call(tmp_path, "--merge", str(CUT)))
    assert re.search(says, line), line
    assert tree(tmp_path) == before


@pytest.mark.parametrize("older", ["1-of-3", "2-of-3"])
def test_a_slice_of_before_a_setting_existed_is_joined(older, cut, tmp_path):
    path = cut / "shards" / older / "config.json"
    config = read_json(path)
    assert config.pop("compute_dtype") == "float32"
    path.write_text(json.dumps(config), encoding="utf-8")
    good(call(tmp_path, "--merge", str(CUT)))
    assert read_json(cut / "config.json")["compute_dtype"] == "float32"
    # It was trained with the default, and not with something else.
    changed("config.json", lambda c: c.update(compute_dtype="bfloat16"))(cut)
    line = refused(call(tmp_path, "--merge", str(CUT)))
    assert "--compute-dtype is float32 in 1-of-3 and bfloat16 in 2-of-3" in line


def test_a_slice_of_another_sweep_is_refused_before_it_is_trained(cut, tmp_path):
    shutil.rmtree(cut / "shards" / "2-of-3")
    before = tree(tmp_path)
    line = refused(call(tmp_path, *GRID, "--name", "cut", "--shard", "2/3", "--latent-dim", "3"))
    assert re.search(r"--latent-dim 3: slice 1-of-3 in .* is of a sweep with \d+", line), line
    assert tree(tmp_path) == before


def test_a_slice_of_a_run_that_was_not_cut_is_refused(whole, tmp_path):
    Path(shutil.copytree(whole.run, tmp_path / CUT))
    before = tree(tmp_path)
    line = refused(call(tmp_path, *GRID, "--name", "cut", "--shard", "1/3"))
    assert "was not cut into slices; --name gives another name" in line
    line = refused(call(tmp_path, *GRID, "--name", "cut", "--launch", "local", "--slices", "2"))
    assert "was not cut into slices; --name gives another name" in line
    assert tree(tmp_path) == before


LAUNCH = ("--launch", "local")
TOGETHER = ("--distributed",)
ADDRESS = ("--coordinator", "127.0.0.1:4711", "--num-processes", "2", "--process-id", "0")
CONFLICTS = [
    (("--shard", "0/3"), "--shard 0/3: 1/3 to 3/3 is allowed"),
    (("--shard", "4/3"), "--shard 4/3: 1/3 to 3/3 is allowed"),
    (("--shard", "1/0"), "--shard 1/0: "),
    (("--shard", "1"), "--shard 1: a slice such as 3/16 is needed"),
    (("--shard", "-1/3"), "--shard"),
    (("--shard", "1/5"), "--shard 1/5: the grid has 4 models; at most as many slices"),
    (("--merge", "elsewhere"), "--merge elsewhere: without"),
    (LAUNCH, "--launch local: --slices is needed with it"),
    ((*LAUNCH, "--slices", "0"), "--slices 0: a whole number of 1 or more"),
    ((*LAUNCH, "--slices", "5"), "--slices 5: the grid has 4 models"),
    (("--slices", "2"), "--slices 2: belongs to --launch"),
    (("--launch-options", "a=1", "b=2"), "--launch-options a=1 b=2: belongs to --launch"),
    ((*LAUNCH, "--slices", "2", "--shard", "1/2"), "--launch local: not together with --shard"),
    ((*LAUNCH, "--slices", "2", "--resume"), "--launch local: not together with --resume"),
    ((*LAUNCH, "--slices", "2", *TOGETHER), "--launch local: not together with --distributed"),
    ((*LAUNCH, "--slices", "2", "--launch-options", "long"), "--launch-options long: name=value"),
    ((*LAUNCH, "--slices", "2", "--launch-options", "x=1"), "--launch local: "),
    (("--requeue", "--resume"), "--resume --requeue: only one of them"),
    (("--requeue", "--overwrite"), "--overwrite --requeue: only one of them"),
    (("--chunk", "0"), "--chunk 0: a whole number of 1 or more"),
    (ADDRESS, "--coordinator 127.0.0.1:4711: belongs to --distributed"),
    (ADDRESS[2:4], "--num-processes 2: belongs to --distributed"),
    (ADDRESS[4:], "--process-id 0: belongs to --distributed"),
    ((*TOGETHER, *ADDRESS[:4]), "--process-id is missing"),
    ((*TOGETHER, *ADDRESS[2:]), "--coordinator is missing"),
    ((*TOGETHER, "--coordinator", "host", *ADDRESS[2:]), "--coordinator host: host:port"),
    ((*TOGETHER, "--coordinator", "host:99999", *ADDRESS[2:]), "--coordinator host:99999: host"),
    ((*TOGETHER, *ADDRESS[:4], "--process-id", "2"), "--process-id 2: 0 to 1 is allowed"),
    ((*TOGETHER, *ADDRESS[:2], "--num-processes", "0", *ADDRESS[4:]), "--num-processes 0: "),
    ((*TOGETHER, "--heartbeat", "0"), "--heartbeat 0: 1 second or more"),
]


@pytest.mark.parametrize(("flags", "says"), CONFLICTS)
def test_options_that_conflict_are_refused_in_one_line(flags, says, tmp_path):
    line = refused(call(tmp_path, *GRID, *flags))
    assert says in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch
    flags = (*GRID, "--slices", "2", "--launch")
    assert "--launch slurm: " in refused(call(tmp_path, *flags, "slurm"))
    monkeypatch.setitem(sys.modules, "submitit", None)
    line = refused(call(tmp_path, *flags, "local"))
    assert "--launch local: submitit is needed: pip install" in line


# Submitted.


def test_launched_slices_are_trained_and_joined(whole, tmp_path):
    flags = (*GRID, "--name", "cut", "--launch", "local", "--slices", "2")
    done = ran([*command(*flags), "--launch-options", "timeout_min=5"], tmp_path)
    assert (done.code, done.err) == (0, "")
    assert rows_of(tmp_path / CUT) == rows_of(whole.run)
    assert table_of(done.out) == table_of(whole.out)
    for shard in ("1/2", "2/2"):
        assert f"slice {shard}: done, " in done.out
    assert "0 left" in done.out


@pytest.mark.slow
def test_a_launched_slice_that_fails_is_named(whole, tmp_path):
    in_the_way = tmp_path / CUT / "shards" / "2-of-2"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file", encoding="utf-8")
    flags = (*GRID, "--name", "cut", "--launch", "local", "--slices", "2")
    done = ran(command(*flags), tmp_path)
    assert (done.code, done.err) == (1, "missing: 2/2\n")
    [line] = [line for line in done.out.splitlines() if line.startswith("slice 2/2: ")]
    # What the slice itself said, and not where submitit keeps its logs.
    assert "failed (error: " in line
    assert "a file is in the way of the run's folder)" in line
    assert "slice 1/2: done" in done.out
    first = {"beta0.5-seed0", "beta4-seed0"}
    assert rows_of(tmp_path / CUT) == [row for row in rows_of(whole.run) if row["member"] in first]


@pytest.mark.slow
def test_a_slice_job_that_is_preempted_is_queued_again_and_ends_the_work(tmp_path, monkeypatch):
    """By SIGTERM in mid-run: the epoch ends, its checkpoint is saved, the next job goes on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    epochs, shard = 40, "2/4"
    flags = (*GRID, "--epochs", str(epochs), "--checkpoint-every", "1000", "--name")
    job, problems = SliceJob(command(*flags, "cut")), []

    def work() -> None:
        try:
            job(shard)
        except RuntimeError as error:
            problems.append(str(error))

    run = tmp_path / CUT / "shards" / "2-of-4"
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    until = time.monotonic() + 120
    while not (run / "metrics.csv").exists():
        assert thread.is_alive(), problems
        assert time.monotonic() < until
        time.sleep(0.02)
    delayed = job.checkpoint(shard)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert job._child.returncode == 130  # stopped when its epoch had ended, not killed
    assert "--resume" in problems[0]
    done = len(rows_of(run))
    assert 0 < done < epochs
    [state] = (run / "checkpoints").glob("*/states/*")
    assert state.name == str(done)
    assert not (run / "summary.json").exists()

    assert isinstance(delayed, submitit.helpers.DelayedSubmission)
    assert delayed.function is not job
    delayed.function(*delayed.args, **delayed.kwargs)
    assert len(rows_of(run)) == epochs
    SliceJob(command(*flags, "again"))(shard)
    again = tmp_path / "results" / "mnist" / "again" / "shards" / "2-of-4"
    assert rows_of(run) == rows_of(again)
    assert read_json(run / "summary.json") == read_json(again / "summary.json")


def test_a_slice_job_hands_on_what_went_wrong():
    """A member that diverged is no error: it is in the report, and --requeue ends with 0."""
    program = "import sys; print({!r}, file=sys.stderr); sys.exit({})"

    def job(said: str, code: int) -> SliceJob:
        return SliceJob([sys.executable, "-c", program.format(said, code)])

    job("", 0)("1/2")
    job("a warning", 0)("1/2")
    ends = (("NameError: x", 1), ("error: No space left", 1), ("error: no", 2), ("Killed", -9))
    for said, code in ends:
        with pytest.raises(RuntimeError, match=said):
            job(said, code % 256)("1/2")
    with pytest.raises(RuntimeError, match="exit code 3"):
        SliceJob([sys.executable, "-c", "import sys; sys.exit(3)"])("1/2")


# The command line of a configuration.

NUMBERS = st.floats(0, 1e6, width=32) | st.sampled_from([1e-4, 1e30, 0.1])
FLOATS = st.lists(NUMBERS, min_size=1, max_size=3).map(tuple)
CONFIGS = st.builds(
    mnist.Config,
    epochs=st.integers(1, 99),
    output_dir=st.sampled_from([Path("results"), Path("a b/c"), Path("/tmp/x=y")]),
    name=st.none() | st.sampled_from(["n", "a.b+c-d_e"]),
    overwrite=st.booleans(),
    resume=st.booleans(),
    checkpoint_every=st.integers(1, 9),
    figures=st.sampled_from(["first_seed", "all", "none"]),
    execution=st.sampled_from(["auto", "map", "vmap"]),
    chunk=st.none() | st.integers(1, 9),
    heartbeat=st.integers(1, 200),
    beta=FLOATS,
    seed=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3).map(tuple),
    hidden=st.lists(st.integers(1, 999), max_size=3).map(tuple),
    likelihood=st.sampled_from(["bernoulli", "gaussian"]),
    scale=st.none() | NUMBERS,
    learning_rate=FLOATS,
    free_bits=st.none() | FLOATS,
    data_dir=st.none() | st.just(Path("some/where")),
)


@settings(max_examples=40)
@given(CONFIGS)
def test_a_configuration_survives_the_command_line(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mnist.py", *as_arguments(config)])
        assert parse(mnist.Config, mnist.PROG) == config


def test_every_field_is_passed_on_but_those_that_launch():
    """A field of another type than those above would be noticed here."""
    launching = {"launch", "slices", "launch_options", "requeue"}
    fields = {field.name: field for field in dataclasses.fields(mnist.Config)}
    changed = mnist.Config()
    for name, field in fields.items():
        value: Any = True if isinstance(field.default, bool) else ("other",)
        changed = dataclasses.replace(changed, **{name: value})
    words = [word for word in as_arguments(changed) if word.startswith("--")]
    assert words == ["--" + name.replace("_", "-") for name in fields if name not in launching]
    assert as_arguments(mnist.Config()) == []
