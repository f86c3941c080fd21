"""Data sets as NumPy arrays, each with a description of what was really loaded."""

from vae_jax.data.download import default_cache_dir
from vae_jax.data.dsprites import DSprites, load_dsprites
from vae_jax.data.encoding import Block, Encoding, fit_encoding
from vae_jax.data.faces import FaceData, load_frey_faces
from vae_jax.data.idx import DataError, read_idx
from vae_jax.data.images import DATASETS, ImageData, load_images
from vae_jax.data.tables import TABLES, Column, Table, as_text, load_table, read_table

__all__ = [
    "DATASETS",
    "TABLES",
    "Block",
    "Column",
    "DSprites",
    "DataError",
    "Encoding",
    "FaceData",
    "ImageData",
    "Table",
    "as_text",
    "default_cache_dir",
    "fit_encoding",
    "load_dsprites",
    "load_frey_faces",
    "load_images",
    "load_table",
    "read_idx",
    "read_table",
]
