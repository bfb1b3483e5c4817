"""What stands beside the effects where a file asks for it: errors by drawing rows anew, and ridges of many penalties. Pure."""

from typing import Any

import numpy as np

from bandits.effects.bootstrap import bootstrapped, bootstrapped_clusters
from bandits.effects.config import EffectsFile
from bandits.effects.estimate import cells_of, equations_of
from bandits.effects.experiment import Experiment
from bandits.effects.ridge_path import ridge_path
from bandits.errors import ExperimentError

__all__ = ["bootstrap_lines", "check_beside", "path_lines"]


def check_beside(file: EffectsFile) -> None:
    """What is asked for goes with the rest of the file. Raises ExperimentError."""
    if file.bootstrap and not file.cluster and file.weights is not None and file.weights.kind != "frequency":
        raise ExperimentError(f"bootstrap: rows with weights of {file.weights.kind} are not drawn alike; name a `cluster`, or leave it out")
    if file.ridge and (file.ridge_path or file.bootstrap):
        raise ExperimentError("ridge: the path and the bootstrap are of least squares; leave `ridge` out, or them")


def bootstrap_lines(experiment: Experiment, file: EffectsFile, kept: np.ndarray, outcome: str) -> dict[str, Any]:
    """By arm the standard error and the interval by quantiles, of samples of the rows `kept`, or of their clusters.

    Raises ExperimentError where an arm is so rare that samples lack it.
    """
    cells = cells_of(experiment, file, kept, [outcome], drawn=not file.cluster)
    design = equations_of(experiment, file, cells).design
    draw = bootstrapped_clusters if file.cluster else bootstrapped
    found = draw(cells, design, outcome, draws=file.bootstrap or 0, rng=np.random.default_rng(file.seed))
    lines = {}
    for at, name in enumerate(design.names):
        if name in (experiment.arms.levels or ()):
            if np.isnan(found[:, at]).any():
                raise ExperimentError(f"bootstrap: a sample has no row of arm {name!r}; leave that arm or `bootstrap` out")
            ends = np.quantile(found[:, at], [0.5 - file.level / 2, 0.5 + file.level / 2])
            lines[name] = {"standard_error": float(found[:, at].std(ddof=1)), "interval": ends.tolist()}
    return {"draws": file.bootstrap, "of": "clusters" if file.cluster else "rows", "arms": lines}


def path_lines(experiment: Experiment, file: EffectsFile, kept: np.ndarray, outcome: str) -> list[dict[str, Any]]:
    """The effects at each penalty of `ridge_path`; arms and intercept bear none."""
    cells = cells_of(experiment, file, kept, [outcome])
    equations = equations_of(experiment, file, cells)
    names, arms = equations.design.names, experiment.arms.levels or ()
    penalised = np.array([at > 0 and name not in arms for at, name in enumerate(names)])
    path = ridge_path(equations, cells, outcome, penalties=file.ridge_path, penalised=penalised)
    return [
        {"penalty": penalty, "effects": {name: float(b[at]) for at, name in enumerate(names) if name in arms}}
        for penalty, b in zip(file.ridge_path, path, strict=True)
    ]
