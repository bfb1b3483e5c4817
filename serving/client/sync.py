"""The client for threads: drives the flows of `core.py` over a channel of grpc, and delivers what waits on a thread of its own."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack

import grpc

from protos.events_pb2 import Event
from protos.policy_pb2 import (
    AssignResponse,
    FeedbackRequest,
    GetPolicyResponse,
    SelectBatchRequest,
    SelectRequest,
    SelectResponse,
    SelectResult,
)
from protos.policy_pb2_grpc import PolicyServiceStub
from protos.task import DEFAULT_TENANT
from serving import events
from serving.client.channel import Token, call_metadata, channel_options
from serving.client.core import SINK, Call, Core, Flow
from serving.client.decision import Decision, Rewards
from serving.client.failures import error_of, outcome
from serving.client.fallback import Fallback
from serving.client.outbox import Counts
from serving.client.requests import ContextInput, SelectOptions, identified
from serving.errors import ServingError, Unavailable

__all__ = ["PolicyClient"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class PolicyClient:
    """Calls one server. Thread-safe; use it as a context manager or `close` it.

    Every call raises the tree of serving.errors: RequestRefused and its kin for a request at fault, Unavailable when retries were in
    vain, DeadlineExceeded after `timeout_s`, Overloaded, ServerFault. With a `fallback`, those four no longer reach the caller of
    `select`, `select_batch` and `decide`, who gets a slate of the client's own, flagged; nor of `observe`, `impression`, `reward` and
    `signal`, whose events wait for the server, as the fallbacks' own events do.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 5.0,
        tenant: str = DEFAULT_TENANT,
        fallback: Fallback | None = None,
        sink: Callable[[Sequence[Event]], None] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
    ) -> None:
        """`address`: host:port. `timeout_s`: deadline of each call, retries included, seconds. `sink` takes what waits in place of the
        server's Feedback (a producer to Kafka, say), may raise, and is then called again with the same events. `credentials`: for TLS, of
        grpc.ssl_channel_credentials. `token`: gives the bearer token of each call."""
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=channel_options())
        else:
            self._channel = grpc.secure_channel(address, credentials, options=channel_options())
        self._stub: Any = PolicyServiceStub(self._channel)
        self._address, self._timeout_s, self._sink, self._token = address, timeout_s, sink, token
        self._core = Core(tenant=tenant, fallback=fallback, has_sink=sink is not None, now_us=_now_us, new_id=_new_id)
        self._delivery: threading.Thread | None = None
        self._delivering = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Tries once more to deliver what waits, and ends the connection; what is lost then stands in `counts` and in the log."""
        self._closing.set()
        if (delivery := self._delivery) is not None:
            delivery.join()
        self._drive(self._core.deliver())
        if waiting := self.counts.waiting:
            _logger.warning("closed while %d events waited for the server: they are lost", waiting)
        self._channel.close()

    @property
    def counts(self) -> Counts:
        """What became of slates and events while the server was away; all 0 without a `fallback`."""
        return self._core.counts

    # Slates.

    def decide(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> Decision:
        """One slate, to be handed to `observe`; the options are those of `request`."""
        return self._run(self._core.decide(task, unit_id=unit_id, context=context, **options))

    def select(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> SelectResponse:
        """One slate as its message; the options are those of `request`."""
        return self.decide(task, unit_id=unit_id, context=context, **options).response

    def request(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> SelectRequest:
        """A request for `select_batch`. `context`: encoded vector f32[d], or named features; options: see SelectOptions."""
        return self._run(self._core.request(task, unit_id=unit_id, context=context, **options))

    def select_batch(self, requests: Sequence[SelectRequest]) -> list[SelectResponse | ServingError]:
        """A slate, or the error of that request alone, for each request in order."""
        return self._run(self._core.select_batch(requests))

    def select_stream(self, requests: Iterable[SelectRequest]) -> Iterator[SelectResponse | ServingError]:
        """As `select_batch`, for as long as requests come; each is answered in its turn, on a thread of the server that is kept for it.
        Without fallback."""
        try:
            named = (identified(request, request_id=_new_id()) for request in requests)
            for item in self._stub.SelectStream(named, metadata=call_metadata(self._token)):
                yield outcome(item)
        except grpc.RpcError as error:
            raise error_of(error, address=self._address) from error

    def assign(self, task: str, *, unit_id: str, context: ContextInput | None = None, sticky_arm: str = "") -> AssignResponse:
        """The arm of a unit. `context`: what the experiments' targets ask for, encoded f32[d] or by name, None = the features' defaults;
        `sticky_arm`: `experiment/arm` that an earlier answer told, kept while there is such an arm and the unit is its target."""
        return self._run(self._core.assign(task, unit_id=unit_id, context=context, sticky_arm=sticky_arm))

    def policy(self, task: str) -> GetPolicyResponse:
        """What serves a task now."""
        return self._run(self._core.policy(task))

    # What came of them.

    def observe(
        self, decision: Decision, rewards: Rewards = None, *, slot: int | None = None, seen: Sequence[tuple[int, str]] = ()
    ) -> bool:
        """A decision was shown just now, and (not None) earned these rewards: a number is the outcome `reward`, several go by name.

        `slot`: where the rewards belong, None = to the whole slate; `seen`: (slot, action) pairs, empty = all of it. true = it stands
        in the log; false = it waits for the server, or there is nothing to observe (no decision id).
        """
        return self._run(self._core.observe(decision, rewards, slot=slot, seen=seen))

    def impression(self, task: str, *, decision_id: bytes, unit_id: str, seen: Sequence[tuple[int, str]] = ()) -> None:
        """Slots of a decision were seen just now: (slot, action) pairs, empty = the whole slate."""
        self._tell(events.impression(task, decision_id=decision_id, unit_id=unit_id, seen=seen, **self._core.origin()))

    def reward(self, task: str, *, decision_id: bytes, unit_id: str, name: str, value: float, slot: int | None = None) -> None:
        """A named outcome of a slot, or (None) of the whole slate, happened just now."""
        origin = self._core.origin()
        self._tell(events.reward(task, decision_id=decision_id, unit_id=unit_id, name=name, value=value, slot=slot, **origin))

    def signal(self, *, unit_id: str, name: str, value: float | None = None) -> None:
        """Something else happened to a unit just now; no value = it happened."""
        self._tell(events.signal(unit_id=unit_id, name=name, value=value, **self._core.origin()))

    def heartbeat(self, source: str, *, event_time_us: int, final: bool = False, partition: int = 0) -> None:
        """Everything of `source` before the time has been sent. Raises while the server is away: what waits has not been sent."""
        self.send_feedback([events.heartbeat(source, event_time_us=event_time_us, final=final, partition=partition)])

    # Messages as they are, without fallback.

    def send_select(self, request: SelectRequest) -> SelectResponse:
        """One slate for a message of your own; a request id is drawn where it has none."""
        return self._send(Call("Select", identified(request, request_id=_new_id())))

    def send_select_batch(self, requests: Sequence[SelectRequest]) -> Sequence[SelectResult]:
        """A result for each message, in order."""
        named = [identified(request, request_id=_new_id()) for request in requests]
        return self._send(Call("SelectBatch", SelectBatchRequest(requests=named))).results

    def send_feedback(self, batch: Iterable[Event]) -> int:
        """Sends events (serving.events builds them) and returns how many stand in the log: all of them."""
        return int(self._send(Call("Feedback", FeedbackRequest(events=batch))).accepted)

    def _tell(self, event: Event) -> None:
        self._run(self._core.tell([event]))

    def _run(self, flow: Flow[T]) -> T:
        """The flow's result; whatever it left to be delivered is on its way."""
        try:
            return self._drive(flow)
        finally:
            if len(self._core.outbox):
                self._deliver_in_time()

    def _drive(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    reply = self._send(call)
                except ServingError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as ended:
            return ended.value

    def _send(self, call: Call) -> Any:
        if call.method == SINK:
            return self._hand_over(call.message)
        try:
            return getattr(self._stub, call.method)(call.message, timeout=self._timeout_s, metadata=call_metadata(self._token))
        except grpc.RpcError as error:
            raise error_of(error, address=self._address) from error

    def _hand_over(self, batch: Sequence[Event]) -> None:
        assert self._sink is not None
        try:
            self._sink(batch)
        except Exception as error:
            _logger.exception("sink raised; it is called again with the same events")
            raise Unavailable(f"sink: raised {type(error).__name__}; it is called again with the same events") from error

    def _deliver_in_time(self) -> None:
        """Begins a thread that delivers, unless there is one: it ends when nothing waits any more."""
        with self._delivering:
            if self._delivery is None and not self._closing.is_set():
                self._delivery = threading.Thread(target=self._deliver, name="policy-client-delivery", daemon=True)
                self._delivery.start()

    def _deliver(self) -> None:
        while not self._closing.is_set():
            if (pause_s := self._drive(self._core.deliver())) is not None:
                self._closing.wait(pause_s)
                continue
            with self._delivering:
                # Whoever puts an event after this look begins a new thread.
                if not len(self._core.outbox):
                    self._delivery = None
                    return


def _new_id() -> str:
    return secrets.token_hex(16)


def _now_us() -> int:
    return time.time_ns() // 1000
