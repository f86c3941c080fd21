"""The models of `tabular`: a sweep of Wine as one program, and the same in a PyTorch loop."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import tabular
from experiments._benchmark_cost import (
    copy_ceiling,
    layers_of,
    limits_of,
    matmul_ceiling,
    step_cost,
)
from experiments._chunks import chunks_of, useful_devices
from experiments._peers_torch import import_torch
from experiments._sweep import Task
from vae_jax import sharding
from vae_jax.gaussian import LOG_2PI
from vae_jax.sweep import (
    Members,
    Plan,
    Population,
    Report,
    Subsets,
    evaluated_part,
    make_sweep,
    place_members,
)

BETAS, SEEDS, EPOCHS = (0.1, 0.5, 1.0, 2.0, 4.0), 10, 200
TORCH_MODELS = 5  # the folds of seed 0 at beta 1


class Started(NamedTuple):
    """A population that may train.

    Attributes:
        epoch: compiled, of `(population, members, data, test)`.
        population: untrained.
        members: of it, filled up to as many as the devices share evenly.
        data: what each trains on.
        test: what each is evaluated on.
        seconds: until now.
    """

    epoch: Any
    population: Population
    members: Members
    data: Any
    test: Any
    seconds: float


class OurSweep:
    """The sweep of `experiments.tabular`, without its files.

    Args:
        seeds: how many, with 5 betas and 5 folds.
        epochs: of each model.
    """

    def __init__(self, seeds: int = SEEDS, epochs: int = EPOCHS) -> None:
        settings = tabular.Config(
            dataset="wine", beta=BETAS, seed=tuple(range(seeds)), epochs=epochs
        )
        self.config, self.task = tabular.prepare(tabular.validate(settings))
        task = self.task
        useful = useful_devices(len(task.members), (task.data, task.test), "vmap")
        sharding.split_cpu(min(sharding.usable_cores(), useful))
        self.compiled: list[float] = []

    def start(self) -> Started:
        """Put models, data and the compiled epoch on the devices."""
        began = time.perf_counter()
        task = self.task
        mesh = sharding.member_mesh()
        sweep = make_sweep(
            task.trainer,
            task.evaluate,
            execution="vmap",
            mesh=mesh,
            passes=task.passes,
            compile_quickly=task.compile_quickly,
        )
        plan = Plan((len(task.members),), _filled_up(len(task.members), mesh))
        [chunk] = chunks_of(plan, task.members, Path())
        members = place_members(chunk.population(), mesh)
        population = sweep.init(members)
        data, test = (sharding.place(part, mesh) for part in (task.data, task.test))
        epoch = sweep.epoch.lower(population, members, data, test).compile()
        return Started(epoch, population, members, data, test, time.perf_counter() - began)

    def train(self) -> float:
        """Compile and train; the held-out negative ELBO of the models at beta 1 and seed 0.

        Appends the seconds until the training began to `compiled`.
        """
        jax.clear_caches()
        started = self.start()
        self.compiled.append(started.seconds)
        population = started.population
        report: Report | None = None
        for _ in range(self.config.epochs // self.task.passes):
            population, report = started.epoch(
                population, started.members, started.data, started.test
            )
            report = jax.device_get(report)
        assert report is not None
        same = [
            i
            for i, member in enumerate(self.task.members)
            if member.hyper.beta == 1 and member.seed == 0
        ]
        return -float(np.asarray(report.test.elbo)[same].mean())

    def limits(self, seconds: float) -> dict[str, float]:
        """How near the training of all models is to what the machine can do (`limits_of`).

        Args:
            seconds: that a model took, once compiled.
        """
        task, models = self.task, len(self.task.members)
        assert isinstance(task.data, Subsets)
        rows, columns = np.shape(task.data.rows)[1], np.shape(task.data.examples)[1]
        layers = layers_of(columns, self.config.hidden, self.config.latent_dim)
        steps = models * self.config.epochs * (rows // task.batch_size)
        cost = step_cost(layers, task.batch_size)
        mesh = sharding.member_mesh()
        rate = matmul_ceiling(layers, task.batch_size, _filled_up(models, mesh), mesh=mesh)
        alone = steps * cost.flops / rate
        share, copied = alone / (models * seconds), copy_ceiling()
        return limits_of(cost, steps, seconds=alone, share=share, copied=copied)


def _filled_up(models: int, mesh: sharding.Mesh | None) -> int:
    """The models of a population that devices share evenly."""
    shards = sharding.num_shards(mesh)
    return -(-models // shards) * shards


def torch_models(task: Task, epochs: int) -> float:
    """Train the same five models one after the other, as a PyTorch user would.

    Data in memory, fused Adam, one permutation an epoch; 13-32-2 with a learned scale for each
    column.

    Returns:
        Their mean held-out negative ELBO, nats per row.
    """
    torch = import_torch()
    data, test = task.data, task.test
    assert isinstance(data, Subsets)
    costs = []
    for fold in range(TORCH_MODELS):
        torch.manual_seed(fold)
        rows = torch.from_numpy(np.asarray(data.examples)[np.asarray(data.rows)[fold]])
        stored, count = evaluated_part(test, fold)  # 36 or 35 rows
        held_out = torch.from_numpy(np.array(stored[: int(count)]))
        features = rows.shape[1]
        layers = torch.nn.Linear, torch.nn.ReLU
        encoder = torch.nn.Sequential(layers[0](features, 32), layers[1](), layers[0](32, 4))
        decoder = torch.nn.Sequential(layers[0](2, 32), layers[1](), layers[0](32, features))
        spread_of = torch.nn.Parameter(torch.zeros(features))
        parameters = [*encoder.parameters(), *decoder.parameters(), spread_of]
        optimizer = torch.optim.Adam(parameters, lr=5e-3, fused=True)

        def cost(x: Any) -> Any:
            mean, log_var = encoder(x).chunk(2, dim=1)  # noqa: B023
            z = mean + torch.exp(log_var / 2) * torch.randn_like(mean)
            scale = 0.01 + torch.nn.functional.softplus(spread_of)  # noqa: B023
            errors = (x - decoder(z)) / scale  # noqa: B023
            nats = (errors**2 / 2 + torch.log(scale) + LOG_2PI / 2).sum(1)
            kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
            return (nats + kl).mean()

        steps = len(rows) // task.batch_size
        for _ in range(epochs):
            order = torch.randperm(len(rows))[: steps * task.batch_size]
            for batch in order.split(task.batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss = cost(rows[batch])
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            costs.append(np.mean([float(cost(held_out)) for _ in range(16)]))
    return float(np.mean(costs))
