"""What a model says would be under each arm, over any grid: as explicit rows of the design and their covariance say it."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from bandits.effects.config import EffectsFile
from bandits.effects.counterfactual import Model, effects, model_of
from bandits.effects.estimate import compressed, fitted
from bandits.effects.experiment import experiment_of
from bandits.effects.report import effects_report
from bandits.errors import ExperimentError
from tests.bandits.effects_reference import regression
from tests.bandits.experiments import made_up

FILE = EffectsFile(data="", treatment="arm", control="control", outcomes=("y",), covariates=("age", "place"), modifiers=("age",))
TABLE = made_up()
ARM, AGE, PLACE, Y = (TABLE[name].to_numpy() for name in ("arm", "age", "place", "y"))


def model(table: pa.Table = TABLE, file: EffectsFile = FILE) -> Model:
    experiment = experiment_of(table, file)
    ((cells, _, names),) = compressed(experiment, file)
    return model_of(experiment, fitted(experiment, file, cells, names)["y"])


def design(arm: str | np.ndarray, age: np.ndarray, place: np.ndarray) -> np.ndarray:
    arm = np.full(len(age), arm) if isinstance(arm, str) else arm
    call, letter, old = arm == "call", arm == "letter", age - AGE.mean()
    return np.column_stack(
        [np.ones(len(age)), call, letter, old, call * old, letter * old, place == "farm", place == "town"],
    ).astype(float)


def test_means_and_contrasts_over_a_grid_are_those_of_its_rows_with_delta_method_errors() -> None:
    grid = {"age": np.array([20.0, 20.0, 50.0, 80.0]), "place": np.array(["farm", "town", "farm", "city"], object)}
    weight, wanted = np.array([1.0, 2.0, 3.0, 0.5]), regression(design(ARM, AGE, PLACE), Y)
    assert set(grid["place"]) == set(np.unique(PLACE))
    found = effects(model(), ["control", "call", ("letter", "call")], by="place", grid=grid, weight=weight)
    assert [(each.arm, each.over, each.level) for each in found[-3:]] == [("letter", "call", place) for place in ("city", "farm", "town")]
    for each in found:
        part = (grid["place"] == each.level) * weight
        row = np.average(design(each.arm, grid["age"], grid["place"]), axis=0, weights=part)
        if each.over:
            row -= np.average(design(each.over, grid["age"], grid["place"]), axis=0, weights=part)
        error = np.sqrt(row @ wanted.covariance["hc1"] @ row)
        np.testing.assert_allclose((each.value, each.error), (row @ wanted.coefficient, error), rtol=1e-8)


def test_over_its_own_rows_a_model_says_what_the_report_says() -> None:
    (told,) = effects_report(TABLE, FILE)["outcomes"]
    means = effects(model(), ["control", "call", "letter"])
    np.testing.assert_allclose(
        [(each.value, each.error, *each.interval) for each in means],
        [(line["mean"], line["standard_error"], *line["interval"]) for line in told["means"]],
    )
    pairs = effects(model(), [("call", "control"), ("letter", "control")])
    np.testing.assert_allclose(
        [(each.value, each.error) for each in pairs], [(line["effect"], line["standard_error"]) for line in told["effects"]]
    )


def many_levels() -> Model:
    table = TABLE.append_column("shop", pa.array([f"s{at % 290}" for at in range(len(Y))]))
    return model(table, FILE.model_copy(update={"covariates": ("age", "shop")}))


def test_within_many_levels_there_are_contrasts_and_no_means() -> None:
    (pair,) = effects(many_levels(), [("call", "control")])
    assert pair.error > 0.0
    with pytest.raises(ExperimentError, match="'shop' have no coefficients"):
        effects(many_levels(), ["call"])


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: effects(model(), ["mail"]), "'mail' is no arm"),
    (lambda: effects(model(), ["call"], by="town"), "by: 'town' is no column"),
    (lambda: effects(model(), ["call"], grid={"age": np.ones(2)}), "of which the grid says nothing"),
    (lambda: effects(model(), ["call"], grid={"age": np.ones(2), "place": np.array(["town"])}), r"columns of \[1, 2\] rows"),
    (lambda: effects(model(), ["call"], grid={"age": np.ones(1), "place": np.array(["moon"])}), "'moon' is no level of 'place'"),
    (lambda: effects(model(), ["call"], grid={"age": np.ones(1), "place": np.array(["town"])}, weight=np.zeros(1)), "sums to zero"),
    (
        lambda: effects(model(), ["call"], grid={"age": np.ones(1), "place": np.array(["town"])}, weight=np.ones(2)),
        "2 weights for the 1 rows",
    ),
]


@pytest.mark.parametrize(("ask", "says"), BAD, ids=[says for _, says in BAD])
def test_what_a_model_does_not_know_is_named(ask: Callable[[], object], says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        ask()
