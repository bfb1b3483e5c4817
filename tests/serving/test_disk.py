"""A disk that is full, read-only, or fails to sync, below a running server: nothing is acknowledged, and all is well when it is mended."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bandits.config import TaskPolicy
from protos.events_pb2 import FALLBACK_REASON_LOG_FULL, Event, Reward
from protos.framing import Damage, Record
from protos.policy_pb2 import FeedbackRequest, SelectResponse
from protos.policy_pb2_grpc import PolicyServiceStub
from serving.client import error_of
from serving.errors import Unavailable
from serving.server import Server
from tests.serving.kit import FRONTS, records_of, select_request, serving_from
from tests.serving.test_decision_log import files_limited_to

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
# What a call of the system does to the log's files, and with which error.
Fault = Callable[[pytest.MonkeyPatch], None]


def failing(name: str, number: int) -> Fault:
    """The system's call `name` on a file of the log fails; on any other it does what it did."""

    def put(monkeypatch: pytest.MonkeyPatch) -> None:
        real: Any = getattr(os, name)

        def call(place: Any, *given: Any) -> Any:
            path = str(place) if isinstance(place, str | Path) else str(Path(f"/proc/self/fd/{place}").readlink())
            if "/logs/" in path and path.endswith(".log"):
                raise OSError(number, os.strerror(number))
            return real(place, *given)

        monkeypatch.setattr(os, name, call)

    return put


def on_a_device_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written goes to /dev/full: the kernel's own ENOSPC."""
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if "/logs/" not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            return real(descriptor, data)
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 (a device, as the writer sees it)
            return full.write(data)

    monkeypatch.setattr(os, "write", write)


FAULTS: dict[str, Fault] = {
    "full": on_a_device_that_is_full,
    "no space to write": failing("write", errno.ENOSPC),
    "read-only": failing("write", errno.EROFS),
    "fails to write": failing("write", errno.EIO),
    "fails to sync": failing("fdatasync", errno.EIO),
}


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> Iterator[Server]:
    """One server for all faults: each finds it as healthy as the first did."""
    with serving_from(tmp_path_factory.mktemp("disk"), tasks, front=request.param, sync_ms=0.1) as running:
        yield running


@contextmanager
def broken(fault: Fault) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault(monkeypatch)
        yield


def health(server: Server, service: str = "") -> int:
    with grpc.insecure_channel(server.address) as channel:
        return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


def blocked(server: Server, log: str) -> float | None:
    """What Prometheus is told of a log."""
    return server.metrics.registry.get_sample_value("slateloop_log_blocked", {"log": log})


class Caller:
    """A client that does not try again."""

    def __init__(self, channel: grpc.Channel, address: str, shop: TaskPolicy) -> None:
        self._address = address
        self._stub: Any = PolicyServiceStub(channel)
        self._shop = shop

    def select(self) -> SelectResponse:
        try:
            return self._stub.Select(select_request(self._shop, slate_size=2), timeout=5)
        except grpc.RpcError as error:
            raise error_of(error, address=self._address) from error

    def feed(self, event: Event) -> None:
        try:
            self._stub.Feedback(FeedbackRequest(events=[event]), timeout=5)
        except grpc.RpcError as error:
            raise error_of(error, address=self._address) from error

    def refused(self) -> str:
        """The text of the first refusal; a failed sync shows at the append that follows it."""
        for _ in range(200):
            try:
                self.select()
            except Unavailable as error:
                return str(error)
        raise AssertionError("every decision was acknowledged")

    def answers(self) -> list[SelectResponse]:
        """Those of three tries; the first append after a sync that failed still tells of it."""
        found = []
        for _ in range(3):
            with suppress(Unavailable):
                found.append(self.select())
        return found


@contextmanager
def calling(server: Server, shop: TaskPolicy) -> Iterator[Caller]:
    with grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)]) as channel:
        yield Caller(channel, server.address, shop)


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_acknowledged_while_the_disk_is_broken_and_all_is_well_when_it_is_mended(
    name: str, server: Server, shop: TaskPolicy
) -> None:
    log = server._decisions._log
    with calling(server, shop) as caller:
        acknowledged = [caller.select().decision_id]
        with broken(FAULTS[name]):
            assert "log: decisions" in caller.refused()
            assert health(server) == health(server, "shop") == NOT_SERVING
            assert (blocked(server, "decisions"), blocked(server, "feedback")) == (1.0, 0.0)
        acknowledged += [answer.decision_id for answer in caller.answers()]
        assert health(server) == health(server, "shop") == SERVING and blocked(server, "decisions") == 0.0
    items = records_of(log)
    logged = {Event.FromString(item.payload).decision.decision_id for item in items if isinstance(item, Record)}
    assert len(acknowledged) > 1 and set(acknowledged) <= logged
    assert not any(isinstance(item, Damage) for item in items)


def test_a_disk_without_room_for_a_new_file_is_the_same(server: Server, shop: TaskPolicy) -> None:
    event = Event(reward=Reward(event_id="e", task="shop", unit_id="u", name="n", value=0.0, event_time_us=1))
    with calling(server, shop) as caller:
        with files_limited_to(0):
            assert "log: decisions" in caller.refused() and health(server) == NOT_SERVING
            with pytest.raises(Unavailable, match="log: feedback"):
                caller.feed(event)
            assert blocked(server, "feedback") == 1.0
        assert caller.select().logged and health(server) == SERVING
        caller.feed(event)
        assert (blocked(server, "decisions"), blocked(server, "feedback")) == (0.0, 0.0)


def test_an_idle_server_sees_by_its_heartbeats_that_the_disk_was_mended(server: Server, shop: TaskPolicy) -> None:
    with calling(server, shop) as caller, broken(FAULTS["read-only"]):
        caller.refused()
    assert health(server) == NOT_SERVING
    server._threads[1]._every_s = 0.0
    server._threads[1].beat()
    assert health(server) == SERVING


def test_where_fallbacks_are_wished_they_are_flagged_and_the_server_goes_on_serving(
    tasks: Path, tmp_path: Path, shop: TaskPolicy, front: str
) -> None:
    with serving_from(tmp_path, tasks, front=front, on_log_full="fallback") as server, calling(server, shop) as caller:
        with broken(FAULTS["full"]):
            answers = [caller.select() for _ in range(3)]
            assert health(server) == SERVING
        assert all(answer.fallback == FALLBACK_REASON_LOG_FULL and not answer.logged and not answer.decision_id for answer in answers)
        assert {tuple(slot.action for slot in answer.slots) for answer in answers} == {("a", "b")}
        assert caller.select().logged
        kept = [Event.FromString(item.payload) for item in records_of(server._decisions._log)]
    assert sum(event.HasField("decision") for event in kept) == 1
