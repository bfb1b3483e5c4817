"""A factor of many levels is taken out instead of expanded, and parts of a table are merged: both as if neither had been done."""

import numpy as np
import pyarrow as pa
import pytest

from bandits.effects import estimate
from bandits.effects.cells import Cells, compress
from bandits.effects.config import EffectsFile
from bandits.effects.design import arms_part, assembled, intercept, number_part
from bandits.effects.fit import fit, normal
from bandits.effects.merging import merged_all
from bandits.effects.report import effects_report
from bandits.errors import ExperimentError
from tests.bandits.effects_reference import regression

RNG = np.random.default_rng(0)
N, LEVELS = 4_000, 300
SHOP, ARM, AGE = RNG.integers(0, LEVELS, N), RNG.integers(0, 3, N), RNG.integers(20, 70, N).astype(float)
Y = 0.5 * (ARM == 1) + 0.01 * AGE + RNG.normal(size=LEVELS)[SHOP] + RNG.normal(size=N) * (1 + (ARM == 2))
CLUSTER = SHOP // 3
TABLE = pa.table({
    "arm": ARM, "shop": [f"s{shop}" for shop in SHOP], "age": AGE, "y": Y, "cluster": CLUSTER, "w": RNG.integers(1, 4, N).astype(float),
    "kind": [f"k{shop % 3}" for shop in SHOP],
})  # fmt: skip
FILE = EffectsFile(data="", treatment="arm", outcomes=("y",), covariates=("age", "shop"), cluster="cluster")


def reference(weight: np.ndarray | None = None, kind: str = "frequency") -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The regression with an indicator for each shop: coefficients of the arms and of age, and errors by kind."""
    levels = (np.unique(SHOP)[1:] == SHOP[:, None]).astype(float)
    x = np.column_stack([np.ones(N), ARM == 1, ARM == 2, AGE, levels]).astype(float)
    given = {} if weight is None else {"weight": weight, "kind": kind}
    found = regression(x, Y, cluster=CLUSTER, **given)
    return found.coefficient[1:4], {name: np.sqrt(np.diag(each))[1:4] for name, each in found.covariance.items()}


def lines(file: EffectsFile) -> dict[str, dict[str, object]]:
    (outcome,) = effects_report(TABLE, file)["outcomes"]
    assert outcome["absorbed"] == {"column": "shop", "levels": LEVELS}
    return {line["arm"]: line for line in (*outcome["effects"], *outcome["coefficients"])}


@pytest.mark.parametrize("kind", [None, "frequency", "analytic"])
def test_effects_within_levels_are_those_of_a_column_for_each_level(kind: str | None) -> None:
    weights = None if kind is None else {"column": "w", "kind": kind}
    found = lines(FILE.model_validate({**FILE.model_dump(exclude={"weights"}), "weights": weights}))
    wanted, errors = reference(*([] if kind is None else [TABLE["w"].to_numpy(), kind]))
    for at, name in enumerate(("1", "2", "age")):
        np.testing.assert_allclose(found[name]["effect"], wanted[at], rtol=1e-8)
        for each in ("homoskedastic", "hc1", "cluster"):
            np.testing.assert_allclose(found[name]["standard_errors"][each], errors[each][at], rtol=1e-8)


def test_means_within_levels_are_predictions_averaged_over_all_rows() -> None:
    (outcome,) = effects_report(TABLE, FILE)["outcomes"]
    levels = (np.unique(SHOP)[1:] == SHOP[:, None]).astype(float)

    def design(arm: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(N), arm == 1, arm == 2, AGE, levels]).astype(float)

    wanted = regression(design(ARM), Y, cluster=CLUSTER)
    for arm, line in enumerate(outcome["means"]):
        mean = design(np.full(N, arm)).mean(axis=0)
        error = np.sqrt(mean @ wanted.covariance["cluster"] @ mean)
        np.testing.assert_allclose((line["mean"], line["standard_error"]), (mean @ wanted.coefficient, error), rtol=1e-7)


def test_what_does_not_vary_within_levels_is_left_out_by_name_and_arms_that_do_not_are_refused() -> None:
    (outcome,) = effects_report(TABLE, FILE.model_copy(update={"covariates": ("shop", "kind")}))["outcomes"]
    assert [each["column"] for each in outcome["dropped_columns"]] == ["kind=k1", "kind=k2"]
    assert outcome["dropped_columns"][0] == {"column": "kind=k1", "because": "constant within levels", "of": ["shop"]}
    by_shop = TABLE.set_column(0, "arm", pa.array(SHOP % 2))
    with pytest.raises(ExperimentError, match="no overlap"):
        effects_report(by_shop, FILE.model_copy(update={"covariates": ("shop",)}))
    with pytest.raises(ExperimentError, match="taken out of the regression"):
        effects_report(TABLE, FILE.model_copy(update={"bootstrap": 100}))


def test_factors_that_would_make_too_many_columns_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_MOST_COLUMNS", 200)
    both = TABLE.append_column("other", TABLE["shop"])
    with pytest.raises(ExperimentError, match="one factor may have any number of levels"):
        effects_report(both, FILE.model_copy(update={"covariates": ("shop", "other")}))


def sorted_sums(cells: Cells) -> np.ndarray:
    """Everything that cells hold, in the order of their columns."""
    order = np.lexsort(tuple(cells.columns.values()))
    parts = [cells.rows, *cells.sums["y"], *cells.squared["y"]]
    return np.stack([*cells.columns.values(), *parts])[:, order]


@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_a_table_merge_to_the_cells_of_all_rows(weighted: bool) -> None:
    columns = {"arm": ARM, "age": AGE}
    weight = TABLE["w"].to_numpy() if weighted else None

    def part(rows: slice) -> Cells:
        some = {name: values[rows] for name, values in columns.items()}
        return compress(some, {"y": 1e6 + Y[rows]}, weight=None if weight is None else weight[rows], cluster=CLUSTER[rows])

    whole, parts = part(slice(None)), [part(slice(start, start + 700)) for start in range(0, N, 700)]
    found = merged_all(parts)
    np.testing.assert_allclose(sorted_sums(found), sorted_sums(whole), rtol=1e-9)
    np.testing.assert_allclose(clustered_errors(found), clustered_errors(whole), rtol=1e-9)


def clustered_errors(cells: Cells) -> np.ndarray:
    weight = cells.sums["y"].weight
    age = number_part("age", cells.columns["age"], weight)
    equations = normal(assembled([intercept(cells.size), arms_part(cells.columns["arm"], ("0", "1", "2"), control=0), age]), weight)
    return fit(equations, cells, "y", errors=["cluster"]).error("cluster")
