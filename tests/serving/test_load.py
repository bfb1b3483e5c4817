"""Servers under load, overload, reloads and SIGTERM: what is counted, not how fast it was (that is tests/bench/serving.py)."""

import functools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from bandits.config import TaskPolicy
from bandits.first import ensure_champion
from bandits.store import Store
from protos.events_pb2 import Event
from protos.framing import Record
from protos.log_files import DECISIONS
from protos.policy_pb2 import SelectRequest, SelectResponse
from serving.replay import replay_logs
from tests.bench.peers.open_loop import open_loop
from tests.serving.kit import Process, hammer, promote, publish, records_of, select_request

pytestmark = pytest.mark.slow
SELECT = "/slateloop.v1.PolicyService/Select"


class Answered(NamedTuple):
    """What callers saw: decision ids that were acknowledged, and the calls that failed, by status."""

    ids: list[bytes]
    codes: list[str]


@pytest.fixture
def start(tmp_path: Path, tasks: Path, compilation_cache: Path, front: str) -> Iterator[Callable[..., tuple[Process, str]]]:
    """Starts a server process of the one task `shop`, with flags."""
    (tmp_path / "tasks").mkdir()
    shutil.copy(tasks / "shop.yaml", tmp_path / "tasks")
    running: list[Process] = []

    def started(*flags: str) -> tuple[Process, str]:
        process = Process(tmp_path, tmp_path / "tasks", compilation_cache, "--front", front, "--set", "heartbeat_s=3600", *flags)
        running.append(process)
        return process, process.start()

    yield started
    for process in running:
        if process.lives:
            process.end(signal.SIGTERM)


def logged(folder: Path) -> list[bytes]:
    """Ids of the decisions that stand in the log."""
    events = (Event.FromString(item.payload) for item in records_of(folder / "logs" / DECISIONS) if isinstance(item, Record))
    return [event.decision.decision_id for event in events if event.HasField("decision")]


def capacity(address: str, shop: TaskPolicy) -> float:
    """Calls a second of a closed loop."""
    until = time.monotonic() + 2.0
    answers, errors = hammer(address, shop, workers=8, until=lambda: time.monotonic() > until)
    assert not errors
    return len(answers) / 2.0


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_poisson_arrivals_below_capacity_are_all_answered_and_logged(
    share: float, start: Callable[..., tuple[Process, str]], tmp_path: Path, shop: TaskPolicy
) -> None:
    process, address = start("--threads", "16")
    rate = share * capacity(address, shop)
    before = len(logged(tmp_path))
    # Each call without a request id is a decision of its own.
    load = open_loop(address, SELECT, select_request(shop).SerializeToString(), rate=rate, seconds=5.0, core=min(os.sched_getaffinity(0)))
    assert load.failed == 0 and process.end(signal.SIGTERM) == 0
    warming = 32
    assert len(logged(tmp_path)) - before == load.calls + warming


def test_overload_is_shed_by_name_and_the_server_is_well_afterwards(
    start: Callable[..., tuple[Process, str]], tmp_path: Path, shop: TaskPolicy
) -> None:
    process, address = start("--threads", "8", "--set", "max_concurrent_rpcs=8")
    assert crowd(address, shop, callers=4, seconds=1.0).ids
    held = resident_mib(process)
    shed = crowd(address, shop, callers=64, seconds=4.0)
    assert set(shed.codes) == {"RESOURCE_EXHAUSTED"} and len(shed.ids) > 100
    assert crowd(address, shop, callers=4, seconds=1.0).codes == []
    assert resident_mib(process) < 1.1 * held
    assert process.end(signal.SIGTERM) == 0
    assert set(shed.ids) <= set(logged(tmp_path))


def resident_mib(process: Process) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def crowd(address: str, shop: TaskPolicy, *, callers: int, seconds: float) -> Answered:
    """Callers that call one after the other and do not retry."""
    found = Answered([], [])
    until = time.monotonic() + seconds

    def call(number: int) -> None:
        with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
            select = channel.unary_unary(SELECT, SelectRequest.SerializeToString, SelectResponse.FromString)
            while time.monotonic() < until:
                try:
                    found.ids.append(select(select_request(shop, unit=str(number)), timeout=5.0).decision_id)
                except grpc.RpcError as error:
                    found.codes.append(error.code().name)

    together([functools.partial(call, number) for number in range(callers)])
    return found


def together(works: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_twenty_reloads_under_load_fail_no_call_and_every_propensity_is_derived_again(
    start: Callable[..., tuple[Process, str]], tmp_path: Path, shop: TaskPolicy
) -> None:
    store = Store(tmp_path / "store", "shop")
    ensure_champion(store, shop, now_us=1, actor="test")
    digests = [publish(store, shop, seed=seed) for seed in range(2)]
    process, address = start("--set", "poll_s=0.05")
    done = threading.Event()

    def reload() -> None:
        for turn in range(20):
            promote(store, digests[turn % 2])
            time.sleep(0.5)
        done.set()

    reloading = threading.Thread(target=reload)
    reloading.start()
    answers, errors = hammer(address, shop, workers=4, until=done.is_set)
    reloading.join()
    assert not errors and process.end(signal.SIGTERM) == 0
    assert {answer.snapshot_digest for answer in answers} >= set(digests)
    report = replay_logs(tmp_path / "logs", store=tmp_path / "store")
    assert report.sound and report.decisions >= len(answers)


def test_sigterm_under_load_lets_every_call_finish(start: Callable[..., tuple[Process, str]], tmp_path: Path, shop: TaskPolicy) -> None:
    """Twenty times: the standard retry of the client finds the next server; nothing acknowledged is lost, nobody sees an error."""
    acknowledged: list[bytes] = []
    process, address = start()
    for _ in range(20):
        ended: list[int] = []
        until = time.monotonic() + 1.0
        calls: dict[str, Any] = {"workers": 4, "until": lambda until=until: time.monotonic() > until}
        ending = threading.Timer(0.5, lambda ended=ended: ended.append(process.end(signal.SIGTERM)))
        ending.start()
        answers, errors = hammer(address, shop, **calls)
        ending.join()
        # Once the port is closed a call has nowhere to go: that, and nothing else, is what the last ones say.
        assert ended == [0] and {type(error).__name__ for error in errors} <= {"Unavailable", "DeadlineExceeded"}, errors
        acknowledged += [answer.decision_id for answer in answers]
        address = process.start()
    assert process.end(signal.SIGTERM) == 0
    assert len(acknowledged) > 200 and set(acknowledged) <= set(logged(tmp_path))


def test_the_open_loop_counts_what_fails(start: Callable[..., tuple[Process, str]]) -> None:
    """Known bad: a task that is not there."""
    _, address = start()
    load = open_loop(
        address,
        SELECT,
        SelectRequest(task="none", unit_id="u").SerializeToString(),
        rate=50.0,
        seconds=1.0,
        core=min(os.sched_getaffinity(0)),
    )
    assert load.codes == {"NOT_FOUND": load.calls}
