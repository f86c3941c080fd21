"""A column of text: the numbers or the codes that it holds, and the kind that it shows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vae_jax.data.columns import (
    MAX_CATEGORIES,
    MAX_COUNT,
    MAX_NUMBERED,
    MISSING,
    Column,
    Rule,
    kind_of_numbers,
)
from vae_jax.data.files import listed, shortened
from vae_jax.data.idx import DataError

_MAX_INFERRED_CATEGORIES = 50
_MAX_CLASSES = 100


def infer_column(values: Any, name: str) -> tuple[Column, Float[np.ndarray, " rows"]]:
    """Tell the kind of a column from its values.

    Missing values are left aside. Where at least half of the others are numbers, all have
    to be, and the kind is the one of `kind_of_numbers`.

    A column of text is binary with two different values, and categorical with one, or with
    at most 50 that are fewer than half of the rows. Any other is free text, an error.

    Args:
        values: the column as text, a pandas Series or an array of objects.
        name: its name.

    Returns:
        The column, with its categories sorted, by size if they are numbers; and its values:
        codes if it has categories, else numbers, NaN where missing.

    Raises:
        DataError: if no value is present, or the column is free text, numbers with text
            between, or has a number that is not finite.
    """
    return column_of(cells_of(values, name, lambda row: f"row {row + 1}"), Rule())


class Cells(NamedTuple):
    """A column of text: what it holds, each once, and which of them every row holds.

    What has to be done in Python is done once for each text, not for each row.
    """

    name: str
    place: Callable[[int], str]
    texts: list[str]
    codes: Int[np.ndarray, " rows"]
    counts: Int[np.ndarray, " texts"]
    present: Bool[np.ndarray, " texts"]
    numbers: Float[np.ndarray, " texts"]

    def error(self, wrong: Bool[np.ndarray, " texts"], problem: str) -> DataError:
        """Name the first row that holds one of the wrong texts."""
        row = int(np.argmax(wrong[self.codes]))
        value = shortened(self.texts[self.codes[row]])
        return DataError(f"column {self.name!r}, {self.place(row)}: {value} {problem}")


def cells_of(values: Any, name: str, place: Callable[[int], str]) -> Cells:
    """Read a column of text.

    Args:
        values: a pandas Series or an array of objects.
        name: of the column.
        place: how an error calls a row.

    Returns:
        What it holds, in the order of first appearance and an empty text at the end.
    """
    import pandas

    codes, distinct = pandas.factorize(values)
    # The code of a NaN is -1, which finds the empty text at the end.
    texts = [*(str(value).strip() for value in np.asarray(distinct, object)), ""]
    codes = np.where(codes < 0, len(distinct), codes)
    return Cells(
        name,
        place,
        texts,
        codes,
        counts=np.bincount(codes, minlength=len(texts)),
        present=np.array([text.lower() not in MISSING for text in texts]),
        numbers=np.array([number(text) for text in texts]),
    )


def column_of(cells: Cells, rule: Rule) -> tuple[Column, Float[np.ndarray, " rows"]]:
    """Turn a column of text into numbers or codes.

    Args:
        cells: the column.
        rule: what a schema says of it.

    Returns:
        The column, and its values as `infer_column` returns them.

    Raises:
        DataError: if it has no value, or a value does not fit the kind.
    """
    name = cells.name
    if not cells.present[cells.codes].any():
        raise DataError(f'column {name!r} has no value at all: "ignore" it in a schema')
    kind = _infer_kind(cells) if rule.kind is None else rule.kind
    if kind in ("binary", "categorical"):
        most = 2 if kind == "binary" else MAX_CATEGORIES
        categories, codes = _encode(cells, most, f"a {kind} column", rule.categories)
        return Column(name, kind, categories), codes
    _check_numbers(cells, f"is text in a {kind} column")
    if kind == "count":
        wrong = (cells.numbers < 0) | (cells.numbers != np.rint(cells.numbers))
        if (wrong & cells.present).any():
            raise cells.error(wrong & cells.present, "is not a count (0, 1, 2, ...)")
        if (cells.numbers > MAX_COUNT).any():
            problem = f"is a count over {MAX_COUNT:,}; such a column can be taken as continuous"
            raise cells.error(cells.numbers > MAX_COUNT, problem)
    return Column(name, kind), cells.numbers[cells.codes]


def labels_of(cells: Cells) -> tuple[Int[np.ndarray, " rows"], tuple[str, ...]]:
    """Turn a column of text into the class of each row, and the names of the classes.

    Raises:
        DataError: if a label is missing, or there are more than 100 classes.
    """
    if not cells.present[cells.codes].all():
        raise cells.error(~cells.present, "is a missing value, but every row needs its label")
    class_names, codes = _encode(cells, _MAX_CLASSES, "a label")
    return codes.astype(np.int64), class_names


def _infer_kind(cells: Cells) -> str:
    rows = int(cells.counts[cells.present].sum())
    numeric = int(cells.counts[cells.present & ~np.isnan(cells.numbers)].sum())
    if 2 * numeric >= rows:
        _check_numbers(
            cells, "is text in a numeric column: leave it empty, or give the kind in a schema"
        )
        return kind_of_numbers(cells.numbers[cells.codes])
    texts = {text for text, present in zip(cells.texts, cells.present, strict=True) if present}
    if len(texts) == 2:
        return "binary"
    if len(texts) == 1 or (len(texts) <= _MAX_INFERRED_CATEGORIES and 2 * len(texts) < rows):
        return "categorical"
    raise DataError(
        f"column {cells.name!r} is free text ({len(texts):,} different values in {rows:,} "
        f'rows): drop it, or "ignore" it in a schema'
    )


def _check_numbers(cells: Cells, problem: str) -> None:
    is_text = cells.present & np.isnan(cells.numbers)
    if is_text.any():
        raise cells.error(is_text, problem)
    if np.isinf(cells.numbers).any():
        raise cells.error(np.isinf(cells.numbers), "is not a finite number")


def _encode(
    cells: Cells, most: int, what: str, given: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], Float[np.ndarray, " rows"]]:
    """Replace texts by codes; numbers are compared by size, so that 1, 01 and 1.0 are one."""
    present = [cells.texts[i] for i in np.flatnonzero(cells.present)]
    is_numeric = all(abs(number(text)) < MAX_NUMBERED for text in given or present)
    keys = [canonical(text) if is_numeric else text for text in present]
    different = list(dict.fromkeys(keys))
    codes = np.full(len(cells.texts), np.nan)
    if given:
        names = given
        ordered = [canonical(text) if is_numeric else text for text in given]
    elif len(different) > most:
        codes[cells.present] = [key == different[most] for key in keys]
        problem = f"is one value too many: {what} has at most {most} different ones"
        raise cells.error(codes == 1, problem)
    else:
        ordered = sorted(different, key=float if is_numeric else str)
        names = tuple(ordered)
    index = {key: code for code, key in enumerate(ordered)}
    codes[cells.present] = [index.get(key, -1) for key in keys]
    if (codes == -1).any():
        raise cells.error(codes == -1, f"is not one of the categories {listed(names)}")
    return names, codes[cells.codes]


def number(text: str) -> float:
    """The number that a text is, NaN where it is none."""
    # float() would also take 1_000, and digits of other scripts.
    if not text.isascii() or "_" in text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan


def canonical(text: str) -> str:
    """A text by which equal numbers are equal: 1 for 1, 01 and 1.0."""
    value = number(text)
    if not abs(value) < MAX_NUMBERED:
        return text
    return str(int(value)) if value.is_integer() else repr(value)
