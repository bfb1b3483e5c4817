"""A SelectBatch of plain requests that are alike, decided, logged and answered as columns.

Alike are the requests of one task that name the same candidates and the same slate size: of the second and every later one only the unit,
the request id and the numbers may differ from the first, which is read as any request is (`serving.plain`). Everything else in them is
compared with the first, byte by byte. What is not alike, and a batch in which any request has no whole slate, has been seen before or
meets a log that takes nothing, goes the way of all requests, which is the definition: a test compares bytes. Of the ten microseconds of
Python that a decision costs there, this takes four.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bandits.keys import DECISION_ID_BYTES, around_request
from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.programs import Outputs
from bandits.quantise import DENOMINATOR
from bandits.slates import ABSENT
from serving.errors import LogUnavailable
from serving.idempotency import RequestKey, RequestMemory
from serving.observers import Observed, Observer
from serving.plain import PlainReader, PlainReaders, Span, spans
from serving.record import DecidedBy, Shared, shared_fields, whole_slates
from serving.snapshots import WHOLE, Served, SnapshotHolder
from serving.tasks import TaskKey, TaskRules
from serving.validate import Selection
from serving.wire import double, head, slot_numbers_of

__all__ = ["Alike", "AlikeBatches", "read_alike"]

# Fewer are not worth it: the first is read twice.
_FEWEST = 4
_UNIT, _REQUEST_ID, _LONGEST = 0x1A, 0x22, 127


@dataclasses.dataclass(frozen=True, slots=True)
class Alike:
    """n requests that are alike: the `first` as it was read, and the columns in which they differ.

    `units` and `request_ids` as UTF-8, the latter empty if they have none; `contexts` and `features`: bytes of little-endian float32, not
    yet known to be sound; `data` holds the requests themselves, at `places`.
    """

    first: Selection
    units: list[bytes]
    request_ids: list[bytes]
    contexts: list[bytes]
    features: list[bytes]
    data: bytes
    places: list[Span]

    def __len__(self) -> int:
        return len(self.units)


class _Template(NamedTuple):
    """What is the same in all of them: from the task's name to the unit; then, `tail` bytes in all, up to the context's numbers, up to the
    candidates', and behind those."""

    begun: bytes
    before: bytes
    between: bytes
    behind: bytes
    context: int
    features: int
    own_ids: bool

    @property
    def tail(self) -> int:
        return len(self.before) + self.context + len(self.between) + self.features + len(self.behind)


def read_alike(readers: PlainReaders, data: bytes) -> Alike | None:
    """The requests of a serialised SelectBatchRequest, if they are alike; else None."""
    places = spans(data)
    if places is None or len(places) < _FEWEST:
        return None
    try:
        reader, at = readers.begun(data, places[0].start)
        # Whatever id it has, or gets, is read with those of the others.
        first = reader.read(data, places[0], at, str) if reader is not None else None
        if reader is None or first is None:
            return None
        found = _columns(data, places, _template(data, places[0], at, reader))
        if found is None or not (_are_texts(found[0]) and _are_texts(found[1])):
            return None
    except (IndexError, UnicodeDecodeError):
        return None
    units, request_ids, contexts, features = found
    return Alike(first.selection, units, request_ids, contexts, features or [first.selection.features] * len(units), data, places)


def _template(data: bytes, first: Span, at: int, reader: PlainReader) -> _Template:
    begun = data[first.start : at]
    at += 2 + data[at + 1]
    own_ids = data[at] == _REQUEST_ID
    if own_ids:
        at += 2 + data[at + 1]
    context, features = reader.numbers(data, at, first.end)
    parts = (data[at : context.start], data[context.end : features.start], data[features.end : first.end])
    return _Template(begun, *parts, context.end - context.start, features.end - features.start, own_ids)


def _columns(data: bytes, places: Sequence[Span], template: _Template) -> tuple[list[bytes], ...] | None:
    """Units, request ids, contexts and features (empty where none are given); None where a request differs from the template."""
    begun, before, between, behind, context, features, own_ids = template
    tail, starts = template.tail, data.startswith
    columns: tuple[list[bytes], ...] = ([], [], [], [])
    units, request_ids, contexts, candidates = columns
    for start, end in places:
        unit = start + len(begun)
        size = data[unit + 1]
        at = unit + 2 + size
        if not (starts(begun, start) and data[unit] == _UNIT and 0 < size <= _LONGEST):
            return None
        units.append(data[unit + 2 : at])
        if own_ids:
            size, own = data[at + 1], at + 2
            if data[at] != _REQUEST_ID or not 0 < size <= _LONGEST:
                return None
            at = own + size
            request_ids.append(data[own:at])
        numbers = at + len(before)
        others = end - len(behind) - features
        if at + tail != end or not (starts(before, at) and starts(between, numbers + context) and starts(behind, others + features)):
            return None
        contexts.append(data[numbers : numbers + context])
        if features:
            candidates.append(data[others : others + features])
    return columns


def _are_texts(column: list[bytes]) -> bool:
    """Is each UTF-8 without a NUL? Raises UnicodeDecodeError if one is not."""
    joined = b"".join(column)
    if not joined.isascii():
        for text in column:
            text.decode()
    return 0 not in joined


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

    def answer(self, batch: Alike) -> list[bytes] | None:
        """Serialised SelectResponses, which then stand in the log; None where the requests have to go the way of all."""
        rules = batch.first.rules
        holder = self._holders[rules.key]
        if not holder.ready or not _coverable(rules, holder.served):
            return None
        # Ids that were drawn for them are not remembered: nobody else knows them.
        keys = [(*rules.key, own.decode()) for own in batch.request_ids]
        if keys and not self._memory.claim_all(keys, bodies=_hashes(batch)):
            return None
        answers: list[bytes] | None = None
        try:
            answers = self._decided(batch, holder.served)
        except LogUnavailable:
            pass
        finally:
            self._settle(keys, answers)
        return answers

    def _settle(self, keys: Sequence[RequestKey], answers: Sequence[bytes] | None) -> None:
        if keys and answers is not None:
            self._memory.keep_all(keys, answers=answers)
            return
        for key in keys:
            self._memory.release(key)

    def _decided(self, batch: Alike, served: Served) -> list[bytes] | None:
        timer = self._observer.timer
        started_s = timer()
        policy, rules, n = served.deciding, batch.first.rules, len(batch.units)
        request_ids = batch.request_ids or [self._new_request_id().encode() for _ in range(n)]
        ids = _decision_ids(rules, policy, request_ids)
        width, slots = rules.shapes.of(len(batch.first.candidates.actions), batch.first.slate_size)
        layout = RowLayout(rules.context_size, width, rules.feature_size)
        rows = _rows(batch, policy, ids, layout)
        admitted_s = timer()
        outputs = policy.decide_rows(rows, layout=layout, slots=slots)
        if not outputs.sound.all() or (outputs.slates[:, : batch.first.slate_size] == ABSENT).any():
            return None
        bodies, answers = _written(batch, request_ids, ids, outputs, _shared(rules, served, outputs, width))
        decided_s = timer()
        self._append(bodies)
        self._observer.batch(Observed(n, n, admitted_s - started_s, decided_s - admitted_s, timer() - decided_s))
        return answers


def _coverable(rules: TaskRules, served: Served) -> bool:
    """One policy decides for all, and each draw follows from its decision's id alone."""
    return served.challenger is None and rules.policy.section.draw_by == "decision" and rules.policy.section.range is None


def _hashes(batch: Alike) -> list[bytes]:
    """What the engine remembers of each body."""
    return [hashlib.blake2b(batch.data[start:end], digest_size=16).digest() for start, end in batch.places]


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


def _written(
    batch: Alike, request_ids: Sequence[bytes], ids: Sequence[bytes], outputs: Outputs, shared: Sequence[Shared]
) -> tuple[list[bytes], list[bytes]]:
    """Decisions without their times and SelectResponses, as `serving.record` makes them one by one."""
    slates, numerators, scores = (column[:, : batch.first.slate_size] for column in (outputs.slates, outputs.numerators, outputs.mean))
    propensities = numerators / DENOMINATOR
    slots = whole_slates(batch.first.candidates, slates, slot_numbers_of(numerators, propensities, scores))
    joints = _joint(propensities).tolist()
    context_head = head(b"\x42", len(batch.contexts[0]))
    set_head = batch.first.candidates.set_head(len(batch.features[0]))
    bodies, answers = [], []
    rows = zip(batch.units, request_ids, ids, batch.contexts, batch.features, slots, joints, shared, strict=True)
    for unit, own, identifier, context, features, (logged, answered), joint, common in rows:
        own_head = head(b"", len(own))
        body = (
            b"\x0a\x10",
            identifier,
            common.decision,
            head(b"\x22", len(unit)),
            unit,
            b"\x2a",
            own_head,
            own,
            context_head,
            context,
            set_head,
            features,
            logged,
        )
        bodies.append(b"".join(body))
        answers.append(b"".join((b"\x0a\x10", identifier, answered, double(b"\x19", joint), common.response, b"\x5a", own_head, own)))
    return bodies, answers


def _joint(propensities: np.ndarray) -> np.ndarray:
    """Their product by row, in the order of the slots: to the bit what `math.prod` gives."""
    joint = propensities[:, 0].copy()
    for slot in range(1, propensities.shape[1]):
        joint *= propensities[:, slot]
    return joint
