"""One continuous parameter, say how many posts to load: the actions are bins of its range, and the value is uniform within the bin drawn.

    value = lower_k + (upper_k - lower_k) u,      density(value) = p(k) / (upper_k - lower_k)

so the policy's density is piecewise uniform and known exactly. A bin's action id holds its edges, `[0.5,1.25)`, which makes a logged
decision complete: value and density can be derived from the slot and the key alone. Pure.
"""

import itertools
import re
from typing import NamedTuple

import numpy as np
import pydantic

from bandits.keys import value_draws
from bandits.quantise import DENOMINATOR
from protos import config

__all__ = ["Bin", "RangeSection", "Valued", "bin_of", "slot_values"]

_BIN = re.compile(r"\[([^,\[\]]+),([^,\[\]]+)\)")


class RangeSection(config.StrictModel):
    """A range that is chosen from, in bins of one width."""

    #: Smallest value.
    lower: float
    #: Where the values end, > lower; it is never drawn itself.
    upper: float
    #: Bins, 2..512: as fine as the reward's dependence on the value, no finer.
    bins: int = pydantic.Field(default=16, ge=2, le=512)

    @pydantic.model_validator(mode="after")
    def _has_a_width(self) -> "RangeSection":
        edges = self.edges
        if not np.all(np.diff(edges) > 0.0):
            raise ValueError(f"lower {self.lower!r} and upper {self.upper!r} leave no room for {self.bins} bins; give lower < upper")
        return self

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, f64[bins + 1]."""
        return np.linspace(self.lower, self.upper, self.bins + 1)

    @property
    def actions(self) -> tuple[str, ...]:
        """Ids of the bins, lowest first."""
        edges = self.edges.tolist()
        return tuple(f"[{low!r},{high!r})" for low, high in itertools.pairwise(edges))


class Bin(NamedTuple):
    """The values in [lower, upper)."""

    lower: float
    upper: float


class Valued(NamedTuple):
    """A value that was drawn, and its density per unit of the value, given the earlier slots."""

    value: float
    density: float


def bin_of(action: str) -> Bin | None:
    """The bin that an action id names; None where it names none."""
    found = _BIN.fullmatch(action)
    try:
        low, high = (float(edge) for edge in found.groups()) if found else (0.0, 0.0)
    except ValueError:
        return None
    return Bin(low, high) if np.isfinite([low, high]).all() and low < high else None


def slot_values(actions: list[str], numerators: list[int], key: np.ndarray) -> list[Valued | None]:
    """Value and density of each slot of a slate, None where its action is no bin; `key` u32[2] of the decision's draws."""
    draws = value_draws(key, len(actions)).tolist()
    return [_valued(bin_of(action), numerator, draw) for action, numerator, draw in zip(actions, numerators, draws, strict=True)]


def _valued(found: Bin | None, numerator: int, draw: int) -> Valued | None:
    if found is None:
        return None
    width = found.upper - found.lower
    # Rounding may reach the upper edge of a bin that is narrow against its place; the last number before it stands in.
    value = min(found.lower + width * (draw / DENOMINATOR), float(np.nextafter(found.upper, found.lower)))
    return Valued(value, numerator / DENOMINATOR / width)
