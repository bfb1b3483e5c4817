"""Everything that the gate looks at, gathered; no judgement. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ope.agreement import agreement
from ope.estimate import Estimate
from ope.estimators import estimator
from ope.gate.calibration import Draws, VersionCheck, calibrations
from ope.gate.one_more import OneMore, one_more
from ope.intervals import STUDENT_T
from ope.moments import Moments
from ope.paired import paired
from ope.rows import Batch, Floats, Keys

__all__ = ["WEIGHT_EDGES", "Contest", "EssPoint", "Evidence", "JudgedRows", "Segment", "Setting", "evidence_of"]

# Edges of the histogram of the challenger's joint weights, a factor of 2 each; below the first edge and above the last is counted too.
WEIGHT_EDGES: tuple[float, ...] = tuple(2.0**k for k in range(-10, 11))
# Points of the picture of effective rows over time.
_ESS_POINTS = 20
# Level of the intervals of segments: they are shown, nothing is decided by them.
_SEGMENT_LEVEL = 0.1
_NOTHING: Mapping[str, Any] = MappingProxyType({})


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
    # Share of the traffic that the challenger has now (0 = none), and rows after which are of this step, microseconds since the epoch.
    share: float = 0.0
    step_began_us: int = 0


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
    # bool[n]: the challenger would take, in some slot, an action that these rows hold never or hardly ever.
    unsupported: npt.NDArray[np.bool_]
    # Rows left out, by reason.
    excluded: Mapping[str, int]
    # Prefix weights of the anchor, where there is one.
    anchor: Floats | None = None
    # Rewards of the guardrails by metric, f64[n, L] each.
    guardrails: Mapping[str, Floats] = dataclasses.field(default_factory=dict)
    # bool[n]: the challenger would take an action that the champion does not know.
    novel: npt.NDArray[np.bool_] | None = None
    draws: Draws | None = None
    # bool[n] by name: rows that the champion's snapshot logged, and those of them whose propensity it does not give again.
    replayed: npt.NDArray[np.bool_] | None = None
    misreplayed: npt.NDArray[np.bool_] | None = None
    # Largest weight that a row could have had, by slot: 1 / the smallest logged probability of a prefix, f64[L]. None = not known.
    reach: Floats | None = None
    # Segment of each row by feature, str[n].
    segments: Mapping[str, npt.NDArray[np.str_]] = dataclasses.field(default_factory=dict)


class Setting(NamedTuple):
    """What surrounds the rows."""

    # true = no more rows will come: there must be a verdict now.
    complete: bool
    # When this was gathered, and the table's watermark, microseconds since the epoch; 0 = not known.
    now_us: int
    watermark_us: int = 0
    # Decisions logged, and how many of them have no row (expired, erased, quarantined); None = there is no account of them.
    logged: int | None = None
    lost: int = 0
    # Looks taken before this one, and which challenger of its period it is, from 1.
    looks_before: int = 0
    challenger_in_period: int = 1
    # "offline" or "online".
    kind: str = "offline"
    # SHA-256 of what was read, and where the reading ended.
    inputs: Mapping[str, Any] = _NOTHING
    # The largest stability index of a feature, and the feature; 0, "" = none was told of.
    drift: tuple[float, str] = (0.0, "")


class EssPoint(NamedTuple):
    """Effective rows of the challenger, slot by slot, in all rows up to a time (microseconds since the epoch)."""

    until_us: int
    rows: int
    effective_sample_sizes: tuple[float, ...]


class Segment(NamedTuple):
    """The difference among the rows of one segment."""

    feature: str
    value: str
    difference: Estimate


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the rows say."""

    contest: Contest
    # Paired moments by name of estimator, the deciding one first.
    moments: Mapping[str, Moments]
    # Challenger and champion by guardrail's metric, and challenger and anchor, under the deciding estimator.
    guardrails: Mapping[str, Moments]
    anchor: Moments | None
    rows: int
    # Decision times of the first and the last row, microseconds since the epoch; 0 where there is no row.
    first_us: int
    last_us: int
    excluded: Mapping[str, int]
    # Rows whose reward (or guardrail) is no finite number: counted, and out of the moments.
    not_finite: int
    # Smallest and largest reward of a decision.
    reward_span: tuple[float, float]
    # Share of the challenger's choices that no logged slate holds, or hardly; and of actions that the champion does not know.
    unsupported: float
    novel: float
    # Counts of the challenger's joint weights: below, between and above WEIGHT_EDGES.
    weight_counts: tuple[int, ...]
    # Share of all weight that the top 0.1 % of the rows have, by slot.
    top_share: tuple[float, ...]
    # Largest weight that a row could have had, by slot; empty where it is not known.
    reach: tuple[float, ...]
    versions: tuple[VersionCheck, ...]
    # The champion's own rows, and those with another propensity than its snapshot gives.
    replayed: int
    misreplayed: int
    ess_over_time: tuple[EssPoint, ...]
    segments: tuple[Segment, ...]
    setting: Setting
    # Difference of the deciding estimator and the cross-check (`ope.agreement`); None where there is one estimator.
    agreement: Moments | None = None
    # Of each of the moments above, with one more row: the worst and the best for the challenger. None of a refresh, nor where there is no
    # row.
    one_more: Mapping[str, OneMore] = dataclasses.field(default_factory=dict)
    guardrails_one_more: Mapping[str, OneMore] = dataclasses.field(default_factory=dict)
    anchor_one_more: OneMore | None = None
    # Guardrails that have one value in every row, and that value: of a refresh their difference is 0 without any doubt, which is no proof.
    silent_guardrails: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """true = no more rows will come: there must be a verdict now."""
        return self.setting.complete


def evidence_of(contest: Contest, rows: JudgedRows, *, estimators: Sequence[str], setting: Setting) -> Evidence:
    """The evidence in rows, for the named estimators, the deciding one first. Raises RowsError for weights that are no weights."""
    n = len(rows.decision_time_us)
    finite = np.asarray(np.isfinite(rows.reward).all(axis=1), np.bool_)
    for other in rows.guardrails.values():
        finite &= np.isfinite(other).all(axis=1)
    unit, reward = rows.unit[finite], rows.reward[finite]
    decides = paired(estimator(estimators[0]))

    def batch(weight: Floats, metric: Floats = reward) -> Batch:
        return Batch(metric, weight[finite], unit=unit)

    def both(metric: Floats) -> tuple[Batch, Batch]:
        return batch(rows.challenger, metric), batch(rows.champion, metric)

    challenger, champion = both(reward)
    moments = {name: paired(estimator(name)).moments(challenger, champion) for name in dict.fromkeys(estimators)}
    guardrails = {name: both(metric[finite]) for name, metric in rows.guardrails.items()}
    of_guardrails = {name: decides.moments(*batches) for name, batches in guardrails.items()}
    against = None if rows.anchor is None else (challenger, batch(rows.anchor))
    of_anchor = None if against is None else decides.moments(*against)
    # A refresh differs from the champion by little and is allowed to be a little worse: one row more than came would hold it for ever.
    some, name = bool(len(reward)) and contest.kind == "change", estimators[0]
    return Evidence(
        contest=contest,
        moments=moments,
        guardrails=of_guardrails,
        anchor=of_anchor,
        one_more={kind: one_more(kind, challenger, champion, found) for kind, found in moments.items() if some},
        guardrails_one_more={metric: one_more(name, *batches, of_guardrails[metric]) for metric, batches in guardrails.items() if some},
        silent_guardrails={name: float(metric[0, 0]) for name, metric in rows.guardrails.items() if n and (metric == metric[0, 0]).all()},
        anchor_one_more=None if against is None or of_anchor is None or not some else one_more(name, *against, of_anchor),
        rows=n,
        first_us=int(rows.decision_time_us.min()) if n else 0,
        last_us=int(rows.decision_time_us.max()) if n else 0,
        excluded=dict(rows.excluded),
        not_finite=int((~finite).sum()),
        reward_span=(float(reward.sum(axis=1).min()), float(reward.sum(axis=1).max())) if len(reward) else (0.0, 0.0),
        unsupported=_share(rows.unsupported),
        novel=_share(rows.novel),
        weight_counts=_counts(rows.challenger[finite]),
        top_share=_top_share(rows.challenger[finite]),
        reach=() if rows.reach is None else tuple(rows.reach.tolist()),
        versions=calibrations(rows.draws, rows.unit) if rows.draws is not None and n else (),
        replayed=_count(rows.replayed),
        misreplayed=_count(rows.misreplayed),
        ess_over_time=_ess_over_time(rows),
        segments=_segments(rows, finite, estimators[0]),
        setting=setting,
        agreement=_agreement(estimators, challenger, champion),
    )


def _agreement(names: Sequence[str], challenger: Batch, champion: Batch) -> Moments | None:
    first, second = estimator(names[0]), estimator(names[-1])
    return None if first.name == second.name else agreement(first, second).moments(challenger, champion)


def _share(flags: npt.NDArray[np.bool_] | None) -> float:
    return float(flags.mean()) if flags is not None and len(flags) else 0.0


def _count(flags: npt.NDArray[np.bool_] | None) -> int:
    return 0 if flags is None else int(flags.sum())


def _counts(weight: Floats) -> tuple[int, ...]:
    places = np.searchsorted(WEIGHT_EDGES, weight[:, -1], side="right")
    return tuple(np.bincount(places, minlength=len(WEIGHT_EDGES) + 1).tolist())


def _top_share(weight: Floats) -> tuple[float, ...]:
    """Of at least one row, so that a single huge weight is seen in a short log too."""
    top = max(len(weight) // 1_000, 1)
    total = weight.sum(axis=0)
    largest = np.sort(weight, axis=0)[-top:].sum(axis=0)
    return tuple((largest / np.where(total > 0, total, 1.0)).tolist())


def _ess_over_time(rows: JudgedRows) -> tuple[EssPoint, ...]:
    n = len(rows.decision_time_us)
    if n == 0:
        return ()
    order = np.argsort(rows.decision_time_us, kind="stable")
    weight = rows.challenger[order]
    total, square = np.cumsum(weight, axis=0), np.cumsum(weight**2, axis=0)
    effective = np.divide(total**2, square, out=np.zeros_like(total), where=square > 0)
    ends = np.unique(np.linspace(0, n - 1, _ESS_POINTS + 1).astype(int)[1:])
    return tuple(EssPoint(int(rows.decision_time_us[order[end]]), int(end) + 1, tuple(effective[end].tolist())) for end in ends)


def _segments(rows: JudgedRows, finite: npt.NDArray[np.bool_], name: str) -> tuple[Segment, ...]:
    compared = paired(estimator(name))
    found = []
    for feature, values in rows.segments.items():
        for value in np.unique(values).tolist():
            mine = finite & (values == value)
            batches = (Batch(rows.reward[mine], weight[mine], unit=rows.unit[mine]) for weight in (rows.challenger, rows.champion))
            found.append(Segment(feature, value, compared.finish(compared.moments(*batches), _SEGMENT_LEVEL, STUDENT_T).difference))
    return tuple(found)
