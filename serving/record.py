"""From decisions to bytes: the record that is logged and the answer that is given, both without a message object a slot. Pure."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bandits.continuous import slot_values
from bandits.quantise import DENOMINATOR
from bandits.slates import ABSENT
from bandits.traffic import Assignment
from protos.events_pb2 import FALLBACK_REASON_KILL_SWITCH, FALLBACK_REASON_UNSPECIFIED, CandidateSet, Decision
from protos.policy_pb2 import SelectResponse
from serving.decide import Asked, Decided, draw_epoch
from serving.errors import RequestRefused
from serving.explain import explanations
from serving.fields import refused
from serving.validate import Selection, refuse_unsound
from serving.wire import double, length_delimited, slot_numbers

__all__ = ["Recorded", "record"]


class Recorded(NamedTuple):
    """A decision, ready to be logged and sent: `place` of its request in what was asked.

    `body`: a Decision without its time, which the append sets; `response`: a SelectResponse. Empty where there is a `fault` instead.
    """

    place: int
    body: bytes
    response: bytes
    fault: RequestRefused | None = None


def record(decided: Decided) -> Iterator[Recorded]:
    """Record and answer of each decision of a group."""
    shared: dict[tuple[Assignment, int], _Shared] = {}
    for row, (place, asked) in enumerate(zip(decided.places, decided.asked, strict=True)):
        slate = decided.slates[row]
        size = slate.index(ABSENT) if ABSENT in slate else len(slate)
        if not decided.sound[row]:
            yield Recorded(place, b"", b"", refuse_unsound(asked.selection))
        elif size == 0:
            fault = "no candidate may be shown in this context (policy.wrappers: mask); ask with others"
            yield Recorded(place, b"", b"", refused("candidates.eligible", fault))
        else:
            kind = (asked.assignment, decided.bucket_batch[row])
            if kind not in shared:
                shared[kind] = _shared(asked, decided.bucket_batch[row], decided.bucket_candidates)
            yield _recorded(decided, row, place, size, shared[kind])


def _recorded(decided: Decided, row: int, place: int, size: int, shared: "_Shared") -> Recorded:
    selection = decided.asked[row].selection
    logged, answered = _slots(decided, row, size)
    name = b"\x0a\x10" + decided.ids[row]
    request_id = selection.request_id.encode()
    joint = math.prod([numerator / DENOMINATOR for numerator in decided.numerators[row][:size]])
    body = (
        name,
        shared.decision,
        length_delimited(b"\x22", selection.unit_id.encode()),
        length_delimited(b"\x2a", request_id),
        length_delimited(b"\x42", selection.context),
        length_delimited(b"\x4a", _candidate_set(selection)),
        *logged,
        _seldom(selection),
    )
    response = (
        name,
        *answered,
        double(b"\x19", joint),
        shared.response,
        length_delimited(b"\x5a", request_id),
        _explained(decided, row, size) if selection.explain else b"",
    )
    return Recorded(place, b"".join(body), b"".join(response))


class _Shared(NamedTuple):
    """The fields that all decisions of a policy and shape have in common, serialised."""

    decision: bytes
    response: bytes


def _shared(asked: Asked, batch: int, width: int) -> _Shared:
    policy, rules = asked.policy, asked.selection.rules
    fallback = FALLBACK_REASON_KILL_SWITCH if asked.kill_switch else FALLBACK_REASON_UNSPECIFIED
    about = (rules.tenant, rules.name, rules.policy.config_digest, rules.schema_digest, rules.policy.section.draw_by)
    decided_by = (policy.manifest.policy, policy.digest, *asked.assignment, fallback)
    return _shared_by(about, decided_by, batch, width, draw_epoch(asked.selection))


@functools.lru_cache(maxsize=1024)
def _shared_by(
    about: tuple[str, str, str, str, str], decided_by: tuple[str, str, str, float, int], batch: int, width: int, epoch: int
) -> _Shared:
    tenant, task, config_digest, schema_digest, draw_by = about
    names = ("policy", "snapshot_digest", "arm", "arm_probability", "fallback")
    common: dict[str, Any] = dict(zip(names, decided_by, strict=True))
    decision = Decision(
        tenant=tenant,
        task=task,
        config_digest=config_digest,
        schema_digest=schema_digest,
        bucket_batch=batch,
        bucket_candidates=width,
        draw_by=draw_by,
        epoch=epoch,
        **common,
    )
    return _Shared(decision.SerializeToString(), SelectResponse(logged=True, **common).SerializeToString())


def _slots(decided: Decided, row: int, size: int) -> tuple[list[bytes], list[bytes]]:
    """The fields `slots` of the Decision and of the SelectResponse."""
    selection, slate = decided.asked[row].selection, decided.slates[row][:size]
    pairs = zip(decided.numerators[row][:size], decided.scores[row][:size], strict=True)
    numbers = [slot_numbers(numerator, numerator / DENOMINATOR, score) for numerator, score in pairs]
    if selection.rules.policy.section.range is not None:
        slots = _valued(decided, row, slate, numbers)
        return [length_delimited(b"\x52", slot) for slot in slots], [length_delimited(b"\x12", slot) for slot in slots]
    logged, answered = selection.candidates.logged_heads, selection.candidates.answered_heads
    placed = list(zip(slate, numbers, strict=True))
    return [logged[at] + given for at, given in placed], [answered[at] + given for at, given in placed]


def _valued(decided: Decided, row: int, slate: list[int], numbers: list[bytes]) -> list[bytes]:
    """The slots of a continuous range, each a serialised Slot: with the value that was drawn in its bin, and the density there."""
    candidates = decided.asked[row].selection.candidates
    slots = [candidates.slot_heads[at] + given for at, given in zip(slate, numbers, strict=True)]
    actions = [candidates.actions[index] for index in slate]
    values = slot_values(actions, decided.numerators[row][: len(slate)], np.frombuffer(decided.draw_keys[row], "<u4"))
    return [
        slot if valued is None else slot + double(b"\x29", valued.value) + double(b"\x31", valued.density)
        for slot, valued in zip(slots, values, strict=True)
    ]


def _candidate_set(selection: Selection) -> bytes:
    """The candidates written out, so that no catalogue is needed to read the log; eligibility only where it says something."""
    given = selection.candidates.encoded
    if selection.features:
        given += length_delimited(b"\x22", selection.features)
    if selection.scores or not all(selection.eligible):
        eligible = () if all(selection.eligible) else selection.eligible
        given += CandidateSet(eligible=eligible, scores=selection.scores).SerializeToString()
    return given


def _seldom(selection: Selection) -> bytes:
    """The fields that few decisions have."""
    if not selection.parent_decision_id and not selection.defaulted:
        return b""
    return Decision(parent_decision_id=selection.parent_decision_id, defaulted_features=selection.defaulted).SerializeToString()


def _explained(decided: Decided, row: int, size: int) -> bytes:
    slate, uncertainties = decided.slates[row], decided.uncertainties[row]
    reasons = explanations(decided.asked[row], slate[:size], uncertainties[:size], width=decided.bucket_candidates, slots=len(slate))
    return SelectResponse(explanations=reasons).SerializeToString()
