"""Lossless compression of images with a trained VAE, in NumPy on the host."""

from vae_jax.compression.bits_back import Chain, Codec, make_codec, pop_chain, push_chain
from vae_jax.compression.container import environment, model_hash, pack, read, unpack
from vae_jax.compression.exact import CodecError
from vae_jax.compression.model_file import load_codec, save_codec
from vae_jax.compression.pixels import PIXELS

__all__ = [
    "PIXELS",
    "Chain",
    "Codec",
    "CodecError",
    "environment",
    "load_codec",
    "make_codec",
    "model_hash",
    "pack",
    "pop_chain",
    "push_chain",
    "read",
    "save_codec",
    "unpack",
]
