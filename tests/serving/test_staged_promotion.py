"""A challenger with a share of the traffic: the server honours it by unit, logs arm and probability, and replay finds its snapshot."""

from pathlib import Path

import pytest

from bandits.config import TaskPolicy
from bandits.store import Store
from bandits.traffic import CHALLENGER_ARM, CHAMPION_ARM, PINNED_ARM, assign
from protos.events_pb2 import Event
from protos.log_files import DECISIONS
from protos.task import load_task
from serving.client import PolicyClient
from serving.replay import replay_logs
from serving.snapshots import SnapshotHolder
from serving.tasks import parse_rules
from tests.serving.kit import promote, publish, records_of, select_request, serving_from
from tests.serving.test_served_snapshots import flip

UNITS = [f"unit-{number}" for number in range(40)]


def test_units_are_dealt_by_the_pointer_and_the_log_says_so(
    tmp_path: Path, tasks: Path, store: Store, shop: TaskPolicy, front: str
) -> None:
    first = store.champion()
    promote(store, digest := publish(store, shop, seed=1), share=0.5)
    pointer = store.champion()
    assert first is not None and pointer is not None
    wanted = {unit: assign(task="shop", unit_id=unit, split=pointer.split) for unit in UNITS}
    with serving_from(tmp_path, tasks, front=front) as server, PolicyClient(server.address) as client:
        answers = {unit: client.send_select(select_request(shop, unit=unit)) for unit in UNITS}
        assigned = {unit: client.assign("shop", unit_id=unit) for unit in UNITS}
        pinned = client.send_select(select_request(shop, snapshot_digest=digest))
    digests = {CHALLENGER_ARM: digest, CHAMPION_ARM: first.digest}
    for unit, (arm, probability) in wanted.items():
        for answer in (answers[unit], assigned[unit]):
            assert (answer.arm, answer.arm_probability, answer.snapshot_digest) == (arm, probability, digests[arm])
    assert {arm for arm, _ in wanted.values()} == set(digests) and (pinned.arm, pinned.arm_probability) == (PINNED_ARM, 1.0)
    events = [Event.FromString(record.payload) for record in records_of(tmp_path / "logs" / DECISIONS)]
    logged = [event.decision for event in events if event.HasField("decision")]
    assert {(d.unit_id, d.arm, d.arm_probability) for d in logged[:-1]} == {(unit, *drawn) for unit, drawn in wanted.items()}
    report = replay_logs(tmp_path / "logs", store=tmp_path / "store")
    assert report.draws_agree == report.decisions == len(UNITS) + 1 and not report.faults


@pytest.fixture
def holder(tasks: Path, store: Store) -> SnapshotHolder:
    found = SnapshotHolder(store, parse_rules(load_task(tasks / "shop.yaml")))
    found.start()
    return found


def arms(holder: SnapshotHolder) -> set[tuple[str, float]]:
    return {tuple(holder.served.assigned(task="shop", unit_id=unit)[1]) for unit in UNITS}


def test_a_share_grows_and_ends_without_a_restart(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    first = holder.served.champion
    promote(store, digest := publish(store, shop, seed=1), share=0.25)
    assert holder.refresh() and arms(holder) == {(CHALLENGER_ARM, 0.25), (CHAMPION_ARM, 0.75)} and not holder.refresh()
    promote(store, digest, share=0.5)
    assert holder.refresh() and arms(holder) == {(CHALLENGER_ARM, 0.5), (CHAMPION_ARM, 0.5)}
    promote(store, digest)
    assert holder.refresh() and arms(holder) == {(CHAMPION_ARM, 1.0)} and holder.served.champion.digest == digest
    assert holder.served.previous is first


def test_a_stage_that_is_rolled_back_ends_at_the_next_look(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    promote(store, publish(store, shop, seed=1), share=0.25)
    holder.refresh()
    store.rollback(reason="test", now_us=9, actor="test")
    assert holder.refresh() and arms(holder) == {(CHAMPION_ARM, 1.0)} and holder.served.challenger is None


def test_a_challenger_that_cannot_be_loaded_decides_for_nobody(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    promote(store, publish(store, shop, seed=1), share=0.25)
    holder.refresh()
    store.rollback(reason="test", now_us=9, actor="test")
    promote(store, bad := publish(store, shop, seed=2), share=0.25)
    flip(store, bad)
    # Both the end of the first stage and the beginning of the second came between two looks.
    assert holder.refresh() and holder.failures == 1 and arms(holder) == {(CHAMPION_ARM, 1.0)}


def test_the_kill_switch_ends_an_experiment(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    promote(store, publish(store, shop, seed=1), share=0.25)
    store.set_kill_switch(True, reason="test", now_us=9, actor="test")
    holder.refresh()
    assert arms(holder) == {(CHAMPION_ARM, 1.0)} and holder.served.deciding is holder.served.baseline
