"""All that is measured of a trained run: `python -m experiments.evaluate results/mnist/RUN`.

The run may be of any experiment. One that is made of several, `results/iwae/cpu`, is evaluated part
by part, and gets one table of them all.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments._evaluation import Settings, measured
from experiments._evaluation_joint import write_joint
from experiments._evaluation_report import Evaluation, line_of, write_evaluation
from experiments._folder import RunFolder
from experiments._loaded import Run, load_run, parts_in
from experiments._report import Result
from experiments._run import UsageError, check, check_counts, is_finite, main

PROG = "python -m experiments.evaluate"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Evaluate every model of a run on its whole held-out set.

    ELBO, importance-weighted log-likelihood and annealed importance sampling; active units,
    mutual information, total correlation; rate and distortion along a setting that was swept;
    classes found from the latent means. Numbers and figures are written to `evaluation/` in the
    run's folder.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, results/<experiment>/<run>, with its checkpoints. Of one that is made of
    several all parts are evaluated, or the one that is named, results/<experiment>/<run>/<part>."""
    data_dir: Path | None = dataclasses.field(default=None, kw_only=True)
    """Where the data are, if not where the run found them."""


def run(config: Config) -> None:
    """Evaluate, write and draw.

    Raises:
        UsageError: if a setting does not allow it, there is no such run, or its data differ.
        CheckpointError: if a checkpoint is damaged or of another model.
    """
    for field, least in (("num_samples", 1), ("annealed", 0), ("chains", 1), ("temperatures", 2)):
        check_counts(config, field, least=least)
    valid = is_finite(config.threshold) and config.threshold >= 0
    check(valid, "--threshold", config.threshold, "a finite number of 0 or more is needed")
    names, left_out = parts_in(config.run)
    if not names:
        _evaluate(config, load_run(config.run, config.data_dir))
        return
    # All of them first: what is wrong with the last one is said before the first is evaluated.
    parts = {name: load_run(config.run / name, config.data_dir) for name in names}
    done = {}
    for number, (name, part) in enumerate(parts.items(), start=1):
        print(f"\n{number}/{len(parts)}  {name}", flush=True)
        try:
            done[name] = _evaluate(config, part)
        except EmptyError as error:
            left_out.append(f"{name}: every model of it diverged")
            print(error, flush=True)
    if not done:
        raise EmptyError(f"{config.run}: every model of it diverged")
    write_joint(config, done, _folder_in(config.run), left_out)


class EmptyError(UsageError):
    """All models of a run diverged."""


def _evaluate(config: Config, trained: Run) -> Evaluation:
    """Evaluate the models of one run, and write what was found beside it."""
    results, arrays, left_out = [], {}, []
    folder = RunFolder(trained.folder.path / "evaluation")
    for index, loaded in enumerate(trained.models()):
        if index == 0:  # now it is known that they can be read
            print(f"{trained.task.source['source']}\n{trained.folder.path}", flush=True)
            folder = _folder_in(trained.folder.path)
        member, place = loaded.member, f"{index + 1}/{len(trained.members)}"
        if loaded.problem is not None:
            left_out.append(f"{member.name}: {loaded.problem}, so it is left out")
            print(f"{place}  {left_out[-1]}", flush=True)
            continue
        found = measured(config, trained.task, loaded)
        numbers, arrays[member.name] = {"epoch": loaded.epoch, **found.numbers}, found.arrays
        own = {name: numbers[name] for name in ("kl", "reconstruction")}
        results.append(Result(member.name, member.columns, [], own, None, numbers))
        print(f"{place}  {member.name} after epoch {loaded.epoch}  {line_of(numbers)}", flush=True)
    if not results:
        raise EmptyError(f"{trained.folder.path}: every model of it diverged")
    left_out += [f"slice {missing}: not there, so it is left out" for missing in trained.missing]
    # In the order of the grid, of which slices have every so many.
    order = [member.name for member in trained.task.members]
    results.sort(key=lambda result: order.index(result.name))
    done = Evaluation(trained, results, arrays, left_out)
    write_evaluation(config, done, folder)
    return done


def _folder_in(path: Path) -> RunFolder:
    """The folder of an evaluation, made if it is not there."""
    folder = RunFolder(path / "evaluation")
    with folder.usable():
        folder.path.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    main(Config, run, PROG)
