"""Tables of users: what is read, how it is encoded against an obvious reference, and what is refused."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from bandits.errors import SimulationError
from bandits.simulation.classification import ClassificationSettings, classification_of, labelled_rows
from bandits.simulation.encoding import encode_contexts
from bandits.simulation.tables import read_table
from protos import config

CSV = "size,colour,flag,label\n1.5,red,true,a\n-2,blue,false,b\n4,red,true,a\n0,green,true,c\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(CSV)
    return path


def test_numbers_are_standardised_and_words_are_one_hot_without_the_last(file: Path) -> None:
    found = encode_contexts(read_table(file), leave_out=frozenset({"label"}))
    size, flag = np.array([1.5, -2.0, 4.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0])
    colour = [[0, 0], [1, 0], [0, 0], [0, 1]]
    expected = np.column_stack([(size - size.mean()) / size.std(), colour, (flag - flag.mean()) / flag.std()])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_csv_gzip_and_parquet_are_the_same_table(file: Path, tmp_path: Path) -> None:
    table = read_table(file)
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(CSV.encode()))
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    assert read_table(packed).equals(table) and read_table(tmp_path / "table.parquet").equals(table)
    bare = tmp_path / "bare.csv"
    bare.write_text(CSV.split("\n", 1)[1])
    assert read_table(bare, header=False).equals(table.rename_columns(["0", "1", "2", "3"]))


def test_classes_are_sorted_and_numbers_by_value() -> None:
    rows = labelled_rows(pa.table({"x": [0.0, 1.0, 2.0], "y": [10, 9, 10]}), label="y")
    assert rows.classes == ("9", "10") and rows.label.tolist() == [1, 0, 1]
    coded = pa.table({"x": [0.0, 1.0], "y": pa.array(["b", "a"]).dictionary_encode()})
    assert labelled_rows(coded, label="y").classes == ("a", "b")


def test_a_constant_column_carries_nothing() -> None:
    table = pa.table({"x": [1e9 + 0.1] * 3, "word": ["a"] * 3, "zero": [0.0] * 3, "huge": [1e300, -1e300, 0.0]})
    found = encode_contexts(table, leave_out=frozenset())
    assert found.shape == (3, 3) and not found[:, :2].any()
    np.testing.assert_allclose(found[:, 2], np.array([1, -1, 0]) / np.sqrt(2 / 3))


BAD_FILES = [
    ("", "cannot be read"),
    ("a,b\n", "has no rows"),
    ("a,a\n1,2\n", "column 'a' stands twice"),
    ("a,b\n1\n", "cannot be read"),
]


@pytest.mark.parametrize(("text", "says"), BAD_FILES, ids=[says for _, says in BAD_FILES])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(SimulationError, match=says):
        read_table(tmp_path / "bad.csv")
    with pytest.raises(SimulationError, match=r"none.csv cannot be read .*; give a CSV or Parquet file"):
        read_table(tmp_path / "none.csv")


BAD_TABLES = [
    ({"x": [1.0, 2.0], "labels": ["a", "b"]}, "label: the table has no column 'label'; did you mean `labels`"),
    ({"x": [1.0, 2.0], "label": ["a", "a"]}, "label: column 'label' has one class only, 'a'"),
    ({"x": [1.0, None], "label": ["a", "b"]}, r"data: column 'x' has no value in row 1"),
    ({"x": [1.0, float("nan")], "label": ["a", "b"]}, r"data: column 'x' has no value in row 1"),
    ({"x": [1.0, float("inf")], "label": ["a", "b"]}, r"data: column 'x' holds inf in row 1"),
    ({"x": ["a", None], "label": ["a", "b"]}, "data: column 'x' has no value in row 1"),
    ({"x": [1.0, 2.0], "label": ["a", None]}, "label: column 'label' has no value in row 1"),
    ({"x": [[1.0], [2.0]], "label": ["a", "b"]}, "data: column 'x' holds list"),
    ({"x": [1.0, 2.0], "label": [[1], [2]]}, "label: column 'label' holds list"),
    ({"x": [str(n) for n in range(1_001)], "label": ["a", "b", *["a"] * 999]}, "data: column 'x' has 1001 different words"),
]


@pytest.mark.parametrize(("columns", "says"), BAD_TABLES, ids=[says for _, says in BAD_TABLES])
def test_a_table_that_is_no_classification_is_refused(columns: dict[str, list[object]], says: str) -> None:
    with pytest.raises(SimulationError, match=says):
        labelled_rows(pa.table(columns), label="label")


BAD_REWARDS = [
    ({"a": [1, 0]}, "class 'b' is missing"),
    ({"a": [1, 0], "b": [1, 0], "c": [1, 0]}, "has no class 'c'"),
    ({"a": [1, 0], "b": [1]}, "rewards.table.b: 1 prizes for 2 actions"),
    ({"a": [1, 0], "b": [[[5, 0.5], [1, 0.4]], 0]}, "rewards.table.b: probabilities sum to 0.9"),
]


@pytest.mark.parametrize(("prizes", "says"), BAD_REWARDS, ids=[says for _, says in BAD_REWARDS])
def test_rewards_that_do_not_fit_the_classes_are_refused(prizes: dict[str, object], says: str) -> None:
    given = {"data": "", "label": "label", "rewards": {"actions": ["eat", "leave"], "table": prizes}}
    settings = config.parse(ClassificationSettings, given, where="environment.settings")
    with pytest.raises(SimulationError, match=says):
        classification_of(settings, pa.table({"x": [1.0, 2.0], "label": ["a", "b"]}))
