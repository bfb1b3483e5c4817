"""What the native reader and writer make of plain requests is, byte for byte, what the engine makes of them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandits.allocation import BASELINE
from bandits.config import parse_task
from bandits.first import ensure_champion
from bandits.store import Store
from protos.events_pb2 import Event
from protos.framing import Record, records
from protos.policy_pb2 import SelectBatchRequest, SelectBatchResponse, SelectRequest, SelectResponse
from protos.task import TaskFile
from serving.decision_log import decision_payloads
from serving.engine import Engine
from serving.errors import LogUnavailable
from serving.idempotency import RequestMemory
from serving.observers import Observer
from serving.planned import Planned, PlannedBatches
from serving.servicer import results
from serving.snapshots import Served, SnapshotHolder
from serving.tasks import parse_rules
from serving.traffic.beside import Beside, Shadowed
from serving.traffic.shadow import ToScore, to_score
from tests.serving.kit import RANKED, TASK, native_only, promote, publish
from tests.serving.test_plain import OTHER, PLAIN, request

pytestmark = native_only
NOW_US = 1_700_000_000_000_000
WITH_FEATURES = {**TASK, "task": "both", "features": {**TASK["features"], "action": [{"name": "price", "default": 2.0}]}}
WITH_FEATURES |= {"policy": RANKED["policy"]}
# A task whose members keep their draws.
STICKY = {**TASK, "task": "sticky", "policy": {**TASK["policy"], "draw_by": "unit+epoch", "epoch": 7}}
# Those of the tasks that run here.
HERE = [name for name in (*PLAIN, *OTHER) if {**PLAIN, **OTHER}[name]().task in ("shop", "both")]


def body(name: str, **changes: Any) -> bytes:
    message = {**PLAIN, **OTHER}[name]()
    message.ClearField("request_id")
    for field, value in changes.items():
        setattr(message, field, value)
    return message.SerializeToString()


class World:
    """Some tasks that are warm, an engine, and the planner; what each has appended, and what both have told shadows."""

    def __init__(self, folder: Any) -> None:
        from slateloop_front import Planner

        self.holders, self.stores = {}, {}
        for content in (TASK, WITH_FEATURES, STICKY):
            file = TaskFile(
                name=content["task"], tenant="default", digest="0" * 64, sections={key: content[key] for key in content if key != "task"}
            )
            self.stores[content["task"]] = Store(folder, content["task"])
            ensure_champion(self.stores[content["task"]], parse_task(file), now_us=1, actor="test")
            holder = SnapshotHolder(self.stores[content["task"]], parse_rules(file))
            holder.start()
            self.holders[holder.rules.key] = holder
        self.bodies: list[bytes] = []
        self.framed: list[bytes] = []
        about: dict[str, Any] = {"holders": self.holders, "new_request_id": lambda: "drawn", "memory": RequestMemory(entries=0)}
        self.told: list[ToScore] = []
        self.left: list[tuple[Any, bytes]] = []
        self.passed_over: list[int] = []
        self.shadows: Any = SimpleNamespace(
            rests=False,
            pass_over=self.passed_over.append,
            take=lambda decided, shadows, served: self.told.append(decided),
            leave=lambda selection, decision_id, served: self.left.append((selection, decision_id)),
        )
        self.engine = Engine(append=self.bodies.extend, shadows=self.shadows, **about)
        self.memory = RequestMemory(entries=100)
        self.planned = Planned(
            Planner(),
            holders=self.holders,
            append_framed=lambda framed: self.framed.append(framed(NOW_US)),
            memory=self.memory,
            observer=Observer(),
            shadows=self.shadows,
        )

    def forget(self) -> None:
        """What shadows were told."""
        self.told.clear()
        self.left.clear()

    def by_engine(self, data: bytes, request_id: str) -> tuple[Any, list[bytes]]:
        """The engine's answer and records, for a request whose id was drawn."""
        self.bodies.clear()
        message = SelectRequest.FromString(data)
        message.request_id = request_id
        return self.engine.answer([message])[0], list(decision_payloads(self.bodies, NOW_US))

    def agrees(self, data: bytes) -> bool:
        """Was it answered, and then as the engine answers it?"""
        self.framed.clear()
        (answer,) = self.planned.answer([data])
        if answer is None:
            assert self.framed == []
            return False
        logged = payloads(self.framed)
        assert (answer, logged) == self.by_engine(data, SelectResponse.FromString(answer).request_id)
        return True


def payloads(framed: Sequence[bytes]) -> list[bytes]:
    found = list(records(b"".join(framed), whole=True))
    assert all(isinstance(item, Record) for item in found)
    return [item.payload for item in found if isinstance(item, Record)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("planned"))


@pytest.mark.parametrize("name", HERE)
def test_a_plain_request_is_decided_as_the_engine_decides_it_and_no_other_is(name: str, world: World) -> None:
    # Other spellings of default values are plain in Python, and are not here.
    assert world.agrees(body(name)) == (name in PLAIN and name != "a unit of 128 bytes")


@pytest.mark.parametrize("request_id", ["r", "\u00e4" * 60, "x" * 127])
def test_a_request_with_an_id_of_its_own_is_decided_as_the_engine_decides_it_and_remembered(request_id: str, world: World) -> None:
    named = body("named candidates", request_id=request_id)
    assert world.agrees(named)
    answer = world.planned.answer([named])[0]
    world.framed.clear()
    assert world.planned.answer([named, named]) == [answer, answer] and world.framed == []
    # Another body under the same id is the engine's to refuse.
    assert world.planned.answer([body("named candidates", request_id=request_id, unit_id="other")]) == [None]


def test_an_id_whose_request_met_an_error_is_free_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(framed: Any) -> None:
        raise LogUnavailable("log: full")

    with monkeypatch.context() as patched, pytest.raises(LogUnavailable):
        patched.setattr(world.planned, "_append_framed", full)
        world.planned.answer([body("named candidates", request_id="freed")])
    assert world.agrees(body("named candidates", request_id="freed", unit_id="other"))


def test_a_member_of_a_sticky_task_draws_as_the_engine_draws(world: World) -> None:
    rules = world.holders["default", "sticky"].rules
    for unit in ("a", "b", "\u00e4"):
        sticky = request(rules, unit_id=unit, tenant="").SerializeToString()
        assert world.agrees(sticky)
        first, second = (SelectResponse.FromString(found) for found in world.planned.answer([sticky, sticky]) if found)
        assert first.decision_id != second.decision_id and first.slots == second.slots


@pytest.mark.parametrize("count", [1, 5, 300])
def test_a_batch_is_answered_as_the_engine_answers_it(count: int, world: World) -> None:
    names = [name for name in HERE if name in PLAIN]
    messages = [body(names[at % len(names)], request_id=f"batch-{count}-{at}") for at in range(count)]
    data = SelectBatchRequest(requests=[SelectRequest.FromString(message) for message in messages]).SerializeToString()
    world.framed.clear()
    world.bodies.clear()
    ready = world.planned.read_batch(data)
    assert ready is not None
    answer = world.planned.answer_batch(ready)
    expected = world.engine.answer([SelectRequest.FromString(message) for message in messages])
    assert answer == results(expected) and len(world.framed) == 1
    assert sorted(payloads(world.framed)) == sorted(decision_payloads(world.bodies, NOW_US))


def test_threads_that_plan_at_the_same_time_each_get_their_own_answers(world: World) -> None:
    """Calls of Select and of SelectBatch meet in one planner, which asks Python for what it does not know."""
    batch = SelectBatchRequest(requests=[SelectRequest.FromString(body("named candidates"))] * 3).SerializeToString()

    def both(number: int) -> bool:
        (answer,) = world.planned.answer([body("named candidates", unit_id=f"u{number}", request_id=f"thread-{number}")])
        ready = world.planned.read_batch(batch)
        assert answer is not None and ready is not None
        results_of = SelectBatchResponse.FromString(world.planned.answer_batch(ready) or b"").results
        return SelectResponse.FromString(answer).request_id == f"thread-{number}" and len(results_of) == 3

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(both, range(64), timeout=60))


def test_a_batch_of_which_not_all_is_plain_is_left_whole(world: World) -> None:
    batch = SelectBatchRequest(requests=[PLAIN["named candidates"](), OTHER["explained"]()])
    assert world.planned.read_batch(batch.SerializeToString()) is None
    for data in (b"", b"\x0a\x03ab", b"\x12\x00"):
        assert world.planned.read_batch(data) is None


def test_what_the_planner_leaves_of_a_batch_is_answered_by_the_engine_and_nothing_twice(world: World) -> None:
    sound = SelectRequest.FromString(body("named candidates"))
    unsound = SelectRequest.FromString(body("named candidates"))
    unsound.context.packed = b"\xff" * len(unsound.context.packed)
    batches = PlannedBatches(
        world.planned,
        read=lambda data: pytest.fail("read again"),
        answer=lambda batch: pytest.fail("answered again"),
        answer_some=lambda messages: world.engine.answer([SelectRequest.FromString(message) for message in messages]),
    )
    world.framed.clear()
    answer = batches.answer(batches.read(SelectBatchRequest(requests=[sound, unsound, sound]).SerializeToString()))
    found = SelectBatchResponse.FromString(answer).results
    assert [item.WhichOneof("outcome") for item in found] == ["response", "error", "response"]
    assert found[1].error.field == "context.packed" and len(payloads(world.framed)) == 2


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([name for name in HERE if name in PLAIN]), st.data())
def test_a_changed_byte_is_never_decided_otherwise_than_the_engine_decides_it(world: World, name: str, data: st.DataObject) -> None:
    changed = bytearray(body(name))
    at = data.draw(st.integers(0, len(changed) - 1))
    change: Callable[[], Any] = data.draw(
        st.sampled_from(
            [
                lambda: changed.__setitem__(at, data.draw(st.integers(0, 255))),
                lambda: changed.__delitem__(at),
                lambda: changed.insert(at, data.draw(st.integers(0, 255))),
                lambda: changed.__delitem__(slice(at, None)),
            ]
        )
    )
    change()
    world.agrees(bytes(changed))


def test_a_batch_is_answered_in_its_order_with_one_append(world: World) -> None:
    names = [*HERE, "named candidates", "named candidates"] * 3
    world.framed.clear()
    answers = world.planned.answer([body(name) for name in names])
    given = [answer for answer in answers if answer is not None]
    assert [answer is not None for answer in answers] == [name in PLAIN for name in names]
    assert len(world.framed) == 1 and len(payloads(world.framed)) == len(given)
    ids = [SelectResponse.FromString(answer).decision_id for answer in given]
    logged = [Event.FromString(payload).decision for payload in payloads(world.framed)]
    assert len(set(ids)) == len(ids) and {decision.decision_id for decision in logged} == set(ids)


def test_what_is_not_sound_is_left_to_the_engine_and_costs_its_batch_nothing(world: World) -> None:
    sound = body("named candidates")
    packed = PLAIN["named candidates"]().context.packed
    unsound = sound.replace(packed, b"\xff" * len(packed))
    answers = world.planned.answer([sound, unsound, sound])
    assert [answer is None for answer in answers] == [False, True, False]


@contextlib.contextmanager
def beside(world: World, task: str, **parts: Any) -> Iterator[Served]:
    """What is served of a task has these parts beside it for a while."""
    holder = world.holders["default", task]
    before = holder.served
    none: dict[str, Any] = {"generation": 0, "experiments": None, "policies": {}, "units": None, "arm_feature": None, "shadows": ()}
    holder._served = before._replace(beside=Beside(**{**none, **parts}))
    try:
        yield before
    finally:
        holder._served = before


@pytest.mark.parametrize("part", ["experiments", "units", "arm_feature"])
def test_a_task_whose_decisions_depend_on_what_is_beside_them_is_left_to_the_engine(part: str, world: World) -> None:
    assert world.agrees(body("named candidates"))
    with beside(world, "shop", **{part: object()}):
        assert world.planned.answer([body("named candidates")]) == [None]
    assert world.agrees(body("named candidates"))


def rows_of(told: ToScore, policy: Any, places: Any = None) -> np.ndarray:
    rows = np.zeros((told.size if places is None else len(places), told.layout.words), np.uint32)
    told.write_rows(policy, places, rows)
    return rows


@pytest.mark.parametrize(("task", "name"), [("shop", "named candidates"), ("both", "all of it"), ("sticky", "")])
def test_shadows_are_told_of_a_decision_what_the_engine_tells_them(task: str, name: str, world: World) -> None:
    rules = world.holders["default", task].rules
    data = body(name) if name else request(rules, unit_id="m").SerializeToString()
    other: Any = SimpleNamespace(digest="other", action_index={"c": 0, "a": 1}, cold_action=2)
    with beside(world, task, shadows=(Shadowed("s", BASELINE, 0.5),)) as served:
        world.forget()
        assert world.agrees(data)
    (by_planner,), (by_engine,) = world.told, to_score(world.left)
    assert by_planner.rules is by_engine.rules and by_planner[1:4] == by_engine[1:4]
    assert [listed.actions for listed in by_planner.lists] == [listed.actions for listed in by_engine.lists]
    assert by_planner.which is by_engine.which is None
    for policy in (served.champion, served.baseline, other):
        assert np.array_equal(rows_of(by_planner, policy), rows_of(by_engine, policy))


def test_shadows_are_told_the_list_of_each_decision_of_a_batch(world: World) -> None:
    first, other = (SelectRequest.FromString(body("named candidates")) for _ in range(2))
    other.candidates.actions[:] = reversed(first.candidates.actions)
    messages = [SelectRequest.FromString(one.SerializeToString()) for one in (first, other, other, first)]
    for number, message in enumerate(messages):
        message.request_id = f"listed-{number}"
    with beside(world, "shop", shadows=(Shadowed("s", BASELINE, 1.0),)) as served:
        world.forget()
        world.planned.answer([message.SerializeToString() for message in messages])
        world.engine.answer(messages)
    (by_planner,), (by_engine,) = world.told, to_score(world.left)
    assert by_planner.units == [] and by_planner.ids == by_engine.ids
    for told in (by_planner, by_engine):
        assert told.which is not None
        assert [told.lists[at].actions for at in told.which] == [tuple(message.candidates.actions) for message in messages]
    for places in (None, np.array([0, 2, 3])):
        assert np.array_equal(rows_of(by_planner, served.champion, places), rows_of(by_engine, served.champion, places))


def test_shadows_that_rest_are_told_how_many_they_pass_over_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.shadows, "rests", True)
    with beside(world, "shop", shadows=(Shadowed("s", BASELINE, 1.0), Shadowed("t", BASELINE, 1.0))):
        world.forget()
        assert None not in world.planned.answer([body("named candidates")] * 3)
    assert world.passed_over == [6] and not world.told


def test_shadows_are_told_of_no_request_without_a_decision(world: World) -> None:
    """Neither of one that is not sound, nor of one that was answered before."""
    sound, packed = body("named candidates"), PLAIN["named candidates"]().context.packed
    named = body("named candidates", request_id="told once")
    with beside(world, "shop", shadows=(Shadowed("s", BASELINE, 1.0),)):
        world.forget()
        first = world.planned.answer([named, sound.replace(packed, b"\xff" * len(packed)), sound])
        assert world.planned.answer([named]) == [first[0]]
    wanted = [SelectResponse.FromString(answer).decision_id for answer in first if answer is not None]
    assert b"".join(one.ids for one in world.told) == b"".join(wanted) and len(wanted) == 2


def test_a_log_that_takes_nothing_answers_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(framed: Any) -> None:
        raise LogUnavailable("log: full")

    monkeypatch.setattr(world.planned, "_append_framed", full)
    with pytest.raises(LogUnavailable):
        world.planned.answer([body("named candidates")])


def test_a_snapshot_that_was_swapped_decides_from_the_next_batch_on(world: World) -> None:
    store, holder = world.stores["shop"], world.holders["default", "shop"]
    assert world.agrees(body("named candidates"))
    promote(store, publish(store, holder.rules.policy, seed=3))
    assert holder.refresh() and world.agrees(body("named candidates"))


def test_units_are_in_the_arms_in_which_the_engine_has_them(world: World) -> None:
    store, holder = world.stores["shop"], world.holders["default", "shop"]
    promote(store, digest := publish(store, holder.rules.policy, seed=5), share=0.5)
    assert holder.refresh() and holder.served.challenger is not None
    requests = [body("named candidates", unit_id=f"u{number}") for number in range(20)]
    assert all(world.agrees(data) for data in requests)
    answers = [SelectResponse.FromString(found) for found in world.planned.answer(requests) if found]
    assert {(answer.arm, answer.arm_probability) for answer in answers} == {("champion", 0.5), ("challenger", 0.5)}
    promote(store, digest)
    assert holder.refresh() and holder.served.challenger is None and world.agrees(requests[0])
