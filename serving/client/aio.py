"""The client for asyncio: the flows of `core.py` over grpc.aio, with the selects that wait at the same time in one call."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack

import grpc.aio

from protos.events_pb2 import Event
from protos.policy_pb2 import AssignResponse, FeedbackRequest, GetPolicyResponse, SelectRequest, SelectResponse
from protos.policy_pb2_grpc import PolicyServiceStub
from protos.task import DEFAULT_TENANT
from serving import events
from serving.client.channel import Token, call_metadata, channel_options
from serving.client.core import SINK, Call, Core, Flow
from serving.client.decision import Decision, Rewards
from serving.client.failures import error_of
from serving.client.fallback import Fallback
from serving.client.gathering import Gathering
from serving.client.outbox import Counts
from serving.client.requests import ContextInput, SelectOptions
from serving.errors import ServingError, Unavailable

__all__ = ["AsyncPolicyClient"]

T = TypeVar("T")
_logger = logging.getLogger(__name__)


class AsyncPolicyClient:
    """As PolicyClient, call by call and error by error, for one event loop: make it in a coroutine, and `await close()` it.

    Selects that wait at the same time travel in one call, unless `gather` is false: the answers are the same.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 5.0,
        tenant: str = DEFAULT_TENANT,
        fallback: Fallback | None = None,
        sink: Callable[[Sequence[Event]], Awaitable[None]] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
        gather: bool = True,
    ) -> None:
        """The arguments are those of PolicyClient; `sink` is awaited."""
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=channel_options())
        self._stub: Any = PolicyServiceStub(self._channel)
        self._address, self._timeout_s, self._sink, self._token = address, timeout_s, sink, token
        self._core = Core(tenant=tenant, fallback=fallback, has_sink=sink is not None, now_us=_now_us, new_id=_new_id)
        self._gathering = Gathering(self._together) if gather else None
        self._delivery: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "AsyncPolicyClient":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Tries once more to deliver what waits, and ends the connection; what is lost then stands in `counts` and in the log."""
        if self._delivery is not None:
            self._delivery.cancel()
            await asyncio.wait([self._delivery])
        await self._drive(self._core.deliver())
        if waiting := self.counts.waiting:
            _logger.warning("closed while %d events waited for the server: they are lost", waiting)
        await self._channel.close()

    @property
    def counts(self) -> Counts:
        """What became of slates and events while the server was away; all 0 without a `fallback`."""
        return self._core.counts

    async def decide(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> Decision:
        """As PolicyClient.decide."""
        if self._gathering is None:
            return await self._run(self._core.decide(task, unit_id=unit_id, context=context, **options))
        request = await self.request(task, unit_id=unit_id, context=context, **options)
        answer = await self._gathering.answer(request)
        if isinstance(answer, ServingError):
            raise answer
        return Decision(task, unit_id, answer)

    async def select(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> SelectResponse:
        """As PolicyClient.select."""
        return (await self.decide(task, unit_id=unit_id, context=context, **options)).response

    async def request(self, task: str, *, unit_id: str, context: ContextInput, **options: Unpack[SelectOptions]) -> SelectRequest:
        """As PolicyClient.request."""
        return await self._run(self._core.request(task, unit_id=unit_id, context=context, **options))

    async def select_batch(self, requests: Sequence[SelectRequest]) -> list[SelectResponse | ServingError]:
        """As PolicyClient.select_batch."""
        return await self._run(self._core.select_batch(requests))

    async def _together(self, requests: Sequence[SelectRequest]) -> list[SelectResponse | ServingError]:
        """As `select_batch`; one request alone goes as what it is, which every front answers fastest."""
        if len(requests) > 1:
            return await self.select_batch(requests)
        try:
            return [await self._run(self._core.select(requests[0]))]
        except ServingError as error:
            return [error]

    async def assign(self, task: str, *, unit_id: str, context: ContextInput | None = None, sticky_arm: str = "") -> AssignResponse:
        """As PolicyClient.assign."""
        return await self._run(self._core.assign(task, unit_id=unit_id, context=context, sticky_arm=sticky_arm))

    async def policy(self, task: str) -> GetPolicyResponse:
        """As PolicyClient.policy."""
        return await self._run(self._core.policy(task))

    async def observe(
        self, decision: Decision, rewards: Rewards = None, *, slot: int | None = None, seen: Sequence[tuple[int, str]] = ()
    ) -> bool:
        """As PolicyClient.observe."""
        return await self._run(self._core.observe(decision, rewards, slot=slot, seen=seen))

    async def signal(self, *, unit_id: str, name: str, value: float | None = None) -> None:
        """As PolicyClient.signal."""
        await self._run(self._core.tell([events.signal(unit_id=unit_id, name=name, value=value, **self._core.origin())]))

    async def send_feedback(self, batch: Iterable[Event]) -> int:
        """As PolicyClient.send_feedback: events as they are, without fallback."""
        return int((await self._send(Call("Feedback", FeedbackRequest(events=batch)))).accepted)

    async def _run(self, flow: Flow[T]) -> T:
        try:
            return await self._drive(flow)
        finally:
            if len(self._core.outbox) and (self._delivery is None or self._delivery.done()):
                self._delivery = asyncio.create_task(self._deliver(), name="policy-client-delivery")

    async def _drive(self, flow: Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                try:
                    reply = await self._send(call)
                except ServingError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as ended:
            return ended.value

    async def _send(self, call: Call) -> Any:
        if call.method == SINK:
            return await self._hand_over(call.message)
        try:
            return await getattr(self._stub, call.method)(call.message, timeout=self._timeout_s, metadata=call_metadata(self._token))
        except grpc.RpcError as error:
            raise error_of(error, address=self._address) from error

    async def _hand_over(self, batch: Sequence[Event]) -> None:
        assert self._sink is not None
        try:
            await self._sink(batch)
        except Exception as error:
            _logger.exception("sink raised; it is called again with the same events")
            raise Unavailable(f"sink: raised {type(error).__name__}; it is called again with the same events") from error

    async def _deliver(self) -> None:
        while (pause_s := await self._drive(self._core.deliver())) is not None:
            await asyncio.sleep(pause_s)


def _new_id() -> str:
    return secrets.token_hex(16)


def _now_us() -> int:
    return time.time_ns() // 1000
