"""Selects that wait at the same time, in one call: no clock, so that nobody waits for company. For one event loop."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

from protos.policy_pb2 import SelectRequest, SelectResponse
from serving.errors import ServingError

__all__ = ["Gathering"]

Answer = SelectResponse | ServingError
# Calls on the way at once, and requests in each at most: while some are answered, the next gather. What one compiled batch holds.
_CALLS, _REQUESTS = 4, 64
# A call is closed above this, bytes: a server takes four times as much by default.
_BYTES = 1 << 20


class Gathering:
    """Answers each request through `send`, which answers many."""

    def __init__(self, send: Callable[[Sequence[SelectRequest]], Awaitable[list[Answer]]]) -> None:
        self._send = send
        self._waiting: deque[tuple[SelectRequest, asyncio.Future[Answer]]] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def answer(self, request: SelectRequest) -> Answer:
        """The answer to one request. Raises what `send` raises."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if len(self._senders) < _CALLS:
            # A task begins when those coroutines have run that are ready now: they ask too.
            sender = asyncio.create_task(self._send_waiting())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await future

    async def _send_waiting(self) -> None:
        while self._waiting:
            if not (asked := list(self._taken())):
                return
            futures = [future for _, future in asked]
            try:
                answers: Sequence[Answer | Exception] = await self._send([request for request, _ in asked])
            except asyncio.CancelledError:
                for future in futures:
                    future.cancel()
                raise
            except Exception as error:
                answers = [error] * len(asked)
            _settle(futures, answers)

    def _taken(self) -> Iterator[tuple[SelectRequest, "asyncio.Future[Answer]"]]:
        """The requests of the next call; who was cancelled while waiting wants no answer."""
        size = 0
        for _ in range(_REQUESTS):
            while self._waiting and self._waiting[0][1].done():
                self._waiting.popleft()
            if not self._waiting or size > _BYTES:
                return
            request, future = self._waiting.popleft()
            size += request.ByteSize()
            yield request, future


def _settle(futures: Sequence["asyncio.Future[Answer]"], answers: Sequence[Answer | Exception]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, SelectResponse | ServingError):
            future.set_result(answer)
        else:
            future.set_exception(answer)
