"""The effect of the treatment that was received, where not everybody takes what they are assigned: two-stage least squares on cells. Pure.

    X = [1, received, covariates],  Z = [1, arms, covariates],  Xh = Z (Z'WZ)^-1 Z'W X
    b = (Xh'W Xh)^-1 Xh'W y,   errors from Xh and the residuals y - X b

With one arm beside the control and no covariates it is Wald's ratio: effect of assignment on the outcome by that on what is received. The
effect of assignment itself (intent to treat) stands beside it. (Imbens and Angrist 1994; Angrist and Imbens 1995 for several arms.)
"""

from typing import Any

import numpy as np
import scipy.sparse

from bandits.effects.cells import Cells
from bandits.effects.config import EffectsFile
from bandits.effects.design import Design
from bandits.effects.estimate import RECEIVED, equations_of
from bandits.effects.experiment import Experiment
from bandits.effects.fit import Normal, fit, normal
from bandits.errors import ExperimentError

__all__ = ["received_line"]

# Below this first-stage F the interval cannot be trusted (Staiger and Stock 1997).
_WEAK = 10.0


def received_line(experiment: Experiment, file: EffectsFile, cells: Cells, outcome: str) -> dict[str, Any]:
    """The effect of one more unit received, with the F of the first stage and a warning where that is weak.

    Raises ExperimentError where everybody received the same, or the arms move nothing of it at all.
    """
    if np.ptp(cells.columns[RECEIVED]) == 0.0:
        raise ExperimentError(f"received: {file.received!r} is constant; its effect cannot be told")
    first = equations_of(experiment, file, cells)
    arms = [at for at, name in enumerate(first.design.names) if name in (experiment.arms.levels or ())]
    strength = _strength(first, cells, arms, file)
    second, regressors = _second(first, cells, arms)
    if RECEIVED not in second.design.names:
        raise ExperimentError(f"received: the arms move nothing of {file.received!r}; they are no instrument for it")
    found = fit(second, cells, outcome, errors=file.error_kinds, regressors=regressors)
    at, kind = second.design.names.index(RECEIVED), file.error_kind
    value, error = float(found.coefficient[at]), float(found.error(kind)[at])
    return {
        "column": file.received,
        "effect": value,
        "standard_error": error,
        "interval": list(found.interval(value, error, kind, level=file.level)),
        "standard_errors": {each: float(found.error(each)[at]) for each in file.error_kinds},
        "first_stage_f": strength,
        "weak": strength < _WEAK,
        **(
            {"warning": f"weak instrument: F = {strength:.3g} < {_WEAK:g}; interval and error are not to be trusted"}
            if strength < _WEAK
            else {}
        ),
    }


def _strength(first: Normal, cells: Cells, arms: list[int], file: EffectsFile) -> float:
    """Wald's F of the arms in a regression of what was received, with the errors that are reported."""
    found = fit(first, cells, RECEIVED, errors=[file.error_kind])
    b, v = found.coefficient[arms], found.covariance[file.error_kind][np.ix_(arms, arms)]
    # Where everybody takes what they are given the first stage has no error.
    return float(b @ np.linalg.solve(v, b) / len(arms)) if np.linalg.matrix_rank(v) == len(arms) else 1e12


def _second(first: Normal, cells: Cells, arms: list[int]) -> tuple[Normal, np.ndarray]:
    """The second stage's equations, and its columns as they are; `received` stands where the arms stood."""
    z = first.design.matrix.toarray() if scipy.sparse.issparse(first.design.matrix) else first.design.matrix
    weight, values = first.weight, cells.columns[RECEIVED]
    projected = z @ (first.bread @ (z.T @ (weight * values)))
    others = [at for at in range(1, len(first.design.names)) if at not in arms]
    names = ("intercept", RECEIVED, *(first.design.names[at] for at in others))
    shift, scale = np.r_[0.0, 0.0, first.design.shift[others]], np.r_[1.0, 1.0, first.design.scale[others]]
    x = np.column_stack([z[:, 0], values, z[:, others]])
    found = normal(Design(names, np.column_stack([z[:, 0], projected, z[:, others]]), shift, scale), weight)
    kept = [names.index(name) for name in found.design.names]
    return found, x[:, kept]
