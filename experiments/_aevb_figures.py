"""Figures 2, 4 and 5 of Auto-Encoding Variational Bayes, from the files of their parts."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from experiments._aevb import METHOD_NAMES
from experiments._aevb_panels import Finished, trained
from experiments._folder import RunFolder
from vae_jax import figures

FIGURE_5 = (2, 5, 10, 20)


def draw_bounds(folder: RunFolder, title: str, finished: Sequence[Finished]) -> None:
    """Figure 2, as far as its panels were trained."""
    rows: dict[str, dict[str, dict[str, figures.BoundCurve]]] = {}
    arrays = {}
    for one in finished:
        if one.panel.in_figure_2 and len(one.points):
            curve = figures.BoundCurve(one.points, one.bounds("train"), one.bounds("test"))
            panels = rows.setdefault(one.panel.dataset, {})
            panels.setdefault(one.panel.title, {})[METHOD_NAMES[one.method]] = curve
            for name, values in curve._asdict().items():
                arrays[f"{one.folder}_{name}".replace("-", "_")] = values
    if rows:
        figure = figures.bounds_against_points(list(rows.values()), title=title)
        figures.save(figure, folder.figures / "figure2.png", **arrays)


def draw_pictures(folder: RunFolder, run: str, finished: Sequence[Finished]) -> None:
    """Figures 4 and 5, of the first seed, as far as their models were trained.

    A model whose arrays are not there, as in a run of which they were not kept, is left out, with
    a line that says so.
    """
    shown, sheets = [], []
    for one in finished:
        if one.method != "aevb" or not one.results[0].rows:
            continue
        panel = one.panel
        if panel.latent_dim == 2:
            saved = _arrays(folder, one, "manifold")
            if saved is not None:
                _draw_manifold(folder, run, one, saved)
        if panel.dataset == "mnist" and panel.latent_dim in FIGURE_5:
            saved = _arrays(folder, one, "samples")
            if saved is not None:
                shown.append(one)
                sheets.append(saved["samples"])
    if sheets:
        figure = figures.side_by_side(
            [sheet.reshape(10, 10, *sheet.shape[1:]) for sheet in sheets],
            [one.panel.title for one in shown],
            title=f"Samples of AEVB, figure 5 · {trained(shown)} · {run}",
            padding=1,
        )
        names = [one.folder.replace("-", "_") for one in shown]
        arrays = dict(zip(names, sheets, strict=True))
        figures.save(figure, folder.figures / "figure5.png", **arrays)


def _draw_manifold(
    folder: RunFolder, run: str, one: Finished, saved: Mapping[str, np.ndarray]
) -> None:
    images, values = saved["images"], saved["values"]
    title = f"{one.panel.title}, the manifold of AEVB, figure 4 · {trained([one])} · {run}"
    figures.save(
        figures.manifold(images, values, values, title=title),
        folder.figures / f"figure4_{one.panel.dataset}.png",
        images=images,
        values=values,
    )


def _arrays(folder: RunFolder, one: Finished, name: str) -> dict[str, np.ndarray] | None:
    """The arrays behind a picture of the first seed, None with a warning if they are not there."""
    path = folder.path / one.folder / "figures" / one.results[0].name / f"{name}.npz"
    if not path.is_file():
        print(f"warning: {path}: not there, so it is not drawn anew", file=sys.stderr)
        return None
    with np.load(path, allow_pickle=False) as saved:
        return dict(saved)
