"""The latest revision is a function of the set of events: any interleaving, cut, repeat and crash gives what the reference join gives."""

import operator
import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attribution.admission import judge
from attribution.decode import decode
from attribution.events import Raw
from attribution.join import JoinState, empty_state, rebuild, step
from attribution.join_state import merged, of_partitions
from attribution.settings import JoinConfig
from attribution.watermarks import Watermarks, advance, partition_watermark
from protos.events_pb2 import Event
from tests.attribution.event_kit import CANDIDATES, decision, heartbeat, impression, join_config, reward, topic_of, us
from tests.attribution.reference_join import reference_join, said

TOPICS = ("decisions", "impressions", "rewards")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> JoinConfig:
    return join_config(tmp_path_factory.mktemp("tasks"))


def world(rng: random.Random) -> list[Event]:
    """A few decisions with feedback of every sort: early, late, far too late, twice, with another payload, contradictory, of nobody."""
    events: list[Event] = []
    for key in range(1, rng.randint(2, 5)):
        at, unit = rng.uniform(0, 40), f"u{key % 2}"
        events.append(decision(key, at, unit=unit, logged=at + rng.choice([0.0, 0.0, 0.5, 25.0])))
        if rng.random() < 0.3:
            again = at + rng.uniform(0.1, 5.0)
            events.append(decision(key, again, unit=unit, logged=again))
        events += [feedback(rng, key, at, unit) for _ in range(rng.randint(0, 8))]
    events += [feedback(rng, 99, 20.0, "nobody") for _ in range(rng.randint(0, 2))]
    return events


def feedback(rng: random.Random, key: int, at: float, unit: str) -> Event:
    time = at + rng.choice([-3.0, -1.0, 0.0, 1.0, 5.0, 9.5, 10.0, 15.0, 19.0, 20.0, 30.0]) + rng.uniform(0, 0.4)
    logged = time + rng.choice([-4.0, -0.5, 0.0, 0.1, 1.5, 4.0, 10.0, 25.0, 45.0, 80.0])
    who, name = (unit if rng.random() < 0.9 else "u9"), f"{key}-{rng.randint(0, 3)}"
    slot, action = rng.choice([None, 0, 1, 2, 7]), rng.choice(["", *CANDIDATES])
    if rng.random() < 0.4:
        seen = (
            [(rng.randint(0, 3), rng.choice([*CANDIDATES, "x"]))]
            if rng.random() < 0.2
            else rng.choice([[], [(0, "a")], [(1, "b"), (2, "c")]])
        )
        return impression(name, time, key=key, unit=who, logged=logged, seen=seen)
    outcome = rng.choice(["click", "minutes", "rating"])
    return reward(name, time, key=key, unit=who, logged=logged, outcome=outcome, value=rng.randint(0, 8) / 4, slot=slot, action=action)


def logs_of(rng: random.Random, events: Sequence[Event]) -> dict[str, list[Event]]:
    """The events as the topics hold them: in append order, with repeats, honest heartbeats between, and the final one at the end."""
    logs: dict[str, list[Event]] = {}
    for topic in TOPICS:
        log = sorted((event for event in events if topic_of(event) == topic), key=lambda event: event.append_time_us)
        for place in sorted(rng.sample(range(len(log) + 1), k=min(2, len(log) + 1)), reverse=True):
            log.insert(place, promise(topic, log, place))
        logs[topic] = [*log, heartbeat(topic, 0.0, final=True, logged=500.0)]
    return logs


def promise(topic: str, log: Sequence[Event], place: int) -> Event:
    """A heartbeat that says no more than is true: nothing later is older, and it is logged before what follows."""
    bodies = [getattr(event, str(event.WhichOneof("kind"))) for event in log[place:]]
    logged = log[place].append_time_us if bodies else us(400.0)
    made = heartbeat(topic, 0.0)
    made.heartbeat.event_time_us = min([logged, *(body.event_time_us for body in bodies)])
    made.append_time_us = logged
    return made


class Machine:
    """The kernel with what its worker remembers, and a crash that leaves only what would have landed."""

    def __init__(self, config: JoinConfig) -> None:
        self.config = config
        self.state: JoinState = empty_state()
        self.marks: Watermarks = {}
        self.landed: list[pl.DataFrame] = []
        self.rows: list[dict[str, Any]] = []

    def take(self, raws: Sequence[Raw]) -> None:
        events = decode(raws)
        self.landed.append(events)
        self.marks = advance(self.marks, judge(events, config=self.config), grace_us=self.config.grace_us)
        self.state, rows = step(self.state, events, watermark_us=partition_watermark(self.marks), config=self.config)
        self.rows += rows.to_pylist()

    def crash(self) -> None:
        if not self.landed:
            return
        watermark_us = partition_watermark(self.marks)
        since_us = watermark_us - self.config.memory_us
        events = pl.concat(self.landed).filter(pl.col("event_time_us") > since_us)
        revisions = {row["decision_id"]: row["revision"] for row in self.rows if row["decision_time_us"] > since_us}
        self.state, rows = rebuild(events, revisions=revisions, counts=self.state.counts, watermark_us=watermark_us, config=self.config)
        assert rows.num_rows == 0, "a row of a closed decision was not written"

    def latest(self) -> dict[bytes, dict[str, Any]]:
        for key in {row["decision_id"] for row in self.rows}:
            numbers = [row["revision"] for row in self.rows if row["decision_id"] == key]
            assert numbers == list(range(1, len(numbers) + 1))
        return {row["decision_id"]: said(row) for row in self.rows}


def play(rng: random.Random, logs: dict[str, list[Event]], config: JoinConfig) -> Machine:
    """Delivers the logs in a random interleaving, in random batches, with redelivered batches and crashes."""
    machine = Machine(config)
    at = dict.fromkeys(logs, 0)
    while any(at[topic] < len(log) for topic, log in logs.items()):
        batch: list[Raw] = []
        for topic, log in logs.items():
            until = min(len(log), at[topic] + rng.choice([0, 0, 1, 2, 5]))
            batch += [Raw(topic, 0, offset, log[offset].SerializeToString()) for offset in range(at[topic], until)]
            at[topic] = until
        machine.take(batch)
        if rng.random() < 0.2:
            machine.crash()
    return machine


def check(seed: int, config: JoinConfig) -> None:
    rng = random.Random(seed)
    events = world(rng)
    repeats = rng.sample(events, k=len(events) // 4)
    logs = logs_of(rng, events + repeats)
    wanted = reference_join(events, config=config)
    played, whole = play(rng, logs, config), Machine(config)
    whole.take([Raw(topic, 0, offset, event.SerializeToString()) for topic, log in logs.items() for offset, event in enumerate(log)])
    assert played.latest() == wanted
    assert whole.latest() == wanted
    joinable = sum(event.WhichOneof("kind") != "heartbeat" for log in logs.values() for event in log)
    assert sum(played.state.counts.get(0, {}).values()) == sum(whole.state.counts.get(0, {}).values()) == joinable - len(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_partitions_in_one_state_are_joined_as_each_alone_and_can_be_let_go_and_taken_over(config: JoinConfig, seed: int) -> None:
    rng = random.Random(seed)
    # The same ids in both, so that what finds its decision in the other partition would show.
    logs = [decode([Raw(*place_of(event), event.SerializeToString()) for event in world(rng)]) for _ in range(2)]
    frames = [
        log.with_columns(partition=pl.lit(number, dtype=pl.Int32)).sample(fraction=1.0, shuffle=True, seed=seed)
        for number, log in enumerate(logs)
    ]
    marks = [{0: us(12.0), 1: us(25.0)}, {0: us(40.0), 1: us(41.0)}, {0: us(500.0), 1: us(500.0)}]
    together, rows = empty_state(), []
    alone, own_rows = [empty_state(), empty_state()], []
    for cut, watermarks in enumerate(marks):
        parts = [frame.slice(cut * frame.height // 3, (cut + 1) * frame.height // 3 - cut * frame.height // 3) for frame in frames]
        together, found = step(together, pl.concat(parts), watermark_us=watermarks, config=config)
        rows += found.to_pylist()
        for number, part in enumerate(parts):
            alone[number], found = step(alone[number], part, watermark_us=watermarks[number], config=config)
            own_rows += found.to_pylist()
        # Let go of, and taken over in the other order.
        together = merged(of_partitions(together, [1]), of_partitions(together, [0]))
    key = operator.itemgetter("partition", "decision_id", "revision")
    assert sorted(rows, key=key) == sorted(own_rows, key=key) and len({row["partition"] for row in rows}) == 2
    assert together.counts == {**alone[0].counts, **alone[1].counts}


def place_of(event: Event) -> tuple[str, int, int]:
    return topic_of(event), 0, 0


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_interleaving_gives_what_the_reference_join_gives(config: JoinConfig, seed: int) -> None:
    check(seed, config)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_five_hundred_interleavings_give_what_the_reference_join_gives(config: JoinConfig, seed: int) -> None:
    check(seed, config)


def test_a_join_that_forgets_when_events_were_logged_is_caught(config: JoinConfig) -> None:
    def blind(event: Event) -> Event:
        seen = Event()
        seen.CopyFrom(event)
        body = getattr(seen, str(seen.WhichOneof("kind")))
        seen.append_time_us = body.event_time_us
        return seen

    def differs(seed: int) -> bool:
        events = world(random.Random(seed))
        machine = Machine(config)
        machine.take([Raw(topic_of(event), 0, offset, blind(event).SerializeToString()) for offset, event in enumerate(events)])
        machine.take([Raw(topic, 0, 1000, heartbeat(topic, final=True).SerializeToString()) for topic in TOPICS])
        return machine.latest() != reference_join(events, config=config)

    assert any(differs(seed) for seed in range(10))
