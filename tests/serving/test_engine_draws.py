"""The engine end to end, on its own log: sticky draws by unit and epoch, values of a continuous parameter, masks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import yaml

from bandits.config import TaskPolicy, parse_task
from bandits.continuous import bin_of
from bandits.first import ensure_champion
from bandits.store import Store
from protos.events_pb2 import CandidateSet, Decision
from protos.framing import frame
from protos.log_files import DECISIONS, segment_path
from protos.policy_pb2 import SelectRequest, SelectResponse
from protos.task import load_task
from serving.decision_log import decision_payloads
from serving.engine import Engine
from serving.errors import RequestRefused
from serving.idempotency import RequestMemory
from serving.replay import replay_logs
from serving.snapshots import SnapshotHolder
from serving.tasks import parse_rules
from tests.serving.kit import TASK, promote, publish, select_request

UNITS = 6_000
LOAD = {
    "task": "load",
    "features": {"context": [{"name": "age", "default": 0.0}]},
    "policy": {"name": "linear_thompson", "range": {"lower": 1.0, "upper": 9.0, "bins": 4}},
    "limits": {"max_candidates": 8, "max_slots": 1},
}


class Running:
    """An engine of one task on a store of its own; what it appends is kept, and can be written as a log."""

    def __init__(self, folder: Path, task: dict[str, Any]) -> None:
        self.folder, self.name = folder, task["task"]
        folder.mkdir(exist_ok=True)
        (folder / "task.yaml").write_text(yaml.safe_dump(task))
        file = load_task(folder / "task.yaml")
        self.policy: TaskPolicy = parse_task(file)
        self.store = Store(folder / "store", self.name)
        ensure_champion(self.store, self.policy, now_us=1)
        self.holder = SnapshotHolder(self.store, parse_rules(file))
        self.holder.start()
        self.bodies: list[bytes] = []
        numbers = iter(range(10**9))
        self.engine = Engine(
            holders={self.holder.rules.key: self.holder},
            append=self.bodies.extend,
            memory=RequestMemory(entries=10),
            new_request_id=lambda: f"drawn-{next(numbers)}",
        )

    def select(self, requests: Sequence[SelectRequest]) -> list[SelectResponse]:
        answers = [answer for start in range(0, len(requests), 256) for answer in self.engine.select(requests[start : start + 256])]
        assert all(isinstance(answer, SelectResponse) for answer in answers), answers[:1]
        return answers

    def change(self, place: int, changed: Callable[[Decision], object]) -> None:
        """What the log would hold, had the server logged something else."""
        decision = Decision.FromString(self.bodies[place])
        changed(decision)
        self.bodies[place] = decision.SerializeToString()

    @property
    def decisions(self) -> list[Decision]:
        return list(map(Decision.FromString, self.bodies))

    def replay(self) -> Any:
        log = self.folder / "logs" / DECISIONS
        log.mkdir(parents=True, exist_ok=True)
        segment_path(log, 0).write_bytes(b"".join(map(frame, decision_payloads(self.bodies, 1_700_000_000_000_000))))
        return replay_logs(self.folder / "logs", store=self.folder / "store")


def shop(folder: Path, *, seed: int = 1, **policy: Any) -> Running:
    """The task `shop` with a champion that has learned from the rows of a seed."""
    running = Running(folder, {**TASK, "policy": {**TASK["policy"], **policy}})
    promote(running.store, publish(running.store, running.policy, seed=seed))
    running.holder.refresh()
    return running


def requests(running: Running, units: int, **fields: Any) -> list[SelectRequest]:
    return [select_request(running.policy, unit=f"unit {number}", **fields) for number in range(units)]


def slates(answers: Sequence[SelectResponse]) -> list[list[tuple[str, int]]]:
    return [[(slot.action, slot.numerator) for slot in answer.slots] for answer in answers]


@pytest.mark.parametrize("draw_by", ["unit", "unit+epoch"])
def test_a_unit_keeps_its_slate_while_probabilities_and_epoch_stand(tmp_path: Path, draw_by: str) -> None:
    running = shop(tmp_path, draw_by=draw_by)
    first, again = (slates(running.select(requests(running, 40))) for _ in range(2))
    assert first == again
    assert len({str(slate) for slate in first}) > 5, "units differ"
    report = running.replay()
    assert report.sound and report.decisions == 80


def test_an_epoch_deals_anew_where_the_task_draws_by_it_and_only_there(tmp_path: Path) -> None:
    found = {
        (draw_by, epoch): slates(running.select(requests(running, 40)))
        for draw_by in ("unit", "unit+epoch")
        for epoch in (0, 1)
        if (running := shop(tmp_path / f"{draw_by} {epoch}", draw_by=draw_by, epoch=epoch))
    }
    assert found["unit", 0] == found["unit", 1] == found["unit+epoch", 0]
    changed = [a != b for a, b in zip(found["unit+epoch", 0], found["unit+epoch", 1], strict=True)]
    assert sum(changed) > 10


def test_other_probabilities_may_change_a_slate_and_are_logged(tmp_path: Path) -> None:
    running = shop(tmp_path, draw_by="unit")
    before = running.select(requests(running, 200))
    promote(running.store, publish(running.store, running.policy, seed=2))
    running.holder.refresh()
    after = running.select(requests(running, 200))
    assert {answer.slots[0].numerator for answer in before}.isdisjoint(answer.slots[0].numerator for answer in after)
    kept = sum(a.slots[0].action == b.slots[0].action for a, b in zip(before, after, strict=True))
    assert 0 < kept < 200
    assert running.replay().sound


def propensities_hold(answers: Sequence[SelectResponse]) -> bool:
    """The checker: items of the top slot over units, against their logged propensities; chi-square, false alarm 1e-6."""
    logged = {answer.slots[0].action: answer.slots[0].propensity for answer in answers}
    counts = [sum(answer.slots[0].action == action for answer in answers) for action in logged]
    expected = [propensity * len(answers) for propensity in logged.values()]
    missing = abs(sum(expected) - len(answers))
    statistic = sum((count - wanted) ** 2 / wanted for count, wanted in zip(counts, expected, strict=True))
    return bool(missing < 0.01 * len(answers) and scipy.stats.chi2.sf(statistic, max(len(counts) - 1, 1)) > 1e-6)


@pytest.mark.parametrize("draw_by", ["unit", "unit+epoch"])
def test_over_units_sticky_draws_have_the_logged_propensities(tmp_path: Path, draw_by: str) -> None:
    running = shop(tmp_path, draw_by=draw_by, epoch=3)
    answers = running.select(requests(running, UNITS, slate_size=1))
    assert propensities_hold(answers)
    # Known bad: one unit asked again and again has one slate, whatever its propensity.
    assert not propensities_hold(running.select(requests(running, 1, slate_size=1) * 500))


@pytest.fixture
def load(tmp_path: Path) -> Running:
    return Running(tmp_path, LOAD)


def ask(running: Running, count: int) -> list[SelectResponse]:
    return running.select([SelectRequest(task="load", unit_id=f"u{number}") for number in range(count)])


def test_a_continuous_parameter_is_answered_and_logged_with_its_density(load: Running) -> None:
    answers = ask(load, 400)
    for answer, decision in zip(answers, load.decisions, strict=True):
        (slot,) = answer.slots
        assert list(decision.slots) == [slot]
        found = bin_of(slot.action)
        assert found is not None and found.lower <= slot.value < found.upper
        assert slot.density == slot.propensity / 2.0 and 1.0 <= slot.value < 9.0
    assert len({answer.slots[0].value for answer in answers}) == 400
    # Uniform over [1, 9): Kolmogorov-Smirnov, false alarm 1e-6.
    assert scipy.stats.kstest([(answer.slots[0].value - 1.0) / 8.0 for answer in answers], "uniform").pvalue > 1e-6
    assert load.replay().sound


def other_value(decision: Decision) -> None:
    decision.slots[0].value += 1e-9


def other_density(decision: Decision) -> None:
    decision.slots[0].density *= 1.0 + 1e-9


def no_density(decision: Decision) -> None:
    decision.slots[0].ClearField("density")


@pytest.mark.parametrize("change", [other_value, other_density, no_density])
def test_replay_finds_a_value_that_its_key_does_not_draw(load: Running, change: Callable[[Decision], None]) -> None:
    ask(load, 3)
    load.change(1, change)
    report = load.replay()
    assert report.fault_count == 1 and report.faults[0].kind == "record" and "its key and bin give" in report.faults[0].text


def test_a_discrete_action_has_no_value_and_replay_finds_one(tmp_path: Path) -> None:
    running = shop(tmp_path)
    running.select(requests(running, 2))
    assert not any(slot.HasField("value") or slot.HasField("density") for decision in running.decisions for slot in decision.slots)
    running.change(0, lambda decision: setattr(decision.slots[0], "value", 1.0))
    assert "no bin of a range" in running.replay().faults[0].text


def test_what_is_masked_is_not_shown_by_the_first_champion_either(tmp_path: Path) -> None:
    never = {"name": "mask", "never": ["a"], "when": [{"feature": "member", "equals": True, "never": ["b"]}]}
    running = Running(tmp_path, {**TASK, "policy": {**TASK["policy"], "wrappers": [never]}})
    # The context of these requests is 0, 1, 2, 3: the last number is the flag, above 0.5.
    for answer in running.select(requests(running, 50)):
        assert {slot.action for slot in answer.slots} == {"c", "d", "e"}
    assert [len(answer.slots) for answer in running.select(requests(running, 1, candidates=CandidateSet(actions=["a", "c", "b"])))] == [1]
    (nothing,) = running.engine.select(requests(running, 1, request_id="r", candidates=CandidateSet(actions=["a", "b"]), slate_size=1))
    assert isinstance(nothing, RequestRefused) and "policy.wrappers: mask" in str(nothing)
    assert len(running.bodies) == 51 and running.replay().sound
