"""The threads that calls are run on.

`ThreadPoolExecutor` makes a future for each call, with a condition that nobody waits for, and wakes its threads in turn, so that each call
finds its thread's stack out of the caches. Here the thread that has rested the shortest is woken, and a call carries no more than who is to
hear of its end.

grpcio hands a call of one message to a thread before the message has come, and lets the thread wait for it without end: as many callers
that send headers and nothing more as there are threads would hold the server up for ever. So there is a watch over the calls that run: one
whose message does not come in time is cancelled.
"""

import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["CallThreads", "message_arrived"]

_logger = logging.getLogger(__name__)
# grpcio's own name of what waits on a thread for the one message of a call; its first argument is the event of the call.
_WAITS_FOR_MESSAGE = "_unary_response_in_pool"
_own = threading.local()


class _Call:
    """A function to run, and who hears when it has run. As much of a future as grpcio asks for."""

    __slots__ = ("_args", "_ended", "_function", "_heard_by", "_since_s", "_waits_for")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args
        self._heard_by: list[Callable[[Any], object]] = []
        self._ended = False
        self._since_s = 0.0
        waits = len(args) > 1 and getattr(args[0], "__name__", "") == _WAITS_FOR_MESSAGE
        #: What to cancel if no message comes; None = there is one, or none is waited for.
        self._waits_for: Any = getattr(args[1], "call", None) if waits else None

    def message_arrived(self) -> None:
        """There is nothing to wait for any more."""
        self._waits_for = None

    def give_up(self, *, before_s: float) -> bool:
        """Cancels the call if it runs since before that time and its message has not come; was that so?"""
        waits_for = self._waits_for
        if waits_for is None or self._since_s > before_s:
            return False
        self._waits_for = None
        waits_for.cancel()
        return True

    def run(self) -> None:
        """Whatever is raised is logged: a thread outlives its calls."""
        self._since_s, _own.call = time.monotonic(), self
        try:
            self._function(*self._args)
        except BaseException:
            _logger.exception("a call ended badly")
        # What it was asked to do is let go before anybody hears: it holds the whole call.
        self._function, self._args, self._waits_for, self._ended = _nothing, (), None, True
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


def message_arrived() -> None:
    """To be said by whoever answers a call, on its thread, once the message is there."""
    call: _Call | None = getattr(_own, "call", None)
    if call is not None:
        call.message_arrived()


class _Thread:
    """A thread's next `call` when it is woken (None = there will be none), and the one that it is `running`."""

    __slots__ = ("call", "running", "wake")

    def __init__(self) -> None:
        self.call: _Call | None = None
        self.running: _Call | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class CallThreads(concurrent.futures.Executor):
    """So many threads, all started at once: later there may be no room for one. They do not keep the process from ending."""

    def __init__(self, threads: int, *, name: str = "call", message_within_s: float | None = None) -> None:
        """`message_within_s`: a call whose message takes longer is cancelled; None = nobody looks."""
        self._lock = threading.Lock()
        self._resting = [_Thread() for _ in range(threads)]
        self._waiting: deque[_Call] = deque()
        self._closed, self._ended = False, threading.Event()
        if message_within_s is not None:
            given = (list(self._resting), message_within_s)
            threading.Thread(target=self._watch, args=given, name=f"{name}-watch", daemon=True).start()
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
            self._ended.set()
            resting, self._resting = self._resting, []
        for one in resting:
            one.call = None
            one.wake.release()

    def _watch(self, threads: list[_Thread], within_s: float) -> None:
        while not self._ended.wait(within_s / 4):
            before_s = time.monotonic() - within_s
            calls = [one.running for one in threads]
            given_up = sum(call.give_up(before_s=before_s) for call in calls if call is not None)
            if given_up:
                _logger.warning("%d calls sent no message within %g s, and were given up", given_up, within_s)

    def _work(self, own: _Thread) -> None:
        while True:
            own.wake.acquire()
            call, own.call = own.call, None
            if call is None:
                return
            while call is not None:
                own.running = call
                call.run()
                own.running = None
                call = self._next(own)
                if call is None and self._closed:
                    return

    def _next(self, own: _Thread) -> _Call | None:
        """The call that has waited longest; none, and then the thread rests."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if not self._closed:
                self._resting.append(own)
            return None
