"""The same join with Quix Streams: keyed state, read and written by event; prints its cost as JSON. In an environment of its own.

python quix_joiner.py {topic,tables} BOOTSTRAP PREFIX FOLDER COUNT

Its rows go to a topic, as its documentation does it first; or, as ours and the dict's do, what it read and what it made are committed to
two Delta tables, 4 columns and 5, at each of its checkpoints.
"""

import json
import logging
import sys
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import deltalake
import pyarrow as pa
from few_columns import EVENTS, ROWS, WRITING
from quixstreams import Application, State
from quixstreams.sinks import BaseSink
from steady import Cost

from protos.events_pb2 import Event

# Of what kind a message is would have to be handed through.
_EVENTS = pa.schema([field for field in EVENTS if field.name != "kind"])
# Events between two looks at the processor's account.
_LOOK = 1_000


def joined(value: bytes, state: State) -> dict[str, Any] | None:
    """One event into the state of its key; the row so far where there is a decision."""
    event = Event.FromString(value)
    kind = str(event.WhichOneof("kind"))
    if kind == "heartbeat":
        return None
    body = getattr(event, kind)
    key = body.decision_id.hex()
    held = state.get(key) or {"unit": body.unit_id, "action": "", "seen": False, "reward": 0.0, "ids": []}
    if kind == "decision":
        held["action"] = body.slots[0].action
    elif body.event_id not in held["ids"]:
        held["ids"].append(body.event_id)
        if kind == "impression":
            held["seen"] = True
        else:
            held["reward"] = max(held["reward"], body.value)
    state.set(key, held)
    return {"decision_id": key, **held}


class Tables(BaseSink):
    """Two Delta tables, each with one commit at a checkpoint: all partitions together, which costs it least."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._events, self._rows = folder, list[tuple[Any, ...]](), list[tuple[Any, ...]]()

    def add(self, value: Any, key: Any, timestamp: int, headers: Any, topic: str, partition: int, offset: int) -> None:
        """One message, with the row that it led to."""
        payload, row = value
        self._events.append((topic, partition, offset, payload))
        if row is not None:
            self._rows.append((bytes.fromhex(row["decision_id"]), row["unit"], row["action"], row["seen"], row["reward"]))

    def flush(self) -> None:
        """Commits what was added since the last time."""
        for name, gathered, schema in (("events", self._events, _EVENTS), ("rows", self._rows, ROWS)):
            if gathered:
                table = pa.table([list(column) for column in zip(*gathered, strict=True)], schema=schema)
                deltalake.write_deltalake(self._folder / name, table, mode="append", writer_properties=WRITING)
                gathered.clear()


def main() -> None:
    out, bootstrap, prefix, folder, count = sys.argv[1:6]
    logging.disable(logging.CRITICAL)
    run = uuid.uuid4().hex[:8]
    app = Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{run}",
        auto_offset_reset="earliest",
        state_dir=f"{folder}/quix-{run}",
        auto_create_topics=True,
        loglevel="CRITICAL",
    )
    frames = [
        app.dataframe(app.topic(prefix + topic, key_deserializer="bytes", value_deserializer="bytes"))
        for topic in ("decisions", "impressions", "rewards")
    ]
    every = frames[0].concat(frames[1]).concat(frames[2])
    done = 0

    def counted(value: bytes, state: State) -> dict[str, Any] | None:
        nonlocal done
        done += 1
        # Not at each: ours is told once a micro-batch.
        if done % _LOOK == 0:
            cost.at(done)
        if done == int(count):
            app.stop()
        return joined(value, state)

    if out == "tables":
        every.apply(lambda value, state: (value, counted(value, state)), stateful=True).sink(Tables(Path(folder) / f"quix-out-{run}"))
    else:
        rows = every.apply(counted, stateful=True).filter(lambda row: row is not None)
        rows.to_topic(app.topic(f"{prefix}quix-{run}", value_serializer="json", key_serializer="bytes"))
    cost = Cost(int(count))
    app.run()
    print(json.dumps(cost.told(int(count), rows=0)), flush=True)


if __name__ == "__main__":
    main()
