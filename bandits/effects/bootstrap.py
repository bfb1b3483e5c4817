"""The bootstrap of rows, drawn on cells. Pure.

Rows that are alike in covariates, arm and outcome are drawn together: how often each cell is drawn is multinomial with the cells' shares,
which is the law of a bootstrap of rows, at the cost of the cells (Wong et al. 2021).
"""

import numpy as np

from bandits.effects.cells import Cells
from bandits.effects.design import Design
from bandits.effects.fit import normal
from bandits.errors import ExperimentError

__all__ = ["bootstrapped"]


def bootstrapped(cells: Cells, design: Design, outcome: str, *, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Coefficients in raw units of `draws` samples of rows, f64[draws, p].

    Cells are compressed with the outcome among their columns, unweighted or by frequencies. Raises ExperimentError where an outcome varies
    within a cell, or where a sample lacks what tells a column from the others.
    """
    sums = cells.sums[outcome]
    if np.any(sums.spread > 1e-12 * np.maximum(sums.weight * sums.mean**2, 1.0)):
        raise ExperimentError(f"outcomes: {outcome!r} varies within a cell; compress with it among the columns, so that rows can be drawn")
    total = int(cells.rows.sum())
    times = rng.multinomial(total, cells.rows / total, size=draws).astype(np.float64)
    return np.array([_coefficients(design, sums.mean, each) for each in times])


def _coefficients(design: Design, mean: np.ndarray, weight: np.ndarray) -> np.ndarray:
    equations = normal(design, weight)
    if equations.dropped:
        raise ExperimentError(f"covariates: a sample lacks rows for {equations.dropped[0].column!r}; the bootstrap needs more of them")
    return design.raw() @ (equations.bread @ (design.matrix.T @ (weight * mean)))
