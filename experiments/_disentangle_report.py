"""The table and the figure of `experiments.disentangle`, from the files of its parts."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._disentangle_part import PartConfig
from experiments._folder import RunFolder
from experiments._grid import short
from experiments._progress import print_table
from experiments._report import (
    Result,
    by_seed,
    by_setting,
    markdown_table,
    number_of,
    over_seeds,
    plus_minus,
    spread_over,
)
from experiments._spread import as_record
from experiments._verdict import HOLDS, Margin, difference
from vae_jax.evaluation import ACTIVE_KL
from vae_jax.sprites import FACTORS

GUESSED = sum(1 / count for count in FACTORS.values()) / len(FACTORS)


class Score(NamedTuple):
    """How a score is shown.

    Attributes:
        column: its name in the table.
        panel: its name in the figure.
        chance: what a code that tells nothing reaches.
    """

    column: str
    panel: str
    chance: float


SCORES = {
    "mig": Score("MIG", "MIG", 0.0),
    "dci_disentanglement": Score("DCI D", "DCI disentanglement", 0.0),
    "dci_completeness": Score("DCI C", "DCI completeness", 0.0),
    "dci_informativeness": Score("DCI I", "DCI informativeness", GUESSED),
    "sap": Score("SAP", "SAP", 0.0),
    "factor_vae": Score("FactorVAE", "FactorVAE", 1 / len(FACTORS)),
    "beta_vae": Score("beta-VAE", "beta-VAE", 1 / len(FACTORS)),
}
NATS = {
    "neg_elbo": "-ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "active_dims": "active",
}
CHANCE = "chance"
SYMBOLS = {"beta": "β", "capacity": "C"}


def write_report(
    folder: RunFolder, parts: Sequence[PartConfig], results: Sequence[list[Result]], *, title: str
) -> None:
    """Write and print the table, and draw the figure.

    Args:
        folder: of the whole run.
        parts: the configuration of each part.
        results: the members of each.
        title: what was trained.
    """
    title = f"{title} · seed {' '.join(map(str, parts[0].seed))}"
    said = (
        f"{title}; scores and nats per image (-ELBO at beta 1) on {parts[0].held_out:,} held-out "
        "images, mean ± standard error over seeds; DCI: disentanglement, completeness, "
        f"informativeness; dimensions with a KL of at most {ACTIVE_KL} nats count as constant; "
        f"{CHANCE}: a code that tells nothing"
    )
    records = [one for pair in zip(parts, results, strict=True) for one in _records(*pair)]
    rows = [_cells(one) for one in records]
    chance = [f"{score.chance:.3f}" for score in SCORES.values()]
    rows.append([CHANCE, *chance, *("–" for _ in NATS)])
    columns = ["", *(score.column for score in SCORES.values()), *NATS.values()]
    stopped = [
        (part, one) for part, own in zip(parts, results, strict=True) for one in own if one.problem
    ]
    remarks = [f"{part.objective}, {one.name}: {one.problem}" for part, one in stopped]

    body = markdown_table(columns, rows)
    tail = "".join(f"- {remark}\n" for remark in remarks)
    folder.write_text("table.md", f"{said}\n\n{body}\n" + (f"\n{tail}" if tail else ""))
    margins = _margins(parts, results)
    _write_differences(folder, title, margins)
    folder.write_json(
        "summary.json",
        {
            "title": title,
            "about": said,
            "settings": records,
            "differences": {
                name: {pair: one._asdict() | {"verdict": one.verdict} for pair, one in own.items()}
                for name, own in margins.items()
            },
            CHANCE: {name: score.chance for name, score in SCORES.items()},
            "diverged": [f"{part.objective}/{one.name}" for part, one in stopped],
        },
    )
    _draw(folder, title, parts, results)
    # Two tables: one of them would be wider than a terminal.
    cut = 1 + len(SCORES)
    scores = [row[:cut] for row in rows]
    nats = [[row[0], *row[cut:]] for row in rows[:-1]]
    print_table(f"{title}: scores", columns[:cut], scores)
    print_table("held-out images, nats per image", ["", *columns[cut:]], nats)
    for remark in remarks:
        print(remark)
    print(f"table.md, differences.md, summary.json, figures: in {folder.path}")


def _records(part: PartConfig, own: Sequence[Result]) -> list[dict[str, Any]]:
    """Each setting's numbers over its seeds; NaN where all of them diverged."""
    good = by_setting(own)
    records = []
    for setting in dict.fromkeys(tuple(one.setting.items()) for one in own):
        found = good.get(setting, [])
        records.append(
            {
                "objective": part.objective,
                "strength": dict(setting)[part.field],
                "seeds": len(found),
                **{name: as_record(over_seeds(found, name)) for name in (*SCORES, *NATS)},
            }
        )
    return records


def _margins(
    parts: Sequence[PartConfig], results: Sequence[list[Result]]
) -> dict[str, dict[str, Margin]]:
    """By how much one setting lies above another, `{"mig": {"beta 4 - beta 1": ...}}`.

    Of every two settings that have a number; the one of the higher mean comes first.
    """
    groups = {
        f"{part.objective} {short(dict(setting)[part.field])}": own
        for part, members in zip(parts, results, strict=True)
        for setting, own in by_setting(members).items()
    }
    found: dict[str, dict[str, Margin]] = {}
    for name in (*SCORES, "neg_elbo"):
        seeds = {label: by_seed(own, name) for label, own in groups.items()}
        pairs = {}
        for one, other in itertools.combinations(seeds, 2):
            margin = difference(seeds[one], seeds[other])
            if margin.value < 0:
                one, other, margin = other, one, margin._replace(value=-margin.value)
            pairs[f"{one} - {other}"] = margin
        found[name] = pairs
    return found


def _write_differences(
    folder: RunFolder, title: str, margins: dict[str, dict[str, Margin]]
) -> None:
    """Write which settings the seeds tell apart in which score."""
    names = {name: score.panel for name, score in SCORES.items()} | {"neg_elbo": NATS["neg_elbo"]}
    rows = []
    for name, pairs in margins.items():
        apart = {pair: one for pair, one in pairs.items() if one.verdict == HOLDS}
        digits = 1 if name == "neg_elbo" else 3
        told = "; ".join(f"{pair} {one.words(digits)}" for pair, one in apart.items())
        rows.append([names[name], f"{len(apart)} of {len(pairs)}", told or "–"])
    said = (
        f"{title}: settings that are told apart, by the two-sided 95% interval of Student's t over "
        "the differences seed by seed, each pair by itself; a single seed tells nothing apart. All "
        "pairs are in summary.json"
    )
    body = markdown_table(["", "pairs", "told apart"], rows)
    folder.write_text("differences.md", f"{said}\n\n{body}\n")


def _cells(record: dict[str, Any]) -> list[str]:
    """A row of the table, `beta_tc 4` and the numbers."""
    scores = [plus_minus(*record[name].values(), digits=3) for name in SCORES]
    nats = [plus_minus(*record[name].values()) for name in NATS]
    return [f"{record['objective']} {short(record['strength'])}", *scores, *nats]


def _draw(
    folder: RunFolder, title: str, parts: Sequence[PartConfig], results: Sequence[list[Result]]
) -> None:
    # Here, not above: Matplotlib is not needed before training ends.
    from vae_jax import figures

    panels = {name: score.panel for name, score in SCORES.items()} | {"neg_elbo": "-ELBO, nats"}
    objectives, arrays = {}, {}
    for part, own in zip(parts, results, strict=True):
        place = {(one.columns[part.field], one.columns["seed"]): one for one in own}
        values = {
            name: np.array(
                [
                    [_number(place[strength, seed], name) for seed in part.seed]
                    for strength in part.strength
                ]
            )
            for name in panels
        }
        objectives[part.objective] = figures.ObjectiveScores(
            [f"{SYMBOLS[part.field]} {short(strength)}" for strength in part.strength],
            {panels[name]: array for name, array in values.items()},
        )
        arrays |= {f"{part.objective}/{name}": array for name, array in values.items()}
        arrays[f"{part.objective}/{part.field}"] = np.array(part.strength)
    spread = spread_over("seeds" if len(parts[0].seed) > 1 else "")
    chance = {score.panel: score.chance for score in SCORES.values()}
    figures.save(
        figures.disentanglement_scores(objectives, title=title + spread, chance=chance),
        folder.figures / "scores.png",
        **arrays,
    )


def _number(one: Result, name: str) -> float:
    """A score or a number of nats; NaN of a model that diverged."""
    return math.nan if one.problem is not None else number_of(one, name)
