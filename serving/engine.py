"""The order of things for a batch of requests: check, remember, decide, log, answer. Knows no transport; a notebook may call it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bandits.traffic import PINNED_ARM, whole
from protos.events_pb2 import Event
from protos.policy_pb2 import SelectRequest, SelectResponse
from serving.decide import Asked, Decided, decide
from serving.errors import ServingError
from serving.fields import refused
from serving.idempotency import RequestKey, RequestMemory
from serving.messages import decision_event, select_response
from serving.snapshots import Served, SnapshotHolder
from serving.tasks import TaskKey, TaskRules
from serving.validate import Selection, find_task, validate

__all__ = ["Engine"]

# A slate, or why there is none.
Answer = SelectResponse | ServingError


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
        append: Callable[[Sequence[Event]], object],
        memory: RequestMemory,
        new_request_id: Callable[[], str],
    ) -> None:
        """`append` puts events into the decision log, or raises LogUnavailable; `new_request_id` names a request that has no id."""
        self.rules: Mapping[TaskKey, TaskRules] = {key: holder.rules for key, holder in holders.items()}
        self._holders = holders
        self._append = append
        self._memory = memory
        self._new_request_id = new_request_id

    def holder(self, *, tenant: str, task: str) -> SnapshotHolder:
        """Who serves a task, empty tenant = "default". Raises NotFound."""
        return self._holders[find_task(self.rules, tenant=tenant, task=task).key]

    def select(self, messages: Sequence[SelectRequest]) -> list[Answer]:
        """A slate for each request, or the error that it alone has, in order. What is answered stands in the log.

        Raises LogUnavailable if the log takes nothing: then no request is answered, and each may be sent again.
        """
        answers: dict[int, Answer] = {}
        admitted: list[_Admitted] = []
        for index, message in enumerate(messages):
            try:
                found = self._admit(index, message)
            except ServingError as error:
                answers[index] = error
                continue
            if isinstance(found, _Admitted):
                admitted.append(found)
            else:
                answers[index] = found
        answers.update(self._answer(admitted))
        return [answers[index] for index in range(len(messages))]

    def _admit(self, position: int, message: SelectRequest) -> _Admitted | SelectResponse:
        """A request that is to be decided, or the answer that it had before."""
        holder = self.holder(tenant=message.tenant, task=message.task)
        selection = validate(message, holder.rules)
        served = holder.served
        if not message.request_id:
            selection = selection._replace(request_id=self._new_request_id())
            return _Admitted(position, _asked(selection, served), None)
        key = (*holder.rules.key, message.request_id)
        remembered = self._memory.claim(key, body=_body_hash(message))
        if remembered is not None:
            return SelectResponse.FromString(remembered)
        try:
            return _Admitted(position, _asked(selection, served), key)
        except ServingError:
            self._memory.release(key)
            raise

    def _answer(self, admitted: Sequence[_Admitted]) -> dict[int, Answer]:
        if not admitted:
            return {}
        try:
            decided = decide([item.asked for item in admitted])
            self._append([decision_event(item) for item in decided if item.actions])
        except BaseException:
            for item in admitted:
                if item.key is not None:
                    self._memory.release(item.key)
            raise
        return {
            item.position: self._remembered(item, answer) if answer.actions else self._nothing_to_show(item)
            for item, answer in zip(admitted, decided, strict=True)
        }

    def _nothing_to_show(self, item: _Admitted) -> ServingError:
        """The task's masks leave no candidate: there is no decision, and nothing is logged or remembered."""
        if item.key is not None:
            self._memory.release(item.key)
        return refused("candidates.eligible", "no candidate may be shown in this context (policy.wrappers: mask); ask with others")

    def _remembered(self, item: _Admitted, decided: Decided) -> SelectResponse:
        response = select_response(decided)
        if item.key is not None:
            self._memory.keep(item.key, answer=response.SerializeToString())
        return response


def _asked(selection: Selection, served: Served) -> Asked:
    if selection.pinned:
        return Asked(selection, served.pinned(selection.pinned), whole(PINNED_ARM), served.kill_switch)
    return Asked(selection, *served.assigned(task=selection.rules.name, unit_id=selection.unit_id), served.kill_switch)


def _body_hash(message: SelectRequest) -> bytes:
    return hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()
