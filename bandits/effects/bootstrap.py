"""The bootstrap of rows or clusters, drawn on cells. Pure.

Rows that are alike in covariates, arm and outcome are drawn together: how often each cell is drawn is multinomial with the cells' shares,
which is the law of a bootstrap of rows, at the cost of the cells (Wong et al. 2021). A cluster is drawn with all its parts of cells, so
there the outcome may vary within a cell.
"""

import numpy as np

from bandits.effects.cells import Cells
from bandits.effects.design import Design
from bandits.effects.fit import normal
from bandits.errors import ExperimentError

__all__ = ["bootstrapped", "bootstrapped_clusters"]

# Multiplications beyond which a bootstrap would take more than some minutes.
_MOST_WORK = 2e11


def bootstrapped(cells: Cells, design: Design, outcome: str, *, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Coefficients in raw units of `draws` samples of rows, f64[draws, p].

    Cells are compressed with the outcome among their columns, unweighted or by frequencies. NaN where a sample lacks the rows that tell a
    column from the others. Raises ExperimentError where an outcome varies within a cell, or where it would take too long.
    """
    sums = cells.sums[outcome]
    if np.any(sums.spread > 1e-12 * np.maximum(sums.weight * sums.mean**2, 1.0)):
        raise ExperimentError(f"outcomes: {outcome!r} varies within a cell; compress with it among the columns, so that rows can be drawn")
    _check_work(design, cells, draws)
    total = int(cells.rows.sum())
    times = (rng.multinomial(total, cells.rows / total).astype(np.float64) for _ in range(draws))
    return np.array([_coefficients(design, each, each * sums.mean) for each in times])


def bootstrapped_clusters(cells: Cells, design: Design, outcome: str, *, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Coefficients in raw units of `draws` samples of clusters, f64[draws, p]. Raises ExperimentError as `bootstrapped`."""
    parts = cells.clustered
    if parts is None:
        raise ExperimentError("bootstrap: cells without clusters; compress with them")
    _check_work(design, cells, draws)
    _, cluster = np.unique(parts.cluster, return_inverse=True)
    count, sums = int(cluster.max()) + 1, parts.sums[outcome]
    found = []
    for _ in range(draws):
        weight = rng.multinomial(count, np.full(count, 1 / count))[cluster] * sums.weight
        by_cell = (np.bincount(parts.cell, each, cells.size) for each in (weight, weight * sums.mean))
        found.append(_coefficients(design, *by_cell))
    return np.array(found)


def _check_work(design: Design, cells: Cells, draws: int) -> None:
    if draws * cells.size * len(design.names) ** 2 > _MOST_WORK:
        raise ExperimentError(
            f"bootstrap: {draws} samples of {cells.size} cells and {len(design.names)} columns take too long; give fewer samples, fewer "
            "covariates, or `bins`"
        )


def _coefficients(design: Design, weight: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Of a sample: `weight` of each cell and its summed outcomes, `moment`."""
    equations = normal(design, weight)
    own = equations.design.raw() @ (equations.bread @ (equations.design.matrix.T @ moment))
    if not equations.dropped:
        return own
    kept = dict(zip(equations.design.names, own.tolist(), strict=True))
    return np.array([kept.get(name, np.nan) for name in design.names])
