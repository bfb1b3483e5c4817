"""Retention of logs and topics: what goes is old, landed and derived, and the account closes after it."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attribution.__main__ import app
from attribution.embedded_source import EmbeddedSource
from attribution.errors import LostRecords, SourceError, TableError
from attribution.kafka_source import KafkaSource
from attribution.log_retention import LOGS, expire_logs, read_by_offset, read_through_broker
from attribution.settings import JoinConfig
from attribution.sources import Offsets, Partition
from attribution.status import done_offsets, report
from attribution.topic_retention import expire_topics
from attribution.worker import Worker
from protos.events_pb2 import Event
from protos.framing import frame
from protos.log_files import DECISIONS, FEEDBACK, SHADOWS, SHIPPED, end_offset, segment_path, segments
from tests.attribution.event_kit import append_log, decision, finals, impression, join_config, reward, us
from tests.attribution.kafka_kit import Wire, story
from tests.attribution.test_attribution_hops import rows

OLD_US, NOW_US = us(0.0), us(100.0)


@pytest.fixture
def config(tmp_path: Path) -> JoinConfig:
    return join_config(tmp_path / "tasks")


def segment(log: Path, events: Sequence[Event], *, written_us: int = OLD_US) -> None:
    """One more segment, behind the others."""
    log.mkdir(parents=True, exist_ok=True)
    path = segment_path(log, end_offset(log))
    path.write_bytes(b"".join(frame(event.SerializeToString()) for event in events))
    os.utime(path, ns=(written_us * 1000, written_us * 1000))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three segments of decisions and two of feedback."""
    root = tmp_path / "logs"
    for key in (1, 2, 3):
        segment(root / DECISIONS, [decision(key, float(key))])
    segment(root / FEEDBACK, [impression(), reward(slot=0)])
    segment(root / FEEDBACK, [impression("i2", 3.0, key=2)])
    return root


def joined(logs: Path, out: Path, config: JoinConfig) -> Worker:
    worker = Worker(EmbeddedSource(logs), out=out, config=config)
    worker.cycle()
    return worker


def bases(log: Path) -> list[int]:
    return [base for base, _ in segments(log)]


def test_old_segments_that_have_landed_go_after_a_dry_run_and_the_join_goes_on(logs: Path, config: JoinConfig, tmp_path: Path) -> None:
    worker, out = joined(logs, tmp_path / "out", config), tmp_path / "out"
    before = {log: bases(logs / log) for log in LOGS}
    landed = read_by_offset(out, logs)
    dry = expire_logs(logs, landed=landed, before_us=NOW_US, apply=False)
    assert {log: bases(logs / log) for log in LOGS} == before
    assert [(one.log, one.segments, one.until_offset) for one in dry] == [
        (DECISIONS, 2, before[DECISIONS][2]),
        (FEEDBACK, 1, before[FEEDBACK][1]),
    ]
    assert dry == expire_logs(logs, landed=landed, before_us=NOW_US, apply=True)
    assert {log: bases(logs / log) for log in LOGS} == {log: found[-1:] for log, found in before.items()}, "the newest stays"
    found = report(out, config=config)
    assert found["closes"] and (found["logged"], found["pending"]) == (3, 3)
    segment(logs / DECISIONS, finals()[:1])
    segment(logs / FEEDBACK, finals()[1:])
    worker.cycle()
    Worker(EmbeddedSource(logs), out=out, config=config).cycle()
    assert report(out, config=config)["closes"] and len(rows(out)) == 3


def test_a_segment_that_has_not_landed_or_not_been_shipped_or_is_young_stays(logs: Path, config: JoinConfig, tmp_path: Path) -> None:
    joined(logs, tmp_path / "out", config)
    landed, second = read_by_offset(tmp_path / "out", logs), bases(logs / DECISIONS)[1]

    def going(**change: Any) -> int:
        return expire_logs(logs, **{"landed": landed, "before_us": NOW_US, "apply": False, **change})[0].segments

    assert going() == 2
    assert going(landed={DECISIONS: second}) == 1 and going(landed={DECISIONS: second - 1}) == going(landed={}) == 0
    assert going(before_us=OLD_US) == 0
    (logs / DECISIONS / SHIPPED).write_text(str(second))
    assert going() == 1
    (logs / DECISIONS / SHIPPED).write_text("torn")
    assert going() == 0


def test_segments_of_shadows_go_by_age_alone_and_the_newest_stays(logs: Path, tmp_path: Path) -> None:
    for written_us in (OLD_US, OLD_US, NOW_US, NOW_US):
        segment(logs / SHADOWS, [decision(9)], written_us=written_us)
    before = bases(logs / SHADOWS)
    # Nothing of the other logs has landed.
    *others, shadows = expire_logs(logs, landed={}, before_us=NOW_US, apply=True)
    assert [one.segments for one in others] == [0, 0]
    assert (shadows.log, shadows.segments, shadows.until_offset) == (SHADOWS, 2, before[2]) and bases(logs / SHADOWS) == before[2:]
    assert expire_logs(logs, landed={}, before_us=NOW_US + 1_000_000, apply=True)[-1].segments == 1 and bases(logs / SHADOWS) == before[3:]


def test_a_checker_that_trusted_age_alone_would_lose_records_and_the_source_says_so(logs: Path, config: JoinConfig, tmp_path: Path) -> None:
    worker = joined(logs, tmp_path / "out", config)
    for key in (4, 5):
        segment(logs / DECISIONS, [decision(key, float(key))])
    expire_logs(logs, landed=dict.fromkeys(LOGS, 10**9), before_us=NOW_US, apply=True)
    with pytest.raises(LostRecords, match="begins at offset"):
        worker.cycle()


def test_tables_of_another_source_or_of_other_logs_are_refused(logs: Path, config: JoinConfig, tmp_path: Path) -> None:
    joined(logs, tmp_path / "out", config)
    append_log(tmp_path / "other", DECISIONS, [decision()])
    with pytest.raises(TableError, match="give the logs that were joined"):
        read_by_offset(tmp_path / "out", tmp_path / "other")
    kafka = {Partition(DECISIONS, 0): 3}
    Worker(Told([], kafka), out=tmp_path / "kafka", config=config).cycle()
    with pytest.raises(TableError, match=r"--bootstrap"):
        read_by_offset(tmp_path / "kafka", logs)
    with pytest.raises(SourceError, match="--logs"):
        expire_logs(tmp_path / "nothing", landed={}, before_us=NOW_US, apply=False)


class Told:
    """A source that has moved, and brought nothing."""

    shared = False

    def __init__(self, raws: list[Any], offsets: Offsets) -> None:
        self._raws, self._offsets = raws, offsets

    def partitions(self) -> list[Partition]:
        return list(self._offsets)

    def fetch(self, offsets: Offsets) -> Any:
        from attribution.sources import Fetched

        return Fetched(self._raws, self._offsets)

    def commit(self, offsets: Offsets) -> None: ...

    def end_offsets(self) -> Offsets:
        return self._offsets

    def close(self) -> None: ...


def test_through_a_broker_a_log_has_landed_once_the_joiner_has_all_that_the_broker_held(logs: Path) -> None:
    (logs / DECISIONS / SHIPPED).write_text("70")
    one, two = Partition("decisions", 0), Partition("decisions", 1)

    def read(*states: Offsets) -> dict[str, int]:
        told = iter(states)
        waits = iter([True] * (len(states) - 1) + [False])
        return dict(read_through_broker(logs, ends=lambda: {one: 5, two: 0}, done=lambda asked: next(told), wait=lambda: next(waits)))

    assert read({one: 5}) == read({}, {one: 4}, {one: 6}) == {DECISIONS: 70, FEEDBACK: 0}
    assert read({}, {one: 4}) == {DECISIONS: 0, FEEDBACK: 0}


def test_the_command_says_what_would_go_by_log_topic_and_table(logs: Path, config: JoinConfig, tmp_path: Path) -> None:
    joined(logs, tmp_path / "out", config)
    given = ["expire", "--out", tmp_path / "out", "--tasks", tmp_path / "tasks", "--logs", logs, "--logs-days", 1]
    given += ["--events-days", 36_500, "--observations-days", 36_500, "--json"]
    dry = json.loads(call(*given).stdout)
    assert dry["applied"] is False and [one["segments"] for one in dry["logs"]] == [2, 1] and dry["topics"] == []
    assert len(bases(logs / DECISIONS)) == 3
    assert json.loads(call(*given, "--apply").stdout) == {**dry, "applied": True}
    assert len(bases(logs / DECISIONS)) == 1
    refused = call(*given, "--bootstrap", "localhost:1")
    assert refused.exit_code == 2 and "leave out --bootstrap" in refused.stderr


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def low(wire: Wire) -> dict[Partition, int]:
    """Oldest offset that the broker still holds."""
    found = {}
    for topic in ("decisions", "impressions"):
        for number in range(wire.partitions):
            found[Partition(topic, number)] = expire_topics(
                wire.bootstrap, done={Partition(topic, number): 0}, before_us=0, apply=False, prefix=wire.prefix
            )[0].until_offset
    return found


def test_at_a_broker_what_is_landed_and_derived_goes_and_nothing_else(kafka: str, config: JoinConfig, tmp_path: Path) -> None:
    told, wire, out = story(random.Random(11), units=40), Wire(kafka, partitions=2), tmp_path / "out"
    half = len(told) // 2
    wire.send(told[:half])
    source = KafkaSource(wire.bootstrap, prefix=wire.prefix, timeout_s=0.5)
    worker = Worker(source, out=out, config=config)
    while sum(worker.offsets.values()) < half:
        worker.cycle()
    wire.send(told[half:])
    command = ["expire", "--out", out, "--tasks", tmp_path / "tasks", "--bootstrap", kafka, "--topic-prefix", wire.prefix, "--json"]
    command += ["--events-days", 36_500, "--observations-days", 36_500]
    dry = json.loads(call(*command).stdout)
    assert sum(one["records"] for one in dry["topics"]) == half and set(low(wire).values()) == {0}
    assert json.loads(call(*command, "--topics-days", 36_500).stdout)["topics"][0]["records"] == 0, "young records stay"
    assert json.loads(call(*command, "--apply").stdout) == {**dry, "applied": True}
    done = done_offsets(out, source.partitions())
    assert low(wire) == {partition: done.get(partition, 0) for partition in low(wire)}
    while not worker.final:
        worker.cycle()
    found = report(out, config=config, ends=source.end_offsets())
    assert found["closes"] and found["pending"] == 0 and {one["lag"] for one in found["offsets"]} == {0}
    source.close()
