"""Bayesian optimisation under constraints over the unit cube: where to try next, from what was tried. Pure.

    acquisition(x) = EI(x) x product over guardrails g of P(slack_g(x) >= 0)

with a Gaussian process each for the objective and every guardrail's slack, and EI the expected improvement on the best point that keeps
its guardrails (Gardner, Kusner, Xu, Weinberger and Cunningham, "Bayesian optimization with inequality constraints", ICML 2014). Until one
does, the product alone is maximised. The processes are scikit-learn's, Matern 5/2 with a length scale for each coordinate.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from ope.rows import Floats

__all__ = ["Tried", "best_of", "next_point", "next_points", "spread_points"]

# Candidates of the acquisition: spread over the cube, and around the best point so far at two scales.
_SPREAD, _NEAR, _SCALES = 1024, 256, (0.15, 0.03)


class Tried(NamedTuple):
    """A point f64[size], its objective (more is better), and the slack of each guardrail (>= 0 = kept)."""

    point: Floats
    objective: float
    slack: Floats

    @property
    def feasible(self) -> bool:
        """Does it keep every guardrail?"""
        return bool(np.all(self.slack >= 0.0))


def spread_points(size: int, count: int, *, seed: int) -> Floats:
    """`count` points of a scrambled Sobol sequence, f64[count, size]; a prefix of a longer one with the same seed."""
    power = max(int(np.ceil(np.log2(max(count, 1)))), 0)
    return np.asarray(stats.qmc.Sobol(size, rng=np.random.default_rng(seed)).random_base2(power)[:count], np.float64)


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """The best point that keeps its guardrails; None where none does."""
    kept = [one for one in tried if one.feasible]
    return max(kept, key=lambda one: one.objective) if kept else None


def next_point(tried: Sequence[Tried], *, seed: int) -> Floats:
    """Where to try next, f64[size]: the largest acquisition over candidates that follow from `seed`."""
    points, best = np.stack([one.point for one in tried]), best_of(tried)
    candidates = _candidates(points.shape[1], best, seed)
    score = np.ones(len(candidates))
    for column in np.stack([one.slack for one in tried]).T:
        mean, spread = _predicted(points, column, candidates, seed)
        score *= stats.norm.cdf(mean / spread)
    if best is not None:
        mean, spread = _predicted(points, np.array([one.objective for one in tried]), candidates, seed)
        z = (mean - best.objective) / spread
        score *= spread * (z * stats.norm.cdf(z) + stats.norm.pdf(z))
    chosen: Floats = candidates[int(np.argmax(score))]
    return chosen


def next_points(tried: Sequence[Tried], count: int, *, seed: int) -> Floats:
    """Where to try next, `count` points at once, f64[count, size]: each as if those before it had come out as predicted.

    (Ginsbourger, Le Riche and Carraro, "Kriging is well-suited to parallelize optimization", 2010: the believer.)
    """
    believed, found = list(tried), []
    for at in range(count):
        point = next_point(believed, seed=seed + at)
        believed.append(_expected(tried, point, seed))
        found.append(point)
    return np.stack(found)


def _expected(tried: Sequence[Tried], point: Floats, seed: int) -> Tried:
    points, at = np.stack([one.point for one in tried]), point[None]
    objective = _predicted(points, np.array([one.objective for one in tried]), at, seed)[0][0]
    slack = [_predicted(points, column, at, seed)[0][0] for column in np.stack([one.slack for one in tried]).T]
    return Tried(point, float(objective), np.array(slack))


def _candidates(size: int, best: Tried | None, seed: int) -> Floats:
    spread, rng = spread_points(size, _SPREAD, seed=seed), np.random.default_rng([seed, 1])
    if best is None:
        return spread
    near = [best.point + scale * rng.normal(size=(_NEAR, size)) for scale in _SCALES]
    return np.concatenate([spread, *(np.clip(part, 0.0, 1.0) for part in near)])


def _predicted(points: Floats, values: Floats, candidates: Floats, seed: int) -> tuple[Floats, Floats]:
    """Posterior mean and standard deviation at the candidates, in the unit of the values."""
    centre, size = float(values.mean()), max(float(values.std()), 1e-9)
    process = GaussianProcessRegressor(_kernel(points.shape[1]), n_restarts_optimizer=1, random_state=seed)
    with warnings.catch_warnings():
        # A length scale at its bound says that a coordinate does not matter, which is no fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(points, (values - centre) / size)
        mean, spread = process.predict(candidates, return_std=True)
    return centre + size * np.asarray(mean, np.float64), size * np.maximum(np.asarray(spread, np.float64), 1e-9)


def _kernel(size: int) -> Kernel:
    smooth = Matern(length_scale=np.full(size, 0.5), length_scale_bounds=(0.05, 10.0), nu=2.5)
    return ConstantKernel(1.0, (0.1, 10.0)) * smooth + WhiteKernel(1e-2, (1e-4, 0.5))
