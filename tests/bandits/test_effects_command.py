"""`bandits effects`: published figures, factors, missing values, segments, and every bad input by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import typer.testing
import yaml

from bandits.__main__ import app
from tests.bandits.effects_reference import regression
from tests.bandits.experiments import made_up, real


def run(folder: Path, config: dict[str, Any], *flags: str) -> typer.testing.Result:
    (folder / "effects.yaml").write_text(yaml.safe_dump(config))
    return typer.testing.CliRunner().invoke(app, ["effects", str(folder / "effects.yaml"), *flags])


def effects(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The parsed report, its outcomes by name and their effects by arm."""
    result = run(folder, config, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    return {item["outcome"]: item | {"arm": {line["arm"]: line for line in item["effects"]}} for item in report["outcomes"]}


def write(folder: Path, table: pa.Table) -> str:
    pyarrow.csv.write_csv(table, folder / "data.csv")
    return "data.csv"


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


# Published: Dehejia and Wahba (1999); HC1 of statsmodels 0.15.0.
def test_the_effect_of_the_national_supported_work_is_the_published_one(tmp_path: Path) -> None:
    found = effects(tmp_path, {"data": str(real("nsw.csv.gz")), "treatment": "treat", "outcomes": "re78"})["re78"]["arm"]["1"]
    assert (round(found["effect"], 2), round(found["standard_errors"]["homoskedastic"], 2)) == (1794.34, 632.85)
    assert round(found["standard_error"], 2) == 670.82
    covariates = ["age", "age^2", "educ", "black", "hisp", "nodegree", "re74", "re75"]
    config = {"data": str(real("nsw.csv.gz")), "treatment": "treat", "outcomes": "re78", "covariates": covariates}
    adjusted = effects(tmp_path, config)["re78"]["arm"]["1"]
    assert (round(adjusted["effect"], 2), round(adjusted["standard_error"], 2)) == (1672.20, 674.31)


# statsmodels 0.15.0, HC3.
def test_hc3_is_to_be_had(tmp_path: Path) -> None:
    config = {"data": str(real("nsw.csv.gz")), "treatment": "treat", "outcomes": "re78", "errors": "hc3"}
    line = effects(tmp_path, config)["re78"]["arm"]["1"]
    assert round(line["standard_error"], 2) == 672.68 and "hc2" not in line["standard_errors"]


# statsmodels 0.15.0, HC1.
HILLSTROM = {
    "visit": (0.106167, (0.076590, 0.003386), (0.045233, 0.003234)),
    "conversion": (0.005726, (0.006805, 0.000921), (0.003111, 0.000823)),
    "spend": (0.652789, (0.769827, 0.145247), (0.424412, 0.130333)),
}
ADJUSTED = {"visit": ((0.076146, 0.003338), (0.045505, 0.003193)), "spend": ((0.768812, 0.145123), (0.427562, 0.130403))}


def hillstrom(**more: Any) -> dict[str, Any]:
    return {"data": str(real("hillstrom.csv.gz")), "treatment": "segment", "control": "No E-Mail", **more}


def test_the_effects_of_the_e_mails_are_those_of_statsmodels(tmp_path: Path) -> None:
    found = effects(tmp_path, hillstrom(outcomes=list(HILLSTROM)))
    for name, (control, *arms) in HILLSTROM.items():
        assert round(found[name]["control_mean"], 6) == control and found[name]["cells"] == 3
        shown = [found[name]["arm"][arm] for arm in ("Mens E-Mail", "Womens E-Mail")]
        assert [(round(line["effect"], 6), round(line["standard_error"], 6)) for line in shown] == arms


def test_adjusted_effects_take_words_as_factors_and_terms_as_written(tmp_path: Path) -> None:
    covariates = ["recency", "log(history)", "mens", "womens", "newbie", "zip_code", "channel"]
    found = effects(tmp_path, hillstrom(outcomes=list(ADJUSTED), covariates=covariates))
    for name, arms in ADJUSTED.items():
        shown = [found[name]["arm"][arm] for arm in ("Mens E-Mail", "Womens E-Mail")]
        assert [(round(line["effect"], 6), round(line["standard_error"], 6)) for line in shown] == list(arms)


def test_interactions_are_those_of_statsmodels(tmp_path: Path) -> None:
    found = effects(tmp_path, hillstrom(outcomes="visit", modifiers=["mens", "womens", "newbie", "recency"]))["visit"]["interactions"]
    shown = {line["arm"]: (round(line["effect"], 5), round(line["standard_error"], 5)) for line in found}
    assert shown["Womens E-Mail x womens"] == (0.06059, 0.01336) and shown["Mens E-Mail x womens"] == (0.06515, 0.01385)
    assert shown["Womens E-Mail x mens"] == (-0.0026, 0.01351) and shown["Mens E-Mail x mens"] == (0.06331, 0.01384)


def test_incentives_are_clustered_by_village_and_rows_without_values_are_counted(tmp_path: Path) -> None:
    config = {"data": str(real("thornton_hiv.csv.gz")), "treatment": "any", "outcomes": "got", "cluster": "villnum"}
    found = effects(tmp_path, config)["got"]
    line = found["arm"]["1"]
    assert (round(line["effect"], 6), round(line["standard_error"], 6)) == (0.451982, 0.022686)
    assert round(line["standard_errors"]["hc1"], 6) == 0.020852 and found["clusters"] == 119
    assert found["rows"] == {"read": 4820, "used": 2830, "dropped": 1990, "missing": {"any": 1919, "villnum": 27, "got": 1926}}


def test_effects_by_segment_are_those_of_its_rows_alone(tmp_path: Path) -> None:
    table = made_up()
    config = {
        "data": write(tmp_path, table),
        "treatment": "arm",
        "control": "control",
        "outcomes": ["y", "z"],
        "segments": ["place", "age"],
    }
    found = effects(tmp_path, config)["y"]["segments"]
    assert [part["level"] for part in found[:3]] == ["city", "farm", "town"] and len(found) == 7
    rows = table.filter(pa.compute.equal(table["place"], "town"))
    arm, y = rows["arm"].to_numpy(), rows["y"].to_numpy()
    wanted = regression(np.column_stack([np.ones(len(y)), arm == "call", arm == "letter"]).astype(float), y)
    line = {each["arm"]: each for each in found[2]["effects"]}["letter"]
    np.testing.assert_allclose(line["effect"], wanted.coefficient[2], rtol=1e-8)
    np.testing.assert_allclose(line["standard_error"], np.sqrt(wanted.covariance["hc1"][2, 2]), rtol=1e-8)


def test_parquet_is_read_and_the_table_is_shown_without_json(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(made_up(), tmp_path / "data.parquet")
    result = run(tmp_path, {"data": "data.parquet", "treatment": "arm", "outcomes": "y", "cluster": "village", "segments": "place"})
    assert result.exit_code == 0 and "letter" in result.output and "600 used in 9 cells" in result.output


def test_a_segment_that_cannot_be_estimated_says_why_and_nothing_is_nan(tmp_path: Path) -> None:
    table = made_up()
    place, arm = table["place"].to_numpy(), table["arm"].to_numpy()
    lonely = replaced(table, "place", np.where(arm == "call", "island", np.where(place == "farm", "city", place)))
    found = effects(tmp_path, {"data": write(tmp_path, lonely), "treatment": "arm", "outcomes": "y", "segments": "place"})["y"]["segments"]
    assert "treatment: only ['call']" in found[1]["reason"] and found[1]["effects"] == []


def test_words_among_numbers_that_mean_missing_are_missing(tmp_path: Path) -> None:
    table = made_up()
    words = [("NA" if row % 10 == 0 else str(value)) for row, value in enumerate(table["y"].to_pylist())]
    found = effects(tmp_path, {"data": write(tmp_path, replaced(table, "y", words)), "treatment": "arm", "outcomes": ["y", "z"]})
    assert found["y"]["rows"]["missing"] == {"y": 60} and found["z"]["rows"]["dropped"] == 0


def test_a_collinear_covariate_is_left_out_by_name(tmp_path: Path) -> None:
    table = made_up().append_column("months", pa.array(12 * made_up()["age"].to_numpy()))
    config = {"data": write(tmp_path, table), "treatment": "arm", "outcomes": "y", "covariates": ["age", "months"]}
    assert effects(tmp_path, config)["y"]["dropped_columns"] == [{"column": "months", "because": "collinear", "of": ["age"]}]


def test_a_covariate_may_have_the_name_of_an_arm_or_of_the_intercept(tmp_path: Path) -> None:
    table, noise = made_up(), np.random.default_rng(3).normal(size=(3, 600))
    config = {"treatment": "arm", "control": "control", "outcomes": "y", "received": "z", "segments": "place"}
    for at, names in enumerate((["call", "control", "intercept"], ["a", "b", "c"])):
        strange = table
        for name, values in zip(names, noise, strict=True):
            strange = strange.append_column(name, pa.array(values))
        found = effects(tmp_path, config | {"data": write(tmp_path, strange), "covariates": names, "modifiers": names[0]})["y"]
        figures = [found["effects"], found["means"], found["received"]["effect"], found["received"]["first_stage_f"]]
        figures += [[line["effect"] for line in found[kind]] for kind in ("coefficients", "interactions")]
        if at == 0:
            wanted = figures
            assert {"intercept", *(f"{name} (covariate)" for name in names)} <= {line["arm"] for line in found["coefficients"]}
    assert figures == wanted


def test_means_under_each_arm_are_predictions_averaged_over_all_rows(tmp_path: Path) -> None:
    table = made_up()
    config = {
        "data": write(tmp_path, table),
        "treatment": "arm",
        "control": "control",
        "outcomes": "y",
        "covariates": ["age", "place"],
        "modifiers": "age",
    }
    found = {line["arm"]: line for line in effects(tmp_path, config)["y"]["means"]}
    arm, age, place, y = (table[name].to_numpy() for name in ("arm", "age", "place", "y"))
    old = age - age.mean()

    def design(arm: np.ndarray) -> np.ndarray:
        call, letter = arm == "call", arm == "letter"
        return np.column_stack([np.ones(600), call, letter, old, call * old, letter * old, place == "farm", place == "town"]).astype(float)

    wanted = regression(design(arm), y)
    for name in ("control", "call", "letter"):
        mean = design(np.full(600, name)).mean(axis=0)
        error = np.sqrt(mean @ wanted.covariance["hc1"] @ mean)
        np.testing.assert_allclose((found[name]["mean"], found[name]["standard_error"]), (mean @ wanted.coefficient, error), rtol=1e-8)


def test_bins_say_what_they_lose_and_32_of_them_cost_the_e_mails_less_than_one_percent(tmp_path: Path) -> None:
    covariates = ["recency", "history", "mens", "womens", "newbie", "zip_code", "channel"]
    lossy = effects(tmp_path, hillstrom(outcomes="visit", covariates=covariates, bins=32))["visit"]
    assert lossy["cells"] < 0.6 * lossy["lossy"]["cells_without_bins"]
    assert 0.0 < lossy["lossy"]["information_lost"]["history"] < 0.05 and lossy["lossy"]["information_lost"]["mens"] < 1e-12
    assert all(abs(each) < 0.01 for each in lossy["lossy"]["error_inflation"].values())


def test_a_bootstrap_of_rows_or_clusters_stands_beside_the_errors(tmp_path: Path) -> None:
    """Fixed seed; 300 draws tell a deviation to 4.1 %, 20 % is a false alarm of 1e-6 for each of four."""
    data = write(tmp_path, replaced(made_up(), "y", np.round(made_up()["y"].to_numpy())))
    config = {"data": data, "treatment": "arm", "outcomes": "y", "covariates": ["place"], "bootstrap": 300}
    for more, of, kind in (({}, "rows", "hc1"), ({"cluster": "village"}, "clusters", "cluster")):
        found = effects(tmp_path, config | more)["y"]
        assert (found["bootstrap"]["of"], found["bootstrap"]["draws"]) == (of, 300)
        for arm, line in found["bootstrap"]["arms"].items():
            assert line["standard_error"] == pytest.approx(found["arm"][arm]["standard_errors"][kind], rel=0.2)
            assert line["interval"][0] < found["arm"][arm]["effect"] < line["interval"][1]


def test_a_path_of_penalties_begins_at_least_squares_and_is_the_ridge_of_each(tmp_path: Path) -> None:
    config = {"data": write(tmp_path, made_up()), "treatment": "arm", "outcomes": "y", "covariates": ["age", "place"]}
    found = effects(tmp_path, config | {"ridge_path": [0.0, 0.5]})["y"]
    assert [line["penalty"] for line in found["ridge_path"]] == [0.0, 0.5]
    for line, ridge in zip(found["ridge_path"], (0.0, 0.5), strict=True):
        alone = effects(tmp_path, config | {"ridge": ridge})["y"]["arm"]
        for arm, effect in line["effects"].items():
            assert effect == pytest.approx(alone[arm]["effect"], rel=1e-8)


def test_few_clusters_and_rare_arms_are_doubted(tmp_path: Path) -> None:
    few = replaced(made_up(), "village", np.arange(600) % 12)
    config = {"data": write(tmp_path, few), "treatment": "arm", "outcomes": "y", "cluster": "village"}
    assert "arm 'call' has 12 clusters" in effects(tmp_path, config)["y"]["doubts"][0]
    assert "doubt: arm 'call' has 12 clusters" in " ".join(run(tmp_path, config).output.split())
    assert effects(tmp_path, config | {"data": write(tmp_path, made_up())})["y"]["doubts"] == []


def panel(*, seed: int = 6) -> pa.Table:
    """60 units in four periods; those treated gain 1 in period 2 and 2 in period 3, and were better by 3 before."""
    rng = np.random.default_rng(seed)
    unit, period = np.repeat(np.arange(60), 4), np.tile(np.arange(4), 60)
    treated = unit % 2
    y = 3.0 * treated + 0.5 * period + treated * np.maximum(period - 1, 0) + rng.normal(size=60)[unit] + 0.3 * rng.normal(size=240)
    return pa.table({"treated": treated, "unit": unit, "period": period, "post": (period >= 2) * 1, "y": y})


def test_a_difference_in_differences_is_the_product_of_arm_and_period_clustered_by_unit(tmp_path: Path) -> None:
    table = panel()
    config = {"data": write(tmp_path, table), "treatment": "treated", "outcomes": "y", "modifiers": "post", "cluster": "unit"}
    (line,) = effects(tmp_path, config)["y"]["interactions"]
    treated, post, unit, y = (table[name].to_numpy().astype(float) for name in ("treated", "post", "unit", "y"))
    means = [[y[(treated == arm) & (post == when)].mean() for when in (0, 1)] for arm in (0, 1)]
    wanted = regression(np.column_stack([np.ones(240), treated, post, treated * post]), y, cluster=unit)
    np.testing.assert_allclose(line["effect"], means[1][1] - means[1][0] - means[0][1] + means[0][0], rtol=1e-8)
    np.testing.assert_allclose(line["standard_error"], np.sqrt(wanted.covariance["cluster"][3, 3]), rtol=1e-8)


def test_effects_over_time_are_products_with_periods_or_segments_by_them(tmp_path: Path) -> None:
    config = {"data": write(tmp_path, panel()), "treatment": "treated", "outcomes": "y", "cluster": "unit"}
    found = effects(tmp_path, config | {"modifiers": "C(period)", "segments": "period"})["y"]
    grown = {line["arm"]: line["effect"] for line in found["interactions"]}
    assert [round(grown[f"1 x C(period)={period}"]) for period in (1, 2, 3)] == [0, 1, 2]
    assert [round(part["effects"][0]["effect"] - found["segments"][0]["effects"][0]["effect"]) for part in found["segments"]] == [
        0,
        0,
        1,
        2,
    ]


def taken(effect: float, *, seed: int = 4) -> pa.Table:
    """Those who would do better anyway take the treatment more often; taking it adds 2."""
    rng = np.random.default_rng(seed)
    n = 3_000
    keen, assigned, age = rng.normal(size=n), rng.integers(0, 2, n), rng.integers(20, 25, n).astype(float)
    took = (keen + effect * assigned > 0.5).astype(float)
    y = np.round(2.0 * took + keen + 0.1 * age + rng.normal(size=n), 1)
    return pa.table({"arm": assigned, "took": took, "y": y, "age": age, "village": rng.integers(0, 60, n)})


def test_the_effect_of_what_was_received_is_two_stage_least_squares_of_the_rows(tmp_path: Path) -> None:
    table = taken(1.5)
    config = {"data": write(tmp_path, table), "treatment": "arm", "outcomes": "y", "received": "took", "covariates": "age"}
    line = effects(tmp_path, config | {"cluster": "village"})["y"]["received"]
    arm, took, y, age, village = (table[name].to_numpy() for name in ("arm", "took", "y", "age", "village"))
    x, z = np.column_stack([np.ones(3_000), took, age]), np.column_stack([np.ones(3_000), arm, age])
    hat = z @ np.linalg.lstsq(z, x, rcond=None)[0]
    b = np.linalg.solve(hat.T @ x, hat.T @ y)
    bread, scores = np.linalg.inv(hat.T @ hat), hat * (y - x @ b)[:, None]
    sums = np.array([scores[village == each].sum(axis=0) for each in range(60)])
    hc1 = np.sqrt((bread @ scores.T @ scores @ bread)[1, 1] * 3_000 / 2_997)
    clustered = np.sqrt((bread @ sums.T @ sums @ bread)[1, 1] * 60 / 59 * 2_999 / 2_997)
    np.testing.assert_allclose((line["effect"], line["standard_error"]), (b[1], clustered), rtol=1e-8)
    np.testing.assert_allclose(line["standard_errors"]["hc1"], hc1, rtol=1e-8)
    # Those who took it differ by about 3.4: the plain comparison is wrong, this one is not.
    assert abs(line["effect"] - 2.0) < 3 * clustered and not line["weak"] and line["first_stage_f"] > 100


def test_without_covariates_it_is_walds_ratio_and_a_weak_first_stage_is_warned_of(tmp_path: Path) -> None:
    table = taken(0.02)
    config = {"data": write(tmp_path, table), "treatment": "arm", "outcomes": ["y", "took"], "received": "took"}
    found = effects(tmp_path, config)
    ratio = found["y"]["arm"]["1"]["effect"] / found["took"]["arm"]["1"]["effect"]
    assert found["y"]["received"]["effect"] == pytest.approx(ratio, rel=1e-8)
    assert found["y"]["received"]["weak"] and "weak instrument" in found["y"]["received"]["warning"]
    assert "weak instrument" in run(tmp_path, config | {"outcomes": "y"}).output


TABLE = made_up().append_column("one", pa.array(np.ones(600)))
ARM = TABLE["arm"].to_numpy()
ONE = np.full(600, "letter")
FRACTIONS = {"weights": {"column": "age", "kind": "frequency"}}
BAD: list[tuple[str, pa.Table, dict[str, Any], list[str]]] = [
    ("one arm", replaced(TABLE, "arm", ONE), {}, ["treatment", "one arm only", "letter"]),
    ("a constant outcome", replaced(TABLE, "y", np.ones(600)), {}, ["outcomes", "'y' is constant (1"]),
    ("an outcome of words", TABLE, {"outcomes": "place"}, ["outcomes", "holds words"]),
    (
        "no overlap of words",
        replaced(TABLE, "place", np.where(ARM == "call", "a", "b")),
        {"covariates": "place"},
        ["no overlap", "'place'"],
    ),
    ("no overlap of numbers", replaced(TABLE, "age", 50.0 * (ARM == "call")), {"covariates": "age"}, ["no overlap", "'age'"]),
    ("a covariate that is the arm", replaced(TABLE, "age", (ARM == "call") * 1.0), {"covariates": "age"}, ["'age'", "call"]),
    ("the treatment as covariate", TABLE, {"covariates": "arm"}, ["covariates", "'arm' is the treatment"]),
    ("a term of the treatment as covariate", TABLE, {"covariates": "C(arm)"}, ["covariates", "'C(arm)' is the treatment"]),
    ("a term of an outcome as modifier", TABLE, {"modifiers": "age:y"}, ["modifiers", "'age:y' is the treatment or an outcome"]),
    ("the outcome of a term as covariate", TABLE, {"outcomes": "y^2", "covariates": "y"}, ["covariates", "'y' is the treatment or an"]),
    (
        "the treatment as outcome",
        replaced(TABLE, "arm", (ARM == "call") * 1.0),
        {"outcomes": "arm"},
        ["outcomes", "'arm' is the treatment"],
    ),
    ("a cluster an arm", TABLE, {"cluster": "arm"}, ["cluster", "each arm is one cluster"]),
    ("an unknown column", TABLE, {"covariates": "agee"}, ["covariates", "did you mean `age`"]),
    ("an unknown key", TABLE, {"outcome": "y"}, ["outcome", "did you mean `outcomes`"]),
    ("an unknown control", TABLE, {"control": "contrl"}, ["control", "did you mean `control`"]),
    ("a logarithm of zero", replaced(TABLE, "age", np.zeros(600)), {"covariates": "log(age)"}, ["log(age) of 0 in row 0"]),
    ("infinity", replaced(TABLE, "y", np.r_[np.inf, np.ones(599)]), {}, ["outcomes", "'y' holds inf in row 0"]),
    ("nothing but missing", replaced(TABLE, "age", np.full(600, np.nan)), {"covariates": "age"}, ["'age'", "no value"]),
    (
        "half a row as frequency",
        replaced(TABLE, "age", np.full(600, 1.5)),
        {"weights": {"column": "age", "kind": "frequency"}},
        ["weights", "whole number"],
    ),
    ("a negative weight", TABLE, {"weights": {"column": "z", "kind": "analytic"}}, ["weights", "weights are >= 0"]),
    (
        "a plain error of sampled rows",
        TABLE,
        {"weights": {"column": "weight", "kind": "probability"}, "errors": "homoskedastic"},
        ["errors"],
    ),
    ("a constant treatment received", TABLE, {"received": "one"}, ["received", "'one' is constant"]),
    (
        "hc3 with weights of probability",
        TABLE,
        {"errors": "hc3", "weights": {"column": "weight", "kind": "probability"}},
        ["errors", "hc3"],
    ),
    (
        "a bootstrap of sampled rows",
        TABLE,
        {"bootstrap": 100, "weights": {"column": "weight", "kind": "analytic"}},
        ["bootstrap", "cluster"],
    ),
    ("a bootstrap of a ridge", TABLE, {"bootstrap": 100, "ridge": 0.1}, ["ridge", "leave"]),
    ("too few draws", TABLE, {"bootstrap": 5}, ["bootstrap"]),
    ("a negative penalty", TABLE, {"ridge_path": [-1.0]}, ["ridge_path", "-1"]),
    ("one cluster", replaced(TABLE, "village", np.ones(600)), {"cluster": "village"}, ["cluster", "one cluster"]),
    ("clustered errors without clusters", TABLE, {"errors": "cluster"}, ["errors", "`cluster`"]),
]


@pytest.mark.parametrize(("table", "more", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_by_column_and_reason(tmp_path: Path, table: pa.Table, more: dict[str, Any], says: list[str]) -> None:
    result = run(tmp_path, {"data": write(tmp_path, table), "treatment": "arm", "outcomes": "y", **more}, "--json")
    assert result.exit_code == 2 and result.stdout == "", result.output
    assert all(word in result.stderr for word in says), result.stderr
