"""Tables: the small ones that scikit-learn carries, and CSV files of the user's.

Every column has a kind, which decides its likelihood. The kind is inferred from the values,
or given in a schema. White space around a value or a name never counts.
"""

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vae_jax.data.files import read_bytes
from vae_jax.data.idx import DataError

KINDS = ("continuous", "heavy_tailed", "binary", "count", "categorical")
TABLES = ("iris", "wine", "breast_cancer", "digits")

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands for a missing value, in small letters; capitals stand for it as well."""

MAX_COUNT = 10_000
"""The largest count of a count column; a negative binomial starts at a mean of 1 and learns it by
steps."""

_MAX_INFERRED_CATEGORIES = 50
_MAX_CATEGORIES = 1_000
_MAX_CLASSES = 100
_MAX_INFERRED_COUNT = 1_000
_MAX_FIRST_COUNT = 20
_HEAVY_KURTOSIS = 6.0
_KURTOSIS_ROWS = 30
# Whole numbers up to here are exact as float64, so none is taken for another.
_MAX_NUMBERED = 1e15


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: as in the header of the file.
        kind: one of `KINDS`.
        categories: the names of the codes 0, 1, ... of a binary or categorical column.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()


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
        Column(str(column), "continuous" if name == "digits" else _number_kind(values[:, i]))
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
            `infer_column`.

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
            raise DataError(f"label column {label!r}: not one of {_list(header)}")
        rules = {} if schema is None else _read_schema(schema, header)
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
            cells = _cells_of(frame.pop(name), name, place)
            column, values[:, i] = _column_of(cells, rules.get(name, _Rule()))
            columns.append(column)
        labels, class_names = None, ()
        if label is not None:
            labels, class_names = _labels_of(_cells_of(frame.pop(label), label, place))
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
            *_warn_constant(columns, values),
        ),
    )


def infer_column(values: Any, name: str) -> tuple[Column, Float[np.ndarray, " rows"]]:
    """Tell the kind of a column from its values.

    Missing values are left aside. Where at least half of the others are numbers, all have
    to be, and the column is, by the first rule that fits:

    - continuous: all values are the same one
    - binary: two different values
    - continuous: whole numbers, each row one more than the row before (a row number)
    - count: whole numbers, the lowest 0 to 20, the highest at most 1,000
    - heavy_tailed: at least 30 rows, with an excess kurtosis over 6
    - continuous: any other numbers

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
    return _column_of(_cells_of(values, name, lambda row: f"row {row + 1}"), _Rule())


def as_text(column: Column, value: float) -> str:
    """Write a value of a column for people to read.

    Args:
        column: the column.
        value: a value of it, as in `Table.values`.

    Returns:
        The name of the category, or the number in six digits; nothing for NaN.

    Raises:
        ValueError: if the column has categories and the value is none of their codes.

    Example:
        >>> as_text(Column("colour", "categorical", ("blue", "red")), 1.0)
        'red'
    """
    if np.isnan(value):
        return ""
    if not column.categories:
        return f"{value:g}"
    if value not in range(len(column.categories)):
        last = len(column.categories) - 1
        raise ValueError(f"column {column.name!r}: code {value:g} is not one of 0 to {last}")
    return column.categories[int(value)]


class _Rule(NamedTuple):
    """What a schema says of a column; without a kind it is inferred."""

    kind: str | None = None
    categories: tuple[str, ...] = ()


class _Cells(NamedTuple):
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
        value = _shorten(self.texts[self.codes[row]])
        return DataError(f"column {self.name!r}, {self.place(row)}: {value} {problem}")


def _cells_of(values: Any, name: str, place: Callable[[int], str]) -> _Cells:
    import pandas

    codes, distinct = pandas.factorize(values)
    # The code of a NaN is -1, which finds the empty text at the end.
    texts = [*(str(value).strip() for value in np.asarray(distinct, object)), ""]
    codes = np.where(codes < 0, len(distinct), codes)
    return _Cells(
        name,
        place,
        texts,
        codes,
        counts=np.bincount(codes, minlength=len(texts)),
        present=np.array([text.lower() not in MISSING for text in texts]),
        numbers=np.array([_number(text) for text in texts]),
    )


def _column_of(cells: _Cells, rule: _Rule) -> tuple[Column, Float[np.ndarray, " rows"]]:
    name = cells.name
    if not cells.present[cells.codes].any():
        raise DataError(f'column {name!r} has no value at all: "ignore" it in a schema')
    kind = _infer_kind(cells) if rule.kind is None else rule.kind
    if kind in ("binary", "categorical"):
        most = 2 if kind == "binary" else _MAX_CATEGORIES
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


def _labels_of(cells: _Cells) -> tuple[Int[np.ndarray, " rows"], tuple[str, ...]]:
    if not cells.present[cells.codes].all():
        raise cells.error(~cells.present, "is a missing value, but every row needs its label")
    class_names, codes = _encode(cells, _MAX_CLASSES, "a label")
    return codes.astype(np.int64), class_names


def _infer_kind(cells: _Cells) -> str:
    rows = int(cells.counts[cells.present].sum())
    numeric = int(cells.counts[cells.present & ~np.isnan(cells.numbers)].sum())
    if 2 * numeric >= rows:
        _check_numbers(
            cells, "is text in a numeric column: leave it empty, or give the kind in a schema"
        )
        return _number_kind(cells.numbers[cells.codes])
    texts = {text for text, present in zip(cells.texts, cells.present, strict=True) if present}
    if len(texts) == 2:
        return "binary"
    if len(texts) == 1 or (len(texts) <= _MAX_INFERRED_CATEGORIES and 2 * len(texts) < rows):
        return "categorical"
    raise DataError(
        f"column {cells.name!r} is free text ({len(texts):,} different values in {rows:,} "
        f'rows): drop it, or "ignore" it in a schema'
    )


def _number_kind(values: Float[np.ndarray, " rows"]) -> str:
    seen = values[~np.isnan(values)]
    distinct = len(np.unique(seen))
    if distinct == 2:
        return "binary"
    if distinct == 1 or _counts_rows(values):
        return "continuous"
    is_whole = bool((seen == np.rint(seen)).all())
    if is_whole and 0 <= seen.min() <= _MAX_FIRST_COUNT and seen.max() <= _MAX_INFERRED_COUNT:
        return "count"
    if len(seen) >= _KURTOSIS_ROWS and _excess_kurtosis(seen) > _HEAVY_KURTOSIS:
        return "heavy_tailed"
    return "continuous"


def _counts_rows(values: Float[np.ndarray, " rows"]) -> bool:
    # NaN is neither whole nor small, so a missing value makes this false.
    is_whole = (values == np.rint(values)) & (np.abs(values) < _MAX_NUMBERED)
    return len(values) > 2 and bool(is_whole.all() and (values[1:] == values[:-1] + 1).all())


def _excess_kurtosis(values: Float[np.ndarray, " rows"]) -> float:
    # Scaled, because the fourth power of a large number is not finite, that of a small one 0.
    values = values / np.abs(values).max()
    deviation = values - values.mean()
    return float((deviation**4).mean() / (deviation**2).mean() ** 2 - 3)


def _check_numbers(cells: _Cells, problem: str) -> None:
    is_text = cells.present & np.isnan(cells.numbers)
    if is_text.any():
        raise cells.error(is_text, problem)
    if np.isinf(cells.numbers).any():
        raise cells.error(np.isinf(cells.numbers), "is not a finite number")


def _encode(
    cells: _Cells, most: int, what: str, given: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], Float[np.ndarray, " rows"]]:
    """Replace texts by codes; numbers are compared by size, so that 1, 01 and 1.0 are one."""
    present = [cells.texts[i] for i in np.flatnonzero(cells.present)]
    is_numeric = all(abs(_number(text)) < _MAX_NUMBERED for text in given or present)
    keys = [_canonical(text) if is_numeric else text for text in present]
    different = list(dict.fromkeys(keys))
    codes = np.full(len(cells.texts), np.nan)
    if given:
        names = given
        ordered = [_canonical(text) if is_numeric else text for text in given]
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
        raise cells.error(codes == -1, f"is not one of the categories {_list(names)}")
    return names, codes[cells.codes]


def _number(text: str) -> float:
    # float() would also take 1_000, and digits of other scripts.
    if not text.isascii() or "_" in text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan


def _canonical(text: str) -> str:
    value = _number(text)
    if not abs(value) < _MAX_NUMBERED:
        return text
    return str(int(value)) if value.is_integer() else repr(value)


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
        raise DataError(f"line 1: {_shorten(header[0])} has no comma, which must separate names")
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


def _read_schema(path: Path, header: Sequence[str]) -> dict[str, _Rule]:
    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise ValueError(f"the key {key!r} is there twice")
        return dict(pairs)

    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=refuse_twice)
    except OSError as error:
        raise DataError(f"schema {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"schema {path}: no valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"schema {path}: an object with columns is needed, not {_shorten(found)}")
    rules = {}
    for name, rule in found.items():
        if name not in header:
            raise DataError(f"schema {path}: column {name!r} is not one of {_list(header)}")
        try:
            rules[name] = _rule_of(rule)
        except DataError as error:
            raise DataError(f"schema {path}: column {name!r}: {error}") from error
    return rules


def _rule_of(rule: Any) -> _Rule:
    fields = rule if isinstance(rule, dict) else {"kind": rule}
    kind = fields.get("kind")
    if kind not in (*KINDS, "ignore"):
        allowed = ", ".join((*KINDS, "ignore"))
        raise DataError(f"kind {_shorten(kind)} is not one of {allowed}")
    if unknown := fields.keys() - {"kind", "categories"}:
        raise DataError(f"key {min(unknown)!r} is not one of kind, categories")
    if "categories" not in fields:
        return _Rule(kind)
    if kind not in ("binary", "categorical"):
        raise DataError(f"categories do not belong to the kind {kind}")
    given = fields["categories"]
    if not (isinstance(given, list) and given and all(isinstance(name, str) for name in given)):
        raise DataError(f"categories {_shorten(given)}: a list of texts is needed")
    categories = tuple(name.strip() for name in given)
    most = 2 if kind == "binary" else _MAX_CATEGORIES
    if len(categories) > most:
        raise DataError(f"{len(categories)} categories, but a {kind} column has at most {most}")
    for i, name in enumerate(categories):
        if name.lower() in MISSING:
            raise DataError(f"category {name!r} stands for a missing value")
        if _canonical(name) in map(_canonical, categories[:i]):
            raise DataError(f"category {name!r} is there twice")
    return _Rule(kind, categories)


def _warn_header(header: Sequence[str]) -> tuple[str, ...]:
    # Whole numbers are names that pandas itself gives; others look like a row of data.
    values = [name for name in header if np.isfinite(_number(name))]
    values = [name for name in values if not _number(name).is_integer()]
    return tuple(
        f"line 1 is taken for the names of the columns, but {name!r} is a number: if it "
        f"belongs to the data, put a line with names above it"
        for name in values[:1]
    )


def _warn_row_numbers(
    columns: Sequence[Column], values: Float[np.ndarray, "rows columns"], rules: dict[str, _Rule]
) -> tuple[str, ...]:
    return tuple(
        f"column {column.name!r} looks like a row number, each row is one more than the row "
        f'before: it is taken as continuous; "ignore" in a schema leaves it out'
        for i, column in enumerate(columns)
        if column.name not in rules and column.kind == "continuous" and _counts_rows(values[:, i])
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
        names = _list([columns[i].name for i in same])
        tail = "are constant: they are carried along but tell nothing"
        return (f"{len(same)} columns ({names}) {tail}",)
    return ()


def _size(values: Float[np.ndarray, "rows columns"]) -> str:
    rows, columns = values.shape
    return f"{rows:,} rows x {columns:,} columns"


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
