"""What compressed images cost, against what the model promised."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.figure import Figure

from vae_jax.figures.style import CLASS_COLORS, GREY, chart_figure, styled


class CodingCurve(NamedTuple):
    """A model in the course of its training.

    Attributes:
        epochs: at which it was measured, rising.
        neg_elbo: of the model on the images, bits a pixel.
        rate: what the images took, everything counted, bits a pixel.
    """

    epochs: Integer[np.ndarray, " points"]
    neg_elbo: Float[np.ndarray, " points"]
    rate: Float[np.ndarray, " points"]


@styled
def rate_against_elbo(
    curves: Mapping[str, CodingCurve], codecs: Mapping[str, float], *, title: str
) -> Figure:
    """The rate of compressed images against the negative ELBO, other codecs as lines.

    On the grey diagonal the two are equal; what a point lies above it is overhead.

    Args:
        curves: of each model, under its name for the legend.
        codecs: bits a pixel of other lossless codecs, by name.
        title: what was trained, and which images were compressed.

    Returns:
        The figure, one axes: a point for each epoch, the first and the last of a curve
        labelled. Codecs far above the models are named at the top.

    Raises:
        ValueError: if there is no curve, its shapes disagree, or a number is not above 0.
    """
    if not curves:
        raise ValueError("no model to draw")
    for name, curve in curves.items():
        shapes = {np.shape(values) for values in curve}
        numbers = np.concatenate([np.ravel(curve.neg_elbo), np.ravel(curve.rate)])
        if len(shapes) > 1 or not (np.isfinite(numbers).all() and (numbers > 0).all()):
            raise ValueError(f"{name}: as many finite numbers above 0 are needed of each")
    figure = chart_figure(6.4, 4.6, title)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        color = CLASS_COLORS[index % len(CLASS_COLORS)]
        axes.plot(curve.neg_elbo, curve.rate, "o-", color=color, lw=1, label=name)
        for place in {0, len(curve.epochs) - 1}:
            axes.annotate(
                f"epoch {curve.epochs[place]}",
                (curve.neg_elbo[place], curve.rate[place]),
                xytext=(4, -8),
                textcoords="offset points",
                fontsize=6,
                color=color,
            )
    axes.margins(0.12)
    lowest, highest = axes.get_ylim()
    near = {name: rate for name, rate in codecs.items() if rate <= 1.2 * highest}
    for name, rate in near.items():
        axes.axhline(rate, color="0.5", lw=0.7, ls=(0, (4, 3)), zorder=0)
        place = {"xy": (1, rate), "xycoords": ("axes fraction", "data"), "va": "center"}
        offset = {"xytext": (3, 0), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(f"{name} {rate:.3f}", fontsize=6, **place, **offset)
    beyond = [f"{name} {rate:.3f}" for name, rate in codecs.items() if name not in near]
    if beyond:
        said = "above: " + ", ".join(beyond)
        axes.text(1, 1, said, transform=axes.transAxes, ha="right", va="bottom", fontsize=6)
    axes.set_ylim(min([lowest, *near.values()]) * 0.98, max([highest, *near.values()]) * 1.02)
    ends = axes.get_xlim()
    axes.plot(ends, ends, color=GREY, lw=0.8, zorder=0, label="rate = $-$ELBO")
    axes.set_xlim(*ends)
    axes.set_xlabel("$-$ELBO of the model on these images (bits a pixel)")
    axes.set_ylabel("rate, everything counted (bits a pixel)")
    axes.legend(loc="lower right", fontsize=6)
    return figure
