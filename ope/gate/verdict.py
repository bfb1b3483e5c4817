"""A verdict: what the gate says, why, and on what evidence. One JSON whose bytes depend on nothing else."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ope.diagnostics import SlotWeights
from ope.errors import VerdictError
from ope.estimate import Estimate
from ope.gate.calibration import VersionCheck
from ope.gate.evidence import Contest, EssPoint, Segment
from ope.paired import Comparison

__all__ = ["Check", "Decision", "Verdict", "from_mapping", "to_json", "to_mapping"]

Decision = Literal["promote", "hold", "veto", "wait"]


class Check(NamedTuple):
    """One question to the evidence: its measure, the limit that it must keep, and the sentence for whoever is on call if not."""

    name: str
    value: float
    limit: float
    passed: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The gate's word on one challenger. `wait` is no verdict yet."""

    decision: Decision
    # Full sentences, for the one who is on call.
    reasons: tuple[str, ...]
    contest: Contest
    metric: str
    # Which way the metric is good: "higher" or "lower".
    direction: str
    # The estimator that decides, and what must hold for it to be right.
    estimator: str
    assumption: str
    # The difference must exceed this in the good direction, in the metric's unit; below 0 for a refresh.
    margin: float
    # One-sided error of the bound, after sharing with other challengers.
    level: float
    # "offline" or "online" evidence; looks so far, this one included.
    evidence: str
    looks: int
    # By estimator, the deciding one first. Empty for a veto: an estimate that must not be believed is not shown.
    estimates: Mapping[str, Comparison]
    # By metric, challenger against champion; and challenger against the anchor.
    guardrails: Mapping[str, Comparison]
    anchor: Comparison | None
    # Every question that was put to the evidence before an estimate was looked at.
    checks: tuple[Check, ...]
    # Weights of the challenger by slot, and the share of all weight that the top 0.1 % of the rows have.
    slots: tuple[SlotWeights, ...]
    top_share: tuple[float, ...]
    weight_counts: tuple[int, ...]
    ess_over_time: tuple[EssPoint, ...]
    versions: tuple[VersionCheck, ...]
    segments: tuple[Segment, ...]
    rows: int
    excluded: Mapping[str, int]
    # Decision times of the rows, microseconds since the epoch.
    first_us: int
    last_us: int
    # When the evidence was gathered, microseconds since the epoch.
    decided_us: int
    # The whole gate config; what was overridden in a rerun; hashes of what was read, and of which version this is the word.
    config: Mapping[str, Any]
    overridden: Mapping[str, Any]
    inputs: Mapping[str, Any]
    # Share of the traffic that the challenger may have after a `promote`.
    next_share: float
    # The verdict on the arms, where `evidence: both` asks for one beside the logged rows.
    other: "Verdict | None" = None


def to_mapping(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data, the contest's fields beside its own; numbers that are not finite are null."""
    data = {field.name: getattr(verdict, field.name) for field in dataclasses.fields(verdict)}
    contest = dataclasses.asdict(data.pop("contest"))
    other = data.pop("other")
    plain: dict[str, Any] = _plain({**data, **contest, "other": None if other is None else to_mapping(other)})
    return plain


def to_json(verdict: Mapping[str, Any]) -> str:
    """A verdict's mapping as text: keys sorted, two spaces, one final newline. Equal verdicts give equal bytes."""
    return json.dumps(verdict, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_mapping(data: Mapping[str, Any]) -> Verdict:
    """The verdict in plain data. Raises VerdictError if a part is missing or of another shape."""
    try:
        contest = {field.name: data[field.name] for field in dataclasses.fields(Contest)}
        rest = {name: value for name, value in data.items() if name not in contest}
        return Verdict(
            **{
                **rest,
                "contest": Contest(**contest),
                "reasons": tuple(data["reasons"]),
                "estimates": {name: _comparison(parts) for name, parts in data["estimates"].items()},
                "guardrails": {name: _comparison(parts) for name, parts in data["guardrails"].items()},
                "anchor": None if data["anchor"] is None else _comparison(data["anchor"]),
                "checks": tuple(Check(**_numbers(check, "value", "limit")) for check in data["checks"]),
                "slots": tuple(SlotWeights(**slot) for slot in data["slots"]),
                "top_share": tuple(data["top_share"]),
                "weight_counts": tuple(data["weight_counts"]),
                "ess_over_time": tuple(
                    EssPoint(p["until_us"], p["rows"], tuple(p["effective_sample_sizes"])) for p in data["ess_over_time"]
                ),
                "versions": tuple(VersionCheck(**version) for version in data["versions"]),
                "segments": tuple(Segment(s["feature"], s["value"], _estimate(s["difference"])) for s in data["segments"]),
                "other": None if data["other"] is None else from_mapping(data["other"]),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise VerdictError(f"not a verdict of this version ({error}); give a file that `ope gate` wrote") from error


def _comparison(data: Mapping[str, Any]) -> Comparison:
    return Comparison(**{name: _estimate(estimate) for name, estimate in data.items()})


def _estimate(data: Mapping[str, Any]) -> Estimate:
    return Estimate(**(_numbers(data, *data) | {"reasons": tuple(data["reasons"])}))


def _numbers(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The data with NaN where a number of these names is null."""
    return {name: math.nan if value is None and name in names else value for name, value in data.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
