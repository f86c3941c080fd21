"""From the columns of a table to the features of a model, and back.

Features stand in the order of `KINDS`, so that each kind is one slice. A continuous
column is centred and scaled by the rows that the encoding was fitted on, a categorical one is
as many features as it has categories. A missing value is NaN in each of its features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vae_jax.data.columns import KINDS, Column

_SCALED = ("continuous", "heavy_tailed")
_ROWS_AT_ONCE = 8_192
# In float32 a likelihood squares what it gets, over a small scale: further out all is NaN.
_FARTHEST = 1e12


class Block(NamedTuple):
    """Adjacent features of one kind; each categorical column is a block of its own.

    Attributes:
        kind: of `KINDS`.
        width: how many features.
    """

    kind: str
    width: int


class Encoding(NamedTuple):
    """How a table becomes features.

    Attributes:
        columns: of the table, in its order.
        blocks: of the features, in theirs.
        column_of: the column that each feature belongs to.
        shift: what is subtracted from each feature; 0 where it is not continuous.
        scale: what it is then divided by; 1 where it is not continuous.
    """

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    column_of: Int[np.ndarray, " features"]
    shift: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    def encode(
        self, values: Float[np.ndarray, "rows columns"], *, size: int | None = None
    ) -> Float[np.ndarray, "size features"]:
        """Rows of the table as float32 features, none of them beyond 1e12.

        Args:
            values: the rows, NaN where a value is missing.
            size: rows to fill up to, with zeros.

        Returns:
            The features.

        Raises:
            ValueError: if the number of columns is another, there are more rows than size, or a
                value of a categorical column is no code of its categories.
        """
        if values.ndim != 2 or values.shape[1] != len(self.columns):
            raise ValueError(f"shape {values.shape}: {len(self.columns)} columns are needed")
        rows = len(values) if size is None else size
        if rows < len(values):
            raise ValueError(f"size {size}: too small for {len(values)} rows")
        features = np.zeros((rows, len(self.shift)), np.float32)
        code = self._codes()
        is_category = code >= 0
        # A million rows at once would need room for several copies in float64.
        for start in range(0, len(values), _ROWS_AT_ONCE):
            some = values[start : start + _ROWS_AT_ONCE][:, self.column_of].astype(np.float64)
            some = (some - self.shift) / self.scale
            if is_category.any():
                self._check_codes(some, start)
                chosen = np.where(np.isnan(some), np.nan, some == code)
                some = np.where(is_category, chosen, some)
            features[start : start + len(some)] = np.clip(some, -_FARTHEST, _FARTHEST)
        return features

    def decode(
        self, features: Float[np.ndarray, "rows features"]
    ) -> Float[np.ndarray, "rows columns"]:
        """Features, or their means, as rows of the table in its own units.

        Of a binary or categorical column it is the more probable value.
        """
        own = np.asarray(features, np.float64) * self.scale + self.shift
        values = np.empty((len(own), len(self.columns)))
        for index, column in enumerate(self.columns):
            mine = own[:, self.column_of == index]
            if column.kind == "categorical":
                values[:, index] = mine.argmax(axis=1)
            elif column.kind == "binary":
                values[:, index] = mine[:, 0] > 0.5
            else:
                values[:, index] = mine[:, 0]
        return values

    @property
    def log_scale(self) -> Float[np.ndarray, " features"]:
        """What a density of the features loses, in nats, to be one of the table's units."""
        return np.log(self.scale)

    def _check_codes(self, values: Float[np.ndarray, "rows features"], start: int) -> None:
        """Refuse a category that was not named: a row with none of them would count as one."""
        counts = np.array([len(self.columns[index].categories) for index in self.column_of])
        named = np.isnan(values) | (
            (values >= 0) & (values < counts) & (values == np.floor(values))
        )
        unnamed = np.argwhere((self._codes() >= 0) & ~named)
        if len(unnamed):
            row, feature = unnamed[0]
            name, last = self.columns[self.column_of[feature]].name, counts[feature] - 1
            found = f"column {name!r}, row {start + row}: {values[row, feature]:g}"
            raise ValueError(f"{found} is no code of its categories, 0 to {last}")

    def _codes(self) -> Int[np.ndarray, " features"]:
        """The category that a feature stands for; -1 where it stands for a number."""
        codes = [
            np.arange(b.width) if b.kind == "categorical" else [-1] * b.width for b in self.blocks
        ]
        return np.concatenate(codes).astype(np.int64)


def fit_encoding(values: Float[np.ndarray, "rows columns"], columns: Sequence[Column]) -> Encoding:
    """Fit the scaling of the continuous columns on some rows.

    Args:
        values: the rows, NaN where a value is missing.
        columns: what each column is.

    Returns:
        The encoding. A column that is constant, or missing everywhere, keeps its scale.

    Raises:
        ValueError: if there is no row, or not one column for each, or a column's kind is unknown,
            or it is categorical and has no categories.
    """
    if len(values) == 0 or values.ndim != 2 or values.shape[1] != len(columns):
        raise ValueError(f"shape {values.shape}: at least one row of {len(columns)} columns")
    for column in columns:
        if column.kind not in KINDS:
            raise ValueError(f"column {column.name!r}: kind {column.kind!r} is not of {KINDS}")
        if column.kind == "categorical" and not column.categories:
            raise ValueError(f"column {column.name!r}: a categorical column needs its categories")
    blocks: list[Block] = []
    column_of: list[int] = []
    for kind in KINDS:
        own = [index for index, column in enumerate(columns) if column.kind == kind]
        widths = [len(columns[i].categories) if kind == "categorical" else 1 for i in own]
        column_of += [i for i, width in zip(own, widths, strict=True) for _ in range(width)]
        if kind == "categorical":
            blocks += [Block(kind, width) for width in widths]
        elif own:
            blocks.append(Block(kind, len(own)))
    shift, scale = np.zeros(len(columns)), np.ones(len(columns))
    for index, column in enumerate(columns):
        seen = values[:, index]
        seen = seen[~np.isnan(seen)]
        if column.kind in _SCALED and len(seen):
            shift[index] = seen.mean(dtype=np.float64)
            spread = seen.std(dtype=np.float64)
            # A constant column may have the spread of its rounding.
            scale[index] = spread if spread > 1e-12 * abs(shift[index]) else 1.0
    return Encoding(
        columns=tuple(columns),
        blocks=tuple(blocks),
        column_of=np.array(column_of),
        shift=shift[column_of],
        scale=scale[column_of],
    )
