"""The bad-input matrix over the wire: each cell has its exact code and field, nothing is logged, and the server serves on."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bandits.config import TaskPolicy
from protos.events_pb2 import CandidateSet, Decision, Event, Heartbeat, Impression, Reward, SeenSlot, Signal, Slot
from protos.policy_pb2 import AssignRequest, CandidateFeatures, Context, FeatureValue, SelectRequest
from serving import errors
from serving.calls import CallHandler, status_of
from serving.client import PolicyClient, error_of
from serving.config import ServerConfig
from serving.errors import DeadlineExceeded, NotFound, RequestRefused, ServerFault, ServingError, SnapshotNotServed
from serving.server import Server
from tests.serving.kit import FRONTS, records_of, select_request, serving_from

NOW_US = 1_700_000_000_000_000
TOO_LONG = "x" * 129


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    """What takes the calls: the matrix is one for all."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, front: str) -> Path:
    return tmp_path_factory.mktemp(f"bad-input-{front}")


@pytest.fixture(scope="module")
def server(folder: Path, tasks: Path, front: str) -> Iterator[Server]:
    """One server for all cells: each finds it as healthy, and its logs as empty, as the first did."""
    with serving_from(folder, tasks, front=front, max_message_bytes=1 << 16) as running:
        yield running


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as found:
        yield found


@pytest.fixture
def caller(server: Server) -> Iterator[PolicyClient]:
    with PolicyClient(server.address) as found:
        yield found


@pytest.fixture(autouse=True)
def _serves_on(folder: Path, channel: grpc.Channel) -> Iterator[None]:
    """Whatever a test sent: nothing stands in the logs, and the server is healthy."""
    yield
    assert records_of(folder / "logs" / "decisions") == [] and records_of(folder / "logs" / "feedback") == []
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "shop", "ranked", "slateloop.v1.PolicyService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def packed(*values: float, digest: str = "") -> Callable[[TaskPolicy], dict[str, Any]]:
    return lambda shop: {"context": Context(packed=np.array(values, "<f4").tobytes(), schema_digest=digest or shop.schema.digest)}


def named(**features: FeatureValue) -> Callable[[TaskPolicy], dict[str, Any]]:
    return lambda shop: {"context": Context(features=features)}


def fields(**given: Any) -> Callable[[TaskPolicy], dict[str, Any]]:
    return lambda shop: given


def candidates(**given: Any) -> Callable[[TaskPolicy], dict[str, Any]]:
    return lambda shop: {"candidates": CandidateSet(**given)}


# Name -> (fields of a Select that differ from a sound one, field at fault, error).
SELECT: dict[str, tuple[Callable[[TaskPolicy], dict[str, Any]], str, type[ServingError]]] = {
    "too few numbers": (packed(1, 2, 3), "context.packed", RequestRefused),
    "too many numbers": (packed(1, 2, 3, 4, 5), "context.packed", RequestRefused),
    "half a number": (
        lambda shop: {"context": Context(packed=b"123", schema_digest=shop.schema.digest)},
        "context.packed",
        RequestRefused,
    ),
    "NaN": (packed(1, float("nan"), 3, 4), "context.packed", RequestRefused),
    "infinity": (packed(1, 2, float("-inf"), 4), "context.packed", RequestRefused),
    "subnormal": (packed(1, 2, 1e-40, 4), "context.packed", RequestRefused),
    "another schema": (packed(1, 2, 3, 4, digest="0" * 64), "context.schema_digest", RequestRefused),
    "packed without schema": (fields(context=Context(packed=bytes(16))), "context.schema_digest", RequestRefused),
    "named and packed": (
        lambda shop: {"context": Context(packed=bytes(16), schema_digest=shop.schema.digest, features={"member": FeatureValue(flag=True)})},
        "context",
        RequestRefused,
    ),
    "unknown feature": (named(membr=FeatureValue(flag=True)), "context.features.membr", RequestRefused),
    "feature of another type": (named(member=FeatureValue(number=2)), "context.features.member", RequestRefused),
    "feature without value": (named(member=FeatureValue()), "context.features.member", RequestRefused),
    "feature of another size": (named(weights=FeatureValue(number=2)), "context.features.weights", RequestRefused),
    "unknown task": (fields(task="shoppe"), "task", NotFound),
    "task of another tenant": (fields(task="ranked"), "task", NotFound),
    "unknown tenant": (fields(tenant="nobody"), "task", NotFound),
    "no task": (fields(task=""), "task", RequestRefused),
    "long tenant": (fields(tenant=TOO_LONG), "tenant", RequestRefused),
    "no unit": (fields(unit_id=""), "unit_id", RequestRefused),
    "long unit": (fields(unit_id=TOO_LONG), "unit_id", RequestRefused),
    "long unit in bytes": (fields(unit_id="ä" * 65), "unit_id", RequestRefused),
    "NUL in unit": (fields(unit_id="a\0b"), "unit_id", RequestRefused),
    "long request id": (fields(request_id=TOO_LONG), "request_id", RequestRefused),
    "short parent": (fields(parent_decision_id=b"123"), "parent_decision_id", RequestRefused),
    "no digest": (fields(snapshot_digest="latest"), "snapshot_digest", RequestRefused),
    "snapshot not loaded": (fields(snapshot_digest="0" * 64), "snapshot_digest", SnapshotNotServed),
    "no slots": (fields(slate_size=0), "slate_size", RequestRefused),
    "more slots than allowed": (fields(slate_size=4), "slate_size", RequestRefused),
    "more slots than candidates": (
        lambda shop: {"candidates": CandidateSet(actions=["a", "b"]), "slate_size": 3},
        "slate_size",
        RequestRefused,
    ),
    "more slots than eligible candidates": (
        lambda shop: {"candidates": CandidateSet(actions=["a", "b"], eligible=[True, False]), "slate_size": 2},
        "slate_size",
        RequestRefused,
    ),
    "no candidates": (candidates(), "candidates.actions", RequestRefused),
    "duplicate candidates": (candidates(actions=["a", "b", "a"]), "candidates.actions", RequestRefused),
    "too many candidates": (candidates(actions=[str(i) for i in range(9)]), "candidates.actions", RequestRefused),
    "empty candidate": (candidates(actions=["a", ""]), "candidates.actions[1]", RequestRefused),
    "long candidate": (candidates(actions=["a", TOO_LONG]), "candidates.actions[1]", RequestRefused),
    "unknown catalogue": (candidates(catalogue="spring"), "candidates.catalogue", RequestRefused),
    "strange to its catalogue": (candidates(catalogue="default", actions=["a", "z"]), "candidates.actions", RequestRefused),
    "nobody eligible": (candidates(actions=["a", "b"], eligible=[False, False]), "candidates.eligible", RequestRefused),
    "eligibility of another length": (candidates(actions=["a", "b"], eligible=[True]), "candidates.eligible", RequestRefused),
    "features that the schema lacks": (
        candidates(actions=["a", "b"], packed_features=bytes(8)),
        "candidates.packed_features",
        RequestRefused,
    ),
    "scores of another length": (candidates(actions=["a", "b"], scores=[1.0]), "candidates.scores", RequestRefused),
    "NaN score": (candidates(actions=["a", "b"], scores=[1.0, float("nan")]), "candidates.scores", RequestRefused),
    "named features of another length": (fields(candidate_features=[CandidateFeatures()]), "candidate_features", RequestRefused),
}


@pytest.mark.parametrize("name", SELECT)
def test_a_bad_select_is_refused_with_its_code_and_field(name: str, caller: PolicyClient, shop: TaskPolicy) -> None:
    change, field, kind = SELECT[name]
    request = select_request(shop, **change(shop))
    with pytest.raises(ServingError) as caught:
        caller.send_select(request)
    assert type(caught.value) is kind and caught.value.field == field, caught.value
    assert str(caught.value).startswith(f"{field}: ") and ";" in str(caught.value)
    (result,) = caller.send_select_batch([request])
    assert (result.error.code, result.error.field) == (grpc.StatusCode[kind.code].value[0], field)


def test_a_unit_is_never_shown_in_an_error(caller: PolicyClient, shop: TaskPolicy) -> None:
    with pytest.raises(RequestRefused) as caught:
        caller.send_select(select_request(shop, unit_id="personal\0"))
    assert "personal" not in str(caught.value)


@pytest.mark.parametrize("method", ["Select", "SelectBatch", "Assign", "Feedback", "GetPolicy"])
@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x0a\x7f", b"\x12\x02\xc3\x28"], ids=["noise", "truncated", "no UTF-8"])
def test_garbage_is_an_invalid_argument(channel: grpc.Channel, method: str, garbage: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/slateloop.v1.PolicyService/{method}")(garbage, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/slateloop.v1.PolicyService/Delete")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_limit_is_refused(caller: PolicyClient, shop: TaskPolicy) -> None:
    with pytest.raises(errors.Overloaded):
        caller.send_select(select_request(shop, unit_id="x" * (1 << 17)))


def test_what_unpacks_beyond_the_limit_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/slateloop.v1.PolicyService/Select")(bytes(4 << 20), timeout=20, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_metadata_beyond_the_limit_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/slateloop.v1.PolicyService/Select")(b"", timeout=20, metadata=[("x-large", "x" * 20_000)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_log_that_is_closed_is_unavailable_and_nothing_else_is(server: Server, caller: PolicyClient, shop: TaskPolicy) -> None:
    guard = server._guards["decisions"]
    guard.reason, guard._next_s = "log: full", float("inf")
    try:
        with pytest.raises(errors.Unavailable, match="log: full"):
            caller.send_select(select_request(shop))
        assert caller.policy("shop").policy == "uniform"
    finally:
        guard.reason, guard._next_s = "", 0.0
        # As the next append does, or the next heartbeat: here nothing may stand in the log.
        with server._log_health["decisions"].watched():
            pass


def test_reflection_is_off(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([b""]), timeout=5))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("requests", [0, 1025])
def test_a_batch_has_one_to_1024_requests(caller: PolicyClient, requests: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        caller.send_select_batch([SelectRequest(request_id="r")] * requests)
    assert caught.value.field == "requests"


def test_no_more_of_a_batch_than_32_ask_for_reasons(caller: PolicyClient, shop: TaskPolicy) -> None:
    """Each decides a row a feature: a thousand would hold everybody else up for seconds."""
    with pytest.raises(RequestRefused, match="ask for reasons") as caught:
        caller.send_select_batch([select_request(shop, explain=True)] * 33)
    assert caught.value.field == "requests"


def reward(**given: Any) -> Event:
    sound = {
        "event_id": "e",
        "task": "shop",
        "decision_id": bytes(16),
        "unit_id": "u",
        "event_time_us": NOW_US,
        "name": "buy",
        "value": 1.0,
    }
    return Event(reward=Reward(**{**sound, **given}))


def impression(**given: Any) -> Event:
    sound = {"event_id": "e", "task": "shop", "decision_id": bytes(16), "unit_id": "u", "event_time_us": NOW_US}
    return Event(impression=Impression(**{**sound, **given}))


def fallback(**given: Any) -> Event:
    slots = [Slot(action="a", numerator=1 << 31, propensity=1.0)]
    sound = {"task": "shop", "decision_id": bytes(16), "unit_id": "u", "request_id": "r", "event_time_us": NOW_US, "fallback": 3}
    return Event(decision=Decision(**{**sound, "slots": slots, **given}))


FEEDBACK: dict[str, tuple[Event, str]] = {
    "empty event": (Event(), "events[1]"),
    "no event id": (reward(event_id=""), "events[1].reward.event_id"),
    "no unit": (impression(unit_id=""), "events[1].impression.unit_id"),
    "no name": (reward(name=""), "events[1].reward.name"),
    "no value": (Event(reward=Reward(event_id="e", task="shop", unit_id="u", event_time_us=1, name="buy")), "events[1].reward.value"),
    "NaN value": (reward(value=float("nan")), "events[1].reward.value"),
    "no time": (reward(event_time_us=0), "events[1].reward.event_time_us"),
    "a time in the far future": (reward(event_time_us=1 << 62), "events[1].reward.event_time_us"),
    "a short decision id": (reward(decision_id=b"1"), "events[1].reward.decision_id"),
    "no decision id": (impression(decision_id=b""), "events[1].impression.decision_id"),
    "unknown task": (impression(task="shoppe"), "task"),
    "a slot beyond all": (impression(seen=[SeenSlot(slot=64, action="a")]), "events[1].impression.seen[0].slot"),
    "a seen slot without action": (impression(seen=[SeenSlot(slot=0)]), "events[1].impression.seen[0].action"),
    "unknown stream": (Event(heartbeat=Heartbeat(source="clicks", event_time_us=NOW_US)), "events[1].heartbeat.source"),
    "negative partition": (
        Event(heartbeat=Heartbeat(source="rewards", partition=-1, event_time_us=NOW_US)),
        "events[1].heartbeat.partition",
    ),
    "signal without name": (Event(signal=Signal(event_id="e", unit_id="u", event_time_us=NOW_US)), "events[1].signal.name"),
    "a decision that is no fallback": (fallback(fallback=0), "events[1].decision.fallback"),
    "a fallback without slots": (fallback(slots=[]), "events[1].decision.slots"),
    "a propensity above one": (
        fallback(slots=[Slot(action="a", numerator=(1 << 31) + 1, propensity=1.0)]),
        "events[1].decision.slots[0].propensity",
    ),
    "a propensity that is not its numerator": (
        fallback(slots=[Slot(action="a", numerator=1 << 30, propensity=0.4)]),
        "events[1].decision.slots[0].propensity",
    ),
}


@pytest.mark.parametrize("name", FEEDBACK)
def test_one_bad_event_refuses_the_whole_call(name: str, caller: PolicyClient) -> None:
    event, field = FEEDBACK[name]
    with pytest.raises(RequestRefused) as caught:
        caller.send_feedback([reward(), event])
    assert caught.value.field == field, caught.value


@pytest.mark.parametrize("count", [0, 10_001])
def test_feedback_has_one_to_10000_events(caller: PolicyClient, count: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        caller.send_feedback([Event()] * count)
    assert caught.value.field == "events"


def test_a_policy_of_an_unknown_task_is_not_found(caller: PolicyClient) -> None:
    with pytest.raises(NotFound, match="did you mean `shop`"):
        caller.policy("shoppe")


# What is wrong with an AssignRequest, the field at fault, and the error.
ASSIGN: dict[str, tuple[dict[str, Any], str, type[ServingError]]] = {
    "no task": ({"task": ""}, "task", RequestRefused),
    "unknown task": ({"task": "shoppe"}, "task", NotFound),
    "task of another tenant": ({"task": "ranked"}, "task", NotFound),
    "long tenant": ({"tenant": TOO_LONG}, "tenant", RequestRefused),
    "no unit": ({"unit_id": ""}, "unit_id", RequestRefused),
    "long unit": ({"unit_id": TOO_LONG}, "unit_id", RequestRefused),
    "NUL in unit": ({"unit_id": "a\0b"}, "unit_id", RequestRefused),
}


@pytest.mark.parametrize("name", ASSIGN)
def test_a_bad_assign_is_refused_with_its_code_and_field(name: str, channel: grpc.Channel, server: Server) -> None:
    change, field, kind = ASSIGN[name]
    request = AssignRequest(**{"task": "shop", "unit_id": "u", **change})
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/slateloop.v1.PolicyService/Assign")(request.SerializeToString(), timeout=5)
    error = error_of(caught.value, address=server.address)
    assert type(error) is kind and error.field == field, error
    assert str(error).startswith(f"{field}: ") and ";" in str(error)


class Failed(grpc.RpcError):
    """A failed call as grpc hands it to a client."""

    def __init__(self, code: grpc.StatusCode, details: str, status: bytes = b"") -> None:
        self._code, self._details, self._status = code, details, status

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        return [("grpc-status-details-bin", self._status)] if self._status else []


def all_errors(root: type[ServingError] = ServingError) -> list[type[ServingError]]:
    return [root, *(found for kind in root.__subclasses__() for found in all_errors(kind))]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_a_status_and_comes_back_as_its_kind(kind: type[ServingError]) -> None:
    error = kind("field: text", field="field") if issubclass(kind, RequestRefused) else kind("text")
    status = status_of(error)
    assert status.code == grpc.StatusCode[kind.code].value[0] and status.message == str(error)
    back = error_of(Failed(grpc.StatusCode[kind.code], status.message, status.SerializeToString()), address="here:1")
    assert back.code == kind.code and back.field == error.field and str(back) == str(error)


def test_every_foreign_status_becomes_an_error_of_the_tree() -> None:
    for code in grpc.StatusCode:
        assert isinstance(error_of(Failed(code, "text"), address="here:1"), ServingError)


class TenDays:
    """A call whose caller waits for ten days."""

    def time_remaining(self) -> float:
        return 864_000.0


def test_the_longest_wait_is_a_second_whatever_the_caller_says() -> None:
    cap_s = ServerConfig().deadline_cap_s
    handler = CallHandler({}, deadline_cap_s=cap_s, max_streams=1, new_error_id=lambda: "the-id")
    handler._check_wait(time.monotonic() - 0.5, TenDays())
    with pytest.raises(DeadlineExceeded, match=r"deadline_cap_s is 1\.0"):
        handler._check_wait(time.monotonic() - 1.001, TenDays())


def test_a_bug_is_an_opaque_id_outside_and_its_text_inside(caplog: pytest.LogCaptureFixture) -> None:
    handler = CallHandler({}, deadline_cap_s=1.0, max_streams=1, new_error_id=lambda: "the-id")
    error = handler._known(ZeroDivisionError("secret"), "/method")
    assert isinstance(error, ServerFault) and "the-id" in str(error) and "secret" not in str(error)
    assert "the-id" in caplog.text and "secret" in caplog.text
