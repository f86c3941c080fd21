import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import assert_same_bits, hyper, trainer

from vae_jax.checkpoint import CheckpointError, Checkpoints


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
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(kept), kept)


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
        checkpoints.wait()
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(change(state))


# Orbax leaves reads of a damaged checkpoint running on threads of its own, whose complaints
# come whenever they end.
abandoned_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def refused(folder, state) -> bool:
    """Whether a checkpoint is refused in one line; a loaded one must be right in every bit."""
    with Checkpoints(folder) as checkpoints:
        try:
            loaded = checkpoints.restore(state, number=1)
        except CheckpointError as error:
            message = str(error)
        else:
            assert_same_bits(loaded, state)
            return False
    assert "\n" not in message
    return True


@abandoned_reads
def test_a_changed_bit_anywhere_is_found(tmp_path, images):
    """In every file of the checkpoint, at several places: an error or the right state."""
    folder, state = tmp_path / "states", state_after(1, images)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state)
    files = [p for p in folder.rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    for path in files:
        good, found = path.read_bytes(), 0
        for place in np.linspace(0, len(good) - 1, 7 if path == largest else 3, dtype=int):
            damaged = bytearray(good)
            damaged[place] ^= 16
            path.write_bytes(bytes(damaged))
            found += refused(folder, state)
        path.write_bytes(good)
        # Orbax itself loads a flipped bit of the arrays' file without a word.
        assert found > 0 or path != largest
    assert not refused(folder, state)


@abandoned_reads
def test_a_truncated_or_missing_file_is_found(tmp_path, images):
    folder, state = tmp_path / "states", state_after(1, images)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state)
    files = [p for p in folder.rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    for path in files:
        good = path.read_bytes()
        for damage in (lambda p: p.write_bytes(b""), lambda p: p.unlink()):
            damage(path)
            assert refused(folder, state) or path != largest
            path.write_bytes(good)


def test_a_forged_checksum_is_found(tmp_path, images):
    state = state_after(0, images)
    with Checkpoints(tmp_path / "states") as checkpoints:
        checkpoints.save(1, state)
    metadata = tmp_path / "states" / "1" / "_CHECKPOINT_METADATA"
    content = json.loads(metadata.read_text())
    content["custom_metadata"]["arrays"][".step"]["sha256"] = "0" * 64
    metadata.write_text(json.dumps(content))
    with (
        Checkpoints(tmp_path / "states") as checkpoints,
        pytest.raises(CheckpointError, match=r"the checksum of \.step differs"),
    ):
        checkpoints.restore(state)
