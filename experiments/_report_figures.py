"""The figures of a sweep over all its members."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._grid import repeat_of
from experiments._report import Result, grid_of, key_of, label_of, repeated, spread_over, swept
from vae_jax.evaluation import ACTIVE_KL

MOST_PANELS = 12  # of a figure that puts pictures side by side


def draw_rate_distortion(results: Sequence[Result], folder: Path, *, title: str, unit: str) -> bool:
    """Draw the reconstruction against the KL along the setting that is swept, if one is.

    Args:
        results: the members, of which `numbers` has both.
        folder: where `rate_distortion.png` goes.
        title: what was trained.
        unit: `nats per image`.

    Returns:
        Whether there was anything to draw.
    """
    from vae_jax import figures

    found = swept(results)
    if found is None:
        return False
    curves = found.curves
    figures.save(
        figures.rate_distortion(
            {
                name: figures.RateDistortionCurve(one.values, one.rates, one.distortions)
                for name, one in curves.items()
            },
            title=title + spread_over(repeated(results)),
            setting=found.setting.replace("_", " "),
            unit=unit,
        ),
        folder / "rate_distortion.png",
        **{found.setting: np.concatenate([one.values for one in curves.values()])},
        curve=np.repeat(list(curves), [len(one.values) for one in curves.values()]),
        rate=np.concatenate([one.rates for one in curves.values()]),
        distortion=np.concatenate([one.distortions for one in curves.values()]),
    )
    return True


def draw(results: Sequence[Result], run: Path, *, title: str, example: str = "image") -> None:
    """Draw the figures of a sweep, each with the arrays behind it.

    Args:
        results: its members.
        run: the run's folder; the members' own figures, where there are any, are in
            `figures/<member>/` below it or below its slices.
        title: what was trained.
        example: what an example is called.
    """
    # Here, not above: Matplotlib is not needed before training ends.
    from vae_jax import figures

    grid = grid_of(results)
    settings, repeats = grid.settings, grid.repeats
    labels = {key_of(result): label_of(result) for result in results}
    names = [labels[setting] or "all" for setting in settings]
    folder = run / "figures"
    stopped = len(results) - len(grid.places)
    if stopped:
        title += f" · {stopped} of {len(results)} models diverged, not shown"
    unit = f"nats per {example}"
    thin = " · thin lines: models, thick: their mean" if len(repeats) > 1 else ""

    by_member = {(key_of(result), repeat_of(result.columns)): result for result in results}
    longest = max((result.rows for result in results), key=len, default=[])
    epochs = np.array([row["epoch"] for row in longest], int)
    if len(epochs):
        panels = {}
        for panel, column in (
            ("negative ELBO", "test_neg_elbo"),
            ("reconstruction", "test_reconstruction"),
            ("KL", "test_kl"),
        ):
            values = np.full((len(settings), len(repeats), len(epochs)), np.nan)
            for i, setting in enumerate(settings):
                for j, repeat in enumerate(repeats):
                    found = by_member.get((setting, repeat))
                    rows = [] if found is None else found.rows
                    values[i, j, : len(rows)] = [row[column] for row in rows]
            panels[panel] = values
        figures.save(
            figures.member_curves(
                epochs, panels, names, title=f"{title} · test split{thin}", unit=unit
            ),
            folder / "loss_curves.png",
            epochs=epochs,
            **{panel.replace(" ", "_"): values for panel, values in panels.items()},
        )
    if not draw_rate_distortion(results, folder, title=title, unit=unit):
        return
    lead = grid.lead or ""
    values = np.array([dict(setting)[lead] for setting in settings])
    kl = grid.cube(
        lambda result: result.numbers["kl_per_dim"], len(results[0].numbers["kl_per_dim"])
    )
    curves = grid.curves(lead)
    several = len({repeat[0] for repeat in repeats}) > 1
    # The dimensions of two folds have no order in common, so these are not averaged before.
    spread = spread_over(
        "seeds and folds" if several and len(repeats[0]) > 1 else repeated(results)
    )
    for name, i in curves.items():
        if len(i) < 2:
            continue
        suffix = "" if len(curves) == 1 else "-" + name.replace(", ", "-").replace(" ", "_")
        figures.save(
            figures.kl_against(
                values[i],
                kl[i],
                title=(f"{title} · {name}" if name else title) + spread,
                setting=lead.replace("_", " "),
                threshold=ACTIVE_KL,
            ),
            folder / f"kl_against_{lead}{suffix}.png",
            **{lead: values[i]},
            kl=kl[i],
        )
    _draw_side_by_side(results, settings, names, run, title)


def _draw_side_by_side(
    results: Sequence[Result],
    settings: Sequence[Any],
    names: Sequence[str],
    run: Path,
    title: str,
) -> None:
    """Manifolds and samples of the first member of each setting that has them."""
    from vae_jax import figures

    for picture, array in (("manifold", "images"), ("samples", "samples")):
        found: dict[str, np.ndarray] = {}
        for setting, name in zip(settings, names, strict=True):
            for result in results:
                good = key_of(result) == setting and result.problem is None
                if good and name not in found:
                    images = _picture(run, result.name, picture, array)
                    if images is not None:
                        # Every other picture of a manifold: side by side they are small.
                        found[name] = images[::2, ::2] if picture == "manifold" else images
        chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_PANELS)).round())
        if len(chosen) < 2:
            continue
        shown = [list(found)[int(i)] for i in chosen]
        left_out = "" if len(shown) == len(found) else f" · {len(shown)} of {len(found)} settings"
        figures.save(
            figures.side_by_side(
                [found[name] for name in shown], shown, title=f"{title} · {picture}{left_out}"
            ),
            run / "figures" / f"{picture}_side_by_side.png",
            **{f"panel{i}": found[name] for i, name in enumerate(shown)},
        )


def _picture(run: Path, member: str, picture: str, array: str) -> np.ndarray | None:
    """`[rows, cols, h, w, c]` images behind a member's figure, if it has one."""
    for path in (run, *sorted((run / "shards").glob("*-of-*"))):
        file = path / "figures" / member / f"{picture}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as saved:
                images = saved[array][::-1] if picture == "manifold" else saved[array]
            if images.ndim == 4:
                side = math.isqrt(len(images))
                images = images[: side * side].reshape(side, side, *images.shape[1:])
            return images
    return None
