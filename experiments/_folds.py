"""Cross-validation folds as the splits of one sweep."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments._grid import Member
from vae_jax.data import Encoding, Table, fit_encoding
from vae_jax.sweep import Subsets


class Split(NamedTuple):
    """One fold: what is trained on and what is held out.

    Attributes:
        train: rows of the table.
        test: the others.
        encoding: fitted on the training rows.
        train_features: the training rows as features.
        test_features: the held-out rows, likewise.
    """

    train: np.ndarray
    test: np.ndarray
    encoding: Encoding
    train_features: np.ndarray
    test_features: np.ndarray


def split_of(table: Table, train: np.ndarray, test: np.ndarray) -> Split:
    """A split whose scaling knows the training rows only."""
    encoding = fit_encoding(table.values[train], table.columns)
    features = (encoding.encode(table.values[rows]) for rows in (train, test))
    return Split(train, test, encoding, *features)


def cross_validation(table: Table, folds: int, seeds: Sequence[int]) -> list[Split]:
    """The folds of every seed, a seed's behind each other; each seed deals the rows anew.

    The classes, where there are labels and every class has a row for each fold, have the same
    shares in every fold.

    Args:
        table: the data.
        folds: of a seed; 1 holds out a fifth of the rows, once.
        seeds: of the partitions.

    Returns:
        The splits, `folds` for each seed.

    Raises:
        ValueError: if there are more folds than rows.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    count = 5 if folds == 1 else folds
    if count > len(table.values):
        raise ValueError(f"{count} folds of {len(table.values)} rows")
    labels = table.labels
    stratified = labels is not None and np.bincount(labels).min() >= count
    kind = StratifiedKFold if stratified else KFold
    splits = []
    for seed in seeds:
        dealt = kind(count, shuffle=True, random_state=seed)
        pairs = list(dealt.split(table.values, labels if stratified else None))
        splits += [split_of(table, train, test) for train, test in pairs[:folds]]
    return splits


def as_subsets(splits: Sequence[Split]) -> tuple[Subsets, Subsets]:
    """The training and the held-out rows of all splits, as the sweep takes them.

    Splits may differ by some rows, and still one program trains and judges them all. Models
    train on as many rows of each split as the shortest one has, so that no row is seen twice in
    an epoch: which rows of a longer one are left out is drawn by chance, from a generator that
    the rows themselves seed. Whatever reads `Split.train_features` has all of them. Of the
    held-out rows none is left out (`each_once`).

    Args:
        splits: of one table.

    Returns:
        The training and the held-out data.
    """
    trained = [split.train_features for split in splits]
    fewest = min(map(len, trained))
    # 32 bits, of which a seed is made a hundred times as fast.
    chance = [np.random.default_rng(split.train.astype(np.uint32)) for split in splits]
    kept = [
        start + np.sort(own.permutation(len(part))[:fewest])
        for own, start, part in zip(chance, _starts(trained), trained, strict=True)
    ]
    train = Subsets(np.concatenate(trained), np.array(kept, np.int32))
    held_out = [split.test_features for split in splits]
    parts = np.split(np.arange(sum(map(len, held_out))), _starts(held_out)[1:])
    return train, each_once(np.concatenate(held_out), parts)


def each_once(examples: np.ndarray, parts: Sequence[np.ndarray]) -> Subsets:
    """Held-out examples of splits that may differ in length, of which each counts once.

    Behind those of a split that has fewer its last one is repeated, which `Subsets.counts` keeps
    out of every mean.

    Args:
        examples: of all splits.
        parts: which of them each split holds out.

    Returns:
        The data to evaluate on.
    """
    counts = np.array([len(part) for part in parts], np.int32)
    places = np.minimum(np.arange(counts.max()), counts[:, None] - 1)
    rows = [part[own] for part, own in zip(parts, places, strict=True)]
    is_whole = counts.min() == counts.max()
    return Subsets(examples, np.array(rows, np.int32), None if is_whole else counts)


def _starts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Where each part begins when they stand behind each other."""
    return np.cumsum([0, *map(len, parts)])[:-1]


def labels_of(labels: np.ndarray, splits: Sequence[Split]) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the examples of `as_subsets`."""
    train, test = ([labels[getattr(split, half)] for split in splits] for half in ("train", "test"))
    return np.concatenate(train), np.concatenate(test)


def over_folds(members: Sequence[Member], seeds: Sequence[int], folds: int) -> list[Member]:
    """Each member once for every fold of its seed.

    Args:
        members: one for each setting and seed.
        seeds: in the order of `cross_validation`.
        folds: of each seed.

    Returns:
        The members; the folds of one follow each other.
    """
    found = []
    for member in members:
        for fold in range(folds):
            found.append(
                member._replace(
                    name=f"{member.name}-fold{fold}",
                    columns={**member.columns, "fold": fold},
                    split=list(seeds).index(member.seed) * folds + fold,
                )
            )
    return found
