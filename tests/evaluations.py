"""What `experiments.evaluate` must leave of a run of any experiment, with all switched on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from command_line import call
from PIL import Image

from experiments import evaluate

TINY = ("--num-samples", "5", "--annealed", "2", "--chains", "2", "--temperatures", "3")
OF_ALL = ("neg_elbo", "kl", "neg_log_likelihood", "log_likelihood_sampling_error", "active_units")
OF_ALL += ("annealed_neg_log_likelihood", "annealed_gain")
ERRORS = ("log_likelihood_error", "annealed_difference_error")
OF_ONE_LAYER = ("mutual_information", "marginal_kl", "total_correlation", "dimension_kl")


def evaluation(run: Path) -> dict[str, Any]:
    """The numbers, which must be JSON to the letter."""
    return json.loads((run / "evaluation" / "evaluation.json").read_text("utf-8"))


def assert_not_blank(path: Path) -> None:
    assert np.asarray(Image.open(path).convert("L")).std() > 5, path


def assert_evaluated(
    run: Path,
    said: str,
    *,
    parts: Sequence[str] = (),
    layered: Sequence[str] = (),
    classes: bool = False,
    diverged: int = 0,
    alone: bool = False,
) -> str:
    """Evaluate a run that is there, and look at all that is written.

    Args:
        run: its folder.
        said: what the table must say of the data and of the unit.
        parts: those to be evaluated, where it is made of several.
        layered: of them, whose posterior has two layers.
        classes: whether there are classes to be found.
        diverged: models that are left out.
        alone: whether there is one held-out example, whose mean has no error.

    Returns:
        The table, in Markdown.
    """
    # A text of the user is found from the folder that it was trained in.
    done = call(evaluate, run.parents[2], str(run.resolve()), *TINY)
    assert done.code == 0, done.err
    text = (run / "evaluation" / "evaluation.md").read_text("utf-8")
    assert said in text
    record = evaluation(run)
    assert list(record.get("parts", ())) == list(parts)
    for part in parts or ("",):
        own = evaluation(run / part)
        assert record["parts"][part] == own if parts else record == own
        folder = run / part / "evaluation"
        assert_not_blank(folder / "evaluation.png")
        assert own["table"] in (folder / "evaluation.md").read_text("utf-8")
        assert own["about"]["dataset"]
        assert len(own["left_out"]) == diverged
        for one in own["members"]:
            assert np.isfinite([one[number] for number in OF_ALL]).all(), one
            assert [one[error] is None for error in ERRORS] == [alone] * len(ERRORS)
            unknown = [one[number] is None for number in OF_ONE_LAYER]
            assert unknown == [part in layered] * len(OF_ONE_LAYER)
            assert ("knn_accuracy" in one) == ("linear_accuracy" in one) == classes
    return text
