"""The helper for producers, letters sent again, and a backfill of a time range, on a real Kafka broker. Without Java not run."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attribution.__main__ import app
from attribution.backfill import TimeRange, backfill_source
from attribution.kafka_source import KafkaSource
from attribution.producer import EventProducer
from attribution.settings import load_join_config
from attribution.sources import Partition
from attribution.tables import OBSERVATIONS_DIR
from attribution.worker import Worker
from protos.events_pb2 import Event
from protos.observation_reader import latest_revisions
from tests.attribution.event_kit import decision, heartbeat, impression, reward, task_directory, us
from tests.attribution.kafka_kit import PARTITIONS, Wire

TOPICS = ("decisions", "impressions", "rewards")


@pytest.fixture(scope="module")
def now() -> float:
    """Seconds of the kit's clock: the broker's stamps are those of today."""
    return time.time() - us(0.0) / 1e6


@pytest.fixture(scope="module")
def wire(kafka: str, now: float) -> Wire:
    """Topics that a producer has filled: decisions one by one, feedback in batches, and one impression that the join can't use."""
    filled = Wire(kafka)
    keys = range(1, 21)
    with EventProducer(kafka, prefix=filled.prefix) as producer:
        for key in keys:
            producer.send(decision(key, now + key * 0.01, unit=f"u{key}"))
        feedback = [impression(f"i{key}", now + 0.5, key=key, unit=f"u{key}") for key in keys]
        feedback += [reward(f"r{key}", now + 0.6, key=key, unit=f"u{key}", slot=0) for key in keys]
        producer.send_many([*feedback, impression("other", now + 0.5, key=1, unit="u1", task="nws")])
        for event in _ends():
            producer.send(event)
    return filled


def _ends() -> list[Event]:
    ends = []
    for topic in TOPICS:
        for number in range(PARTITIONS):
            end = heartbeat(topic, 0.0, final=True)
            end.heartbeat.partition = number
            ends.append(end)
    return ends


def source_of(wire: Wire) -> KafkaSource:
    return KafkaSource(wire.bootstrap, prefix=wire.prefix, timeout_s=0.2)


def test_what_the_producer_sends_is_joined_whatever_its_form_and_letters_go_back_to_their_place(wire: Wire, tmp_path: Path) -> None:
    tasks = task_directory(tmp_path / "tasks")
    source = source_of(wire)
    worker = Worker(source, out=tmp_path / "out", config=load_join_config(tasks))
    while not worker.final:
        worker.cycle()
    rows = latest_revisions(tmp_path / "out" / OBSERVATIONS_DIR, task="news").to_pylist()
    assert len(rows) == 20 and all(row["slot_seen"][0] and row["slot_reward"][0] == 1.0 for row in rows)
    before = source.end_offsets()
    arguments = ["dead-letters", "--out", str(tmp_path / "out"), "--tasks", str(tasks), "--reason", "unknown_task", "--resend", "--json"]
    ran = CliRunner().invoke(app, [*arguments, "--bootstrap", wire.bootstrap, "--topic-prefix", wire.prefix], catch_exceptions=False)
    said = json.loads(ran.stdout)
    (letter,) = said["letters"]
    after = source.end_offsets()
    place = Partition(letter["topic"], letter["partition"])
    assert said["sent_again"] == 1 and {p for p in after if after[p] != before[p]} == {place} and after[place] == before[place] + 1
    source.close()


def test_a_backfill_of_a_time_range_has_the_decisions_of_that_time(wire: Wire, now: float, tmp_path: Path) -> None:
    config = load_join_config(task_directory(tmp_path / "tasks"))
    source = source_of(wire)
    within = TimeRange(us(now + 0.055), us(now + 0.105))
    backfill_source(source, out=tmp_path / "out", config=config, on_progress=lambda progress: None, within=within)
    rows = latest_revisions(tmp_path / "out" / OBSERVATIONS_DIR, task="news").to_pylist()
    assert sorted(row["unit_id"] for row in rows) == sorted(f"u{key}" for key in range(6, 11))
    assert all(row["slot_reward"][0] == 1.0 for row in rows), "their feedback counts whenever it came"
    source.close()
