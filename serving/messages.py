"""From a decision to its messages: the event that is logged and the answer that is given. Pure."""

import math
from collections.abc import Iterator

from bandits.quantise import DENOMINATOR
from protos.events_pb2 import (
    FALLBACK_REASON_KILL_SWITCH,
    FALLBACK_REASON_UNSPECIFIED,
    CandidateSet,
    Decision,
    Event,
    FallbackReason,
    Slot,
)
from protos.policy_pb2 import Explanation, SelectResponse
from serving.decide import Decided, draw_epoch
from serving.validate import Selection

__all__ = ["decision_event", "select_response"]


def decision_event(decided: Decided) -> Event:
    """The record from which the decision can be derived again; its times are set at the append."""
    selection, policy = decided.asked.selection, decided.asked.policy
    rules = selection.rules
    decision = Decision(
        decision_id=decided.decision_id,
        tenant=rules.tenant,
        task=rules.name,
        unit_id=selection.unit_id,
        request_id=selection.request_id,
        parent_decision_id=selection.parent_decision_id,
        context=selection.context.tobytes(),
        candidates=_candidate_set(selection),
        slots=_slots(decided),
        policy=policy.manifest.policy,
        snapshot_digest=policy.digest,
        arm=decided.asked.assignment.arm,
        arm_probability=decided.asked.assignment.probability,
        config_digest=rules.policy.config_digest,
        schema_digest=rules.schema_digest,
        bucket_batch=decided.bucket_batch,
        bucket_candidates=decided.bucket_candidates,
        fallback=_fallback(decided),
        defaulted_features=selection.defaulted,
        draw_by=rules.policy.section.draw_by,
        epoch=draw_epoch(selection),
    )
    return Event(decision=decision)


def select_response(decided: Decided) -> SelectResponse:
    """The answer to a logged decision."""
    policy = decided.asked.policy
    return SelectResponse(
        decision_id=decided.decision_id,
        slots=_slots(decided),
        joint_propensity=math.prod(numerator / DENOMINATOR for numerator in decided.numerators),
        policy=policy.manifest.policy,
        snapshot_digest=policy.digest,
        arm=decided.asked.assignment.arm,
        arm_probability=decided.asked.assignment.probability,
        fallback=_fallback(decided),
        logged=True,
        explanations=_explanations(decided) if decided.asked.selection.explain else (),
        request_id=decided.asked.selection.request_id,
    )


def _slots(decided: Decided) -> Iterator[Slot]:
    columns = (decided.actions, decided.numerators, decided.scores, decided.values)
    for action, numerator, score, valued in zip(*columns, strict=True):
        # What is unset stays unset: a discrete action has no value.
        drawn = {} if valued is None else valued._asdict()
        yield Slot(action=action, numerator=numerator, propensity=numerator / DENOMINATOR, score=score, **drawn)


def _explanations(decided: Decided) -> Iterator[Explanation]:
    for action, score, uncertainty in zip(decided.actions, decided.scores, decided.uncertainties, strict=True):
        yield Explanation(action=action, score=score, uncertainty=uncertainty)


def _candidate_set(selection: Selection) -> CandidateSet:
    """The candidates written out, so that no catalogue is needed to read the log; eligibility only where it says something."""
    return CandidateSet(
        actions=selection.candidates,
        eligible=() if all(selection.eligible) else selection.eligible,
        packed_features=selection.features.tobytes(),
        scores=selection.scores,
    )


def _fallback(decided: Decided) -> FallbackReason.ValueType:
    return FALLBACK_REASON_KILL_SWITCH if decided.asked.kill_switch else FALLBACK_REASON_UNSPECIFIED
