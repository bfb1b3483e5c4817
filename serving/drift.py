"""Are the requests' features where those of the training rows were? Read from the decision log, beside the calls: no call pays for it."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bandits.errors import BanditsError
from bandits.histograms import Drift, Seen, drift
from bandits.store import Store
from protos.events_pb2 import Decision, Event
from protos.framing import Record
from protos.log_files import end_offset, read_log
from serving.snapshots import SnapshotHolder
from serving.tasks import TaskKey

__all__ = ["DRIFT_NOTE", "DriftWatch", "TaskDrift"]

_logger = logging.getLogger(__name__)
#: Kind of the note that is kept in the store, for the gate.
DRIFT_NOTE = "drift"
# The newest decisions that are compared, and how many are read at a look at most: a hundredth of a second of work.
_WINDOW, _READ = 10_000, 1_000
_BYTES = 4 << 20


class TaskDrift(NamedTuple):
    """Of the newest decisions of a task, against the snapshot that serves: how many were compared, and each feature's drift."""

    digest: str
    rows: int
    features: Mapping[str, Drift]


class DriftWatch:
    """Looks every `every_s` seconds. Tasks whose snapshot has no histograms are left out; where none has, nothing is read."""

    def __init__(
        self,
        log: Path,
        holders: Mapping[TaskKey, SnapshotHolder],
        stores: Mapping[TaskKey, Store],
        *,
        every_s: float,
        now_us: Callable[[], int],
        name: str = "server",
    ) -> None:
        """`name`: under which the store keeps what this server saw."""
        self._log, self._holders, self._stores = log, holders, stores
        self._every_s, self._now_us, self._name = every_s, now_us, name
        self._offset = end_offset(log)
        self._seen: dict[TaskKey, Seen] = {}
        #: What stands, by task.
        self.found: Mapping[TaskKey, TaskDrift] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def close(self) -> None:
        """Ends."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """One look: reads what is new, and compares."""
        watched = {key: holder for key, holder in self._holders.items() if holder.ready and holder.served.champion.manifest.features}
        if not watched:
            return
        for key, rows in self._new().items():
            if key in watched:
                held = self._seen.get(key)
                self._seen[key] = (rows if held is None else held.joined(rows)).last(_WINDOW)
        self.found = {key: self._compared(key, holder) for key, holder in watched.items() if key in self._seen}
        for key, found in self.found.items():
            self._keep(key, found)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except Exception:
                _logger.exception("drift could not be looked at")

    def _new(self) -> dict[TaskKey, Seen]:
        """The decisions since the last look; of more than can be read, the newest bytes, and evenly spread ones of them."""
        end = end_offset(self._log)
        self._offset = max(self._offset, end - _BYTES)
        records: list[Record] = []
        while self._offset < end:
            chunk = read_log(self._log, offset=self._offset)
            records += [item for item in chunk.items if isinstance(item, Record)]
            if chunk.next_offset == self._offset:
                break
            self._offset = chunk.next_offset
        events = map(Event.FromString, [record.payload for record in records[:: max(len(records) // _READ, 1)]])
        rows: dict[TaskKey, list[Decision]] = defaultdict(list)
        for event in events:
            if event.HasField("decision"):
                rows[event.decision.tenant, event.decision.task].append(event.decision)
        return {key: _seen(found, self._holders[key]) for key, found in rows.items() if key in self._holders}

    def _compared(self, key: TaskKey, holder: SnapshotHolder) -> TaskDrift:
        champion, seen = holder.served.champion, self._seen[key]
        return TaskDrift(champion.digest, len(seen.context), drift(champion.manifest.features, seen, holder.rules.schema))

    def _keep(self, key: TaskKey, found: TaskDrift) -> None:
        features = {name: one._asdict() for name, one in found.features.items()}
        note = {"digest": found.digest, "rows": found.rows, "time_us": self._now_us(), "features": features}
        try:
            self._stores[key].put_note(DRIFT_NOTE, self._name, note)
        except (BanditsError, OSError) as error:
            _logger.error("task %s: the drift could not be kept (%s)", key[1], error)


def _seen(decisions: list[Decision], holder: SnapshotHolder) -> Seen:
    size, digest = holder.rules.context_size, holder.rules.schema_digest
    kept = [found for found in decisions if found.schema_digest == digest and len(found.context) == 4 * size]
    context = np.frombuffer(b"".join([found.context for found in kept]), "<f4").reshape(len(kept), size)
    return Seen(context, [tuple(found.defaulted_features) for found in kept])
