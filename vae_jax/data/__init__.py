"""Data sets as NumPy arrays, each with a description of what was really loaded."""

from vae_jax.data.columns import Column, as_text
from vae_jax.data.download import default_cache_dir
from vae_jax.data.dsprites import DSprites, load_dsprites
from vae_jax.data.encoding import Block, Encoding, fit_encoding
from vae_jax.data.faces import FaceData, load_frey_faces
from vae_jax.data.idx import DataError, read_idx
from vae_jax.data.images import DATASETS, ImageData, load_images
from vae_jax.data.lengths import buckets, lengths_of
from vae_jax.data.sentences import TEXTS, Sentences, load_sentences, read_text_file
from vae_jax.data.tables import TABLES, Table, load_table, read_table
from vae_jax.data.tokens import TextRules, encode, text_of, tokenizer

__all__ = [
    "DATASETS",
    "TABLES",
    "TEXTS",
    "Block",
    "Column",
    "DSprites",
    "DataError",
    "Encoding",
    "FaceData",
    "ImageData",
    "Sentences",
    "Table",
    "TextRules",
    "as_text",
    "buckets",
    "default_cache_dir",
    "encode",
    "fit_encoding",
    "lengths_of",
    "load_dsprites",
    "load_frey_faces",
    "load_images",
    "load_sentences",
    "load_table",
    "read_idx",
    "read_table",
    "read_text_file",
    "text_of",
    "tokenizer",
]
