"""What is asked of the evidence before an estimate is looked at: a measure, a limit, and a sentence for a failure. Pure."""

import datetime
import math
from collections.abc import Iterator

from ope.diagnostics import SlotWeights
from ope.gate.config import GateConfig
from ope.gate.evidence import Evidence
from ope.gate.looks import lasting
from ope.gate.verdict import Check

__all__ = ["checks", "scarcity", "unknown"]

_SECOND_US = 1_000_000


def checks(evidence: Evidence, config: GateConfig, slots: list[SlotWeights]) -> tuple[Check, ...]:
    """Every question whose failure is a veto, at every look."""
    return (
        *_of_rows(evidence, config),
        *_of_features(evidence, config),
        *_of_support(evidence, config),
        *_of_weights(evidence, config, slots),
        *_of_propensities(evidence, config),
    )


def scarcity(evidence: Evidence, config: GateConfig, slots: list[SlotWeights]) -> tuple[Check, ...]:
    """What more rows may still mend: effective rows, and weight that a few rows have, in the slots that carry the value."""
    found: list[Check] = []
    for slot, top in zip(slots, evidence.top_share, strict=False):
        if slot.carries:
            found += [_effective(slot, evidence, config), _top(slot, top, config), *_largest(slot, config)]
    return tuple(found)


def unknown(evidence: Evidence) -> tuple[str, ...]:
    """What every verdict says of what it could not see: decisions that were lost, and guardrails of which no event came."""
    silent = (
        f"Not known: what happens to guardrail `{metric}`. It is {value:g} in all {evidence.rows} rows, so that it was not harmed says "
        "nothing; see that its events arrive (`attribution status`)."
        for metric, value in evidence.silent_guardrails.items()
    )
    if evidence.setting.logged is not None:
        return tuple(silent)
    return (
        *silent,
        "Not known: how many decisions were lost before they became rows. No table `events` lies beside the observations and no --account "
        "was given (`attribution status --json`), so only rows that are there were checked.",
    )


def _effective(slot: SlotWeights, evidence: Evidence, config: GateConfig) -> Check:
    effective = slot.effective_sample_size
    needed = config.veto_ess if effective < config.veto_ess else config.min_ess
    return Check(
        f"effective rows, slot {slot.slot}",
        effective,
        needed,
        effective >= config.min_ess,
        f"Slot {slot.slot} has {effective:.0f} effective rows of {evidence.rows} for the challenger (needed: {needed:.0f}; largest weight "
        f"{slot.largest:.1f}): it does what the log seldom did.",
    )


def _top(slot: SlotWeights, share: float, config: GateConfig) -> Check:
    return Check(
        f"weight of the top 0.1 %, slot {slot.slot}",
        share,
        config.max_top_share,
        share <= config.max_top_share,
        f"The top 0.1 % of the rows have {share:.0%} of all weight in slot {slot.slot} (max_top_share = {config.max_top_share:.0%}): a "
        "handful of decisions would decide.",
    )


def _largest(slot: SlotWeights, config: GateConfig) -> Iterator[Check]:
    if config.max_weight is not None:
        reason = f"One row has the weight {slot.largest:.1f} in slot {slot.slot} (max_weight = {config.max_weight:g})."
        yield Check(f"largest weight, slot {slot.slot}", slot.largest, config.max_weight, slot.largest <= config.max_weight, reason)


def _of_rows(evidence: Evidence, config: GateConfig) -> Iterator[Check]:
    trained, setting = evidence.contest.training_watermark_us, evidence.setting
    yield Check(
        "first judged row after training, s",
        (evidence.first_us - trained) / _SECOND_US if evidence.rows else math.inf,
        0.0,
        not evidence.rows or evidence.first_us > trained,
        f"Rows from {_utc(evidence.first_us)} on are judged, but challenger or champion learned from decisions up to {_utc(trained)}: "
        "a policy judged on its own training rows always looks good. Judge later rows only.",
    )
    yield Check(
        "rows whose metrics are no finite number",
        evidence.not_finite,
        0.0,
        not evidence.not_finite,
        f"{evidence.not_finite} of {evidence.rows} rows have a reward that is no finite number: mend the outcome `{config.metric}`, "
        "or that of a guardrail.",
    )
    (smallest, largest), (low, high) = evidence.reward_span, config.reward_range or (-math.inf, math.inf)
    yield Check(
        "reward out of range by",
        max(low - smallest, largest - high, 0.0),
        0.0,
        low <= smallest and largest <= high,
        f"Rewards reach from {smallest:g} to {largest:g}, outside reward_range = [{low:g}, {high:g}]: mend the outcomes or the range.",
    )
    stale_s = (setting.now_us - setting.watermark_us) / _SECOND_US if setting.watermark_us else 0.0
    limit_s = math.inf if config.max_stale_s is None else config.max_stale_s
    yield Check(
        "age of the watermark, s",
        stale_s,
        limit_s,
        stale_s <= limit_s,
        f"The observations are complete only up to {stale_s:.0f} s ago (max_stale_s = {limit_s:g}): a source is silent, and what it would "
        "have told is missing. Look at `attribution status`; for a log of the past, --set gate.max_stale_s=null.",
    )
    yield _lost(evidence, config)


def _of_features(evidence: Evidence, config: GateConfig) -> Iterator[Check]:
    psi, feature = evidence.setting.drift
    if config.max_psi is not None:
        yield Check(
            "drift of a feature, stability index",
            psi,
            config.max_psi,
            psi <= config.max_psi,
            f"The feature {feature!r} of the requests lies elsewhere than in the champion's training rows (stability index {psi:.2f}, "
            f"max_psi = {config.max_psi:g}): a caller sends something else, or the world changed. The store's note `drift` has the others.",
        )


def _utc(microseconds: int) -> str:
    return f"{datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _lost(evidence: Evidence, config: GateConfig) -> Check:
    setting = evidence.setting
    here = sum(evidence.excluded.get(reason, 0) for reason in ("overridden", "unlogged"))
    all_rows = evidence.rows + sum(evidence.excluded.values())
    of_rows = here / all_rows if all_rows >= config.min_rows else 0.0
    # Of a few decisions, one that is lost says nothing.
    of_logged = setting.lost / setting.logged if setting.logged and setting.logged >= config.min_rows else 0.0
    share = max(of_rows, of_logged)
    return Check(
        "share of lost rows",
        share,
        config.max_lost,
        share <= config.max_lost,
        f"{share:.1%} of the decisions are lost (max_lost = {config.max_lost:.1%}; {here} overridden or not logged here, {setting.lost} "
        f"of {setting.logged or 0} logged without a row: expired, erased, quarantined): those that are left may be others than those that "
        "were decided.",
    )


def _of_support(evidence: Evidence, config: GateConfig) -> Iterator[Check]:
    if evidence.rows < config.min_rows:
        return
    yield Check(
        "choices that the log hardly holds",
        evidence.unsupported,
        config.max_unsupported,
        evidence.unsupported <= config.max_unsupported,
        f"The challenger would take actions that no logged slate of these rows holds, or fewer than {config.min_action_rows}, in "
        f"{evidence.unsupported:.1%} of its decisions (max_unsupported = {config.max_unsupported:.1%}): the log says nothing about them. "
        "Let them be explored first.",
    )
    yield Check(
        "choices that the champion does not know",
        evidence.novel,
        config.exploration_budget,
        evidence.novel <= config.exploration_budget,
        f"The challenger would take new actions in {evidence.novel:.1%} of its decisions (exploration_budget = "
        f"{config.exploration_budget:.1%}): declare a budget for them, or let their cold start be explored by the champion first.",
    )


def _of_weights(evidence: Evidence, config: GateConfig, slots: list[SlotWeights]) -> Iterator[Check]:
    """Mean weights that differ from 1 by more than chance.

    A mean falls short of 1 while rare large weights are still to come, and the error does not know of them. So a slot with few effective
    rows is left to that rule; and what is missing must be more than so many rows of the largest possible weight as the log could lack by
    chance: where k are expected, there are none with probability exp(-k).
    """
    if evidence.rows < config.min_rows:
        return
    level = config.mean_weight_level / max(len(slots), 1)
    limit = lasting(config, rows=evidence.rows).half_width(evidence.rows, level)
    for slot in slots:
        enough = slot.effective_sample_size >= config.veto_ess
        largest = max(slot.largest, evidence.reach[slot.slot] if evidence.reach else 0.0)
        wrong = enough and _departs(slot.mean, slot.mean_z, largest, evidence.rows, limit, level)
        yield Check(
            f"mean weight, slot {slot.slot}, standard errors from 1",
            slot.mean_z,
            limit,
            not wrong,
            f"The challenger's mean weight in slot {slot.slot} is {slot.mean:.4f}, {abs(slot.mean_z):.1f} standard errors from 1 "
            f"(limit {limit:.1f}): the logged propensities are not those that were used, rows were chosen by what came of them, or "
            "support is lacking; run `serving replay`.",
        )


def _of_propensities(evidence: Evidence, config: GateConfig) -> Iterator[Check]:
    share = evidence.misreplayed / evidence.replayed if evidence.replayed else 0.0
    yield Check(
        "champion's rows with another propensity than its snapshot gives",
        share,
        config.max_misreplayed,
        share <= config.max_misreplayed,
        f"{evidence.misreplayed} of the {evidence.replayed} rows that the champion itself logged have another propensity than its snapshot "
        f"gives (max_misreplayed = {config.max_misreplayed:.1%}): the log does not say what was drawn from; run `serving replay`.",
    )
    level = config.mean_weight_level / max(len(evidence.versions), 1)
    for version in evidence.versions:
        if version.rows < config.min_rows or version.effective_sample_size < config.veto_ess:
            continue
        limit = lasting(config, rows=version.rows).half_width(version.rows, level)
        what = f"action {version.action!r} was drawn" if version.action else "an action was drawn"
        ratio = "as often as logged" if version.action else "with the probability that was logged"
        yield Check(
            f"propensities of {version.version[:12]}{', action ' + version.action if version.action else ''}, standard errors from 1",
            version.z,
            limit,
            not _departs(version.mean, version.z, version.largest, version.rows, limit, level),
            f"In {version.rows} rows of policy version {version.version[:12]}, {what} {version.mean:.3f} times {ratio} "
            f"({abs(version.z):.1f} standard errors from 1, limit {limit:.1f}): drawn and logged probabilities differ.",
        )


def _departs(mean: float, z: float, largest: float, rows: int, limit: float, level: float) -> bool:
    """Is a mean weight further from 1 than chance, and more missing than a few rare rows would bring?"""
    lacking = (1 - mean) * rows / largest if largest else 0.0
    return abs(z) > limit and not 0 < lacking <= -math.log(level)
