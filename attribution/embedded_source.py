"""The embedded transport: the server's own log directories, read by byte offset as one logical partition."""

from collections.abc import Sequence
from pathlib import Path

from attribution.errors import LostRecords, SourceError
from attribution.events import Raw
from attribution.sources import Fetched, Offsets, Partition
from protos.framing import Damage, Record
from protos.log_files import DECISIONS, FEEDBACK, end_offset, read_log, segments

__all__ = ["EmbeddedSource"]

_CHUNK_BYTES = 4 << 20
# Bytes of decisions in one fetch; what is more comes with the next.
_MOST_BYTES = 32 << 20


class EmbeddedSource:
    """Reads `<logs>/decisions` and `<logs>/feedback`.

    Feedback is handed on only together with every decision that was logged before it: then a heartbeat in the feedback log speaks for
    the decisions too, and no reward waits for a decision that is merely unread.
    """

    def __init__(self, logs: Path) -> None:
        if not logs.is_dir():
            raise SourceError(f"--logs {logs}: no such directory; give the one that the server writes its logs to")
        self._logs = logs

    @property
    def shared(self) -> bool:
        """False: one machine, one joiner."""
        return False

    def partitions(self) -> Sequence[Partition]:
        """The two logs, partition 0 of each."""
        return [Partition(DECISIONS, 0), Partition(FEEDBACK, 0)]

    def fetch(self, offsets: Offsets) -> Fetched:
        """Reads on; damage in a log comes as a record that says so."""
        decisions, feedback = self.partitions()
        held = read_log(self._logs / FEEDBACK, offset=self._begin(feedback, offsets), max_bytes=_CHUNK_BYTES)
        raws, offset, whole = self._read_to_end(self._begin(decisions, offsets))
        if not whole:
            return Fetched(raws, {**offsets, decisions: offset}, full=True)
        raws += [_raw(FEEDBACK, item) for item in held.items]
        return Fetched(raws, {**offsets, decisions: offset, feedback: held.next_offset})

    def commit(self, offsets: Offsets) -> None:
        """Nothing to tell: whoever watches the lag compares the tables with the files."""

    def end_offsets(self) -> Offsets:
        """Sizes of the logs."""
        return {partition: end_offset(self._logs / partition.topic) for partition in self.partitions()}

    def close(self) -> None:
        """Nothing is held open."""

    def _begin(self, partition: Partition, offsets: Offsets) -> int:
        """Where to read on; the oldest record where nothing was read yet. Raises LostRecords if the segment is gone."""
        found = segments(self._logs / partition.topic)
        oldest = found[0][0] if found else 0
        offset = offsets.get(partition, oldest)
        if offset < oldest:
            log = self._logs / partition.topic
            raise LostRecords(
                f"{log}: begins at offset {oldest}, and {offset} is not read yet; give back the deleted segments, or another --out"
            )
        return offset

    def _read_to_end(self, offset: int) -> tuple[list[Raw], int, bool]:
        """Decisions from `offset` to where the log ended when this began; False = there are more."""
        log = self._logs / DECISIONS
        end, limit = end_offset(log), offset + _MOST_BYTES
        raws: list[Raw] = []
        while offset < end:
            if offset >= limit:
                return raws, offset, False
            chunk = read_log(log, offset=offset, max_bytes=_CHUNK_BYTES)
            if chunk.next_offset == offset:
                break
            raws += [_raw(DECISIONS, item) for item in chunk.items]
            offset = chunk.next_offset
        return raws, offset, True


def _raw(topic: str, item: Record | Damage) -> Raw:
    if isinstance(item, Damage):
        return Raw(topic, 0, item.start, b"", damage=f"{item.reason}: bytes {item.start} to {item.end}")
    return Raw(topic, 0, item.start, item.payload)
