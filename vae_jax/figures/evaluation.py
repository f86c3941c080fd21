"""A page of what an evaluation found, setting by setting."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_jax.figures.style import BLUE, CLASS_COLORS, GREY, VERMILION, chart_figure, styled


class Evaluated(NamedTuple):
    """What is drawn of one setting; all but the accuracies in nats or variances.

    Attributes:
        variance: of the posterior mean of each latent dimension over the data, falling.
        active: units whose variance exceeds the threshold, averaged over models.
        kl_per_dim: KL of each, falling.
        information_per_dim: I(x; z_j) of each, in the same order; NaN, as the three that follow,
            where the posterior has two layers.
        information: I(x; z).
        total_correlation: KL(q(z) || prod_j q(z_j)).
        dimension_kl: sum_j KL(q(z_j) || p(z_j)).
        elbo: of the held-out data.
        log_likelihood: the importance-weighted estimate.
        log_likelihood_error: its standard error; NaN where there is none.
        error_over: what both errors are over: "examples" of a single model, else "seeds" or
            "folds".
        annealed_gain: by how much annealed importance sampling is above it, of the examples that
            have both; NaN where none has.
        annealed_gain_error: standard error of that; NaN where there is none.
        effective_samples: of each example.
        accuracies: of classifiers on the posterior means, by name; none without classes.
    """

    variance: Float[np.ndarray, " latent"]
    active: float
    kl_per_dim: Float[np.ndarray, " latent"]
    information_per_dim: Float[np.ndarray, " latent"]
    information: float
    total_correlation: float
    dimension_kl: float
    elbo: float
    log_likelihood: float
    log_likelihood_error: float
    error_over: str
    annealed_gain: float
    annealed_gain_error: float
    effective_samples: Float[np.ndarray, " n"]
    accuracies: Mapping[str, float]


@styled
def evaluation_page(
    found: Mapping[str, Evaluated],
    *,
    title: str,
    threshold: float,
    information_bound: float,
    num_samples: int,
    unit: str = "nats per image",
) -> Figure:
    """Six panels: the latent dimensions, where the KL goes, the likelihood and the classes.

    Args:
        found: of each setting, under its name for the legend.
        title: what was trained.
        threshold: variance above which a latent dimension is active.
        information_bound: the logarithm of the number of examples, nats.
        num_samples: K of the importance-weighted estimate.
        unit: of the likelihoods.

    Returns:
        The figure.

    Raises:
        ValueError: if nothing was found.
    """
    if not found:
        raise ValueError("no setting to draw")
    figure = chart_figure(11.0, 5.8, title)
    panels = figure.subplots(2, 3).ravel()
    colors = dict(zip(found, _colors(len(found)), strict=True))
    _spectrum(panels[0], found, colors, threshold)
    _per_dimension(panels[1], found, colors)
    _surgery(panels[2], found, information_bound)
    _likelihoods(panels[3], found, num_samples, unit)
    _effective_samples(panels[4], found, colors, num_samples)
    _accuracies(panels[5], found)
    if len(found) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=7)
    return figure


def _spectrum(
    axes: Axes, found: Mapping[str, Evaluated], colors: Mapping[str, str], threshold: float
) -> None:
    for name, one in found.items():
        label = f"{name}: {one.active:g} of {len(one.variance)} active"
        values = np.maximum(one.variance, 1e-12)
        axes.semilogy(np.arange(1, len(values) + 1), values, "o-", color=colors[name], label=label)
    axes.axhline(threshold, color="black", ls=":", lw=0.8)
    axes.set_title("variance of the posterior means")
    _dimension_axis(axes)
    if len(found) == 1:
        axes.legend()


def _per_dimension(axes: Axes, found: Mapping[str, Evaluated], colors: Mapping[str, str]) -> None:
    for name, one in found.items():
        place = np.arange(1, len(one.kl_per_dim) + 1)
        axes.plot(place, one.kl_per_dim, "o-", color=colors[name])
        axes.plot(place, one.information_per_dim, "x:", color=colors[name])
    axes.plot([], [], "o-", color=GREY, label="KL(q(z$_j$ | x) || p(z$_j$))")
    if any(np.isfinite(one.information_per_dim).any() for one in found.values()):
        axes.plot([], [], "x:", color=GREY, label="I(x; z$_j$)")
    axes.set_title("nats of each latent dimension")
    axes.set_ylim(bottom=0)
    _dimension_axis(axes)
    axes.legend(loc="upper right")


def _dimension_axis(axes: Axes) -> None:
    axes.set_xlabel("latent dimension, sorted")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.grid(axis="y")


def _surgery(axes: Axes, found: Mapping[str, Evaluated], bound: float) -> None:
    axes.set_title("where the KL goes, nats")
    if not any(np.isfinite(one.information) for one in found.values()):
        _say(axes, "not known of a posterior\nof two stochastic layers")
        return
    places = np.arange(len(found))
    parts = (
        ("I(x; z)", BLUE, [one.information for one in found.values()]),
        ("total correlation", VERMILION, [one.total_correlation for one in found.values()]),
        ("sum$_j$ KL(q(z$_j$) || p(z$_j$))", GREY, [one.dimension_kl for one in found.values()]),
    )
    below = np.zeros(len(found))
    for name, color, values in parts:
        # Of noise an estimate may be a little below zero, which is no bar.
        height = np.maximum(np.nan_to_num(values), 0)
        axes.bar(places, height, 0.7, bottom=below, color=color, label=name)
        below = below + height
    axes.axhline(bound, color="black", ls=":", lw=0.8, label="log n, bound of I(x; z)")
    _setting_axis(axes, found)
    axes.legend(fontsize=6)


def _likelihoods(axes: Axes, found: Mapping[str, Evaluated], num_samples: int, unit: str) -> None:
    places = np.arange(len(found))
    axes.plot(places, [one.elbo for one in found.values()], "s", color=VERMILION, label="ELBO")
    estimates, gains = (
        np.array([getattr(one, name) for one in found.values()])
        for name in ("log_likelihood", "annealed_gain")
    )
    errors, gain_errors = (
        np.array([getattr(one, f"{name}_error") for one in found.values()])
        for name in ("log_likelihood", "annealed_gain")
    )
    # An error over examples is none over seeds: each kind is drawn and named by itself.
    over = np.array([one.error_over for one in found.values()])
    for kind in dict.fromkeys(over):
        own = over == kind
        filled = "white" if kind == "examples" else None
        bars = {"ls": "none", "capsize": 2.0, "elinewidth": 0.8, "mfc": filled}
        at, mean = places[own], estimates[own]
        label = f"log p(x), {num_samples:,} samples, ± s.e. over {kind}"
        axes.errorbar(at, mean, errors[own], marker="o", color=BLUE, label=label, **bars)
        if np.isfinite(gains[own]).any():
            # Beside the others, whose bars it would cover.
            beside, with_gain = at + 0.15, mean + gains[own]
            label = f"+ gain of annealing, ± s.e. over {kind}"
            color = {"color": "black", "marker": "^"}
            axes.errorbar(beside, with_gain, gain_errors[own], label=label, **color, **bars)
    axes.set_title(f"held-out data, {unit}")
    axes.margins(y=0.2 if len(set(over)) == 1 else 0.9)  # of two kinds the legend is high
    axes.set_xlim(-0.6, len(found) - 0.4)  # else one setting's two points would stand far apart
    _setting_axis(axes, found)
    axes.grid(axis="y")
    axes.legend(fontsize=6)


def _effective_samples(
    axes: Axes, found: Mapping[str, Evaluated], colors: Mapping[str, str], num_samples: int
) -> None:
    for name, one in found.items():
        values = np.sort(one.effective_samples)
        axes.semilogx(values, np.linspace(0, 1, len(values)), color=colors[name])
    axes.set_xlim(0.9, 1.1 * num_samples)
    axes.set_title("share of examples with at most as many")
    axes.set_xlabel(f"effective samples of {num_samples:,}")
    axes.grid()


def _accuracies(axes: Axes, found: Mapping[str, Evaluated]) -> None:
    names = list(next(iter(found.values())).accuracies)
    axes.set_title("classes found from the posterior means")
    if not names:
        _say(axes, "no classes")
        return
    places = np.arange(len(found))
    for name, marker, color in zip(names, "os", (BLUE, VERMILION), strict=False):
        values = [one.accuracies[name] for one in found.values()]
        axes.plot(places, values, marker, color=color, label=name)
    axes.set_ylabel("accuracy")
    axes.margins(0.2)
    _setting_axis(axes, found)
    axes.grid(axis="y")
    axes.legend()


def _say(axes: Axes, words: str) -> None:
    """Words where there is nothing to draw."""
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()


def _setting_axis(axes: Axes, found: Mapping[str, Evaluated]) -> None:
    many = len(found) > 4
    axes.set_xticks(np.arange(len(found)), list(found), rotation=90 if many else 0, fontsize=6)


def _colors(count: int) -> list[str]:
    if count == 1:
        return [BLUE]
    return [CLASS_COLORS[index % len(CLASS_COLORS)] for index in range(count)]
