"""Tables: which kind a column gets, what stands in the result, and what bad files are told."""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import sklearn.datasets
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from vae_jax.data.cells import infer_column
from vae_jax.data.columns import KINDS, MISSING, Column, _excess_kurtosis, as_text
from vae_jax.data.idx import DataError
from vae_jax.data.tables import TABLES, load_table, read_table

NAN = float("nan")
WORDS = ("red", "green", "blue", "red", "red", "green", "blue")


def error_of(call: Callable[[], object]) -> str:
    """The message of the DataError that a call must raise: one line."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def infer(values: Sequence[object]) -> tuple[Column, np.ndarray]:
    return infer_column(pandas.Series([str(value) for value in values], dtype=str), "x")


def csv_of(**columns: Sequence[object]) -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows), ""])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def schema(write: Callable[..., Path]) -> Callable[[Any], Path]:
    return lambda rules: write(json.dumps(rules), "schema.json")


# The tables of scikit-learn


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("iris", (150, 4), 3),
        ("wine", (178, 13), 3),
        ("breast_cancer", (569, 30), 2),
        ("digits", (1797, 64), 10),
    ],
)
def test_tables_of_scikit_learn_are_whole(name: str, shape: tuple[int, int], classes: int) -> None:
    table = load_table(name)
    bunch: Any = getattr(sklearn.datasets, f"load_{name}")()
    np.testing.assert_array_equal(table.values, bunch.data)
    np.testing.assert_array_equal(table.labels, bunch.target)
    assert table.values.shape == shape
    assert table.values.dtype == np.float64
    assert table.labels is not None
    assert table.labels.dtype == np.int64
    assert len(table.class_names) == classes
    assert [column.name for column in table.columns] == list(bunch.feature_names)
    assert table.source == f"{name} of scikit-learn, {shape[0]:,} rows x {shape[1]} columns"
    assert table.sha256 == {
        "values": hashlib.sha256(table.values.tobytes()).hexdigest(),
        "labels": hashlib.sha256(table.labels.tobytes()).hexdigest(),
    }


def test_the_table_above_has_all_names() -> None:
    assert TABLES == ("iris", "wine", "breast_cancer", "digits")
    assert error_of(lambda: load_table("boston")) == (
        "table 'boston': not one of iris, wine, breast_cancer, digits"
    )


def test_kinds_of_the_tables_of_scikit_learn() -> None:
    cancer = load_table("breast_cancer")
    heavy = stats.kurtosis(cancer.values) > 6
    assert 0 < heavy.sum() < 30
    assert [column.kind == "heavy_tailed" for column in cancer.columns] == heavy.tolist()
    assert {column.kind for column in cancer.columns} == {"heavy_tailed", "continuous"}
    for name in ("iris", "wine", "digits"):
        assert {column.kind for column in load_table(name).columns} == {"continuous"}


def test_constant_columns_of_digits_are_told_once() -> None:
    assert load_table("digits").warnings == (
        "3 columns ('pixel_0_0', 'pixel_4_0', 'pixel_4_7') are constant: they are carried along "
        "but tell nothing",
    )
    assert load_table("wine").warnings == ()


def test_iris_as_a_file_is_the_iris_of_scikit_learn(write: Callable[..., Path]) -> None:
    iris = load_table("iris")
    frame = pandas.DataFrame(iris.values, columns=[column.name for column in iris.columns])
    assert iris.labels is not None
    frame["species"] = np.array(iris.class_names)[iris.labels]
    path = write(frame.to_csv(index=False), "flowers.csv")

    found = read_table(path, label="species")
    np.testing.assert_array_equal(found.values, iris.values, strict=True)
    np.testing.assert_array_equal(found.labels, iris.labels, strict=True)
    assert found.columns == iris.columns
    assert found.class_names == iris.class_names
    assert found.name == "flowers"
    assert found.source == "flowers.csv, 150 rows x 4 columns"
    assert found.sha256 == {"flowers.csv": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert found.warnings == ()


# Inference


@pytest.mark.parametrize(
    ("values", "kind", "categories"),
    [
        ([0.5, 1.5, 2.25], "continuous", ()),
        ([-1, 0, 7], "continuous", ()),  # a whole number under 0
        ([20, 30, 40], "count", ()),
        ([21, 30, 40], "continuous", ()),
        ([0, 3, 1_000], "count", ()),
        ([0, 3, 1_001], "continuous", ()),
        ([1.0, "2.0", "3e0", 5], "count", ()),
        ([4, 5, 6], "continuous", ()),  # a row number
        ([4, 5, "", 6], "count", ()),
        ([7, 7, 7], "continuous", ()),
        ([0, 1, 1], "binary", ("0", "1")),
        ([10, 9, 9], "binary", ("9", "10")),
        ([2.5, -1, 2.5], "binary", ("-1", "2.5")),
        (["no", "yes"], "binary", ("no", "yes")),
        (["True", "False", ""], "binary", ("False", "True")),
        (["a", "a"], "categorical", ("a",)),
        (WORDS, "categorical", ("blue", "green", "red")),
        (["x", "x", "x", "x", "7", "7", "8"], "categorical", ("7", "8", "x")),
        (
            [f"c{i % 50}" for i in range(101)],
            "categorical",
            tuple(sorted(f"c{i}" for i in range(50))),
        ),
        (["1_0", "1_1"], "binary", ("1_0", "1_1")),  # a number to Python only
        (["\u0661", "\u0662"], "binary", ("\u0661", "\u0662")),
    ],
)
def test_inference(values: list[object], kind: str, categories: tuple[str, ...]) -> None:
    column, found = infer(values)
    assert column == Column("x", kind, categories)
    for value, read in zip(values, found, strict=True):
        if value == "":
            assert np.isnan(read)
        elif categories and isinstance(value, str):
            assert categories[int(read)] == value
        elif categories:
            assert float(categories[int(read)]) == value
        else:
            assert read == float(str(value))


def test_every_kind_is_inferred_somewhere() -> None:
    rng = np.random.RandomState(0)
    found = {
        "continuous": rng.normal(size=100),
        "heavy_tailed": rng.standard_cauchy(100),
        "binary": rng.randint(2, size=100),
        "count": rng.poisson(3, 100),
        "categorical": rng.choice(["a", "b", "c"], 100),
    }
    assert tuple(found) == KINDS
    for kind, values in found.items():
        column, read = infer(values.tolist())
        assert column.kind == kind
        if kind != "categorical":
            np.testing.assert_array_equal(read, values)


def test_heavy_tails_need_thirty_values() -> None:
    values = [*(0.1 * i for i in range(1, 29)), 1000.5]
    assert infer(values)[0].kind == "continuous"
    assert infer([*values, ""])[0].kind == "continuous"
    assert infer([*values, 0.05])[0].kind == "heavy_tailed"


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_kurtosis_is_that_of_scipy_at_any_scale(scale: float) -> None:
    values = np.random.RandomState(1).laplace(size=500)
    expected = stats.kurtosis(values)
    np.testing.assert_allclose(_excess_kurtosis(scale * values), expected, rtol=1e-9)


@pytest.mark.parametrize("marker", [*sorted(MISSING), "NA", "NaN", "None", " N/A ", "NULL", " "])
def test_missing_markers(marker: str) -> None:
    column, numbers = infer(["0.5", marker, "2.5", "-1"])
    np.testing.assert_array_equal(numbers, [0.5, NAN, 2.5, -1])
    assert column == Column("x", "continuous")
    column, codes = infer(["no", marker, "yes", "no"])
    np.testing.assert_array_equal(codes, [0, NAN, 1, 0])
    assert column == Column("x", "binary", ("no", "yes"))


def test_missing_as_pandas_has_it() -> None:
    values = pandas.Series(["1.5", None, "2.5", "4"], dtype=object)
    np.testing.assert_array_equal(infer_column(values, "x")[1], [1.5, NAN, 2.5, 4])


def test_white_space_does_not_count() -> None:
    column, codes = infer([" a", "b ", "a", "b"])
    assert column.categories == ("a", "b")
    assert codes.tolist() == [0, 1, 0, 1]


def test_equal_numbers_are_one_category() -> None:
    column, codes = infer(["0", "-0.0", "00", "2e0"])
    assert column == Column("x", "binary", ("0", "2"))
    assert codes.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "2", "abc"], "column 'x', row 3: 'abc' is text in a numeric column"),
        (["1", "abc"], "column 'x', row 2: 'abc' is text in a numeric column"),
        (["1,5", "2.5", "3.5"], "column 'x', row 1: '1,5' is text in a numeric column"),
        (["1", "2", "1e400"], "column 'x', row 3: '1e400' is not a finite number"),
        (["1", "-inf", "2"], "column 'x', row 2: '-inf' is not a finite number"),
        (["1", "2", "x" * 100], f"column 'x', row 3: '{'x' * 56}... is text"),
        (["a", "b", "c", "a", "b", "c"], "column 'x' is free text (3 different values in 6 rows)"),
        ([f"c{i % 51}" for i in range(500)], "column 'x' is free text (51 different values in"),
        (["", "NA"], "column 'x' has no value at all"),
    ],
)
def test_values_without_a_kind(values: list[str], message: str) -> None:
    assert error_of(lambda: infer(values)).startswith(message)


# Files


def test_a_file_of_every_kind(write: Callable[..., Path]) -> None:
    path = write(
        csv_of(
            size=[0.5, 1.25, "?", 4, 5, 6, 9],
            colour=WORDS,
            sick=["n", "y", "n", "n", "y", "", "n"],
            children=[0, 2, 0, 1, 3, 3, 5],
            when=["b", "a", "b", "b", "a", "a", "a"],
        )
    )
    table = read_table(path, label="when")
    assert table.columns == (
        Column("size", "continuous"),
        Column("colour", "categorical", ("blue", "green", "red")),
        Column("sick", "binary", ("n", "y")),
        Column("children", "count"),
    )
    expected = [
        [0.5, 1.25, NAN, 4, 5, 6, 9],
        [2, 1, 0, 2, 2, 1, 0],
        [0, 1, 0, 0, 1, NAN, 0],
        [0, 2, 0, 1, 3, 3, 5],
    ]
    np.testing.assert_array_equal(table.values, np.transpose(expected), strict=True)
    assert table.labels is not None
    assert table.labels.tolist() == [1, 0, 1, 1, 0, 0, 0]
    assert table.class_names == ("a", "b")
    assert table.warnings == ()
    assert read_table(path).labels is None
    assert read_table(path).class_names == ()
    assert read_table(path).columns[-1] == Column("when", "binary", ("a", "b"))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_marks_and_blank_lines(newline: str, write: Callable[..., Path]) -> None:
    text = newline.join(["\ufeffa , b", "0.5,1.5", "", '"2.5", 3', "", "4.5,?", "6,7"])
    path = write(text)
    table = read_table(path)
    assert [column.name for column in table.columns] == ["a", "b"]
    np.testing.assert_array_equal(table.values, [[0.5, 1.5], [2.5, 3], [4.5, NAN], [6, 7]])
    assert table.sha256 == {"t.csv": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_missing_value_alone_in_its_row(write: Callable[..., Path]) -> None:
    table = read_table(write('a\n1.5\n""\n\n2.5\n \n4\n'))
    np.testing.assert_array_equal(table.values[:, 0], [1.5, NAN, 2.5, NAN, 4])


CELL = st.text(st.sampled_from('ab ,"\n\r\u2028é'), max_size=4).map(lambda text: f"x{text}y")


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=2, max_size=6))
@example([["x\ny", "x,y"], ['x"y', "xy"]])
def test_quoted_cells_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["a", "b"], *rows])
    path = tmp_path_factory.mktemp("quoted") / "t.csv"
    path.write_bytes(buffer.getvalue().encode())
    schema = path.with_suffix(".json")
    schema.write_text('{"a": "categorical", "b": "categorical"}')
    table = read_table(path, schema=schema)
    found = [
        [as_text(*pair) for pair in zip(table.columns, row, strict=True)] for row in table.values
    ]
    assert found == rows


def test_numbers_are_read_to_the_last_bit(write: Callable[..., Path]) -> None:
    values = np.random.RandomState(2).normal(size=1000) * 10.0 ** np.arange(-20, 20).repeat(25)
    table = read_table(write(csv_of(x=[repr(float(value)) for value in values])))
    np.testing.assert_array_equal(table.values[:, 0], values)


def test_constant_columns_are_carried_along(write: Callable[..., Path]) -> None:
    one = read_table(write(csv_of(a=[7, 7, ""], b=[0.5, 1.5, 3])))
    np.testing.assert_array_equal(one.values[:, 0], [7, 7, NAN])
    tail = "it is carried along but tells nothing"
    assert one.warnings == (f"column 'a' is constant (7): {tail}",)
    text = read_table(write(csv_of(a=["yes", "yes"], b=[0.5, 1.5])))
    assert text.columns[0] == Column("a", "categorical", ("yes",))
    assert text.warnings == (f"column 'a' is constant (yes): {tail}",)
    both = read_table(write(csv_of(a=[7, 7, 7], b=["u", "u", "u"], c=[1, 5, 9])))
    assert both.warnings == (
        "2 columns ('a', 'b') are constant: they are carried along but tell nothing",
    )


def test_a_row_number_is_told(write: Callable[..., Path], schema: Callable[[Any], Path]) -> None:
    path = write(csv_of(id=[8, 9, 10], x=[0.5, 1.5, 4]))
    table = read_table(path)
    assert table.columns[0] == Column("id", "continuous")
    (warning,) = table.warnings
    assert warning.startswith("column 'id' looks like a row number, each")
    assert read_table(path, schema=schema({"id": "continuous"})).warnings == ()
    ignored = read_table(path, schema=schema({"id": "ignore"}))
    assert ignored.columns == (Column("x", "continuous"),)
    assert ignored.warnings == ()


def test_numbers_with_a_comma_are_told(
    write: Callable[..., Path], schema: Callable[[Any], Path]
) -> None:
    path = write('a,b,c\n"1,5","1,5",1\n"2,25","x,y",2\n"1,5","x,y",9\n')
    table = read_table(path)
    assert [column.kind for column in table.columns] == ["binary", "binary", "count"]
    (warning,) = table.warnings
    assert warning.startswith("column 'a' has numbers with a comma, such as '1,5': it is taken as")
    assert read_table(path, schema=schema({"a": "binary"})).warnings == ()


def test_whole_numbers_too_large_for_a_float(
    write: Callable[..., Path], schema: Callable[[Any], Path]
) -> None:
    # 1e17 + 1 is 1e17, which looks like counting, and would make two names one.
    ids = ["100000000000000000", "100000000000000001", "100000000000000000"]
    path = write(csv_of(id=ids, x=[0.5, 2, 9]))
    (warning,) = read_table(path).warnings
    assert warning.startswith("column 'id' is constant (1e+17)")
    table = read_table(path, schema=schema({"id": "categorical"}))
    assert table.columns[0].categories == tuple(ids[:2])
    assert table.values[:, 0].tolist() == [0, 1, 0]


def test_a_file_without_names_is_told(write: Callable[..., Path]) -> None:
    (warning,) = read_table(write("5.1,3,a\n4.9,2,b\n4.7,9,a\n")).warnings
    assert warning.startswith("line 1 is taken for the names of the columns, but '5.1'")
    assert read_table(write("0,1,2\n4.9,2,b\n4.7,9,a\n")).warnings == ()


# Labels


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["b", "a", "c"], ("a", "b", "c"), [1, 0, 2]),
        ([10, 9, 100], ("9", "10", "100"), [1, 0, 2]),
        (["1", "1.0", "0.5"], ("0.5", "1"), [1, 1, 0]),
        (["3", "x", "10"], ("10", "3", "x"), [1, 2, 0]),
        (["same"] * 3, ("same",), [0, 0, 0]),
    ],
)
def test_labels(
    values: list, names: tuple[str, ...], labels: list[int], write: Callable[..., Path]
) -> None:
    table = read_table(write(csv_of(y=values, x=[0.5, 2, 7])), label="y")
    assert table.class_names == names
    assert table.labels is not None
    assert table.labels.tolist() == labels
    assert [column.name for column in table.columns] == ["x"]


def test_bad_labels(write: Callable[..., Path]) -> None:
    path = write(csv_of(x=[0.5, 2, 7], y=["a", "N/A", "b"]))
    message = error_of(lambda: read_table(path, label="y"))
    assert message.startswith(f"{path}: column 'y', line 3: 'N/A' is a missing value")
    message = error_of(lambda: read_table(path, label="z"))
    assert message == f"{path}: label column 'z': not one of 'x', 'y'"
    path = write(csv_of(y=range(101), x=[i**0.5 for i in range(101)]))
    message = error_of(lambda: read_table(path, label="y"))
    assert message.startswith(f"{path}: column 'y', line 102: '100' is one value too many: a label")
    path = write(csv_of(y=range(100), x=[i**0.5 for i in range(100)]))
    assert len(read_table(path, label="y").class_names) == 100
    path = write(",".join(f"c{i}" for i in range(12)) + "\n" + "1,2,3,4,5,6,7,8,9,1,2,3\n" * 2)
    assert error_of(lambda: read_table(path, label="z")).endswith("'c8', 'c9', ...")


# Schemas


def test_a_schema_overrides(write: Callable[..., Path], schema: Callable[[Any], Path]) -> None:
    path = write(
        csv_of(
            a=[1, 2, 2, 3, 3, 3],
            b=[0, 1, 1, 0, 0, 1],
            c=["lo", "hi", "mid", "mid", "lo", ""],
            d=["2", "1.0", "", "2", "1", "01"],
            e=["x1", "x2", "x3", "x4", "x5", "x6"],
            f=[1, "3+", 2, 3, 1, 2],
            g=["u", "v", "w", "x", "y", "z"],
            h=[5, 1, 1, 9, 4, 2],
            i=[1, 2, 4, 1, 1, 2],
        )
    )
    rules = {
        "a": "heavy_tailed",
        "b": "count",
        "c": {"kind": "categorical", "categories": ["lo", "mid", "hi", "top"]},
        "d": {"kind": "binary", "categories": ["2", "1"]},
        "e": "ignore",
        "f": "categorical",
        "g": {"kind": "categorical"},
        "h": "continuous",
    }
    table = read_table(path, schema=schema(rules))
    assert table.columns == (
        Column("a", "heavy_tailed"),
        Column("b", "count"),
        Column("c", "categorical", ("lo", "mid", "hi", "top")),
        Column("d", "binary", ("2", "1")),
        Column("f", "categorical", ("1", "2", "3", "3+")),
        Column("g", "categorical", ("u", "v", "w", "x", "y", "z")),
        Column("h", "continuous"),
        Column("i", "count"),
    )
    np.testing.assert_array_equal(table.values[:, 2], [0, 2, 1, 1, 0, NAN])
    np.testing.assert_array_equal(table.values[:, 3], [0, 1, NAN, 0, 1, 1])
    np.testing.assert_array_equal(table.values[:, 4], [0, 3, 1, 2, 0, 1])
    labelled = read_table(path, schema=schema({**rules, "g": "ignore"}), label="g")
    assert labelled.class_names == ("u", "v", "w", "x", "y", "z")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"z": "count"}', "column 'z' is not one of 'a', 'b'"),
        ('{"a": "gaussian"}', "column 'a': kind 'gaussian' is not one of continuous, heavy_tai"),
        ('{"a": ["count"]}', "column 'a': kind ['count'] is not one of"),
        ('{"a": {"categories": ["u"]}}', "column 'a': kind None is not one of"),
        ('{"a": "count", "a": "binary"}', "no valid JSON (the key 'a' is there twice)"),
        ('{"a": {"kind": "count", "kind": "count"}}', "no valid JSON (the key 'kind' is there"),
        ('{"a": "count",}', "no valid JSON ("),
        ("", "no valid JSON ("),
        (b"\xff\xfe{}x", "no valid JSON ("),
        ("[" * 100_000, "no valid JSON ("),
        ('["a"]', "an object with columns is needed, not ['a']"),
        ('{"a": {"kind": "count", "levels": 3}}', "column 'a': key 'levels' is not one of kind"),
        ('{"a": {"kind": "count", "categories": ["1"]}}', "column 'a': categories do not belong"),
        ('{"a": {"kind": "binary", "categories": []}}', "column 'a': categories []: a list of"),
        ('{"a": {"kind": "binary", "categories": [1]}}', "column 'a': categories [1]: a list of"),
        (
            '{"a": {"kind": "binary", "categories": ["u", "v", "w"]}}',
            "column 'a': 3 categories, but a binary column has at most 2",
        ),
        (
            '{"a": {"kind": "categorical", "categories": ["1", "1.0"]}}',
            "column 'a': category '1.0' is there twice",
        ),
        (
            '{"a": {"kind": "categorical", "categories": ["u", "NA"]}}',
            "column 'a': category 'NA' stands for a missing value",
        ),
    ],
)
def test_bad_schemas(content: str | bytes, message: str, write: Callable[..., Path]) -> None:
    path, schema = write("a,b\n1.5,2\n2.5,3\n"), write(content, "schema.json")
    found = error_of(lambda: read_table(path, schema=schema))
    assert found.startswith(f"{path}: schema {schema}: {message}")


def test_a_schema_that_is_not_there(write: Callable[..., Path], tmp_path: Path) -> None:
    path, schema = write("a,b\n1.5,2\n2.5,3\n"), tmp_path / "no.json"
    found = error_of(lambda: read_table(path, schema=schema))
    assert found == f"{path}: schema {schema}: No such file or directory"


@pytest.mark.parametrize(
    ("values", "rule", "message"),
    [
        ([1, 2, 3], "binary", "line 4: '3' is one value too many: a binary column has at most 2"),
        ([1, -2, 3], "count", "line 3: '-2' is not a count"),
        ([1, 2, 3.5], "count", "line 4: '3.5' is not a count"),
        ([1, 2, "x"], "count", "line 4: 'x' is text in a count column"),
        ([1, 10_000, 48_436], "count", "line 4: '48436' is a count over 10,000; such a column can"),
        (["y", "x", "x"], "continuous", "line 2: 'y' is text in a continuous column"),
        ([1, "inf", 2], "heavy_tailed", "line 3: 'inf' is not a finite number"),
        (
            ["u", "v", "w"],
            {"kind": "categorical", "categories": ["u", "w"]},
            "line 3: 'v' is not one of the categories 'u', 'w'",
        ),
        (
            ["1.0", "2", "x"],
            {"kind": "categorical", "categories": ["1", "2"]},
            "line 4: 'x' is not one of the categories '1', '2'",
        ),
        (range(1001), "categorical", "line 1002: '1000' is one value too many"),
    ],
)
def test_values_that_do_not_fit_the_schema(
    values: Sequence[object],
    rule: Any,
    message: str,
    write: Callable[..., Path],
    schema: Callable[[Any], Path],
) -> None:
    path = write(csv_of(a=[i**0.5 for i in range(len(values))], b=values))
    found = error_of(lambda: read_table(path, schema=schema({"b": rule})))
    assert found.startswith(f"{path}: column 'b', {message}")


# Bad files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n1,2\n3,4\n", "line 1 is blank"),
        (b"a,b\n1,\xff\n3,4\n", "not UTF-8 at byte 6"),
        (b"\xef\xbb\xbfa,b\n1,\xe9\n3,4\n", "not UTF-8 at byte 9"),
        ("a,b\n1,2\n3,4\n".encode("utf-16"), "not UTF-8 at byte 0"),
        (b"a,b\n1,\x002\n3,4\n", "a NUL byte at byte 6"),
        ("a,b\n", "at least 2 rows are needed, but there are 0"),
        ("a,b", "at least 2 rows are needed, but there are 0"),
        ("a,b\n1,2\n\n", "at least 2 rows are needed, but there are 1"),
        ("a,b, a\n1,2,3\n4,5,6\n", "line 1: two columns have the name 'a'"),
        ("a, ,c\n1,2,3\n4,5,6\n", "line 1: the name of column 2 is empty"),
        ("a,b,\n1,2,\n4,5,\n", "line 1: the name of column 3 is empty"),
        ("a;b\n1;2\n4;5\n", "line 1: 'a;b' has no comma"),
        ("a\tb\n1\t2\n4\t5\n", "line 1: 'a\\tb' has no comma"),
        ("a,b\n1,2\n3\n4,5\n", "line 3: 1 fields, not 2 as in line 1"),
        ("a,b\n1,2\n4,5\n3,4,5\n", "line 4: 3 fields, not 2 as in line 1"),
        ('a,b\n1,"x\ny"\n\n1,2,3\n', "line 5: 3 fields, not 2 as in line 1"),
        ('a,b\n1,"x\ny"\n3,"oh\n5,6\n', "line 4: no valid CSV (unexpected end of data)"),
        ('a,b\n1,"x"y\n3,4\n', "line 2: no valid CSV ("),
        ("a,b\n1,\n2.5,NA\n", "column 'b' has no value at all"),
        ("a,b\n1,2\n2,x\n5,7\n8,8\n", "column 'b', line 3: 'x' is text in a numeric column"),
        (
            'a,b\n"u\nv",2\n\n"u\nv",3\n"u\nv",4\n"u\nv",x\n',
            "column 'b', line 9: 'x' is text in a numeric column",
        ),
        ("a,b\n1,2\n2,5\n5,1e400\n", "column 'b', line 4: '1e400' is not a finite number"),
        ("a,b\n1,u\n2,v\n5,w\n", "column 'b' is free text (3 different values in 3 rows)"),
    ],
)
def test_bad_files(content: str | bytes, message: str, write: Callable[..., Path]) -> None:
    path = write(content)
    assert error_of(lambda: read_table(path)).startswith(f"{path}: {message}")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    missing = tmp_path / "no.csv"
    assert error_of(lambda: read_table(missing)) == f"{missing}: No such file or directory"
    assert error_of(lambda: read_table(tmp_path)) == f"{tmp_path}: a folder, not a file"


def test_no_feature_is_left(write: Callable[..., Path], schema: Callable[[Any], Path]) -> None:
    path, rules = write("a,b\n1,2\n4,5\n"), schema({"a": "ignore"})
    message = error_of(lambda: read_table(path, label="b", schema=rules))
    assert message == f"{path}: no column is left for the features"


def test_what_is_ignored_may_hold_anything(
    write: Callable[..., Path], schema: Callable[[Any], Path]
) -> None:
    path = write(csv_of(a=[1, "x", "inf"], b=["", "", ""], c=[0.5, 2, 7]))
    table = read_table(path, schema=schema({"a": "ignore", "b": "ignore"}))
    assert table.columns == (Column("c", "continuous"),)
    np.testing.assert_array_equal(table.values, [[0.5], [2], [7]])


def test_pandas_is_asked_for(monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]) -> None:
    path = write("a,b\n1,2\n4,5\n")
    monkeypatch.setitem(sys.modules, "pandas", None)
    message = error_of(lambda: read_table(path))
    assert message == "--csv needs pandas: pip install -e '.[tabular]'"


# Values as text


def test_as_text() -> None:
    colour = Column("colour", "categorical", ("blue", "red"))
    assert [as_text(colour, value) for value in (0.0, 1.0, NAN)] == ["blue", "red", ""]
    size = Column("size", "continuous")
    assert [as_text(size, value) for value in (0.1, 12.0, 1 / 3, NAN)] == [
        "0.1",
        "12",
        "0.333333",
        "",
    ]
    for value in (-1.0, 2.0, 0.5):
        with pytest.raises(
            ValueError, match=f"column 'colour': code {value:g} is not one of 0 to 1"
        ):
            as_text(colour, value)
