"""The order of things for a batch of requests: check, remember, decide, log, answer. Knows no transport; a notebook may call it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from bandits.traffic import PINNED_ARM, whole
from protos.policy_pb2 import SelectRequest, SelectResponse
from serving.alike import Alike
from serving.alike_batches import AlikeBatches
from serving.decide import Asked, decide
from serving.errors import LogUnavailable, ServingError
from serving.fallback import unlogged
from serving.idempotency import RequestKey, RequestMemory
from serving.observers import Observed, Observer
from serving.plain import PlainReaders, PlainRequest
from serving.record import DECISION_ID, Recorded, record
from serving.snapshots import WHOLE, Served, SnapshotHolder
from serving.tasks import TaskKey, TaskRules
from serving.traffic.shadow import Shadows
from serving.validate import Selection, find_task, validate

__all__ = ["Engine"]

# A serialised SelectResponse, or why there is none.
Answer = bytes | ServingError


class _Admitted(NamedTuple):
    """A request to decide, and under which key its answer is to be remembered; None where the caller gave no request id."""

    position: int
    asked: Asked
    key: RequestKey | None


class Engine:
    """Decides for all tasks of a server. Thread-safe."""

    def __init__(
        self,
        *,
        holders: Mapping[TaskKey, SnapshotHolder],
        append: Callable[[Sequence[bytes]], object],
        memory: RequestMemory,
        new_request_id: Callable[[], str],
        fall_back: bool = False,
        observer: Observer | None = None,
        shadows: Shadows | None = None,
    ) -> None:
        """`append` puts serialised Decisions into the decision log and sets their time, or raises LogUnavailable.

        `new_request_id` names a request that has no id. `fall_back`: answer with unlogged fallbacks while the log takes nothing.
        `shadows`: scores decisions by policies that are not shown.
        """
        self.rules: Mapping[TaskKey, TaskRules] = {key: holder.rules for key, holder in holders.items()}
        self._holders = holders
        self._append = append
        self._memory = memory
        self._new_request_id = new_request_id
        self._fall_back = fall_back
        self._observer = observer or Observer()
        self._shadows = shadows
        #: Reads the bytes of requests, for `answer`.
        self.readers = PlainReaders(holders, new_request_id=new_request_id)
        parts: dict[str, Any] = {"append": append, "memory": memory, "new_request_id": new_request_id, "observer": self._observer}
        self._alike = AlikeBatches(self.readers, holders, **parts)

    def holder(self, *, tenant: str, task: str) -> SnapshotHolder:
        """Who serves a task, empty tenant = "default". Raises NotFound."""
        return self._holders[find_task(self.rules, tenant=tenant, task=task).key]

    def select(self, messages: Sequence[SelectRequest]) -> list[SelectResponse | ServingError]:
        """As `answer`, with the answers as messages: for notebooks and tests."""
        return [SelectResponse.FromString(found) if isinstance(found, bytes) else found for found in self.answer(messages)]

    def answer(self, messages: Sequence[SelectRequest | PlainRequest]) -> list[Answer]:
        """A slate for each request, or the error that it alone has, in order. What is answered stands in the log.

        Raises LogUnavailable if the log takes nothing: then no request is answered, and each may be sent again.
        """
        started_s = self._observer.timer()
        answers: list[Answer] = [b""] * len(messages)
        admitted: list[_Admitted] = []
        for position, message in enumerate(messages):
            try:
                found = self._admit(position, message)
            except ServingError as error:
                answers[position] = error
                self._observer.refused(error.code)
                continue
            if isinstance(found, bytes):
                answers[position] = found
            else:
                admitted.append(found)
        if admitted:
            self._decide(admitted, answers, started_s)
        return answers

    def read_batch(self, data: bytes) -> Alike | Sequence[SelectRequest | PlainRequest]:
        """The requests of a serialised SelectBatchRequest, for `answer_batch`. Raises DecodeError."""
        return self._alike.read(data) or self.readers.batch(data)

    def answer_batch(self, batch: Alike | Sequence[SelectRequest | PlainRequest]) -> bytes | list[Answer]:
        """As `answer`; or, for requests that are alike and can be decided as columns, a serialised SelectBatchResponse."""
        if not isinstance(batch, Alike):
            return self.answer(batch)
        return self._alike.answer(batch) or self.answer(self.readers.batch(batch.data))

    def _admit(self, position: int, message: SelectRequest | PlainRequest) -> _Admitted | bytes:
        """A request that is to be decided, or the answer that it had before."""
        if isinstance(message, PlainRequest):
            selection, own_id = message.selection, bool(message.body)
            served = self._holders[selection.rules.key].served
        else:
            holder = self.holder(tenant=message.tenant, task=message.task)
            own_id, served = bool(message.request_id), holder.served
            selection = validate(message, holder.rules, request_id="" if own_id else self._new_request_id())
        if not own_id:
            return _Admitted(position, _asked(selection, served), None)
        key = (*selection.rules.key, selection.request_id)
        remembered = self._memory.claim(key, body=_body_hash(message))
        if remembered is not None:
            return remembered
        try:
            return _Admitted(position, _asked(selection, served), key)
        except ServingError:
            self._memory.release(key)
            raise

    def _decide(self, admitted: Sequence[_Admitted], answers: list[Answer], started_s: float) -> None:
        timer = self._observer.timer
        admitted_s = timer()
        try:
            recorded = [item for group in decide([item.asked for item in admitted]) for item in record(group)]
            bodies = [item.body for item in recorded if item.fault is None]
            decided_s = timer()
            self._append(bodies)
        except BaseException as error:
            for item in admitted:
                self._forget(item)
            if self._fall_back and isinstance(error, LogUnavailable):
                return self._answer_unlogged(admitted, answers)
            raise
        for made in recorded:
            self._settle(admitted[made.place], made, answers)
        if self._shadows is not None:
            self._leave_for_shadows(self._shadows, admitted, recorded)
        appended_s = timer()
        self._observer.batch(Observed(len(admitted), len(bodies), admitted_s - started_s, decided_s - admitted_s, appended_s - decided_s))

    def _leave_for_shadows(self, shadows: Shadows, admitted: Sequence[_Admitted], recorded: Sequence[Recorded]) -> None:
        for made in recorded:
            if made.fault is None:
                selection = admitted[made.place].asked.selection
                served = self._holders[selection.rules.key].served
                if served.beside is not None and served.beside.shadows:
                    shadows.leave(selection, made.body[DECISION_ID], served)

    def _settle(self, item: _Admitted, made: Recorded, answers: list[Answer]) -> None:
        """Answers a request whose decision stands in the log, or that has none."""
        if made.fault is not None:
            self._forget(item)
            self._observer.refused(made.fault.code)
        elif item.key is not None:
            self._memory.keep(item.key, answer=made.response)
        answers[item.position] = made.response if made.fault is None else made.fault

    def _answer_unlogged(self, admitted: Sequence[_Admitted], answers: list[Answer]) -> None:
        for item in admitted:
            answers[item.position] = unlogged(item.asked)
            self._observer.fell_back()

    def _forget(self, item: _Admitted) -> None:
        if item.key is not None:
            self._memory.release(item.key)


def _asked(selection: Selection, served: Served) -> Asked:
    if served.beside is not None and not served.beside.only_scores:
        return cast(Asked, served.beside.asked(selection, served))
    if not selection.pinned and served.challenger is None:
        return Asked(selection, served.deciding, WHOLE, served.kill_switch)
    if selection.pinned:
        return Asked(selection, served.pinned(selection.pinned), whole(PINNED_ARM), served.kill_switch)
    return Asked(selection, *served.assigned(task=selection.rules.name, unit_id=selection.unit_id), served.kill_switch)


def _body_hash(message: SelectRequest | PlainRequest) -> bytes:
    body = message.body if isinstance(message, PlainRequest) else message.SerializeToString(deterministic=True)
    return hashlib.blake2b(body, digest_size=16).digest()
