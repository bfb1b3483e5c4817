"""A SelectBatch of plain requests that are alike, decided, logged and answered as columns.

Alike are the requests of one task that name the same candidates and the same slate size: of the second and every later one only the unit,
the request id and the numbers may differ from the first, which is read as any request is (`serving.plain`). Everything else in them is
compared with the first, byte by byte. What is not alike, and a batch in which any request has no whole slate, has been seen before or
meets a log that takes nothing, goes the way of all requests, which is the definition: a test compares bytes. Of the ten microseconds of
Python that a decision costs there, this takes four.
"""

import dataclasses
import functools
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bandits.keys import DECISION_ID_BYTES, around_request
from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.programs import Outputs
from bandits.quantise import DENOMINATOR
from bandits.slates import ABSENT
from serving.blocks import DecisionBlock, block, column
from serving.errors import LogUnavailable
from serving.idempotency import RequestKey, RequestMemory
from serving.observers import Observed, Observer
from serving.plain import PlainReader, PlainReaders, Span, first_span, spans
from serving.record import DecidedBy, Shared, shared_fields, slot_blocks, whole_slates
from serving.snapshots import WHOLE, Served, SnapshotHolder
from serving.tasks import TaskKey, TaskRules
from serving.validate import Selection
from serving.wire import double, head, slot_numbers_of

__all__ = ["Alike", "AlikeBatches", "read_alike"]

# Fewer are not worth it: the first is read twice.
_FEWEST = 4
_REQUEST_ID, _LONGEST = 0x22, 127
_Columns = tuple[Sequence[bytes], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Alike:
    """n requests that are alike: the `first` as it was read, and the columns in which they differ.

    `units` and `request_ids` as UTF-8, the latter empty if they have none; `contexts` and `features`: bytes of little-endian float32, not
    yet known to be sound; `data`: the batch as it came.
    """

    first: Selection
    units: Sequence[bytes]
    request_ids: Sequence[bytes]
    contexts: Sequence[bytes]
    features: Sequence[bytes]
    data: bytes

    def __len__(self) -> int:
        return len(self.units)


class _Template(NamedTuple):
    """The first request in parts: up to the unit's length, its length, what stands before its numbers, between those of the context and of
    the candidates, and behind; and how long unit, request id (0 = it has none), context and candidates' numbers are."""

    begun: bytes
    before: bytes
    between: bytes
    behind: bytes
    unit: int
    own: int
    context: int
    features: int

    @property
    def tail(self) -> int:
        """Bytes behind the ids."""
        return len(self.before) + self.context + len(self.between) + self.features + len(self.behind)


def read_alike(readers: PlainReaders, data: bytes) -> Alike | None:
    """The requests of a serialised SelectBatchRequest, if they are alike; else None."""
    try:
        start, end = first_span(data)
        if end * _FEWEST > len(data):
            return None
        reader, at = readers.begun(data, start)
        # Whatever id it has, or gets, is read with those of the others.
        first = reader.read(data, Span(start, end), at, str) if reader is not None else None
        if reader is None or first is None:
            return None
        template = _template(data, Span(start, end), at, reader)
        found = _of_one_length(data, Span(start, end), template) or _of_any_length(data, template)
        if found is None or not (_are_texts(found[0]) and _are_texts(found[1])):
            return None
    except (IndexError, UnicodeDecodeError):
        return None
    units, request_ids, contexts, features = found
    return Alike(first.selection, units, request_ids, contexts, features or [first.selection.features] * len(units), data)


def _template(data: bytes, first: Span, at: int, reader: PlainReader) -> _Template:
    begun, unit, own = data[first.start : at + 1], data[at + 1], 0
    at += 2 + unit
    if data[at] == _REQUEST_ID:
        own = data[at + 1]
        at += 2 + own
    context, features = reader.numbers(data, at, first.end)
    parts = (data[at : context.start], data[context.end : features.start], data[features.end : first.end])
    return _Template(begun, *parts, unit, own, context.end - context.start, features.end - features.start)


def _of_one_length(data: bytes, first: Span, template: _Template) -> _Columns | None:
    """Units, request ids, contexts and features, where all requests have the lengths of the first; they are cut apart in one pass."""
    start, size = first
    if len(data) % size:
        return None
    before, between, behind = template[1:4]
    # What leads to the unit holds its length too; what leads to the numbers begins with the request id's, where there is one.
    led = start + len(template.begun) + 1
    own = (2, template.own) if template.own else (0, 0)
    lengths = (led, template.unit, *own, len(before), template.context, len(between), template.features, len(behind))
    cut = struct.iter_unpack("".join(f"{length}s" for length in lengths), data)
    parts = list(zip(*cut, strict=True))
    if any(part.count(part[0]) < len(part) for part in (parts[0], parts[2], parts[4], parts[6], parts[8])):
        return None
    return parts[1], parts[3] if template.own else (), parts[5], parts[7] if template.features else ()


def _of_any_length(data: bytes, template: _Template) -> _Columns | None:
    """The same, request by request; None where one differs from the template."""
    begun, before, between, behind = template[:4]
    context, features, own_ids = template.context, template.features, template.own > 0
    tail, starts = template.tail, data.startswith
    columns: tuple[list[bytes], ...] = ([], [], [], [])
    units, request_ids, contexts, candidates = columns
    for start, end in spans(data) or ():
        at = start + len(begun)
        size = data[at]
        if not starts(begun, start) or not 0 < size <= _LONGEST:
            return None
        units.append(data[at + 1 : at + 1 + size])
        at += 1 + size
        if own_ids:
            size = data[at + 1]
            if data[at] != _REQUEST_ID or not 0 < size <= _LONGEST:
                return None
            request_ids.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        numbers = at + len(before)
        others = end - len(behind) - features
        if at + tail != end or not (starts(before, at) and starts(between, numbers + context) and starts(behind, others + features)):
            return None
        contexts.append(data[numbers : numbers + context])
        if features:
            candidates.append(data[others : others + features])
    return columns if units else None


def _are_texts(texts: Sequence[bytes]) -> bool:
    """Is each UTF-8 without a NUL? Raises UnicodeDecodeError if one is not."""
    joined = b"".join(texts)
    if not joined.isascii():
        for text in texts:
            text.decode()
    return 0 not in joined


class Written(NamedTuple):
    """Serialised Decisions without their times, the SelectBatchResponse that tells of them, and the SelectResponses in it."""

    bodies: Sequence[bytes]
    message: bytes
    responses: list[bytes]


class AlikeBatches:
    """Answers batches of requests that are alike. Thread-safe."""

    def __init__(
        self,
        readers: PlainReaders,
        holders: Mapping[TaskKey, SnapshotHolder],
        *,
        append: Callable[[Sequence[bytes]], object],
        memory: RequestMemory,
        new_request_id: Callable[[], str],
        observer: Observer,
    ) -> None:
        """`append` as the engine's."""
        self._readers, self._holders = readers, holders
        self._append, self._memory, self._observer = append, memory, observer
        self._new_request_id = new_request_id

    def read(self, data: bytes) -> Alike | None:
        """As `read_alike`."""
        return read_alike(self._readers, data)

    def answer(self, batch: Alike) -> bytes | None:
        """A serialised SelectBatchResponse, whose decisions then stand in the log; None where the requests have to go the way of all."""
        rules = batch.first.rules
        holder = self._holders[rules.key]
        if not holder.ready or not _coverable(rules, holder.served):
            return None
        # Ids that are drawn for them are not remembered: nobody else knows them.
        keys = [(*rules.key, own.decode()) for own in batch.request_ids]
        if keys and not self._memory.claim_all(keys, bodies=_hashes(batch)):
            return None
        written: Written | None = None
        try:
            written = self._decided(batch, holder.served)
        except LogUnavailable:
            pass
        finally:
            self._settle(keys, written)
        return written.message if written is not None else None

    def _settle(self, keys: Sequence[RequestKey], written: Written | None) -> None:
        if keys and written is not None:
            self._memory.keep_all(keys, answers=written.responses)
            return
        for key in keys:
            self._memory.release(key)

    def _decided(self, batch: Alike, served: Served) -> Written | None:
        timer = self._observer.timer
        started_s = timer()
        policy, rules, n = served.deciding, batch.first.rules, len(batch)
        request_ids = batch.request_ids or [self._new_request_id().encode() for _ in range(n)]
        ids = _decision_ids(rules, policy, request_ids)
        width, slots = rules.shapes.of(len(batch.first.candidates.actions), batch.first.slate_size)
        layout = RowLayout(rules.context_size, width, rules.feature_size)
        rows = _rows(batch, policy, ids, layout)
        admitted_s = timer()
        outputs = policy.decide_rows(rows, layout=layout, slots=slots)
        if not outputs.sound.all() or (outputs.slates[:, : batch.first.slate_size] == ABSENT).any():
            return None
        written = _written(batch, request_ids, ids, outputs, served, width)
        decided_s = timer()
        self._append(written.bodies)
        self._observer.batch(Observed(n, n, admitted_s - started_s, decided_s - admitted_s, timer() - decided_s))
        return written


def _coverable(rules: TaskRules, served: Served) -> bool:
    """One policy decides for all, and each draw follows from its decision's id alone."""
    return served.challenger is None and rules.policy.section.draw_by == "decision" and rules.policy.section.range is None


def _hashes(batch: Alike) -> list[bytes]:
    """What the engine remembers of each body."""
    return [hashlib.blake2b(batch.data[start:end], digest_size=16).digest() for start, end in spans(batch.data) or ()]


def _decision_ids(rules: TaskRules, policy: LoadedPolicy, request_ids: Sequence[bytes]) -> list[bytes]:
    """As `bandits.keys.decision_id` for each."""
    before, behind = around_request(rules.tenant, rules.name, WHOLE.arm, policy.digest)
    hashed, size = hashlib.blake2b, DECISION_ID_BYTES
    texts = [b"".join((before, len(own).to_bytes(4, "little"), own, behind)) for own in request_ids]
    return [hashed(text, digest_size=size).digest() for text in texts]


def _rows(batch: Alike, policy: LoadedPolicy, ids: Sequence[bytes], layout: RowLayout) -> np.ndarray:
    """The requests as rows of words."""
    listed = batch.first.candidates
    padding = bytes(4 * layout.features * (layout.width - len(listed.actions)))
    behind = padding + listed.words(policy, layout.width) + batch.first.slate_size.to_bytes(4, "little")
    parts: list[bytes] = []
    for context, features, identifier in zip(batch.contexts, batch.features, ids, strict=True):
        parts += (context, features, behind, identifier[:8])
    return np.frombuffer(b"".join(parts), np.uint32).reshape(len(ids), layout.words)


def _shared(rules: TaskRules, served: Served, outputs: Outputs, width: int) -> list[Shared]:
    """Of each row: those of one compiled shape have it in common."""
    by = DecidedBy(served.deciding, WHOLE, served.kill_switch)
    buckets = outputs.bucket_batch.tolist()
    kinds = {batch: shared_fields(rules, by, batch=batch, width=width, epoch=0) for batch in set(buckets)}
    return [kinds[batch] for batch in buckets]


def _written(batch: Alike, request_ids: Sequence[bytes], ids: Sequence[bytes], outputs: Outputs, served: Served, width: int) -> Written:
    """Decisions and answers, as `serving.record` makes them one by one."""
    listed = batch.first.candidates
    slates, numerators, scores = (found[:, : batch.first.slate_size] for found in (outputs.slates, outputs.numerators, outputs.mean))
    propensities = numerators / DENOMINATOR
    numbers = slot_numbers_of(numerators, propensities, scores)
    shared, joints = _shared(batch.first.rules, served, outputs, width), _joint(propensities)
    lengths = {*map(len, batch.units)}, {*map(len, request_ids)}
    if listed.head_blocks is None or any(len(found) > 1 for found in lengths) or outputs.bucket_batch[0] != outputs.bucket_batch[-1]:
        return _row_by_row(batch, request_ids, ids, whole_slates(listed, slates, numbers), joints, shared)
    return _as_blocks(batch, request_ids, ids, slot_blocks(listed, slates, numbers), joints, shared[0])


def _as_blocks(
    batch: Alike, request_ids: Sequence[bytes], ids: Sequence[bytes], slots: Sequence[np.ndarray], joints: np.ndarray, shared: Shared
) -> Written:
    """Where all are of one length."""
    n, own_head, names, owns = len(ids), head(b"", len(request_ids[0])), column(ids), column(request_ids)
    logged, answered = slots
    decision: list[bytes | np.ndarray] = [b"\x0a\x10", names, shared.decision + head(b"\x22", len(batch.units[0])), column(batch.units)]
    decision += [b"\x2a" + own_head, owns, head(b"\x42", len(batch.contexts[0])), column(batch.contexts)]
    decision += [batch.first.candidates.set_head(len(batch.features[0])), column(batch.features), logged]
    joint = joints.reshape(n, 1).view(np.uint8)
    response: list[bytes | np.ndarray] = [b"\x0a\x10", names, answered, b"\x19", joint, shared.response + b"\x5a" + own_head, owns]
    size = sum(len(part) if isinstance(part, bytes) else part.shape[1] for part in response)
    begun = _result_head(size)
    message = block(n, [begun, *response]).tobytes()
    step = len(begun) + size
    return Written(DecisionBlock(n, decision), message, [message[at + len(begun) : at + step] for at in range(0, n * step, step)])


def _row_by_row(
    batch: Alike,
    request_ids: Sequence[bytes],
    ids: Sequence[bytes],
    slots: Sequence[tuple[bytes, ...]],
    joints: np.ndarray,
    shared: Sequence[Shared],
) -> Written:
    """Where they are not."""
    context_head = head(b"\x42", len(batch.contexts[0]))
    set_head = batch.first.candidates.set_head(len(batch.features[0]))
    bodies, responses = [], []
    rows = zip(batch.units, request_ids, ids, batch.contexts, batch.features, slots, joints.tolist(), shared, strict=True)
    for unit, own, name, context, features, (logged, answered), joint, common in rows:
        unit_head, own_head = head(b"\x22", len(unit)), head(b"", len(own))
        given = (context_head, context, set_head, features, logged)
        bodies.append(b"".join((b"\x0a\x10", name, common.decision, unit_head, unit, b"\x2a", own_head, own, *given)))
        responses.append(b"".join((b"\x0a\x10", name, answered, double(b"\x19", joint), common.response, b"\x5a", own_head, own)))
    return Written(bodies, b"".join([part for one in responses for part in (_result_head(len(one)), one)]), responses)


@functools.lru_cache(maxsize=1024)
def _result_head(size: int) -> bytes:
    """What stands before a SelectResponse of so many bytes in a SelectBatchResponse."""
    own = head(b"\x0a", size)
    return head(b"\x0a", len(own) + size) + own


def _joint(propensities: np.ndarray) -> np.ndarray:
    """Their product by row, in the order of the slots: to the bit what `math.prod` gives."""
    joint = propensities[:, 0].copy()
    for slot in range(1, propensities.shape[1]):
        joint *= propensities[:, slot]
    return joint
