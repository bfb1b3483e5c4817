"""Effects by covariates of a user's table: `cate` of the file of `bandits effects`. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bandits.effects.columns import column
from bandits.effects.config import CateSection, EffectsFile
from bandits.effects.fit import Fit
from bandits.effects.plain import Column
from bandits.effects.sample import control_of
from bandits.errors import ExperimentError
from bandits.personalise.cate import Cate, cate
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.experiment import Logged, logged
from bandits.personalise.learners import Ridge, Rows, t_learner

__all__ = ["Terms", "UnitEffects", "cate_report", "terms_of"]

# Where effects by a number are shown.
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# A factor of more levels is no line of a table.
_MOST_LEVELS = 50


class UnitEffects(NamedTuple):
    """Of one outcome: `row` i64[m] of the table, `arms` without the control, effects and standard errors f64[m, K - 1]."""

    outcome: str
    row: np.ndarray
    arms: tuple[str, ...]
    effect: np.ndarray
    error: np.ndarray


class Terms(NamedTuple):
    """Columns of a basis: `names` [p]; the column of the table that each comes from; and its knot or level (None = the number itself)."""

    names: tuple[str, ...]
    source: tuple[str, ...]
    part: tuple[float | int | None, ...]

    def matrix(self, columns: Mapping[str, Column]) -> np.ndarray:
        """f64[n, p]."""
        return np.column_stack([_values(columns[source], part) for source, part in zip(self.source, self.part, strict=True)])


def terms_of(columns: Mapping[str, Column], *, knots: int) -> Terms:
    """Numbers as lines that bend at `knots` quantiles, factors as indicators less the first level that occurs.

    Raises ExperimentError for a column that does not vary, or a factor of more than 50 levels.
    """
    found = [(term, name, part) for name, each in columns.items() for term, part in _terms(name, each, knots)]
    return Terms(tuple(term for term, _, _ in found), tuple(name for _, name, _ in found), tuple(part for _, _, part in found))


def cate_report(table: pa.Table, file: EffectsFile) -> tuple[dict[str, dict[str, Any]], list[UnitEffects]]:
    """By outcome what `bandits effects` prints, and the effects of every unit. Raises ExperimentError for what cannot be estimated."""
    section = file.cate
    if section is None or not section.columns:
        raise ExperimentError("cate.columns: none is named; name a column by which effects may differ")
    if file.weights is not None:
        raise ExperimentError("cate: effects by covariates are of rows without weights; leave `weights` or `cate` out")
    found = {outcome: _of_outcome(table, file, section, outcome) for outcome in file.outcomes}
    return {outcome: line for outcome, (line, _) in found.items()}, [units for _, units in found.values()]


def _of_outcome(table: pa.Table, file: EffectsFile, section: CateSection, outcome: str) -> tuple[dict[str, Any], UnitEffects]:
    columns = {name: column(table, name, role="cate.columns") for name in section.columns}
    known = ~np.any([each.missing for each in columns.values()], axis=0)
    row = np.flatnonzero(known)
    data = logged(table.take(row), _as_personalise(file, section, outcome))
    # Folds are of rows in random order.
    order = np.concatenate([data.train, data.test])
    row = row[np.flatnonzero(data.sample.kept)[order]]
    columns = {name: each._replace(values=each.values[row], missing=each.missing[row]) for name, each in columns.items()}
    terms = terms_of(columns, knots=section.knots)
    rows, arms = _rows(data, order, terms.matrix(columns), control_of(data.arms, file.control))
    found = cate(
        rows,
        outcome=t_learner(Ridge),
        basis=lambda x: x[:, -len(terms.names) :],
        cluster=None if data.cluster is None else data.cluster[order],
    )
    effect, error = found.effects(rows.x)
    account = {"read": table.num_rows, "used": len(row), "dropped": table.num_rows - len(row)}
    head = {"rows": account, "assignment": dict(data.assignment), "errors": found.kind, "doubts": list(data.doubts)}
    lines = [_arm(found, at, arm, rows, terms, columns, file.level) for at, arm in enumerate(arms)]
    return {**head, "arms": lines}, UnitEffects(outcome, row, arms, effect, error)


def _as_personalise(file: EffectsFile, section: CateSection, outcome: str) -> PersonaliseFile:
    return PersonaliseFile(
        data=file.data,
        treatment=file.treatment,
        outcomes={outcome: 1.0},
        covariates=tuple(dict.fromkeys((*file.covariates, *section.columns))),
        propensities=section.propensities,
        seed=file.seed,
        cluster=file.cluster,
    )


def _rows(data: Logged, order: np.ndarray, basis: np.ndarray, control: int) -> tuple[Rows, tuple[str, ...]]:
    """Rows whose first arm is the control, with the basis as their last columns; and the other arms."""
    arms = [control, *(at for at in range(len(data.arms)) if at != control)]
    place = np.argsort(arms)
    x = np.column_stack([data.x[order], basis])
    rows = Rows(x, data.utility[order], place[data.arm[order]], data.propensity[order], len(arms))
    return rows, tuple(data.arms[at] for at in arms[1:])


def _terms(name: str, each: Column, knots: int) -> list[tuple[str, float | int | None]]:
    if np.ptp(each.values) == 0.0:
        raise ExperimentError(f"cate.columns: {name!r} is constant; leave it out")
    if each.levels is None:
        found = np.unique(np.quantile(each.values, np.linspace(0.0, 1.0, knots + 2)[1:-1]))
        inner = found[(found > each.values.min()) & (found < each.values.max())]
        return [(name, None), *((f"max({name} - {knot:g}, 0)", float(knot)) for knot in inner)]
    levels = np.unique(each.values)
    if len(levels) > _MOST_LEVELS:
        raise ExperimentError(f"cate.columns: {name!r} has {len(levels)} levels, more than {_MOST_LEVELS}; leave it out")
    return [(f"{name}={each.levels[level]}", int(level)) for level in levels[1:]]


def _values(each: Column, part: float | int | None) -> np.ndarray:
    if each.levels is not None:
        return (each.values == part).astype(np.float64)
    return each.values if part is None else np.maximum(each.values - part, 0.0)


def _arm(found: Cate, at: int, arm: str, rows: Rows, terms: Terms, columns: Mapping[str, Column], level: float) -> dict[str, Any]:
    fit, mean = found.fits[at], np.append(1.0, rows.x[:, -len(terms.names) :].mean(axis=0))
    each = np.eye(len(mean))
    named = zip(("at zero", *terms.names), each, strict=True)
    return {
        "arm": arm,
        "average": _line(fit, mean, found.kind, level),
        "coefficients": [{"column": name, **_line(fit, weights, found.kind, level)} for name, weights in named],
        "at": [
            {"column": name, "value": value, **_line(fit, weights, found.kind, level)}
            for name, value, weights in _points(terms, columns, mean)
        ],
    }


def _points(terms: Terms, columns: Mapping[str, Column], mean: np.ndarray) -> list[tuple[str, float | str, np.ndarray]]:
    """Where effects are shown: quantiles of each number and levels of each factor, the other columns at their means."""
    found: list[tuple[str, float | str, np.ndarray]] = []
    for name, each in columns.items():
        values = np.unique(each.values) if each.levels is not None else np.unique(np.quantile(each.values, _QUANTILES))
        for value in values.tolist():
            one = {name: each._replace(values=np.array([value]))}
            weights = mean.copy()
            own = [at for at, source in enumerate(terms.source) if source == name]
            weights[[at + 1 for at in own]] = [_values(one[name], terms.part[at])[0] for at in own]
            found.append((name, value if each.levels is None else each.levels[value], weights))
    return found


def _line(fit: Fit, weights: np.ndarray, kind: str, level: float) -> dict[str, Any]:
    value, error = fit.combined(weights, kind)
    return {"effect": value, "standard_error": error, "interval": list(fit.interval(value, error, kind, level=level))}
