"""The two hops, one after the other: fetch, land in `events`, derive into `observations`. Exactly once, whenever it stops.

Each hop commits rows and positions as one, so a crash before the first repeats the fetch, a crash between the two derives the landed
events again, and a crash after the second repeats nothing.
"""

import contextlib
import dataclasses
import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa

from attribution.decode import decode
from attribution.deletions import Deletions
from attribution.deriver import Deriver, no_point, underived_events
from attribution.erasure import erase
from attribution.errors import Fenced
from attribution.events import EVENT_SCHEMA
from attribution.freshness import FreshnessWindow, reward_times
from attribution.housekeeping import erase_tables
from attribution.positions import landed_positions, read_landed
from attribution.settings import JoinConfig
from attribution.sources import Offsets, Source
from attribution.tables import EVENTS_DIR, OBSERVATIONS_DIR, open_table
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["EVENTS_DIR", "OBSERVATIONS_DIR", "POINTS", "Progress", "Worker", "run_worker"]

# Where a cycle can be cut: before it seeks and fetches, before and after each of the two commits, before and after the group's.
POINTS = ("followed", "fetched", "landed", "stepped", "derived", "committed")


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A micro-batch makes objects by the ten thousand, and no cycles of them: to look for some in between costs a tenth of all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _now_us() -> int:
    return time.time_ns() // 1_000


@dataclasses.dataclass(frozen=True)
class Progress:
    """What one cycle did, or many; `overridden` of the rows are of slates that were shown otherwise than decided.

    `full`: the fetch reached one of its bounds, so that more may be waiting.
    """

    events: int
    rows: int
    overridden: int = 0
    full: bool = False


class Worker:
    """Joins what a source brings into the tables below `out`; goes on where an earlier one stopped.

    `at_point` is called with the name of each point between two effects, in this order: POINTS. `now_us` is only asked when a commit is
    in, for `freshness`. `totals`: what this worker did so far.
    """

    def __init__(
        self,
        source: Source,
        *,
        out: Path,
        config: JoinConfig,
        at_point: Callable[[str], None] = no_point,
        now_us: Callable[[], int] = _now_us,
    ) -> None:
        self._source, self._at_point, self._now_us = source, at_point, now_us
        self.totals, self.freshness = Progress(0, 0), FreshnessWindow()
        # In this order, here and wherever they are looked at anew: what is derived has landed before, so the events that were derived are
        # all seen, whatever another worker does in between.
        self._observations = open_table(out / OBSERVATIONS_DIR, schema=OBSERVATION_SCHEMA)
        self._landed = open_table(out / EVENTS_DIR, schema=EVENT_SCHEMA)
        self._config, self._out = config, out
        self._deletions = Deletions(out)
        self._erased = self._deletions.now()
        self._restart()

    def _restart(self) -> None:
        """Begins where the tables say that the last commits ended."""
        self._partitions = self._source.partitions()
        self.offsets: Offsets = read_landed(self._landed.position, self._partitions)
        self._deriver = Deriver(
            self._observations, partitions=self._partitions, config=self._config, landed=self._landed, at_point=self._at_point
        )
        self._derive_left()

    def reload(self) -> None:
        """Throws away what it knows and begins again from the tables as they are now: what to do when another writer has moved them."""
        for table in (self._observations, self._landed):
            table.refresh()
            table.forget({partition.number for partition in self._partitions})
        self._restart()

    def _follow(self) -> None:
        """Lets go of the partitions that are another worker's now, and takes over those that have become this one's."""
        partitions = self._source.partitions()
        if partitions == self._partitions:
            return
        changed = {p.number for p in partitions} ^ {p.number for p in self._partitions}
        for table in (self._observations, self._landed):
            table.refresh()
            table.forget(changed)
        self._partitions = partitions
        kept = {p: offset for p, offset in self.offsets.items() if p in partitions and p.number not in changed}
        self.offsets = {**kept, **read_landed(self._landed.position, [p for p in partitions if p.number in changed])}
        self._deriver.follow(partitions)
        self._derive_left()

    def _erase_new(self) -> None:
        """Obeys deletions that have been asked for since the last cycle: in the tables, which a batch under way then may have refilled,
        and in what is remembered of the open windows."""
        deletions = self._deletions.now()
        if deletions.height == self._erased.height:
            return
        self._erased = deletions
        erase_tables(self._out, deletions)
        for table in (self._observations, self._landed):
            table.refresh()
        self._deriver.erase(deletions)

    def _derive_left(self) -> None:
        """Derives what has landed and is not derived: what a crash between the two hops leaves."""
        if self._deriver.offsets != self.offsets:
            left = underived_events(self._landed, landed_offsets=self.offsets, derived=self._deriver.offsets)
            self._derive(left)

    def _derive(self, events: pl.DataFrame) -> Progress:
        """The second hop, and what is told of it."""
        written = self._deriver.derive(events, offsets=self.offsets)
        self.freshness.add(reward_times(events), committed_us=self._now_us())
        done, before = Progress(events.height, *written), self.totals
        self.totals = Progress(before.events + done.events, before.rows + done.rows, before.overridden + done.overridden)
        return done

    @property
    def shared(self) -> bool:
        """True = other workers derive the other partitions."""
        return self._source.shared

    @property
    def partition_numbers(self) -> frozenset[int]:
        """Numbers of the partitions that this worker derives now."""
        return frozenset(partition.number for partition in self._partitions)

    @property
    def watermarks_us(self) -> Mapping[int, int]:
        """Watermark of each partition that this worker derives, microseconds since the epoch."""
        return self._deriver.watermarks_us

    @property
    def counts(self) -> Mapping[str, int]:
        """Feedback of these partitions by what it counted as, since the beginning."""
        return self._deriver.counts

    @property
    def final(self) -> bool:
        """True = every source has sent its final heartbeat, and what came before it is derived."""
        return self._deriver.final

    def cycle(self) -> Progress:
        """One micro-batch through both hops; nothing is committed where nothing came. Raises Fenced, TableError, SourceError."""
        with _no_collection():
            return self._cycle()

    def _cycle(self) -> Progress:
        self._follow()
        self._erase_new()
        self._at_point("followed")
        raws, offsets, full = self._source.fetch(self.offsets)
        if offsets == self.offsets:
            return Progress(0, 0)
        events = erase(decode(raws), self._erased)
        # Memory for what follows: a message of many events has been taken apart, and nothing asks for it any more.
        del raws
        self._at_point("fetched")
        self._land(events, offsets)
        self._at_point("landed")
        done = self._derive(events)
        self._source.commit(offsets)
        self._at_point("committed")
        return dataclasses.replace(done, full=full)

    def _land(self, events: pl.DataFrame, offsets: Offsets) -> None:
        self._landed.append(_as_landed(events), positions=landed_positions(offsets))
        self.offsets = offsets


def run_worker(worker: Worker, *, poll_s: float, stop: threading.Event, until_final: bool, on_progress: Callable[[Progress], None]) -> None:
    """Cycles until `stop` is set or, with `until_final`, until the input has ended; at most one micro-batch each `poll_s`.

    A batch that is full, or larger than a backlog's, is followed by the next at once.
    """
    while not stop.is_set():
        began = time.monotonic()
        progress = _cycle(worker)
        on_progress(progress)
        if until_final and worker.final and not progress.events:
            return
        if not progress.full and progress.events < _BACKLOG:
            stop.wait(max(0.0, poll_s - (time.monotonic() - began)))


def _cycle(worker: Worker) -> Progress:
    """One cycle; where the partitions are shared, a commit that another worker has forestalled is taken back: reload, and seek."""
    for _ in range(_FENCES if worker.shared else 0):
        try:
            return worker.cycle()
        except Fenced:
            worker.reload()
    return worker.cycle()


# Another member takes a partition over while a batch is under way; more often than this in a row it is no rebalance, but a rival.
_FENCES = 3
# A micro-batch as large as this means that more is waiting.
_BACKLOG = 20_000


def _as_landed(events: pl.DataFrame) -> pa.Table:
    """The events in the table's own types: left to the writer, its files would hold view types."""
    return events.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(EVENT_SCHEMA)
