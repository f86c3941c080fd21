"""What a run survives, done to it for real: kills at any moment, a full disk, a look at its reads.

Minutes long, so each test is marked slow.
"""

import csv
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from test_train import assert_same_bits

from experiments import mnist
from experiments._saved import load_population
from vae_jax.checkpoint import Checkpoints
from vae_jax.sweep import Population, make_members, make_sweep, place_members

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
EPOCHS, MEMBERS = 90, 4
FLAGS = (
    *("--dataset", "digits", "--hidden", "32", "--beta", "1", "4", "--seed", "0", "1"),
    *("--checkpoint-every", "1", "--figures", "none", "--name", "swept"),
)


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "experiments.mnist", *FLAGS, *flags]


def ran(words: list[str], folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def run_below(folder: Path) -> Path:
    return folder / "results" / "mnist" / "swept"


def states_below(folder: Path) -> Path:
    return run_below(folder) / "checkpoints" / f"1-{MEMBERS}" / "states"


def complete(folder: Path) -> list[int]:
    """The numbers of the checkpoints in place; a look that changes nothing."""
    states = states_below(folder)
    names = [path.name for path in states.iterdir()] if states.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv but for the one number that no two runs share."""
    with (run_below(folder) / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row.pop("examples_per_second")) > 0
    return rows


def checksums(folder: Path, number: int) -> dict[str, dict]:
    with Checkpoints(states_below(folder)) as checkpoints:
        return checkpoints.layout(number)


def fresh_population() -> Population:
    """A population of the kind that FLAGS train, to load another into."""
    betas, seeds = (1.0, 4.0), (0, 1)
    config = mnist.Config(dataset="digits", hidden=(32,), beta=betas, seed=seeds)
    _, task = mnist.prepare(mnist.validate(config))
    hypers, of = zip(*((member.hyper, member.seed) for member in task.members), strict=True)
    members = make_members(hypers, of)
    sweep = make_sweep(task.trainer, task.evaluate, execution="map")
    return sweep.init(place_members(members, None))


def restored(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Population]:
    """The latest checkpoint, every bit of it checked, and it must be the very latest."""
    with Checkpoints(states_below(folder)) as checkpoints:
        found = load_population(checkpoints, fresh_population(), MEMBERS)
    assert capsys.readouterr().err == ""
    return found


class Uninterrupted(NamedTuple):
    """A run that nothing happened to, and the seconds its phases took."""

    folder: Path
    starting: float  # from the start of the process until the program is compiled
    opening: float  # from there to the end of the first epoch
    epoch: float


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache, programs = (str(tmp_path_factory.mktemp(name)) for name in ("cache", "xla"))
    # However small a program is, none of the many runs compiles it again.
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": programs,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return {**os.environ, **compiled, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": cache}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, surroundings: dict[str, str]) -> Uninterrupted:
    folder = tmp_path_factory.mktemp("whole")
    # The first two fill the compilation cache, which every run after them finds: what is killed
    # writes nothing to it, because JAX keeps a file that was written by half.
    for flags in (("--epochs", "1"), ("--epochs", "2", "--requeue")):
        first = ran(command(*flags, "--output-dir", "first"), folder, surroundings)
        assert first.returncode == 0, first.stderr
    times = [time.monotonic()]
    flags = command("--epochs", str(EPOCHS), "--requeue")
    with Killable(flags, cwd=folder, env=surroundings) as process:
        process.until("compiled in")
        times.append(time.monotonic())
        for _ in range(EPOCHS):
            process.until(" epoch ")
            times.append(time.monotonic())
        assert process.end() == (0, "")
    epoch = (times[-1] - times[2]) / (EPOCHS - 1)
    return Uninterrupted(folder, times[1] - times[0], times[2] - times[1], epoch)


class Killable:
    """A command whose output is read line by line; it does not outlive its block."""

    def __init__(self, words: list[str], *, cwd: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env
        )
        self._watchdog = threading.Timer(300, self._process.kill)

    def __enter__(self) -> "Killable":
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.communicate()

    def until(self, words: str) -> None:
        """Read up to a line with some words."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if words in line:
                return
        raise AssertionError(f"it ended before {words!r}: {self._process.communicate()[1]}")

    def wait(self, seconds: float, words: str) -> None:
        """Wait for a time, or until a line with some words comes before it has passed."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._process.stdout], [], [], left)
            if ready and words in self._process.stdout.readline():
                return

    def kill(self) -> tuple[int, str]:
        """What SIGKILL made of it: the exit code and the standard error."""
        self._process.kill()
        return self.end()

    def end(self) -> tuple[int, str]:
        _, err = self._process.communicate()
        return self._process.returncode, err


class Moment(NamedTuple):
    """When a run is killed: some time after it has printed a line."""

    phase: str
    epochs: int  # lines of epochs to wait for
    share: float  # of the phase's length


def moments() -> list[Moment]:
    """Twenty: 3 while it starts, 5 while it restores, 12 while it trains and saves."""
    rng = np.random.default_rng(0)
    phases = ["starting"] * 3 + ["opening"] * 5 + ["epoch"] * 12
    rng.shuffle(phases)
    return [Moment(phase, int(rng.integers(1, 6)), float(rng.uniform())) for phase in phases]


def test_twenty_kills_change_no_bit(whole, surroundings, tmp_path, capsys):
    seen = []  # after each kill: the latest checkpoint, and whether one was being written
    for moment in moments():
        flags = command("--epochs", str(EPOCHS), "--requeue")
        with Killable(flags, cwd=tmp_path, env=surroundings) as process:
            if moment.phase != "starting":
                process.until("compiled in")
            if moment.phase == "epoch":
                for _ in range(moment.epochs):
                    process.until(" epoch ")
            # A start takes less time where another ran beside the one that was measured; what
            # comes after it is another phase.
            process.wait(moment.share * getattr(whole, moment.phase), "compiled in")
            # No warning either: what a kill leaves is never a damaged checkpoint.
            assert process.kill() == (-signal.SIGKILL, "")
        halves = [p for p in states_below(tmp_path).glob("*tmp*") if p.is_dir()]
        seen.append((max(complete(tmp_path), default=0), len(halves)))
    latest = [number for number, _ in seen]
    with capsys.disabled():
        print(f"\nlatest checkpoint, half-written ones after each kill: {seen}")
    assert latest == sorted(latest)
    assert 0 < latest[-1] < EPOCHS
    # Killed at a dozen stages of training, and some of the time in the middle of a save.
    assert len(set(latest)) >= 8
    assert sum(halves for _, halves in seen) >= 1

    last = ran(command("--epochs", str(EPOCHS), "--requeue"), tmp_path, surroundings)
    assert (last.returncode, last.stderr) == (0, "")
    assert f"epoch {latest[-1] + 1:>{len(str(EPOCHS))}}/" in last.stdout
    assert [path.name for path in sorted(states_below(tmp_path).iterdir())] == [
        str(EPOCHS - 1),
        str(EPOCHS),
    ]
    assert checksums(tmp_path, EPOCHS) == checksums(whole.folder, EPOCHS)
    (number, state), (other, expected) = (
        restored(folder, capsys) for folder in (tmp_path, whole.folder)
    )
    assert number == other == EPOCHS
    assert_same_bits(state, expected)
    assert rows_of(tmp_path) == rows_of(whole.folder)
    assert len(rows_of(tmp_path)) == EPOCHS * MEMBERS
    summaries = [run_below(folder) / "summary.json" for folder in (tmp_path, whole.folder)]
    assert summaries[0].read_bytes() == summaries[1].read_bytes()


def test_a_run_killed_before_its_first_checkpoint_and_again_later(whole, surroundings, tmp_path):
    """Its first rows are written before the first checkpoint: they are not kept twice."""
    for epochs in (1, 4):
        flags = command("--epochs", "6", "--requeue")
        with Killable(flags, cwd=tmp_path, env=surroundings) as process:
            for _ in range(epochs):
                process.until(" epoch ")
            assert process.kill() == (-signal.SIGKILL, "")
        if epochs == 1:
            # As early as a kill can come.
            shutil.rmtree(states_below(tmp_path), ignore_errors=True)
    last = ran(command("--epochs", "6", "--requeue"), tmp_path, surroundings)
    assert (last.returncode, last.stderr) == (0, "")
    assert rows_of(tmp_path) == [row for row in rows_of(whole.folder) if int(row["epoch"]) <= 6]


KILLED_AT_THE_FIRST_RENAME = """
import os, runpy, signal, sys

def kill(event, arguments):
    if event == "os.rename" and "swept" in os.fspath(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
runpy.run_module("experiments.mnist", run_name="__main__", alter_sys=True)
"""


def test_a_run_killed_before_its_first_file_is_whole_starts(surroundings, tmp_path):
    flags = command("--epochs", "1", "--requeue")
    script = [sys.executable, "-c", KILLED_AT_THE_FIRST_RENAME, *flags[3:]]
    killed = ran(script, tmp_path, surroundings)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = [path.name for path in run_below(tmp_path).iterdir()]
    assert left
    assert "config.json" not in left
    done = ran(flags, tmp_path, surroundings)
    assert (done.returncode, done.stderr) == (0, "")


# A disk that is full.

# A file system of its own, full after a few checkpoints; then it grows and the run goes on.
FULL_DISK = """
mount -t tmpfs -o size=$SIZE tmpfs "$DISK" || exit 77
cd "$DISK"
"$@" >"$OUT/first.out" 2>"$OUT/first.err"; echo $? >"$OUT/first.code"
cp -a "$DISK" "$OUT/first"
mount -o remount,size=256m "$DISK" || exit 77
"$@" --resume >"$OUT/second.out" 2>"$OUT/second.err"; echo $? >"$OUT/second.code"
cp -a "$DISK" "$OUT/second"
"""


def blocks(folder: Path) -> int:
    """The bytes that a folder's files take on a tmpfs."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare: nothing can be mounted")
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_leaves_the_earlier_checkpoints_good(
    failing, whole, surroundings, tmp_path, capsys
):
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    # Room for the earlier checkpoints and half of this one.
    size = int((failing - 0.5) * blocks(states_below(whole.folder) / str(EPOCHS)))
    done = ran(
        ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", *command("--epochs", "6")],
        tmp_path,
        {**surroundings, "SIZE": str(size), "DISK": str(disk), "OUT": str(out)},
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr

    said = (out / "first.err").read_text("utf-8")
    assert (out / "first.code").read_text("utf-8") != "0\n"
    [line] = said.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f": checkpoint {failing} was not saved: No space left on device")
    assert complete(out / "first") == list(range(1, failing))
    if failing > 1:
        (number, _) = restored(out / "first", capsys)
        assert number == failing - 1

    assert (out / "second.code").read_text("utf-8") == "0\n"
    assert (out / "second.err").read_text("utf-8") == ""
    assert complete(out / "second") == [5, 6]
    expected = [row for row in rows_of(whole.folder) if int(row["epoch"]) <= 6]
    assert rows_of(out / "second") == expected


# What restoring reads.

READS = """
import json, os, pickle, sys
from pathlib import Path
from test_survival import MEMBERS, fresh_population
from experiments._saved import load_population
from vae_jax.checkpoint import Checkpoints

WATCHED = "open", "pickle.find_class", "socket.connect", "subprocess.Popen", "os.exec", "os.system"
seen, armed = [], False

def watch(event, arguments):
    if armed and event in WATCHED:
        seen.append((event, str(arguments[0])))

sys.addaudithook(watch)
fresh = fresh_population()
armed = True
open("/dev/zero").close()
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    number, _ = load_population(checkpoints, fresh, MEMBERS)
restoring, seen = seen, []
pickle.loads(pickle.dumps(Path("here")))
armed = False
print(json.dumps({"number": number, "restoring": restoring, "awake": seen}))
"""
STARTS = "/dev/zero"  # opened where restoring starts


def reading(folder: Path, environment: dict[str, str], *prefix: str) -> dict:
    """What a process that restores the checkpoints of a run told of itself."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    words = [*prefix, sys.executable, "-c", READS, str(states_below(folder))]
    done = ran(words, folder, {**environment, "PYTHONPATH": paths})
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


def outside(paths: Iterable[str], checkpoints: Path) -> list[str]:
    """Those of some paths that restoring has no business to open.

    Besides the checkpoints it may read Python's own modules and those that are installed,
    because Orbax is imported at its first use.
    """
    allowed = [str(checkpoints), sys.prefix, sys.base_prefix]
    return [
        path
        for path in paths
        if not any(path == top or path.startswith(top + "/") for top in allowed)
    ]


def test_restoring_unpickles_nothing_and_opens_only_the_checkpoints(whole, surroundings):
    told = reading(whole.folder, surroundings)
    assert told["number"] == EPOCHS
    assert ["pickle.find_class", "pathlib"] in told["awake"]
    events = [(event, path) for event, path in told["restoring"] if path != STARTS]
    assert {event for event, _ in events} == {"open"}
    opened = [path for _, path in events]
    assert any(path.startswith(str(states_below(whole.folder))) for path in opened)
    assert outside(opened, states_below(whole.folder)) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_restoring_opens_only_the_checkpoints_below_python_either(whole, surroundings, tmp_path):
    """The arrays are read by C++, which no audit hook hears."""
    trace = tmp_path / "trace"
    options = ("-f", "-qq", "-e", "trace=open,openat,openat2,creat,connect,execve")
    if subprocess.run(["strace", *options, "true"], capture_output=True).returncode != 0:
        pytest.skip("strace may not trace here")
    reading(whole.folder, surroundings, "strace", *options, "-o", str(trace))
    _, _, restoring = trace.read_text("utf-8").partition(STARTS)
    calls = re.findall(r"\b(open|openat|openat2|creat|connect|execve)\((.*)", restoring)
    opened = [re.findall(r'"([^"]*)"', call)[0] for _, call in calls]
    assert not {name for name, _ in calls} & {"connect", "execve", "creat"}
    states = states_below(whole.folder)
    assert any(path.startswith(f"{states}/{EPOCHS}/state/") for path in opened)
    # What the system tells of itself, its shared libraries, and the time zone of log lines.
    system = ("/proc/", "/sys/", "/dev/", "/lib", "/usr/lib", "/etc/ld.so.cache", "/etc/localtime")
    assert [path for path in outside(opened, states) if not path.startswith(system)] == []
