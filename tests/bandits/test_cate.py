"""Effects by covariates: right to their own errors, and intervals that hold as often as they say."""

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
from bandits.effects.config import CateSection, EffectsFile
from bandits.effects.report import effects_report
from bandits.errors import ExperimentError
from bandits.personalise.cate import cate, lines, splines
from bandits.personalise.cate_report import cate_report
from bandits.personalise.learners import Ridge, Rows, s_learner, t_learner
from tests.bandits.experiments import real

POINTS = np.array([[0.0, 0.0], [1.0, -1.0], [-1.5, 0.5]])


def experiment(n: int, seed: int) -> Rows:
    """Effects 0.5 + x0 and 1 - x1 of two arms, whose probabilities depend on x0; noise that grows with x1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    p = np.where(x[:, :1] > 0, [0.5, 0.25, 0.25], [0.2, 0.4, 0.4])
    arm = (rng.random(n)[:, None] > np.cumsum(p, axis=1)).sum(axis=1)
    truth = np.stack([np.zeros(n), 0.5 + x[:, 0], 1.0 - x[:, 1]], axis=1) + np.sin(2 * x[:, :1])
    y = truth[np.arange(n), arm] + rng.normal(size=n) * (1.0 + 0.5 * np.abs(x[:, 1]))
    return Rows(x, y, arm, p[np.arange(n), arm], 3)


TRUTH = np.stack([0.5 + POINTS[:, 0], 1.0 - POINTS[:, 1]], axis=1)


def test_effects_are_right_to_five_of_their_errors_even_with_a_poor_outcome_model() -> None:
    """Fixed key; 12 comparisons at 5 standard errors: false alarm 7e-6. An unweighted comparison of arms would be off by 10 of them."""
    for outcome in (t_learner(Ridge), s_learner(Ridge)):
        values, errors = cate(experiment(20_000, 0), outcome=outcome, basis=lines).effects(POINTS)
        assert np.all(np.abs(values - TRUTH) < 5 * errors) and np.all(errors < 0.15)


def test_the_average_effect_is_the_mean_of_the_effects_and_a_splines_bend_is_found() -> None:
    rows = experiment(8_000, 1)
    found = cate(rows, outcome=t_learner(Ridge), basis=splines([[0.0], []]))
    assert found.fits[0].coefficient.shape == (4,)
    value, error = found.average(rows.x)
    np.testing.assert_allclose(value, found.effects(rows.x)[0].mean(axis=0), rtol=1e-9)
    assert np.all(np.abs(value - [0.5, 1.0]) < 5 * error)
    bent = rows._replace(y=rows.y + (rows.arm == 1) * 3.0 * np.maximum(rows.x[:, 0], 0.0))
    coefficient = cate(bent, outcome=t_learner(Ridge), basis=splines([[0.0], []])).fits[0].coefficient
    assert coefficient[2] == pytest.approx(3.0, abs=0.5)


def test_a_basis_that_repeats_itself_is_refused() -> None:
    with pytest.raises(ExperimentError, match="column 2 is collinear"):
        cate(experiment(300, 0), outcome=t_learner(Ridge), basis=lambda x: np.column_stack([x, x[:, 0] + x[:, 1]]))


# EconML 0.17.0, LinearDRLearner(LinearRegression, DummyClassifier("prior"), cv=3, random_state=0) on visits: 0.07613 (0.00334) and
# 0.04547 (0.00319). Folds differ, so the third digit of an error may.
def test_average_effects_of_the_e_mails_are_those_of_econml(tmp_path: Path) -> None:
    covariates = ["recency", "log(history)", "mens", "womens", "newbie", "zip_code", "channel"]
    config = {
        "data": str(real("hillstrom.csv.gz")), "treatment": "segment", "control": "No E-Mail", "outcomes": "visit",
        "covariates": covariates, "cate": {"columns": ["recency", "mens", "womens", "newbie"]},
    }  # fmt: skip
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(config))
    result = typer.testing.CliRunner().invoke(app, ["effects", str(tmp_path / "e.yaml"), "--json"])
    assert result.exit_code == 0, result.output
    arms = json.loads(result.stdout)["outcomes"][0]["cate"]["arms"]
    for arm, (name, effect, error) in zip(arms, (("Mens E-Mail", 0.07613, 0.00334), ("Womens E-Mail", 0.04547, 0.00319)), strict=True):
        assert arm["arm"] == name and arm["average"]["effect"] == pytest.approx(effect, abs=0.1 * error)
        assert arm["average"]["standard_error"] == pytest.approx(error, rel=0.01)


def test_the_command_says_effects_by_covariates_and_writes_those_of_each_row(tmp_path: Path) -> None:
    """Beside a plain regression of the scores' known form: with two arms alike in size and a straight line, slopes within five errors."""
    rows = experiment(4_000, 3)
    p = np.where(rows.x[:, 0] > 0, 0.5, 0.2)
    arm = (np.random.default_rng(4).random(4_000) < p) * 1
    y = (0.5 + rows.x[:, 0]) * arm + rows.x[:, 1] + np.random.default_rng(5).normal(size=4_000)
    sex = np.where(rows.x[:, 1] > 0, "f", "m")
    pyarrow.csv.write_csv(
        pa.table({"t": arm, "x": rows.x[:, 0], "sex": sex, "y": y, "p": p, "g": np.arange(4_000) // 2}), tmp_path / "d.csv"
    )
    config = {
        "data": "d.csv", "treatment": "t", "outcomes": "y", "covariates": ["x", "sex"], "cluster": "g",
        "cate": {"columns": ["x", "sex"], "knots": 1, "propensities": {1: "p"}},
    }  # fmt: skip
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(config))
    asked = ["effects", str(tmp_path / "e.yaml"), "--json", "--units", str(tmp_path / "units.parquet")]
    result = typer.testing.CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["outcomes"][0]["cate"]
    assert found["errors"] == "cluster" and found["assignment"]["kind"] == "known" and found["doubts"] == []
    named = {line["column"]: line for line in found["arms"][0]["coefficients"]}
    knot = next(name for name in named if name.startswith("max(x"))
    for name, truth in (("x", 1.0), (knot, 0.0), ("sex=m", 0.0)):
        assert abs(named[name]["effect"] - truth) < 5 * named[name]["standard_error"]
    units = pyarrow.parquet.read_table(tmp_path / "units.parquet")
    np.testing.assert_array_equal(units["row"].to_numpy(), np.arange(4_000))
    off = (units["effect"].to_numpy() - (0.5 + rows.x[:, 0])) / units["standard_error"].to_numpy()
    assert np.all(np.abs(off) < 5.0) and 0.5 < off.std() < 2.0
    assert np.mean(units["effect"].to_numpy()) == pytest.approx(found["arms"][0]["average"]["effect"])
    shown = typer.testing.CliRunner().invoke(app, ["effects", str(tmp_path / "e.yaml")]).output
    assert "effect of 1 at sex = f" in shown


CATE = {"columns": ["x"]}
BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"cate": {"columns": []}}, ["cate.columns", "none is named"]),
    ({"cate": {"columns": ["one"]}}, ["'one'", "varies"]),
    ({"cate": {"columns": ["id"]}}, ["'id'", "leave"]),
    ({"cate": CATE, "weights": {"column": "x", "kind": "analytic"}}, ["weights"]),
    ({"cate": CATE | {"propensities": {"1": 2.0}}}, ["propensities", "no probability"]),
    ({"cate": CATE | {"knots": 11}}, ["cate.knots"]),
]


@pytest.mark.parametrize(("more", "says"), BAD)
def test_what_says_nothing_of_effects_is_refused_by_name(tmp_path: Path, more: dict[str, Any], says: list[str]) -> None:
    x = np.abs(np.random.default_rng(0).normal(size=200))
    table = pa.table({"t": np.arange(200) % 2, "x": x, "one": np.ones(200), "id": [f"u{each}" for each in range(200)], "y": x})
    pyarrow.csv.write_csv(table, tmp_path / "d.csv")
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"data": "d.csv", "treatment": "t", "outcomes": "y", **more}))
    result = typer.testing.CliRunner().invoke(app, ["effects", str(tmp_path / "e.yaml"), "--json"])
    assert result.exit_code == 2 and all(word in result.stderr for word in says), result.output


@pytest.mark.slow
def test_the_commands_intervals_hold_in_93_to_97_percent_of_a_thousand_runs_and_too_small_ones_are_seen() -> None:
    """Average, segments, and effects at points of a line, by the report that the command prints; at a true 95 % each of six misses the
    band with probability 3e-3, by fixed seeds. Clusters that are not said make intervals of about 80 %, and are seen to."""
    held, unsaid = np.zeros(6), 0
    for seed in range(1_000):
        table, truth = clustered_experiment(seed)
        file = EffectsFile(
            data="", treatment="t", outcomes=("y",), covariates=("x",), segments=("kind",), cluster="g", cate=CateSection(columns=("x",))
        )
        (outcome,) = effects_report(table, file)["outcomes"]
        lines, _ = cate_report(table, file)
        parts = [outcome["effects"][0], *(part["effects"][0] for part in outcome["segments"])]
        arm = lines["y"]["arms"][0]
        parts += [arm["average"], *(next(line for line in arm["coefficients"] if line["column"] == name) for name in ("at zero", "x"))]
        held += [part["interval"][0] <= true <= part["interval"][1] for part, true in zip(parts, truth, strict=True)]
        plain = outcome["effects"][0]
        unsaid += abs(plain["effect"] - truth[0]) <= 1.96 * plain["standard_errors"]["hc1"]
    assert np.all((held / 1_000 > 0.93) & (held / 1_000 < 0.97)), held / 1_000
    assert unsaid / 1_000 < 0.9


def clustered_experiment(seed: int) -> tuple[pa.Table, list[float]]:
    """150 clusters of four, treated as one; the effect is 1 + 0.5 x. Truths of: all, two kinds, average, at zero, slope."""
    rng = np.random.default_rng(10_000 + seed)
    g = np.repeat(np.arange(150), 4)
    t, x = rng.integers(0, 2, 150)[g], rng.normal(size=600)
    kind = np.where(rng.random(600) < 0.5, "a", "b")
    y = (1.0 + 0.5 * x) * t + x + rng.normal(size=150)[g] + rng.normal(size=600)
    return pa.table({"t": t, "x": x, "kind": kind, "g": g, "y": y}), [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]


@pytest.mark.slow
def test_intervals_at_95_percent_hold_in_93_to_97_percent_of_a_thousand_runs() -> None:
    """Average effects and effects at three points; at a true 95 % a coverage leaves 93..97 % with probability 3e-3 each, by seed fixed."""
    held = np.zeros((4, 2))
    for seed in range(1_000):
        rows = experiment(1_000, 1_000 + seed)
        found = cate(rows, outcome=t_learner(Ridge), basis=lines)
        for place, (values, errors, truth) in enumerate([(*found.effects(POINTS), TRUTH), (*found.average(np.zeros((1, 2))), [0.5, 1.0])]):
            inside = np.abs(values - truth) <= 1.96 * errors
            held[:3] += inside if place == 0 else 0
            held[3] += inside if place == 1 else 0
    assert np.all((held / 1_000 > 0.93) & (held / 1_000 < 0.97)), held / 1_000
