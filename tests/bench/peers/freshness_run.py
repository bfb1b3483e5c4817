"""Freshness of the joiner and the learner on a real broker: live events at a steady rate, the two commands as processes. Touches all.

A reward is said when the commit is in that holds a row with it, and learned when a challenger is published whose cursor includes that
row. Both from the later of two moments: the log took the reward, or the config's windows let its decision close (decision + window +
grace). So the configured windows are out of the figures, and polls, batches, commits and training are in them. The learner waits for a
verdict on each challenger: here each is closed as soon as it is seen.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from confluent_kafka.admin import AdminClient, NewTopic

from attribution.producer import EventProducer
from bandits.config import parse_task
from bandits.store import Store
from protos.delta_tables import delta_dataset
from protos.events_pb2 import Decision, Event, Impression, Reward, SeenSlot
from protos.task import load_task

__all__ = ["Fresh", "measured"]

PARTITIONS, TOPICS, PREFIX = 2, ("decisions", "impressions", "rewards", "signals"), "fresh-"
WINDOW_S, GRACE_S, RATE, WARM_S = 1.0, 0.2, 100, 20.0
TASK = f"""
task: news
features:
  context:
    - {{name: age, type: float, default: 0.0}}
  actions: ["a", "b", "c", "d"]
policy: {{name: linear_thompson, floor: 0.05, slate_size: 1, train_on: seen, min_new_rows: 1}}
rewards:
  outcomes:
    click: {{window_s: {WINDOW_S}, aggregate: max}}
attribution: {{impression_window_s: {WINDOW_S}, grace_s: {GRACE_S}, correction_horizon_s: 60.0}}
"""


class Fresh(NamedTuple):
    """Seconds [rewards] from a reward to its row, and to the challenger that has learned it; rewards of the last seconds have none yet."""

    observed_s: np.ndarray
    learned_s: np.ndarray
    challengers: int


def measured(bootstrap: str, folder: Path, *, seconds: float) -> Fresh:
    """Sends events for so long, after a warm-up, and measures the rewards among them."""
    (folder / "tasks").mkdir(parents=True)
    task_file = folder / "tasks" / "news.yaml"
    task_file.write_text(TASK)
    _topics(bootstrap)
    out, store = folder / "out", folder / "store"
    join = ["attribution", "run", "--source", "kafka", "--bootstrap", bootstrap, "--topic-prefix", PREFIX, "--out", str(out)]
    learn = ["bandits", "learn", "--task-config", str(task_file), "--store", str(store), "--observations", str(out / "observations")]
    seen: dict[str, float] = {}
    stop = threading.Event()
    with _command([*join, "--tasks", str(folder / "tasks")]) as joiner, _command(learn) as learner:
        judge = threading.Thread(target=_judge, args=(Store(store, "news"), seen, stop))
        judge.start()
        try:
            sent_us = _send(bootstrap, schema_digest=parse_task(load_task(task_file)).schema.digest, seconds=WARM_S + seconds)
        finally:
            stop.set()
            judge.join()
            for process in (joiner, learner):
                process.terminate()
                process.wait(30)
    return _figures(out, Store(store, "news"), sent_us=sent_us, seen=seen)


def _command(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL)


def _topics(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    config = {"message.timestamp.type": "LogAppendTime"}
    for future in admin.create_topics([NewTopic(PREFIX + topic, PARTITIONS, 1, config=config) for topic in TOPICS]).values():
        future.result(30)


def _send(bootstrap: str, *, schema_digest: str, seconds: float) -> dict[bytes, tuple[int, int]]:
    """A decision, its impression and its reward at a time; decision id -> when decision and reward were sent, after the warm-up."""
    sent: dict[bytes, tuple[int, int]] = {}
    began = time.monotonic()
    with EventProducer(bootstrap, prefix=PREFIX) as producer:
        for number in range(int(seconds * RATE)):
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))
            now_us = time.time_ns() // 1_000
            for event in _story(number, now_us, schema_digest):
                producer.send(event)
            if number >= WARM_S * RATE:
                sent[number.to_bytes(16, "big")] = (now_us, now_us)
    return sent


def _story(number: int, now_us: int, schema_digest: str) -> Iterator[Event]:
    action = "abcd"[number % 4]
    known = {
        "tenant": "default",
        "task": "news",
        "decision_id": number.to_bytes(16, "big"),
        "unit_id": f"u{number}",
        "event_time_us": now_us,
    }
    body = Decision(**known, request_id=f"r{number}", context=np.zeros(1, "<f4").tobytes(), schema_digest=schema_digest)
    body.candidates.actions.extend("abcd")
    body.slots.add(action=action, numerator=2**29, propensity=0.25, score=0.5)
    yield Event(decision=body)
    yield Event(impression=Impression(**known, event_id=f"i{number}", seen=[SeenSlot(slot=0, action=action)]))
    yield Event(reward=Reward(**known, event_id=f"r{number}", name="click", value=float(number % 3 == 0), slot=0))


def _judge(store: Store, seen: dict[str, float], stop: threading.Event) -> None:
    """Notes each challenger as it appears, and lets the next one come."""
    while not stop.wait(0.02):
        for challenger in store.challengers():
            seen.setdefault(challenger.digest, time.time())
            store.close_challenger(challenger.digest, "noted")


def _figures(out: Path, store: Store, *, sent_us: dict[bytes, tuple[int, int]], seen: dict[str, float]) -> Fresh:
    committed = _commit_times(out / "observations")
    cursors = sorted((at, store.manifest(digest).cursor) for digest, at in seen.items())
    rows = delta_dataset(out / "observations").to_table(columns=["decision_id", "partition", "commit_seq"]).to_pylist()
    observed, learned = [], []
    for row in rows:
        if row["decision_id"] not in sent_us:
            continue
        decided_us, reward_us = sent_us[row["decision_id"]]
        open_until_s = max(reward_us / 1e6, decided_us / 1e6 + WINDOW_S + GRACE_S)
        place = row["partition"], row["commit_seq"]
        observed.append(committed[place] - open_until_s)
        learned += [at - open_until_s for at, cursor in cursors if cursor.get(place[0], 0) >= place[1]][:1]
    return Fresh(np.array(observed), np.array(learned), len(seen))


def _commit_times(table: Path) -> dict[tuple[int, int], float]:
    """(partition, number of its commit) -> when it was in the table's log, seconds since the epoch."""
    times: dict[tuple[int, int], float] = {}
    for entry in sorted((table / "_delta_log").glob("*.json")):
        for line in entry.read_text().splitlines():
            move = json.loads(line).get("txn", {})
            if move.get("appId", "").startswith("obs-commits/"):
                times.setdefault((int(move["appId"].rpartition("/")[2]), move["version"]), entry.stat().st_mtime)
    return times
