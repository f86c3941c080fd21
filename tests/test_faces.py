import hashlib
import os
import struct

import numpy as np
import pytest

from vae_jax.data import DataError, load_frey_faces
from vae_jax.data.download import UnavailableError

SHAPE = (1965, 28, 20)


@pytest.fixture
def faces(tmp_path):
    """A folder of random faces, no two of them alike, and the faces."""
    images = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    path = tmp_path / "frey_faces" / "frey_faces.npy"
    path.parent.mkdir()
    np.save(path, images)
    return path, images


def test_every_face_is_trained_or_tested_on(faces):
    path, images = faces
    data = load_frey_faces(path.parents[1])
    assert data.train_images.shape == (1765, 28, 20, 1)
    assert data.test_images.shape == (200, 28, 20, 1)
    both = np.concatenate([data.train_images, data.test_images])[..., 0]
    assert sorted(map(bytes, both)) == sorted(map(bytes, images))
    assert data.sha256 == {"frey_faces.npy": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_the_split_is_the_same_every_time(faces, monkeypatch):
    path, images = faces
    monkeypatch.setenv("VAE_JAX_DATA", str(path.parents[1]))
    first, again = load_frey_faces(), load_frey_faces(path.parents[1])
    np.testing.assert_array_equal(first.test_images, again.test_images)
    # The legacy generator's stream is promised for good, so this may stand here.
    place = np.random.RandomState(0).permutation(1965)[1765]
    np.testing.assert_array_equal(first.test_images[0, ..., 0], images[place])


def test_faces_that_are_not_there_are_unavailable(tmp_path, monkeypatch):
    with pytest.raises(UnavailableError, match=r"no frey_faces/frey_faces.npy in .*--data-dir"):
        load_frey_faces(tmp_path)
    monkeypatch.delenv("VAE_JAX_DATA", raising=False)
    with pytest.raises(UnavailableError, match="no data folder is known"):
        load_frey_faces()


def header_of(shape: str) -> bytes:
    """A .npy file that is all header."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a .npy file"),
        (b"PK\x03\x04 an archive", "not a .npy file"),
        (header_of("(1965, 28, 20)"), "damaged .npy file"),
        (header_of("(1965, 28, 20000000000)"), "damaged .npy file"),
        (header_of("(1965, 28,"), "damaged .npy file"),
        (b"\x93NUMPY\x01\x00", "damaged .npy file"),
        (header_of("(2, 2)") + bytes(4), "2 x 2 uint8, 1965 x 28 x 20 uint8 is needed"),
        (header_of("(1965, 28, 20)") + bytes(1_200_000), "too long"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(faces, content, said):
    path, _ = faces
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load_frey_faces(path.parents[1])
    assert not isinstance(caught.value, UnavailableError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["float64", "object"])
def test_numbers_of_another_kind_are_refused(faces, kind):
    path, _ = faces
    np.save(path, np.zeros((1965, 28, 2), kind), allow_pickle=True)
    with pytest.raises(DataError, match=r"needed|damaged"):
        load_frey_faces(path.parents[1])


def test_what_is_no_file_is_refused(faces):
    path, _ = faces
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a file"):
        load_frey_faces(path.parents[1])
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))
    with pytest.raises(DataError, match="not a file"):
        load_frey_faces(path.parents[1])
