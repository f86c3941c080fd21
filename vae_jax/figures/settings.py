"""What the figures of a sweep share: its settings in order, and the spread of its seeds."""

import numpy as np
from jaxtyping import Float, Integer
from matplotlib import colormaps
from matplotlib.colors import to_rgba_array
from matplotlib.patheffects import withStroke

from vae_jax.figures.style import BLUE

HALO = [withStroke(linewidth=1.5, foreground="white")]  # around what is written over lines


def ascending(
    values: Float[np.ndarray, " settings"], shape: tuple[int, ...]
) -> Integer[np.ndarray, " settings"]:
    """The order that sorts the settings.

    Args:
        values: of the setting.
        shape: of the data, which has a row for each.

    Returns:
        The place of each value, the least one's first.

    Raises:
        ValueError: if there is not a row for each, or a value is not finite.
    """
    if np.ndim(values) != 1 or shape[:1] != np.shape(values) or 0 in shape:
        raise ValueError(f"data of shape {shape} for {np.size(values)} values of the setting")
    if not np.all(np.isfinite(values)):
        raise ValueError("values of the setting that are not finite cannot be drawn")
    return np.argsort(values, kind="stable")


def mean_and_error(
    values: Float[np.ndarray, "settings seeds *rest"],
) -> tuple[Float[np.ndarray, "settings *rest"], Float[np.ndarray, "settings *rest"]]:
    """Mean over the finite seeds and its standard error, NaN where nothing can be said."""
    finite = np.isfinite(values)
    count = np.sum(finite, axis=1)
    some, several = np.maximum(count, 1), np.maximum(count - 1, 1)
    mean = np.sum(np.where(finite, values, 0.0), axis=1) / some
    squares = np.sum(np.where(finite, values - mean[:, None], 0.0) ** 2, axis=1)
    error = np.sqrt(squares / several / some)
    return np.where(count > 0, mean, np.nan), np.where(count > 1, error, np.nan)


def ordered_colors(count: int) -> Float[np.ndarray, "count 4"]:
    """Colours that show an order, the lightest still readable on white."""
    if count == 1:
        return to_rgba_array(BLUE)
    return np.asarray(colormaps["viridis"](np.linspace(0, 0.9, count)))
