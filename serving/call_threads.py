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
        """Whatever is raised is logged: a thread outlives its calls."""
        try:
            self._function(*self._args)
        except BaseException:
            _logger.exception("a call ended badly")
        # What it was asked to do is let go before anybody hears: it holds the whole call.
        self._function, self._args, self._ended = _nothing, (), True
        try:
            self._tell()
        except Exception:
            _logger.exception("the end of a call was heard badly")

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
    """So many threads, all started at once: later there may be no room for one. They do not keep the process from ending."""

    def __init__(self, threads: int, *, name: str = "call") -> None:
        self._lock = threading.Lock()
        self._resting = [_Resting() for _ in range(threads)]
        self._waiting: deque[_Call] = deque()
        self._closed = False
        for number, own in enumerate(list(self._resting)):
            threading.Thread(target=self._work, args=(own,), name=f"{name}-{number}", daemon=True).start()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:  # type: ignore[override]
        """Runs it on a thread, now or when one is free. Raises RuntimeError after `shutdown`."""
        call = _Call(function, args)
        with self._lock:
            if self._closed:
                raise RuntimeError("calls: the server has ended; start another")
            if not self._resting:
                self._waiting.append(call)
                return call
            chosen = self._resting.pop()
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
