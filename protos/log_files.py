"""The files of a log: append-only segments of framed records, read by byte offset.

    <root>/<log>/<base offset, 20 digits>.log

An offset counts the bytes of the log since its beginning: the base of the segment and the position in it. A writer that finds a torn
tail leaves it and opens a new segment behind it, so offsets never move and the reader can name the damage. `decisions` is the log
of the server, `feedback` that of its Feedback call; both hold protos.events_pb2.Event. `shadows` holds protos.events_pb2.ShadowScores, what
policies that are not shown would have done, and nobody joins it. Where a log is shipped to a broker, the offset up to which everything
was acknowledged stands beside the segments, as text, in the file `shipped`.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

from protos.framing import HEADER_BYTES, MAX_PAYLOAD_BYTES, TORN, Damage, Record, next_start, records

__all__ = ["DECISIONS", "FEEDBACK", "SHADOWS", "SHIPPED", "Chunk", "end_offset", "read_log", "segment_path", "segments", "shipped_offset"]

DECISIONS = "decisions"
FEEDBACK = "feedback"
SHADOWS = "shadows"
SHIPPED = "shipped"
_SUFFIX = ".log"


class Chunk(NamedTuple):
    """What a read found, in order, and the offset at which the next read begins."""

    items: list[Record | Damage]
    next_offset: int


def segment_path(log: Path, base: int) -> Path:
    """Path of the segment that begins at offset `base`."""
    return log / f"{base:020d}{_SUFFIX}"


def segments(log: Path) -> list[tuple[int, Path]]:
    """(base offset, path) of each segment, oldest first; none where the log does not exist yet."""
    return sorted((int(path.stem), path) for path in log.glob(f"*{_SUFFIX}") if path.stem.isdigit())


def end_offset(log: Path) -> int:
    """Offset just behind the last byte of the log."""
    found = segments(log)
    return found[-1][0] + found[-1][1].stat().st_size if found else 0


def shipped_offset(log: Path) -> int | None:
    """Everything before this offset is at the broker; None where the log is not shipped, 0 where its mark can't be read."""
    try:
        return int((log / SHIPPED).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return 0


def read_log(log: Path, *, offset: int, max_bytes: int = 4 << 20) -> Chunk:
    """Records and damage from `offset` on, at most about `max_bytes` and never past a segment's end.

    An unfinished record at the very end of the log is left for a later read; in an older segment it is damage. An offset inside
    a collected (deleted) segment continues at the oldest one there is.
    """
    found = segments(log)
    following = [base for base, _ in found if base > offset]
    standing = [(base, path) for base, path in found if base <= offset]
    if not standing:
        return Chunk([], following[0]) if following else Chunk([], offset)
    base, path = standing[-1]
    closed = bool(following)
    size = path.stat().st_size
    for limit in (max_bytes, MAX_PAYLOAD_BYTES + HEADER_BYTES):
        data = _read(path, offset - base, limit)
        at_end = offset - base + len(data) >= size
        items = list(records(data, base=offset, whole=closed and at_end))
        if not at_end:
            items = list(itertools.takewhile(_is_decided, items))
        if items:
            return Chunk(items, items[-1].end)
        if at_end:
            break
    else:
        # A full frame's worth of bytes holds no record: damage that long is passed over, up to where one may begin that goes on behind.
        passed = next_start(data, 1)
        return Chunk([Damage("no record mark", offset, offset + passed)], offset + passed)
    return Chunk([], following[0] if closed else offset)


def _is_decided(item: Record | Damage) -> bool:
    """Is it the same however much more is read? A record that the read cut in two looks torn; its payload is not to be searched."""
    return not (isinstance(item, Damage) and item.reason == TORN)


def _read(path: Path, position: int, limit: int) -> bytes:
    with path.open("rb") as file:
        file.seek(position)
        return file.read(limit)
