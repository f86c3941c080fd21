"""Two processes that train one sweep, on this machine: by addresses, by Slurm, through kills."""

import re
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from command_line import command, read_json
from processes import Ended, free_port, on_devices, together, until
from test_experiments import TINY, rows_of

pytestmark = pytest.mark.slow

EPOCHS, HEARTBEAT = 60, 10
# Three models on two processes with two devices each, so that they are filled up to four.
SWEEP = (*TINY, "--beta", "0.5", "1", "4", "--checkpoint-every", "1", "--figures", "none")
RUN = Path("results") / "mnist" / "together"
LONG = 600  # seconds in which anything here ends, on a machine with much else to do


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A program is compiled once in this module."""
    return {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla"))}


def alone(folder: Path, cache: dict[str, str], *flags: str, devices: int = 1) -> Ended:
    words = command(*SWEEP, "--name", "together", *flags)
    with together([(words, on_devices(devices, **cache))], folder) as [process]:
        return process.wait(LONG)


def pair_of(cache: dict[str, str], *flags: str) -> list[tuple[list[str], dict[str, str]]]:
    """The commands of two processes that find each other by an address."""
    address = f"127.0.0.1:{free_port()}"
    flags = (*SWEEP, "--name", "together", "--heartbeat", str(HEARTBEAT), *flags)
    flags += ("--distributed", "--coordinator", address, "--num-processes", "2", "--process-id")
    return [(command(*flags, number), on_devices(2, **cache)) for number in "01"]


def both(folder: Path, cache: dict[str, str], *flags: str) -> list[Ended]:
    with together(pair_of(cache, *flags), folder) as processes:
        return [process.wait(LONG) for process in processes]


def assert_good(ended: list[Ended]) -> None:
    assert [(one.code, one.err) for one in ended] == [(0, "")] * len(ended)


def said(ended: Ended) -> list[str]:
    """The lines of its output, but for those that Gloo writes below Python."""
    return [line for line in ended.out.splitlines() if "peer ranks" not in line]


def until_epoch(rows: list[dict[str, str]], epoch: int) -> list[dict[str, str]]:
    return [row for row in rows if int(row["epoch"]) <= epoch]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> Path:
    """The sweep on one device of one process, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert_good([alone(folder, cache, "--epochs", str(EPOCHS))])
    return folder / RUN


class Pair(NamedTuple):
    """Two processes that ended, and where."""

    folder: Path
    ended: list[Ended]


FEW = 3  # epochs


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> Pair:
    """A few epochs of the sweep by two processes."""
    folder = tmp_path_factory.mktemp("few")
    return Pair(folder, both(folder, cache, "--epochs", str(FEW)))


def test_two_processes_train_one_sweep(few, whole):
    """One set of files, one report, and the numbers of one process, to the last digit."""
    assert_good(few.ended)
    assert rows_of(few.folder / RUN) == until_epoch(rows_of(whole), FEW)
    assert {path.name for path in (few.folder / RUN).iterdir()} == {
        *("config.json", "metrics.csv", "summary.json", "table.md", "provenance.json"),
        *("figures", "checkpoints"),
    }
    states = few.folder / RUN / "checkpoints" / "1-3" / "states"
    assert sorted(path.name for path in states.iterdir()) == ["2", "3"]
    summary = read_json(few.folder / RUN / "summary.json")
    last = [row for row in rows_of(few.folder / RUN) if row["epoch"] == str(FEW)]
    for member, row in zip(summary["members"], last, strict=True):
        assert member["name"] == row["member"]
        assert member["neg_elbo"] == float(row["test_neg_elbo"])
    [provenance] = read_json(few.folder / RUN / "provenance.json")["runs"]
    assert len(provenance["devices"]) == 4
    first, second = map(said, few.ended)
    assert first[0] == "process 0 of 2, 2 of 4 devices"
    assert first[-1].startswith("figures, metrics.csv, summary.json, table.md: in ")
    assert len(re.findall(r"epoch \d/3", "\n".join(first))) == FEW
    assert second == ["process 1 of 2, 2 of 4 devices"]


@pytest.mark.parametrize("devices", [1, 8])
def test_what_two_processes_began_goes_on_in_one(devices, few, whole, cache, tmp_path):
    """Saved by four devices, one member of four only there to fill up."""
    shutil.copytree(few.folder / RUN, tmp_path / RUN)
    flags = ("--epochs", str(2 * FEW), "--resume")
    ended = alone(tmp_path, cache, *flags, devices=devices)
    assert_good([ended])
    assert re.findall(r"epoch (\d)/6", ended.out) == ["4", "5", "6"]
    assert rows_of(tmp_path / RUN) == until_epoch(rows_of(whole), 2 * FEW)


def test_both_refuse_what_cannot_be_run(few, cache):
    """And nothing is left waiting for the other."""
    before = sorted((few.folder / RUN).rglob("*"))
    for one in both(few.folder, cache, "--epochs", str(FEW)):
        assert one.code == 2
        [line] = one.err.splitlines()
        assert "this run exists; --resume continues it" in line
    assert sorted((few.folder / RUN).rglob("*")) == before


def test_two_processes_find_each_other_in_slurm(whole, cache, tmp_path):
    """From the variables that `srun` sets, and no flag but --distributed."""
    # JAX takes the coordinator's port from the number of the job.
    first = 2**16 - 2**12
    job = free_port(range(first, 2**16)) - first
    words = command(*SWEEP, "--name", "together", "--epochs", str(FEW), "--distributed")
    commands = []
    for number in range(2):
        slurm = {
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
        }
        commands.append((words, on_devices(2, **cache, **slurm)))
    with together(commands, tmp_path) as processes:
        ended = [process.wait(LONG) for process in processes]
    assert_good(ended)
    assert [said(one)[0] for one in ended] == [
        f"process {number} of 2, 2 of 4 devices" for number in range(2)
    ]
    assert rows_of(tmp_path / RUN) == until_epoch(rows_of(whole), FEW)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_ends_the_other_and_both_go_on(killed, whole, cache, tmp_path):
    flags = ("--epochs", str(EPOCHS))
    with together(pair_of(cache, *flags), tmp_path) as processes:
        # In mid-run: some checkpoints are complete, and most of the epochs are to come.
        states = tmp_path / RUN / "checkpoints" / "1-3" / "states"
        until(lambda: any((states / str(n)).exists() for n in range(5, 15)), LONG, processes)
        processes[killed].process.send_signal(signal.SIGKILL)
        survivor = processes[1 - killed]
        # The heartbeat, and on a machine with much else to do the notice and the end.
        code = survivor.process.wait(HEARTBEAT + 20)
        # A line of the watcher, which outlives the process for a moment.
        says = f"error: process {1 - killed} of 2 has lost another process"
        until(lambda: says in survivor.err.read_text("utf-8"), 10)
    assert code != 0
    lines = survivor.err.read_text("utf-8").splitlines()
    [line] = [line for line in lines if "has lost another process" in line]
    assert line.startswith(f"{says}; start all of them again with --resume")
    assert not any(line.startswith("Traceback") for line in lines)
    assert not (tmp_path / RUN / "summary.json").exists()

    assert_good(both(tmp_path, cache, *flags, "--resume"))
    assert rows_of(tmp_path / RUN) == rows_of(whole)
    ours, theirs = (read_json(run / "summary.json") for run in (tmp_path / RUN, whole))
    assert ours == theirs


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_peer_never_comes_says_so(number, cache, tmp_path):
    words, env = pair_of(cache, "--epochs", "1")[number]
    env["VAE_JAX_JOIN_SECONDS"] = "5"
    with together([(words, env)], tmp_path) as [process]:
        assert process.wait(LONG).code != 0
        # A line of the watcher, below what JAX has to say.
        says = "error: --distributed: the other processes were not found in time\n"
        until(lambda: process.err.read_text("utf-8").endswith(says), 10)
    assert process.err.read_text("utf-8").count("error: ") == 1
    assert not (tmp_path / "results").exists()


def test_distributed_where_there_is_no_scheduler_is_one_line(cache, tmp_path):
    words = command(*SWEEP, "--distributed")
    with together([(words, on_devices(1, **cache))], tmp_path) as [process]:
        ended = process.wait(LONG)
    assert ended.code == 2
    [line] = ended.err.splitlines()
    assert line.startswith("error: --distributed: the other processes were not found: ")
    assert not (tmp_path / "results").exists()
