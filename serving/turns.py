"""Who may append to a log: one process alone, or several in turn, each for the length of one write. Touches the disk."""

import fcntl
import os
import threading
from pathlib import Path
from typing import Protocol

from serving.errors import LogBusy, LogUnavailable

__all__ = ["Alone", "InTurn", "Turns", "held"]

_TIME_BYTES = 8


class Turns(Protocol):
    """Entered for each append. Made from the directory of the log; raises LogBusy if the log is another's, LogUnavailable if it cannot be
    written. `alone`: nobody else writes, so what an earlier process left may be closed."""

    alone: bool

    def __enter__(self) -> None:
        """Waits for the turn."""

    def __exit__(self, *_: object) -> None:
        """Gives the turn on."""

    @property
    def last_us(self) -> int:
        """Append time of the newest record of any process, microseconds since the epoch; 0 where there is none."""

    def time(self, now_us: int) -> int:
        """The append time of this turn's records: `now_us`, and never before that of an earlier turn."""

    def close(self) -> None:
        """Gives the directory back."""


class Alone:
    """The threads of one process; another process is refused for as long as this one lives."""

    alone = True

    def __init__(self, log: Path) -> None:
        self._owner = held(log, ".lock", fcntl.LOCK_EX)
        self._lock = threading.Lock()
        self._last_us = 0

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def last_us(self) -> int:
        return self._last_us

    def time(self, now_us: int) -> int:
        self._last_us = max(now_us, self._last_us)
        return self._last_us

    def close(self) -> None:
        os.close(self._owner)


class InTurn:
    """The worker processes of one server. A turn is a lock that the kernel takes back when its process dies; the time stands beside it."""

    alone = False

    def __init__(self, log: Path) -> None:
        self._owner = held(log, ".lock", fcntl.LOCK_SH)
        self._lock = threading.Lock()
        self._turn = os.open(log / ".turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> None:
        self._lock.acquire()
        fcntl.flock(self._turn, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        self._lock.release()

    @property
    def last_us(self) -> int:
        return int.from_bytes(os.pread(self._turn, _TIME_BYTES, 0), "little")

    def time(self, now_us: int) -> int:
        last_us = max(now_us, self.last_us)
        os.pwrite(self._turn, last_us.to_bytes(_TIME_BYTES, "little"), 0)
        return last_us

    def close(self) -> None:
        os.close(self._turn)
        os.close(self._owner)


def held(log: Path, name: str, kind: int) -> int:
    """A lock file of the directory, held until its descriptor is closed or the process ends, however it ends."""
    try:
        log.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LogUnavailable(f"log: {log} cannot be written ({error.strerror}); give --logs a directory of your own") from error
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LogBusy(f"log: {log} is written by another process; stop that server, or give --logs another directory") from error
    return descriptor
