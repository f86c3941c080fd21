import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from test_train import assert_same_bits, hyper, trainer

from vae_jax.checkpoint import CheckpointError, Checkpoints, DamagedError

pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def images(digits):
    return jnp.asarray(digits[:100])


def state_after(epochs, images, seed=0):
    train = trainer()
    state = train.init(jax.random.key(seed), hyper())
    for _ in range(epochs):
        state, _ = train.epoch(state, hyper(), images)
    return state


def test_a_resumed_run_ends_in_the_same_bits(tmp_path, images):
    whole = state_after(4, images)
    with Checkpoints(tmp_path / "states") as checkpoints:
        checkpoints.save(2, state_after(2, images))
    train = trainer()
    with Checkpoints(tmp_path / "states") as checkpoints:
        assert checkpoints.latest == 2
        state = checkpoints.restore(train.init(jax.random.key(9), hyper()))
    for _ in range(2):
        state, _ = train.epoch(state, hyper(), images)
    assert_same_bits(state, whole)


def test_donating_the_state_while_it_is_being_saved_changes_nothing(tmp_path, images):
    train = trainer()
    state = state_after(1, images)
    kept = jax.tree.map(jnp.copy, state)
    with Checkpoints(tmp_path / "states") as checkpoints:
        checkpoints.save(1, state)
        train.epoch(state, hyper(), images)  # donates
        assert_same_bits(checkpoints.restore(kept), kept)


def test_a_save_under_way_is_waited_for_and_not_set_aside(tmp_path, images):
    state = state_after(1, images)
    with Checkpoints(tmp_path / "states") as checkpoints:
        checkpoints.save(1, state)
        found = checkpoints.restore_latest(lambda number: checkpoints.restore(state, number))
        assert found is not None
        assert found[::2] == (1, [])
        checkpoints.save(2, state)
        assert_same_bits(checkpoints.restore(state, number=2), state)


def test_the_latest_few_are_kept(tmp_path, images):
    state = state_after(0, images)
    with Checkpoints(tmp_path / "states", keep=2) as checkpoints:
        assert checkpoints.latest is None
        for number in (1, 2, 5, 7):
            checkpoints.save(number, state)
        checkpoints.wait()
        assert checkpoints.latest == 7
        checkpoints.restore(state, number=5)
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["5", "7"]


def test_a_save_that_would_be_skipped_is_refused(tmp_path, images):
    """Of a script that is run again in the folder of a longer run."""
    state = state_after(0, images)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        with pytest.raises(CheckpointError, match=r"3 was not saved: .* must be above 5$"):
            checkpoints.save(3, state)
        with pytest.raises(CheckpointError, match=r"checkpoint 7 is not there; there are: 5$"):
            checkpoints.restore(state, number=7)
        with pytest.raises(TypeError, match=r"^\['epoch'\] is a int: a jax.Array is needed$"):
            checkpoints.save(6, {"state": state, "epoch": 6})
        assert checkpoints.numbers == [5]
    with pytest.raises(ValueError, match="keep 0: at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_a_look_sees_what_another_one_has_saved(tmp_path, images):
    state = state_after(0, images)
    with Checkpoints(tmp_path) as writer, Checkpoints(tmp_path) as reader:
        for number in (1, 2):
            writer.save(number, state)
            writer.wait()
            assert reader.latest == number
            reader.restore(state, number)


def test_a_look_removes_nothing_that_is_being_written(tmp_path, images):
    half = tmp_path / "1.orbax-checkpoint-tmp"
    half.mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        assert half.is_dir()
        checkpoints.save(2, state_after(0, images))  # the one that writes cleans up
    assert not half.exists()


def test_nothing_to_restore(tmp_path, images):
    with (
        Checkpoints(tmp_path / "states") as checkpoints,
        pytest.raises(CheckpointError, match="no checkpoint"),
    ):
        checkpoints.restore(state_after(0, images))
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state._replace(step=state.step.astype(jnp.float32)), r"dtype of \.step"),
        (lambda state: state._replace(step=jnp.zeros(3, jnp.int32)), r"shape of \.step"),
        (lambda state: state._replace(params={}), "it has .params"),
        (
            lambda state: state._replace(params={**state.params, "extra": jnp.zeros(2)}),
            r"it lacks \.params\['extra'\]",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(change, message, tmp_path, images):
    state = state_after(0, images)
    with Checkpoints(tmp_path / "states") as checkpoints:
        checkpoints.save(1, state)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(change(state))


# Orbax leaves reads of a damaged checkpoint running on threads of its own, whose complaints
# come whenever they end.
abandoned_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def flipped(place):
    """Change the bit at a place of a file, from 0, its beginning, to 1, its end."""

    def flip(path):
        content = bytearray(path.read_bytes())
        content[round(place * (len(content) - 1))] ^= 16
        path.write_bytes(content)

    return flip


def truncated(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


DAMAGE = {
    **{f"bit flipped at {place}": flipped(place) for place in (0.2, 0.4, 0.9)},
    "truncated": truncated,
    "removed": lambda path: path.unlink(),
}


def checksum_of_list(arrays):
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()


def files_of(folder):
    """The files below a folder, the largest, which holds the arrays, first."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: -(folder / path).stat().st_size)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, digits):
    """A folder with checkpoints 1 and 2, and the state in each."""
    folder = tmp_path_factory.mktemp("saved") / "states"
    images = jnp.asarray(digits[:100])
    states = {number: state_after(number, images) for number in (1, 2)}
    with Checkpoints(folder) as checkpoints:
        for number, state in states.items():
            checkpoints.save(number, state)
    return folder, states


def restore_latest(checkpoints, states):
    """What is restored, after a look at its bits and at what was set aside."""
    folder, before = checkpoints._folder, set(checkpoints.numbers)
    found = checkpoints.restore_latest(lambda number: checkpoints.restore(states[1], number))
    assert found is not None
    assert_same_bits(found.state, states[found.number])
    aside = [number for number in sorted(before, reverse=True) if number > found.number]
    assert len(found.set_aside) == len(aside)
    for number, reason in zip(aside, found.set_aside, strict=True):
        assert reason.startswith(f"{folder}: checkpoint {number} is damaged")
        assert "\n" not in reason
        assert (folder / f"{number}.damaged").is_dir()
    assert checkpoints.numbers == sorted(before - set(aside))
    return found


@abandoned_reads
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_costs_at_most_the_latest_checkpoint(damage, saved, tmp_path):
    """Any file of it: it is restored in the right bits, or the one before is; then it goes on."""
    good, states = saved
    names = files_of(good / "2")
    assert len(names) >= 8
    lost = []
    for index, name in enumerate(names):
        folder = tmp_path / str(index)
        shutil.copytree(good, folder)
        DAMAGE[damage](folder / "2" / name)
        with Checkpoints(folder) as checkpoints:
            found = restore_latest(checkpoints, states)
            if found.number == 1:
                lost.append(name)
                checkpoints.save(2, states[2])
        with Checkpoints(folder) as checkpoints:
            assert restore_latest(checkpoints, states)[::2] == (2, [])
    # Orbax itself loads a flipped bit of the arrays' file without a word.
    assert names[0] in lost


@abandoned_reads
def test_several_damaged_checkpoints_are_set_aside(saved, tmp_path):
    _, states = saved
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for number in (1, 2, 3):
            checkpoints.save(number, states[min(number, 2)])
    for number in ("2", "3"):
        flipped(0.4)(tmp_path / number / files_of(tmp_path / number)[0])
    (tmp_path / "3.damaged").mkdir()  # of an earlier time
    with Checkpoints(tmp_path) as checkpoints:
        found = restore_latest(checkpoints, states)
    assert (found.number, len(found.set_aside)) == (1, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2.damaged", "3.damaged"]
    assert files_of(tmp_path / "3.damaged")


@abandoned_reads
@pytest.mark.parametrize("damage", ["bit flipped at 0.4", "truncated", "removed"])
def test_nothing_is_set_aside_where_every_checkpoint_is_damaged(damage, saved, tmp_path):
    good, states = saved
    shutil.copytree(good, tmp_path / "states")
    for number in ("1", "2"):
        DAMAGE[damage](tmp_path / "states" / number / files_of(good / number)[0])
    with Checkpoints(tmp_path / "states") as checkpoints:
        with pytest.raises(DamagedError, match="checkpoint 2 is damaged") as caught:
            restore_latest(checkpoints, states)
        assert "\n" not in str(caught.value)
        assert checkpoints.numbers == [1, 2]
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["1", "2"]


def test_nothing_is_set_aside_for_another_model(saved, tmp_path):
    good, states = saved
    shutil.copytree(good, tmp_path / "states")
    other = {1: states[1]._replace(step=states[1].step.astype(jnp.float32))}
    with Checkpoints(tmp_path / "states") as checkpoints:
        with pytest.raises(CheckpointError, match="checkpoint 2 is of another model") as caught:
            restore_latest(checkpoints, other)
        assert not isinstance(caught.value, DamagedError)
        assert checkpoints.numbers == [1, 2]
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["1", "2"]


def test_without_checkpoints_nothing_is_restored(tmp_path):
    with Checkpoints(tmp_path / "states") as checkpoints:
        assert checkpoints.restore_latest(checkpoints.restore) is None
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize(
    ("forge_list", "says"),
    [(False, "the checksum of its list differs"), (True, r"the checksum of \.step differs")],
)
def test_a_forged_checksum_is_found(forge_list, says, saved, tmp_path):
    good, states = saved
    shutil.copytree(good, tmp_path / "states")
    metadata = tmp_path / "states" / "2" / "_CHECKPOINT_METADATA"
    content = json.loads(metadata.read_text())
    custom = content["custom_metadata"]
    custom["arrays"][".step"]["sha256"] = "0" * 64
    if forge_list:
        custom["sha256"] = checksum_of_list(custom["arrays"])
    metadata.write_text(json.dumps(content))
    with (
        Checkpoints(tmp_path / "states") as checkpoints,
        pytest.raises(DamagedError, match=says),
    ):
        checkpoints.restore(states[2])


def test_the_command_line_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    """A warning on stderr, and the bits of a run that lost nothing."""
    flags = ("--dataset", "digits", "--hidden", "8", "--beta", "1", "4", "--batch-size", "256")
    flags += ("--epochs", "4", "--checkpoint-every", "1", "--figures", "none", "--name", "swept")

    def trained(*more):
        command = [sys.executable, "-m", "experiments.mnist", *flags, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
        [folder] = (run / "checkpoints").glob("*/states")
        with Checkpoints(folder) as checkpoints:
            return done, folder, checkpoints.layout(4)

    run = tmp_path / "results" / "mnist" / "swept"
    done, folder, whole = trained()
    assert done.stderr == ""
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]
    flipped(0.4)(folder / "4" / files_of(folder / "4")[0])
    done, _, resumed = trained("--resume")
    [line] = done.stderr.splitlines()
    where = re.escape(str(folder))
    assert re.fullmatch(
        f"warning: {where}: checkpoint 4 is damaged: .*; set aside, going on from 3", line
    )
    assert re.findall(r"epoch (\d)/4", done.stdout) == ["4"]
    assert resumed == whole
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4", "4.damaged"]
