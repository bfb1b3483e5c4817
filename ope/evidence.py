"""Everything that the gate looks at, gathered; no judgement. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ope.estimators import estimator
from ope.moments import Moments
from ope.paired import paired
from ope.rows import Batch, Floats, Keys

__all__ = ["WEIGHT_EDGES", "Contest", "Evidence", "JudgedRows", "evidence_of"]

# Edges of the histogram of the challenger's joint weights, a factor of 2 each; below the first edge and above the last is counted too.
WEIGHT_EDGES: tuple[float, ...] = tuple(2.0**k for k in range(-10, 11))


@dataclasses.dataclass(frozen=True)
class Contest:
    """Who is judged against whom."""

    task: str
    # Digests of the snapshots.
    challenger: str
    champion: str
    # "refresh" or "change", and the label of the challenger's snapshot ("" = none).
    kind: str
    label: str
    # Version of the champion's pointer when the contest began.
    generation: int
    # Both policies learned from decisions up to here: the later of their training watermarks, microseconds since the epoch.
    training_watermark_us: int
    # Digest of the task's config.
    config_digest: str


@dataclasses.dataclass(frozen=True)
class JudgedRows:
    """The rows on which both are judged. n rows, L slots; absent slots as in `rows`."""

    decision_time_us: npt.NDArray[np.int64]
    unit: Keys
    # f64[n, L], in the metric's unit.
    reward: Floats
    # Prefix weights under each policy, f64[n, L].
    challenger: Floats
    champion: Floats
    # bool[n]: the challenger would take, in some slot, an action that no logged slate of the rows holds.
    unsupported: npt.NDArray[np.bool_]
    # Rows left out, by reason.
    excluded: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the rows say."""

    contest: Contest
    # Paired moments by name of estimator.
    moments: Mapping[str, Moments]
    rows: int
    # Decision times of the first and the last row, microseconds since the epoch; 0 where there is no row.
    first_us: int
    last_us: int
    excluded: Mapping[str, int]
    # Rows whose reward is no finite number: counted, and out of the moments.
    not_finite: int
    # Smallest and largest reward of a decision.
    reward_span: tuple[float, float]
    # Share of the challenger's choices that no logged slate holds.
    unsupported: float
    # Counts of the challenger's joint weights: below, between and above WEIGHT_EDGES.
    weight_counts: tuple[int, ...]
    # true = no more rows will come: there must be a verdict now.
    complete: bool
    # When this was gathered, microseconds since the epoch.
    gathered_us: int


def evidence_of(contest: Contest, rows: JudgedRows, *, estimators: Sequence[str], complete: bool, now_us: int) -> Evidence:
    """The evidence in rows, for the named estimators. Raises RowsError for weights that are negative or no numbers."""
    finite = np.isfinite(rows.reward).all(axis=1)
    reward, unit, times = rows.reward[finite], rows.unit[finite], rows.decision_time_us
    challenger, champion = Batch(reward, rows.challenger[finite], unit=unit), Batch(reward, rows.champion[finite], unit=unit)
    sums = reward.sum(axis=1)
    return Evidence(
        contest=contest,
        moments={name: paired(estimator(name)).moments(challenger, champion) for name in dict.fromkeys(estimators)},
        rows=len(times),
        first_us=int(times.min(initial=times[0])) if len(times) else 0,
        last_us=int(times.max(initial=times[0])) if len(times) else 0,
        excluded=dict(rows.excluded),
        not_finite=int((~finite).sum()),
        reward_span=(float(sums.min()), float(sums.max())) if len(sums) else (0.0, 0.0),
        unsupported=float(rows.unsupported.mean()) if len(times) else 0.0,
        weight_counts=_counts(challenger),
        complete=complete,
        gathered_us=now_us,
    )


def _counts(batch: Batch) -> tuple[int, ...]:
    assert batch.weight is not None
    places = np.searchsorted(WEIGHT_EDGES, batch.weight[:, -1], side="right")
    return tuple(np.bincount(places, minlength=len(WEIGHT_EDGES) + 1).tolist())
