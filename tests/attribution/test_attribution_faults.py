"""Faults of a cluster of three brokers while events come and are joined: the rows are those of an undisturbed run. Slow."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from attribution.settings import load_join_config
from attribution.worker import Worker
from tests.attribution.event_kit import task_directory
from tests.attribution.kafka_kit import Wire, story
from tests.attribution.test_attribution_broker import assert_exactly_once, member, until
from tests.kafka import broker
from tests.kafka.broker import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture
def three() -> Iterator[Cluster]:
    if reason := broker.missing():
        pytest.skip(f"three brokers not run: {reason}")
    with broker.running(nodes=3) as cluster:
        yield cluster


def leader_of(wire: Wire, topic: str) -> int:
    return int(wire.producer.list_topics(wire.prefix + topic, timeout=30).topics[wire.prefix + topic].partitions[0].leader)


def test_a_killed_leader_a_rolling_restart_and_joining_members_change_no_row(three: Cluster, tmp_path: Path) -> None:
    config = load_join_config(task_directory(tmp_path / "tasks"))
    told = story(random.Random(9), units=600)
    wire = Wire(three.bootstrap, replicas=3)
    chunks = [told[at : at + 250] for at in range(0, len(told), 250)]
    group = "faults" + wire.prefix
    one = Worker(member(wire, group, "one"), out=tmp_path / "out", config=config)
    joined = 0
    for number, chunk in enumerate(chunks):
        wire.send(chunk)
        until(lambda: one.cycle() is not None)
        if number == 1:
            killed = leader_of(wire, "decisions")
            three.kill(killed)
        elif number == 2:
            three.start(killed)
            three.await_ready()
        elif number == 3:
            for node in list(three.nodes):
                three.stop(node)
                until(lambda: one.cycle() is not None)
                three.start(node)
                three.await_ready()
        else:
            other_source = member(wire, group, f"other-{number}")
            other = Worker(other_source, out=tmp_path / "out", config=config)
            until(lambda worker=other: [one.cycle(), worker.cycle()] != [] and len(worker.partition_numbers) > 0)
            joined += 1
            until(lambda worker=other: worker.cycle().events == 0)
            other_source.close()
    assert joined >= 2
    until(lambda: one.cycle().events == 0 and len(one.partition_numbers) == wire.partitions and one.final, within_s=120.0)
    assert_exactly_once(tmp_path / "out", told, config)
