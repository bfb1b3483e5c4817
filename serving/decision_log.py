"""The writer of a log: every record is in the kernel's hands, by one write, before anybody is answered.

A process that is killed loses nothing that it acknowledged. A power cut may take what the background sync has not reached, at most
`sync_ms` back. A record that stands half in the log (kill during a write, full disk) is left where it is, and a new segment begins
behind it: readers skip it by its checksum and can name it. A segment to which nothing more is to be written is read-only: that is how the
processes that write one log in turn (`turns`) see that another has closed it.
"""

import logging
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from protos.events_pb2 import Event
from protos.framing import Damage, Record, begun, frame, records
from protos.log_files import segment_path, segments
from serving.blocks import DecisionBlock
from serving.errors import LogUnavailable
from serving.group_sync import GroupSync
from serving.turns import Alone, Turns
from serving.wire import head, times_of

__all__ = ["LogWriter", "decision_payloads", "stamp_append", "stamp_decision", "take_over"]

_logger = logging.getLogger(__name__)
# Mode of a segment to which nothing more is written.
_CLOSED = 0o444

# Sets the times of an event at the moment of its append.
Stamp = Callable[[Event, int], None]


def stamp_append(event: Event, now_us: int) -> None:
    """Feedback keeps the event time of its producer; only the append time is ours."""
    event.append_time_us = now_us


def stamp_decision(event: Event, now_us: int) -> None:
    """A decision, and a heartbeat of the decision log, happens when it is appended: so no later record is ever older."""
    (event.decision if event.HasField("decision") else event.heartbeat).event_time_us = now_us
    event.append_time_us = now_us


def decision_payloads(bodies: Iterable[bytes], now_us: int) -> Iterator[bytes]:
    """Serialised Events of serialised Decisions, with their times."""
    times, own = times_of(now_us)
    for body in bodies:
        yield b"".join((head(b"\x0a", len(body) + own), body, times))


def _framed(bodies: Iterable[bytes], now_us: int) -> list[bytes]:
    """The records of decisions, in parts: a body is copied once, into what is written. Most bodies of a batch have one length, and what
    stands before them is then made once."""
    times, own = times_of(now_us)
    parts: list[bytes] = []
    size, event, record, started = -1, b"", b"", 0
    for body in bodies:
        if len(body) != size:
            size = len(body)
            event = head(b"\x0a", size + own)
            record, started = begun(len(event) + size + len(times))
            started = zlib.crc32(event, started)
        crc = zlib.crc32(times, zlib.crc32(body, started))
        parts += (record, crc.to_bytes(4, "little"), event, body, times)
    return parts


class _Segment(NamedTuple):
    """An open segment as it was when last looked at."""

    descriptor: int
    base: int
    size: int
    closed: bool

    @property
    def end(self) -> int:
        return self.base + self.size

    def now(self) -> "_Segment":
        about = os.fstat(self.descriptor)
        return self._replace(size=about.st_size, closed=not about.st_mode & stat.S_IWUSR)


class LogWriter:
    """A writer of a log directory: the only one, or one of several processes that take turns. Thread-safe."""

    def __init__(
        self,
        log: Path,
        *,
        stamp: Stamp,
        now_us: Callable[[], int],
        segment_bytes: int,
        sync_s: float,
        turns: Callable[[Path], Turns] = Alone,
    ) -> None:
        """Takes the log over, behind whatever stands in it; `turns` = InTurn: joins those who write it.

        `stamp` runs within the turn, so times never decrease along the log. Raises LogBusy if another process writes it, and
        LogUnavailable if the directory cannot be written.
        """
        self._log = log
        self._stamp = stamp
        self._now_us = now_us
        self._segment_bytes = segment_bytes
        self._turn = turns(log)
        if self._turn.alone:
            take_over(log, self._turn)
        self._segment: _Segment | None = None
        self._sync = GroupSync(log, every_s=sync_s)

    @property
    def last_us(self) -> int:
        """Append time of the newest record, microseconds since the epoch; 0 where there is none."""
        return self._turn.last_us

    def append(self, events: Sequence[Event]) -> int:
        """Writes the events with one write and returns the offset behind them. When it returns, a kill of the process loses none.

        Raises LogUnavailable if the log did not take all of them; then none may be acknowledged.
        """

        def framed(now_us: int) -> Iterator[bytes]:
            for event in events:
                self._stamp(event, now_us)
                yield frame(event.SerializeToString())

        return self._append(framed)

    def append_decisions(self, bodies: Sequence[bytes]) -> None:
        """As `append`, for serialised Decisions without times: they happen when they are appended."""
        if isinstance(bodies, DecisionBlock):
            self._append(lambda now_us: (bodies.framed(now_us),))
        elif bodies:
            self._append(lambda now_us: _framed(bodies, now_us))

    def append_framed(self, framed: Callable[[int], bytes]) -> None:
        """As `append_decisions`, for records that somebody else frames (protos.framing) once their time is known."""
        self._append(lambda now_us: (framed(now_us),))

    def _append(self, framed: Callable[[int], Iterable[bytes | memoryview]]) -> int:
        with self._turn:
            segment = self._writable()
            parts = [*framed(self._turn.time(self._now_us()))]
            # What is whole already is not copied once more.
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            self._write(segment, data)
            if self._turn.alone:
                # Nobody else moves its end, so the next append need not look: each look lets another thread run in between.
                self._segment = _Segment(segment.descriptor, segment.base, segment.size + len(data), False)
            return segment.end + len(data)

    def close(self) -> None:
        """Syncs and gives the directory back."""
        with self._turn:
            self._let_go()
            self._sync.close()
        self._turn.close()

    def _write(self, segment: _Segment, data: bytes | memoryview) -> None:
        try:
            written = os.write(segment.descriptor, data)
        except OSError as error:
            self._retire()
            raise LogUnavailable(f"log: {self._log.name} takes no record ({error.strerror}); free disk space and send it again") from error
        if written < len(data):
            self._retire()
            raise LogUnavailable(f"log: {self._log.name} took {written} of {len(data)} bytes; free disk space, then send it again")
        self._sync.mark(segment.descriptor)

    def _writable(self) -> _Segment:
        """The newest segment as it is now; the next where there is none, it is full or closed, or its sync failed."""
        failed = self._sync.take_failure()
        if failed is not None:
            self._retire()
            raise LogUnavailable(f"log: {self._log.name} could not be synced ({failed}); check the disk, then send it again")
        if self._segment is not None:
            self._segment = self._segment if self._turn.alone else self._segment.now()
            if self._segment.closed or self._segment.size >= self._segment_bytes:
                self._retire()
        if self._segment is None:
            self._segment = self._open()
        return self._segment

    def _open(self) -> _Segment:
        base, path = _next_segment(self._log, segment_bytes=self._segment_bytes)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LogUnavailable(f"log: {self._log.name}: no segment can be opened ({error.strerror}); check disk and rights") from error
        self._sync.begin()
        return _Segment(descriptor, base, 0, False).now()

    def _retire(self) -> None:
        """Closes the segment, whole or torn, for every process: the next one begins behind its last byte."""
        if self._segment is not None and self._segment.now().size:
            os.fchmod(self._segment.descriptor, _CLOSED)
        self._let_go()

    def _let_go(self) -> None:
        if self._segment is not None:
            self._sync.retire(self._segment.descriptor)
            self._segment = None


def take_over(log: Path, turns: Turns) -> None:
    """Closes the segment that an earlier process may have left with a torn tail, and goes on from its time. For whoever takes a log over,
    before it is written: reads the newest segment whole."""
    with turns:
        newest = True
        for base, path in reversed(segments(log)):
            items = list(records(path.read_bytes(), base=base, whole=True))
            if newest and items:
                _close(path, items[-1])
                newest = False
            whole = [item for item in items if isinstance(item, Record)]
            if whole:
                turns.time(Event.FromString(whole[-1].payload).append_time_us)
                return


def _close(path: Path, last: Record | Damage) -> None:
    if isinstance(last, Damage):
        _logger.warning("log %s: %s at %d..%d is passed over", path.parent, *last)
    path.chmod(_CLOSED)


def _next_segment(log: Path, *, segment_bytes: int) -> tuple[int, Path]:
    """(base offset, path) of the segment to write to: the newest while it may grow, else the one behind it."""
    found = segments(log)
    if not found:
        return 0, segment_path(log, 0)
    base, path = found[-1]
    about = path.stat()
    if about.st_mode & stat.S_IWUSR and about.st_size < segment_bytes:
        return base, path
    return base + about.st_size, segment_path(log, base + about.st_size)
