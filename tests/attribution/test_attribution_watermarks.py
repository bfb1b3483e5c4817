"""What moves event time on, and what must not."""

from typing import Any

import polars as pl
import pytest

from attribution.admission import judge
from attribution.settings import JoinConfig
from attribution.watermarks import FINAL_US, UNSEEN_US, Watermarks, advance, partition_watermark, stale_sources
from protos.events_pb2 import Event
from tests.attribution.event_kit import decision, finals, heartbeat, impression, join_config, reward, table, us


@pytest.fixture
def config(tmp_path: Any) -> JoinConfig:
    return join_config(tmp_path)


def moved(config: JoinConfig, *events: Event, marks: Watermarks | None = None) -> dict[str, int]:
    return advance(marks or {}, judge(table(*events), config=config), grace_us=config.grace_us)


def test_the_watermark_is_the_slowest_sources_and_unseen_until_all_have_spoken(config: JoinConfig) -> None:
    marks = moved(config, decision(at=10.0), impression(at=12.0))
    assert partition_watermark(marks) == UNSEEN_US and stale_sources(marks) == ["rewards"]
    marks = moved(config, reward(at=30.0), marks=marks)
    assert partition_watermark(marks) == us(10.0) - config.grace_us and stale_sources(marks) == ["decisions"]


def test_a_heartbeat_moves_its_source_exactly_and_nothing_moves_it_back(config: JoinConfig) -> None:
    marks = moved(config, heartbeat("rewards", 50.0))
    assert marks["rewards"] == us(50.0)
    assert moved(config, reward(at=1.0), heartbeat("rewards", 2.0), marks=marks)["rewards"] == us(50.0)


def test_silence_freezes_the_watermark(config: JoinConfig) -> None:
    marks = moved(config, *(heartbeat(source, 5.0) for source in ("decisions", "impressions", "rewards")))
    assert moved(config, marks=marks) == marks


def test_an_event_moves_its_source_at_most_to_the_moment_it_was_logged(config: JoinConfig) -> None:
    assert moved(config, reward(at=14.0, logged=10.0))["rewards"] == us(10.0) - config.grace_us


def test_events_from_the_future_move_nothing(config: JoinConfig) -> None:
    marks = moved(config, reward(at=100.0, logged=1.0), heartbeat("rewards", 100.0, logged=1.0), decision(at=90.0, logged=1.0))
    assert set(marks.values()) == {UNSEEN_US}


def test_final_heartbeats_end_time(config: JoinConfig) -> None:
    assert partition_watermark(moved(config, *finals()[:2])) == UNSEEN_US
    marks = moved(config, *finals())
    assert partition_watermark(marks) == FINAL_US and stale_sources(marks) == []


def test_a_source_speaks_only_in_its_own_topic(config: JoinConfig) -> None:
    foreign = table(heartbeat("decisions", 9.0)).with_columns(topic=pl.lit("rewards"))
    assert advance({}, judge(foreign, config=config), grace_us=0)["decisions"] == UNSEEN_US
    shared = foreign.with_columns(topic=pl.lit("feedback"))
    assert advance({}, judge(shared, config=config), grace_us=0)["decisions"] == us(9.0)
