"""Heartbeats of the decision log: an idle server says that nothing older will come, so that the watermark moves on."""

import logging
import threading
from collections.abc import Callable, Sequence

from protos.events_pb2 import Event, Heartbeat
from serving.decision_log import LogWriter
from serving.errors import LogUnavailable

__all__ = ["Heartbeats", "heartbeat_event"]

_logger = logging.getLogger(__name__)
_SOURCE = "decisions"
_PRODUCER = "serving"


def heartbeat_event(*, final: bool) -> Event:
    """A heartbeat of the decision log; its time is set at the append. `final`: no decision will follow."""
    return Event(heartbeat=Heartbeat(source=_SOURCE, final=final, producer=_PRODUCER))


class Heartbeats:
    """A thread that appends a heartbeat when the log has been idle for `every_s` seconds."""

    def __init__(
        self, log: LogWriter, *, every_s: float, now_us: Callable[[], int], append: Callable[[Sequence[Event]], object] | None = None
    ) -> None:
        """`append`: how the log is written, where that is not its own `append`."""
        self._log, self._append = log, append or log.append
        self._every_s = every_s
        self._now_us = now_us
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def beat(self) -> None:
        """Appends a heartbeat if the log is idle; a log that takes none is reported by the calls that need it."""
        if self._now_us() - self._log.last_us < 1e6 * self._every_s:
            return
        try:
            self._append([heartbeat_event(final=False)])
        except LogUnavailable as error:
            _logger.warning("no heartbeat: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.beat()
