"""All that a client does, but the sending: written once for threads and asyncio. No transport, no clock, no thread.

A flow is a generator: it yields the call that it wants sent, and is resumed with the reply, or with the error that came instead. The
clients (`sync.py`, `aio.py`) drive flows; a test drives them with a list.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, Unpack

from protos.events_pb2 import Event
from protos.policy_pb2 import (
    AssignRequest,
    AssignResponse,
    FeedbackRequest,
    GetPolicyRequest,
    GetPolicyResponse,
    SelectBatchRequest,
    SelectRequest,
    SelectResponse,
    SelectResult,
)
from protos.task import DEFAULT_TENANT
from serving import events
from serving.client.decision import Decision, Rewards, happened
from serving.client.failures import AWAY, outcome
from serving.client.fallback import Fallback, fallen, shown_actions
from serving.client.outbox import Counts, Outbox
from serving.client.requests import ContextInput, SelectOptions, context_of, identified, select_request
from serving.errors import RequestRefused, ServingError, Unavailable

__all__ = ["SINK", "Call", "Core", "Flow"]

T = TypeVar("T")
#: Name of the call that hands events to the caller's own sink, instead of a method of the service.
SINK = "sink"
# Pause before waiting events are tried again, seconds: it doubles up to the longest.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class Call(NamedTuple):
    """What is to be sent: a method of the service with its message, or SINK with the events."""

    method: str
    message: Any


Flow = Generator[Call, Any, T]


class _Known(NamedTuple):
    """What the server has told of a task."""

    schema_digest: str
    actions: tuple[str, ...]


class Core:
    """The state of one client: what it knows of tasks, and what waits to be delivered."""

    def __init__(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        fallback: Fallback | None = None,
        has_sink: bool = False,
        now_us: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        """Without a `fallback`, errors reach the caller. `now_us`: the clock; `new_id`: draws a unique id of 1..128 bytes."""
        self._tenant, self._fallback = tenant, fallback
        self._feedback = SINK if has_sink else "Feedback"
        self._now_us, self._new_id = now_us, new_id
        self._known: dict[str, _Known] = {}
        self._slate_sizes: dict[str, int] = {}
        self._pause_s = _FIRST_PAUSE_S
        #: What waits for the server.
        self.outbox = Outbox(most=fallback.most_waiting if fallback else 0)

    @property
    def counts(self) -> Counts:
        """What became of slates and events while the server was away."""
        return self.outbox.counts

    # Slates.

    def request(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> Flow[SelectRequest]:
        """A request, complete where the server can be asked for what it lacks."""
        request = select_request(task, tenant=self._tenant, unit_id=unit_id, context=context, **options)
        try:
            return (yield from self._complete(request))
        except AWAY:
            if self._fallback is None:
                raise
            return request

    def select(self, request: SelectRequest) -> Flow[SelectResponse]:
        """One slate; of the client's own while the server is away, if it may."""
        request = identified(request, request_id=request.request_id or self._new_id())
        try:
            response: SelectResponse = yield Call("Select", (yield from self._complete(request)))
        except ServingError as error:
            return self._instead(request, error)
        self._learn_size(request, response)
        return response

    def select_batch(self, requests: Sequence[SelectRequest]) -> Flow[list[SelectResponse | ServingError]]:
        """A slate for each request, or the error of that request alone."""
        named = [identified(request, request_id=request.request_id or self._new_id()) for request in requests]
        try:
            results = yield from self._sent_batch(named)
        except ServingError as error:
            return [self._instead(request, error) for request in named]
        return [self._or_own(request, outcome(item)) for request, item in zip(named, results, strict=True)]

    def decide(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> Flow[Decision]:
        """One slate, as what `observe` takes."""
        request = select_request(task, tenant=self._tenant, unit_id=unit_id, context=context, **options)
        return Decision(task, unit_id, (yield from self.select(request)))

    # What came of them.

    def observe(
        self, decision: Decision, rewards: Rewards = None, *, slot: int | None = None, seen: Sequence[tuple[int, str]] = ()
    ) -> Flow[bool]:
        """Tells the impression of a decision and its rewards; true = they stand in the log."""
        if not decision.decision_id:
            return False
        return (yield from self.tell(happened(decision, rewards, slot=slot, seen=seen, origin=self.origin)))

    def tell(self, batch: Iterable[Event]) -> Flow[bool]:
        """Sends events. true = they stand in the log; false = they wait for the server, behind what waits already."""
        told = list(batch)
        if len(self.outbox) == 0:
            try:
                yield Call("Feedback", FeedbackRequest(events=told))
                return True
            except AWAY:
                if self._fallback is None:
                    raise
        self.outbox.put(told)
        return False

    def deliver(self) -> Flow[float | None]:
        """Delivers what waits. The pause before the next attempt, seconds; None = nothing waits any more."""
        while batch := self.outbox.head():
            try:
                yield Call(self._feedback, batch if self._feedback == SINK else FeedbackRequest(events=batch))
            except RequestRefused as error:
                self.outbox.refuse(batch, why=str(error))
            except ServingError:
                pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
                return pause_s
            else:
                self._pause_s = _FIRST_PAUSE_S
                self.outbox.sent(batch)
        return None

    def origin(self) -> events.Origin:
        """Of an event that happened just now."""
        return events.Origin(event_id=self._new_id(), event_time_us=self._now_us(), tenant=self._tenant)

    # What the server says of a task.

    def policy(self, task: str) -> Flow[GetPolicyResponse]:
        """What serves a task now."""
        found: GetPolicyResponse = yield Call("GetPolicy", GetPolicyRequest(tenant=self._tenant, task=task))
        self._known[task] = _Known(found.schema_digest, tuple(found.actions))
        return found

    def assign(self, task: str, *, unit_id: str, context: ContextInput | None = None, sticky_arm: str = "") -> Flow[AssignResponse]:
        """The arm of a unit. Without a context, targets are asked of the schema's defaults."""
        request = AssignRequest(tenant=self._tenant, task=task, unit_id=unit_id, sticky_arm=sticky_arm)
        if context is not None:
            request.context.CopyFrom(context_of(context))
            if request.context.packed:
                if task not in self._known:
                    yield from self.policy(task)
                request.context.schema_digest = self._known[task].schema_digest
        try:
            return (yield Call("Assign", request))
        except ServingError as error:
            self._forget_schema(task, error)
            raise

    def _complete(self, request: SelectRequest) -> Flow[SelectRequest]:
        """The request with the digest of its schema; what a fallback would need is asked for beside it, once a task."""
        lacks_digest = bool(request.context.packed) and not request.context.schema_digest
        lacks_actions = self._fallback is not None and not request.candidates.actions
        if (lacks_digest or lacks_actions) and request.task not in self._known:
            yield from self.policy(request.task)
        if not lacks_digest:
            return request
        whole = SelectRequest()
        whole.CopyFrom(request)
        whole.context.schema_digest = self._known[request.task].schema_digest
        return whole

    def _forget_schema(self, task: str, error: ServingError) -> None:
        """Where the server has another schema than it told us: it is asked again next time."""
        if error.field == "context.schema_digest":
            self._known.pop(task, None)

    def _sent_batch(self, named: Sequence[SelectRequest]) -> Flow[Sequence[SelectResult]]:
        whole = []
        for request in named:
            whole.append((yield from self._complete(request)))
        return (yield Call("SelectBatch", SelectBatchRequest(requests=whole))).results

    def _learn_size(self, request: SelectRequest, response: SelectResponse) -> None:
        if not request.HasField("slate_size"):
            self._slate_sizes[request.task] = len(response.slots)

    def _or_own(self, request: SelectRequest, answer: SelectResponse | ServingError) -> SelectResponse | ServingError:
        if isinstance(answer, SelectResponse):
            self._learn_size(request, answer)
            return answer
        try:
            return self._instead(request, answer)
        except ServingError as error:
            return error

    def _instead(self, request: SelectRequest, error: ServingError) -> SelectResponse:
        """A slate of the client's own, with its event on the way. Raises the error where there can be none."""
        self._forget_schema(request.task, error)
        if self._fallback is None or not isinstance(error, AWAY):
            raise error
        known, declared = self._known.get(request.task), self._fallback.actions.get(request.task, ())
        actions = shown_actions(request, known.actions if known and known.actions else declared)
        if not actions:
            raise Unavailable(
                f"{error}; and the candidates of {request.task!r} are not known here: name them in the request, or in fallback.actions"
            ) from error
        size = self._slate_sizes.get(request.task, self._fallback.slate_size.get(request.task, 1))
        own = fallen(request, actions, rank=self._fallback.rank, slate_size=size, now_us=self._now_us())
        self.outbox.put([own.event], fallbacks=1)
        return own.response
