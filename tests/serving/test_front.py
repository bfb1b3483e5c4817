"""The native front end by itself: batches, limits, and callers that mean harm. What it has in common with grpcio is tested with that."""

import itertools
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from bandits.config import TaskPolicy
from bandits.first import ensure_champion
from bandits.store import Store
from protos.events_pb2 import Event
from protos.policy_pb2 import AssignRequest, AssignResponse, GetPolicyRequest, SelectRequest, SelectResponse
from serving import engine, native
from serving.calls import Arrived, CallHandler
from serving.client import PolicyClient
from serving.errors import RequestRefused, ServerFault
from serving.server import Server
from tests.serving.kit import FRONTS, native_only, records_of, select_request, serving_from
from tests.serving.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    RawConnection,
    call_headers,
)

pytestmark = native_only
SELECT, ASSIGN = "/slateloop.v1.PolicyService/Select", "/slateloop.v1.PolicyService/Assign"
ENHANCE_YOUR_CALM, NO_ERROR = 11, 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> Iterator[Server]:
    """One native server: whatever a test does to it, the next finds it well."""
    with serving_from(tmp_path_factory.mktemp("front"), tasks, front="native", deadline_cap_s=2.0, max_concurrent_rpcs=64) as running:
        yield running


@pytest.fixture(autouse=True)
def _serves_on(server: Server, shop: TaskPolicy) -> Iterator[None]:
    yield
    with PolicyClient(server.address) as caller:
        assert caller.send_select(select_request(shop)).logged
    assert server._grpc._front.running == 0


def framed(message: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(message)) + message


def goaway_of(connection: RawConnection) -> int:
    """The error of the GOAWAY with which the server closes."""
    (last,) = [frame for frame in connection.frames() if frame.kind == GOAWAY][-1:]
    return int.from_bytes(last.payload[4:8], "big")


def test_both_fronts_log_and_answer_the_same_bytes(tmp_path: Path, tasks: Path, shop: TaskPolicy) -> None:
    requests = [select_request(shop, unit=f"u{number % 3}", request_id=f"r{number}", explain=number % 5 == 0) for number in range(40)]
    found: dict[str, Any] = {}
    for front, folder in (("grpcio", "a"), ("native", "b")):
        ensure_champion(Store(tmp_path / folder / "store", "shop"), shop, now_us=1, actor="test")
        with serving_from(tmp_path / folder, tasks, front=front) as running, PolicyClient(running.address) as caller:
            answers = [caller.send_select(request).SerializeToString(deterministic=True) for request in requests]
        events = [Event.FromString(record.payload) for record in records_of(tmp_path / folder / "logs" / "decisions")]
        for event in events:
            event.decision.event_time_us = event.append_time_us = 0
        found[front] = answers, [event.SerializeToString(deterministic=True) for event in events]
    assert found["native"] == found["grpcio"] and len(found["native"][1]) == 40 and len(FRONTS) == 2


class Held:
    """Holds the answering of the first batch until `release`, and notes the sizes of all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.begun, self._free = threading.Event(), threading.Event()
        answer_all = CallHandler.answer_all

        def holding(handler: CallHandler, name: str, arrived: Arrived, **given: Any) -> Any:
            self.sizes.append(len(arrived.messages))
            if not self.begun.is_set():
                self.begun.set()
                assert self._free.wait(30)
            return answer_all(handler, name, arrived, **given)

        monkeypatch.setattr(CallHandler, "answer_all", holding)

    def release(self) -> None:
        self._free.set()


def calls_of(address: str, requests: Sequence[SelectRequest | AssignRequest]) -> tuple[list[Any], Callable[[], None]]:
    """Calls in flight: their futures, and what closes their channel."""
    channel = grpc.insecure_channel(address)
    methods = {SelectRequest: channel.unary_unary(SELECT), AssignRequest: channel.unary_unary(ASSIGN)}
    return [methods[type(request)].future(request.SerializeToString(), timeout=30) for request in requests], channel.close


def wait_until_running(server: Server, count: int) -> None:
    """Returns when so many calls run or wait; a counter of the front tells."""
    wait_until(lambda: server._grpc._front.running >= count)


def wait_until(holds: Callable[[], bool]) -> None:
    """Returns when something holds."""
    turn = threading.Event()
    for _ in range(3_000):
        if holds():
            return
        turn.wait(0.01)
    raise AssertionError("not within half a minute")


def test_calls_that_come_while_a_batch_is_decided_are_the_next_batch(
    server: Server, shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    first, close_first = calls_of(server.address, [select_request(shop)])
    assert held.begun.wait(30)
    later, close_later = calls_of(server.address, [select_request(shop, unit=str(number)) for number in range(20)])
    wait_until_running(server, 21)
    held.release()
    assert all(call.result() for call in (*first, *later)) and held.sizes == [1, 20]
    close_first(), close_later()


def test_calls_of_two_methods_that_wait_together_are_a_batch_of_each(
    server: Server, shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    first, close_first = calls_of(server.address, [AssignRequest(task="shop", unit_id="u")])
    assert held.begun.wait(30)
    assigns = [AssignRequest(task="shop", unit_id=str(number) * (number != 3)) for number in range(12)]
    mixed = [*[select_request(shop)] * 7, *assigns[:6], *[select_request(shop)] * 2, *assigns[6:]]
    later, close_later = calls_of(server.address, mixed)
    wait_until_running(server, 1 + len(mixed))
    held.release()
    refused = [place for place, call in enumerate([*first, *later]) if call.code() is not grpc.StatusCode.OK]
    assert held.sizes == [1, 9, 12] and refused == [1 + mixed.index(assigns[3])]
    kinds = {SelectRequest: SelectResponse, AssignRequest: AssignResponse}
    answered = [(request, call) for request, call in zip(mixed, later, strict=True) if request is not assigns[3]]
    assert all(kinds[type(request)].FromString(call.result()).policy == "uniform" for request, call in answered)
    close_first(), close_later()


@pytest.mark.parametrize("method", ["Select", "Assign"])
def test_a_call_too_many_is_shed_and_its_place_is_free_again(
    method: str, server: Server, shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    request = select_request(shop) if method == "Select" else AssignRequest(task="shop", unit_id="u")
    first, close_first = calls_of(server.address, [request] * 64)
    assert held.begun.wait(30)
    wait_until_running(server, 64)
    (shed,), close_shed = calls_of(server.address, [request])
    assert shed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "max_concurrent_rpcs" in shed.details()
    held.release()
    assert all(call.result() for call in first)
    close_first(), close_shed()


def test_a_request_that_breaks_the_engine_breaks_it_for_nobody_else(
    server: Server, shop: TaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = engine.decide

    def breaking(asked: Any) -> Any:
        if any(item.selection.unit_id == "poison" for item in asked):
            raise ZeroDivisionError("secret")
        return decide(asked)

    monkeypatch.setattr("serving.engine.decide", breaking)
    # Explained, they are the engine's to answer.
    asked = [select_request(shop, unit=unit, request_id=unit, explain=True) for unit in ("a", "poison", "b")]
    calls, close = calls_of(server.address, asked)
    assert [call.code() for call in calls] == [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.OK]
    close()
    with PolicyClient(server.address) as caller, pytest.raises(ServerFault) as caught:
        caller.send_select(select_request(shop, unit="poison", request_id="again", explain=True))
    assert "secret" not in str(caught.value)


def test_errors_of_a_whole_batch_are_each_its_own(server: Server, shop: TaskPolicy) -> None:
    with PolicyClient(server.address) as caller, pytest.raises(RequestRefused) as caught:
        caller.send_select(select_request(shop, unit="ü\n%" * 60))
    assert caught.value.field == "unit_id"


def test_a_rapid_reset_closes_the_connection(server: Server) -> None:
    with RawConnection(server.address) as connection:
        try:
            for number in range(20_000):
                stream = 2 * number + 1
                connection.send(HEADERS, call_headers(SELECT), flags=END_HEADERS, stream=stream)
                connection.send(RST_STREAM, struct.pack(">I", 8), stream=stream)
        except ConnectionError:
            return
        assert goaway_of(connection) == ENHANCE_YOUR_CALM


def test_endless_continuations_close_the_connection(server: Server) -> None:
    filler = call_headers(SELECT, x="y" * 100)
    with RawConnection(server.address) as connection:
        connection.send(HEADERS, filler, flags=0, stream=1)
        try:
            for _ in range(200_000):
                connection.send(CONTINUATION, filler, stream=1)
        except ConnectionError:
            return
        raise AssertionError("200,000 frames of one header block were taken")


def test_empty_continuations_close_the_connection(server: Server) -> None:
    with RawConnection(server.address) as connection:
        connection.send(HEADERS, call_headers(SELECT), flags=0, stream=1)
        try:
            for _ in range(1_000_000):
                connection.send(CONTINUATION, b"", stream=1)
        except ConnectionError:
            return
        raise AssertionError("a million empty frames of one header block were taken")


def headers_of(connection: RawConnection, stream: int) -> bytes:
    """The header block with which the server ends a stream."""
    for frame in connection.frames():
        if frame.kind == HEADERS and frame.stream == stream and frame.flags & END_STREAM:
            return frame.payload
    raise AssertionError("the connection was closed instead")


def test_a_message_that_never_comes_gives_its_place_back(tmp_path: Path, tasks: Path) -> None:
    with (
        serving_from(tmp_path, tasks, front="native", deadline_cap_s=0.05, max_concurrent_rpcs=1) as slow,
        RawConnection(slow.address) as connection,
    ):
        connection.send(HEADERS, call_headers(SELECT), flags=END_HEADERS, stream=1)
        connection.send(DATA, framed(bytes(100))[:50], stream=1)
        assert b"deadline_cap_s" in headers_of(connection, 1) or slow._grpc._front.running == 0


def test_a_stream_that_never_begins_gives_its_place_back(tmp_path: Path, tasks: Path) -> None:
    with serving_from(tmp_path, tasks, front="native", deadline_cap_s=0.05, max_concurrent_rpcs=1) as slow:
        for method in ("Feedback", "SelectBatch"):
            with RawConnection(slow.address) as connection:
                connection.send(HEADERS, call_headers(f"/slateloop.v1.PolicyService/{method}"), flags=END_HEADERS, stream=1)
                assert headers_of(connection, 1)
        wait_until(lambda: slow._grpc._front.running == 0)


def test_messages_that_come_at_once_hold_no_more_memory_than_they_may(tmp_path: Path, tasks: Path) -> None:
    """Sixteen of the largest may wait for their ends; who is one too many is refused, and nobody else."""
    with (
        serving_from(tmp_path, tasks, front="native", max_message_bytes=1 << 10, deadline_cap_s=30.0) as small,
        RawConnection(small.address) as connection,
    ):
        for stream in range(1, 42, 2):
            connection.send(HEADERS, call_headers(SELECT), flags=END_HEADERS, stream=stream)
            connection.send(DATA, framed(bytes(1 << 10))[:1000], stream=stream)
        refused = (frame.stream for frame in connection.frames() if frame.kind == HEADERS)
        assert len(set(itertools.islice(refused, 5))) == 5  # which of them came too late is chance: each call is a task of its own
        assert small._grpc._front.running == 16


def test_a_stream_that_is_open_at_the_end_keeps_no_thread(tmp_path: Path, tasks: Path, shop: TaskPolicy) -> None:
    with serving_from(tmp_path, tasks, front="native", drain_grace_s=0.0) as running, grpc.insecure_channel(running.address) as channel:
        more = threading.Event()
        requests = itertools.chain([select_request(shop).SerializeToString()], iter(more.wait, True))
        answers = channel.stream_stream("/slateloop.v1.PolicyService/SelectStream")(requests)
        assert next(answers)
        running.drain()
        ending = threading.Thread(target=running._grpc._pool.shutdown)
        ending.start()
        ending.join(20.0)
        more.set()
        assert not ending.is_alive()


@pytest.mark.slow
def test_a_caller_that_takes_no_answer_is_let_go(server: Server) -> None:
    """Its window is shut; after twenty seconds its place is free."""
    with RawConnection(server.address, timeout_s=60.0) as connection:
        connection.send(SETTINGS, struct.pack(">HI", 4, 0))
        connection.send(HEADERS, call_headers("/slateloop.v1.PolicyService/GetPolicy"), flags=END_HEADERS, stream=1)
        connection.send(DATA, framed(GetPolicyRequest(task="shop").SerializeToString()), flags=END_STREAM, stream=1)
        assert any(frame.kind == RST_STREAM and frame.stream == 1 for frame in connection.frames())


def test_the_stages_of_batches_are_measured(server: Server, shop: TaskPolicy) -> None:
    with PolicyClient(server.address) as caller:
        assert caller.send_select(select_request(shop)).logged
    for stage in ("wait", "answer", "send"):
        counted = server.metrics.registry.get_sample_value("slateloop_front_seconds_count", {"stage": stage})
        assert counted is not None and counted >= 1


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0", framed(b"")[:-1], framed(b"x")[:-1], b"\x02" + framed(b"")[1:], framed(b"") * 2],
    ids=["none", "half a prefix", "no length", "cut", "a flag", "two"],
)
def test_a_call_that_is_not_one_message_is_refused_by_name(server: Server, body: bytes) -> None:
    with RawConnection(server.address) as connection:
        connection.send(HEADERS, call_headers(SELECT), flags=END_HEADERS, stream=1)
        connection.send(DATA, body, flags=END_STREAM, stream=1)
        assert headers_of(connection, 1)
        connection.send(HEADERS, call_headers(SELECT), flags=END_HEADERS | END_STREAM, stream=3)
        assert headers_of(connection, 3)


def test_what_is_no_call_of_grpc_is_answered_by_http(server: Server) -> None:
    with RawConnection(server.address) as connection:
        connection.send(HEADERS, call_headers("/", content_type="text/plain"), flags=END_HEADERS | END_STREAM, stream=1)
        assert next(frame for frame in connection.frames() if frame.kind == DATA).payload.startswith(b"gRPC")


def decided(server: Server) -> float | None:
    return server.metrics.registry.get_sample_value("slateloop_decisions_total")


def test_a_passed_deadline_is_not_decided(server: Server, shop: TaskPolicy) -> None:
    before = decided(server)
    with RawConnection(server.address) as connection:
        connection.send(HEADERS, call_headers(SELECT, grpc_timeout="1n"), flags=END_HEADERS, stream=1)
        connection.send(DATA, framed(select_request(shop).SerializeToString()), flags=END_STREAM, stream=1)
        assert headers_of(connection, 1)
    assert decided(server) == before


def test_a_second_start_is_refused(server: Server) -> None:
    with pytest.raises(RuntimeError, match="start"):
        server._grpc._front.start()


@pytest.mark.parametrize("limit", [{"max_idle_s": 0.05}, {"max_age_s": 0.05}], ids=["idle", "old"])
def test_a_connection_that_is_idle_or_old_is_closed_without_an_error(limit: dict[str, float], server: Server) -> None:
    about: dict[str, Any] = {"max_message_bytes": 1 << 20, "max_metadata_bytes": 1 << 14, "max_concurrent_rpcs": 8, "deadline_cap_s": 5.0}
    front = native.front().Front(gathered=[("/a.B/Echo", 8)], with_metadata=False, **about, **limit)
    port = front.bind("127.0.0.1:0")
    thread = threading.Thread(target=front.run, args=([lambda messages, *_: messages], print))
    thread.start()
    front.start()
    with RawConnection(f"127.0.0.1:{port}") as connection:
        assert goaway_of(connection) == NO_ERROR
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert channel.unary_unary("/a.B/Echo")(b"said", timeout=20) == b"said"
    front.stop(1.0)
    thread.join()


@pytest.mark.parametrize("change", [{"deadline_cap_s": -1.0}, {"deadline_cap_s": float("nan")}])
def test_settings_that_are_none_are_refused_by_name(server: Server, change: dict[str, float]) -> None:
    about: dict[str, Any] = {"max_message_bytes": 1, "max_metadata_bytes": 1, "max_concurrent_rpcs": 1, "deadline_cap_s": 1.0, **change}
    with pytest.raises(ValueError, match="deadline_cap_s"):
        native.front().Front(gathered=[("/a.B/C", 1)], with_metadata=False, **about)
