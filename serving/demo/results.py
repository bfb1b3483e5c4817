"""What the demo came to: figures and curves from the observations table, the verdicts and the callers' tally. Pure."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from bandits.store import Pointer
from serving.demo.standing import Judgement, Standing
from serving.demo.traffic import Tally
from serving.demo.view import percentiles_ms

__all__ = ["Curve", "Forecast", "Results", "curve", "forecasts", "results", "summary"]

# Two-sided 95 % of a normal distribution.
_Z95 = 1.959964


class Curve(NamedTuple):
    """Mean reward over time: `seconds` since the first decision (middle of each bin), `reward` and `error` (one standard error)."""

    seconds: np.ndarray
    reward: np.ndarray
    error: np.ndarray


class Forecast(NamedTuple):
    """What the gate estimated of a champion before it served, (value, lower, upper), and the mean that came with its 95 % half-width."""

    digest: str
    estimated: tuple[float, float, float]
    realised: float
    half_width: float
    decisions: int


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that the summary, the ten lines and the page are made of."""

    figures: Mapping[str, Any]
    curve: Curve
    forecasts: Sequence[Forecast]
    promoted_s: Sequence[float]
    propensities: np.ndarray
    judgements: tuple[Judgement, ...]


def results(
    *, rows: pa.Table, state: Standing, tally: Tally, pointer: Pointer, status: Mapping[str, Any], replay: Mapping[str, Any], seconds: float
) -> Results:
    """Puts the parts' figures together. `rows`: latest revisions of all decisions, oldest first."""
    began_us = rows["decision_time_us"][0].as_py()
    return Results(
        figures=summary(rows=rows, state=state, tally=tally, pointer=pointer, status=status, replay=replay, seconds=seconds),
        curve=curve(rows),
        forecasts=forecasts(rows, state.judgements),
        promoted_s=[(moved_us - began_us) / 1e6 for moved_us in state.promoted_us],
        propensities=rows["slot_propensity"].combine_chunks().flatten().to_numpy(zero_copy_only=False),
        judgements=state.judgements,
    )


def summary(
    *, rows: pa.Table, state: Standing, tally: Tally, pointer: Pointer, status: Mapping[str, Any], replay: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """The figures of summary.json."""
    reward = rows["reward"].to_numpy()
    tenth = max(len(reward) // 10, 1)
    uniform = reward[rows["snapshot_digest"].to_numpy(zero_copy_only=False) == pointer.baseline]
    p50, p99 = percentiles_ms(list(tally.select_s))
    drills = [judgement for judgement in state.judgements if judgement.label]
    return {
        "answered": tally.answered,
        "acknowledged": tally.acknowledged,
        "unlogged": tally.unlogged,
        "logged": replay["decisions"],
        **{name: status[name] for name in ("joined", "pending", "expired", "quarantined")},
        "duplicate_events": status["events"]["duplicates"],
        "corrected": status["rows"] - status["joined"],
        "promotions": state.count("promote"),
        "holds": state.count("hold"),
        "vetoes": state.count("veto"),
        "drills_stopped": sum(judgement.decision != "promote" for judgement in drills),
        "drills_promoted": sum(judgement.decision == "promote" for judgement in drills),
        "reward_first_tenth": float(reward[:tenth].mean()),
        "reward_last_tenth": float(reward[-tenth:].mean()),
        "reward_uniform": float(uniform.mean()) if len(uniform) else None,
        "replay_draws": replay["replay_draws"],
        "replay_propensities": replay["replay_propensities"],
        "select_p50_ms": p50,
        "select_p99_ms": p99,
        "decisions_per_s": tally.answered / seconds,
        "traffic_s": seconds,
    }


def curve(rows: pa.Table, *, bins: int = 120) -> Curve:
    """Mean reward in equal bins of time."""
    time_s = (rows["decision_time_us"].to_numpy() - rows["decision_time_us"][0].as_py()) / 1e6
    reward = rows["reward"].to_numpy()
    edges = np.linspace(0.0, max(time_s[-1], 1e-6), bins + 1)
    bin_of = np.clip(np.searchsorted(edges, time_s, side="right") - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    filled = count > 0
    mean = np.bincount(bin_of, reward, bins)[filled] / count[filled]
    square = np.bincount(bin_of, reward**2, bins)[filled] / count[filled]
    error = np.sqrt(np.maximum(square - mean**2, 0.0) / count[filled])
    return Curve(seconds=((edges[:-1] + edges[1:]) / 2)[filled], reward=mean, error=error)


def forecasts(rows: pa.Table, judgements: Sequence[Judgement]) -> list[Forecast]:
    """For each promoted challenger: its estimate, and the mean reward of the decisions that it then made."""
    digests = rows["snapshot_digest"].to_numpy(zero_copy_only=False)
    reward = rows["reward"].to_numpy()
    found = []
    for judgement in judgements:
        served = reward[digests == judgement.digest]
        if judgement.decision == "promote" and judgement.challenger is not None and len(served) > 1:
            half_width = _Z95 * float(served.std(ddof=1)) / math.sqrt(len(served))
            found.append(Forecast(judgement.digest, judgement.challenger, float(served.mean()), half_width, len(served)))
    return found
