"""A verdict: what the gate says, why, and on what evidence. One JSON whose bytes depend on nothing else."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from ope.diagnostics import SlotWeights
from ope.errors import VerdictError
from ope.estimate import Estimate
from ope.evidence import Contest
from ope.paired import Comparison

__all__ = ["Decision", "Verdict", "from_mapping", "to_json", "to_mapping"]

Decision = Literal["promote", "hold", "veto", "wait"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The gate's word on one challenger. `wait` is no verdict yet."""

    decision: Decision
    # Full sentences, for the one who is on call.
    reasons: tuple[str, ...]
    contest: Contest
    metric: str
    # The estimator that decides, and what must hold for it to be right.
    estimator: str
    assumption: str
    # The difference must exceed this, in the metric's unit; below 0 for a refresh.
    margin: float
    # By estimator, the deciding one first. Empty for a veto: an estimate that must not be believed is not shown.
    estimates: Mapping[str, Comparison]
    # Weights of the challenger by slot.
    slots: tuple[SlotWeights, ...]
    weight_counts: tuple[int, ...]
    rows: int
    excluded: Mapping[str, int]
    # Decision times of the rows, microseconds since the epoch.
    first_us: int
    last_us: int
    # When the evidence was gathered, microseconds since the epoch.
    decided_us: int


def to_mapping(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data, the contest's fields beside its own; numbers that are not finite are null."""
    data = {field.name: getattr(verdict, field.name) for field in dataclasses.fields(verdict)}
    estimates = {name: _comparison(comparison) for name, comparison in verdict.estimates.items()}
    slots = [slot._asdict() for slot in verdict.slots]
    contest = dataclasses.asdict(data.pop("contest"))
    plain: dict[str, Any] = _plain({**data, **contest, "estimates": estimates, "slots": slots})
    return plain


def to_json(verdict: Mapping[str, Any]) -> str:
    """A verdict's mapping as text: keys sorted, two spaces, one final newline. Equal verdicts give equal bytes."""
    return json.dumps(verdict, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_mapping(data: Mapping[str, Any]) -> Verdict:
    """The verdict in plain data. Raises VerdictError if a part is missing or of another shape."""
    try:
        contest = {field.name: data[field.name] for field in dataclasses.fields(Contest)}
        return Verdict(
            **{
                **{name: value for name, value in data.items() if name not in contest},
                "contest": Contest(**contest),
                "reasons": tuple(data["reasons"]),
                "estimates": {name: Comparison(**{k: _estimate(v) for k, v in parts.items()}) for name, parts in data["estimates"].items()},
                "slots": tuple(SlotWeights(**slot) for slot in data["slots"]),
                "weight_counts": tuple(data["weight_counts"]),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise VerdictError(f"not a verdict of this version ({error}); give a file that `ope gate` wrote") from error


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {name: dataclasses.asdict(estimate) for name, estimate in comparison._asdict().items()}


def _estimate(data: Mapping[str, Any]) -> Estimate:
    numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in data.items()}
    return Estimate(**(numbers | {"reasons": tuple(data["reasons"])}))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
