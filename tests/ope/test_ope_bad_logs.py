"""Logs that are wrong: each is refused or comes with its warning; none yields a bare number."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from ope.cross_fit import Predictions, aligned, cross_fit, folds_of_units, mrdr_weights
from ope.errors import RowsError, SourceError
from ope.evaluate import evaluate
from ope.parquet_log import ColumnMapping, read_batches
from ope.rows import single_actions

RNG = np.random.default_rng(20261124)
N, K = 4_000, 5
LOGGED = RNG.dirichlet(np.full(K, 5.0), N)
TARGET = RNG.dirichlet(np.full(K, 5.0), N)
ACTION = (LOGGED.cumsum(axis=1) < RNG.random((N, 1))).sum(axis=1)
CONTEXT = RNG.normal(size=(N, 3))
REWARD = (RNG.random(N) < 0.2 + 0.1 * (ACTION == 0)).astype(float)
AT = np.arange(N)
IDS = RNG.permutation(N).astype(np.uint64)


def written(folder: Path, **changes: np.ndarray) -> Path:
    columns = {"r": REWARD, "p": LOGGED[AT, ACTION], "t": TARGET[AT, ACTION], **changes}
    pl.DataFrame(columns).write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def reasons(log: Path, name: str = "snips") -> str:
    found = evaluate(read_batches(log, ColumnMapping("r", propensity="p", target_propensity="t")), names=[name])[name]
    return " ".join(found.reasons)


def test_a_good_log_has_no_reason_for_doubt(tmp_path: Path) -> None:
    assert reasons(written(tmp_path)) == ""


def test_halved_propensities_are_doubted(tmp_path: Path) -> None:
    assert "standard errors from 1: propensities or support fail" in reasons(written(tmp_path, p=LOGGED[AT, ACTION] / 2))


@pytest.mark.parametrize("bad", [math.nan, 1.5, -0.1, math.inf])
@pytest.mark.parametrize("column", ["p", "t"])
def test_what_is_no_propensity_is_refused_by_column_and_row(tmp_path: Path, column: str, bad: float) -> None:
    values = {"p": LOGGED, "t": TARGET}[column][AT, ACTION].copy()
    values[17] = bad
    with pytest.raises(SourceError, match=f"column '{column}': {bad} in row 17"):
        reasons(written(tmp_path, **{column: values}))


def test_a_propensity_of_zero_is_refused(tmp_path: Path) -> None:
    values = LOGGED[AT, ACTION].copy()
    values[3] = 0.0
    with pytest.raises(RowsError, match="logged propensity of row 3"):
        reasons(written(tmp_path, p=values))


def test_a_target_that_was_never_logged_has_no_value(tmp_path: Path) -> None:
    log = written(tmp_path, t=np.zeros(N))
    found = evaluate(read_batches(log, ColumnMapping("r", propensity="p", target_propensity="t")))
    assert all(math.isnan(each.value) and "never takes a logged action" in each.reasons[0] for each in found.values())


def test_rows_chosen_by_having_a_reward_are_doubted(tmp_path: Path) -> None:
    log = written(tmp_path)
    pl.read_parquet(log).filter(pl.col("r") > 0).write_parquet(log)
    assert "every row has a reward above 0" in reasons(log)


def fitted(**changes: object) -> Predictions:
    given = {"features": CONTEXT, "action": ACTION, "reward": REWARD, "target": TARGET, "row_id": IDS, **changes}
    return cross_fit(LinearRegression, **given)


def test_predictions_are_joined_by_the_identity_of_their_rows() -> None:
    found = fitted()
    order = RNG.permutation(N)
    np.testing.assert_array_equal(aligned(found, IDS[order]).q_logged, found.q_logged[order])


def test_predictions_from_another_split_are_refused() -> None:
    found = fitted()
    half = Predictions(*(column[: N // 2] for column in found))
    with pytest.raises(RowsError, match=rf"row {N // 2} .* of another split"):
        aligned(half, IDS)
    with pytest.raises(RowsError, match="row_id: an id stands twice"):
        fitted(row_id=np.zeros(N, np.uint64))


def test_no_row_is_predicted_by_a_model_that_saw_its_unit() -> None:
    # Each unit's reward is its own: a model that saw the unit would know it, one that did not cannot.
    unit = (np.arange(N) // 4).astype(np.uint64)
    seen: list[set[int]] = []

    class Remembers:
        def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: object = None) -> None:
            seen.append(set(X[:, 0].astype(int)))

        def predict(self, X: np.ndarray) -> np.ndarray:
            assert not seen[-1] & set(X[:, 0].astype(int))
            return np.zeros(len(X))

    found = cross_fit(Remembers, features=unit[:, None].astype(float), action=ACTION, reward=REWARD, target=TARGET, row_id=IDS, unit=unit)
    assert len(seen) == 3 and (found.fold == folds_of_units(unit, folds=3)).all()
    assert np.bincount(found.fold).min() > 0.25 * N
    with pytest.raises(RowsError, match="all rows are in fold"):
        cross_fit(Remembers, features=CONTEXT, action=ACTION, reward=REWARD, target=TARGET, row_id=IDS, unit=np.zeros(N, np.uint64))


def test_a_classifier_is_asked_for_its_chance_and_mrdr_weighs_what_matters_to_dr() -> None:
    weight = mrdr_weights(target=TARGET[AT, ACTION], logged=LOGGED[AT, ACTION])
    plain, weighed = (
        cross_fit(LogisticRegression, features=CONTEXT, action=ACTION, reward=REWARD, target=TARGET, row_id=IDS, weight=given)
        for given in (None, weight)
    )
    assert ((plain.q_logged > 0) & (plain.q_logged < 1)).all() and not np.allclose(plain.q_logged, weighed.q_logged)
    for found in (plain, weighed):
        batch = single_actions(
            reward=REWARD, weight=TARGET[AT, ACTION] / LOGGED[AT, ACTION], q_logged=found.q_logged, v_target=found.v_target
        )
        estimate = evaluate([batch], names=["dr"])["dr"]
        # The truth is the mean of 0.2 + 0.1 target(0); four standard errors.
        assert estimate.value == pytest.approx((0.2 + 0.1 * TARGET[:, 0]).mean(), abs=4 * estimate.standard_error)
    assert mrdr_weights(target=np.ones(1), logged=np.ones(1)) == 0.0
