"""The threads that calls are run on.

`ThreadPoolExecutor` makes a future for each call, with a condition that nobody waits for, and wakes its threads in turn, so that each call
finds its thread's stack out of the caches. Here the thread that has rested the shortest is woken, and a call carries no more than who is to
hear of its end.
"""

import concurrent.futures
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["CallThreads"]

_logger = logging.getLogger(__name__)


class _Call:
    """A function to run, and who hears when it has run. As much of a future as grpcio asks for."""

    __slots__ = ("_args", "_ended", "_function", "_heard_by")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args
        self._heard_by: list[Callable[[Any], object]] = []
        self._ended = False

    def run(self) -> None:
        try:
            self._function(*self._args)
        except BaseException:
            _logger.exception("a call ended badly")
        # What it was asked to do is let go before anybody hears: it holds the whole call.
        self._function, self._args, self._ended = _nothing, (), True
        self._tell()

    def add_done_callback(self, heard: Callable[[Any], object]) -> None:
        """`heard` is called once: when the call has ended, or now if it has."""
        self._heard_by.append(heard)
        if self._ended:
            self._tell()

    def _tell(self) -> None:
        # Both sides may come here at once; what is taken from the list is taken once.
        while self._heard_by:
            try:
                heard = self._heard_by.pop()
            except IndexError:
                return
            heard(self)


def _nothing() -> None:
    pass


class _Resting:
    """A thread that waits for its next call; None = there will be none."""

    __slots__ = ("call", "wake")

    def __init__(self) -> None:
        self.call: _Call | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class CallThreads(concurrent.futures.Executor):
    """Up to so many threads, started as they are needed. They do not keep the process from ending."""

    def __init__(self, threads: int, *, name: str = "call") -> None:
        self._most, self._name = threads, name
        self._lock = threading.Lock()
        self._resting: list[_Resting] = []
        self._waiting: deque[_Call] = deque()
        self._started, self._closed = 0, False

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:  # type: ignore[override]
        """Runs it on a thread, now or when one is free. Raises RuntimeError after `shutdown`."""
        call = _Call(function, args)
        with self._lock:
            if self._closed:
                raise RuntimeError("calls: the server has ended; start another")
            if self._resting:
                chosen = self._resting.pop()
            elif self._started < self._most:
                chosen = self._start()
            else:
                self._waiting.append(call)
                return call
        chosen.call = call
        chosen.wake.release()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls; those that run or wait are finished, without waiting for them here."""
        with self._lock:
            self._closed = True
            resting, self._resting = self._resting, []
        for one in resting:
            one.call = None
            one.wake.release()

    def _start(self) -> _Resting:
        self._started += 1
        own = _Resting()
        threading.Thread(target=self._work, args=(own,), name=f"{self._name}-{self._started}", daemon=True).start()
        return own

    def _work(self, own: _Resting) -> None:
        while True:
            own.wake.acquire()
            call, own.call = own.call, None
            if call is None:
                return
            while call is not None:
                call.run()
                call = self._next(own)
                if call is None and self._closed:
                    return

    def _next(self, own: _Resting) -> _Call | None:
        """The call that has waited longest; none, and then the thread rests."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if not self._closed:
                self._resting.append(own)
            return None
