"""Lets go of the old segments of the server's logs, once nobody needs them any more. Touches the disk.

A segment goes if it is sealed (another stands behind it: the newest says where the log goes on, and never goes), old, shipped where the log
is shipped, and landed: the tables' own offsets say so, not a clock. What goes is a beginning of the log, oldest first, so a stop in
between leaves a log as good as before. Nobody joins the log of shadows: it has no landing to wait for, and goes by age alone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from attribution.errors import SourceError, TableError
from attribution.sources import Offsets, Partition
from attribution.status import done_offsets
from protos.log_files import DECISIONS, FEEDBACK, SHADOWS, end_offset, segments, shipped_offset

__all__ = ["LOGS", "LogExpiry", "expire_logs", "read_by_offset", "read_through_broker"]

LOGS = (DECISIONS, FEEDBACK)


@dataclasses.dataclass(frozen=True)
class LogExpiry:
    """What goes of one log: so many segments and bytes, all before `until_offset`; `landed_offset`: all before it has landed (of shadows,
    which land nowhere, the end of the log)."""

    log: str
    segments: int
    size_bytes: int
    until_offset: int
    landed_offset: int


def read_by_offset(out: Path, logs: Path) -> Mapping[str, int]:
    """Log -> bytes of it that are landed and derived, where the joiner reads the logs themselves.

    Raises TableError if the tables come from another source, whose offsets are no bytes, or from other logs.
    """
    done = {partition.topic: offset for partition, offset in done_offsets(out, [Partition(log, 0) for log in LOGS]).items()}
    if FEEDBACK not in done:
        raise TableError(f"{out}: has landed no {FEEDBACK} log; give the address of the broker (--bootstrap) that its events came through")
    for log, offset in done.items():
        if offset > (end := end_offset(logs / log)):
            raise TableError(f"{out}: has landed {log} up to {offset}, and {logs / log} ends at {end}; give the logs that were joined")
    return {log: done.get(log, 0) for log in LOGS}


def read_through_broker(
    logs: Path, *, ends: Callable[[], Offsets], done: Callable[[Offsets], Offsets], wait: Callable[[], bool]
) -> Mapping[str, int]:
    """Log -> bytes of it that are landed and derived, where it reaches the joiner through a broker.

    What was shipped before `ends` (end offsets of the broker) was asked for stands before them; so once `done` (of these partitions) has
    reached them, all of it has landed. `wait` is called before `done` is asked again; False = no more, and then nothing counts as landed.
    """
    marks = {log: shipped_offset(logs / log) or 0 for log in LOGS}
    wanted = ends()
    while not _reached(done(wanted), wanted):
        if not wait():
            return dict.fromkeys(LOGS, 0)
    return marks


def _reached(done: Offsets, wanted: Offsets) -> bool:
    return all(done.get(partition, 0) >= offset for partition, offset in wanted.items())


def expire_logs(logs: Path, *, landed: Mapping[str, int], before_us: int, apply: bool) -> list[LogExpiry]:
    """Lets go of segments last written before a time (microseconds since the epoch), or (`apply` false) says which would go.

    Raises SourceError if there are no logs, or a segment can't be deleted.
    """
    if not logs.is_dir():
        raise SourceError(f"--logs {logs}: no such directory; give the one that the server writes its logs to")
    needed = {log: landed.get(log, 0) for log in LOGS}
    if (logs / SHADOWS).is_dir():
        needed[SHADOWS] = end_offset(logs / SHADOWS)
    return [_expire_log(logs / log, landed=offset, before_us=before_us, apply=apply) for log, offset in needed.items()]


def _expire_log(log: Path, *, landed: int, before_us: int, apply: bool) -> LogExpiry:
    shipped = shipped_offset(log)
    going = list(_going(log, limit=landed if shipped is None else min(landed, shipped), before_us=before_us))
    size_bytes, until = sum(end - base for base, end, _ in going), max((end for _, end, _ in going), default=0)
    try:
        for _, _, path in going if apply else ():
            path.unlink()
    except OSError as error:
        raise SourceError(f"--logs: {error.filename} can't be deleted ({error.strerror}); mend the rights and do it again") from error
    return LogExpiry(log.name, len(going), size_bytes, until, landed)


def _going(log: Path, *, limit: int, before_us: int) -> Iterator[tuple[int, int, Path]]:
    """(base, end, path) of the oldest segments, up to the first that must stay."""
    for (base, path), (end, _) in pairwise(segments(log)):
        if end > limit or path.stat().st_mtime_ns // 1_000 >= before_us:
            return
        yield base, end, path
