"""Tables as people have them: each gives the numbers of a plain regression in float64, or an error that names column and remedy."""

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import typer.testing
import yaml

from bandits.__main__ import app
from bandits.simulation.tables import read_table
from tests.bandits.effects_reference import regression

RNG = np.random.default_rng(0)
N = 900
AGE, T = RNG.integers(18, 70, N).astype(float), RNG.integers(0, 2, N)
Y = np.round(1.0 + 0.8 * T * (AGE > 40) - 0.4 * T + 0.02 * AGE + 0.5 * RNG.normal(size=N), 3)
HOUSEHOLD = RNG.integers(0, 150, N)


def run(command: str, folder: Path, data: str, **more: Any) -> Any:
    """The report, a dict, or the text that is said on stderr; anything but exit codes 0 and 2 fails."""
    (folder / "c.yaml").write_text(yaml.safe_dump({"data": data, "treatment": "t", "outcomes": "y", "covariates": ["age"], **more}))
    result = typer.testing.CliRunner().invoke(app, [command, str(folder / "c.yaml"), "--json"])
    assert result.exit_code in (0, 2), result.output
    return json.loads(result.stdout) if result.exit_code == 0 else result.stderr


def assert_effects(found: Any, x: Any, t: np.ndarray, y: np.ndarray, cluster: np.ndarray | None = None) -> None:
    assert isinstance(found, dict), found
    arms = np.unique(t)[1:]
    wanted = regression(np.column_stack([np.ones(len(y)), *(t == arm for arm in arms), x]).astype(float), y, cluster=cluster)
    kind = "hc1" if cluster is None else "cluster"
    lines = found["outcomes"][0]["effects"]
    np.testing.assert_allclose([line["effect"] for line in lines], wanted.coefficient[1 : 1 + len(arms)], rtol=1e-8)
    errors = np.sqrt(np.diag(wanted.covariance[kind]))[1 : 1 + len(arms)]
    np.testing.assert_allclose([line["standard_error"] for line in lines], errors, rtol=1e-8)


def text(columns: dict[str, Any], separator: str = ",") -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join([separator.join(columns), *(separator.join(map(str, row)) for row in rows)]) + "\n"


def test_numbers_that_are_whole_for_the_first_megabyte_are_numbers(tmp_path: Path) -> None:
    n = 250_000
    rng = np.random.default_rng(1)
    spend, t = np.zeros(n), rng.integers(0, 2, n)
    spend[-1000:] = rng.random(1000).round(3)
    y = (rng.random(n) < 0.1 + 0.05 * t).astype(int)
    words = [*map(str, y[:-500]), *["NA"] * 500]
    (tmp_path / "d.csv").write_text(text({"t": t, "age": [f"{each:g}" for each in spend], "y": words}))
    found = run("effects", tmp_path, "d.csv")
    assert_effects(found, spend[:-500], t[:-500], y[:-500].astype(float))


def test_decimal_commas_of_a_file_by_semicolon_are_numbers_and_other_commas_words(tmp_path: Path) -> None:
    lines = "".join(f"{'ab'[at % 2]};{at % 7},5;{at % 2},{at % 3};a,{at}\r\n" for at in range(60))
    (tmp_path / "data.csv").write_text("\ufeffarm;age;y;note\r\n" + lines, encoding="utf-8")
    table = read_table(tmp_path / "data.csv")
    assert table.column_names == ["arm", "age", "y", "note"]
    assert table["age"].to_pylist()[:3] == [0.5, 1.5, 2.5] and table["y"].to_pylist()[:3] == [0.0, 1.1, 0.2]
    assert table["note"].to_pylist()[1] == "a,1"


def test_quotes_line_breaks_and_na_among_words(tmp_path: Path) -> None:
    city = np.array(['"New ""York"""', '"a, b"', '"line\nbreak"', "NA"])[RNG.integers(0, 4, N)]
    arm = np.array(["control", '"it\'s ""x"""'])[T]
    (tmp_path / "d.csv").write_text(text({"t": arm, "age": AGE, "city": city, "y": Y}))
    known = city != "NA"
    levels = np.column_stack([city[known] == each for each in np.unique(city[known])[1:]])
    found = run("effects", tmp_path, "d.csv", covariates=["age", "city"])
    assert_effects(found, np.column_stack([AGE[known], levels]), T[known], Y[known])
    assert found["outcomes"][0]["effects"][0]["arm"] == 'it\'s "x"'
    policy = run("personalise", tmp_path, "d.csv", covariates=["age", "city"])
    assert policy["rows"]["missing"] == {"city (kept)": int((~known).sum())}


def test_truth_values_as_r_writes_them(tmp_path: Path) -> None:
    treated = np.where(np.arange(N) % 10 == 0, "NA", np.where(T == 1, "TRUE", "FALSE"))
    (tmp_path / "d.csv").write_text(text({"t": treated, "age": AGE, "y": np.where(Y > 2, "TRUE", "FALSE")}))
    known = treated != "NA"
    assert_effects(run("effects", tmp_path, "d.csv", control=False), AGE[known], T[known], (Y[known] > 2).astype(float))
    assert run("personalise", tmp_path, "d.csv", propensities={True: 0.5})["arms"] == ["0", "1"]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_semicolons_tabs_and_bars_separate_columns_too(tmp_path: Path, separator: str) -> None:
    (tmp_path / "d.csv").write_text(text({"t": T, "age": AGE, "y": Y}, separator))
    assert_effects(run("effects", tmp_path, "d.csv"), AGE, T, Y)


TABLE = pa.table({
    "t": pa.array([str(each) for each in T]),
    "age": AGE,
    "y": pa.array([decimal.Decimal(str(each)) for each in Y]),
    "day": [datetime.date(2020, 1, 1) + datetime.timedelta(int(each)) for each in AGE],
    "stamp": pa.array([datetime.datetime(2020, 1, 1) + datetime.timedelta(hours=int(each)) for each in AGE], pa.timestamp("ns", "UTC")),
    "half": AGE.astype(np.float16),
    "view": pa.array(np.array(["a", "b"])[HOUSEHOLD % 2].tolist(), pa.string_view()),
    "coded": pa.array(np.array(["a", "b"])[HOUSEHOLD % 2]).dictionary_encode(),
    "hash": pa.array([int(2**60 + each * 1_234_567_891) for each in HOUSEHOLD]),
    "name": [f"household {each}" for each in HOUSEHOLD],
    "id": [f"unit {each}" for each in range(N)],
    "number": np.arange(N),
    "one": np.ones(N),
    "twice": 2 * AGE + 1,
    "is_a": HOUSEHOLD % 2 == 0,
    "empty": pa.nulls(N),
    "list": [[1]] * N,
    "latin": pa.array([b"\xe9"] * N, pa.binary()),
    "gaps": [None if each % 5 == 0 else value for each, value in enumerate(AGE)],
})  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("strange")
    pyarrow.parquet.write_table(TABLE, found / "d.parquet")
    return found


@pytest.mark.parametrize("column", ["age", "day", "stamp", "half"])
def test_decimals_dates_and_halves_are_numbers(folder: Path, column: str) -> None:
    assert_effects(run("effects", folder, "d.parquet", covariates=[column]), AGE, T, Y)


@pytest.mark.parametrize("column", ["view", "coded", "is_a"])
def test_words_of_every_kind_are_factors(folder: Path, column: str) -> None:
    assert_effects(run("effects", folder, "d.parquet", covariates=[column]), HOUSEHOLD % 2, T, Y)


@pytest.mark.parametrize("column", ["hash", "name"])
def test_clusters_may_be_words_or_numbers_of_64_bits(folder: Path, column: str) -> None:
    assert_effects(run("effects", folder, "d.parquet", cluster=column), AGE, T, Y, HOUSEHOLD)


def test_constant_and_collinear_columns_and_one_hot_beside_its_category_are_left_out_by_name(folder: Path) -> None:
    columns = ["age", "one", "twice", "coded", "is_a", "number"]
    found = run("effects", folder, "d.parquet", covariates=columns)
    assert_effects(found, np.column_stack([AGE, HOUSEHOLD % 2, np.arange(N)]), T, Y)
    assert [each["column"] for each in found["outcomes"][0]["dropped_columns"]] == ["one", "twice", "is_a"]
    policy = run("personalise", folder, "d.parquet", covariates=columns)
    assert policy["left_out"] == ["one"] and policy["best_uniform_arm"] == "1"


NAMED: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("an empty column", "both", {"covariates": ["empty"]}, ["'empty'", "drop it"]),
    ("lists", "both", {"covariates": ["list"]}, ["'list'", "convert it"]),
    ("another encoding", "both", {"covariates": ["latin"]}, ["'latin'", "UTF-8"]),
    ("an id in words", "both", {"covariates": ["id"]}, ["'id'", "leave"]),
    ("an id as segment", "effects", {"segments": ["id"]}, []),
    ("an outcome of words", "both", {"outcomes": "view"}, ["outcomes", "'view'", "numbers"]),
    ("an id as treatment", "both", {"treatment": "number"}, ["treatment", "at most 100 arms"]),
    ("no such file", "both", {"data": "none.parquet"}, ["none.parquet", "cannot be read"]),
]


@pytest.mark.parametrize(("command", "more", "says"), [case[1:] for case in NAMED], ids=[case[0] for case in NAMED])
def test_what_cannot_be_used_is_named_with_a_remedy(folder: Path, command: str, more: dict[str, Any], says: list[str]) -> None:
    for each in ("effects", "personalise") if command == "both" else (command,):
        data = more.get("data", "d.parquet")
        said = run(each, folder, data, **{key: value for key, value in more.items() if key != "data"})
        if says:
            assert isinstance(said, str) and all(word in said for word in says), said
        else:
            # Every level has one row: each says why it has no effect.
            assert isinstance(said, dict) and all("reason" in part for part in said["outcomes"][0]["segments"])


ARMS: list[tuple[str, Callable[[], np.ndarray], str]] = [
    ("five rows of an arm", lambda: np.where(np.arange(N) < 5, 2, T), "has 5 rows only"),
    ("one percent treated", lambda: (np.arange(N) % 100 == 0) * 1, "has 9 rows only"),
]


@pytest.mark.parametrize(("t", "doubt"), [case[1:] for case in ARMS], ids=[case[0] for case in ARMS])
def test_a_rare_arm_has_its_effect_with_a_doubt_and_no_policy(tmp_path: Path, t: Callable[[], np.ndarray], doubt: str) -> None:
    (tmp_path / "d.csv").write_text(text({"t": t(), "age": AGE, "y": Y}))
    found = run("effects", tmp_path, "d.csv")
    assert_effects(found, AGE, t(), Y)
    assert any(doubt in each for each in found["outcomes"][0]["doubts"])
    said = run("personalise", tmp_path, "d.csv")
    assert isinstance(said, str) and "fewer than 10" in said and "leave its rows out" in said


def test_five_successes_in_all_are_an_outcome(tmp_path: Path) -> None:
    y = np.zeros(N)
    y[[3, 77, 210, 500, 805]] = 1
    (tmp_path / "d.csv").write_text(text({"t": T, "age": AGE, "y": y.astype(int)}))
    assert_effects(run("effects", tmp_path, "d.csv"), AGE, T, y)
    found = run("personalise", tmp_path, "d.csv")
    assert isinstance(found, dict) and "does not beat" in found["verdict"]


@pytest.mark.parametrize("scale", [1e9, 1e-9])
def test_units_change_nothing_but_the_units(tmp_path: Path, scale: float) -> None:
    (tmp_path / "d.csv").write_text(text({"t": T, "age": AGE * scale, "y": Y * scale}))
    assert_effects(run("effects", tmp_path, "d.csv"), AGE * scale, T, Y * scale)
    found = run("personalise", tmp_path, "d.csv")
    (tmp_path / "d.csv").write_text(text({"t": T, "age": AGE, "y": Y}))
    plain = run("personalise", tmp_path, "d.csv")
    assert isinstance(found, dict) and isinstance(plain, dict)
    assert found["black_box"]["gain"] == pytest.approx(scale * plain["black_box"]["gain"], rel=1e-6)


def test_a_probability_by_covariates_names_one_arm_and_the_other_gets_the_rest(tmp_path: Path) -> None:
    p = np.where(AGE > 40, 0.7, 0.3)
    t = (np.random.default_rng(5).random(N) < p) * 1
    y = np.round(Y + 0.03 * AGE, 3)
    (tmp_path / "d.csv").write_text(text({"t": t, "age": AGE, "y": y, "p": p, "q": np.where(t == 1, p, 1 - p)}))
    one, other = run("personalise", tmp_path, "d.csv", propensities={1: "p"}), run("personalise", tmp_path, "d.csv", propensities="q")
    assert isinstance(one, dict) and isinstance(other, dict) and one["uniform"] == other["uniform"]
    thirds = run("personalise", tmp_path, "d.csv", propensities={0: 0.495, 1: 0.495})
    assert isinstance(thirds, dict) and thirds["doubts"] == []


def test_missing_treatments_and_outcomes_are_counted_and_missing_covariates_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    columns = {"t": np.where(rng.random(N) < 0.1, np.nan, T), "age": np.where(rng.random(N) < 0.2, np.nan, AGE), "y": Y}
    columns["y"] = np.where(rng.random(N) < 0.1, np.nan, Y)
    (tmp_path / "d.csv").write_text(text(columns))
    known = ~np.isnan(np.column_stack(list(columns.values()))).any(axis=1)
    assert_effects(run("effects", tmp_path, "d.csv"), AGE[known], T[known], Y[known])
    used = ~(np.isnan(columns["t"]) | np.isnan(columns["y"]))
    found = run("personalise", tmp_path, "d.csv")
    assert isinstance(found, dict) and found["rows"]["used"] == used.sum()
