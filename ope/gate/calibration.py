"""Are the logged propensities the probabilities that were used? Asked of each policy version that logged, from its rows alone. Pure.

If action A was drawn with the logged probability p from K candidates, then 1 / (K p) has mean 1 (the weight of the uniform policy), and
for every action a so has 1[A = a] / p: a was drawn as often as the log says. Neither asks for a model, a reward or a snapshot.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ope.rows import Floats, Keys

__all__ = ["Draws", "VersionCheck", "calibrations"]


class Draws(NamedTuple):
    """The first slot of n logged decisions."""

    # Snapshot that decided, and the action that was drawn.
    version: npt.NDArray[np.str_]
    action: npt.NDArray[np.str_]
    # Its logged probability, f64[n] in (0, 1], and the number of eligible candidates, i64[n].
    propensity: Floats
    candidates: npt.NDArray[np.int64]
    # bool[n]: rows with the most common set of candidates, in which actions are counted against each other.
    comparable: npt.NDArray[np.bool_]


class VersionCheck(NamedTuple):
    """What the rows of one version say. `action` is "" for the mean over all actions."""

    version: str
    action: str
    rows: int
    # Mean of the weights, its standard error (clustered by unit), effective rows, largest weight: all for a target that should have mean 1.
    mean: float
    standard_error: float
    effective_sample_size: float
    largest: float

    @property
    def z(self) -> float:
        """Standard errors from 1; 0 where all weights are 1."""
        apart = self.mean - 1
        return apart / self.standard_error if self.standard_error else math.copysign(math.inf, apart) if abs(apart) > 1e-9 else 0.0


def calibrations(draws: Draws, unit: Keys) -> tuple[VersionCheck, ...]:
    """A check of each version over all actions, followed by one for each action that it drew."""
    return tuple(check for version in np.unique(draws.version).tolist() for check in _of_version(draws, unit, version))


def _of_version(draws: Draws, unit: Keys, version: str) -> Iterator[VersionCheck]:
    mine = draws.version == version
    yield _check(version, "", 1 / (draws.candidates[mine] * draws.propensity[mine]), unit[mine])
    mine &= draws.comparable
    drawn, propensity = draws.action[mine], draws.propensity[mine]
    for action in np.unique(drawn).tolist():
        yield _check(version, action, np.where(drawn == action, 1 / propensity, 0.0), unit[mine])


def _check(version: str, action: str, weight: Floats, unit: Keys) -> VersionCheck:
    place = np.unique(unit, return_inverse=True)[1]
    mean = float(weight.mean())
    by_unit = np.bincount(place, weights=weight - mean)
    error = math.sqrt(float((by_unit**2).sum())) / len(weight)
    square = float((weight**2).sum())
    return VersionCheck(version, action, len(weight), mean, error, float(weight.sum()) ** 2 / square, float(weight.max()))
