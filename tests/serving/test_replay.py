"""Replay agrees with every decision that was logged, and finds each thing that was altered."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bandits.config import parse_task
from bandits.first import ensure_champion
from bandits.store import Store
from protos.events_pb2 import CandidateSet, Decision, Event
from protos.framing import frame
from protos.log_files import segment_path, segments
from protos.task import load_task
from serving.client import PolicyClient
from serving.errors import ServingError
from serving.replay import Report, replay_logs
from tests.serving.kit import promote, publish, records_of, select_request, serving_from

DENOMINATOR = 1 << 31


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, tasks: Path) -> Path:
    """Logs of two snapshots, of single requests and batches, with masks and unknown actions; the server has gone."""
    folder, shop = tmp_path_factory.mktemp("replay"), parse_task(load_task(tasks / "shop.yaml"))
    store = Store(folder / "store", "shop")
    candidates = CandidateSet(actions=["a", "c", "new"], eligible=[True, True, False])
    ensure_champion(store, shop, now_us=1)
    promote(store, publish(store, shop, seed=1))
    with serving_from(folder, tasks, poll_s=3600.0) as server, PolicyClient(server.address) as caller:
        caller.select_batch([select_request(shop, unit=str(index)) for index in range(70)])
        caller.send_select(select_request(shop, candidates=candidates, slate_size=2))
        promote(store, publish(store, shop, seed=2))
        server._holders["default", "shop"].refresh()
        caller.select_batch([select_request(shop, slate_size=1 + index % 3) for index in range(30)])
    return folder


@pytest.fixture
def replayed(original: Path, tmp_path: Path) -> Path:
    """A copy, to be altered."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


def replay(folder: Path) -> Report:
    return replay_logs(folder / "logs", store=folder / "store")


def rewrite(folder: Path, position: int, change: Callable[[Decision], None]) -> int:
    """Changes one decision of the log, with a sound frame; its offset."""
    log = folder / "logs" / "decisions"
    events = [Event.FromString(item.payload) for item in records_of(log)]
    change(events[position].decision)
    for _, path in segments(log):
        path.unlink()
    frames = [frame(event.SerializeToString()) for event in events]
    segment_path(log, 0).write_bytes(b"".join(frames))
    return sum(map(len, frames[:position]))


def test_every_logged_decision_comes_out_as_logged(replayed: Path) -> None:
    report = replay(replayed)
    assert report.sound and report.decisions == 101
    assert report.as_dict()["replay_draws"] == report.as_dict()["replay_propensities"] == 1.0


def test_one_task_can_be_replayed_alone(replayed: Path) -> None:
    assert replay_logs(replayed / "logs", store=replayed / "store", task="other").as_dict()["replay_draws"] is None


def other_numerator(decision: Decision) -> None:
    decision.slots[0].numerator += int(1e-5 * DENOMINATOR)
    decision.slots[0].propensity = decision.slots[0].numerator / DENOMINATOR


def other_propensity(decision: Decision) -> None:
    decision.slots[0].propensity *= 1.001


def no_numerator(decision: Decision) -> None:
    decision.slots[0].numerator = 0


def other_order(decision: Decision) -> None:
    first, second = decision.slots[0].action, decision.slots[1].action
    decision.slots[0].action, decision.slots[1].action = second, first


def foreign_item(decision: Decision) -> None:
    decision.slots[0].action = "z"


def twice(decision: Decision) -> None:
    decision.slots[1].action = decision.slots[0].action


def other_context(decision: Decision) -> None:
    decision.context = bytes(len(decision.context))


def other_request(decision: Decision) -> None:
    decision.request_id += "x"


def unknown_snapshot(decision: Decision) -> None:
    from bandits.keys import decision_id

    decision.snapshot_digest = "0" * 64
    decision.decision_id = decision_id(
        tenant=decision.tenant, task=decision.task, request_id=decision.request_id, arm=decision.arm, snapshot_digest="0" * 64
    )


def unforced(decision: Decision) -> None:
    del decision.candidates.actions[:]
    decision.candidates.actions.extend(slot.action for slot in decision.slots)


ALTERED = {
    other_numerator: {"propensity"},
    other_propensity: {"record"},
    no_numerator: {"record"},
    other_order: {"draw", "propensity"},
    foreign_item: {"record"},
    twice: {"record"},
    other_context: {"propensity", "draw"},
    other_request: {"record"},
    unknown_snapshot: {"snapshot"},
    unforced: {"record"},
}


@pytest.mark.parametrize("change", ALTERED, ids=lambda change: change.__name__)
def test_an_altered_record_is_found_at_its_position(replayed: Path, change: Callable[[Decision], None]) -> None:
    offset = rewrite(replayed, 33, change)
    report = replay(replayed)
    assert not report.sound and {fault.offset for fault in report.faults} == {offset}
    assert {fault.kind for fault in report.faults} <= ALTERED[change]
    shares = report.as_dict()
    assert min(shares["replay_draws"], shares["replay_propensities"]) < 1.0


def test_a_flipped_byte_is_damage_at_its_position(replayed: Path) -> None:
    log = replayed / "logs" / "decisions"
    start = records_of(log)[5].start
    path = segments(log)[0][1]
    data = bytearray(path.read_bytes())
    data[start + 40] ^= 4
    path.write_bytes(data)
    report = replay(replayed)
    assert not report.sound and [fault.offset for fault in report.damages] == [start] and report.decisions == 100


def test_a_torn_tail_is_counted_and_is_no_fault(replayed: Path) -> None:
    log = replayed / "logs" / "decisions"
    base, path = segments(log)[-1]
    path.write_bytes(path.read_bytes()[:-3])
    segment_path(log, base + path.stat().st_size).write_bytes(b"")
    report = replay(replayed)
    assert report.sound and (report.torn_tails, report.decisions) == (1, 100)


def test_replay_of_nothing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="--logs"):
        replay(tmp_path)
