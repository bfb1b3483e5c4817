"""Benchmark of the join on a real Kafka broker: CPU an event, end to end and of the kernel alone, memory of its state, freshness.

    python tests/bench/attribution.py --json [--decisions 1000000] [--rounds 3] [--fresh-s 60] [--no-peers] [--only PART]

One JSON object a line with --json, else a line of text a figure. Every joiner runs in a process of its own over the same topics, in
rounds that alternate; what counts is the CPU of the whole process, librdkafka's threads included. The peers are Quix Streams (installed
into `.bench/attribution`, an environment of its own; one event a message, RocksDB state with changelog) and a Python dict behind our own
consumer that commits to two Delta tables as well: once 5 columns each, once all the columns that ours writes (its tables are equal to
ours but for the marks of the commit). Each joiner is told twice: from its first event on, and behind the first third of them, when its
memory has been touched once and its windows are full, as those of one that runs for days are. `ratio` above 1 = ours is better. The
broker is started here (Java 17, Maven).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# One thread and freed memory kept, as the command has it: read when polars is first imported.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1")
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from peers.dict_join import DictJoin  # noqa: E402
from peers.figures import Figure, printed  # noqa: E402
from peers.freshness_run import measured  # noqa: E402
from peers.join_events import DISORDER_US, TASK, Sent, fill, generated  # noqa: E402
from peers.workers import installed  # noqa: E402

from attribution import derive  # noqa: E402
from attribution.decode import decode  # noqa: E402
from attribution.events import Raws  # noqa: E402
from attribution.fetch_bounds import FetchBounds  # noqa: E402
from attribution.join import JoinState, empty_state, step  # noqa: E402
from attribution.memory import keep_freed_memory  # noqa: E402
from attribution.settings import JoinConfig, load_join_config  # noqa: E402
from attribution.watermarks import FINAL_US  # noqa: E402
from protos.events_pb2 import Event  # noqa: E402
from tests.kafka import broker  # noqa: E402

PEERS = Path(__file__).resolve().parent / "peers"
QUIX_PACKAGES = ("quixstreams", "protobuf==7.36.2", "numpy", "deltalake==1.6.6", "pyarrow==26.0.1")
WHOLE_DICT = "dict that writes the columns of ours"
QUIX, QUIX_TABLES = "Quix, rows to a topic", "Quix that commits two tables"
PARTS = ("kernel", "freshness", "end_to_end")
MICRO_BATCH, ARROW_EVENTS = FetchBounds.events, 500
_PAYLOAD = ("payload", "unit_id", "decision_id", "tenant", "task")


class Costs(NamedTuple):
    """CPU microseconds an event of each round, and events a second of one core."""

    us: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.us)


def end_to_end(bootstrap: str, events: Sequence[Sent], folder: Path, *, rounds: int, quix: Path | None) -> Iterator[Figure]:
    """Consume to committed table, both hops, against each peer."""
    fill(bootstrap, "single-", events, batch=1)
    fill(bootstrap, "batch-", events, batch=ARROW_EVENTS)
    # And the six heartbeats that end the sources.
    given = [str(folder), str(len(events) + 6)]
    joiner = [sys.executable, str(PEERS / "joiner_runs.py")]
    runs: dict[str, list[str]] = {
        "single": [*joiner, "ours", bootstrap, "single-", *given],
        "arrow": [*joiner, "ours", bootstrap, "batch-", *given],
        "dict": [*joiner, "dict", bootstrap, "single-", *given],
        WHOLE_DICT: [*joiner, "dict-whole", bootstrap, "single-", *given],
    }
    if quix is not None:
        for name, out in ((QUIX, "topic"), (QUIX_TABLES, "tables")):
            runs[name] = [str(quix), str(PEERS / "quix_joiner.py"), out, bootstrap, "single-", *given]
    whole: dict[str, Costs] = {name: Costs([]) for name in runs}
    steady: dict[str, Costs] = {name: Costs([]) for name in runs}
    for _ in range(rounds):
        for name, command in runs.items():
            said = _run(command)
            whole[name].us.append(said["cpu_s"] * 1e6 / said["events"])
            if said["steady_us"] is not None:
                steady[name].us.append(said["steady_us"])
    parts = [(whole, "")]
    if all(costs.us for costs in steady.values()):
        parts.append((steady, ", behind the first third"))
    for costs, part in parts:
        for way, ours, of_dict, of_quix in (("one event a message", "single", 3.5, 8.0), ("Arrow batches of 500", "arrow", 8.0, 15.0)):
            for peer in [peer for peer in runs if peer not in ("single", "arrow")]:
                target = of_quix if peer in (QUIX, QUIX_TABLES) else of_dict
                mine, theirs = costs[ours].median, costs[peer].median
                note = f"{1e6 / mine:,.0f} events/s a core; target is of the ratio; {len(events):,} events"
                title = f"end to end, {way}{part}"
                yield Figure(title, mine, "us CPU an event", target, "lower", peer, theirs, theirs / mine, rounds, note)


def _run(command: Sequence[str]) -> dict[str, Any]:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "POLARS_MAX_THREADS": "1"})
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{command[1]}: {ended.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


class Stopwatch:
    """A function, and the CPU seconds that it took so far."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self.cpu_s = function, 0.0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        result = self._function(*arguments, **named)
        self.cpu_s += time.process_time() - began
        return result


def kernel(events: Sequence[Sent], config: JoinConfig, *, rounds: int) -> Iterator[Figure]:
    """The join alone, on decoded events, until the last decision has closed: ours on frames, the dict on parsed messages.

    Ours reads the whole body of a decision when it closes, which the dict finds parsed: so it is told with that and without. Memory is
    kept, as the command does.
    """
    keep_freed_memory()
    batches = [events[at : at + MICRO_BATCH] for at in range(0, len(events), MICRO_BATCH)]
    frames = [decode(_raws(batch)) for batch in batches]
    reading = derive.decision_table = Stopwatch(derive.decision_table)
    stepping, taking = Stopwatch(step), Stopwatch(_taken)
    mine, read, theirs, biggest = [], [], [], empty_state()
    for _ in range(rounds):
        stepping.cpu_s = taking.cpu_s = reading.cpu_s = 0.0
        rows, state = _stepped(frames, config, stepping)
        assert rows == _all_taken(batches, taking), "one of the two has not closed every decision"
        biggest = max(biggest, state, key=lambda one: one.decisions.height)
        for costs, watch in ((mine, stepping), (read, reading), (theirs, taking)):
            costs.append(watch.cpu_s * 1e6 / len(events))
    note = f"ratio's target: 8; {len(events):,} events, {rows:,} decisions closed"
    for name, costs in (("join kernel", np.array(mine)), ("join kernel, decisions already read", np.subtract(mine, read))):
        ours, other = float(np.median(costs)), statistics.median(theirs)
        yield Figure(name, ours, "us CPU an event", 1.0, "lower", "dict", other, other / ours, rounds, note)
    yield Figure("state of an open decision beside its payload", _state_bytes(biggest), "bytes", 200.0, "lower")


def _stepped(frames: Sequence[pl.DataFrame], config: JoinConfig, take: Callable[..., Any]) -> tuple[int, JoinState]:
    """How many rows our join makes of the frames, and its largest state. With the last frame the sources end."""
    state, rows = empty_state(), 0
    biggest = state
    for number, frame in enumerate(frames, 1):
        newest = FINAL_US if number == len(frames) else int(frame["event_time_us"].max()) - DISORDER_US
        state, made = take(state, frame, watermark_us=newest, config=config)
        biggest, rows = max(biggest, state, key=lambda one: one.decisions.height), rows + made.num_rows
    return rows, biggest


def _all_taken(batches: Sequence[Sequence[Sent]], take: Callable[..., Any]) -> int:
    """How many rows the dict makes of the batches; their messages are parsed between the steps, as it would find them in memory."""
    join, rows = DictJoin(), 0
    for number, batch in enumerate(batches, 1):
        rows += take(join, [(one, Event.FromString(one.payload)) for one in batch], ends=number == len(batches))
    return rows


def _taken(join: DictJoin, parsed: Sequence[tuple[Sent, Event]], *, ends: bool) -> int:
    """One step of the dict, and how many rows it made."""
    for one, event in parsed:
        kind = str(event.WhichOneof("kind"))
        join.take(kind, getattr(event, kind), topic=one.topic, partition=one.partition, append_us=one.at_us)
    if ends:
        for topic, partition in list(join.marks):
            join.take("heartbeat", None, topic=topic, partition=partition, append_us=0)
    return len(join.closed())


def freshness(bootstrap: str, folder: Path, *, seconds: float) -> Iterator[Figure]:
    """From a reward to its observation and to a challenger that has learned it, beside the config's windows; the commands' defaults."""
    found = measured(bootstrap, folder / "fresh", seconds=seconds)
    note = f"{len(found.observed_s):,} rewards, {found.challengers} challengers; polls of 1 s (joiner) and 0.5 s (learner) are in it"
    for name, delays_s in (("observation committed", found.observed_s), ("challenger published", found.learned_s)):
        for quantile in (50, 99):
            yield Figure(f"reward to {name}, p{quantile}", float(np.percentile(delays_s, quantile)), "s", None, "lower", note=note)


def _raws(batch: Sequence[Sent]) -> Raws:
    columns = list(zip(*batch, strict=True))
    return Raws(columns[1], columns[2], list(range(len(batch))), columns[3], columns[0], {})


def _state_bytes(state: JoinState) -> float:
    """Bytes that the state holds for each decision, without the messages and the keys that are in them."""
    held = sum(
        frame.drop([name for name in _PAYLOAD if name in frame.columns]).estimated_size() for frame in (state.decisions, state.feedback)
    )
    ids = state.decisions.select("decision_id").estimated_size() + pl.Series(state.feedback["decision_id"]).estimated_size()
    return float(held + ids) / max(state.decisions.height, 1)


def figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    quix, parts = None, arguments.only or PARTS
    if not arguments.no_peers and "end_to_end" in parts:
        quix, faults = installed(QUIX_PACKAGES, folder=ROOT / ".bench" / "attribution")
        assert not faults, faults
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "news.yaml").write_text(TASK)
        config = load_join_config(folder)
        events = generated(arguments.decisions)
        if "kernel" in parts:
            yield from kernel(events, config, rounds=arguments.rounds)
        if not {"freshness", "end_to_end"} & set(parts):
            return
        with broker.running() as cluster:
            if "freshness" in parts:
                yield from freshness(cluster.bootstrap, folder, seconds=arguments.fresh_s)
            if "end_to_end" in parts:
                yield from end_to_end(cluster.bootstrap, events, folder, rounds=arguments.rounds, quix=quix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fresh-s", type=float, default=60.0)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part of it; repeatable")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    if arguments.only != ["kernel"] and (reason := broker.missing()):
        sys.exit(f"attribution: not run: {reason}")
    for figure in figures(arguments):
        printed(figure, as_json=arguments.json)


if __name__ == "__main__":
    main()
