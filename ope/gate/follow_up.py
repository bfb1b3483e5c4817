"""After a promotion: what was predicted against what came, and whether a guardrail holds under the new champion. Pure."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ope.estimate import Estimate
from ope.gate.config import GateConfig
from ope.gate.decide import broken_guardrails, compare_all, refusal
from ope.gate.evidence import Evidence
from ope.gate.looks import lasting
from ope.gate.verdict import Verdict

__all__ = ["FollowUp", "follow_up"]


@dataclasses.dataclass(frozen=True)
class FollowUp:
    """One look at a promoted champion."""

    # Id of the verdict that promoted it, and what it had predicted of the metric: value and interval.
    verdict: str
    champion: str
    predicted: tuple[float, float, float]
    # What came in its own rows: value and interval; NaN before there are enough rows.
    realised: tuple[float, float, float]
    rows: int
    # The two intervals do not meet: the prediction was wrong.
    wrong: bool
    # A sentence, and one for each broken guardrail.
    said: str
    broken: tuple[str, ...]
    looked_us: int

    def note(self) -> dict[str, Any]:
        """As plain data; numbers that are not finite are null."""
        plain = dataclasses.asdict(self)
        return plain | {name: [x if math.isfinite(x) else None for x in plain[name]] for name in ("predicted", "realised")}


def follow_up(evidence: Evidence, config: GateConfig, *, verdict_id: str, promoted: Verdict) -> tuple[FollowUp, Verdict | None]:
    """Compares the champion's own rows with its verdict, and with the one before it; a second verdict says why it must go, if it must.

    `evidence`: rows that the champion decided since its promotion, with the champion as challenger against the one before. A guardrail
    that is judged by fewer than `veto_ess` effective rows of the one before is not broken yet.
    """
    predicted = next(iter(promoted.estimates.values())).challenger
    compared = None
    if evidence.rows >= config.min_rows:
        compared = compare_all(
            evidence, config, config.level, lasting(config.model_copy(update={"looks": "sequential"}), rows=evidence.rows)
        )
    realised = next(iter(compared.estimates.values())).challenger if compared else None
    wrong = realised is not None and (realised.lower > predicted.upper or realised.upper < predicted.lower)
    broken: tuple[str, ...] = ()
    if compared is not None:
        enough = {name: c for name, c in compared.guardrails.items() if c.champion.effective_sample_size >= config.veto_ess}
        judged = [rail for rail in config.guardrails if rail.metric in enough]
        broken = broken_guardrails(enough, config.model_copy(update={"guardrails": tuple(judged)}))
    found = FollowUp(
        verdict_id,
        evidence.contest.challenger,
        _span(predicted),
        _span(realised),
        evidence.rows,
        wrong,
        _said(config.metric, predicted, realised, wrong, evidence.rows),
        broken,
        evidence.setting.now_us,
    )
    return found, _removal(evidence, config, compared.guardrails, broken) if compared is not None and broken else None


def _removal(evidence: Evidence, config: GateConfig, guardrails: Mapping[str, Any], broken: tuple[str, ...]) -> Verdict:
    said = tuple(f"After its promotion: {sentence}" for sentence in broken)
    verdict = refusal(evidence.contest, config, reason=" ".join(said), now_us=evidence.setting.now_us)
    return dataclasses.replace(
        verdict,
        guardrails=guardrails,
        rows=evidence.rows,
        first_us=evidence.first_us,
        last_us=evidence.last_us,
    )


def _said(metric: str, predicted: Estimate, realised: Estimate | None, wrong: bool, rows: int) -> str:
    was = f"{metric} was predicted as {predicted.value:.4f} (from {predicted.lower:.4f} to {predicted.upper:.4f})"
    if realised is None:
        return f"{was}; {rows} rows came so far, too few to tell."
    came = f"came as {realised.value:.4f} (from {realised.lower:.4f} to {realised.upper:.4f}) in {rows} rows"
    return f"{was} and {came}: {'the prediction was WRONG' if wrong else 'as predicted'}."


def _span(estimate: Estimate | None) -> tuple[float, float, float]:
    return (math.nan,) * 3 if estimate is None else (estimate.value, estimate.lower, estimate.upper)
