"""Experiments of a task on a server: what the log says of an arm, what clients are told, and who moves the shares."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bandits.allocation import moved
from bandits.config import TaskPolicy
from bandits.errors import SnapshotError
from bandits.first import ensure_champion
from bandits.store import Store
from bandits.traffic import CHAMPION_ARM
from protos.events_pb2 import ARM_SOURCE_STICKY, ARM_SOURCE_UNSPECIFIED, Decision, Event
from protos.log_files import DECISIONS, FEEDBACK
from protos.policy_pb2 import AssignRequest, AssignResponse, Context, FeatureValue
from protos.task import load_task
from serving.client import AsyncPolicyClient, PolicyClient
from serving.replay import replay_logs
from serving.server import Server
from serving.servicer import Servicer
from serving.tasks import parse_rules
from serving.traffic.keeper import TrafficKeeper
from tests.serving.kit import native_only, promote, publish, records_of, serving_from, written
from tests.serving.traffic_kit import MEMBER, SHOP, STRANGER, TRAFFIC, asked, experiments_of

BASELINE_ARMS = ("holdout", "first/old")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("traffic-tasks"), SHOP)


@pytest.fixture
def store(store: Store, shop: TaskPolicy) -> Store:
    """With a champion that has learned."""
    promote(store, publish(store, shop, seed=1))
    return store


@pytest.fixture
def server(tmp_path: Path, tasks: Path, store: Store, front: str) -> Iterator[Server]:
    with serving_from(tmp_path, tasks, front=front) as running:
        yield running


def decisions(folder: Path) -> list[Decision]:
    events = [Event.FromString(record.payload) for record in records_of(folder / "logs" / DECISIONS)]
    return [event.decision for event in events if event.HasField("decision")]


def test_the_server_decides_by_arm_and_logs_what_placed_the_unit(tmp_path: Path, server: Server, store: Store, shop: TaskPolicy) -> None:
    units = [(f"unit-{number}", number % 3 > 0) for number in range(60)] + [("tester", False)]
    with PolicyClient(server.address) as client:
        answers = [client.send_select(asked(shop, unit, member=member)) for unit, member in units]
    wanted = experiments_of(TRAFFIC)
    pointer, state = store.champion(), store.traffic()
    assert pointer is not None
    even = state.experiments["ranker"].serves["even"]
    digests = {**dict.fromkeys(BASELINE_ARMS, pointer.baseline), "ranker/even": even}
    for (unit, member), answer, logged in zip(units, answers, decisions(tmp_path), strict=True):
        placed = wanted.place(unit, MEMBER if member else STRANGER)
        digest = digests.get(placed.arm, pointer.digest)
        for told in (answer, logged):
            assert (told.arm, told.arm_probability, told.snapshot_digest) == (placed.arm, placed.probability, digest)
        assert (logged.arm_source, tuple(logged.ineligible_for)) == (placed.source, placed.ineligible_for)
        assert list(logged.slots) == list(answer.slots)
    assert {logged.arm for logged in decisions(tmp_path)} == {"holdout", "ranker/control", "ranker/even", "first/old", CHAMPION_ARM}
    report = replay_logs(tmp_path / "logs", store=tmp_path / "store")
    assert report.sound and report.draws_agree == report.decisions == len(units)


def test_assign_tells_the_arm_of_select_and_logs_an_exposure(tmp_path: Path, server: Server, shop: TaskPolicy) -> None:
    units = [f"unit-{number}" for number in range(30)]
    stub_context = Context(features={"member": FeatureValue(flag=True)})
    with PolicyClient(server.address) as client:
        selected = [client.send_select(asked(shop, unit, member=True)) for unit in units]
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/slateloop.v1.PolicyService/Assign")
        raw = [AssignRequest(task="shop", unit_id=unit, context=stub_context).SerializeToString() for unit in units]
        assigned = [AssignResponse.FromString(call(request)) for request in raw]
    assert [(a.arm, a.arm_probability, a.snapshot_digest) for a in assigned] == [
        (s.arm, s.arm_probability, s.snapshot_digest) for s in selected
    ]
    assert all(answer.exposed for answer in assigned)
    signals = [Event.FromString(record.payload).signal for record in records_of(tmp_path / "logs" / FEEDBACK)]
    assert [(s.unit_id, s.name, s.value) for s in signals] == [
        (unit, f"exposure:shop:{a.arm}", a.arm_probability) for unit, a in zip(units, assigned, strict=True)
    ]
    assert len({s.event_id for s in signals}) == len(units)


def assign(channel: grpc.Channel, request: AssignRequest) -> Any:
    """A call in flight."""
    return channel.unary_unary("/slateloop.v1.PolicyService/Assign").future(request.SerializeToString(), timeout=30)


def test_exposures_of_calls_that_come_together_are_one_write_and_who_is_refused_spoils_it_for_nobody(server: Server) -> None:
    writes: list[list[Event]] = []

    def append(events: Sequence[Event]) -> None:
        writes.append(list(events))

    servicer = Servicer(server._engine, append_feedback=append, now_us=lambda: 1, latest_us=lambda: 1)
    wrong = Context(packed=b"1", schema_digest="0" * 64)
    requests = [AssignRequest(task="shop", unit_id=unit) for unit in ("a", "", "b", "c")]
    first, unnamed, *others, foreign = servicer.assign_all([*requests, AssignRequest(task="shop", unit_id="d", context=wrong)])
    assert [type(error).__name__ for error in (unnamed, foreign)] == ["RequestRefused"] * 2
    assert all(isinstance(answer, bytes) and AssignResponse.FromString(answer).exposed for answer in (first, *others))
    assert [[event.signal.unit_id for event in events] for events in writes] == [["a", "b", "c"]]


def test_an_exposure_that_breaks_the_log_breaks_it_for_no_other(server: Server) -> None:
    def append(events: Sequence[Event]) -> None:
        if any(event.signal.unit_id == "poison" for event in events):
            raise ZeroDivisionError

    servicer = Servicer(server._engine, append_feedback=append, now_us=lambda: 1, latest_us=lambda: 1)
    answers = servicer.assign_all([AssignRequest(task="shop", unit_id=unit) for unit in ("a", "poison", "b")])
    assert [type(answer) for answer in answers] == [bytes, ZeroDivisionError, bytes]


def test_an_arm_is_told_once_its_exposure_is_logged(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, free, append = threading.Event(), threading.Event(), server._feedback.append

    def held(events: Sequence[Event]) -> Any:
        begun.set()
        assert free.wait(30)
        return append(events)

    monkeypatch.setattr(server._feedback, "append", held)
    with grpc.insecure_channel(server.address) as channel:
        call = assign(channel, AssignRequest(task="shop", unit_id="u"))
        assert begun.wait(30) and not call.done()
        free.set()
        assert AssignResponse.FromString(call.result()).exposed


def test_an_arm_whose_exposure_is_not_logged_is_not_told(server: Server) -> None:
    guard, request = server._guards[FEEDBACK], AssignRequest(task="shop", unit_id="u")
    guard.reason, guard._next_s = "log: full", float("inf")
    with grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)]) as channel:
        refused = assign(channel, request)
        assert refused.code() is grpc.StatusCode.UNAVAILABLE and "log: full" in refused.details()
        guard.reason, guard._next_s = "", 0.0
        assert AssignResponse.FromString(assign(channel, request).result()).exposed


@native_only
def test_both_fronts_assign_and_log_the_same_bytes(tmp_path: Path, tasks: Path, shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.server.now_us", lambda: 1_700_000_000_000_000)
    requests = [AssignRequest(task="shop", unit_id=f"u{number}", sticky_arm="ranker/even" * (number % 2)) for number in range(40)]
    found: dict[str, Any] = {}
    for front in ("grpcio", "native"):
        ensure_champion(Store(tmp_path / front / "store", "shop"), shop, now_us=1, actor="test")
        with serving_from(tmp_path / front, tasks, front=front) as running, grpc.insecure_channel(running.address) as channel:
            answers = [assign(channel, request).result() for request in requests]
        found[front] = answers, [record.payload for record in records_of(tmp_path / front / "logs" / FEEDBACK)]
    assert found["native"] == found["grpcio"] and len(found["native"][1]) == 40


def test_both_clients_assign_by_context_and_keep_a_sticky_arm(server: Server) -> None:
    wanted = experiments_of(TRAFFIC)
    unit = next(unit for unit in map(str, range(1_000)) if wanted.place(unit, MEMBER).arm == "ranker/control")
    options: list[dict[str, Any]] = [
        {"context": {"member": True}},
        {"context": np.array([1, 2, 3, 1])},
        {"context": {"member": True}, "sticky_arm": "ranker/even"},
        {"context": {"member": False}, "sticky_arm": "ranker/even"},
        {},
    ]

    async def ask() -> list[AssignResponse]:
        async with AsyncPolicyClient(server.address) as client:
            return [await client.assign("shop", unit_id=unit, **given) for given in options]

    with PolicyClient(server.address) as client:
        answers = [client.assign("shop", unit_id=unit, **given) for given in options]
    assert answers == asyncio.run(ask())
    named, packed, kept_in, *strangers = answers
    assert named == packed and (named.arm, named.arm_source) == ("ranker/control", ARM_SOURCE_UNSPECIFIED)
    assert (kept_in.arm, kept_in.arm_probability, kept_in.arm_source) == ("ranker/even", 1.0, ARM_SOURCE_STICKY)
    assert [(a.arm, list(a.ineligible_for)) for a in strangers] == [(CHAMPION_ARM, ["ranker"])] * 2


def kept(store: Store, tasks: Path, load: Any = lambda digest: digest) -> TrafficKeeper:
    """A keeper that has begun; policies are what `load` makes of digests."""
    found = TrafficKeeper(store, parse_rules(load_task(tasks / "shop.yaml")))
    found.begin(load, now_us=1)
    return found


def arms_of(keeper: TrafficKeeper) -> list[str]:
    beside = keeper.look(lambda digest: digest)
    assert beside is not None and beside.experiments is not None
    return [beside.experiments.place(unit, MEMBER).arm for unit in map(str, range(500))]


def test_shares_that_are_moved_in_the_store_are_followed_at_the_next_look(tmp_path: Path, tasks: Path) -> None:
    store = Store(tmp_path, "shop")
    keeper = kept(store, tasks)
    before, same = keeper.look(no_load), keeper.look(no_load)
    first = arms_of(keeper)

    def stop(standing: Any) -> Any:
        found = standing.experiments["ranker"]
        ranges = moved(found.ranges, {"control": 0.5, "even": 0.0})
        return standing._replace(experiments={**standing.experiments, "ranker": found._replace(ranges=ranges)})

    store.move_traffic(stop, expected=1, now_us=9, actor="ann", reason="too slow")
    assert before is same and {pair for pair in zip(first, arms_of(keeper), strict=True) if pair[0] != pair[1]} == {
        ("ranker/even", CHAMPION_ARM)
    }
    assert [entry["actor"] for entry in store.audit()] == ["serving", "ann"]


def no_load(digest: str) -> Any:
    raise AssertionError(f"{digest} was to be loaded")


def test_snapshots_of_arms_are_never_collected(tmp_path: Path, tasks: Path) -> None:
    store = Store(tmp_path, "shop")
    kept(store, tasks)
    store.collect(keep=0)
    assert store.traffic().digests == set(store.digests()) != set()


def test_an_arm_whose_snapshot_cannot_be_served_leaves_its_units_with_the_champion(tmp_path: Path, tasks: Path) -> None:
    def broken(digest: str) -> Any:
        raise SnapshotError(f"snapshot {digest}: altered")

    store = Store(tmp_path, "shop")
    pairs = set(zip(arms_of(kept(store, tasks)), arms_of(kept(store, tasks, broken)), strict=True))
    assert ("ranker/even", CHAMPION_ARM) in pairs and ("ranker/control", "ranker/control") in pairs
