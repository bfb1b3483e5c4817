"""A user's own reward: a vectorised function over Arrow columns, named in the task's file. Touches the import system.

    def reward(rows: pa.Table) -> array of float64 [rows]

`rows` has the columns of an observation as the join has made them (`outcomes`, `slot_seen`, `reward` and the decision's own). The function
must be a function of its rows alone: the same events are to give the same reward on every replay. Its name is part of the config's digest,
its code is not: give a changed rule a new name.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from attribution.errors import RewardFunctionError

__all__ = ["computed", "loaded"]


@functools.cache
def loaded(name: str) -> Callable[[pa.Table], Any]:
    """The function called `module:function`. Raises RewardFunctionError where there is none."""
    module, _, function = name.partition(":")
    try:
        found: Callable[[pa.Table], Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RewardFunctionError(
            f"rewards.function: {name!r} can't be loaded ({error}); give module:function on the Python path"
        ) from error
    return found


def computed(name: str, rows: pa.Table) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The rewards of the rows, float64 [rows]. Raises RewardFunctionError if they are not as many finite numbers."""
    rewards = np.asarray(loaded(name)(rows), dtype=np.float64)
    if rewards.shape != (rows.num_rows,) or not np.isfinite(rewards).all():
        raise RewardFunctionError(f"rewards.function: {name!r} gave {rewards.shape} for {rows.num_rows} rows; give one finite number a row")
    return rewards
