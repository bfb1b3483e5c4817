"""SIGKILL under load: acknowledged decisions and exposures stand in the log. The same checker finds the loss of a writer that buffers."""

import functools
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from bandits.config import TaskPolicy
from protos.events_pb2 import Decision, Event
from protos.framing import Record
from protos.log_files import FEEDBACK, segment_path
from protos.policy_pb2 import SelectResponse
from serving.client import PolicyClient
from serving.decision_log import LogWriter, stamp_decision
from serving.replay import replay_logs
from tests.serving.kit import ROOT, TASK, Process, hammer, hammered, records_of

KILLS = 2


def lost(acknowledged: Iterable[bytes], log: Path) -> int:
    """How many acknowledged decisions do not stand in the log."""
    events = (Event.FromString(item.payload) for item in records_of(log) if isinstance(item, Record))
    return len(set(acknowledged) - {event.decision.decision_id for event in events})


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    """The one task `shop`, decided by the policy that starts fastest: what is killed here is a log."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "shop.yaml").write_text(yaml.safe_dump({**TASK, "policy": {"name": "uniform", "floor": 1.0, "slate_size": 3}}))
    return folder


@pytest.fixture
def process(tmp_path: Path, task_folder: Path, compilation_cache: Path, front: str) -> Process:
    """A server of that task."""
    return Process(tmp_path, task_folder, compilation_cache, "--front", front)


# `serving` as it must not be: an append returns before the kernel has the record, which follows 50 ms later.
BUFFERED = """
import os, threading, time
from serving.decision_log import LogWriter

held = []

def write_later():
    while True:
        time.sleep(0.05)
        waiting, held[:] = held[:], []
        for descriptor, data in waiting:
            os.write(descriptor, data)

threading.Thread(target=write_later, daemon=True).start()
LogWriter._write = lambda writer, segment, data: held.append((segment.descriptor, data))
from serving.__main__ import main
main()
"""


def killed_under_load(process: Process, shop: TaskPolicy, *, kill: int) -> list[bytes]:
    """Decisions that a server acknowledged until it was killed, after some calls; every second time it answers batches of two."""
    address, calls = process.start(), iter(range(40 + 9 * (kill % 20)))
    answers, errors = hammer(address, shop, workers=4, until=functools.partial(killed, process, calls), batch=1 + kill % 2)
    assert errors
    return [answer.decision_id for answer in answers if isinstance(answer, SelectResponse)]


def killed(process: Process, calls: Iterator[int]) -> bool:
    """Kills the server before the first call that is one too many."""
    if next(calls, None) is None:
        process.end(signal.SIGKILL)
    return False


@pytest.mark.parametrize("kills", [KILLS, pytest.param(50, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_or_ended_has_logged_what_it_acknowledged(
    kills: int, process: Process, tmp_path: Path, shop: TaskPolicy
) -> None:
    acknowledged: list[bytes] = []
    for kill in range(kills):
        acknowledged += killed_under_load(process, shop, kill=kill)
    answers, errors = hammer(process.start(), shop, workers=1, until=iter([False] * 5 + [True]).__next__)
    assert not errors and process.end(signal.SIGTERM) == 0
    acknowledged += [answer.decision_id for answer in answers]
    assert len(acknowledged) > 100 and lost(acknowledged, tmp_path / "logs" / "decisions") == 0
    report = replay_logs(tmp_path / "logs", store=tmp_path / "store")
    assert report.sound and report.decisions >= len(set(acknowledged))


@pytest.mark.parametrize("kills", [KILLS, pytest.param(50, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_has_logged_the_exposures_of_the_arms_that_it_told(
    kills: int, process: Process, tmp_path: Path, task_folder: Path
) -> None:
    task = yaml.safe_load((task_folder / "shop.yaml").read_text())
    arms = {"one": {"segments": [0, 10_000], "arms": {"a": {"share": 0.5}, "b": {"share": 0.5}}}}
    (task_folder / "shop.yaml").write_text(yaml.safe_dump({**task, "traffic": {"experiments": arms}}))
    units, told = map(str, itertools.count()), []

    def ask(client: PolicyClient) -> list[str]:
        unit = next(units)
        assert client.assign("shop", unit_id=unit).exposed
        return [unit]

    for kill in range(kills):
        address, calls = process.start(), iter(range(40 + 9 * (kill % 20)))
        answers, errors = hammered(address, ask, workers=4, until=functools.partial(killed, process, calls))
        assert errors
        told += answers
    events = (Event.FromString(item.payload) for item in records_of(tmp_path / "logs" / FEEDBACK) if isinstance(item, Record))
    assert len(told) > 100 and not set(told) - {event.signal.unit_id for event in events}


@pytest.mark.slow
def test_the_checker_finds_what_a_server_that_buffers_loses(
    tmp_path: Path, task_folder: Path, compilation_cache: Path, shop: TaskPolicy, front: str
) -> None:
    process = Process(tmp_path, task_folder, compilation_cache, "--front", front, program=("-c", BUFFERED))
    acknowledged = [name for kill in range(3) for name in killed_under_load(process, shop, kill=kill)]
    assert 0 < lost(acknowledged, tmp_path / "logs" / "decisions") < len(set(acknowledged))


def test_the_checker_finds_what_a_buffering_writer_loses(tmp_path: Path) -> None:
    """A writer that acknowledges before its buffer is written, killed: the known-bad case of `lost`."""
    path = segment_path(tmp_path, 0)
    code = f"""
import os, signal
from protos.events_pb2 import Decision, Event
from protos.framing import frame
file = open({str(path)!r}, "ab", buffering=4096)
for number in range(200):
    file.write(frame(Event(decision=Decision(decision_id=number.to_bytes(16, "little"))).SerializeToString()))
    print(number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    acknowledged = [int(line).to_bytes(16, "little") for line in ended.stdout.split()]
    assert ended.returncode == -signal.SIGKILL and len(acknowledged) == 200
    assert 0 < lost(acknowledged, tmp_path) < 200


def test_the_checker_finds_nothing_amiss_in_a_whole_log(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, stamp=stamp_decision, now_us=lambda: 1, segment_bytes=1 << 20, sync_s=0.001)
    writer.append([Event(decision=Decision(decision_id=bytes(16)))])
    assert lost([bytes(16)], tmp_path) == 0 and lost([b"1" * 16], tmp_path) == 1
    writer.close()
