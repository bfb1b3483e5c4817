"""Reward shaping: what a combination of outcomes is worth, as a monotone table that a task declares.

    reward = worth[i_1, ..., i_m],   i_a = the last level of axis a that its outcome reaches (the first where it reaches none)

A product seldom knows the one number that it wants; it knows that more quality is better and a failed upload worse (Daulton, Singh,
Avadhanula, Dimmery and Bakshy 2019 shape the reward of a video upload so). The entries are free as long as better outcomes are never worth
less; `ope tune` looks for good ones.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from protos import config

__all__ = ["Axis", "RewardTable", "levels_of"]


class Axis(config.StrictModel):
    """One outcome of the table."""

    #: Name of the outcome, as in the section `rewards`.
    outcome: str
    #: Where its levels begin, ascending, in the outcome's unit; what lies below the first counts as the first.
    levels: tuple[float, ...] = pydantic.Field(min_length=1)
    #: Which way it gets better; the entries of the table must follow.
    better: Literal["higher", "lower"] = "higher"

    @pydantic.model_validator(mode="after")
    def _ascends(self) -> "Axis":
        if not np.all(np.diff(self.levels) > 0.0):
            raise ValueError(f"axis {self.outcome!r}: levels {list(self.levels)} do not ascend; sort them, each once")
        return self


class RewardTable(config.StrictModel):
    """The reward as a table over outcomes."""

    #: The outcomes, outermost list of `worth` first.
    axes: tuple[Axis, ...] = pydantic.Field(min_length=1)
    #: Entries as nested lists, one depth an axis; along each axis never less for what is better. Any finite numbers.
    worth: tuple[Any, ...]

    @pydantic.model_validator(mode="after")
    def _is_monotone(self) -> "RewardTable":
        try:
            table = np.asarray(self.worth, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"worth: {self.worth!r} is no table of numbers; give one list a depth, of equal lengths") from error
        shape = tuple(len(axis.levels) for axis in self.axes)
        if table.shape != shape or not np.all(np.isfinite(table)):
            raise ValueError(f"worth: has shape {table.shape}, the levels of the axes {shape}; give one finite number a combination")
        for place, axis in enumerate(self.axes):
            steps = np.diff(table, axis=place) * (1.0 if axis.better == "higher" else -1.0)
            if np.any(steps < 0.0):
                raise ValueError(f"worth: falls as {axis.outcome!r} gets better; make it rise or stay, or set `better`")
        return self

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes, in the order of the axes."""
        return tuple(axis.outcome for axis in self.axes)


def levels_of(table: RewardTable, values: jax.Array) -> tuple[jax.Array, ...]:
    """Places in the table of each row, one i[n] an axis, from its outcomes in the order of the axes, f64[n, axes]."""
    return tuple(_level(axis, values[:, place]) for place, axis in enumerate(table.axes))


def _level(axis: Axis, values: jax.Array) -> jax.Array:
    reached = jnp.searchsorted(jnp.asarray(axis.levels, jnp.float64), values, side="right")
    return jnp.maximum(reached - 1, 0)
