"""Figures of numbers: curves, scatters and bars."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer
from matplotlib import colormaps
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vae_jax.figures.style import BLUE, CLASS_COLORS, GREY, VERMILION, chart_figure, styled


@styled
def loss_curves(
    epochs: Integer[np.ndarray, " epochs"],
    train: Mapping[str, Float[np.ndarray, " epochs"]],
    test: Mapping[str, Float[np.ndarray, " epochs"]],
    *,
    title: str,
    unit: str = "nats per image",
) -> Figure:
    """Three panels over epochs: negative ELBO, reconstruction and KL.

    Args:
        epochs: the epoch of each value.
        train: metrics on the training data under the names that training gives them: `elbo`,
            `log_lik` and `kl`, in `unit`. The first two are drawn negated; other names
            are ignored, and a value that is not finite leaves a gap.
        test: the same on the test data.
        title: what was trained.
        unit: label of the vertical axis.

    Returns:
        The figure, three axes.

    Raises:
        ValueError: if a metric is missing or has not one value for each epoch.
    """
    figure = chart_figure(9.0, 2.9, title)
    panels = (
        ("elbo", -1, "negative ELBO"),
        ("log_lik", -1, "reconstruction, $-$log p(x | z)"),
        ("kl", 1, "KL(q(z | x) || p(z))"),
    )
    lines = (("train", train, BLUE, "-"), ("test", test, VERMILION, "--"))
    for axes, (key, sign, name) in zip(figure.subplots(1, 3), panels, strict=True):
        for split, metrics, color, style in lines:
            values = np.asarray(metrics.get(key, ()))
            if values.shape != (len(epochs),) or len(epochs) == 0:
                raise ValueError(f"{split} {key}: shape {values.shape}, epochs {len(epochs)}")
            marker = "o" if len(epochs) <= 12 else None
            axes.plot(epochs, sign * values, style, color=color, label=split, marker=marker)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    figure.axes[0].set_ylabel(unit)
    figure.axes[0].legend()
    return figure


@styled
def latent_scatter(
    means: Float[np.ndarray, "n 2"],
    labels: Integer[np.ndarray, " n"],
    class_names: Sequence[str],
    *,
    title: str,
    axis_names: tuple[str, str] = ("z1", "z2"),
) -> Figure:
    """Posterior means in two latent dimensions, coloured by class.

    Args:
        means: the means, in standard deviations of the prior.
        labels: the class of each, an index into `class_names`.
        class_names: names for the legend, which stands outside the data.
        title: what was trained.
        axis_names: names of the two dimensions.

    Returns:
        The figure, one axes with equal scales. Names of one or two characters also stand
        at the median of their points, so that little hangs on telling ten colours apart.

    Raises:
        ValueError: if the shapes disagree, a mean is not finite or a label has no name.
    """
    if means.shape != (len(labels), 2) or len(labels) == 0:
        raise ValueError(f"{len(labels)} labels for means of shape {means.shape}")
    if not np.all(np.isfinite(means)):
        raise ValueError("means that are not finite cannot be drawn")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise ValueError(f"labels {labels.min()} to {labels.max()}, {len(class_names)} names")
    if len(class_names) <= len(CLASS_COLORS):
        colors = to_rgba_array(CLASS_COLORS)
    else:
        colors = colormaps["viridis"](np.linspace(0, 1, len(class_names)))
    figure = chart_figure(6.2, 5.4, title)
    axes = figure.subplots()
    # Drawn in a fixed random order: in the data's order the last class would cover the others.
    order = np.random.default_rng(0).permutation(len(labels))
    axes.scatter(
        *means[order].T,
        c=colors[labels[order]],
        s=np.clip(40_000 / len(labels), 3, 16),
        alpha=0.6,
        linewidths=0,
        rasterized=True,
    )
    present = np.unique(labels)
    if max(map(len, class_names)) <= 2:
        halo = [withStroke(linewidth=2.5, foreground="white")]
        for index in present:
            x, y = np.median(means[labels == index], axis=0)
            name = str(class_names[index])
            axes.text(x, y, name, ha="center", va="center", weight="bold", path_effects=halo)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    handles = [
        Line2D([], [], color=tuple(colors[i]), label=class_names[i], marker="o", ls="", ms=5)
        for i in present
    ]
    columns = -(-len(present) // 25)
    figure.legend(handles=handles, loc="outside right center", ncols=columns, handletextpad=0)
    return figure


@styled
def kl_per_dimension(
    kl: Float[np.ndarray, " latent"], *, title: str, threshold: float = 0.01
) -> Figure:
    """How many nats each latent dimension carries, in descending order.

    Args:
        kl: KL(q(z_j | x) || p(z_j)) of each dimension, nats, averaged over images.
        title: what was trained.
        threshold: a dimension above it, in nats, counts as active here. (The usual "active
            units" are another count: those whose posterior mean varies over the data.)

    Returns:
        The figure, one axes, the dimensions counted from 1. Its vertical axis is logarithmic,
        for the threshold to be seen beside the largest bars, and starts at a tenth of it.

    Raises:
        ValueError: if a KL is negative or not finite, or the threshold is not positive.
    """
    # An analytic KL may come out a rounding error under zero.
    if kl.ndim != 1 or len(kl) == 0 or not np.all((kl > -1e-4) & (kl < np.inf)):
        raise ValueError(f"kl of shape {kl.shape}: one finite KL for each dimension is needed")
    if not threshold > 0:
        raise ValueError(f"threshold {threshold}: a positive number is needed")
    order = np.argsort(-kl, kind="stable")
    count, bars, active = len(kl), kl[order], int(np.sum(kl > threshold))
    staggered = count > 112
    inches = 0.06 * count + 1 if staggered else max(5.0, 0.1 * count + 1.2)
    figure = chart_figure(inches, 3.0, title)
    axes = figure.subplots()
    axes.bar(np.arange(count), bars, color=np.where(bars > threshold, BLUE, GREY), width=0.8)
    label = f"{active} of {count} dimensions above {threshold:g} nats"
    axes.axhline(threshold, color=VERMILION, ls="--", lw=1, label=label)
    axes.set_yscale("log")
    axes.set_ylim(threshold / 10, 1.3 * max(float(bars[0]), threshold))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(-1, count)
    positions, names = np.arange(count), [str(dim + 1) for dim in order]
    if staggered:
        # Every second label hangs lower, so that 200 of them find room side by side.
        axes.set_xticks(positions[::2], names[::2])
        axes.set_xticks(positions[1::2], names[1::2], minor=True)
        axes.tick_params(axis="x", which="both", labelsize=5, rotation=90, width=0.3, pad=1)
        axes.tick_params(axis="x", which="minor", length=15, color="0.75")
    else:
        axes.set_xticks(positions, names)
        if count > 24:
            axes.tick_params(axis="x", labelsize=6, rotation=90, width=0.3)
    axes.set_xlabel("latent dimension")
    axes.set_ylabel("KL (nats per image)")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return figure
