"""Requests that are waiting at the same time are decided together: one of the waiting threads leads, and answers for all.

Between two RPCs everything that a decision needs has left the caches, so that each of its parts costs two to four times what it costs in
a loop (measured: 300 us of CPU where the loop takes 135), and in a batch a fraction of that. Nobody waits for company by the clock: who
finds nobody deciding lets the threads run that are ready to, once, and decides. Who has led hands the lead to the first that waits, so
that no caller waits for the requests of others behind its own.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Gathering", "Raised", "answered_apart"]

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Raised(NamedTuple):
    """What stands where an answer would, if `error` was raised instead. (An answer may itself be an error, which nobody raised.)"""

    error: Exception


class _Waiting(Generic[Request, Answer]):
    """A request, and where its answer or its error will stand once `done` is released; or it `leads` then."""

    __slots__ = ("done", "leads", "outcome", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.outcome: Answer | Raised = Raised(RuntimeError("not answered yet"))
        self.leads = False
        self.done = threading.Lock()
        self.done.acquire()


class Gathering(Generic[Request, Answer]):
    """Calls `answer_all` with one or more requests, from one thread at a time. Thread-safe."""

    def __init__(self, answer_all: Callable[[Sequence[Request]], Sequence[Answer]], *, most: int, common: type[Exception]) -> None:
        """`most`: requests of one call; `common`: an error that holds for all of them, see `answered_apart`."""
        self._answer_all = answer_all
        self._common = common
        self._most = most
        self._queue: deque[_Waiting[Request, Answer]] = deque()
        self._leading = threading.Lock()

    def answer(self, request: Request, *, waits: bool = True) -> Answer:
        """The answer to one request. Raises what `answer_all` raised.

        `waits`: who finds nobody at it lets those in whose requests are already here, which on a busy core makes a batch of what would be
        calls of one. Not worth it for what takes less time than a turn of the scheduler, such as a write to a log: who comes meanwhile goes
        together all the same.
        """
        mine: _Waiting[Request, Answer] = _Waiting(request)
        self._queue.append(mine)
        if self._leading.acquire(blocking=False):
            if waits:
                os.sched_yield()
            self._lead()
        mine.done.acquire()
        if mine.leads:
            self._lead()
            mine.done.acquire()
        if isinstance(mine.outcome, Raised):
            raise mine.outcome.error
        return mine.outcome

    def _lead(self) -> None:
        """Answers those who wait, as many as go together, and gives the lead away."""
        queue = self._queue
        batch = [queue.popleft() for _ in range(min(len(queue), self._most))]
        try:
            self._answer_batch(batch)
        finally:
            self._hand_on()
            for item in batch:
                item.done.release()

    def _hand_on(self) -> None:
        """The first that waits leads; nobody, if nobody waits. Whoever queues up while the lead is given up finds it free, or is found."""
        while True:
            if self._queue:
                first = self._queue[0]
                first.leads = True
                first.done.release()
                return
            self._leading.release()
            if not self._queue or not self._leading.acquire(blocking=False):
                return

    def _answer_batch(self, batch: Sequence[_Waiting[Request, Answer]]) -> None:
        made = answered_apart(self._answer_all, [item.request for item in batch], common=self._common)
        for item, outcome in zip(batch, made, strict=True):
            item.outcome = outcome


def answered_apart(
    answer_all: Callable[[Sequence[Request]], Sequence[Answer]], requests: Sequence[Request], *, common: type[Exception]
) -> list[Answer | Raised]:
    """The answer to each request, or the error that it met.

    `common`: an error that holds for all of them. After any other each is tried alone: a request that breaks something breaks it for
    nobody else.
    """
    try:
        return list(answer_all(requests)) if requests else []
    except Exception as error:
        if len(requests) > 1 and not isinstance(error, common):
            return [answered_apart(answer_all, [request], common=common)[0] for request in requests]
        return [Raised(error) for _ in requests]
