"""Shadows: scored by the key of the decision, logged, never shown; what cannot be scored takes nothing with it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bandits.config import TaskPolicy
from bandits.first import ensure_champion
from bandits.requests import Requests
from bandits.slates import ABSENT
from bandits.store import Store
from protos.events_pb2 import Event, ShadowScores
from protos.log_files import DECISIONS, SHADOWS
from serving.candidates import candidate_list
from serving.client import PolicyClient
from serving.decision_log import LogWriter, stamp_append
from serving.snapshots import Served
from serving.traffic.shadow import Shadows, ToScore, _Budget, _framed, _Waiting
from tests.serving.kit import TASK, promote, publish, records_of, select_request, serving_from, written

SHOP = {**TASK, "traffic": {"shadows": {"even": {"policy": {"name": "uniform", "floor": 1.0}}, "old": {"serves": "baseline"}}}}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("shadow-tasks"), SHOP)


def test_what_a_shadow_would_have_shown_is_logged_by_the_decisions_own_key(
    tmp_path: Path, tasks: Path, shop: TaskPolicy, front: str
) -> None:
    store = Store(tmp_path / "store", "shop")
    ensure_champion(store, shop, now_us=1, actor="test")
    promote(store, publish(store, shop, seed=1))
    with serving_from(tmp_path, tasks, front=front) as server, PolicyClient(server.address) as client:
        answers = [client.send_select(select_request(shop, unit=f"u{number}")) for number in range(40)]
    champion = store.champion()
    assert champion is not None and {answer.snapshot_digest for answer in answers} == {champion.digest}
    decisions = [Event.FromString(record.payload).decision for record in records_of(tmp_path / "logs" / DECISIONS)]
    scored = [ShadowScores.FromString(record.payload) for record in records_of(tmp_path / "logs" / SHADOWS)]
    for name in ("even", "old"):
        own = [one for one in scored if one.name == name]
        ids = b"".join(one.decision_ids for one in own)
        assert ids == b"".join(decision.decision_id for decision in decisions)
        policy = store.load(own[0].snapshot_digest)
        keys = np.frombuffer(ids, "<u4").reshape(-1, 4)[:, :2]
        contexts = np.stack([np.frombuffer(decision.context, "<f4") for decision in decisions])
        wanted = policy.decide(Requests.of(contexts, np.arange(5), slots=3, draw_key=keys), slots=3)
        assert [action for one in own for action in one.actions] == ["abcde"[place] for place in wanted.slates.ravel()]
        assert np.array_equal(np.concatenate([np.frombuffer(one.numerators, "<u4") for one in own]), wanted.numerators.ravel())
    assert not any(answer.policy == "uniform" for answer in answers)


def test_a_log_of_shadows_is_taken_over_with_its_time(tmp_path: Path) -> None:
    def log() -> LogWriter:
        return LogWriter(tmp_path / SHADOWS, stamp=stamp_append, now_us=lambda: 7, segment_bytes=1 << 20, sync_s=1.0)

    first = log()
    scores = ShadowScores(tenant="default", task="shop", name="s", decision_ids=b"i" * 16, actions=["a"])
    first.append_framed(lambda now_us: _framed(scores, now_us))
    first.close()
    again = log()
    assert again.last_us == 7
    again.append_framed(lambda now_us: _framed(scores, now_us))
    again.close()
    assert [ShadowScores.FromString(record.payload) for record in records_of(tmp_path / SHADOWS)] == [scores] * 2


SERVED = Served("champion", None, "baseline", False)


class Waits:
    """A queue whose thread is not started: what would be scored stays to be looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **about: Any) -> None:
        monkeypatch.setattr("threading.Thread.start", lambda self: None)
        self.framed: list[bytes] = []
        self.shadows = Shadows(lambda framed: self.framed.append(framed(5)), **about)


def item(unit: str = "u", share: float = 1.0, count: int = 1) -> tuple[ToScore, Any]:
    """Decisions of one unit, and a shadow."""
    rules: Any = SimpleNamespace(name="shop")
    decided = ToScore(rules, (8, 1), [unit] * count, b"i" * 16 * count, [candidate_list(("a",))], None, lambda policy, places, into: None)
    return decided, SimpleNamespace(name="s", share=share, policy=SimpleNamespace(digest="d"))


def test_more_than_may_wait_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch, most=3)
    for count in (2, 2, 1):
        decided, shadow = item(count=count)
        waits.shadows.take(decided, [shadow], SERVED)
    assert waits.shadows._waiting == 3 and waits.shadows.left_out == 2
    waits.shadows._taken()
    assert waits.shadows._waiting == 0


def test_decisions_that_are_left_one_by_one_are_sorted_by_task_and_as_many_wait_as_may(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch, most=3)
    taken: list[tuple[ToScore, Any, Any]] = []
    monkeypatch.setattr(waits.shadows, "take", lambda *told: taken.append(told))
    monkeypatch.setattr("serving.traffic.shadow.to_score", lambda decided: [decided])
    first, other = (SimpleNamespace(beside=SimpleNamespace(shadows=(name,))) for name in ("s", "t"))
    served: Any
    selections: list[Any] = [SimpleNamespace(rules=SimpleNamespace(name="shop"), number=number) for number in range(4)]
    for selection, served in zip(selections, (first, other, first, first), strict=True):
        waits.shadows.leave(selection, b"%d" % selection.number, served)
    assert waits.shadows.left_out == 1
    waits.shadows._sort()
    assert taken == [([(selections[0], b"0"), (selections[2], b"2")], ("s",), first), ([(selections[1], b"1")], ("t",), other)]
    waits.shadows._sort()
    assert len(taken) == 2


def test_as_many_are_scored_together_as_the_largest_batch_holds_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    for _ in range(3):
        decided, shadow = item(count=100)
        waits.shadows.take(decided, [shadow], SERVED)
    together = [waits.shadows._taken() for _ in range(2)]
    assert [[one.size for one in taken] for taken in together] == [[100, 100, 56], [44]]
    assert together[0][2].places is not None and together[1][0].places is not None
    assert [*together[0][2].places, *together[1][0].places] == list(range(100)) and waits.shadows._waiting == 0


def test_a_share_of_units_is_scored_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    for _ in range(2):
        for number in range(1_000):
            decided, shadow = item(str(number), share=0.3)
            waits.shadows.take(decided, [shadow], SERVED)
    # 1,000 units at 0.3: 4.9 standard deviations are 71.
    assert len(waits.shadows._queue) % 2 == 0 and abs(len(waits.shadows._queue) / 2 - 300) < 71


def test_each_decision_is_scored_with_the_names_of_its_own_list() -> None:
    decided, _ = item(count=3)
    lists = [candidate_list(("a", "b")), candidate_list(("c", "d"))]
    decided = decided._replace(ids=b"".join(bytes([number]) * 16 for number in range(3)), lists=lists, which=np.array([0, 1, 0]))
    slates = np.array([[1, ABSENT], [0, 1], [0, 1]], np.int32)
    policy: Any = None
    all_of_it, some = (_Waiting("s", policy, decided, places) for places in (None, np.array([1, 2])))
    assert all_of_it.actions(slates) == ["b", "", "c", "d", "a", "b"] and all_of_it.ids() == decided.ids
    assert some.actions(slates[1:]) == ["c", "d", "a", "b"] and some.ids() == decided.ids[16:] and some.size == 2


@pytest.mark.parametrize(("cpu_share", "scored"), [(None, 100), (0.5, 55), (0.05, 10)])
def test_scoring_takes_its_share_of_the_cpu_and_no_more(monkeypatch: pytest.MonkeyPatch, cpu_share: float | None, scored: int) -> None:
    """Each batch costs the thread 100 ms, and the rest of the process takes as much meanwhile; half a second is saved up."""
    waits, clock = Waits(monkeypatch), {"mine": 0.0, "others": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["mine"] + clock["others"])
    monkeypatch.setattr("time.thread_time", lambda: clock["mine"])
    monkeypatch.setattr("time.process_time", lambda: clock["mine"] + clock["others"])

    def scores(group: Any) -> ShadowScores:
        clock["mine"] += 0.1
        return ShadowScores(name="s")

    monkeypatch.setattr("serving.traffic.shadow._scores", scores)
    waits.shadows._budget = None if cpu_share is None else _Budget(cpu_share)
    for _ in range(100):
        decided, shadow = item()
        waits.shadows.take(decided, [shadow], SERVED)
        clock["others"] += 0.1
        waits.shadows._turn()
    assert waits.shadows.scored + waits.shadows.over_budget == 100 and abs(waits.shadows.scored - scored) <= 1


def test_beside_an_idle_server_a_hundredth_of_the_time_is_always_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0, "mine": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    for name in ("thread_time", "process_time"):
        monkeypatch.setattr(f"time.{name}", lambda: clock["mine"])
    budget = _Budget(0.04)
    clock["mine"] = 0.6
    assert not budget.is_left()
    clock["now"] = 20.0
    assert budget.is_left()


def test_what_waits_at_the_end_is_scored_whatever_is_left_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch, cpu_share=0.04)
    monkeypatch.setattr(_Budget, "is_left", lambda self: False)
    monkeypatch.setattr("serving.traffic.shadow._scores", lambda group: ShadowScores(name="s"))
    decided, shadow = item(count=3)
    waits.shadows.take(decided, [shadow], SERVED)
    waits.shadows._stop.set()
    waits.shadows._run()
    assert waits.shadows.scored == 3 and waits.shadows.over_budget == 0


def test_a_thread_that_rests_is_left_nothing_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    selection, served = (SimpleNamespace(beside=SimpleNamespace(shadows=("s", "t"))) for _ in range(2))
    waits.shadows.rests = True
    leave: Any = waits.shadows.leave
    leave(selection, b"i" * 16, served)
    assert waits.shadows.over_budget == 2 and not waits.shadows._left


def test_a_shadow_that_fails_takes_nothing_with_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    waits = Waits(monkeypatch)

    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("serving.traffic.shadow._scores", fails)
    decided, shadow = item()
    waits.shadows.take(decided, [shadow], SERVED)
    waits.shadows._turn()
    assert waits.shadows.left_out == 1 and "could not be scored" in caplog.text and not waits.framed
    monkeypatch.setattr("serving.traffic.shadow.to_score", fails)
    selection: Any = SimpleNamespace(rules=SimpleNamespace(name="shop"))
    served: Any = SimpleNamespace(beside=SimpleNamespace(shadows=("s", "t")))
    waits.shadows.leave(selection, b"i" * 16, served)
    waits.shadows._turn()
    assert waits.shadows.left_out == 3 and not waits.shadows._left
