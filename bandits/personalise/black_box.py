"""The black box: learners stacked by how well they predict doubly robust scores that they have not seen. Pure.

Among them is one that knows no covariate, so that where nothing is to be found the weight goes to the means, and the policy is to give
everybody the best arm. The weights are the convex ones that come closest to the scores' differences between arms (van der Laan et al.
2007).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize

from bandits.personalise.learners import (
    Boosted,
    ByArm,
    Learner,
    Model,
    Regressor,
    Ridge,
    Rows,
    doubly_robust,
    dr_learner,
    folds_of,
    t_learner,
)

__all__ = ["LEARNERS", "BlackBox", "between", "black_box", "combined", "drawn", "nuisance", "own_learners"]

_FOLDS = 3
# The weights' sum is held to one by a row of this size beside the data's.
_ONE = 1e3


class BlackBox(NamedTuple):
    """A learned policy: `models` by name and the `weights` they are stacked with.

    `inside` f64[n, K]: what it says of the rows that trained it; `outcome_model`: the learner that predicts outcomes best.
    `scores` f64[n, K]: its rows' doubly robust scores, by outcome models that have not seen them; `fold` i64[n] of each row, and of each
    fold the models that have not seen it.
    """

    models: Mapping[str, Model]
    weights: Mapping[str, float]
    inside: np.ndarray
    outcome_model: Learner
    scores: np.ndarray
    fold: np.ndarray
    fold_models: tuple[tuple[Model, ...], ...]

    def model(self, x: np.ndarray) -> np.ndarray:
        """The value of each arm less the mean over the arms, f64[n, K]."""
        return combined([model(x) for model in self.models.values()], self.weights.values())


def no_covariates(rows: Rows) -> Model:
    """The mean of each arm, weighted by 1 / p."""
    weight = 1.0 / rows.propensity
    means = np.bincount(rows.arm, weight * rows.y, rows.arms) / np.bincount(rows.arm, weight, rows.arms)
    return ByArm(None, tuple(Ridge.constant(float(mean), columns=rows.x.shape[1]) for mean in means))


#: Outcome models that stand behind doubly robust scores.
nuisance: Learner = t_learner(Ridge)

LEARNERS: Mapping[str, Learner] = {
    "means": no_covariates,
    "t ridge": t_learner(Ridge),
    "t boosted": t_learner(Boosted),
    "dr ridge": dr_learner(Ridge, nuisance=nuisance),
    "dr boosted": dr_learner(lambda: Boosted(depth=2, least=50), nuisance=nuisance),
}


# Learners whose predictions are of the outcome itself, not of differences between arms only.
_OUTCOME_MODELS = ("means", "t ridge", "t boosted", "t own")


def own_learners(make: Callable[[], Regressor]) -> dict[str, Learner]:
    """The learners with those of a regression of one's own beside them: in each arm, and of doubly robust scores."""
    return {**LEARNERS, "t own": t_learner(make), "dr own": dr_learner(make, nuisance=t_learner(make))}


def black_box(rows: Rows, *, learners: Mapping[str, Learner] = LEARNERS, said: Callable[[str], None] = lambda name: None) -> BlackBox:
    """Learns from rows in random order; `said` hears the name of each learner before it begins."""
    fold = folds_of(rows.arm, _FOLDS)
    outside, models, by_fold = [], [], []
    for name, learner in learners.items():
        said(name)
        by_fold.append([learner(rows.at(fold != each)) for each in range(_FOLDS)])
        outside.append(_crossed(by_fold[-1], rows, fold))
        models.append(learner(rows))
    places = {name: at for at, name in enumerate(learners)}
    best = min((name for name in _OUTCOME_MODELS if name in places), key=lambda name: _loss(rows, outside[places[name]]))
    scores = doubly_robust(rows, outside[places[best]])
    weights = _stacked(scores, outside)
    return BlackBox(
        models=dict(zip(learners, models, strict=True)),
        weights=dict(zip(learners, weights.tolist(), strict=True)),
        inside=combined([model(rows.x) for model in models], weights),
        outcome_model=learners[best],
        scores=scores,
        fold=fold,
        fold_models=tuple(zip(*by_fold, strict=True)),
    )


def drawn(
    rows: Rows, box: BlackBox, *, draws: int, rng: np.random.Generator, learners: Mapping[str, Learner] = LEARNERS
) -> list[dict[str, Model]]:
    """Models by name of `draws` random halves of the rows, those alone that have a weight in the black box.

    What a half says differs from what all rows say by as much as that differs from the truth: var(b_half - b) = s^2 (2 / n - 1 / n).
    """
    named = {name: learners[name] for name, weight in box.weights.items() if weight > 0.0}
    found = []
    for _ in range(draws):
        half = rows.at(_half(rows.arm, rng))
        found.append({name: learner(half) for name, learner in named.items()})
    return found


def _half(arm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random half of the rows of each arm, in random order."""
    order = rng.permutation(len(arm))
    return rng.permutation(order[folds_of(arm[order], 2) == 0])


def _crossed(models: Sequence[Model], rows: Rows, fold: np.ndarray) -> np.ndarray:
    found = np.empty((len(rows.y), rows.arms))
    for each, model in enumerate(models):
        found[fold == each] = model(rows.x[fold == each])
    return found


def combined(values: Iterable[np.ndarray], weights: Iterable[float]) -> np.ndarray:
    """What models together say of rows, f64[n, K], less the mean over the arms."""
    return np.sum([weight * between(each) for weight, each in zip(weights, values, strict=True)], axis=0)


def _stacked(scores: np.ndarray, outside: list[np.ndarray]) -> np.ndarray:
    """Convex weights whose combination is closest to the scores' differences between arms."""
    columns = np.column_stack([between(each).ravel() for each in outside])
    target = between(scores).ravel()
    # Least squares of the normal equations' root: as exact, and small.
    gram, moments = columns.T @ columns, columns.T @ target
    size = float(np.trace(gram)) or 1.0
    gram, moments = gram / size + _ONE * np.ones_like(gram), moments / size + _ONE
    values, vectors = np.linalg.eigh(gram)
    root = np.sqrt(np.maximum(values, 1e-12))
    weights, _ = scipy.optimize.nnls((vectors * root).T, (vectors.T @ moments) / root)
    return weights / weights.sum()


def between(values: np.ndarray) -> np.ndarray:
    """f64[n, K] less the mean over the arms."""
    return values - values.mean(axis=1, keepdims=True)


def _loss(rows: Rows, predictions: np.ndarray) -> float:
    return float(np.mean((rows.y - predictions[np.arange(len(rows.y)), rows.arm]) ** 2))
