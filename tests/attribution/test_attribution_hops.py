"""Exactly once over both tables: stopped at every point and started again, the rows are those of one undisturbed run."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attribution.backfill import backfill_landed, backfill_source
from attribution.embedded_source import EmbeddedSource
from attribution.errors import Fenced, LostRecords, TableError
from attribution.events import EVENT_SCHEMA, Raw
from attribution.settings import JoinConfig
from attribution.sources import Fetched, Offsets, Partition
from attribution.status import report
from attribution.tables import EVENTS_DIR, OBSERVATIONS_DIR, PositionedTable, open_table
from attribution.watermarks import FINAL_US
from attribution.worker import Progress, Worker, run_worker
from protos.events_pb2 import Event
from protos.observation_reader import latest_revisions, observed_watermark_us, revisions_since
from tests.attribution.event_kit import append_log, decision, finals, heartbeat, impression, join_config, reward

POINTS = ("fetched", "landed", "stepped", "derived", "committed")
COMMIT_METADATA = ("revision", "partition", "watermark_us", "commit_seq")


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture
def config(tmp_path: Path) -> JoinConfig:
    return join_config(tmp_path / "tasks")


def batches() -> list[tuple[list[Event], list[Event]]]:
    """(decision log, feedback log) micro-batch by micro-batch: in time, late, twice, orphaned, and the end."""
    quiet = [heartbeat("impressions", 30.0, logged=30.0), heartbeat("rewards", 30.0, logged=30.0)]
    return [
        ([decision(1, 0.0), decision(2, 1.0, unit="u2")], [impression("i1", 1.0), reward("r1", 2.0, slot=0)]),
        ([decision(3, 5.0)], [impression("i2", 6.0, key=2, unit="u2"), reward("r1", 2.0, slot=0, logged=6.0)]),
        ([decision(4, 30.0, unit="u4"), decision(3, 5.0, logged=30.0)], quiet),
        (
            [heartbeat("decisions", 40.0)],
            [reward("r2", 3.0, key=2, unit="u2", slot=1, logged=33.0), heartbeat("rewards", 40.0), heartbeat("impressions", 40.0)],
        ),
        ([decision(5, 41.0)], [reward("r3", 42.0, key=5, action="b"), reward("r9", 42.0, key=77), impression("i5", 42.0, key=5)]),
        (finals(50.0)[:1], finals(50.0)[1:]),
    ]


def run_all(logs: Path, out: Path, config: JoinConfig, *, stop: Callable[[str, int], bool] = lambda name, times: False) -> int:
    """Writes and joins batch by batch; a stop abandons the worker and starts another. The number of stops."""
    passed: dict[str, int] = {}
    stops = 0

    def at_point(name: str) -> None:
        passed[name] = passed.get(name, 0) + 1
        if stop(name, passed[name]):
            raise Stopped

    worker: Worker | None = None
    for decisions, feedback in batches():
        append_log(logs, "decisions", decisions)
        append_log(logs, "feedback", feedback)
        done = False
        while not done:
            try:
                worker = worker or Worker(EmbeddedSource(logs), out=out, config=config, at_point=at_point)
                done = worker.cycle().events == 0
            except Stopped:
                stops, worker = stops + 1, None
    return stops


def rows(out: Path, *, without: Sequence[str] = COMMIT_METADATA) -> list[dict[str, Any]]:
    latest = latest_revisions(out / OBSERVATIONS_DIR, task="news")
    return latest.drop_columns(list(without)).to_pylist()


def all_rows(out: Path) -> list[tuple[bytes, int]]:
    table = deltalake.DeltaTable(out / OBSERVATIONS_DIR).to_pyarrow_table(columns=["decision_id", "revision"])
    return sorted((row["decision_id"], row["revision"]) for row in table.to_pylist())


def account_of(out: Path, config: JoinConfig) -> dict[str, Any]:
    found = report(out, config=config)
    return {
        name: found[name] for name in ("logged", "joined", "pending", "quarantined", "closes", "events", "rows", "partitions", "offsets")
    }


@pytest.fixture
def undisturbed(tmp_path: Path, config: JoinConfig) -> Path:
    run_all(tmp_path / "logs0", tmp_path / "out0", config)
    return tmp_path / "out0"


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("every", [1, 2, 3], ids=lambda every: f"every {every}")
def test_stopped_at_any_point_and_started_again_the_rows_are_the_same(
    tmp_path: Path, config: JoinConfig, undisturbed: Path, point: str, every: int
) -> None:
    # Each passage of the point at most once every `every` passages: two stops in a row at one batch are among them.
    stops = run_all(tmp_path / "logs", tmp_path / "out", config, stop=lambda name, times: name == point and times % (every + 1) == every)
    assert stops > 0
    assert rows(tmp_path / "out") == rows(undisturbed)
    assert all_rows(tmp_path / "out") == all_rows(undisturbed)
    assert account_of(tmp_path / "out", config)["events"] == account_of(undisturbed, config)["events"]


def test_the_stream_the_backfill_of_the_log_and_that_of_the_landed_events_agree(
    tmp_path: Path, config: JoinConfig, undisturbed: Path
) -> None:
    backfill_landed(undisturbed, out=tmp_path / "landed", config=config)
    backfill_source(EmbeddedSource(tmp_path / "logs0"), out=tmp_path / "log", config=config, on_progress=lambda progress: None)
    assert rows(tmp_path / "landed") == rows(undisturbed) == rows(tmp_path / "log")
    assert len(rows(undisturbed)) == 5
    with pytest.raises(TableError, match="has rows already"):
        backfill_landed(undisturbed, out=tmp_path / "landed", config=config)


def test_landed_files_have_the_tables_own_types(undisturbed: Path) -> None:
    files = sorted((undisturbed / EVENTS_DIR).glob("*.parquet"))
    assert files and all(pq.read_schema(file).remove_metadata().equals(EVENT_SCHEMA) for file in files)


def test_the_account_closes_after_every_batch(tmp_path: Path, config: JoinConfig) -> None:
    out, logs, seen = tmp_path / "out", tmp_path / "logs", []
    for log, events in [("decisions", []), ("feedback", [])]:
        append_log(logs, log, events)
    worker = Worker(EmbeddedSource(logs), out=out, config=config)
    for decisions, feedback in batches():
        append_log(logs, "decisions", [*decisions, decision(90 + len(seen), 1.0, task="nws")])
        append_log(logs, "feedback", feedback)
        worker.cycle()
        found = account_of(out, config)
        assert found["closes"] and found["logged"] == found["joined"] + found["pending"] + found["quarantined"]
        seen.append((found["logged"], found["joined"], found["pending"], found["quarantined"]))
    assert seen == [(3, 0, 2, 1), (5, 0, 3, 2), (7, 3, 1, 3), (8, 3, 1, 4), (10, 3, 2, 5), (11, 5, 0, 6)]
    assert worker.final and found["events"]["orphans"] == 1 and found["events"]["duplicates"] == 2


def test_an_account_that_lost_a_row_does_not_close(tmp_path: Path, config: JoinConfig, undisturbed: Path) -> None:
    deltalake.DeltaTable(undisturbed / "events").delete("kind = 'decision' AND unit_id = 'u2'")
    assert not report(undisturbed, config=config)["closes"]


def test_a_reader_sees_each_revision_once_and_commits_count_from_one(undisturbed: Path) -> None:
    table = undisturbed / OBSERVATIONS_DIR
    everything, cursor = revisions_since(table, task="news", cursor={})
    assert everything.num_rows == len(all_rows(undisturbed)) == 6, "five decisions, one of them corrected"
    assert sorted(set(everything["commit_seq"].to_pylist())) == list(range(1, cursor[0] + 1))
    assert revisions_since(table, task="news", cursor=cursor)[0].num_rows == 0
    assert observed_watermark_us(table) == FINAL_US


def test_a_zombie_writer_is_refused_and_writes_nothing(tmp_path: Path, config: JoinConfig) -> None:
    logs, out = tmp_path / "logs", tmp_path / "out"
    append_log(logs, "decisions", batches()[0][0])
    zombie = Worker(EmbeddedSource(logs), out=out, config=config)
    heir = Worker(EmbeddedSource(logs), out=out, config=config)
    heir.cycle()
    with pytest.raises(Fenced):
        zombie.cycle()
    assert report(out, config=config)["logged"] == 2


def test_what_another_worker_does_while_the_tables_are_looked_at_anew_is_derived_once(
    tmp_path: Path, config: JoinConfig, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who saw what is derived, but not yet what has landed, closed windows without the other worker's events, and corrected them then."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    write = iter(batches())

    def next_batch() -> bool:
        found = next(write, None)
        if found is not None:
            append_log(logs, "decisions", found[0])
            append_log(logs, "feedback", found[1])
        return found is not None

    next_batch()
    worker, other = (Worker(EmbeddedSource(logs), out=out, config=config) for _ in range(2))
    refresh = PositionedTable.refresh

    def disturbed(table: PositionedTable) -> None:
        refresh(table)
        with monkeypatch.context() as undone:
            undone.setattr(PositionedTable, "refresh", refresh)
            other.reload()
            while other.cycle().events:
                pass

    def taking_back(step: Callable[[], object]) -> None:
        try:
            step()
        except Fenced:
            worker.reload()

    while next_batch():
        with monkeypatch.context() as patched:
            patched.setattr(PositionedTable, "refresh", disturbed)
            taking_back(worker.reload)
        taking_back(worker.cycle)
    assert rows(out) == rows(undisturbed) and all_rows(out) == all_rows(undisturbed) and worker.final


def test_a_writer_that_comes_back_with_an_old_position_is_refused_though_delta_would_take_it(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.int64())])
    one, other = open_table(tmp_path / "t", schema=schema), open_table(tmp_path / "t", schema=schema)
    assert one.position("app") is None and other.position("app") is None
    one.append(pa.table({"x": [1]}, schema=schema), positions={"app": 10})
    other.append(pa.table({"x": [2]}, schema=schema), positions={"own": 1})
    with pytest.raises(Fenced, match="position app is 10, not None"):
        other.append(pa.table({"x": [3]}, schema=schema), positions={"app": 5})
    fresh = open_table(tmp_path / "t", schema=schema)
    assert fresh.position("app") == 10 and sorted(fresh.read(columns=["x"])["x"]) == [1, 2]


def test_damage_and_garbage_in_a_log_are_counted_with_their_position_and_never_fatal(tmp_path: Path, config: JoinConfig) -> None:
    logs, out = tmp_path / "logs", tmp_path / "out"
    append_log(logs, "decisions", [decision(1), decision(2)])
    (path,) = (logs / "decisions").glob("*.log")
    data = bytearray(path.read_bytes())
    size = len(data) // 2
    data[size // 2] ^= 1
    path.write_bytes(data)
    append_log(logs, "decisions", [decision(3)])
    append_log(logs, "feedback", [])
    Worker(EmbeddedSource(logs), out=out, config=config).cycle()
    found = report(out, config=config, ends=EmbeddedSource(logs).end_offsets())
    assert [(damage["topic"], damage["offset"]) for damage in found["damage"]] == [("decisions", 0)]
    assert f"bytes 0 to {size}" in found["damage"][0]["reason"]
    assert found["logged"] == found["pending"] == 2 and {entry["lag"] for entry in found["offsets"]} == {0}


def test_a_segment_that_was_deleted_before_it_was_read_is_an_error_and_never_a_gap(tmp_path: Path, config: JoinConfig) -> None:
    logs, out = tmp_path / "logs", tmp_path / "out"
    append_log(logs, "decisions", [decision(1)])
    Worker(EmbeddedSource(logs), out=out, config=config).cycle()
    (path,) = (logs / "decisions").glob("*.log")
    path.rename(path.with_name(f"{10_000:020d}.log"))
    with pytest.raises(LostRecords, match="begins at offset 10000"):
        Worker(EmbeddedSource(logs), out=out, config=config).cycle()
    Worker(EmbeddedSource(logs), out=tmp_path / "new", config=config).cycle()
    assert report(tmp_path / "new", config=config)["logged"] == 1


class TwoPartitions:
    """A source of two partitions whose second is slower."""

    def __init__(self, script: Sequence[dict[int, list[Event]]]) -> None:
        self._script = script

    def partitions(self) -> list[Partition]:
        return [Partition("decisions", number) for number in (0, 1)]

    def fetch(self, offsets: Offsets) -> Fetched:
        done = max(offsets.values(), default=0)
        if done == len(self._script):
            return Fetched([], offsets)
        raws = [
            Raw("feedback", number, done, event.SerializeToString()) for number, events in self._script[done].items() for event in events
        ]
        return Fetched(raws, dict.fromkeys(self.partitions(), done + 1))

    def commit(self, offsets: Offsets) -> None: ...

    def end_offsets(self) -> Offsets:
        return {}

    def close(self) -> None: ...


def test_each_partition_has_its_own_watermark_and_its_own_count_of_commits(tmp_path: Path, config: JoinConfig) -> None:
    def told(events: list[Event], partition: int) -> list[Event]:
        for event in events:
            event.heartbeat.partition = partition
        return events

    script = [
        {0: [decision(1)], 1: [decision(2, unit="u2")]},
        {0: told(finals(), 0)},
        {1: told(finals(), 1)},
    ]
    worker = Worker(TwoPartitions(script), out=tmp_path, config=config)
    assert [worker.cycle().rows for _ in script] == [0, 1, 1]
    table = deltalake.DeltaTable(tmp_path / OBSERVATIONS_DIR).to_pyarrow_table()
    assert {(row["partition"], row["decision_id"][-1], row["commit_seq"]) for row in table.to_pylist()} == {(0, 1, 1), (1, 2, 1)}


def test_after_a_full_batch_the_next_is_fetched_at_once() -> None:
    class Stop(threading.Event):
        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            return super().wait(0.0)

    told = iter([Progress(5, 0, full=True), Progress(5, 0, full=True), Progress(5, 0)])
    stop = Stop()
    seen: list[Progress] = []

    def count(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            stop.set()

    worker: Any = SimpleNamespace(shared=False, final=False, cycle=lambda: next(told))
    run_worker(worker, poll_s=60.0, stop=stop, until_final=False, on_progress=count)
    assert (len(seen), stop.waits) == (3, 1)
