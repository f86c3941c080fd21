"""The log-likelihood that more samples in the bound buy, and the units that they keep active."""

from collections.abc import Mapping
from itertools import cycle
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from vae_jax.figures.settings import mean_and_error
from vae_jax.figures.style import BLUE, VERMILION, chart_figure, styled


class BySamples(NamedTuple):
    """One method over the number of samples k in its bound.

    Attributes:
        k: ascending.
        nats: negative log p(x) of the test set, a row for each k and a column for each seed; NaN
            where a model diverged.
        published: of each k; NaN where nothing is.
        spectra: variance of the posterior mean of each latent unit, falling, for each k.
    """

    k: Int[np.ndarray, " k"]
    nats: Float[np.ndarray, "k seed"]
    published: Float[np.ndarray, " k"]
    spectra: Float[np.ndarray, "k latent"]


COLORS = (BLUE, VERMILION)
_ACTIVE = 0.01  # variance above which a unit is active
_SHARED = "0.35"  # of what both methods share
_MARKERS = ("o", "s", "^", "D", "v", "P")


@styled
def samples_in_bound(methods: Mapping[str, BySamples], *, title: str) -> Figure:
    """Log-likelihood against k beside the published one, and the spectrum of the latent units.

    Args:
        methods: what was found of each, under its name; two at most.
        title: what was trained.

    Returns:
        The figure. A spectrum that two methods share, as with k = 1, where both bounds are the
        ELBO and one model stands for both, is drawn once.

    Raises:
        ValueError: if there is no method, or more than two.
    """
    if not 1 <= len(methods) <= len(COLORS):
        raise ValueError(f"{len(methods)} methods: 1 or 2 are needed")
    figure = chart_figure(9.6, 3.4, title)
    left, right = figure.subplots(1, 2)
    for color, (name, found) in zip(COLORS, methods.items(), strict=False):
        _draw_nats(left, name, found, color)
    _draw_spectra(right, methods)
    every_k = sorted({int(k) for found in methods.values() for k in found.k})
    left.set_xscale("log")
    left.xaxis.set_major_locator(FixedLocator(every_k))
    left.xaxis.set_minor_locator(NullLocator())
    left.set_xticklabels([str(k) for k in every_k])
    left.set_xlabel("samples k in the bound")
    left.set_ylabel("nats per image")
    several = any(np.shape(found.nats)[1] > 1 for found in methods.values())
    over = ", mean ± s.e. over seeds" if several else ""
    left.set_title(f"-log p(x) of the test images{over}")
    left.grid(axis="y")
    left.legend()
    return figure


def _draw_spectra(axes: Axes, methods: Mapping[str, BySamples]) -> None:
    owners: dict[tuple[int, bytes], list[str]] = {}
    for name, found in methods.items():
        for k, variance in zip(found.k, found.spectra, strict=True):
            owners.setdefault((int(k), variance.tobytes()), []).append(name)
    colors = dict(zip(methods, COLORS, strict=False))
    for name, found in methods.items():
        for marker, k, variance in zip(cycle(_MARKERS), found.k, found.spectra, strict=False):
            own = owners[int(k), variance.tobytes()]
            if own[0] != name:
                continue
            shared = len(own) > 1
            active = f"{np.sum(variance > _ACTIVE)} active"
            label = f"k = {k} (both): {active}" if shared else f"{name}, k = {k}: {active}"
            units = np.arange(1, len(variance) + 1)
            (line,) = axes.semilogy(units, np.maximum(variance, 1e-12), label=label)
            color = _SHARED if shared else colors[name]
            line.set(color=color, marker=marker, markersize=2.5, linewidth=0.8)
    axes.axhline(_ACTIVE, color="black", ls=":", lw=0.8, label=f"active: over {_ACTIVE:g}")
    axes.set_xlabel("latent unit, sorted")
    axes.set_title("variance of the posterior mean")
    # Beside the axes: within them it would cover the threshold and the tails of the curves.
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_nats(axes: Axes, name: str, found: BySamples, color: str) -> None:
    mean, error = mean_and_error(found.nats)
    if np.isfinite(error).all():
        axes.errorbar(found.k, mean, error, color=color, marker="o", capsize=2, label=name)
    else:
        axes.plot(found.k, mean, color=color, marker="o", label=name)
    if np.isfinite(found.published).any():
        label = f"{name}, published"
        axes.plot(found.k, found.published, "o:", color=color, mfc="white", label=label)
