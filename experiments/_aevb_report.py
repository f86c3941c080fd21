"""What the panels of figure 2 come to: the table, the claims of the paper, the figures."""

import math
from collections.abc import Sequence
from typing import Any

from experiments._aevb import METHOD_NAMES
from experiments._aevb_claims import Claim, claims
from experiments._aevb_panels import Finished, trained
from experiments._folder import RunFolder
from experiments._report import markdown_table, plus_minus
from experiments._spread import as_record
from experiments._verdict import EXPLAINED
from vae_jax.evaluation import ACTIVE_KL

# From memory of the curves of figure 2, within 4 nats: goals, not published numbers.
GOALS = {
    "mnist-z3": "-135",
    "mnist-z5": "-119",
    "mnist-z10": "-105",
    "mnist-z20": "-101",
    "mnist-z200": "-101",
}
GOAL_FREY = "1000 to 1400"
PAPER_SPEED = (417, 833)  # points a second: 20 to 40 minutes per million on a Xeon in 2013


def write_report(
    folder: RunFolder,
    budget: str,
    seeds: Sequence[int],
    finished: Sequence[Finished],
    said: Sequence[str],
) -> None:
    """Write the table, the summary and the figures of the whole.

    Args:
        folder: of the whole run.
        budget: in words.
        seeds: of every part.
        finished: what was trained.
        said: what the user was told of data that are missing.
    """
    # Here, not above: Matplotlib is not needed before training ends.
    from experiments._aevb_figures import draw_bounds, draw_pictures

    said_of_run = [budget, f"seeds {' '.join(map(str, seeds))}"]
    if any("left out" in line for line in said):
        said_of_run.append("Frey Face left out, not found")
    run = " · ".join(said_of_run)
    title = f"Auto-Encoding Variational Bayes, figure 2 · {trained(finished)} · {run}"
    found = claims(finished)
    folder.write_text("table.md", _markdown(title, finished, found, said))
    folder.write_json("summary.json", _summary(title, finished, found, said))
    draw_bounds(folder, title, finished)
    draw_pictures(folder, run, finished)
    folder.write_provenance({one.panel.dataset: one.panel.pixels.source for one in finished})
    print(f"\ntable.md, summary.json, figures: in {folder.path}")
    for line in [claim.line for claim in found] + _collapsed(finished):
        print(line)


def _markdown(
    title: str, finished: Sequence[Finished], found: Sequence[Claim], said: Sequence[str]
) -> str:
    columns = [
        "panel",
        "method",
        "step size",
        "train bound",
        "test bound",
        "goal: figure 2 from memory, within 4 nats",
        "points a second ({} to {} in the paper)".format(*PAPER_SPEED),
    ]
    rows = []
    for one in finished:
        goal = "–"
        if one.method == "aevb" and one.panel.has_goal:
            goal = GOALS.get(one.panel.name, GOAL_FREY)
        rows.append(
            [
                one.panel.title,
                METHOD_NAMES[one.method],
                f"{one.step_size:g}",
                plus_minus(*one.bound("train"), digits=1),
                plus_minus(*one.bound("test"), digits=1),
                goal,
                f"{one.points_per_second:,.0f}",
            ]
        )
    lines = [
        title,
        "",
        markdown_table(columns, rows),
        "",
        *(f"- {line}" for line in [claim.line for claim in found] + _collapsed(finished)),
        *(
            f"- {one.folder}, {r.name}: {r.problem}"
            for one in finished
            for r in one.results
            if r.problem
        ),
        *(f"- {line}" for line in said),
        "",
        *([f"{EXPLAINED}.", ""] if found else []),
        "The evidence lower bound in nats per image, mean ± standard error over seeds. Train is "
        "the average over the last row's epochs while the weights move, test is after them. MNIST: "
        "grey levels as Bernoulli targets, comparable with no binarised MNIST; wake-sleep dreams "
        "in bits. Frey Face: x = pixel / 255, log-densities on that scale; on the scale of grey "
        f"levels the numbers are {560 * math.log(255):.0f} lower. The scale of a pixel of Frey "
        "Face is at least 1/255, one grey level; the paper has no such floor. Points a second are "
        "those of the training of all seeds together, with evaluation; the paper's are those of a "
        "Xeon in 2013.",
    ]
    return "\n".join(lines) + "\n"


def _collapsed(finished: Sequence[Finished]) -> list[str]:
    """The models that tell nothing by z, a line for each panel and method."""
    lines = []
    for one in finished:
        seeds = [str(result.columns["seed"]) for result in one.results if result.collapsed]
        if seeds:
            lines.append(
                f"collapsed: {one.panel.title}, {METHOD_NAMES[one.method]}, seed "
                f"{' '.join(seeds)}: no dimension has a KL over {ACTIVE_KL} nats"
            )
    return lines


def _summary(
    title: str, finished: Sequence[Finished], found: Sequence[Claim], said: Sequence[str]
) -> dict[str, Any]:
    return {
        "title": title,
        "unit": "nats per image, evidence lower bound",
        "binarize": "none",
        "points_per_second_published": PAPER_SPEED,
        "panels": [
            {
                "panel": one.panel.name,
                "dataset": one.panel.pixels.name,
                "latent_dim": one.panel.latent_dim,
                "method": one.method,
                "step_size": one.step_size,
                "seeds": len(one.results),
                "points": float(one.points[-1]) if len(one.points) else 0.0,
                "train": as_record(one.bound("train")),
                "test": as_record(one.bound("test")),
                "points_per_second": one.points_per_second,
                "diverged": [result.name for result in one.results if result.problem],
                "collapsed": [result.name for result in one.results if result.collapsed],
            }
            for one in finished
        ],
        "claims": [claim._asdict() for claim in found],
        "warnings": list(said),
    }
