"""Several processes behind one port: one log, no answer lost when one is killed, one final heartbeat."""

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from bandits.config import TaskPolicy, parse_task
from bandits.store import Store
from protos import admin_pb2
from protos.admin_pb2_grpc import AdminServiceStub
from protos.events_pb2 import Event, ShadowScores
from protos.framing import Damage, Record
from protos.log_files import DECISIONS, SHADOWS
from protos.task import load_task
from serving.client import PolicyClient
from serving.config import ServerConfig
from serving.errors import LogBusy, ServingError
from serving.workers import Workers
from tests.serving.kit import TASK, Process, hammer, publish, records_of, select_request
from tests.serving.test_admin import verdict
from tests.serving.test_clients import free_address
from tests.serving.test_kill import lost

SILENT = ["sleep", "60"]


@pytest.fixture
def process(tmp_path: Path, tasks: Path, compilation_cache: Path, front: str) -> Process:
    """Two workers of the one task `shop`."""
    (tmp_path / "tasks").mkdir()
    shutil.copy(tasks / "shop.yaml", tmp_path / "tasks")
    flags = ("--front", front, "--workers", "2", "--final-heartbeat", "--set", "heartbeat_s=3600")
    return Process(tmp_path, tmp_path / "tasks", compilation_cache, *flags)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_answer_and_comes_back(process: Process, tmp_path: Path, shop: TaskPolicy) -> None:
    address = process.start()
    first = process.children
    calls = iter(range(200))

    def killed() -> bool:
        number = next(calls, None)
        if number == 60:
            os.kill(first[0], signal.SIGKILL)
        return number is None

    answers, errors = hammer(address, shop, workers=4, until=killed)
    assert not errors and len(answers) >= 200
    within_s(60.0, lambda: len(process.children) == 2 and first[0] not in process.children)
    more, errors = hammer(address, shop, workers=2, until=iter([False] * 20 + [True]).__next__)
    assert not errors and process.end(signal.SIGTERM) == 0
    log = tmp_path / "logs" / DECISIONS
    assert lost([answer.decision_id for answer in [*answers, *more]], log) == 0
    events = [Event.FromString(item.payload) for item in records_of(log) if isinstance(item, Record)]
    beats = [event.heartbeat.final for event in events if event.HasField("heartbeat")]
    assert beats == [True] and events[-1].HasField("heartbeat")
    assert [event.append_time_us for event in events] == sorted(event.append_time_us for event in events)
    assert not [item for item in records_of(log) if isinstance(item, Damage)]


@pytest.mark.slow
def test_a_promotion_by_the_admin_service_reaches_every_worker_and_each_decision_has_its_shadow_once(
    tmp_path: Path, compilation_cache: Path, front: str
) -> None:
    (tmp_path / "tasks").mkdir()
    shadows = {"shadows": {"even": {"policy": {"name": "uniform", "floor": 1.0}}, "old": {"serves": "baseline"}}}
    (tmp_path / "tasks" / "shop.yaml").write_text(yaml.safe_dump({**TASK, "traffic": shadows}))
    shop, admin_address = parse_task(load_task(tmp_path / "tasks" / "shop.yaml")), free_address()
    flags = ("--front", front, "--workers", "2", "--set", "poll_s=0.1", "--set", "heartbeat_s=3600")
    process = Process(tmp_path, tmp_path / "tasks", compilation_cache, *flags, "--set", f"admin_address={admin_address}")
    address = process.start()
    with contextlib.ExitStack() as open_, grpc.insecure_channel(admin_address) as channel:
        # The kernel deals connections out: that one of two workers gets none of 24 happens once in eight million runs.
        clients = [open_.enter_context(PolicyClient(address)) for _ in range(24)]
        answers = [client.send_select(select_request(shop)) for client in clients for _ in range(4)]
        store = Store(tmp_path / "store", "shop")
        before, digest = store.champion(), publish(store, shop, seed=1)
        assert before is not None and {answer.snapshot_digest for answer in answers} == {before.digest}
        quoted = verdict(store, digest)
        promoting = admin_pb2.PromoteRequest(task="shop", verdict=quoted, expected_generation=before.generation)
        assert AdminServiceStub(channel).Promote(promoting, timeout=30).serving == digest

        def everywhere() -> bool:
            told = [client.send_select(select_request(shop)) for client in clients]
            answers.extend(told)
            return {answer.snapshot_digest for answer in told} == {digest}

        within_s(60.0, everywhere)
    assert process.end(signal.SIGTERM) == 0
    decided = sorted(answer.decision_id for answer in answers)
    scored = [ShadowScores.FromString(item.payload) for item in records_of(tmp_path / "logs" / SHADOWS)]
    for name in ("even", "old"):
        ids = b"".join(one.decision_ids for one in scored if one.name == name)
        assert sorted(ids[at : at + 16] for at in range(0, len(ids), 16)) == decided
    times = [one.append_time_us for one in scored]
    assert times == sorted(times)


def within_s(seconds: float, holds: object) -> None:
    """Waits until something holds."""
    assert callable(holds)
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "not within the time"
        time.sleep(0.05)


@contextlib.contextmanager
def workers(logs: Path, *, address: str = "127.0.0.1:0", command: list[str] = SILENT) -> Iterator[Workers]:
    found = Workers(ServerConfig(address=address, workers=2, drain_grace_s=0.0), logs=logs, command=command, now_us=lambda: 1)
    try:
        yield found
    finally:
        found.close()


def test_an_address_where_somebody_listens_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with (
            pytest.raises(ServingError, match=r"address: .* cannot be bound"),
            workers(tmp_path, address=f"127.0.0.1:{other.getsockname()[1]}"),
        ):
            pass


def test_a_second_set_of_workers_on_the_same_logs_is_refused(tmp_path: Path) -> None:
    with workers(tmp_path), pytest.raises(LogBusy, match="another process"), workers(tmp_path):
        pass


def test_a_worker_that_ends_before_it_is_ready_ends_the_start(tmp_path: Path) -> None:
    with workers(tmp_path, command=["false"]) as found, pytest.raises(ServingError, match="worker 0 ended with 1"):
        found.start(threading.Event())
