"""One join of everything in the topics, by ours or by the plain Python dict that a team would write first; prints its cost as JSON.

    python joiner_runs.py {ours,dict,dict-whole} BOOTSTRAP PREFIX FOLDER COUNT

All read through the same consumer, and commit to two Delta tables. The dict writes what it has at hand; as dict-whole, all the columns
that ours writes.
"""

import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import deltalake
import polars as pl
import pyarrow as pa
from dict_join import DictJoin
from dict_join_whole import WholeDictJoin
from few_columns import EVENTS, ROWS, WRITING
from join_events import TASK
from steady import Cost

import attribution.__main__  # noqa: F401 (one thread for polars)
from attribution.events import Raws
from attribution.kafka_source import KafkaSource
from attribution.memory import keep_freed_memory
from attribution.settings import JoinConfig, load_join_config
from attribution.sources import Offsets
from attribution.watermarks import FINAL_US
from attribution.worker import Worker
from protos.events_pb2 import Event


def ours(source: KafkaSource, folder: Path, cost: Cost) -> tuple[int, int]:
    """Events and rows of the worker's own loop."""
    worker = Worker(source, out=folder / "out", config=_config(folder))
    events = rows = 0
    while not worker.final:
        done = worker.cycle()
        events, rows = events + done.events, rows + done.rows
        cost.at(events)
    return events, rows


def dict_join(source: KafkaSource, folder: Path, cost: Cost) -> tuple[int, int]:
    """Events and rows of the dict."""
    return _joined(FewColumns(), source, folder, cost)


def whole_dict_join(source: KafkaSource, folder: Path, cost: Cost) -> tuple[int, int]:
    """Events and rows of the dict that writes every column that ours does."""
    # It holds lists and tuples by the million: to look for cycles among them takes twice what all the rest does, and ours looks for none.
    gc.disable()
    (task,) = _config(folder).tasks.values()
    return _joined(WholeDictJoin(digest=task.digest), source, folder, cost)


class FewColumns(DictJoin):
    """The dict, and two tables of what it has at hand: a message and its kind, and five columns of a row."""

    def landed(
        self, topics: list[str], partitions: list[int], offsets: list[int], times: list[int], kinds: list[str], payloads: Any
    ) -> Any:
        """What was taken since the last call."""
        return pa.table([topics, partitions, offsets, kinds, payloads], schema=EVENTS)

    def rows(self) -> Any:
        """What has closed since the last call."""
        return pa.Table.from_pylist([{name: row[name] for name in ROWS.names} for row in self.closed()], schema=ROWS)


def _joined(join: FewColumns | WholeDictJoin, source: KafkaSource, folder: Path, cost: Cost) -> tuple[int, int]:
    offsets, events, rows = {}, 0, 0
    while len(join.marks) < 6 or min(join.marks.values()) < FINAL_US:
        raws, offsets, _ = source.fetch(offsets)
        assert isinstance(raws, Raws)
        rows += _micro_batch(join, raws, folder, offsets)
        events += len(raws.payloads)
        cost.at(events)
    return events, rows


def _micro_batch(join: FewColumns | WholeDictJoin, raws: Raws, folder: Path, offsets: Offsets) -> int:
    kinds = []
    topics, partitions, offsets_read, times = (
        pl.Series(column).to_list() for column in (raws.topics, raws.partitions, raws.offsets, raws.append_times_us)
    )
    payloads = raws.payloads.to_pylist() if isinstance(raws.payloads, pa.Array) else raws.payloads
    for topic, partition, payload, append_us in zip(topics, partitions, payloads, times, strict=True):
        event = Event.FromString(payload)
        kind = str(event.WhichOneof("kind"))
        kinds.append(kind)
        join.take(kind, getattr(event, kind), topic=topic, partition=partition, append_us=append_us)
    if not kinds:
        return 0
    moves = [deltalake.Transaction(f"{p.topic}/{p.number}", offset) for p, offset in offsets.items()]
    landed = join.landed(topics, partitions, offsets_read, times, kinds, payloads)
    properties = deltalake.CommitProperties(app_transactions=moves)
    kept: dict[str, Any] = {"mode": "append", "commit_properties": properties, "writer_properties": WRITING}
    deltalake.write_deltalake(folder / "events", landed, **kept)
    table = join.rows()
    deltalake.write_deltalake(folder / "rows", table, **kept)
    return int(table.num_rows)


def _config(folder: Path) -> JoinConfig:
    (folder / "tasks").mkdir()
    (folder / "tasks" / "news.yaml").write_text(TASK)
    return load_join_config(folder / "tasks")


def main() -> None:
    name, bootstrap, prefix, folder, count = sys.argv[1:6]
    with tempfile.TemporaryDirectory(dir=folder) as own:
        # As the command does; the dict has it too.
        keep_freed_memory()
        source, cost = KafkaSource(bootstrap, prefix=prefix), Cost(int(count))
        events, rows = {"ours": ours, "dict": dict_join, "dict-whole": whole_dict_join}[name](source, Path(own), cost)
        print(json.dumps(cost.told(events, rows=rows)), flush=True)
        source.close()


if __name__ == "__main__":
    main()
