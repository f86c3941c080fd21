"""Where in memory data lie, so that JAX need not copy them."""

import numpy as np
from jaxtyping import UInt8

_ALIGNMENT = 64  # bytes, of XLA's arrays on a CPU


def aligned(values: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """A read-only copy that begins where XLA wants an array to begin.

    On a CPU `vae_jax.sharding.place` then takes it as it is, and the data are in memory once.
    """
    room = np.empty(values.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    copy.flags.writeable = False
    return copy
