"""The writer of a log: every record is in the kernel's hands, by one write, before anybody is answered.

A process that is killed loses nothing that it acknowledged. A power cut may take what the background sync has not reached, at most
`sync_ms` back. A record that stands half in the log (kill during a write, full disk) is left where it is, and a new segment begins
behind it: readers skip it by its checksum and can name it.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from protos.events_pb2 import Event
from protos.framing import Damage, Record, frame, records
from protos.log_files import segment_path, segments
from serving.errors import LogBusy, LogUnavailable
from serving.group_sync import GroupSync
from serving.wire import varint

__all__ = ["LogWriter", "decision_payloads", "stamp_append", "stamp_decision"]

_logger = logging.getLogger(__name__)

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
    time = varint(now_us)
    decided, appended = b"\x38" + time, b"\x78" + time
    for body in bodies:
        yield b"".join((b"\x0a", varint(len(body) + len(decided)), body, decided, appended))


class _Segment(NamedTuple):
    descriptor: int
    base: int


class LogWriter:
    """The one writer of a log directory. Thread-safe."""

    def __init__(self, log: Path, *, stamp: Stamp, now_us: Callable[[], int], segment_bytes: int, sync_s: float) -> None:
        """Takes the log over, behind whatever stands in it.

        `stamp` runs under the append lock, so times never decrease along the log. Raises LogBusy if another process writes it, and
        LogUnavailable if the directory cannot be written.
        """
        self._log = log
        self._stamp = stamp
        self._now_us = now_us
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._owner = _own(log)
        tail = _tail(log)
        self._next_base, self._last_us = tail.base, tail.last_us
        self._segment: _Segment | None = None
        self._position = 0
        self._sync = GroupSync(every_s=sync_s)
        if tail.damage is not None:
            _logger.warning("log %s: %s at %d..%d is passed over", log, *tail.damage)

    @property
    def last_us(self) -> int:
        """Append time of the newest record, microseconds since the epoch; 0 where there is none."""
        return self._last_us

    def append(self, events: Sequence[Event]) -> int:
        """Writes the events with one write and returns the offset behind them. When it returns, a kill of the process loses none.

        Raises LogUnavailable if the log did not take all of them; then none may be acknowledged.
        """

        def payloads(now_us: int) -> Iterator[bytes]:
            for event in events:
                self._stamp(event, now_us)
                yield event.SerializeToString()

        return self._append(payloads)

    def append_decisions(self, bodies: Sequence[bytes]) -> int:
        """As `append`, for serialised Decisions without times: they happen when they are appended."""
        return self._append(lambda now_us: decision_payloads(bodies, now_us)) if bodies else self._position

    def _append(self, payloads: Callable[[int], Iterable[bytes]]) -> int:
        with self._lock:
            segment = self._writable()
            now_us = max(self._now_us(), self._last_us)
            data = b"".join([frame(payload) for payload in payloads(now_us)])
            self._write(segment, data)
            self._last_us = now_us
            self._position += len(data)
            return self._position

    def close(self) -> None:
        """Syncs and gives the directory back."""
        with self._lock:
            self._retire()
            self._sync.close()
            os.close(self._owner)

    def _write(self, segment: _Segment, data: bytes) -> None:
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
        """The open segment; a new one where there is none, the old is full, or its sync failed."""
        segment = self._segment
        failed = self._sync.take_failure()
        if failed is not None:
            self._retire()
            raise LogUnavailable(f"log: {self._log.name} could not be synced ({failed}); check the disk, then send it again")
        if segment is not None and self._position - segment.base >= self._segment_bytes:
            self._retire()
        if self._segment is None:
            self._segment = self._open()
        return self._segment

    def _open(self) -> _Segment:
        try:
            descriptor = os.open(segment_path(self._log, self._next_base), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            _sync_directory(self._log)
        except OSError as error:
            raise LogUnavailable(f"log: {self._log.name}: no segment can be opened ({error.strerror}); check disk and rights") from error
        self._position = self._next_base
        return _Segment(descriptor, self._next_base)

    def _retire(self) -> None:
        """Closes the segment, whole or torn: the next one begins behind its last byte."""
        if self._segment is None:
            return
        self._next_base = self._segment.base + os.fstat(self._segment.descriptor).st_size
        self._sync.retire(self._segment.descriptor)
        self._segment = None


class _Tail(NamedTuple):
    """Where the next segment begins, the newest append time found, and damage at the very end."""

    base: int
    last_us: int
    damage: Damage | None


def _tail(log: Path) -> _Tail:
    base, damage = 0, None
    for start, path in reversed(segments(log)):
        found = list(records(path.read_bytes(), base=start, whole=True))
        if not base:
            base = start + path.stat().st_size
            damage = found[-1] if found and isinstance(found[-1], Damage) else None
        whole = [item for item in found if isinstance(item, Record)]
        if whole:
            return _Tail(base, Event.FromString(whole[-1].payload).append_time_us, damage)
    return _Tail(base, 0, damage)


def _own(log: Path) -> int:
    """The lock of the directory, held until its descriptor is closed or the process ends, however it ends."""
    try:
        log.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LogUnavailable(f"log: {log} cannot be written ({error.strerror}); give --logs a directory of your own") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LogBusy(f"log: {log} is written by another process; stop that server, or give --logs another directory") from error
    return descriptor


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
