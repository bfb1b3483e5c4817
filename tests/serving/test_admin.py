"""The admin service moves what the store moves, under the caller's name, and only what the caller has seen."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from bandits.config import TaskPolicy, parse_task
from bandits.first import ensure_champion
from bandits.store import Store
from protos import admin_pb2
from protos.admin_pb2_grpc import AdminServiceStub
from protos.task import load_task
from serving.server import Server
from tests.serving.kit import TASK, publish, serving_from

EXPERIMENT = {"experiments": {"e": {"arms": {"new": {"share": 0.1}, "old": {"share": 0.4, "serves": "baseline"}}}}}
SHOP = {"task": "shop"}
WHY = {**SHOP, "reason": "test"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("admin-tasks")
    (folder / "shop.yaml").write_text(yaml.safe_dump({**TASK, "traffic": EXPERIMENT}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admin")


@pytest.fixture(scope="module")
def shop(tasks: Path) -> TaskPolicy:
    return parse_task(load_task(tasks / "shop.yaml"))


@pytest.fixture(scope="module")
def store(folder: Path, shop: TaskPolicy) -> Store:
    found = Store(folder / "store", "shop")
    ensure_champion(found, shop, now_us=1, actor="test")
    return found


@pytest.fixture(scope="module")
def server(folder: Path, tasks: Path, store: Store) -> Iterator[Server]:
    # The store is looked at when an operator says so, and else never.
    with serving_from(folder, tasks, admin_address="127.0.0.1:0", poll_s=3_600.0) as running:
        yield running


@pytest.fixture
def admin(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.admin_address) as channel:
        yield AdminServiceStub(channel)


def stands(admin: Any) -> Any:
    return admin.GetTraffic(admin_pb2.GetTrafficRequest(**SHOP))


def refusal(call: Callable[..., Any], message: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=30)
    return f"{caught.value.code().name} {caught.value.details()}"


def verdict(store: Store, digest: str, **about: Any) -> str:
    pointer = store.champion()
    assert pointer is not None
    contest = {"champion": pointer.digest, "generation": pointer.generation, "decided_us": pointer.moved_us, "challenger": digest}
    return store.put_verdict({"decision": "promote", "next_share": 1.0, **contest, **about})


def test_a_promotion_by_steps_and_its_rollback_serve_at_once_and_stand_in_the_audit_log(admin: Any, store: Store, shop: TaskPolicy) -> None:
    digest, before = publish(store, shop, seed=1), stands(admin)
    step = verdict(store, digest, next_share=0.1)
    staged = admin.Promote(admin_pb2.PromoteRequest(**SHOP, verdict=step, expected_generation=before.generation))
    assert (staged.challenger, staged.share, staged.champion) == (digest, pytest.approx(0.1), before.champion)
    whole = verdict(store, digest)
    promoted = admin.Promote(admin_pb2.PromoteRequest(**SHOP, verdict=whole, expected_generation=staged.generation))
    assert promoted.champion == promoted.serving == digest and promoted.challenger == ""
    back = admin.Rollback(admin_pb2.RollbackRequest(**WHY, expected_generation=promoted.generation))
    assert back.champion == back.serving == before.champion and back.generation == before.generation + 3
    moves = [entry for entry in store.audit() if str(entry.get("actor", "")).startswith("admin")]
    assert [(entry["action"], entry["actor"]) for entry in moves[-3:]] == [
        ("stage", "admin: anyone"),
        ("promote", "admin: anyone"),
        ("rollback", "admin: anyone"),
    ]
    assert moves[-1]["reason"] == "test" and moves[-3]["quoted"] == step


def test_a_verdict_that_does_not_promote_moves_nothing(admin: Any, store: Store, shop: TaskPolicy) -> None:
    digest, before = publish(store, shop, seed=2), stands(admin)
    verdicts = {
        "hold": verdict(store, digest, decision="hold"),
        "another champion": verdict(store, digest, champion="0" * 64),
        "an earlier move": verdict(store, digest, generation=before.generation - 1),
        "older than the champion": verdict(store, digest, decided_us=0),
        "overridden": verdict(store, digest, overridden={"level": 0.5}),
        "no snapshot": verdict(store, "1" * 64),
        "not kept": "2" * 64,
    }
    for name, quoted in verdicts.items():
        said = refusal(admin.Promote, admin_pb2.PromoteRequest(**SHOP, verdict=quoted, expected_generation=before.generation))
        assert said.startswith("FAILED_PRECONDITION "), (name, said)
    assert stands(admin) == before


def test_two_operators_do_not_undo_each_other(admin: Any, store: Store, shop: TaskPolicy) -> None:
    before, quoted = stands(admin), verdict(store, publish(store, shop, seed=3))
    for call, message in (
        (admin.Promote, admin_pb2.PromoteRequest(**SHOP, verdict=quoted, expected_generation=before.generation + 1)),
        (admin.Rollback, admin_pb2.RollbackRequest(**WHY, expected_generation=before.generation + 1)),
        (admin.SetTraffic, admin_pb2.SetTrafficRequest(**WHY, experiment="e", expected_generation=before.traffic_generation + 1)),
    ):
        assert refusal(call, message).startswith("ABORTED ")
    for call, message in (
        (admin.Promote, admin_pb2.PromoteRequest(**SHOP, verdict=quoted)),
        (admin.Rollback, admin_pb2.RollbackRequest(**WHY)),
        (admin.SetTraffic, admin_pb2.SetTrafficRequest(**WHY, experiment="e")),
    ):
        assert refusal(call, message).startswith("INVALID_ARGUMENT expected_generation: ")
    assert stands(admin) == before


def test_shares_are_moved_and_followed_at_once(admin: Any, server: Server, store: Store) -> None:
    before = stands(admin)
    assert {arm: state.share for arm, state in before.experiments["e"].arms.items()} == {"new": 0.1, "old": 0.4}
    holder = server._holders["default", "shop"]
    units = [str(number) for number in range(2_000)]

    def arms() -> list[str]:
        return [holder.served.beside.experiments.place(unit, bytes(16)).arm for unit in units]

    first = arms()
    request = admin_pb2.SetTrafficRequest(
        **WHY, experiment="e", shares={"new": 0.2, "old": 0.4}, expected_generation=before.traffic_generation
    )
    moved = admin.SetTraffic(request)
    assert moved.experiments["e"].arms["new"].share == 0.2 and moved.traffic_generation == before.traffic_generation + 1
    assert {pair for pair in zip(first, arms(), strict=True) if pair[0] != pair[1]} == {("champion", "e/new")}
    entry = store.audit()[-1]
    assert (entry["action"], entry["actor"], entry["reason"]) == ("traffic", "admin: anyone", "test")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"experiment": "f", "shares": {}}, "INVALID_ARGUMENT experiment: 'f' is not in this task"),
        ({"experiment": "e", "shares": {"newer": 0.1}}, "INVALID_ARGUMENT shares: 'newer' is no arm of 'e'; did you mean `new`"),
        ({"experiment": "e", "shares": {"new": 0.7, "old": 0.7}}, "FAILED_PRECONDITION shares: add up to 1.4"),
        ({"experiment": "e", "shares": {"new": float("nan")}}, "FAILED_PRECONDITION shares.new: nan"),
        ({"experiment": "e", "shares": {"new": 0.2}, "reason": " "}, "INVALID_ARGUMENT reason: is empty"),
    ],
)
def test_shares_that_cannot_be_are_refused(admin: Any, fields: dict[str, Any], said: str) -> None:
    before = stands(admin)
    request = admin_pb2.SetTrafficRequest(**{**WHY, "expected_generation": before.traffic_generation, **fields})
    assert refusal(admin.SetTraffic, request).startswith(said) and stands(admin) == before


def test_the_kill_switch_is_turned_with_a_reason(admin: Any, server: Server, store: Store) -> None:
    on = admin.SetKillSwitch(admin_pb2.SetKillSwitchRequest(**WHY, on=True))
    assert on.kill_switch and on.serving == on.baseline and server._holders["default", "shop"].served.kill_switch
    assert refusal(admin.SetKillSwitch, admin_pb2.SetKillSwitchRequest(**SHOP, on=False)).startswith("INVALID_ARGUMENT reason")
    off = admin.SetKillSwitch(admin_pb2.SetKillSwitchRequest(**WHY, on=False))
    assert not off.kill_switch and off.serving == off.champion
    assert [entry["action"] for entry in store.audit()[-2:]] == ["kill_switch_on", "kill_switch_off"]


def test_a_reload_looks_now_and_is_told(admin: Any, server: Server, store: Store, shop: TaskPolicy) -> None:
    from tests.serving.kit import promote

    promote(store, digest := publish(store, shop, seed=5))
    assert server._holders["default", "shop"].served.champion.digest != digest
    assert admin.Reload(admin_pb2.ReloadRequest(**SHOP)).serving == digest
    assert (store.audit()[-1]["action"], store.audit()[-1]["actor"]) == ("reload", "admin: anyone")


def test_a_task_that_is_not_there_is_not_found(admin: Any) -> None:
    assert refusal(admin.GetTraffic, admin_pb2.GetTrafficRequest(task="shoop")).startswith("NOT_FOUND task: 'shoop' does not exist")
