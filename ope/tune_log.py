"""A log cut in three by time for `ope tune`: what trials learn from, what they are compared on, and what the winner is judged on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bandits.catalog import outcomes
from bandits.config import TaskPolicy
from bandits.policy import Batch as TrainingRows
from bandits.requests import Requests, requests_from_observations
from bandits.training import training_rows
from ope import observed
from ope.errors import SourceError
from ope.rows import Batch, Floats, Keys, prefix_weights
from protos.observation_reader import latest_revisions, observed_watermark_us
from protos.task import TaskFile

__all__ = ["Part", "TuningLog", "read_tuning_log"]

# Shares of the rows: half teaches, a quarter compares, a quarter judges.
_TEACHES, _COMPARES = 0.5, 0.75
# Fewer rows than this make no estimate that a search could follow.
_FEWEST = 1_000


class Part(NamedTuple):
    """n logged decisions of at most L slots, and what came of them by metric, f64[n, L] each."""

    requests: Requests
    slates: npt.NDArray[np.int32]
    numerator: Floats
    present: npt.NDArray[np.bool_]
    unit: Keys
    metrics: Mapping[str, Floats]

    def batch(self, numerators: np.ndarray, *, metric: str) -> Batch:
        """The rows weighted for a policy with these numerators, u32[n, L]."""
        weight = prefix_weights(target=numerators, logged=self.numerator, present=self.present)
        return Batch(self.metrics[metric], weight, unit=self.unit)


class TuningLog(NamedTuple):
    """The three parts, oldest first."""

    teaches: TrainingRows
    compares: Part
    judges: Part


def read_tuning_log(observations: Path, task: TaskFile, policy: TaskPolicy, *, metrics: Sequence[str]) -> TuningLog:
    """The closed decisions of a task in three parts. Raises SourceError for too few, ObservationsError, FeatureError, RowsError."""
    until_us = (observed_watermark_us(observations) or 0) - observed.longest_window_us(task)
    rows = latest_revisions(observations, task=task.name, decided_until_us=until_us)
    rows, _ = observed.usable(observed.settled(rows.filter(pc.equal(rows["schema_digest"], policy.schema.digest))))
    if rows.num_rows < _FEWEST:
        raise SourceError(f"--observations: {rows.num_rows} closed decisions of {task.name!r}; give a log of at least {_FEWEST}")
    first, second = int(rows.num_rows * _TEACHES), int(rows.num_rows * _COMPARES)
    taught = rows.slice(0, first)
    return TuningLog(
        teaches=training_rows(
            taught.append_column("sign", pa.array(np.ones(first))),
            actions=policy.schema.actions,
            context_size=policy.schema.context_size,
            feature_size=policy.schema.action_feature_size,
            train_on=policy.section.train_on,
            outcomes=outcomes(policy.spec),
        ),
        compares=_part(rows.slice(first, second - first), policy, metrics),
        judges=_part(rows.slice(second), policy, metrics),
    )


def _part(rows: pa.Table, policy: TaskPolicy, metrics: Sequence[str]) -> Part:
    size, schema = policy.schema.action_feature_size, policy.schema
    requests, slates = requests_from_observations(rows, actions=schema.actions, context_size=schema.context_size, feature_size=size)
    seen = dict(_by_metric(rows, metrics))
    any_one = next(iter(seen.values()))
    return Part(requests, slates, any_one.numerator, any_one.present, any_one.unit, {name: one.reward for name, one in seen.items()})


def _by_metric(rows: pa.Table, metrics: Sequence[str]) -> Iterator[tuple[str, observed.Observed]]:
    for metric in dict.fromkeys(metrics):
        yield metric, observed.observed(rows, metric=metric)
