"""Requests that are alike, decided, logged and answered as columns, to the byte as one by one."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bandits.keys import DECISION_ID_BYTES, around_request
from bandits.loaded import LoadedPolicy
from bandits.packed import RowLayout
from bandits.programs import Outputs, empty_rows
from bandits.quantise import DENOMINATOR
from bandits.slates import ABSENT
from serving.alike import Alike, read_alike
from serving.blocks import DecisionBlock, block, column, lay, rows_of
from serving.errors import LogUnavailable
from serving.idempotency import RequestKey, RequestMemory
from serving.observers import Observed, Observer
from serving.plain import PlainReaders, spans
from serving.record import DecidedBy, Shared, shared_fields, slot_blocks, whole_slates
from serving.request_ids import together
from serving.snapshots import WHOLE, Served, SnapshotHolder
from serving.tasks import TaskKey, TaskRules
from serving.wire import double, head, slot_numbers_of

__all__ = ["AlikeBatches"]


class Written(NamedTuple):
    """Serialised Decisions without their times, the SelectBatchResponse that tells of them, and the SelectResponses in it (where the
    requests have no ids to remember them by, perhaps none)."""

    bodies: Sequence[bytes]
    message: bytes
    responses: list[bytes]


class _Columns(NamedTuple):
    """What the requests of a batch do not share, as u8[n, bytes]: decision ids, and the numbers of contexts and of candidates."""

    names: np.ndarray
    contexts: np.ndarray
    features: np.ndarray


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
        self._new_request_ids = together(new_request_id)

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
        request_ids = batch.request_ids or self._new_request_ids(n)
        ids = _decision_ids(rules, policy, request_ids)
        width, slots = rules.shapes.of(len(batch.first.candidates.actions), batch.first.slate_size)
        layout = RowLayout(rules.context_size, width, rules.feature_size)
        columns = _Columns(column(ids), column(batch.contexts), column(batch.features))
        rows = _rows(batch, columns, policy, layout)
        admitted_s = timer()
        outputs = policy.decide_rows(rows, layout=layout, slots=slots)
        if not outputs.sound.all() or (outputs.slates[:, : batch.first.slate_size] == ABSENT).any():
            return None
        written = _written(batch, columns, request_ids, outputs, served, width)
        decided_s = timer()
        self._append(written.bodies)
        self._observer.batch(Observed(n, n, admitted_s - started_s, decided_s - admitted_s, timer() - decided_s))
        return written


def _coverable(rules: TaskRules, served: Served) -> bool:
    """One policy decides for all, with nothing beside, and each draw follows from its decision's id alone."""
    return (
        served.challenger is None
        and served.beside is None
        and rules.policy.section.draw_by == "decision"
        and rules.policy.section.range is None
    )


def _hashes(batch: Alike) -> list[bytes]:
    """What the engine remembers of each body."""
    return [hashlib.blake2b(batch.data[start:end], digest_size=16).digest() for start, end in spans(batch.data) or ()]


def _decision_ids(rules: TaskRules, policy: LoadedPolicy, request_ids: Sequence[bytes]) -> list[bytes]:
    """As `bandits.keys.decision_id` for each."""
    before, behind = around_request(rules.tenant, rules.name, WHOLE.arm, policy.digest)
    lengths = {*map(len, request_ids)}
    begun = {size: hashlib.blake2b(before + size.to_bytes(4, "little"), digest_size=DECISION_ID_BYTES) for size in lengths}
    ids = []
    for own in request_ids:
        hashed = begun[len(own)].copy()
        hashed.update(own + behind)
        ids.append(hashed.digest())
    return ids


def _rows(batch: Alike, columns: _Columns, policy: LoadedPolicy, layout: RowLayout) -> np.ndarray:
    """The requests as rows of words, where a program reads them without a copy."""
    listed, rows = batch.first.candidates, empty_rows(len(batch), layout)
    padding = bytes(4 * layout.features * (layout.width - len(listed.actions)))
    behind = padding + listed.words(policy, layout.width) + batch.first.slate_size.to_bytes(4, "little")
    lay(rows.view(np.uint8), [columns.contexts, columns.features, behind, columns.names[:, :8]])
    return rows


def _written(batch: Alike, columns: _Columns, request_ids: Sequence[bytes], outputs: Outputs, served: Served, width: int) -> Written:
    """Decisions and answers, as `serving.record` makes them one by one."""
    listed, rules = batch.first.candidates, batch.first.rules
    slates, numerators, scores = (found[:, : batch.first.slate_size] for found in (outputs.slates, outputs.numerators, outputs.mean))
    propensities = numerators / DENOMINATOR
    numbers, joints = slot_numbers_of(numerators, propensities, scores), _joint(propensities)
    by, buckets = DecidedBy(served.deciding, WHOLE, served.kill_switch), outputs.bucket_batch
    lengths = {*map(len, batch.units)}, {*map(len, request_ids)}
    if listed.head_blocks is None or any(len(found) > 1 for found in lengths) or buckets[0] != buckets[-1]:
        kinds = {size: shared_fields(rules, by, batch=size, width=width, epoch=0) for size in {*buckets.tolist()}}
        shared = [kinds[size] for size in buckets.tolist()]
        return _row_by_row(batch, request_ids, rows_of(columns.names), whole_slates(listed, slates, numbers), joints, shared)
    common = shared_fields(rules, by, batch=int(buckets[0]), width=width, epoch=0)
    return _as_blocks(batch, columns, request_ids, slot_blocks(listed, slates, numbers), joints, common)


def _as_blocks(
    batch: Alike, columns: _Columns, request_ids: Sequence[bytes], slots: Sequence[np.ndarray], joints: np.ndarray, shared: Shared
) -> Written:
    """Where all are of one length."""
    n, own_head, names, owns = len(request_ids), head(b"", len(request_ids[0])), columns.names, column(request_ids)
    logged, answered = slots
    decision: list[bytes | np.ndarray] = [b"\x0a\x10", names, shared.decision + head(b"\x22", len(batch.units[0])), column(batch.units)]
    decision += [b"\x2a" + own_head, owns, head(b"\x42", len(batch.contexts[0])), columns.contexts]
    decision += [batch.first.candidates.set_head(len(batch.features[0])), columns.features, logged]
    joint = joints.reshape(n, 1).view(np.uint8)
    response: list[bytes | np.ndarray] = [b"\x0a\x10", names, answered, b"\x19", joint, shared.response + b"\x5a" + own_head, owns]
    size = sum(len(part) if isinstance(part, bytes) else part.shape[1] for part in response)
    begun = _result_head(size)
    message = block(n, [begun, *response]).tobytes()
    step = len(begun) + size
    kept = range(0, n * step, step) if batch.request_ids else ()
    return Written(DecisionBlock(n, decision), message, [message[at + len(begun) : at + step] for at in kept])


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
