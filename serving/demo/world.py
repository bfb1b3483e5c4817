"""What the demo asks of a world: who comes, what happens with a slate, and how the story is told. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

__all__ = ["Extra", "Happening", "Told", "Visitor", "World"]


class Visitor(Protocol):
    """One page view."""

    @property
    def unit_id(self) -> str:
        """Who comes."""

    @property
    def context(self) -> np.ndarray:
        """Features of the request as they travel, f32[d]."""


class Happening(NamedTuple):
    """What a visitor does with a slate: the slots that are seen, and reward events, each (outcome, slot, value)."""

    seen: tuple[int, ...]
    rewards: tuple[tuple[str, int, float], ...]


class Told(NamedTuple):
    """How the story is told. `began` takes the mean reward of the first champion."""

    title: str
    asked: str
    began: str


class Extra(NamedTuple):
    """What a world adds to the demo's end: lines of the story, figures of summary.json, and parts of the page, (heading, HTML)."""

    lines: Sequence[str] = ()
    figures: Mapping[str, Any] = {}
    parts: Sequence[tuple[str, str]] = ()


class World(Protocol):
    """A task's world."""

    @property
    def task(self) -> str:
        """Name of the task, and of its file."""

    @property
    def slate_size(self) -> int:
        """Slots that a page asks for."""

    @property
    def told(self) -> Told:
        """How the story is told."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of an observation that `extra` reads."""

    def visits(self, rng: np.random.Generator, count: int) -> Sequence[Any]:
        """`count` page views, each a `Visitor`."""

    def happens(self, rng: np.random.Generator, visit: Any, slate: Sequence[str]) -> Happening:
        """What comes of a slate of action ids, top first."""

    def extra(self, rows: pa.Table, *, moved_s: Sequence[float], seed: int) -> Extra:
        """What this world adds. `rows`: latest revisions of all decisions with `columns`, oldest first; `moved_s`: when a challenger was
        promoted, seconds since the first of them."""
