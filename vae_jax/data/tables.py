"""Tables: the small ones that scikit-learn carries, and CSV files of the user's.

Every column has a kind, which decides its likelihood. The kind is inferred from the values,
or given in a schema. White space around a value or a name never counts.
"""

import codecs
import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vae_jax.data.cells import cells_of, column_of, labels_of, number
from vae_jax.data.columns import Column, Rule, as_text, counts_rows, kind_of_numbers
from vae_jax.data.files import listed, read_bytes, shortened
from vae_jax.data.idx import DataError
from vae_jax.data.schema import read_schema

TABLES = ("iris", "wine", "breast_cancer", "digits")


class Table(NamedTuple):
    """A table, and what is needed to say which one it was.

    Attributes:
        name: one of `TABLES`, or the name of the file without its ending.
        values: codes in binary and categorical columns, numbers in the others; NaN where
            the value is missing.
        columns: what each column is.
        labels: the class of each row, or None.
        class_names: the name of each class; empty without labels.
        source: where the table comes from, and its size.
        sha256: checksum of the file, or of each array of a table of scikit-learn.
        warnings: what the user should be told.
    """

    name: str
    values: Float[np.ndarray, "rows columns"]
    columns: tuple[Column, ...]
    labels: Int[np.ndarray, " rows"] | None
    class_names: tuple[str, ...]
    source: str
    sha256: dict[str, str]
    warnings: tuple[str, ...]


def load_table(name: str) -> Table:
    """Load a table that scikit-learn carries.

    Args:
        name: one of `TABLES`. The kinds are inferred as those of a file, but for "digits":
            its 64 pixels are continuous.

    Returns:
        The table, with its labels.

    Raises:
        DataError: if the name is unknown.
    """
    if name not in TABLES:
        raise DataError(f"table {name!r}: not one of {', '.join(TABLES)}")
    import sklearn.datasets

    bunch: Any = getattr(sklearn.datasets, f"load_{name}")()
    values = np.ascontiguousarray(bunch.data, np.float64)
    labels = bunch.target.astype(np.int64)
    columns = tuple(
        Column(str(column), "continuous" if name == "digits" else kind_of_numbers(values[:, i]))
        for i, column in enumerate(bunch.feature_names)
    )
    return Table(
        name,
        values,
        columns,
        labels,
        class_names=tuple(str(label) for label in bunch.target_names),
        source=f"{name} of scikit-learn, {_size(values)}",
        sha256={
            part: hashlib.sha256(array.tobytes()).hexdigest()
            for part, array in (("values", values), ("labels", labels))
        },
        warnings=_warn_constant(columns, values),
    )


def read_table(path: Path, *, label: str | None = None, schema: Path | None = None) -> Table:
    """Read a CSV file: UTF-8, fields separated by commas, the names of the columns first.

    Blank lines are passed over.

    Args:
        path: the file.
        label: the column that holds the class of each row, or None. It is no feature,
            whatever the schema says of it.
        schema: JSON file with an object that gives columns a kind of `KINDS`, "ignore", or
            `{"kind": "categorical", "categories": ["a", "b"]}` (so too for "binary"), which
            fixes the codes. Counts go up to `MAX_COUNT`. What it does not name is inferred by
            `vae_jax.data.cells.infer_column`.

    Returns:
        The table.

    Raises:
        DataError: if pandas is not installed, the file or the schema cannot be read or is
            malformed, there are fewer than two rows or no feature, or a value does not fit.
    """
    try:
        import pandas
    except ImportError as error:
        raise DataError("--csv needs pandas: pip install -e '.[tabular]'") from error

    content = read_bytes(path)
    try:
        # A spreadsheet may put a byte order mark first; the checksum is of the whole file.
        text = content.removeprefix(codecs.BOM_UTF8)
        header, blank = _check_records(text)
        if label is not None and label not in header:
            raise DataError(f"label column {label!r}: not one of {listed(header)}")
        rules = {} if schema is None else read_schema(schema, header)
        # Columns left out are never unpacked.
        ignored = {name for name, rule in rules.items() if rule.kind == "ignore"} - {label}
        features = [name for name in header if name not in ignored and name != label]
        if not features:
            raise DataError("no column is left for the features")
        frame = pandas.read_csv(
            io.BytesIO(text),
            header=0,
            names=header,
            usecols=[name for name in header if name not in ignored],
            index_col=False,
            dtype=str,
            # What is missing is decided here, for all columns alike.
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
        )
        if blank:
            frame = frame.drop(index=blank)

        def place(row: int) -> str:
            return f"line {_line_of(text, row)}"

        values = np.empty((len(frame), len(features)))
        columns = []
        for i, name in enumerate(features):
            cells = cells_of(frame.pop(name), name, place)
            column, values[:, i] = column_of(cells, rules.get(name, Rule()))
            columns.append(column)
        labels, class_names = None, ()
        if label is not None:
            labels, class_names = labels_of(cells_of(frame.pop(label), label, place))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error

    columns = tuple(columns)
    return Table(
        path.stem,
        values,
        columns,
        labels,
        class_names,
        source=f"{path.name}, {_size(values)}",
        sha256={path.name: hashlib.sha256(content).hexdigest()},
        warnings=(
            *_warn_header(header),
            *_warn_row_numbers(columns, values, rules),
            *_warn_commas(columns, rules),
            *_warn_constant(columns, values),
        ),
    )


def _records(text: bytes) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, none for a blank line, and the line where it begins."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(text), "utf-8", newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"line {line}: no valid CSV ({error})") from error


def _check_records(text: bytes) -> tuple[list[str], list[int]]:
    """Return the names of the columns, and which of the rows are blank lines.

    pandas fills short records up and knows no line numbers, hence this second reader.
    """
    records = _records(text)
    header = [name.strip() for name in next(records, (1, []))[1]]
    if not header:
        raise DataError("line 1 is blank, but the names of the columns must stand there")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise DataError(f"line 1: {shortened(header[0])} has no comma, which must separate names")
    if "" in header:
        raise DataError(f"line 1: the name of column {header.index('') + 1} is empty")
    if len(set(header)) < len(header):
        twice = next(name for i, name in enumerate(header) if name in header[:i])
        raise DataError(f"line 1: two columns have the name {twice!r}")
    rows, blank = 0, []
    for row, (line, fields) in enumerate(records):
        if not fields:
            blank.append(row)
        elif len(fields) != len(header):
            raise DataError(f"line {line}: {len(fields)} fields, not {len(header)} as in line 1")
        else:
            rows += 1
    if rows < 2:
        raise DataError(f"at least 2 rows are needed, but there are {rows} below the header")
    return header, blank


def _line_of(text: bytes, row: int) -> int:
    lines = (line for line, fields in _records(text) if fields)
    return next(islice(lines, row + 1, None))


def _warn_header(header: Sequence[str]) -> tuple[str, ...]:
    # Whole numbers are names that pandas itself gives; others look like a row of data.
    values = [name for name in header if np.isfinite(number(name))]
    values = [name for name in values if not number(name).is_integer()]
    return tuple(
        f"line 1 is taken for the names of the columns, but {name!r} is a number: if it "
        f"belongs to the data, put a line with names above it"
        for name in values[:1]
    )


def _warn_row_numbers(
    columns: Sequence[Column], values: Float[np.ndarray, "rows columns"], rules: dict[str, Rule]
) -> tuple[str, ...]:
    return tuple(
        f"column {column.name!r} looks like a row number, each row is one more than the row "
        f'before: it is taken as continuous; "ignore" in a schema leaves it out'
        for i, column in enumerate(columns)
        if column.name not in rules and column.kind == "continuous" and counts_rows(values[:, i])
    )


def _warn_commas(columns: Sequence[Column], rules: dict[str, Rule]) -> tuple[str, ...]:
    return tuple(
        f"column {column.name!r} has numbers with a comma, such as {column.categories[0]!r}: it is "
        f"taken as {column.kind}; numbers have a decimal point, and nothing between thousands"
        for column in columns
        if column.name not in rules
        and column.categories
        and all(re.fullmatch(r"[+-]?\d+(,\d+)+", text) for text in column.categories)
    )


def _warn_constant(
    columns: Sequence[Column], values: Float[np.ndarray, "rows columns"]
) -> tuple[str, ...]:
    lowest = np.nanmin(values, axis=0)
    same = np.flatnonzero(lowest == np.nanmax(values, axis=0)).tolist()
    if len(same) == 1:
        column = columns[same[0]]
        value = as_text(column, float(lowest[same[0]]))
        tail = f"is constant ({value}): it is carried along but tells nothing"
        return (f"column {column.name!r} {tail}",)
    if same:
        names = listed([columns[i].name for i in same])
        tail = "are constant: they are carried along but tell nothing"
        return (f"{len(same)} columns ({names}) {tail}",)
    return ()


def _size(values: Float[np.ndarray, "rows columns"]) -> str:
    rows, columns = values.shape
    return f"{rows:,} rows x {columns:,} columns"
