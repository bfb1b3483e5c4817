"""What would be if everybody had an arm: a model averaged over any grid, and arms against each other, with delta-method errors. Pure.

mu(a) = sum_i v_i x_i(a)' b / sum_i v_i     x_i(a) the row i of the grid under do(T = a), v_i its weight
mu(a) - mu(a') = c'b,  with the error sqrt(c' V c)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bandits.effects.estimate import Fitted
from bandits.effects.experiment import Experiment
from bandits.effects.fit import ErrorKind, Fit
from bandits.errors import ExperimentError
from protos import config

__all__ = ["Effect", "Model", "effects", "model_of"]

Grid = Mapping[str, np.ndarray]


class Model(NamedTuple):
    """A regression that says what would be.

    `arms` by name, the control among them; `levels` of covariates that are factors; `centre` of the columns that are multiplied with arms;
    `grid` the covariates of its own cells, words for factors, with `weight` f64[C]; `absorbed` a factor that has no coefficients, or None.
    """

    fit: Fit
    arms: tuple[str, ...]
    levels: Mapping[str, Sequence[str]]
    centre: Mapping[str, float]
    grid: Grid
    weight: np.ndarray
    absorbed: str | None


class Effect(NamedTuple):
    """The mean under `arm`, or what it is more than under `over`; `level` of the column that was asked for, None = over the whole grid."""

    arm: str
    over: str | None
    level: str | float | None
    value: float
    error: float
    interval: tuple[float, float]


def model_of(experiment: Experiment, found: Fitted) -> Model:
    """The model of a regression by `estimate.fitted`."""
    named = {**experiment.covariates, **experiment.modifiers}
    levels = {name: each.levels for name, each in named.items() if each.levels is not None}
    own = {name: found.cells.columns[name] for name in named}
    names, present = experiment.arms.levels or (), np.unique(found.cells.columns[""])
    return Model(
        fit=found.fit,
        arms=tuple(names[code] for code in present),
        levels=levels,
        centre=dict(zip(found.fit.names, found.columns_mean.tolist(), strict=True)),
        grid={name: np.array(levels[name], object)[values] if name in levels else values for name, values in own.items()},
        weight=next(iter(found.cells.sums.values())).weight,
        absorbed=found.absorbed,
    )


def effects(
    model: Model,
    contrasts: Sequence[str | tuple[str, str]],
    by: str | None = None,
    *,
    grid: Grid | None = None,
    weight: np.ndarray | None = None,
    kind: ErrorKind = "hc1",
    level: float = 0.95,
) -> list[Effect]:
    """Means under arms, and differences between them, averaged over a grid of covariates, for each value of the column `by`.

    `contrasts`: "a" is the mean under a, ("a", "b") what a is more than b. `grid`: by name of a covariate its values [m], words for
    factors; None = the rows that the model was fitted on, by their weights. `weight` f64[m] of a grid, None = all alike.
    Raises ExperimentError for an arm, a column or a level that the model does not know.
    """
    over = model.grid if grid is None else {name: np.asarray(values) for name, values in grid.items()}
    sizes = {len(values) for values in over.values()}
    if len(sizes) > 1 or 0 in sizes:
        raise ExperimentError(f"grid: columns of {sorted(sizes)} rows; give each as many, and at least one")
    weights = model.weight if grid is None else np.ones(max(sizes, default=1)) if weight is None else np.asarray(weight, np.float64)
    if any(len(values) != len(weights) for values in over.values()):
        raise ExperimentError(f"weight: {len(weights)} weights for the {sizes.pop()} rows of the grid; give one a row")
    if by is not None and by not in over:
        raise ExperimentError(f"by: {by!r} is no column of the grid; {config.nearest(by, list(over))}")
    parts = [(None, np.ones(len(weights), bool))] if by is None else [(each, over[by] == each) for each in np.unique(over[by]).tolist()]
    return [
        _effect(model, contrast, told, {arm: _mean_row(model, arm, over, weights * chosen) for arm in _pair(contrast)}, kind, level)
        for contrast in contrasts
        for told, chosen in parts
    ]


def _pair(contrast: str | tuple[str, str]) -> tuple[str, ...]:
    return (contrast,) if isinstance(contrast, str) else contrast


def _effect(
    model: Model, contrast: str | tuple[str, str], told: str | float | None, rows: Mapping[str, np.ndarray], kind: ErrorKind, level: float
) -> Effect:
    arm, *others = _pair(contrast)
    if not others and model.absorbed is not None:
        raise ExperimentError(f"contrasts: the levels of {model.absorbed!r} have no coefficients, so no means; ask for pairs of arms")
    weights = rows[arm] - rows[others[0]] if others else rows[arm]
    value, error = model.fit.combined(weights, kind)
    return Effect(arm, others[0] if others else None, told, value, error, model.fit.interval(value, error, kind, level=level))


def _mean_row(model: Model, arm: str, grid: Grid, weight: np.ndarray) -> np.ndarray:
    """The weighted mean of the model's columns in raw units, f64[p], if all rows had the arm."""
    if arm not in model.arms:
        raise ExperimentError(f"contrasts: {arm!r} is no arm of the model; {config.nearest(arm, model.arms)}")
    if not weight.sum() > 0.0:
        raise ExperimentError("weight: sums to zero over a part of the grid; give weights >= 0, some of them positive")
    known = {"intercept": 1.0, **{each: float(each == arm) for each in model.arms}, **_means(model, grid, weight)}
    return np.array([_value(model, name, arm, known) for name in model.fit.names])


def _value(model: Model, name: str, arm: str, known: Mapping[str, float]) -> float:
    if name in known:
        return known[name]
    for other in model.arms:
        column = name.removeprefix(f"{other} x ")
        if column != name and column in known:
            # Products are with centred columns, so that the arm's own coefficient is the effect at the mean.
            return float(other == arm) * (known[column] - model.centre[column])
    raise ExperimentError(f"grid: the model has a column {name!r} of which the grid says nothing; give all of {list(model.grid)}")


def _means(model: Model, grid: Grid, weight: np.ndarray) -> dict[str, float]:
    return dict(mean for name, values in grid.items() for mean in _means_of(name, values, model.levels.get(name), weight))


def _means_of(name: str, values: np.ndarray, levels: Sequence[str] | None, weight: np.ndarray) -> Iterator[tuple[str, float]]:
    if levels is None:
        yield name, float(np.average(values.astype(np.float64), weights=weight))
        return
    strange = sorted({str(each) for each in values} - set(levels))
    if strange:
        raise ExperimentError(f"grid: {strange[0]!r} is no level of {name!r}; {config.nearest(strange[0], levels)}")
    for each in levels:
        yield f"{name}={each}", float(np.average(values == each, weights=weight))
