"""Our side of the policy benchmark: what the library gives where no policy is named, on one shuffle, one batch, one world."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bandits.catalog import PolicySpec, build
from bandits.policy import Batch, Dims
from bandits.programs import run_decide, run_prepare, update_program
from bandits.quantise import DENOMINATOR
from bandits.requests import Requests
from bandits.simulation.classification import LabelledRows, Prizes, classification, labelled_rows, right_class
from bandits.simulation.experiment import DEFAULT_FLOOR, DEFAULT_POLICY
from bandits.simulation.run import History, simulate
from bandits.simulation.tables import read_table

__all__ = ["MUSHROOM", "Sets", "Speed", "default_spec", "history", "one_pass", "sets_of", "uniform_error"]

# Eat or leave: an edible mushroom +5, a poisonous one +5 or -35 with equal odds, none 0 (Riquelme et al. 2018).
MUSHROOM = Prizes(value=np.array([[[5.0, 5.0], [0.0, 0.0]], [[5.0, -35.0], [0.0, 0.0]]]), probability=np.full((2, 2, 2), 0.5))
ACTIONS, FEATURES, SLOTS = 20, 32, 3


class Sets(NamedTuple):
    """Classification sets by name; `mushroom` apart, where it is at hand."""

    reward: Mapping[str, LabelledRows]
    mushroom: LabelledRows | None


def sets_of(folder: Path | None) -> Sets:
    """Digits of scikit-learn, and what a folder holds of segment, satimage and mushroom."""
    # Here and not above: `bandits` has to be imported before scipy, which scikit-learn brings.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    spread = pixels.std(axis=0)
    standard = (pixels - pixels.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    found = {"digits": LabelledRows(standard.astype(np.float32), labels.astype(np.int32), tuple("0123456789"))}
    if folder is None:
        return Sets(found, None)
    for name, label in (("segment", "category"), ("satimage", "label")):
        if (folder / f"{name}.csv.gz").exists():
            found[name] = labelled_rows(read_table(folder / f"{name}.csv.gz"), label=label)
    mushroom = folder / "mushroom.csv.gz"
    return Sets(found, labelled_rows(read_table(mushroom, header=False), label="0") if mushroom.exists() else None)


def default_spec(dims: Dims) -> PolicySpec:
    """What a task that names no policy gets."""
    return PolicySpec.of(DEFAULT_POLICY, {}, floor=DEFAULT_FLOOR, dims=dims)


def one_pass(rows: LabelledRows) -> Callable[[range], History]:
    """The default policy over the first 5,000 rows of each shuffle."""
    environment = classification(rows, right_class(len(rows.classes)))
    spec = default_spec(environment.dims)
    return lambda seeds: simulate(environment, spec, rounds=min(5_000, len(rows.label)), seeds=seeds)


def history(rows: LabelledRows, prizes: Prizes, *, rounds: int, seeds: range, learn_every: int = 1) -> History:
    """The default policy on a set with prizes of its own."""
    environment = classification(rows, prizes)
    return simulate(environment, default_spec(environment.dims), rounds=rounds, seeds=seeds, learn_every=learn_every)


def uniform_error(found: History, classes: int) -> tuple[float, float]:
    """Of the uniform policy's IPS value from these logs, mean of the shuffles: its error, and its standard error, as shares of the truth.

    The truth is 1 / classes on every row.
    """
    propensity = found.numerator[:, :, 0] / DENOMINATOR
    by_shuffle = (found.reward[:, :, 0] / propensity).mean(axis=1)
    return float(by_shuffle.mean() - 1.0), float(by_shuffle.std(ddof=1) / np.sqrt(len(by_shuffle)))


class Speed:
    """The default policy with 20 actions and 32 features, trained on rows that the peers get too; times in microseconds."""

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self._columns = columns
        self._spec = default_spec(Dims(actions=ACTIONS, context=FEATURES, features=0))
        self._update = update_program(self._spec)
        self._state = self._update(build(self._spec).init(), self._batch(1_000))
        self._params = run_prepare(self._spec, self._state)

    def decide(self, rows: int, *, repeats: int) -> float:
        """A decision with a slate of three and its propensities, `rows` in a call."""
        rng = np.random.default_rng(1)
        keys = rng.integers(0, 1 << 32, (rows, 2), dtype=np.uint64).astype(np.uint32)
        requests = Requests.of(self._columns["context"][:rows], np.arange(ACTIONS), slots=SLOTS, draw_key=keys)
        return _per_call(lambda: run_decide(self._spec, self._params, requests, slots=SLOTS), repeats) / rows

    def update(self, rows: int) -> float:
        """A row of one update."""
        batch = self._batch(rows)
        jax.block_until_ready(self._update(self._state, batch))
        return _per_call(lambda: jax.block_until_ready(self._update(self._state, batch)), 1) / rows

    def _batch(self, rows: int) -> Batch:
        context, action, reward = (self._columns[name][:rows] for name in ("context", "action", "reward"))
        return Batch.of(context, action, reward, propensity=np.full(rows, 1 / ACTIONS))


def _per_call(function: Callable[[], Any], repeats: int) -> float:
    function()
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - started) / repeats * 1e6


def median(values: Sequence[float]) -> float:
    """Of some rounds."""
    return float(np.median(values))
