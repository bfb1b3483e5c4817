"""The holder of the served snapshot: swaps, refusals, rollback, and no compilation on the way."""

from pathlib import Path

import pytest

from bandits.config import TaskPolicy
from bandits.errors import SnapshotError
from bandits.programs import compilations
from bandits.store import Store
from protos.task import load_task
from serving import snapshots
from serving.snapshots import SnapshotHolder
from serving.tasks import parse_rules
from tests.serving.kit import promote, publish


@pytest.fixture
def holder(tasks: Path, store: Store) -> SnapshotHolder:
    found = SnapshotHolder(store, parse_rules(load_task(tasks / "shop.yaml")))
    found.start()
    return found


def flip(store: Store, digest: str) -> None:
    path = store.snapshot_dir(digest) / "params.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_a_promoted_snapshot_decides_and_the_one_before_stays_loaded(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    first = holder.served.champion
    promote(store, digest := publish(store, shop, seed=1))
    assert holder.refresh() and not holder.refresh()
    assert holder.served.deciding.digest == digest and holder.served.previous is first


def test_a_swap_to_the_tasks_own_policy_compiles_nothing(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    promote(store, publish(store, shop, seed=1))
    before = compilations()
    holder.refresh()
    assert compilations() == before


def test_a_start_on_the_tasks_own_policy_warms_it_once(
    tasks: Path, store: Store, shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(store, publish(store, shop, seed=1))
    monkeypatch.setattr(snapshots, "warm_program", lambda *_: pytest.fail("what the champion has warmed was warmed again"))
    holder = SnapshotHolder(store, parse_rules(load_task(tasks / "shop.yaml")))
    holder.start()
    promote(store, digest := publish(store, shop, seed=2))
    before = compilations()
    assert holder.refresh() and holder.served.deciding.digest == digest and compilations() == before


def test_a_flipped_byte_is_refused_and_the_old_one_serves_on(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    good = holder.served.champion
    promote(store, bad := publish(store, shop, seed=1))
    flip(store, bad)
    assert not holder.refresh() and holder.served.champion is good and holder.failures == 1


def test_a_bad_snapshot_is_tried_again_ever_less_often_until_it_is_mended(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    promote(store, bad := publish(store, shop, seed=1))
    flip(store, bad)
    tries = []
    for _ in range(16):
        holder.refresh()
        tries.append(holder.failures)
    assert tries == [1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4]
    flip(store, bad)
    for _ in range(4):
        holder.refresh()
    assert holder.served.champion.digest == bad


def test_a_rollback_needs_no_load(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    first = holder.served.champion
    promote(store, digest := publish(store, shop, seed=1))
    holder.refresh()
    flip(store, first.digest)
    store.rollback(reason="test", now_us=9, actor="test")
    assert holder.refresh() and holder.served.champion is first and holder.failures == 0
    assert holder.served.previous is not None and holder.served.previous.digest == digest


def test_the_kill_switch_works_while_the_champion_cannot_be_loaded(holder: SnapshotHolder, store: Store, shop: TaskPolicy) -> None:
    promote(store, good := publish(store, shop, seed=1))
    holder.refresh()
    promote(store, bad := publish(store, shop, seed=2))
    flip(store, bad)
    store.set_kill_switch(True, reason="test", now_us=9, actor="test")
    assert holder.refresh() and holder.served.deciding.manifest.policy == "uniform"
    store.set_kill_switch(False, reason="test", now_us=10, actor="test")
    assert holder.refresh() and holder.served.deciding.digest == good


def test_a_snapshot_of_another_feature_schema_is_refused(tasks: Path, store: Store) -> None:
    other = parse_rules(load_task(tasks / "shop.yaml", overrides=["features.context=[{name: other}]"]))
    with pytest.raises(SnapshotError, match="feature schema"):
        SnapshotHolder(store, other).start()


def test_a_task_without_champion_is_refused(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no champion"):
        SnapshotHolder(Store(tmp_path / "empty", "shop"), parse_rules(load_task(tasks / "shop.yaml"))).start()
