"""The same join with Quix Streams: keyed state, read and written by event; prints its cost as JSON. In an environment of its own.

python quix_joiner.py BOOTSTRAP PREFIX FOLDER COUNT
"""

import json
import logging
import resource
import sys
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from quixstreams import Application, State

from protos.events_pb2 import Event


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


def main() -> None:
    bootstrap, prefix, folder, count = sys.argv[1:5]
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
    left = int(count)

    def counted(value: bytes, state: State) -> dict[str, Any] | None:
        nonlocal left
        left -= 1
        if left == 0:
            app.stop()
        return joined(value, state)

    every = every.apply(counted, stateful=True).filter(lambda row: row is not None)
    every.to_topic(app.topic(f"{prefix}quix-{run}", value_serializer="json", key_serializer="bytes"))
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    app.run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"events": int(count), "rows": 0, "cpu_s": cpu, "wall_s": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main()
