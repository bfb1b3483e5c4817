"""The joiner on a real Kafka broker: what is joined, groups, zombies, kills. Without Java (and without KAFKA_BOOTSTRAP) not run."""

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from attribution.backfill import backfill_landed, backfill_source
from attribution.errors import Fenced, SourceError
from attribution.kafka_source import TOPICS, KafkaSource
from attribution.membership import Membership
from attribution.settings import JoinConfig, load_join_config
from attribution.status import report
from attribution.tables import OBSERVATIONS_DIR
from attribution.topics import ensure_topics
from attribution.worker import POINTS, Worker
from protos.events_pb2 import Event
from protos.observation_reader import latest_revisions
from tests.attribution.event_kit import task_directory
from tests.attribution.joiners import Joiners, Orders
from tests.attribution.kafka_kit import PARTITIONS, Wire, sent, story
from tests.attribution.reference_join import reference_join, said


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_directory(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def config(tasks: Path) -> JoinConfig:
    return load_join_config(tasks)


@pytest.fixture(scope="module")
def told() -> list[Event]:
    return story(random.Random(6), units=150)


@pytest.fixture(scope="module")
def wire(kafka: str, told: list[Event]) -> Wire:
    """Topics that hold the whole story."""
    filled = Wire(kafka)
    filled.send(told)
    return filled


def rows_of(out: Path) -> dict[bytes, dict[str, Any]]:
    """What the latest revisions say; a decision or a revision that is there twice fails here."""
    table = latest_revisions(out / OBSERVATIONS_DIR, task="news").to_pylist()
    assert len({row["decision_id"] for row in table}) == len(table)
    return {row["decision_id"]: said(row) for row in table}


def assert_exactly_once(out: Path, told: list[Event], config: JoinConfig) -> None:
    """Nothing lost, nothing twice, nothing else: by the reference join, by the landed events, and by the account."""
    assert rows_of(out) == reference_join(sent(told), config=config)
    found = report(out, config=config)
    assert found["closes"] and found["pending"] == 0
    assert sum(offset["landed"] for offset in found["offsets"]) == landed_events(out)
    revisions = sorted((row["decision_id"], row["revision"]) for row in _all(out))
    assert len(set(revisions)) == len(revisions)


def landed_events(out: Path) -> int:
    return int(deltalake.DeltaTable(out / "events").count())


def _all(out: Path) -> list[dict[str, Any]]:
    return deltalake.DeltaTable(out / OBSERVATIONS_DIR).to_pyarrow_table(columns=["decision_id", "revision"]).to_pylist()


def member(wire: Wire, group: str, name: str | None = None) -> KafkaSource:
    members = Membership(wire.bootstrap, group=group, name=name, session_s=6.0, prefix=wire.prefix)
    return KafkaSource(wire.bootstrap, prefix=wire.prefix, max_records=100, timeout_s=0.05, members=members)


def until(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Goes on asking: each question does some of the work that makes it true."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not become true"


def test_the_rows_are_those_of_the_reference_join_and_a_backfill_from_kafka_gives_them_too(
    wire: Wire, told: list[Event], config: JoinConfig, tmp_path: Path
) -> None:
    source = KafkaSource(wire.bootstrap, prefix=wire.prefix, max_records=150, timeout_s=0.1)
    worker = Worker(source, out=tmp_path / "out", config=config)
    until(lambda: worker.cycle().events == 0 and worker.final)
    assert_exactly_once(tmp_path / "out", told, config)
    ends = source.end_offsets()
    assert {entry["lag"] for entry in report(tmp_path / "out", config=config, ends=ends)["offsets"]} == {0}
    backfill_source(source, out=tmp_path / "again", config=config, on_progress=lambda progress: None)
    backfill_landed(tmp_path / "out", out=tmp_path / "landed", config=config)
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "landed") == rows_of(tmp_path / "out")
    source.close()


def test_topics_are_made_with_append_time_and_checked_where_they_are(kafka: str) -> None:
    prefix = f"made{time.monotonic_ns()}-"
    made = ensure_topics(kafka, partitions=2, replicas=1, retention_s=86_400.0, prefix=prefix)
    assert set(made.values()) == {"made"} and len(made) == 4
    again = ensure_topics(kafka, partitions=2, replicas=1, retention_s=86_400.0, prefix=prefix)
    assert set(again.values()) == {"there already"}
    with pytest.raises(SourceError, match="has 2 partitions, not 3"):
        ensure_topics(kafka, partitions=3, replicas=1, retention_s=86_400.0, prefix=prefix)
    create_time = Wire(kafka, partitions=2)
    with pytest.raises(SourceError, match=r"message\.timestamp\.type is CreateTime"):
        ensure_topics(kafka, partitions=2, replicas=1, retention_s=86_400.0, prefix=create_time.prefix)


def test_topics_of_unequal_partitions_and_topics_that_grow_are_refused_and_never_half_read(kafka: str) -> None:
    small, admin = Wire(kafka, partitions=2), AdminClient({"bootstrap.servers": kafka})
    source, patient = (KafkaSource(kafka, prefix=small.prefix, recount_s=recount_s) for recount_s in (0.0, 60.0))
    assert len(source.partitions()) == 8
    for topic in TOPICS[1:]:
        admin.create_partitions([NewPartitions(small.prefix + topic, 3)])[small.prefix + topic].result(30)

    def refused() -> bool:
        with contextlib.suppress(SourceError):
            return not source.partitions()
        return True

    until(refused)
    with pytest.raises(SourceError, match="has 3 partitions now, not 2"):
        source.partitions()
    assert len(patient.partitions()) == 8, "it is not asked for before each batch"
    with pytest.raises(SourceError, match=r"differ \(decisions 2, impressions 3"):
        KafkaSource(kafka, prefix=small.prefix)
    for opened in (source, patient):
        opened.close()


def test_members_share_the_partitions_and_hand_them_over_without_loss(
    wire: Wire, told: list[Event], config: JoinConfig, tmp_path: Path
) -> None:
    first = Worker(member(wire, "share" + wire.prefix), out=tmp_path, config=config)
    until(lambda: first.cycle() is not None and len(first.partition_numbers) == PARTITIONS)
    second_source = member(wire, "share" + wire.prefix)
    second = Worker(second_source, out=tmp_path, config=config)
    until(lambda: [first.cycle(), second.cycle()] != [] and len(second.partition_numbers) == PARTITIONS // 2)
    until(lambda: first.cycle() is not None and not first.partition_numbers & second.partition_numbers)
    assert first.partition_numbers | second.partition_numbers == set(range(PARTITIONS))
    second_source.close()
    until(lambda: first.cycle().events == 0 and len(first.partition_numbers) == PARTITIONS and first.final)
    assert_exactly_once(tmp_path, told, config)


def test_a_zombie_that_missed_the_rebalance_is_refused_by_the_tables(wire: Wire, config: JoinConfig, tmp_path: Path) -> None:
    group = "zombie" + wire.prefix
    zombie = Worker(member(wire, group, "one"), out=tmp_path, config=config)
    until(lambda: zombie.cycle() is not None and len(zombie.partition_numbers) == PARTITIONS)
    heir_source = KafkaSource(wire.bootstrap, prefix=wire.prefix, max_records=100, timeout_s=0.5)
    heir = Worker(heir_source, out=tmp_path, config=config)
    until(lambda: heir.cycle().events > 0)
    with pytest.raises(Fenced):
        until(lambda: zombie.cycle() is None)
    zombie.reload()
    until(lambda: zombie.cycle().events == 0 and zombie.final)
    heir_source.close()


def test_a_second_process_under_the_name_of_a_member_fences_the_first(wire: Wire) -> None:
    group = "twins" + wire.prefix
    one = Membership(wire.bootstrap, group=group, name="me", session_s=6.0, prefix=wire.prefix)
    until(lambda: len(one.owned()) == PARTITIONS)
    other = Membership(wire.bootstrap, group=group, name="me", session_s=6.0, prefix=wire.prefix)
    with pytest.raises(Fenced, match="--member me"):
        until(lambda: other.owned() is not None and one.owned() is None)
    until(lambda: len(other.owned()) == PARTITIONS)
    other.close()


# From the moment at which a process is ready to the end of the backlog, with a member's death behind it.
CAUGHT_UP_S = 5.0


def killed(forked: Joiners, wire: Wire, tasks: Path, out: Path, orders: list[dict[str, Any]], *, broken: bool = False) -> int:
    """Runs joiners that die as ordered, one after the other, and one that lives to the end; how many died.

    The last must have caught up in time: with its name it is a static member, so no session has to run out first.
    """
    # Small batches, so that each life has several; the last one's are those of the command.
    given = [*orders, {"max_records": 20_000}]
    deaths = 0
    for order in given:
        base = Orders(bootstrap=wire.bootstrap, prefix=wire.prefix, out=str(out), tasks=str(tasks), max_records=60, broken=broken)
        ended = forked.run(Orders(**{**base.__dict__, "group": "kills" + wire.prefix + out.name, "member": "one", **order}))
        assert not ended.get("error"), ended
        deaths += ended["died"]
    print(f"{deaths} kills; the last caught up {ended['caught_up_s']:.1f} s after it was ready")
    assert ended["caught_up_s"] <= CAUGHT_UP_S
    return deaths


def test_killed_at_each_point_the_joiner_loses_nothing_and_doubles_nothing(
    forked: Joiners, wire: Wire, told: list[Event], tasks: Path, config: JoinConfig, tmp_path: Path
) -> None:
    deaths = killed(forked, wire, tasks, tmp_path / "out", [{"kill_at": point, "kill_after": 1} for point in POINTS])
    assert deaths == len(POINTS)
    assert_exactly_once(tmp_path / "out", told, config)


def test_a_joiner_that_forgets_its_positions_is_caught(
    forked: Joiners, wire: Wire, told: list[Event], tasks: Path, config: JoinConfig, tmp_path: Path
) -> None:
    assert killed(forked, wire, tasks, tmp_path / "out", [{"kill_at": "landed", "kill_after": 1}], broken=True) == 1
    with pytest.raises(AssertionError):
        assert_exactly_once(tmp_path / "out", told, config)


@pytest.mark.slow
def test_a_member_that_joins_every_five_seconds_and_leaves_again_changes_nothing(kafka: str, config: JoinConfig, tmp_path: Path) -> None:
    told = story(random.Random(9), units=1_000)
    wire = Wire(kafka)
    wire.send(told)
    group = "coming" + wire.prefix
    first = Worker(member(wire, group), out=tmp_path, config=config)
    until(lambda: run_worker_once(first) and bool(first.partition_numbers))
    for _ in range(4):
        source = member(wire, group)
        other, leaves = Worker(source, out=tmp_path, config=config), time.monotonic() + 5.0
        until(lambda other=other: run_worker_once(first) and run_worker_once(other) and bool(other.partition_numbers))  # type: ignore[misc]
        until(lambda other=other, leaves=leaves: run_worker_once(first) and run_worker_once(other) and time.monotonic() > leaves)  # type: ignore[misc]
        source.close()
    until(lambda: run_worker_once(first) and len(first.partition_numbers) == PARTITIONS and first.final)
    assert_exactly_once(tmp_path, told, config)


def run_worker_once(worker: Worker) -> bool:
    """One cycle; what another member has forestalled is taken back, as the command does."""
    try:
        worker.cycle()
    except Fenced:
        worker.reload()
    return True


@pytest.mark.slow
def test_killed_three_times_at_each_point_and_fifty_times_at_random(
    forked: Joiners, kafka: str, tasks: Path, config: JoinConfig, tmp_path: Path
) -> None:
    told, rng = story(random.Random(7), units=4_000), random.Random(8)
    wire = Wire(kafka)
    wire.send(told)
    named = [{"kill_at": point, "kill_after": rng.randint(0, 3)} for point in POINTS for _ in range(3)]
    anywhere = [{"kill_in_s": rng.uniform(0.05, 1.2)} for _ in range(50)]
    orders = named + anywhere
    rng.shuffle(orders)
    deaths = killed(forked, wire, tasks, tmp_path / "out", orders)
    assert deaths >= len(named)
    assert_exactly_once(tmp_path / "out", told, config)
