"""What `ope tune` varies: the alphas and the entries of the reward table of a constrained policy, as a point of the unit cube. Pure.

A table is made of free entries by running maxima along its axes, which reaches every monotone table and no other; it is then scaled to
[0, 1], for a policy that maximises it does not see origin and unit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandits.policies.constrained import ConstrainedSettings
from bandits.policies.reward_table import RewardTable
from ope.rows import Floats

__all__ = ["Space", "settings_at", "space_of"]

# Where all entries come out equal there is nothing to scale by.
_FLAT = 1e-12


class Space(NamedTuple):
    """The unit cube of `size` coordinates: first the relative constraints, in their order, then the free cells of the table."""

    settings: ConstrainedSettings
    # Places of the relative constraints.
    relative: tuple[int, ...]
    # Largest alpha that is tried, in (0, 1].
    largest_alpha: float
    # Flat places of the cells that occur in the log; the others have no say.
    cells: npt.NDArray[np.intp]

    @property
    def size(self) -> int:
        """Coordinates."""
        return len(self.relative) + len(self.cells)

    def alpha(self, point: Floats) -> Floats:
        """alpha of every constraint, f64[J]; 0 where it is absolute."""
        alphas = np.zeros(len(self.settings.constraints))
        alphas[list(self.relative)] = point[: len(self.relative)] * self.largest_alpha
        return alphas

    def worth(self, point: Floats) -> Floats:
        """The table of a point, of the shape that the settings declare; of no size without a table."""
        table = self.settings.reward
        if table is None:
            return np.zeros(0)
        declared = _oriented(np.asarray(table.worth, np.float64), table)
        free = np.zeros(declared.size)
        free[self.cells] = point[len(self.relative) :]
        return _oriented(_scaled(_monotone(free.reshape(declared.shape))), table)

    def origin(self) -> Floats:
        """The point of the declared settings, f64[size]."""
        alphas = [self.settings.constraints[place].alpha or 0.0 for place in self.relative]
        start = np.clip(np.asarray(alphas, np.float64) / self.largest_alpha, 0.0, 1.0)
        if self.settings.reward is None:
            return start
        declared = _oriented(np.asarray(self.settings.reward.worth, np.float64), self.settings.reward)
        return np.concatenate([start, _scaled(declared).ravel()[self.cells]])


def space_of(settings: ConstrainedSettings, *, values: Floats, largest_alpha: float) -> Space:
    """The space of a policy's settings. `values` f64[n, axes]: logged outcomes in the order of the table's axes; none without a table."""
    relative = tuple(place for place, one in enumerate(settings.constraints) if one.alpha is not None)
    table = settings.reward
    if table is None:
        return Space(settings, relative, largest_alpha, np.zeros(0, np.intp))
    levels = [np.maximum(np.searchsorted(axis.levels, values[:, place], side="right") - 1, 0) for place, axis in enumerate(table.axes)]
    shape = tuple(len(axis.levels) for axis in table.axes)
    # In the orientation in which better is higher.
    turned = [size - 1 - own if axis.better == "lower" else own for axis, own, size in zip(table.axes, levels, shape, strict=True)]
    return Space(settings, relative, largest_alpha, np.unique(np.ravel_multi_index(turned, shape)).astype(np.intp))


def settings_at(space: Space, point: Floats) -> ConstrainedSettings:
    """The settings of a point, its numbers rounded to what a reader would write."""
    alphas = np.round(space.alpha(point), 4)
    constraints = tuple(
        one if one.alpha is None else one.model_copy(update={"alpha": float(alpha)})
        for one, alpha in zip(space.settings.constraints, alphas, strict=True)
    )
    table = space.settings.reward
    if table is not None:
        table = table.model_copy(update={"worth": tuple(np.round(space.worth(point), 4).tolist())})
    return space.settings.model_copy(update={"constraints": constraints, "reward": table})


def _monotone(table: Floats) -> Floats:
    for axis in range(table.ndim):
        table = np.maximum.accumulate(table, axis=axis)
    return table


def _scaled(table: Floats) -> Floats:
    low, high = float(table.min()), float(table.max())
    scaled: Floats = (table - low) / (high - low) if high - low > _FLAT else np.zeros_like(table)
    return scaled


def _oriented(table: Floats, declared: RewardTable) -> Floats:
    """The table with the axes turned on which lower is better; turned twice it is as before."""
    lower: Sequence[int] = [place for place, axis in enumerate(declared.axes) if axis.better == "lower"]
    return np.flip(table, axis=tuple(lower)) if lower else table
