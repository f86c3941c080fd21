"""What an estimator refuses: parameters without a meaning, and codes that are none."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.utils.validation import validate_data

from vae_jax.data import Column
from vae_jax.data.columns import KINDS, MAX_COUNT, kind_of_numbers
from vae_jax.networks import ACTIVATIONS

SCALES = ("column", "row", "table")
_FLOAT = np.finfo(np.float32)  # of the numbers that a model is trained with


def check_parameters(vae: Any) -> None:
    """Refuse a parameter without a meaning.

    Raises:
        ValueError: naming the parameter and its value.
    """
    for name in ("latent_dim", "epochs", "num_samples"):
        check_whole(name, getattr(vae, name))
    # A sequence that can be read again: an iterator would be empty behind this check.
    is_sequence = isinstance(vae.hidden, Sequence | np.ndarray) and np.iterable(vae.hidden)
    widths = vae.hidden if is_sequence else (None,)
    if any(not isinstance(w, int | np.integer) or w < 1 for w in widths):
        raise ValueError(f"hidden {vae.hidden!r}: widths of 1 or more are needed")
    if not isinstance(vae.activation, str) or vae.activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation {vae.activation!r}: one of {known} is needed")
    if not isinstance(vae.scale_of, str) or vae.scale_of not in SCALES:
        raise ValueError(f"scale_of {vae.scale_of!r}: one of {', '.join(SCALES)} is needed")
    for name in ("beta", "learning_rate", "contamination"):
        if not isinstance(value := getattr(vae, name), int | float | np.number):
            raise ValueError(f"{name} {value!r}: a number is needed")
    if not 0 <= vae.beta <= float(_FLOAT.max):
        raise ValueError(f"beta {vae.beta!r}: a finite float32 of 0 or more is needed")
    if not float(_FLOAT.tiny) <= vae.learning_rate <= float(_FLOAT.max):
        raise ValueError(f"learning_rate {vae.learning_rate!r}: a positive float32 is needed")
    if not 0 < vae.contamination <= 0.5:
        raise ValueError(f"contamination {vae.contamination!r}: above 0 and at most 0.5 is needed")
    is_number = isinstance(vae.batch_size, int | np.integer) and vae.batch_size >= 1
    if vae.batch_size != "auto" and not is_number:
        raise ValueError(f"batch_size {vae.batch_size!r}: 'auto' or 1 or more is needed")


def check_whole(name: str, value: Any) -> None:
    """Refuse what is no whole number of 1 or more.

    Raises:
        ValueError: naming the parameter and its value.
    """
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} {value!r}: a whole number of 1 or more is needed")


def batch_size_of(batch_size: Any, rows: int) -> int:
    """The rows in a minibatch: at most all of them, and for "auto" by their number."""
    if isinstance(batch_size, str):
        # A power of two from 32 to 1024, so that an epoch has a hundred steps or more
        # where there are rows enough.
        size = 32
        while size < 1024 and rows // (2 * size) >= 128:
            size *= 2
        return min(size, rows)
    return min(int(batch_size), rows)


# Of which the squares, in a standard deviation, are numbers, and not 0.
_LARGEST, _SMALLEST = 1e150, 1e-150


def columns_of(X: np.ndarray, kinds: Any, names: Any) -> tuple[Column, ...]:
    """What the columns are.

    Args:
        X: the rows.
        kinds: one kind for all columns, or one for each; "infer" tells it from the values, by
            `kind_of_numbers`, but that two of them are binary only where they are 0 and 1.
        names: of the columns; x0, x1, ... where it is None.

    Returns:
        The columns, with the codes of those that have categories.

    Raises:
        ValueError: if a kind is unknown, they are not as many as the columns, or a column has
            no value, one that is too large or that its kind cannot have, values that are too close,
            or too many categories.
    """
    count = X.shape[1]
    is_one = isinstance(kinds, str) or not np.iterable(kinds)
    kinds = [kinds] * count if is_one else list(kinds)
    for kind in kinds:
        if kind not in (*KINDS, "infer"):
            raise ValueError(f"kinds {kind!r}: one of {', '.join(KINDS)}, infer is needed")
    if len(kinds) != count:
        raise ValueError(f"kinds: {len(kinds)} of them for {count} columns")
    names = [f"x{i}" for i in range(count)] if names is None else names
    columns = []
    for index, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        categories: tuple[str, ...] = ()
        if np.isnan(X[:, index]).all():
            raise ValueError(f"column {str(name)!r}: every value is missing")
        if kind == "infer":
            kind = _inferred(X[:, index])
        largest = float(np.nanmax(np.abs(X[:, index])))  # a float32 has no limit of this size
        if largest > _LARGEST:
            raise ValueError(f"column {str(name)!r}: {largest:g} is too large to be standardised")
        differ = float(np.nanmax(X[:, index]) - np.nanmin(X[:, index]))
        if 0 < differ < _SMALLEST:
            raise ValueError(
                f"column {str(name)!r}: values that differ by {differ:g} are too close to be "
                "standardised"
            )
        if kind == "count" and np.nanmax(X[:, index]) > MAX_COUNT:
            raise ValueError(
                f"column {str(name)!r}: {np.nanmax(X[:, index]):g}; counts up to {MAX_COUNT:,} are "
                "modelled, larger ones can be taken as continuous"
            )
        if kind in ("binary", "categorical"):
            highest = np.nanmax(X[:, index], initial=1.0 if kind == "binary" else 0.0)
            if kind == "categorical" and not highest < 10_000:
                raise ValueError(
                    f"column {str(name)!r}: {highest:g} is no code of a category; whole numbers "
                    "from 0 to 9,999 are allowed"
                )
            categories = tuple(map(str, range(2 if kind == "binary" else int(highest) + 1)))
        columns.append(Column(str(name), kind, categories))
    check_codes(X, columns)
    return tuple(columns)


def _inferred(values: np.ndarray) -> str:
    kind = kind_of_numbers(values)
    # Two values that are not the codes 0 and 1 have a distance, which a continuous column keeps.
    is_code = np.isnan(values) | (values == 0) | (values == 1)
    return "continuous" if kind == "binary" and not is_code.all() else kind


def validated(
    vae: Any, X: Any, columns: Sequence[Column] | None
) -> Float[np.ndarray, "rows columns"]:
    """Rows as numbers.

    Args:
        vae: the estimator.
        X: what the user calls its rows.
        columns: those of `fit`; None in `fit` itself, from which scikit-learn takes their number
            and names.

    Returns:
        The rows in float64 or float32, NaN where a value is missing.

    Raises:
        TypeError: if X is sparse.
        ValueError: if it is no table of numbers, has an infinite one, no row (in `fit` under
            two), other columns, or a value that its column cannot have.
    """
    try:
        checked: Any = validate_data(
            vae,
            X,
            reset=columns is None,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if columns is None else 1,
        )
    except (TypeError, ValueError):
        _check_numbers(X)  # scikit-learn names neither the column nor the row
        raise
    check_codes(checked, columns or ())
    return checked


def _check_numbers(X: Any) -> None:
    """Refuse a data frame that holds words or dates, in place of the error being handled.

    Raises:
        ValueError: naming the first such column, and of words the row and the value.
    """
    for name in getattr(X, "columns", ()):
        column = X[name]
        if getattr(column, "ndim", 1) != 1:  # of several columns with one name
            return
        if getattr(column.dtype, "kind", "O") in "mM":
            raise ValueError(f"column {str(name)!r}: {column.dtype} is no number") from None
        for row, value in enumerate(column):
            if isinstance(value, str) and not _is_number(value):
                raise ValueError(
                    f"column {str(name)!r}, row {row}: {value!r} is no number; categories are "
                    "given as codes 0, 1, 2, ..."
                ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def points(Z: Any, latent_dim: int) -> Float[np.ndarray, "rows latent"]:
    """Points of the latent space.

    Args:
        Z: what the user calls them.
        latent_dim: dimensions that they must have.

    Returns:
        The points, in float32.

    Raises:
        ValueError: if Z has another shape or no row, or is not finite.
    """
    Z = np.asarray(Z, np.float32)
    if Z.ndim != 2 or Z.shape[1] != latent_dim:
        raise ValueError(f"shape {Z.shape}: {latent_dim} latent dimensions are needed")
    if len(Z) == 0 or not np.isfinite(Z).all():
        raise ValueError("Z: at least one row is needed, and finite numbers in all of them")
    return Z


def check_codes(X: np.ndarray, columns: Sequence[Column]) -> None:
    """Refuse a value that its column cannot have.

    Raises:
        ValueError: naming the column, the row and the value.
    """
    for index, column in enumerate(columns):
        if column.kind in ("continuous", "heavy_tailed"):
            continue
        values = X[:, index]
        known = len(column.categories) if column.categories else np.inf
        wrong = ~np.isnan(values) & (
            (values < 0) | (values >= known) | (values != np.floor(values))
        )
        if wrong.any():
            row = int(np.argmax(wrong))
            allowed = "whole numbers from 0" + ("" if known == np.inf else f" to {known - 1}")
            raise ValueError(
                f"column {column.name!r}, row {row}: {values[row]:g}; it is {column.kind}, "
                f"{allowed} are allowed"
            )
