"""Anomaly detection: `python -m experiments.anomaly --dataset wine breast_cancer digits`."""

import dataclasses
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from experiments._anomaly_comparison import joined, of_run
from experiments._anomaly_options import EXPERIMENT, Config, validate
from experiments._anomaly_problems import of_images, of_table
from experiments._anomaly_report import NAMES, AnomalyReport
from experiments._distributed import connected
from experiments._folder import RunFolder
from experiments._grid import Axis, grid, short
from experiments._noise import elbo_of
from experiments._options import folder_name
from experiments._run import check, main
from experiments._shards import launch, merge
from experiments._sweep import Task, run_sweep
from vae_jax import sharding
from vae_jax.data import TABLES
from vae_jax.objectives import OBJECTIVES
from vae_jax.train import OPTIMIZERS, flat, make_trainer

PROG = "python -m experiments.anomaly"


def run(config: Config) -> None:
    """Train, score and draw, one run for each data set and latent size.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged or a slice is missing.
    """
    if config.merge is not None:
        merge(config)
        return
    config = validate(config)
    each = [_one_of(config, name, size) for name in config.dataset for size in config.latent_dim]
    if config.launch is not None:
        launch(config, prepare(each[0])[1])
        return
    failed = False
    if len(each) > 1 and not config.distributed:
        sharding.split_cpu(sharding.usable_cores())  # each run takes those it has use for
    with connected(config):
        # All of them first: what is wrong with the last one is said before the first is trained.
        runs = [prepare(one) for one in each]
        wholes = _wholes(config, runs)
        for whole in wholes if config.overwrite else ():
            shutil.rmtree(whole.folder.path, ignore_errors=True)  # of runs that are replaced
        for one, task in _resumable(runs):
            try:
                run_sweep(one, task)
            except SystemExit:  # a member diverged; the others are written, and so will be the rest
                failed = True
        for whole in wholes:
            whole.report()
    if failed:
        raise SystemExit(1)


def _one_of(config: Config, name: str, size: int) -> Config:
    """The configuration of the run of one data set and latent size."""
    named = f"{config.name}-z{size}" if config.name and len(config.latent_dim) > 1 else config.name
    data_dir = config.data_dir if name == "mnist" else None
    return validate(
        dataclasses.replace(
            config, dataset=(name,), latent_dim=(size,), name=named, data_dir=data_dir
        )
    )


class Whole(NamedTuple):
    """The runs of one data set that differ in their latent size, reported together.

    Attributes:
        config: that of the runs, but with all the sizes.
        folder: of the report.
        runs: the folder of each run, by its latent size.
        source: of the data, for the provenance.
    """

    config: Config
    folder: RunFolder
    runs: dict[int, RunFolder]
    source: dict[str, str]

    def report(self) -> None:
        """Write the table and the figure of all the runs that came to an end, and no others."""
        done = {
            size: of_run(run)
            for size, run in self.runs.items()
            if (run.path / "anomaly.json").is_file()
        }
        if not done:
            return
        self.folder.create(self.config, overwrite=True)
        comparison, name = joined(done), self.config.dataset[0]
        title = _title(dataclasses.replace(self.config, latent_dim=tuple(done)), name)
        comparison.write(self.folder, title=title, task=name if name in TABLES else "mnist")
        if self.config.figures != "none":
            # Of the scores that a model has, the one that it was trained for.
            other = [NAMES[score] for score in NAMES if score != "neg_elbo"]
            comparison.draw(self.folder, name=name, title=title, but=other)
        names = [self.runs[size].path.name for size in done]
        self.folder.write_provenance({**self.source, "runs": names})
        print(f"anomaly.md of all latent sizes: in {self.folder.path}")


def _wholes(config: Config, runs: Sequence[tuple[Config, Task]]) -> list[Whole]:
    """Where the latent sizes of each data set are reported together; nowhere if there is one.

    Raises:
        UsageError: if the folder of a report does not allow it.
    """
    count = len(config.latent_dim)
    found = []
    for start in range(0, len(runs), count) if count > 1 else ():
        own = runs[start : start + count]
        all_sizes = dataclasses.replace(own[0][0], latent_dim=config.latent_dim, name=config.name)
        folder = _folder(config, config.name or run_name(all_sizes))
        begun = (folder.path / "config.json").is_file()
        resume = begun and (config.resume or config.requeue)
        folder.check_free(overwrite=config.overwrite, resume=resume)
        sizes = {one.latent_dim[0]: _folder(config, task.name) for one, task in own}
        found.append(Whole(all_sizes, folder, sizes, own[0][1].source))
    return found


def _folder(config: Config, name: str) -> RunFolder:
    return RunFolder.at(config.output_dir, EXPERIMENT, name)


def _resumable(runs: list[tuple[Config, Task]]) -> list[tuple[Config, Task]]:
    """The runs, of which one that was not started when others were stopped begins anew.

    Raises:
        UsageError: if the folder of one does not allow it.
    """
    folders = [_folder(config, task.name) for config, task in runs]
    started = [(folder.path / "config.json").is_file() for folder in folders]
    found = []
    for (config, task), folder, is_there in zip(runs, folders, started, strict=True):
        if config.resume and any(started) and not is_there:
            config = dataclasses.replace(config, resume=False)
        if config.shard is None:
            resume = config.resume or (config.requeue and is_there)
            folder.check_free(overwrite=config.overwrite, resume=resume)
        found.append((config, task))
    return found


def run_name(config: Config) -> str:
    """The folder's name: data, network, latent sizes, beta and seeds.

    Raises:
        UsageError: if it is too long for a folder.
    """
    sizes = "z" + "+".join(map(str, config.latent_dim))
    parts = [config.dataset[0], f"{config.network}{_hidden(config)}", sizes]
    if config.dataset[0] not in TABLES:
        parts += [config.likelihood] if config.likelihood != Config.likelihood else []
        parts += [config.binarize] if config.binarize != "none" else []
        parts += [f"scale{short(config.scale)}"] if config.scale is not None else []
    parts.append("beta" + "+".join(map(short, config.beta)))
    return folder_name([*parts, "seed" + "+".join(map(str, config.seed))])


def _hidden(config: Config) -> str:
    assert config.hidden is not None
    return "-".join(map(str, config.hidden)) or "linear"


def _title(config: Config, name: str) -> str:
    """What was trained for how long, and every setting of it that is not the default."""
    sizes = " and ".join(map(str, config.latent_dim))
    words = [name, f"{config.network} {_hidden(config)}", f"z {sizes}"]
    words += [config.activation] if config.activation != Config.activation else []
    if name not in TABLES:
        scale = "" if config.scale is None else f" of scale {short(config.scale)}"
        pixels = "grey pixels" if config.binarize == "none" else "bits"
        words.append(f"{config.likelihood.replace('_', ' ')}{scale}, {pixels}")
    words.append("1 epoch" if config.epochs == 1 else f"{config.epochs} epochs")
    return " · ".join(words)


def prepare(config: Config) -> tuple[Config, Task]:
    """Load the data of one run and build what is trained.

    Args:
        config: of one data set and latent size, with its defaults filled in; the data set may
            be named as that of a run that is saved.

    Returns:
        The configuration and the task.

    Raises:
        UsageError: if the data do not allow it.
    """
    batch, epochs, rate = config.batch_size, config.epochs, config.learning_rate
    assert batch is not None
    assert epochs is not None
    assert rate is not None
    name = config.dataset[0]
    is_table = name in TABLES
    problem = of_table(config, name) if is_table else of_images(config)
    fewest = min(len(task.train) for task in problem.tasks.values())
    allowed = f"at most the {fewest} training examples"
    check(batch <= fewest, "--batch-size", batch, allowed)
    optimizer = flat(OPTIMIZERS["adam"]) if is_table else OPTIMIZERS["adam"]
    trainer = make_trainer(
        problem.vae,
        OBJECTIVES["beta"](),
        batch_size=batch,
        optimizer=optimizer,
        preprocess=problem.preprocess,
    )

    axes = [
        Axis("beta", config.beta, "beta"),
        Axis("learning_rate", (rate,), "learning_rate"),
    ]
    places = list(problem.tasks)
    members = [
        member._replace(
            name=f"{member.name}-without{left_out}" if left_out >= 0 else member.name,
            columns={"left_out": left_out, **member.columns} if left_out >= 0 else member.columns,
            split=places.index((left_out, seed)),
        )
        for left_out, seed in places
        for member in grid(axes, [seed], lead="beta")
    ]
    title = _title(config, problem.name)
    config = dataclasses.replace(config, dataset=(problem.name,))
    report = AnomalyReport(
        problem=problem,
        title=title,
        latent_dim=config.latent_dim[0],
        betas=config.beta,
        num_samples=config.num_samples,
        figures=config.figures != "none",
    )
    passes = next(k for k in range(10, 0, -1) if epochs % k == 0) if is_table else 1
    unit = "nats per row, standardised columns" if is_table else "nats per example"
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name or run_name(config),
        title=title,
        table=f"{problem.name}: held-out normal examples, {unit} (-ELBO at beta 1)",
        about={
            "dataset": problem.name,
            "example": "row" if is_table else "image",
            "unit": f"{unit}, at beta 1",
        },
        members=members,
        vae=problem.vae,
        preprocess=problem.preprocess,
        trainer=trainer,
        evaluate=elbo_of(problem.vae, problem.preprocess),
        data=problem.data,
        test=problem.test,
        batch_size=batch,
        source=problem.source,
        measure=report.measure,
        passes=passes,
        execution="vmap" if is_table else "map",
        compile_quickly=is_table,
    )


if __name__ == "__main__":
    main(Config, run, PROG)
