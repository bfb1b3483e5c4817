"""The server over loopback with the client: what it answers, swaps under load, drains, and never compiles on the way."""

import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bandits.config import TaskPolicy
from bandits.programs import BATCH_BUCKETS, compilations
from bandits.store import Store
from protos.events_pb2 import CandidateSet, Event
from protos.policy_pb2 import GetPolicyRequest, SelectRequest, SelectResponse
from protos.task import load_tasks
from serving import events
from serving.client import PolicyClient
from serving.config import ServerConfig
from serving.errors import LogBusy, Overloaded, RequestIdReused, RequestRefused, ServerFault, ServingError, Unavailable
from serving.server import Server
from serving.snapshots import SnapshotHolder
from tests.serving.kit import hammer, promote, publish, records_of, select_request


@pytest.fixture
def caller(start_server: Callable[..., Server]) -> Iterator[PolicyClient]:
    with PolicyClient(start_server().address) as found:
        yield found


def logged(log: Path) -> list[Event]:
    return [Event.FromString(item.payload) for item in records_of(log)]


def test_the_loop_through_the_client(caller: PolicyClient, logs: Path) -> None:
    answer = caller.select("shop", unit_id="u", context={"weights": [1.0, 2.0, 3.0], "member": True}, slate_size=2, explain=True)
    seen = [(place, slot.action) for place, slot in enumerate(answer.slots)]
    caller.impression("shop", decision_id=answer.decision_id, unit_id="u", seen=seen)
    caller.reward("shop", decision_id=answer.decision_id, unit_id="u", name="buy", value=0.0, slot=0)
    caller.signal(unit_id="u", name="login")
    caller.heartbeat("rewards", event_time_us=1, final=True)
    (decision,), feedback = logged(logs / "decisions"), logged(logs / "feedback")
    assert decision.decision.decision_id == answer.decision_id
    assert [event.WhichOneof("kind") for event in feedback] == ["impression", "reward", "signal", "heartbeat"]
    assert feedback[1].reward.HasField("value") and all(event.append_time_us > 0 for event in feedback)


def test_policy_and_assignment_say_what_decides(caller: PolicyClient, store: Store, shop: TaskPolicy) -> None:
    policy, arm, pointer = caller.policy("shop"), caller.assign("shop", unit_id="u"), store.champion()
    assert pointer is not None and policy.snapshot_digest == arm.snapshot_digest == pointer.digest
    assert (arm.arm, arm.arm_probability) == ("champion", 1.0)
    assert policy.schema_digest == shop.schema.digest and list(policy.actions) == list("abcde")
    assert [(item.name, item.type, item.size) for item in policy.context_features] == [("weights", "float", 3), ("member", "bool", 1)]


def test_a_batch_is_answered_in_order_and_each_by_itself(caller: PolicyClient, shop: TaskPolicy) -> None:
    requests = [select_request(shop, request_id=f"r{index}") for index in range(300)]
    requests[7].task = "nowhere"
    answers = caller.select_batch(requests)
    assert [index for index, answer in enumerate(answers) if not isinstance(answer, SelectResponse)] == [7]
    assert [answer.request_id for answer in answers if isinstance(answer, SelectResponse)][:7] == [f"r{index}" for index in range(7)]


def test_a_retry_is_answered_the_same_and_another_body_is_refused(caller: PolicyClient, shop: TaskPolicy, logs: Path) -> None:
    first = caller.send_select(select_request(shop, request_id="r"))
    assert caller.send_select(select_request(shop, request_id="r")) == first
    with pytest.raises(RequestIdReused, match="send a new id"):
        caller.send_select(select_request(shop, request_id="r", unit="other"))
    assert len(logged(logs / "decisions")) == 1


def test_unknown_fields_and_unknown_actions_are_taken(caller: PolicyClient, shop: TaskPolicy) -> None:
    message = SelectRequest.FromString(select_request(shop).SerializeToString() + b"\xfa\x3f\x01x")
    assert caller.send_select(message).logged
    new = caller.send_select(select_request(shop, candidates=CandidateSet(actions=["a", "brand-new"]), slate_size=2))
    assert {slot.action for slot in new.slots} == {"a", "brand-new"}


def test_swaps_under_load_lose_no_call_and_compile_nothing(start_server: Callable[..., Server], store: Store, shop: TaskPolicy) -> None:
    server = start_server()
    digests = [publish(store, shop, seed=seed) for seed in range(4)]
    compiled = compilations()
    order = [server._holders["default", "shop"].served.champion.digest, *digests]
    waiting = list(digests)

    def promoted_all() -> bool:
        pointer = store.champion()
        assert pointer is not None
        if server._holders["default", "shop"].served.champion.digest == pointer.digest:
            if not waiting:
                return True
            promote(store, waiting.pop(0))
        return False

    answers, errors = hammer(server.address, shop, workers=3, until=promoted_all)
    assert not errors and len(answers) >= 5
    assert {answer.snapshot_digest for answer in answers} <= set(order)
    with PolicyClient(server.address) as caller:
        for batch in sorted({size + step for size in BATCH_BUCKETS for step in (-1, 0, 1)} - {0}):
            caller.select_batch([select_request(shop)] * batch)
        for count in range(1, 9):
            caller.send_select(select_request(shop, candidates=CandidateSet(actions=list("abcdefgh")[:count]), slate_size=min(count, 3)))
    assert compilations() == compiled


def test_digests_of_one_caller_never_go_back(start_server: Callable[..., Server], store: Store, shop: TaskPolicy) -> None:
    server = start_server()
    holder = server._holders["default", "shop"]
    order = [holder.served.champion.digest]
    waiting = [publish(store, shop, seed=seed) for seed in range(3)]

    def step() -> bool:
        if holder.served.champion.digest == order[-1]:
            if not waiting:
                return True
            order.append(waiting.pop(0))
            promote(store, order[-1])
        return False

    answers, errors = hammer(server.address, shop, workers=1, until=step)
    places = [order.index(answer.snapshot_digest) for answer in answers]
    assert not errors and places == sorted(places)


def test_a_second_server_on_the_same_logs_is_refused(start_server: Callable[..., Server]) -> None:
    start_server()
    with pytest.raises(LogBusy):
        start_server()


def test_an_address_in_use_is_refused_by_name(start_server: Callable[..., Server], tasks: Path, tmp_path: Path) -> None:
    address = start_server().address
    with pytest.raises(ServingError, match="address"):
        Server(ServerConfig(address=address), tasks=load_tasks(tasks), store=tmp_path / "store", logs=tmp_path / "other")


def test_before_it_is_warm_a_server_is_alive_but_not_ready(
    tasks: Path, tmp_path: Path, shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServerConfig(address="127.0.0.1:0", poll_s=3600.0)
    server = Server(config, tasks=load_tasks(tasks), store=tmp_path / "store", logs=tmp_path / "logs")
    warm, start = threading.Event(), SnapshotHolder.start
    monkeypatch.setattr(SnapshotHolder, "start", lambda holder: (warm.wait(), start(holder)))
    starting = threading.Thread(target=server.start)
    starting.start()
    with PolicyClient(server.address) as caller, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(Unavailable, match="wait until its health is SERVING"):
            caller.send_select(select_request(shop))
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(service="shop")).status == health_pb2.HealthCheckResponse.NOT_SERVING
        warm.set()
        starting.join()
        assert health.Check(health_pb2.HealthCheckRequest(service="shop")).status == health_pb2.HealthCheckResponse.SERVING
        assert caller.send_select(select_request(shop)).logged
    server.drain()


def test_a_bug_is_internal_and_tells_nothing(
    start_server: Callable[..., Server], shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    # One that asks for its reasons is the engine's on both fronts.
    request = select_request(shop, request_id="r", explain=True)
    monkeypatch.setattr("serving.engine.decide", lambda asked: 1 / 0)
    with PolicyClient(server.address) as caller, pytest.raises(ServerFault) as caught:
        caller.send_select(request)
    assert "division" not in str(caught.value) and "internal error" in str(caught.value)
    monkeypatch.undo()
    with PolicyClient(server.address) as caller:
        assert caller.send_select(request).logged


def test_a_passed_deadline_is_deadline_exceeded(start_server: Callable[..., Server]) -> None:
    server = start_server(deadline_cap_s=1e-9)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        request = GetPolicyRequest(task="shop").SerializeToString()
        channel.unary_unary("/slateloop.v1.PolicyService/GetPolicy")(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED and "deadline_cap_s" in (caught.value.details() or "")


def test_reflection_lists_the_service_where_it_is_on(start_server: Callable[..., Server]) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(start_server(reflection=True).address) as channel:
        assert "slateloop.v1.PolicyService" in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_drained_server_has_written_its_last_heartbeat(start_server: Callable[..., Server], shop: TaskPolicy, logs: Path) -> None:
    server = start_server(final_heartbeat=True)
    with PolicyClient(server.address) as caller:
        caller.send_select(select_request(shop))
    server.drain()
    last = logged(logs / "decisions")
    assert [event.WhichOneof("kind") for event in last] == ["decision", "heartbeat"]
    assert last[-1].heartbeat.final and last[-1].heartbeat.event_time_us >= last[0].decision.event_time_us


def test_health_is_asked_by_task(start_server: Callable[..., Server]) -> None:
    with grpc.insecure_channel(start_server().address) as channel, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nowhere"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_events_are_what_producers_say() -> None:
    event = events.reward("shop", decision_id=b"1" * 16, unit_id="u", name="buy", value=0.0, event_id="e", event_time_us=1)
    assert event.reward.HasField("value") and not event.reward.HasField("slot") and event.reward.tenant == "default"


def test_a_stream_answers_or_refuses_each_request_in_its_turn(start_server: Callable[..., Server], shop: TaskPolicy) -> None:
    server = start_server(max_streams=1)
    with PolicyClient(server.address) as caller:
        requests = [
            select_request(shop),
            select_request(shop, unit_id=""),
            select_request(shop, request_id="r"),
            select_request(shop, request_id="r"),
        ]
        first, refused, third, again = caller.select_stream(iter(requests))
    assert isinstance(refused, RequestRefused) and refused.field == "unit_id"
    assert isinstance(first, SelectResponse) and first.logged and third == again


def test_one_stream_too_many_is_shed(start_server: Callable[..., Server], shop: TaskPolicy) -> None:
    server = start_server(max_streams=0)
    with PolicyClient(server.address) as caller, pytest.raises(Overloaded, match="max_streams"):
        list(caller.select_stream(iter([select_request(shop)])))


def test_prometheus_is_told_what_happened_and_of_nobody(start_server: Callable[..., Server], shop: TaskPolicy) -> None:
    server = start_server(metrics_address="127.0.0.1:0")
    with PolicyClient(server.address) as caller:
        caller.send_select(select_request(shop, unit="somebody"))
        with pytest.raises(RequestRefused):
            caller.send_select(select_request(shop, unit_id=""))
    text = urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10).read().decode()
    for line in (
        'slateloop_calls_total{code="OK",method="Select"} 1.0',
        'slateloop_calls_total{code="INVALID_ARGUMENT",method="Select"} 1.0',
        "slateloop_decisions_total 1.0",
        'slateloop_refusals_total{code="INVALID_ARGUMENT"} 1.0',
        'slateloop_log_blocked{log="decisions"} 0.0',
        'slateloop_snapshot_failures_total{task="shop"} 0.0',
    ):
        assert line in text, text
    assert "somebody" not in text and text.count("\n") < 1_000
