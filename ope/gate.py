"""The gate: evidence and config in, verdict out. Pure: it reads no clock, no disk and no store.

Order: vetoes first (the estimate of a vetoed challenger is not shown), then whether there is enough to look at, then the difference.
"""

import dataclasses
import math
from collections.abc import Iterator

from ope.diagnostics import SlotWeights, slot_weights
from ope.estimators import estimator
from ope.evidence import WEIGHT_EDGES, Contest, Evidence
from ope.gate_config import GateConfig
from ope.intervals import STUDENT_T, Interval, sequential
from ope.paired import Comparison, paired
from ope.verdict import Decision, Verdict

__all__ = ["gate", "refusal"]


def gate(evidence: Evidence, config: GateConfig) -> Verdict:
    """Judges a challenger against the champion on the same rows.

    `promote`: the lower bound of the difference exceeds the margin. `hold`: it does not, and no more rows will come, or the upper bound
    says that it never will. `veto`: the evidence itself is not to be believed. `wait`: not yet. Raises GateError for a challenger that
    is neither refresh nor change.
    """
    margin, slots = config.margin(evidence.contest.kind), _slots(evidence, config)
    vetoes = tuple(_vetoes(evidence, config, slots))
    if vetoes:
        return _verdict(evidence, config, "veto", vetoes, slots, margin=margin)
    decision, reasons = _too_little(evidence, config, slots)
    if decision == "veto":
        return _verdict(evidence, config, decision, reasons, slots, margin=margin)
    names: dict[str, None] = dict.fromkeys((config.estimator, config.cross_check))
    estimates = {name: _compare(evidence, config, name) for name in names}
    if decision is None:
        decision, reasons = _weigh(evidence, config, estimates, margin)
    verdict = _verdict(evidence, config, decision, reasons, slots, margin=margin)
    return dataclasses.replace(verdict, estimates=estimates)


def refusal(contest: Contest, config: GateConfig, *, reason: str, now_us: int) -> Verdict:
    """The veto of a challenger that cannot be judged at all, say because its snapshot is damaged."""
    nothing = Evidence(contest, {}, 0, 0, 0, {}, 0, (0.0, 0.0), 0.0, (0,) * (len(WEIGHT_EDGES) + 1), True, now_us)
    return _verdict(nothing, config, "veto", (reason,), [], margin=0.0)


def _vetoes(evidence: Evidence, config: GateConfig, slots: list[SlotWeights]) -> Iterator[str]:
    """Why the evidence is not to be believed; applied at every look."""
    trained = evidence.contest.training_watermark_us
    if evidence.rows and evidence.first_us <= trained:
        yield (
            f"Rows from {evidence.first_us} us on are judged, but challenger or champion learned from decisions up to {trained} us: "
            "a policy judged on its own training rows always looks good. Judge later rows only."
        )
    if evidence.not_finite:
        yield f"{evidence.not_finite} of {evidence.rows} rows have a reward that is no finite number: mend the outcome `{config.metric}`."
    yield from _out_of_range(evidence, config)
    if evidence.unsupported > config.max_unsupported:
        yield (
            f"The challenger would take actions that no logged slate of these rows holds in {evidence.unsupported:.1%} of its decisions "
            f"(max_unsupported = {config.max_unsupported:.1%}): the log says nothing about them. Let them be explored first."
        )
    yield from _wrong_weights(evidence, config, slots)


def _out_of_range(evidence: Evidence, config: GateConfig) -> Iterator[str]:
    if config.reward_range is None:
        return
    (smallest, largest), (low, high) = evidence.reward_span, config.reward_range
    if smallest < low or largest > high:
        yield f"Rewards reach from {smallest:g} to {largest:g}, outside reward_range = [{low:g}, {high:g}]: mend the outcomes or the range."


def _wrong_weights(evidence: Evidence, config: GateConfig, slots: list[SlotWeights]) -> Iterator[str]:
    """Mean weights that differ from 1 by more than chance.

    A mean falls short of 1 while rare large weights are still to come, and the error does not know of them. So a slot with few effective
    rows is left to that rule; and what is missing must be more than so many rows of the largest weight as the log could lack by chance:
    where k are expected, there are none with probability exp(-k).
    """
    if evidence.rows < config.min_rows:
        return
    level = config.mean_weight_level / max(len(slots), 1)
    limit = _interval(config).half_width(evidence.rows, level)
    for slot in slots:
        lacking = (1 - slot.mean) * evidence.rows / slot.largest if slot.largest else 0.0
        if slot.effective_sample_size >= config.veto_ess and abs(slot.mean_z) > limit and not 0 < lacking <= -math.log(level):
            yield (
                f"The challenger's mean weight in slot {slot.slot} is {slot.mean:.4f}, {abs(slot.mean_z):.1f} standard errors from 1 "
                f"(limit {limit:.1f}): the logged propensities are not those that were used, or support is lacking; run `serving replay`."
            )


def _too_little(evidence: Evidence, config: GateConfig, slots: list[SlotWeights]) -> tuple[Decision | None, tuple[str, ...]]:
    """A decision for lack of rows or of effective rows; None where there is enough to look at."""
    over = _over(evidence, config)
    wanted = config.max_rows if config.looks == 1 else config.min_rows
    if evidence.rows < wanted and not over:
        return "wait", (f"{evidence.rows} rows of {wanted}: the next look comes then.",)
    if evidence.rows < config.min_rows:
        return "hold", (f"Only {evidence.rows} rows came (min_rows = {config.min_rows}): nothing can be said of the challenger.",)
    scarce = [slot for slot in slots if slot.carries and slot.effective_sample_size < config.min_ess]
    if not scarce:
        return None, ()
    worst = min(slot.effective_sample_size for slot in scarce)
    decision: Decision = "wait" if not over else "veto" if worst < config.veto_ess else "hold"
    return decision, tuple(_scarcity(slot, evidence, config) for slot in scarce)


def _scarcity(slot: SlotWeights, evidence: Evidence, config: GateConfig) -> str:
    needed = config.veto_ess if slot.effective_sample_size < config.veto_ess else config.min_ess
    return (
        f"Slot {slot.slot} has {slot.effective_sample_size:.0f} effective rows of {evidence.rows} for the challenger (needed: "
        f"{needed:.0f}; largest weight {slot.largest:.1f}): it does what the log seldom did."
    )


def _weigh(evidence: Evidence, config: GateConfig, estimates: dict[str, Comparison], margin: float) -> tuple[Decision, tuple[str, ...]]:
    """The decision that the difference allows."""
    difference = estimates[config.estimator].difference
    said = (
        f"The challenger's {config.metric} is {difference.value:+.4f} against the champion's (from {difference.lower:+.4f} to "
        f"{difference.upper:+.4f}, {config.estimator}, {evidence.rows} rows)"
    )
    if math.isnan(difference.value):
        return "hold", (f"The difference cannot be estimated: {'; '.join(difference.reasons)}.",)
    if difference.lower > margin:
        return _cross_checked(config, estimates, margin, f"{said}: its lower end is above {margin:+.4f}.")
    if difference.upper <= margin:
        return "hold", (f"{said}: its upper end is not above {margin:+.4f}, so more rows will not help.",)
    if _over(evidence, config):
        return "hold", (f"{said}: its lower end is not above {margin:+.4f}, and no more rows are asked for.",)
    return "wait", (f"{said}: its lower end is not above {margin:+.4f} yet.",)


def _cross_checked(config: GateConfig, estimates: dict[str, Comparison], margin: float, said: str) -> tuple[Decision, tuple[str, ...]]:
    other = estimates[config.cross_check].difference
    if other.upper <= margin:
        against = f"{config.cross_check} puts it between {other.lower:+.4f} and {other.upper:+.4f}"
        assumption = estimator(config.estimator).assumption
        return "hold", (said, f"But {against}: what {config.estimator} assumes ({assumption}) seems to fail.")
    return "promote", (said,)


def _over(evidence: Evidence, config: GateConfig) -> bool:
    return evidence.complete or evidence.rows >= config.max_rows


def _slots(evidence: Evidence, config: GateConfig) -> list[SlotWeights]:
    return slot_weights(evidence.moments[config.estimator], 0, value_share=config.value_share)


def _interval(config: GateConfig) -> Interval:
    """Declared before the first look. The sequence is narrowest midway (geometrically) between the first and the last look."""
    return STUDENT_T if config.looks == 1 else sequential(tuned_for=math.isqrt(config.min_rows * config.max_rows))


def _compare(evidence: Evidence, config: GateConfig, name: str) -> Comparison:
    """Two-sided intervals at twice the level, whose lower end is the one-sided bound at the level."""
    return paired(estimator(name)).finish(evidence.moments[name], 2 * config.level, _interval(config))


def _verdict(
    evidence: Evidence, config: GateConfig, decision: Decision, reasons: tuple[str, ...], slots: list[SlotWeights], *, margin: float
) -> Verdict:
    return Verdict(
        decision=decision,
        reasons=reasons,
        contest=evidence.contest,
        metric=config.metric,
        estimator=config.estimator,
        assumption=estimator(config.estimator).assumption,
        margin=margin,
        estimates={},
        slots=tuple(slots),
        weight_counts=evidence.weight_counts,
        rows=evidence.rows,
        excluded=evidence.excluded,
        first_us=evidence.first_us,
        last_us=evidence.last_us,
        decided_us=evidence.gathered_us,
    )
