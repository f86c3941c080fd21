"""The table and the figure of `experiments.iwae`, from the files of its parts."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._folder import RunFolder
from experiments._importance import few_samples
from experiments._progress import print_table
from experiments._report import Result, by_seed, markdown_table, over_seeds, plus_minus
from experiments._verdict import EXPLAINED, HOLDS, MET, Margin, difference, tally

# Negative log p(x), nats, by method, stochastic layers and k: table 1 of arXiv 1509.00519 as it
# is restated at https://github.com/nbip/IWAE.
PUBLISHED = {
    ("vae", 1, 1): 86.76,
    ("vae", 1, 5): 86.47,
    ("vae", 1, 50): 86.35,
    ("iwae", 1, 5): 85.54,
    ("iwae", 1, 50): 84.78,
    ("vae", 2, 1): 85.33,
    ("vae", 2, 5): 85.01,
    ("vae", 2, 50): 84.78,
    ("iwae", 2, 5): 83.89,
    ("iwae", 2, 50): 82.90,
}
# Numbers beside -log p(x): name, column, digits. Results of earlier versions may lack one.
NUMBERS = (
    ("active_units", "active units", 1),
    ("neg_elbo", "-ELBO", 2),
    ("effective_samples_median", "ESS", 1),
    ("effective_samples_5th", "ESS, 5th", 1),
)
COLUMNS = ["method", "layers", "k", "-log p(x)", "published", "gap"]
COLUMNS += [column for _, column, _ in NUMBERS]


def write_table(
    folder: RunFolder, budget: str, parts: Sequence[Any], results: Sequence[list[Result]]
) -> None:
    """Write and print the table, and draw the figure.

    Args:
        folder: of the whole run.
        budget: what was run.
        parts: the configuration of each part.
        results: the members of each.

    Raises:
        SystemExit: with 1, when all is written, if a member diverged.
    """
    first = parts[0]
    about = RunFolder(folder.path / first.name).read_json("summary.json")
    # Beside the paper's numbers stand only those of the paper's data.
    mnist = about["dataset"] == "mnist" and not first.images
    good = [[one for one in own if one.problem is None] for own in results]
    rows, records = [], []
    for part, own in zip(parts, good, strict=True):
        nats, error = _number(own, "neg_log_likelihood")
        published = _published(part) if mnist else math.nan
        known = math.isfinite(published)
        rows.append(
            [
                part.method.upper(),
                str(part.layers),
                str(part.k),
                plus_minus(nats, error),
                f"{published:.2f}" if known else "–",
                f"{nats - published:+.2f}" if known else "–",
                *(plus_minus(*_number(own, name), digits) for name, _, digits in NUMBERS),
            ]
        )
        records.append(
            {
                "part": part.name,
                "method": part.method,
                "layers": part.layers,
                "k": part.k,
                "seeds": len(own),
                "neg_log_likelihood": nats,
                "standard_error": error,
                "by_seed": by_seed(own, "neg_log_likelihood"),
                "published": published,
                **{name: _number(own, name)[0] for name, _, _ in NUMBERS},
            }
        )
    seeds = " ".join(map(str, first.seed))
    title = (
        f"{about['dataset']}, dynamically binarised · budget {budget}: {first.epochs:,} of 3,280 "
        f"epochs · seed {seeds} · log p(x) with {first.num_samples} samples"
    )
    remarks = _gains(records) + _ordering(records)
    remarks += [EXPLAINED] if remarks else []
    models = {
        f"{part.name}, {one.name}": one.also
        for part, own in zip(parts, good, strict=True)
        for one in own
    }
    remarks += few_samples(models, first.num_samples)
    remarks.append(
        f"ESS: effective samples of {first.num_samples:,}, of the median image and of the 5th "
        "percentile"
    )
    if any(part.layers > 1 for part in parts):
        remarks.append("active units: of both stochastic layers together")
    remarks += [f"{one.name}: {one.problem}" for own in results for one in own if one.problem]
    body = markdown_table(COLUMNS, rows)
    said = "".join(f"- {remark}\n" for remark in remarks)
    folder.write_text(
        "table.md",
        f"{title}; test split, nats per image, "
        f"mean ± standard error over seeds\n\n{body}\n\n{said}",
    )
    folder.write_json("summary.json", {"title": title, "rows": records, "remarks": remarks})
    drawn = _draw(folder, title, parts, good, mnist=mnist)
    folder.write_provenance({"parts": [part.name for part in parts]})
    print_table(title, COLUMNS, rows)
    print("\n".join(remarks))
    print(f"{', '.join(['table.md', 'summary.json', *drawn])}: in {folder.path}")
    if any(one.problem for own in results for one in own):
        raise SystemExit(1)


def _published(part: Any) -> float:
    return PUBLISHED.get((part.method, part.layers, part.k), math.nan)


def _number(own: Sequence[Result], name: str) -> tuple[float, float]:
    """The mean of a number and its standard error over seeds; NaN where it is not known."""
    known = [one for one in own if name in one.numbers or name in one.also]
    return over_seeds(known, name)


def _gains(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the importance-weighted bound gains over the ELBO of as many samples."""
    found = {(one["method"], one["layers"], one["k"]): one for one in records}
    lines = []
    for (method, layers, k), iwae in found.items():
        vae = found.get(("vae", layers, k))
        if method != "iwae" or vae is None:
            continue
        gain = _lead(iwae, vae)
        if math.isfinite(gain.value):
            said = f"layers {layers}, k = {k}: IWAE ahead of VAE by {gain.words(2)} nats"
            lines.append(f"{said}: {gain.verdict}")
    return lines


def _ordering(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many pairs of rows stand in the order of the published numbers, and which do not.

    A row whose models all diverged has no place in it.
    """
    known = [one for one in records if math.isfinite(one["published"] + one["neg_log_likelihood"])]
    known.sort(key=lambda one: one["published"])
    pairs = [
        (better, worse)
        for better, worse in itertools.combinations(known, 2)
        if better["published"] < worse["published"]
    ]
    if not pairs:
        return []
    leads = [_lead(better, worse) for better, worse in pairs]
    lines = [f"the published order: {tally(leads, 'pairs of rows')}"]
    lines += [
        f"{lead.verdict}: {_row(better)} ahead of {_row(worse)}, here by {lead.words(2)}, "
        f"published by {worse['published'] - better['published']:+.2f}"
        for (better, worse), lead in zip(pairs, leads, strict=True)
        if lead.verdict not in (HOLDS, MET)
    ]
    return lines


def _lead(better: Mapping[str, Any], worse: Mapping[str, Any]) -> Margin:
    """By how many nats the one row is ahead of the other."""
    return difference(worse["by_seed"], better["by_seed"])


def _row(record: Mapping[str, Any]) -> str:
    """`IWAE k = 5`, of two stochastic layers `IWAE k = 5, 2 layers`."""
    layers = "" if record["layers"] == 1 else f", {record['layers']} layers"
    return f"{record['method'].upper()} k = {record['k']}{layers}"


def _draw(
    folder: RunFolder,
    title: str,
    parts: Sequence[Any],
    good: Sequence[list[Result]],
    *,
    mnist: bool,
) -> list[str]:
    """Draw one figure for each number of stochastic layers, and name the files."""
    # Here, not above: Matplotlib is not needed before training ends.
    from vae_jax import figures

    drawn = []
    several = len({part.layers for part in parts}) > 1
    for layers in sorted({part.layers for part in parts}):
        methods = {}
        for method in ("vae", "iwae"):
            # With one sample both are the same.
            own = [
                (part, results)
                for part, results in zip(parts, good, strict=True)
                if part.layers == layers and results and (part.method == method or part.k == 1)
            ]
            if not any(part.method == method for part, _ in own):
                continue
            own.sort(key=lambda pair: pair[0].k)
            nats = np.full((len(own), len(parts[0].seed)), np.nan)
            for row, (_, results) in zip(nats, own, strict=True):
                row[: len(results)] = [one.also["neg_log_likelihood"] for one in results]
            published = [_published(part) if mnist else math.nan for part, _ in own]
            spectra = [_spectrum(RunFolder(folder.path / p.name)) for p, _ in own]
            methods[method.upper()] = figures.BySamples(
                k=np.array([part.k for part, _ in own]),
                nats=nats,
                published=np.array(published),
                spectra=np.array(spectra),
            )
        if not methods:  # all of them diverged
            continue
        name = f"figure-{layers}.png" if several else "figure.png"
        layered = f"{title} · {layers} stochastic layer{'s' if layers > 1 else ''}"
        arrays = {
            f"{method}/{field}": array
            for method, found in methods.items()
            for field, array in found._asdict().items()
        }
        figure = figures.samples_in_bound(methods, title=layered)
        figures.save(figure, folder.figures / name, **arrays)
        drawn.append(f"figures/{name}")
    return drawn


def _spectrum(folder: RunFolder) -> np.ndarray:
    """The variances of the posterior means, falling, averaged over seeds."""
    spectra = folder.read_json("spectra.json").values()
    return np.mean([np.sort(values)[::-1] for values in spectra], axis=0)
