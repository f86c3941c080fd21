"""Data sets as NumPy arrays, each with a description of what was really loaded."""

from vae_jax.data.download import default_cache_dir
from vae_jax.data.idx import DataError, read_idx
from vae_jax.data.images import DATASETS, ImageData, load_images

__all__ = [
    "DATASETS",
    "DataError",
    "ImageData",
    "default_cache_dir",
    "load_images",
    "read_idx",
]
