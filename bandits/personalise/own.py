"""A user's own regression by name, as `module:factory`. Touches the environment: it imports what is named."""

import importlib
from collections.abc import Callable, Mapping

import numpy as np

from bandits.errors import ExperimentError
from bandits.personalise.black_box import LEARNERS, own_learners
from bandits.personalise.config import PersonaliseFile
from bandits.personalise.learners import Learner, Regressor

__all__ = ["learners_of", "regression_of"]


def learners_of(file: PersonaliseFile) -> Mapping[str, Learner]:
    """The learners that are stacked. Raises ExperimentError as `regression_of`."""
    return LEARNERS if file.regression is None else own_learners(regression_of(file.regression))


def regression_of(name: str) -> Callable[[], Regressor]:
    """What makes a regression, from `module:factory`, tried on two rows.

    Raises ExperimentError where it cannot be imported, or what it makes has no `fit` and `predict` that work as scikit-learn's.
    """
    module, _, factory = name.partition(":")
    try:
        make: Callable[[], Regressor] = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExperimentError(f"regression: {name!r} cannot be imported ({error}); give `module:factory`") from error
    try:
        made = make()
        missing = [each for each in ("fit", "predict") if not callable(getattr(made, each, None))]
    except Exception as error:
        raise ExperimentError(f"regression: {name!r} makes nothing ({error}); it is called without arguments") from error
    if missing:
        raise ExperimentError(f"regression: what {name!r} makes has no {missing[0]!r}; a regression has `fit(x, y)` and `predict(x)`")
    return lambda: _Checked(name, make())


class _Checked:
    """A regression of the user's, whose faults are told as the user's."""

    def __init__(self, name: str, made: Regressor) -> None:
        self.name, self.made = name, made

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None, /) -> "_Checked":
        """Learns."""
        try:
            self.made.fit(x, y) if sample_weight is None else self.made.fit(x, y, sample_weight)
        except Exception as error:
            raise ExperimentError(f"regression: {self.name!r} cannot learn from {x.shape} rows and columns: {error}") from error
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """f64[n]. Raises ExperimentError for another shape, or what is not finite."""
        found = np.asarray(self.made.predict(x), np.float64)
        if found.shape != (len(x),) or not np.all(np.isfinite(found)):
            raise ExperimentError(f"regression: {self.name!r} predicts {found.shape} numbers, or none, for {len(x)} rows; give one a row")
        return found
