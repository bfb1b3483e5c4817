"""The gate: evidence and config in, verdict out. Pure: it reads no clock, no disk and no store.

Order: vetoes first (the estimate of a vetoed challenger is not shown), then whether there is enough to look at, then the difference.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ope.agreement import contradiction
from ope.diagnostics import SlotWeights, slot_weights
from ope.estimate import difference_of
from ope.estimators import estimator
from ope.gate.checks import checks, scarcity, unknown
from ope.gate.config import GateConfig
from ope.gate.evidence import WEIGHT_EDGES, Contest, Evidence, Setting
from ope.gate.looks import bound
from ope.gate.one_more import OneMore
from ope.gate.verdict import Check, Decision, Verdict
from ope.intervals import Interval
from ope.moments import Moments
from ope.paired import Comparison, paired

__all__ = ["Compared", "both", "broken_guardrails", "compare_all", "gate", "gate_family", "refusal"]


@dataclasses.dataclass(frozen=True)
class Compared:
    """Every comparison of one look."""

    estimates: Mapping[str, Comparison]
    guardrails: Mapping[str, Comparison]
    anchor: Comparison | None


def gate(evidence: Evidence, config: GateConfig, *, level: float | None = None) -> Verdict:
    """Judges a challenger against the champion on the same rows, at `level` (its own share of the declared one where not given).

    `promote`: the bound of the difference exceeds the margin, no guardrail is harmed, and the anchor is kept. `hold`: it does not, and
    no more rows will come, or the other bound says that it never will. `veto`: the evidence itself is not to be believed, or a
    guardrail is broken. `wait`: not yet. Raises GateError for a challenger that is neither refresh nor change.
    """
    level = config.spent_level(evidence.setting.challenger_in_period) if level is None else level
    margin, slots = config.margin(evidence.contest.kind), _slots(evidence, config)
    verdict = _blank(evidence, config, slots, margin=margin, level=level)
    asked = checks(evidence, config, slots)
    if failed := [check for check in asked if not check.passed]:
        reasons = (*(check.reason for check in failed), *unknown(evidence))
        return dataclasses.replace(verdict, decision="veto", checks=_quiet(asked), reasons=reasons)
    scarce = scarcity(evidence, config, slots)
    verdict = dataclasses.replace(verdict, checks=_quiet(asked + scarce))
    decision, reasons = _too_little(evidence, config, scarce)
    if decision == "veto":
        return dataclasses.replace(verdict, decision=decision, reasons=(*reasons, *unknown(evidence)))
    compared = compare_all(evidence, config, level)
    if harmful := _harm(evidence, compared, config):
        return dataclasses.replace(verdict, decision="veto", reasons=(*harmful, *unknown(evidence)), guardrails=compared.guardrails)
    if decision is None:
        decision, reasons = _weigh(evidence, config, compared, margin)
    reasons = (*reasons, *unknown(evidence))
    return dataclasses.replace(verdict, decision=decision, reasons=reasons, segments=evidence.segments, **vars(compared))


def gate_family(family: Sequence[Evidence], config: GateConfig) -> list[Verdict]:
    """Judges several candidates that share the level, by Holm's procedure, and promotes at most the best of them.

    With k candidates still open, each is asked for a bound at level / k; those that have it leave, and the others are asked again
    (Holm, 1979: the probability of ANY false promotion is at most the level).
    """
    whole = min((config.spent_level(evidence.setting.challenger_in_period) for evidence in family), default=config.level)
    verdicts: dict[int, Verdict] = {}
    still = list(range(len(family)))
    while still:
        judged = {place: gate(family[place], config, level=whole / len(still)) for place in still}
        verdicts |= judged
        passed = [place for place in still if judged[place].decision == "promote"]
        still = [place for place in still if place not in passed] if passed else []
    good = [place for place, verdict in verdicts.items() if verdict.decision == "promote"]
    best = max(good, key=lambda place: _gain(verdicts[place]), default=None)
    return [verdicts[p] if p in (best,) or p not in good else _second_best(verdicts[p]) for p in range(len(family))]


def both(offline: Verdict, online: Verdict) -> Verdict:
    """The verdict where logged rows and randomised arms must both say yes: the harsher of the two, with the other beside it."""
    order: tuple[Decision, ...] = ("veto", "hold", "wait", "promote")
    decision = min((offline.decision, online.decision), key=order.index)
    reasons = tuple(f"{v.evidence.capitalize()}: {reason}" for v in (offline, online) for reason in v.reasons)
    other = online
    if decision == "veto":
        offline, other = (dataclasses.replace(v, estimates={}, segments=()) for v in (offline, online))
    return dataclasses.replace(offline, decision=decision, reasons=reasons, evidence="both", other=other)


def refusal(contest: Contest, config: GateConfig, *, reason: str, now_us: int) -> Verdict:
    """The veto of a challenger that cannot be judged at all, say because its snapshot is damaged."""
    setting, counts = Setting(complete=True, now_us=now_us), (0,) * (len(WEIGHT_EDGES) + 1)
    nothing = Evidence(contest, {}, {}, None, 0, 0, 0, {}, 0, (0.0, 0.0), 0.0, 0.0, counts, (), (), (), 0, 0, (), (), setting)
    return dataclasses.replace(_blank(nothing, config, [], margin=0.0, level=config.level), decision="veto", reasons=(reason,))


def _quiet(asked: tuple[Check, ...]) -> tuple[Check, ...]:
    """A question that was answered well needs no sentence."""
    return tuple(check._replace(reason="") if check.passed else check for check in asked)


def _too_little(evidence: Evidence, config: GateConfig, scarce: Sequence[Check]) -> tuple[Decision | None, tuple[str, ...]]:
    """A decision for lack of rows or of effective rows; None where there is enough to look at."""
    over = _over(evidence, config)
    wanted = config.max_rows if config.looks == 1 else config.min_rows
    if evidence.rows < wanted and not over:
        return "wait", (f"{evidence.rows} rows of {wanted}: the next look comes then.",)
    if evidence.rows < config.min_rows:
        return "hold", (f"Only {evidence.rows} rows came (min_rows = {config.min_rows}): nothing can be said of the challenger.",)
    if not (failed := [check for check in scarce if not check.passed]):
        return None, ()
    hopeless = any(not check.name.startswith("effective") or check.value < config.veto_ess for check in failed)
    decision: Decision = "wait" if not over else "veto" if hopeless else "hold"
    return decision, tuple(check.reason for check in failed)


def broken_guardrails(guardrails: Mapping[str, Comparison], config: GateConfig) -> tuple[str, ...]:
    """A sentence for each guardrail that is surely worse than its margin allows."""
    broken = []
    for rail in config.guardrails:
        difference = _good_way(guardrails[rail.metric], rail.direction)
        if difference.upper < -rail.margin:
            broken.append(
                f"Guardrail `{rail.metric}` is broken: the challenger is worse by {-difference.upper:.4f} to {-difference.lower:.4f}, and "
                f"{rail.margin:g} is allowed."
            )
    return tuple(broken)


def _harm(evidence: Evidence, compared: Compared, config: GateConfig) -> tuple[str, ...]:
    """Guardrails that are broken, and estimators that contradict each other: by an interval that holds at every look."""
    broken = broken_guardrails(compared.guardrails, config)
    if evidence.agreement is None:
        return broken
    names = list(evidence.moments)
    by = bound(config, rows=evidence.rows)
    said = contradiction(evidence.agreement, (names[0], names[-1]), interval=by, least_ess=config.veto_ess)
    return broken if said is None else (*broken, f"The estimators {said}.")


def _weigh(evidence: Evidence, config: GateConfig, compared: Compared, margin: float) -> tuple[Decision, tuple[str, ...]]:
    """The decision that the difference allows."""
    name = next(iter(compared.estimates))
    difference = _good_way(compared.estimates[name], config.direction)
    shown = compared.estimates[name].difference
    said = (
        f"The challenger's {config.metric} is {shown.value:+.4f} against the champion's (from {shown.lower:+.4f} to "
        f"{shown.upper:+.4f}, {name}, {evidence.rows} rows)"
    )
    if math.isnan(difference.value):
        return "hold", (f"The difference cannot be estimated: {'; '.join(shown.reasons)}.",)
    end, other = ("lower", "upper") if config.direction == "higher" else ("better", "worse")
    if difference.lower > margin:
        if missing := tuple(_unproven(evidence, config, compared)):
            return "hold" if _over(evidence, config) else "wait", (f"{said}: its {end} end is above {margin:+.4f}.", *missing)
        return "promote", (f"{said}: its {end} end is above {margin:+.4f}.",)
    if difference.upper <= margin:
        return "hold", (f"{said}: its {other} end is not above {margin:+.4f}, so more rows will not help.",)
    if _over(evidence, config):
        return "hold", (f"{said}: its {end} end is not above {margin:+.4f}, and no more rows are asked for.",)
    return "wait", (f"{said}: its {end} end is not above {margin:+.4f} yet.",)


def _unproven(evidence: Evidence, config: GateConfig, compared: Compared) -> list[str]:
    """What a promotion still lacks beside the gain."""
    lacking = []
    for rail in config.guardrails:
        difference = _good_way(compared.guardrails[rail.metric], rail.direction)
        if not difference.lower > -rail.margin:
            lacking.append(f"Guardrail `{rail.metric}` may be worse by {-difference.lower:.4f}, and {rail.margin:g} is allowed.")
    if compared.anchor is not None:
        difference = _good_way(compared.anchor, config.direction)
        if not difference.lower > -config.margin_anchor:
            lacking.append(f"It may be {-difference.lower:.4f} behind the anchor, and {config.margin_anchor:g} is allowed.")
    span_s = (evidence.last_us - evidence.first_us) / 1e6
    if span_s < config.min_span_s:
        lacking.append(f"The rows span {span_s:.0f} s of the {config.min_span_s:.0f} s asked for.")
    return lacking


@dataclasses.dataclass(frozen=True)
class _Improvement:
    """A difference turned so that more is better."""

    value: float
    lower: float
    upper: float


def _good_way(comparison: Comparison, direction: str) -> _Improvement:
    difference = comparison.difference
    if direction == "higher":
        return _Improvement(difference.value, difference.lower, difference.upper)
    return _Improvement(-difference.value, -difference.upper, -difference.lower)


def _over(evidence: Evidence, config: GateConfig) -> bool:
    return evidence.complete or evidence.rows >= config.max_rows


def _slots(evidence: Evidence, config: GateConfig) -> list[SlotWeights]:
    return slot_weights(next(iter(evidence.moments.values())), 0, value_share=config.value_share)


def compare_all(evidence: Evidence, config: GateConfig, level: float, interval: Interval | None = None) -> Compared:
    """Every comparison that the evidence allows, at a one-sided `level`, by the declared interval where no other is given.

    Two-sided intervals at twice the level, whose ends are the one-sided bounds at the level, with one more row than came: the worst for
    the lower end, the best for the upper one (`ope.gate.one_more`), where the evidence has it.
    """
    decides, by = next(iter(evidence.moments)), interval or bound(config, rows=evidence.rows)

    def compare(name: str, moments: Moments, more: OneMore | None) -> Comparison:
        found = paired(estimator(name)).finish(moments, 2 * level, by)
        if more is None or math.isnan(found.difference.value):
            return found
        worst, best = (difference_of(rows, level=2 * level, interval=by) for rows in more)
        return found._replace(difference=dataclasses.replace(found.difference, lower=worst.lower, upper=best.upper))

    return Compared(
        {name: compare(name, moments, evidence.one_more.get(name)) for name, moments in evidence.moments.items()},
        {metric: compare(decides, moments, evidence.guardrails_one_more.get(metric)) for metric, moments in evidence.guardrails.items()},
        None if evidence.anchor is None else compare(decides, evidence.anchor, evidence.anchor_one_more),
    )


def _gain(verdict: Verdict) -> float:
    first = next(iter(verdict.estimates.values()))
    return _good_way(first, verdict.direction).lower


def _second_best(verdict: Verdict) -> Verdict:
    return dataclasses.replace(verdict, decision="hold", reasons=(*verdict.reasons, "But another candidate of the same rows is better."))


def _blank(evidence: Evidence, config: GateConfig, slots: list[SlotWeights], *, margin: float, level: float) -> Verdict:
    """A verdict without a decision: who, by which rules, on which rows."""
    setting, name = evidence.setting, next(iter(evidence.moments), config.estimator)
    return Verdict(
        decision="wait",
        reasons=(),
        contest=evidence.contest,
        metric=config.metric,
        direction=config.direction,
        estimator=name,
        assumption=estimator(name).assumption,
        margin=margin,
        level=level,
        evidence=setting.kind,
        looks=setting.looks_before + 1,
        estimates={},
        guardrails={},
        anchor=None,
        checks=(),
        slots=tuple(slots),
        top_share=evidence.top_share,
        weight_counts=evidence.weight_counts,
        ess_over_time=evidence.ess_over_time,
        versions=evidence.versions,
        segments=(),
        rows=evidence.rows,
        excluded=evidence.excluded,
        first_us=evidence.first_us,
        last_us=evidence.last_us,
        decided_us=setting.now_us,
        config=config.model_dump(mode="json"),
        overridden={},
        inputs=dict(setting.inputs),
        next_share=config.next_share(evidence.contest.share),
    )
