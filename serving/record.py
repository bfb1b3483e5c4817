"""From decisions to bytes: the record that is logged and the answer that is given, both without a message object a slot. Pure."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from bandits.continuous import slot_values
from bandits.loaded import LoadedPolicy
from bandits.quantise import DENOMINATOR
from bandits.slates import ABSENT
from bandits.traffic import Assignment
from protos.events_pb2 import FALLBACK_REASON_KILL_SWITCH, FALLBACK_REASON_UNSPECIFIED, CandidateSet, Decision
from protos.policy_pb2 import SelectResponse
from serving.blocks import rows_of
from serving.candidates import CandidateList
from serving.decide import Asked, Decided, draw_epoch
from serving.errors import RequestRefused
from serving.explain import explanations
from serving.fields import refused
from serving.tasks import TaskRules
from serving.validate import Selection, refuse_unsound
from serving.wire import SLOT_NUMBERS_BYTES, double, head, length_delimited, slot_numbers_of

__all__ = ["DECISION_ID", "DecidedBy", "Recorded", "Shared", "record", "shared_fields", "slot_blocks", "whole_slates"]


#: Where the decision id stands in a body.
DECISION_ID = slice(2, 18)
# Rows at a time from which their slots are laid out together.
_FEW = 16


class Recorded(NamedTuple):
    """A decision, ready to be logged and sent: `place` of its request in what was asked.

    `body`: a Decision without its time, which the append sets; `response`: a SelectResponse. Empty where there is a `fault` instead.
    """

    place: int
    body: bytes
    response: bytes
    fault: RequestRefused | None = None


class DecidedBy(NamedTuple):
    """Who decided, in which arm, and whether that is so because of the kill switch."""

    policy: LoadedPolicy
    assignment: Assignment
    kill_switch: bool


class Shared(NamedTuple):
    """The fields that all decisions of a policy and shape have in common, serialised."""

    decision: bytes
    response: bytes


def record(decided: Decided) -> list[Recorded]:
    """Record and answer of each decision of a group."""
    slates, sound, columns = decided.slates.tolist(), decided.sound.tolist(), _columns(decided)
    shared: dict[tuple[Assignment, int], Shared] = {}
    recorded = []
    for row, (place, asked, slate) in enumerate(zip(decided.places, decided.asked, slates, strict=True)):
        if slate[-1] == ABSENT:
            slate = slate[: slate.index(ABSENT)]
        if not slate or not sound[row]:
            recorded.append(Recorded(place, b"", b"", _fault(asked, sound=sound[row])))
            continue
        kind = (asked.assignment, decided.bucket_batch[row])
        common = shared.get(kind) or shared.setdefault(kind, _shared(asked, kind[1], decided.bucket_candidates))
        recorded.append(_recorded(decided, row, slate, columns, common))
    return recorded


class _Columns(NamedTuple):
    """Of a group of decisions: the `propensities` of their slots; `numbers`, SLOT_NUMBERS_BYTES for each of the n x L slots; and, where
    all slates have L slots of one length, the fields `slots` of each Decision and of its SelectResponse."""

    propensities: list[list[float]]
    numbers: bytes
    slots: list[tuple[bytes, ...]] | None


def _columns(decided: Decided) -> _Columns:
    propensities = decided.numerators / DENOMINATOR
    numbers = slot_numbers_of(decided.numerators, propensities, decided.scores)
    return _Columns(propensities.tolist(), numbers, _slot_blocks(decided, numbers))


def _slot_blocks(decided: Decided, numbers: bytes) -> list[tuple[bytes, ...]] | None:
    """The slots of all rows at once, where their candidates are the same object and nothing is missing."""
    listed, rules = decided.asked[0].selection.candidates, decided.asked[0].selection.rules
    if len(decided.slates) < _FEW or rules.policy.section.range is not None:
        return None
    if any(item.selection.candidates is not listed for item in decided.asked) or (decided.slates == ABSENT).any():
        return None
    return whole_slates(listed, decided.slates, numbers)


def whole_slates(listed: CandidateList, slates: np.ndarray, numbers: bytes) -> list[tuple[bytes, ...]]:
    """The fields `slots` of each Decision and of its SelectResponse, for slates i32[n, L] of one list in which no slot is absent.

    `numbers`: `slot_numbers_of` them.
    """
    if listed.head_blocks is not None:
        return list(zip(*map(rows_of, slot_blocks(listed, slates, numbers)), strict=True))
    slots = slates.shape[1]
    placed = [(at, numbers[place * SLOT_NUMBERS_BYTES :][:SLOT_NUMBERS_BYTES]) for place, at in enumerate(slates.ravel().tolist())]
    columns = [[heads[at] + number for at, number in placed] for heads in (listed.logged_heads, listed.answered_heads)]
    return [tuple(b"".join(column[row : row + slots]) for column in columns) for row in range(0, len(placed), slots)]


def slot_blocks(listed: CandidateList, slates: np.ndarray, numbers: bytes) -> list[np.ndarray]:
    """The same as u8[n, bytes], for a list whose ids have one length (`head_blocks`)."""
    assert listed.head_blocks is not None
    behind = np.frombuffer(numbers, np.uint8).reshape(*slates.shape, SLOT_NUMBERS_BYTES)
    return [np.concatenate((heads[slates], behind), axis=2).reshape(len(slates), -1) for heads in listed.head_blocks]


def _fault(asked: Asked, *, sound: bool) -> RequestRefused:
    """Why there is no decision."""
    if not sound:
        return refuse_unsound(asked.selection)
    return refused("candidates.eligible", "no candidate may be shown in this context (policy.wrappers: mask); ask with others")


def _recorded(decided: Decided, row: int, slate: list[int], columns: _Columns, shared: Shared) -> Recorded:
    selection = decided.asked[row].selection
    logged, answered = _slots(decided, row, slate, columns.numbers) if columns.slots is None else columns.slots[row]
    name = b"\x0a\x10" + decided.ids[row]
    request_id = selection.request_id.encode()
    request_id = head(b"", len(request_id)) + request_id
    unit_id, context = selection.unit_id.encode(), selection.context
    body = (
        name,
        shared.decision,
        head(b"\x22", len(unit_id)),
        unit_id,
        b"\x2a",
        request_id,
        head(b"\x42", len(context)),
        context,
        *_candidate_set(selection),
        logged,
        _seldom(selection) if selection.parent_decision_id or selection.defaulted or selection.further else b"",
    )
    response = (
        name,
        answered,
        double(b"\x19", math.prod(columns.propensities[row][: len(slate)])),
        shared.response,
        b"\x5a",
        request_id,
        _explained(decided, row, slate) if selection.explain else b"",
    )
    return Recorded(decided.places[row], b"".join(body), b"".join(response))


def _shared(asked: Asked, batch: int, width: int) -> Shared:
    by = DecidedBy(asked.policy, asked.assignment, asked.kill_switch)
    return shared_fields(asked.selection.rules, by, batch=batch, width=width, epoch=draw_epoch(asked.selection))


def shared_fields(rules: TaskRules, by: DecidedBy, *, batch: int, width: int, epoch: int) -> Shared:
    """What the decisions of a task have in common that were decided alike, in a shape of so many rows and candidates."""
    fallback = FALLBACK_REASON_KILL_SWITCH if by.kill_switch else FALLBACK_REASON_UNSPECIFIED
    about = (rules.tenant, rules.name, rules.policy.config_digest, rules.schema_digest, rules.policy.section.draw_by)
    decided_by = (by.policy.manifest.policy, by.policy.digest, *by.assignment, fallback)
    return _shared_by(about, decided_by, batch, width, epoch)


@functools.lru_cache(maxsize=1024)
def _shared_by(
    about: tuple[str, str, str, str, str], decided_by: tuple[str, str, str, float, int], batch: int, width: int, epoch: int
) -> Shared:
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
    return Shared(decision.SerializeToString(), SelectResponse(logged=True, **common).SerializeToString())


def _slots(decided: Decided, row: int, slate: list[int], numbers: bytes) -> tuple[bytes, bytes]:
    """The fields `slots` of the Decision and of the SelectResponse."""
    selection, start = decided.asked[row].selection, row * decided.slates.shape[1] * SLOT_NUMBERS_BYTES
    given = [numbers[at : at + SLOT_NUMBERS_BYTES] for at in range(start, start + len(slate) * SLOT_NUMBERS_BYTES, SLOT_NUMBERS_BYTES)]
    if selection.rules.policy.section.range is not None:
        slots = _valued(decided, row, slate, given)
        return b"".join([length_delimited(b"\x52", slot) for slot in slots]), b"".join([length_delimited(b"\x12", slot) for slot in slots])
    logged, answered = selection.candidates.logged_heads, selection.candidates.answered_heads
    placed = list(zip(slate, given, strict=True))
    return b"".join([logged[at] + number for at, number in placed]), b"".join([answered[at] + number for at, number in placed])


def _valued(decided: Decided, row: int, slate: list[int], numbers: list[bytes]) -> list[bytes]:
    """The slots of a continuous range, each a serialised Slot: with the value that was drawn in its bin, and the density there."""
    candidates = decided.asked[row].selection.candidates
    slots = [candidates.slot_heads[at] + given for at, given in zip(slate, numbers, strict=True)]
    actions = [candidates.actions[index] for index in slate]
    numerators = decided.numerators[row, : len(slate)].tolist()
    values = slot_values(actions, numerators, np.frombuffer(decided.draw_keys[row], "<u4"))
    return [
        slot if valued is None else slot + double(b"\x29", valued.value) + double(b"\x31", valued.density)
        for slot, valued in zip(slots, values, strict=True)
    ]


def _candidate_set(selection: Selection) -> tuple[bytes, ...]:
    """The candidates written out, so that no catalogue is needed to read the log; eligibility only where it says something. In parts."""
    if not selection.scores and all(selection.eligible):
        return selection.candidates.set_head(len(selection.features)), selection.features
    given = selection.candidates.encoded
    if selection.features:
        given += length_delimited(b"\x22", selection.features)
    eligible = () if all(selection.eligible) else selection.eligible
    return (length_delimited(b"\x4a", given + CandidateSet(eligible=eligible, scores=selection.scores).SerializeToString()),)


def _seldom(selection: Selection) -> bytes:
    """The fields that few decisions have."""
    given = Decision(parent_decision_id=selection.parent_decision_id, defaulted_features=selection.defaulted)
    return given.SerializeToString() + selection.further


def _explained(decided: Decided, row: int, slate: list[int]) -> bytes:
    uncertainties = decided.uncertainties[row, : len(slate)].tolist()
    reasons = explanations(decided.asked[row], slate, uncertainties, width=decided.bucket_candidates, slots=decided.slates.shape[1])
    return SelectResponse(explanations=reasons).SerializeToString()
