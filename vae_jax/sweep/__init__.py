"""A population of models as one compiled program: a grid of hyperparameters and seeds."""

from vae_jax.sweep.members import (
    Data,
    Members,
    Subsets,
    evaluated_part,
    make_members,
    num_examples,
    part_of,
    place_members,
    side_by_side,
)
from vae_jax.sweep.plan import Plan, plan_chunks
from vae_jax.sweep.population import (
    CAUSES,
    Evaluate,
    Execution,
    Population,
    Report,
    Status,
    Sweep,
    make_sweep,
    refit,
)

__all__ = [
    "CAUSES",
    "Data",
    "Evaluate",
    "Execution",
    "Members",
    "Plan",
    "Population",
    "Report",
    "Status",
    "Subsets",
    "Sweep",
    "evaluated_part",
    "make_members",
    "make_sweep",
    "num_examples",
    "part_of",
    "place_members",
    "plan_chunks",
    "refit",
    "side_by_side",
]
