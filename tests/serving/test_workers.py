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

import pytest

from bandits.config import TaskPolicy
from protos.events_pb2 import Event
from protos.framing import Damage, Record
from protos.log_files import DECISIONS
from serving.config import ServerConfig
from serving.errors import LogBusy, ServingError
from serving.workers import Workers
from tests.serving.kit import Process, hammer, records_of
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
