"""Rows for methods that know neither gaps nor kinds of columns, and their way back."""

from typing import NamedTuple

import numpy as np

from experiments._folds import Split


class _Scale(NamedTuple):
    """What is done to each feature, from the training rows of a split."""

    is_count: np.ndarray
    fill: np.ndarray
    shift: np.ndarray
    deviation: np.ndarray


def on_one_scale(split: Split, features: np.ndarray) -> np.ndarray:
    """Features on one scale: counts are standardised after log(1 + x), numbers already are.

    Args:
        split: whose training rows say what the scale is.
        features: of any rows, NaN where a value is missing.

    Returns:
        The features, in the same order, with the same gaps.
    """
    scale = _scale_of(split)
    return (_spread(scale.is_count, features) - scale.shift) / scale.deviation


def complete(split: Split, features: np.ndarray) -> np.ndarray:
    """Features `on_one_scale` without gaps: a missing value is its column's mean in training."""
    scale = _scale_of(split)
    own = on_one_scale(split, features)
    return np.where(np.isnan(own), (scale.fill - scale.shift) / scale.deviation, own)


def as_features(split: Split, completed: np.ndarray) -> np.ndarray:
    """The features that `complete` made these numbers of; no count is under 0."""
    scale = _scale_of(split)
    own = completed * scale.deviation + scale.shift
    return np.where(scale.is_count, np.expm1(np.maximum(own, 0)), own)


def _scale_of(split: Split) -> _Scale:
    kinds = np.concatenate([[block.kind] * block.width for block in split.encoding.blocks])
    is_count = kinds == "count"
    train = _spread(is_count, split.train_features)
    seen = ~np.isnan(train)
    number = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, train, 0).sum(axis=0) / number
    deviation = np.sqrt(np.where(seen, (train - mean) ** 2, 0).sum(axis=0) / number)
    return _Scale(
        is_count,
        fill=mean,
        shift=np.where(is_count, mean, 0.0),
        deviation=np.where(is_count & (deviation > 0), deviation, 1.0),
    )


def _spread(is_count: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(is_count, np.log1p(np.maximum(values, 0)), values)
