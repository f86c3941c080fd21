"""All that is measured of a trained run: `python -m experiments.evaluate results/mnist/RUN`."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array

from experiments._importance import importance_of
from experiments._loaded import Loaded, Run, load_run
from experiments._noise import EVALUATION_SEED, SURGERY_SEED
from experiments._progress import console, table
from experiments._report import (
    Result,
    by_setting,
    draw_rate_distortion,
    label_of,
    markdown_table,
    over_seeds,
    plus_minus,
)
from experiments._run import RunFolder, UsageError, check, is_finite, main
from vae_jax import figures
from vae_jax.evaluation import (
    Annealed,
    active_units,
    annealed_log_likelihood,
    elbo_surgery,
    encode_all,
    knn_accuracy,
    linear_accuracy,
    posterior_mean_variance,
)
from vae_jax.figures import Evaluated, evaluation_page
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.sweep import Subsets, part_of

PROG = "python -m experiments.evaluate"
FITTED = 10_000  # training examples, at most, that the classifiers are fitted on
SURGERY = 2000  # samples of the aggregate posterior, at least
FEW_SAMPLES = 2.0  # effective ones; an estimate from fewer rests on one sample
# By the name of a number: how it reads in the table, and its digits.
COLUMNS = {
    "neg_elbo": ("-ELBO", 2),
    "kl": ("KL", 2),
    "neg_log_likelihood": ("-log p(x)", 2),
    "effective_samples_median": ("ESS", 1),
    "effective_samples_5th": ("ESS, 5th percentile", 1),
    "active_units": ("active units", 1),
    "mutual_information": ("I(x; z)", 2),
    "total_correlation": ("TC", 2),
    "dimension_kl": ("dimension-wise KL", 2),
    "knn_accuracy": ("5-NN", 3),
    "linear_accuracy": ("linear probe", 3),
    "annealed_neg_log_likelihood": ("-log p(x) of a few, annealed", 2),
    "importance_neg_log_likelihood_of_them": ("-log p(x) of the same", 2),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Evaluate every model of a run on its whole held-out set.

    ELBO, importance-weighted log-likelihood and annealed importance sampling; active units,
    mutual information, total correlation; classes found from the latent means. Numbers and
    figures are written to `evaluation/` in the run's folder.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, results/<experiment>/<run>, with its checkpoints."""
    num_samples: int = 500
    """Samples of z for each example behind log p(x); 5000 is what papers report."""
    annealed: int = 4
    """Examples whose log p(x) is estimated by annealed importance sampling too; 0 for none."""
    chains: int = 16
    """Chains of each."""
    temperatures: int = 500
    """Steps of each chain from the prior to the posterior."""
    threshold: float = 0.01
    """Variance of its posterior mean above which a latent unit is active."""
    data_dir: Path | None = None
    """Where the data are, if not where the run found them."""


class Found(NamedTuple):
    """What is found of one model.

    Attributes:
        numbers: by name, nats per example.
        arrays: of the latent dimensions and the examples.
    """

    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]


def run(config: Config) -> None:
    """Evaluate, write and draw.

    Raises:
        UsageError: if a setting does not allow it, there is no such run, or its data differ.
        CheckpointError: if a checkpoint is damaged or of another model.
    """
    for flag, least in (("num_samples", 1), ("annealed", 0), ("chains", 1), ("temperatures", 2)):
        value, name = getattr(config, flag), "--" + flag.replace("_", "-")
        check(value >= least, name, value, f"a whole number of {least} or more is needed")
    valid = is_finite(config.threshold) and config.threshold >= 0
    check(valid, "--threshold", config.threshold, "a finite number of 0 or more is needed")
    trained = load_run(config.run, config.data_dir)
    if trained.task.vae.is_layered:
        raise UsageError(
            f"{config.run}: its model has two stochastic layers, one is needed; log p(x) and the "
            "active units are in its summary.json"
        )
    results, arrays, failed = [], {}, []
    folder = RunFolder(trained.folder.path / "evaluation")
    for index, loaded in enumerate(trained.models()):
        if index == 0:  # now it is known that they can be read
            print(f"{trained.task.source['source']}\n{trained.folder.path}", flush=True)
            with folder.usable():
                folder.path.mkdir(exist_ok=True)
        member, place = loaded.member, f"{index + 1}/{len(trained.members)}"
        if loaded.problem is not None:
            failed.append(f"{member.name}: {loaded.problem}, so it is left out")
            print(f"{place}  {failed[-1]}", flush=True)
            continue
        numbers, arrays[member.name] = _evaluate(config, trained, loaded)
        numbers = {"epoch": loaded.epoch, **numbers}
        own = {name: numbers[name] for name in ("kl", "reconstruction")}
        results.append(Result(member.name, member.columns, [], own, None, numbers))
        print(f"{place}  {member.name} after epoch {loaded.epoch}  {_line(numbers)}", flush=True)
    if not results:
        raise UsageError(f"{trained.folder.path}: every model of it diverged")
    failed += [f"slice {missing}: not there, so it is left out" for missing in trained.missing]
    # In the order of the grid, of which slices have every so many.
    order = [member.name for member in trained.task.members]
    results.sort(key=lambda result: order.index(result.name))
    _write(config, trained, folder, results, arrays, failed)


def _evaluate(config: Config, trained: Run, loaded: Loaded) -> Found:
    task, params = trained.task, loaded.params
    key, key_surgery = jax.random.key(EVALUATION_SEED), jax.random.key(SURGERY_SEED)
    data = {}
    for half, stored in (("train", task.data), ("test", task.test)):
        data[half] = part_of(stored, loaded.member.split)
    test = data["test"]
    model = (task.vae, task.preprocess, params)
    elbo = task.evaluate(params, test)
    estimate = importance_of(
        key, *model, test, num_samples=config.num_samples, name=loaded.member.name
    )
    posteriors = encode_all(key, *model, test)
    # Few posteriors give several samples each.
    parts = elbo_surgery(key_surgery, posteriors, num_samples=max(1, SURGERY // len(test)))
    numbers = {
        "neg_elbo": -float(elbo.elbo),
        "reconstruction": -float(elbo.log_lik),
        "kl": float(elbo.kl),
        "neg_log_likelihood": -float(np.mean(estimate.log_likelihood)),
        "log_likelihood_error": _standard_error(estimate.log_likelihood),
        "effective_samples_median": float(np.median(estimate.effective_samples)),
        "effective_samples_5th": float(np.percentile(estimate.effective_samples, 5)),
        "active_units": float(active_units(posteriors, config.threshold)),
        "mutual_information": float(parts.mutual_information),
        "mutual_information_error": float(parts.standard_error),
        "information_bound": float(parts.information_bound),
        "marginal_kl": float(parts.marginal_kl),
        "total_correlation": float(parts.total_correlation),
        "dimension_kl": float(np.sum(parts.marginal_kl_per_dim)),
        **_classes(key, trained, loaded, data, np.asarray(posteriors.mean)),
        **_annealed(key, config, trained, loaded, test, estimate.log_likelihood),
    }
    arrays = {
        "variance": posterior_mean_variance(posteriors),
        "kl_per_dim": parts.kl_per_dim,
        "information_per_dim": parts.mutual_information_per_dim,
        "log_likelihood": estimate.log_likelihood,
        "effective_samples": estimate.effective_samples,
    }
    return Found(numbers, {name: np.asarray(array) for name, array in arrays.items()})


def _classes(
    key: Any, trained: Run, loaded: Loaded, data: dict[str, Array], means: np.ndarray
) -> dict[str, float]:
    """What the posterior means tell of the classes, where there are any."""
    task, split = trained.task, loaded.member.split
    if task.labels is None:
        return {}
    train_labels, test_labels = (
        np.asarray(part_of(stored._replace(examples=labels), split))
        if isinstance(stored, Subsets)
        else labels
        for stored, labels in zip((task.data, task.test), task.labels, strict=True)
    )
    # At random: a table may be sorted by its classes.
    some = np.random.default_rng(0).permutation(len(train_labels))[:FITTED]
    fitted = encode_all(key, task.vae, task.preprocess, loaded.params, data["train"][some])
    halves = (np.asarray(fitted.mean), train_labels[some], means, test_labels)
    return {"knn_accuracy": knn_accuracy(*halves), "linear_accuracy": linear_accuracy(*halves)}


def _annealed(
    key: Any, config: Config, trained: Run, loaded: Loaded, test: Array, estimates: Array
) -> dict[str, float]:
    """Both estimates of log p(x) of a few examples, drawn at random."""
    count = min(config.annealed, len(test))
    if count == 0:
        return {}
    some = np.sort(np.random.default_rng(0).permutation(len(test))[:count])
    task, chains, temperatures = trained.task, config.chains, config.temperatures
    estimate = _annealed_estimate(task.vae, task.preprocess, chains, temperatures)
    found = jax.device_get(estimate(key, loaded.params, jnp.asarray(some), test[some]))
    return {
        "annealed_examples": count,
        "annealed_neg_log_likelihood": -float(np.mean(found.log_likelihood)),
        "annealed_error": _standard_error(found.log_likelihood - np.asarray(estimates)[some]),
        "annealed_effective_samples": float(np.median(found.effective_samples)),
        "annealed_acceptance": float(np.mean(found.acceptance)),
        "importance_neg_log_likelihood_of_them": -float(np.mean(np.asarray(estimates)[some])),
    }


@functools.cache
def _annealed_estimate(vae: VAE, preprocess: Preprocess, chains: int, temperatures: int) -> Any:
    """Compiled once for all models of a run."""

    def one(key: Any, params: Any, index: Array, stored: Array) -> Annealed:
        # As in `estimate_log_likelihood`, so that both are of the same binarisation.
        key_x, key_z = jax.random.split(jax.random.fold_in(key, index))
        x = preprocess(key_x, stored)
        settings = {"num_chains": chains, "num_temperatures": temperatures}
        return annealed_log_likelihood(key_z, vae, params, x, **settings)

    return jax.jit(jax.vmap(one, (None, None, 0, 0)))


def _standard_error(values: Any) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan


def _line(numbers: dict[str, float]) -> str:
    words = [f"{name} {numbers[key]:.{digits}f}" for key, (name, digits) in _shown(numbers).items()]
    return "  ".join(words[:7])


def _shown(numbers: dict[str, float]) -> dict[str, tuple[str, int]]:
    return {name: how for name, how in COLUMNS.items() if name in numbers}


def _write(
    config: Config,
    trained: Run,
    folder: RunFolder,
    results: list[Result],
    arrays: dict[str, dict[str, np.ndarray]],
    failed: list[str],
) -> None:
    task = trained.task
    example = task.about.get("example", "image")
    shown = _shown(dict(results[0].also))
    groups = {label_of(group[0]) or group[0].name: group for group in by_setting(results).values()}
    columns = [f"nats per {example}", *groups]
    rows = [
        [name, *(plus_minus(*over_seeds(group, key), digits) for group in groups.values())]
        for key, (name, digits) in shown.items()
    ]
    body = markdown_table(columns, rows)
    remarks = _remarks(config, trained, results, failed)
    text = [f"{task.title}: held-out data", "", body, "", *(f"- {remark}" for remark in remarks)]
    folder.write_text("evaluation.md", "\n".join(text) + "\n")
    folder.write_json(
        "evaluation.json",
        {
            "run": str(trained.folder.path.name),
            "settings": {
                "num_samples": config.num_samples,
                "chains": config.chains,
                "temperatures": config.temperatures,
                "threshold": config.threshold,
            },
            "unit": f"nats per {example}",
            "left_out": failed,
            "members": [{"name": one.name, **one.columns, **one.also} for one in results],
        },
    )
    found = {}
    for setting, group in groups.items():
        own = [arrays[one.name] for one in group]
        mean = {key: over_seeds(group, key)[0] for key in group[0].also}
        found[setting] = Evaluated(
            # Units of different seeds have no order in common but that of their sizes.
            variance=np.mean([np.sort(one["variance"])[::-1] for one in own], axis=0),
            kl_per_dim=np.mean([_ranked(one, "kl_per_dim") for one in own], axis=0),
            information_per_dim=np.mean(
                [_ranked(one, "information_per_dim") for one in own], axis=0
            ),
            active=mean["active_units"],
            information=mean["mutual_information"],
            total_correlation=mean["total_correlation"],
            dimension_kl=mean["dimension_kl"],
            elbo=-mean["neg_elbo"],
            log_likelihood=-mean["neg_log_likelihood"],
            effective_samples=np.concatenate([one["effective_samples"] for one in own]),
            accuracies={
                COLUMNS[name][0]: mean[name]
                for name in ("knn_accuracy", "linear_accuracy")
                if name in mean
            },
        )
    page = evaluation_page(
        found,
        title=f"{task.title} · held-out data",
        threshold=config.threshold,
        information_bound=results[0].also["information_bound"],
        num_samples=config.num_samples,
        unit=f"nats per {example}",
    )
    kept = {f"{name}/{key}": array for name, own in arrays.items() for key, array in own.items()}
    figures.save(page, folder.path / "evaluation.png", **kept)
    written = ["evaluation.md", "evaluation.json", "evaluation.png"]
    title, unit = f"{task.title} · held-out data", f"nats per {example}"
    if draw_rate_distortion(results, folder.path, title=title, unit=unit):
        written.append("rate_distortion.png")
    folder.write_provenance(task.source)
    console().print(table(f"{task.title}, held-out data", columns, rows))
    print("\n".join(remarks))
    print(f"{', '.join(written)}: in {folder.path}")


def _ranked(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    return arrays[name][np.argsort(arrays["kl_per_dim"])[::-1]]


def _remarks(config: Config, trained: Run, results: list[Result], failed: list[str]) -> list[str]:
    """What the table does not say by itself."""
    error = max(one.also["log_likelihood_error"] for one in results)
    remarks = [
        f"-log p(x) by importance sampling, {config.num_samples:,} samples of each posterior: an "
        f"upper bound in expectation; its standard error over the examples is at most "
        f"{error:.2f}. ESS: its effective samples, of the median example and of the 5th "
        f"percentile. A unit is active above a variance of {config.threshold:g}; I(x; z) is at "
        f"most log n = {results[0].also['information_bound']:.2f} nats.",
        *failed,
    ]
    epochs = sorted({int(one.also["epoch"]) for one in results})
    if len(epochs) > 1:
        remarks.append(
            f"warning: some models were saved after epoch {epochs[0]}, others after {epochs[-1]}: "
            "the run was stopped before its end"
        )
    weak = [one.name for one in results if one.also["effective_samples_5th"] < FEW_SAMPLES]
    if weak:
        several = "" if len(weak) == 1 else f" and {len(weak) - 1} more"
        remarks.append(
            f"warning: {weak[0]}{several}: for one example in twenty the estimate rests on "
            f"under {FEW_SAMPLES:g} effective samples, so its -log p(x) is too high; "
            "--num-samples takes more"
        )
    both = [one for one in results if "annealed_examples" in one.also]
    if both:
        remarks.append(
            f"the last two rows are of the same {both[0].also['annealed_examples']} examples, "
            f"drawn at random: annealed importance sampling with {config.chains} chains and "
            f"{config.temperatures:,} temperatures, and importance sampling; both are upper "
            "bounds in expectation"
        )
    if any(one.also["annealed_effective_samples"] < FEW_SAMPLES for one in both):
        remarks.append(
            f"warning: under {FEW_SAMPLES:g} effective chains of {config.chains}: --temperatures "
            "and --chains take more"
        )
    return remarks


if __name__ == "__main__":
    main(Config, run, PROG)
