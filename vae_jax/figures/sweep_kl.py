"""Which dimensions of z carry something, as a setting of a sweep changes.

A member that diverged or is missing is NaN; what is drawn is the mean over the others. One
standard error needs two members, and is left out where there are fewer.
"""

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vae_jax.figures.settings import HALO, ascending, mean_and_error, ordered_colors
from vae_jax.figures.style import BLUE, GREY, VERMILION, chart_figure, styled


@styled
def kl_against(
    values: Float[np.ndarray, " settings"],
    kl: Float[np.ndarray, "settings seeds latent"],
    *,
    title: str,
    setting: str = "beta",
    threshold: float = 0.01,
) -> Figure:
    """How many nats the dimensions of z carry, and how many carry any, as a setting changes.

    Which dimension carries what is a matter of chance and differs between seeds. So the
    dimensions of each member are sorted first, and it is the k-th largest KL that is averaged.

    Args:
        values: the values of the setting, finite, in any order. Their axis is logarithmic if
            they are positive and span a factor of 4.
        kl: KL(q(z_j | x) || p(z_j)) of each member and dimension, averaged over images, nats.
            A member with one that is not finite is left out.
        title: what was trained.
        setting: name of what was swept.
        threshold: a dimension above it, in nats, counts as active; the others collapsed.

    Returns:
        The figure. Above, for up to ten dimensions, a line for each rank with a band of one
        standard error, on a vertical axis that is linear up to the threshold and logarithmic
        above it; for more, a map of ranks by settings, grey where the mean is below the
        threshold, white where no member is left, and a third axes with its scale. Below, the
        number of active dimensions, mean and standard error over seeds.

    Raises:
        ValueError: if shapes disagree, a value is not finite, a KL is negative, or the
            threshold is not positive.
    """
    order = ascending(values, kl.shape)
    # An analytic KL may come out a rounding error under zero.
    if kl.ndim != 3 or np.any(kl <= -1e-4):
        raise ValueError(f"kl of shape {kl.shape}: a KL for each setting, seed and dimension")
    if not threshold > 0:
        raise ValueError(f"threshold {threshold}: a positive number is needed")
    whole = np.all(np.isfinite(kl[order]), axis=-1)
    values, latent = values[order], kl.shape[-1]
    members = np.where(whole[..., None], np.maximum(kl[order], 0), np.nan)
    mean, error = mean_and_error(-np.sort(-members, axis=-1))
    active = np.where(whole, np.sum(members > threshold, axis=-1), np.nan)
    figure = chart_figure(5.6, 4.4, title)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    lines = latent <= 10
    if lines:
        places = values
        if values[0] > 0 and values[-1] / values[0] >= 4:
            upper.set_xscale("log")
        upper.margins(x=0.06)
    else:
        places = np.arange(len(values))
    means, errors = mean_and_error(active)
    lower.errorbar(places, means, yerr=errors, color=BLUE, marker="o", capsize=2, elinewidth=0.8)
    lower.set_ylim(-0.08 * latent, 1.08 * latent)
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    lower.grid(axis="y")
    lower.set_ylabel("active\ndimensions")
    lower.set_xlabel(setting)
    _setting_ticks(lower, places, values)
    if lines:
        handle = _rank_lines(figure, upper, values, mean, error, threshold)
    else:
        handle = _rank_map(upper, mean, threshold)
    upper.tick_params(axis="x", labelbottom=False)
    upper.legend(handles=[handle], loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return figure


def _rank_lines(
    figure: Figure,
    axes: Axes,
    values: Float[np.ndarray, " settings"],
    mean: Float[np.ndarray, "settings latent"],
    error: Float[np.ndarray, "settings latent"],
    threshold: float,
) -> Artist:
    """A line and a band for each rank, named at its right end; returns what the legend shows."""
    colors = ordered_colors(mean.shape[1])
    label = f"threshold, {threshold:g} nats"
    rule = axes.axhline(threshold, color=VERMILION, ls="--", lw=0.8, alpha=0.7, label=label)
    for center, spread, color in zip(mean.T, error.T, colors, strict=True):
        axes.errorbar(values, center, yerr=spread, color=color, marker="o", elinewidth=0.8)
        axes.fill_between(values, center - spread, center + spread, color=color, alpha=0.2, lw=0)
    # Unlike a plain logarithm it shows what is nearly 0, or 0.
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    top = np.max(mean + np.nan_to_num(error), where=np.isfinite(mean), initial=2 * threshold)
    axes.set_ylim(-0.15 * threshold, 1.5 * top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel("KL (nats)")
    axes.grid(axis="y")
    finite = np.flatnonzero(np.isfinite(mean[:, 0]))
    if len(finite) == 0:
        return rule
    last = finite[-1]
    figure.draw_without_rendering()  # what is where is known only after the layout
    ends = np.stack([np.full(mean.shape[1], values[last]), mean[last]], axis=-1)
    heights = axes.transData.transform(ends)[:, 1] * 72 / figure.dpi
    # The lines never cross, so that ends too near to each other can share one name.
    groups = [[rank] for rank in range(len(ends))]
    while True:
        near = np.flatnonzero(-np.diff([np.mean(heights[group]) for group in groups]) < 8.5)
        if len(near) == 0:
            break
        groups[near[0]] += groups.pop(near[0] + 1)
    for group in groups:
        name = f"{group[0] + 1}" + (f"–{group[-1] + 1}" if len(group) > 1 else "")
        name = f"rank {name}" if group[0] == 0 else name
        offset = np.mean(heights[group]) - heights[group[0]]
        axes.annotate(
            name, tuple(ends[group[0]]), (5, offset), textcoords="offset points", fontsize=7,
            ha="left", va="center", path_effects=HALO,
        )  # fmt: skip
    return rule


def _rank_map(axes: Axes, mean: Float[np.ndarray, "settings latent"], threshold: float) -> Artist:
    """Ranks from the top down, a column for each setting; returns what the legend shows."""
    cmap = colormaps["viridis"].with_extremes(under=GREY, bad="white")
    top = np.max(mean, where=np.isfinite(mean), initial=10 * threshold)
    norm = LogNorm(threshold, float(top))
    edges = (-0.5, mean.shape[0] - 0.5, mean.shape[1] + 0.5, 0.5)
    image = axes.imshow(
        mean.T, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest", extent=edges
    )
    latent = mean.shape[1]
    axes.set_yticks(np.unique(np.linspace(1, latent, min(latent, 8)).round().astype(int)))
    axes.set_ylabel("dimension, by rank")
    form = FuncFormatter(lambda value, _: f"{value:g}")
    axes.figure.colorbar(image, ax=axes, label="KL (nats)", format=form, extend="min")
    return Patch(color=GREY, label=f"collapsed, below {threshold:g} nats")


def _setting_ticks(axes: Axes, places: np.ndarray, values: Float[np.ndarray, " settings"]) -> None:
    """Ticks at the settings themselves, as room allows."""
    scaled = np.log(places) if axes.get_xscale() == "log" else places.astype(float)
    shown = [0]
    for index in range(1, len(values)):
        if scaled[index] - scaled[shown[-1]] >= 0.07 * np.ptp(scaled):
            shown.append(index)
    axes.set_xticks(places[shown], [f"{value:g}" for value in values[shown]])
    axes.minorticks_off()
