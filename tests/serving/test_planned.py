"""What the native reader and writer make of plain requests is, byte for byte, what the engine makes of them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandits.config import parse_task
from bandits.first import ensure_champion
from bandits.store import Store
from protos.events_pb2 import Event
from protos.framing import Record, records
from protos.policy_pb2 import SelectRequest, SelectResponse
from protos.task import TaskFile
from serving.decision_log import decision_payloads
from serving.engine import Engine
from serving.errors import LogUnavailable
from serving.idempotency import RequestMemory
from serving.observers import Observer
from serving.planned import Planned
from serving.snapshots import SnapshotHolder
from serving.tasks import parse_rules
from tests.serving.kit import RANKED, TASK, native_only, promote, publish
from tests.serving.test_plain import OTHER, PLAIN

pytestmark = native_only
NOW_US = 1_700_000_000_000_000
WITH_FEATURES = {**TASK, "task": "both", "features": {**TASK["features"], "action": [{"name": "price", "default": 2.0}]}}
WITH_FEATURES |= {"policy": RANKED["policy"]}
# Those of the tasks that run here; without a request id, which the planner leaves to Python.
HERE = [name for name in (*PLAIN, *OTHER) if {**PLAIN, **OTHER}[name]().task in ("shop", "both")]


def body(name: str) -> bytes:
    message = {**PLAIN, **OTHER}[name]()
    message.ClearField("request_id")
    return message.SerializeToString()


class World:
    """Two tasks that are warm, an engine, and the planner; what each has appended."""

    def __init__(self, folder: Any) -> None:
        from slateloop_front import Planner

        self.holders, self.stores = {}, {}
        for content in (TASK, WITH_FEATURES):
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
        self.engine = Engine(append=self.bodies.extend, **about)
        self.planned = Planned(
            Planner(), holders=self.holders, append_framed=lambda framed: self.framed.append(framed(NOW_US)), observer=Observer()
        )

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


def test_requests_with_an_id_of_their_own_are_left_to_the_engine(world: World) -> None:
    message = PLAIN["named candidates"]()
    message.request_id = "r"
    assert world.planned.answer([message.SerializeToString()]) == [None] and world.framed == []


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


def test_a_task_with_something_beside_its_decisions_is_left_to_the_engine(world: World) -> None:
    holder = world.holders["default", "shop"]
    before = holder._served
    assert before is not None and world.agrees(body("named candidates"))
    try:
        holder._served = before._replace(beside=object())
        assert world.planned.answer([body("named candidates")]) == [None]
    finally:
        holder._served = before
    assert world.agrees(body("named candidates"))


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
    promote(store, publish(store, holder.rules.policy, seed=4), share=0.5)
    assert holder.refresh() and holder.served.challenger is not None
    assert world.planned.answer([body("named candidates")]) == [None]
