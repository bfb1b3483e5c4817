"""Learners of what each arm does for each unit, over any regression with `fit` and `predict`. Pure.

    S   one regression of the outcome on covariates and arm (Kuenzel et al. 2019)
    T   a regression for each arm, of what a regression of all arms leaves (Kuenzel et al. 2019)
    X   regressions of each arm's outcomes less what the first arm's model says of its units, and the reverse, weighed by the shares of both
    R   a regression of (y - m(x)) / (t - e(x)), weighed by (t - e)^2, of each arm against the first (Nie and Wager 2021)
    DR  a regression of doubly robust scores, less their mean over the arms (Kennedy 2023)

All give f64[n, K], the value of each arm up to a part that all arms share. X and R go by the known probabilities of assignment; R asks for
regressions whose `fit` takes weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from bandits.errors import ExperimentError
from bandits.personalise.boosting import Trees, binned, boosted, edges_of, predicted
from bandits.personalise.ridge import Linear, ridge

__all__ = [
    "Boosted",
    "ByArm",
    "Learner",
    "Model",
    "Regressor",
    "Ridge",
    "Rows",
    "crossed",
    "doubly_robust",
    "dr_learner",
    "folds_of",
    "t_learner",
]

Model = Callable[[np.ndarray], np.ndarray]
# Every so manieth row stops the boosting.
_HELD = 5


class Rows(NamedTuple):
    """Rows of an experiment: `x` f64[n, d], `y` f64[n], `arm` i64[n] of `arms`, `propensity` f64[n] of the arm that each got."""

    x: np.ndarray
    y: np.ndarray
    arm: np.ndarray
    propensity: np.ndarray
    arms: int

    def at(self, chosen: np.ndarray) -> "Rows":
        """Some of the rows."""
        return Rows(self.x[chosen], self.y[chosen], self.arm[chosen], self.propensity[chosen], self.arms)


class Regressor(Protocol):
    """A regression as scikit-learn has it."""

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None, /) -> Any:
        """Learns `y` f64[n] from `x` f64[n, d]; `sample_weight` f64[n] is given by the R-learner alone."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """f64[n]."""


Learner = Callable[[Rows], Model]


@dataclasses.dataclass(frozen=True)
class ByArm:
    """A Model of a regression for each arm, and one that all arms share (None = none), which tells no arm from another."""

    shared: Regressor | None
    own: tuple[Regressor, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """f64[n, K]."""
        own = np.column_stack([each.predict(x) for each in self.own])
        return own if self.shared is None else own + self.shared.predict(x)[:, None]


class Ridge:
    """`bandits.personalise.ridge` as a Regressor."""

    def __init__(self) -> None:
        self.model = Linear(0.0, np.zeros(0), 0.0)

    @classmethod
    def constant(cls, value: float, *, columns: int) -> "Ridge":
        """One that says the same of every row."""
        found = cls()
        found.model = Linear(value, np.zeros(columns), 0.0)
        return found

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None, /) -> "Ridge":
        """Learns with the penalty that generalised cross-validation chooses."""
        self.model = ridge(x, y, weight=sample_weight)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """f64[n]."""
        return self.model.predict(x)


class Boosted:
    """`bandits.personalise.boosting` as a Regressor; every fifth row stops it, so rows come in random order."""

    def __init__(self, *, depth: int = 3, least: int = 20) -> None:
        self.depth, self.least = depth, least
        self.trees = Trees(0.0, np.zeros((0, 1), np.int32), np.zeros((0, 1)), np.zeros((0, 2)))

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None, /) -> "Boosted":
        """Learns on four fifths of the rows."""
        held = np.arange(len(y)) % _HELD == 0
        self.trees = boosted(binned(x, edges_of(x)), y, held=held, depth=self.depth, least=self.least, weight=sample_weight)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """f64[n]."""
        return predicted(self.trees, x)


def t_learner(make: Callable[[], Regressor]) -> Learner:
    """What a regression of all arms leaves, regressed in each arm: arms that differ little stay close to each other."""

    def learn(rows: Rows) -> Model:
        shared = make().fit(rows.x, rows.y)
        rest = rows.y - shared.predict(rows.x)
        return ByArm(shared, tuple(make().fit(rows.x[rows.arm == arm], rest[rows.arm == arm]) for arm in range(rows.arms)))

    return learn


def dr_learner(make: Callable[[], Regressor], *, nuisance: Learner, folds: int = 3) -> Learner:
    """Regressions of cross-fitted doubly robust scores."""

    def learn(rows: Rows) -> Model:
        scores = doubly_robust(rows, crossed(nuisance, rows, folds_of(rows.arm, folds)))
        shared = scores.mean(axis=1)
        return ByArm(None, tuple(make().fit(rows.x, scores[:, arm] - shared) for arm in range(rows.arms)))

    return learn


def s_learner(make: Callable[[], Regressor]) -> Learner:
    """One regression; an arm is an indicator among the covariates, and its products with them, so that lines may differ too."""

    def learn(rows: Rows) -> Model:
        model = make().fit(_with_arm(rows.x, rows.arm, rows.arms), rows.y)
        every = range(rows.arms)
        return lambda x: np.column_stack([model.predict(_with_arm(x, np.full(len(x), arm), rows.arms)) for arm in every])

    return learn


def x_learner(make: Callable[[], Regressor]) -> Learner:
    """Effects imputed in both arms of each pair with the first arm, each regressed, and averaged by the probability of assignment."""

    def learn(rows: Rows) -> Model:
        outcome = [make().fit(rows.x[rows.arm == arm], rows.y[rows.arm == arm]) for arm in range(rows.arms)]
        pairs = [_imputed(make, rows, outcome, arm) for arm in range(1, rows.arms)]
        return lambda x: np.column_stack([np.zeros(len(x)), *(pair(x) for pair in pairs)])

    return learn


def r_learner(make: Callable[[], Regressor], *, folds: int = 3) -> Learner:
    """Residuals of the outcome on residuals of the assignment, of each arm against the first; `m` is cross-fitted, `e` is known."""

    def learn(rows: Rows) -> Model:
        pairs = [_residual(make, rows, arm, folds) for arm in range(1, rows.arms)]
        return lambda x: np.column_stack([np.zeros(len(x)), *(pair.predict(x) for pair in pairs)])

    return learn


def _imputed(make: Callable[[], Regressor], rows: Rows, outcome: list[Regressor], arm: int) -> Model:
    here, there = rows.arm == arm, rows.arm == 0
    of_arm = make().fit(rows.x[here], rows.y[here] - outcome[0].predict(rows.x[here]))
    of_first = make().fit(rows.x[there], outcome[arm].predict(rows.x[there]) - rows.y[there])
    e = _share(rows, arm)
    return lambda x: e * of_first.predict(x) + (1.0 - e) * of_arm.predict(x)


def _residual(make: Callable[[], Regressor], rows: Rows, arm: int, folds: int) -> Regressor:
    pair = rows.at((rows.arm == 0) | (rows.arm == arm))
    fold, mean = folds_of(pair.arm, folds), np.empty(len(pair.y))
    for each in range(folds):
        mean[fold == each] = make().fit(pair.x[fold != each], pair.y[fold != each]).predict(pair.x[fold == each])
    rest = (pair.arm == arm) - _share(rows, arm)
    return make().fit(pair.x, (pair.y - mean) / rest, rest**2)


def _share(rows: Rows, arm: int) -> float:
    """The probability of an arm among it and the first, from the known propensities: one number, so for assignment that is alike for all.

    Raises ExperimentError where propensities of an arm differ between rows.
    """
    known = []
    for each in (0, arm):
        p = rows.propensity[rows.arm == each]
        if np.ptp(p) > 1e-9:
            raise ExperimentError(
                f"propensities: those of arm {each} differ between rows, from {p.min():g} to {p.max():g}; take a DR-learner"
            )
        known.append(float(p[0]))
    return known[1] / sum(known)


def _with_arm(x: np.ndarray, arm: np.ndarray, arms: int) -> np.ndarray:
    indicators = (arm[:, None] == np.arange(1, arms)).astype(np.float64)
    return np.column_stack([x, indicators, *(indicators[:, [at]] * x for at in range(arms - 1))])


def folds_of(arm: np.ndarray, folds: int) -> np.ndarray:
    """The fold of each row, i64[n], alike in every arm, so that none lacks rows of one; rows come in random order."""
    order = np.argsort(arm, kind="stable")
    fold = np.empty(len(arm), np.int64)
    fold[order] = np.arange(len(arm)) % folds
    return fold


def crossed(learner: Learner, rows: Rows, fold: np.ndarray) -> np.ndarray:
    """Predictions for each row by a model that has not seen its fold, f64[n, K]."""
    found = np.empty((len(rows.y), rows.arms))
    for each in np.unique(fold):
        found[fold == each] = learner(rows.at(fold != each))(rows.x[fold == each])
    return found


def doubly_robust(rows: Rows, predictions: np.ndarray) -> np.ndarray:
    """Scores G[i, a] = m_a(x_i) + 1[a_i = a] (y_i - m_a(x_i)) / p_i, f64[n, K]: their mean is the value of arm a (Robins et al. 1994)."""
    each = np.arange(len(rows.y))
    scores = predictions.copy()
    scores[each, rows.arm] += (rows.y - predictions[each, rows.arm]) / rows.propensity
    return scores
