"""The table and the figure of `experiments.iwae`, from the files of its parts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._progress import console, table
from experiments._report import Result, markdown_table, over_seeds, plus_minus
from experiments._run import RunFolder

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
COLUMNS = ["method", "layers", "k", "-log p(x)", "published", "gap", "active units", "-ELBO"]


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
        nats, error = over_seeds(own, "neg_log_likelihood") if own else (math.nan, math.nan)
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
                plus_minus(*over_seeds(own, "active_units"), 1) if own else "–",
                plus_minus(*over_seeds(own, "neg_elbo")) if own else "–",
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
                "published": published,
                "active_units": over_seeds(own, "active_units")[0] if own else math.nan,
            }
        )
    seeds = " ".join(map(str, first.seed))
    title = (
        f"{about['dataset']}, dynamically binarised · budget {budget}: {first.epochs:,} of 3,280 "
        f"epochs · seed {seeds} · log p(x) with {first.num_samples} samples"
    )
    remarks = _ordering(records, mnist=mnist)
    if any(part.layers > 1 for part in parts):
        remarks.append("active units: of both stochastic layers together")
    remarks += [f"{one.name}: {one.problem}" for own in results for one in own if one.problem]
    body = markdown_table(COLUMNS, rows)
    said = "".join(f"- {remark}\n" for remark in remarks)
    folder.write_text("table.md", f"{title}; test split, nats per image\n\n{body}\n\n{said}")
    folder.write_json("summary.json", {"title": title, "rows": records, "remarks": remarks})
    drawn = _draw(folder, title, parts, good, mnist=mnist)
    folder.write_provenance({"parts": [part.name for part in parts]})
    console().print(table(title, COLUMNS, rows))
    print("\n".join(remarks))
    print(f"{', '.join(['table.md', 'summary.json', *drawn])}: in {folder.path}")
    if any(one.problem for own in results for one in own):
        raise SystemExit(1)


def _published(part: Any) -> float:
    return PUBLISHED.get((part.method, part.layers, part.k), math.nan)


def _ordering(records: list[dict[str, Any]], *, mnist: bool) -> list[str]:
    """What the importance-weighted bound gains over the ELBO of as many samples."""
    found = {(one["method"], one["layers"], one["k"]): one for one in records}
    lines = []
    for (method, layers, k), iwae in found.items():
        vae = found.get(("vae", layers, k))
        if method != "iwae" or vae is None:
            continue
        gain = vae["neg_log_likelihood"] - iwae["neg_log_likelihood"]
        error = math.hypot(vae["standard_error"], iwae["standard_error"])
        said = f"layers {layers}, k = {k}: the IWAE is {plus_minus(gain, error)} nats better"
        lines.append(said + (("" if gain > 0 else " (not") + " as published" if mnist else ""))
    return lines


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
