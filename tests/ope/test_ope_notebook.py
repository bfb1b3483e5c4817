"""The five functions of a notebook: Arrow in, Arrow out, and the numbers of the command line."""

import importlib.metadata

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

from ope import estimators, notebook
from ope.errors import RowsError, SourceError
from ope.estimators import CATALOG, entry_of, estimator
from ope.rows import Batch

N, K = 300, 3
RNG = np.random.default_rng(12)
TARGET = RNG.dirichlet(np.ones(K), N)
ACTION = RNG.integers(0, K, N)
ROWS = pl.DataFrame(
    {
        "id": [f"d{k}" for k in range(N)],
        "member": [f"m{k % 80}" for k in range(N)],
        "x": RNG.normal(size=N),
        "action": ACTION,
        "click": RNG.binomial(1, 0.4, N).astype(float),
        "p": np.full(N, 1 / K),
        "pi": TARGET[np.arange(N), ACTION],
        "policy": TARGET.tolist(),
    }
)
COLUMNS = {"reward": "click", "propensity": "p", "target_propensity": "pi", "unit": "member"}


def test_a_model_is_fitted_and_the_policy_evaluated_and_compared_in_arrow() -> None:
    fitted = notebook.fit(
        LinearRegression, ROWS, row_id="id", context=["x"], action="action", reward="click", target="policy", unit="member"
    )
    columns = {**COLUMNS, "q_logged": "q_logged", "v_target": "v_target"}
    value = notebook.evaluate(fitted, columns=columns, interval="likelihood")
    assert value["estimator"].to_pylist() == ["ips", "snips", "dm", "dr", "sndr"]
    assert value["assumption"][0].as_py() == CATALOG["ips"].assumption and value["denominator"][0].as_py() == "decision"
    both = notebook.compare(fitted, columns=columns, estimators=["dr"])
    assert both["part"].to_pylist() == ["challenger", "champion", "difference"]
    assert both["value"][0].as_py() == pytest.approx(value["value"][3].as_py())
    assert both["value"][1].as_py() == pytest.approx(ROWS["click"].mean())
    same = notebook.compare(ROWS, columns=COLUMNS, champion={"target_propensity": "pi"}, estimators=["snips"])
    assert same["value"][2].as_py() == 0.0


def test_weights_are_diagnosed_and_coverage_is_a_table() -> None:
    slots = notebook.diagnose(ROWS, columns=COLUMNS, name="ips")
    weight = ROWS["pi"].to_numpy() * K
    assert slots["largest"][0].as_py() == pytest.approx(weight.max()) and slots["mean"][0].as_py() == pytest.approx(weight.mean())
    assert notebook.coverage(["near"], estimators=["ips"], replications=3).num_rows == 4


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match="no column 'clik'"):
        notebook.evaluate(ROWS, columns={**COLUMNS, "reward": "clik"})


def test_another_package_adds_an_estimator_through_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "half_ips"

        def load(self) -> object:
            return entry_of("half_ips", lambda batch: CATALOG["ips"].terms(Batch(batch.reward / 2, batch.weight)), assumption="none")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()] if group == estimators.ENTRY_POINTS else [])
    estimators._entry_points.cache_clear()
    found = notebook.evaluate(ROWS, columns=COLUMNS, estimators=["half_ips", "ips"])["value"].to_pylist()
    assert found[0] == pytest.approx(found[1] / 2)
    monkeypatch.undo()
    estimators._entry_points.cache_clear()
    with pytest.raises(RowsError, match="'half_ips' is unknown"):
        estimator("half_ips")
