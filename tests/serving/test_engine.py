"""The engine, called from plain Python: no transport, a real log, a clock of our own."""

import functools
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bandits.config import TaskPolicy
from bandits.store import Store
from protos.events_pb2 import FALLBACK_REASON_KILL_SWITCH, FALLBACK_REASON_LOG_FULL, CandidateSet, Decision
from protos.policy_pb2 import CandidateFeatures, Context, FeatureValue, SelectRequest, SelectResponse
from protos.task import load_tasks
from serving.engine import Engine
from serving.errors import LogUnavailable, NotFound, NotReady, RequestIdReused, RequestRefused, SnapshotNotServed
from serving.gathering import Gathering, Raised, _Waiting
from serving.idempotency import RequestMemory
from serving.snapshots import SnapshotHolder
from serving.tasks import parse_rules
from tests.serving.kit import promote, publish, select_request
from tests.serving.test_engine_draws import shop as running_shop

DENOMINATOR = 1 << 31


class Log:
    """Keeps what is appended; `full` refuses it."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.full = False

    def append(self, bodies: Sequence[bytes]) -> None:
        if self.full:
            raise LogUnavailable("log: full")
        self.decisions += map(Decision.FromString, bodies)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def engine(tasks: Path, tmp_path: Path, store: Store, log: Log) -> Iterator[Engine]:
    from bandits.first import ensure_champion

    holders = {}
    for task in load_tasks(tasks).values():
        rules = parse_rules(task)
        source = Store(tmp_path / "store", task.name)
        ensure_champion(source, rules.policy, now_us=1)
        holders[rules.key] = SnapshotHolder(source, rules)
        holders[rules.key].start()
    numbers = iter(range(10**6))
    yield Engine(holders=holders, append=log.append, memory=RequestMemory(entries=100), new_request_id=lambda: f"drawn-{next(numbers)}")


def answer(engine: Engine, message: SelectRequest) -> SelectResponse:
    (found,) = engine.select([message])
    assert isinstance(found, SelectResponse), found
    return found


def test_a_single_request_is_a_batch_of_one(engine: Engine, store: Store, shop: TaskPolicy) -> None:
    promote(store, publish(store, shop, seed=1))
    engine.holder(tenant="", task="shop").refresh()
    requests = [select_request(shop, request_id=f"r{index}") for index in range(11)]
    alone = [answer(engine, request) for request in requests]
    engine._memory = RequestMemory(entries=100)
    together = engine.select(requests)
    for one, other in zip(alone, together, strict=True):
        assert isinstance(other, SelectResponse)
        assert [slot.action for slot in one.slots] == [slot.action for slot in other.slots]
        assert all(abs(a.numerator - b.numerator) <= 2 for a, b in zip(one.slots, other.slots, strict=True))


def test_the_answer_is_what_the_log_holds(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    response = answer(engine, select_request(shop, slate_size=3, explain=True))
    (decision,) = log.decisions
    assert list(decision.slots) == list(response.slots)
    assert response.joint_propensity == math.prod(slot.numerator / DENOMINATOR for slot in response.slots)
    assert len({slot.action for slot in response.slots}) == 3
    assert list(decision.candidates.actions) == list("abcde") and not decision.candidates.eligible
    assert decision.request_id == response.request_id == "drawn-0"
    assert response.logged and [item.action for item in response.explanations] == [slot.action for slot in response.slots]


def test_a_forced_slot_has_probability_one_and_masked_candidates_none(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    only = CandidateSet(actions=["c", "d", "z"], eligible=[True, False, True])
    response = answer(engine, select_request(shop, candidates=only, slate_size=2))
    assert {slot.action for slot in response.slots} == {"c", "z"} and response.slots[1].numerator == DENOMINATOR
    assert list(log.decisions[0].candidates.eligible) == [True, False, True]


def test_requests_of_several_tasks_and_faults_are_answered_each_by_itself(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    features = [CandidateFeatures(features={"price": FeatureValue(number=price)}) for price in (1.0, 2.0, 3.0)]
    ranked = SelectRequest(
        tenant="other", task="ranked", unit_id="u", candidates=CandidateSet(actions=["x", "y", "z"]), candidate_features=features
    )
    nowhere = select_request(shop, task="ranked")
    answers = engine.select([ranked, select_request(shop), nowhere, select_request(shop, unit_id="")])
    assert [type(found) for found in answers] == [SelectResponse, SelectResponse, NotFound, RequestRefused]
    assert [decision.task for decision in log.decisions] == ["ranked", "shop"]
    assert log.decisions[0].candidates.packed_features and len(log.decisions[0].candidates.packed_features) == 3 * 2 * 4


def test_named_and_packed_features_are_the_same_context(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    named = Context(features={"weights": FeatureValue(), "member": FeatureValue(flag=True)})
    named.features["weights"].numbers.values.extend([0.0, 1.0, 2.0])
    answer(engine, select_request(shop, context=named))
    packed = bytearray(log.decisions[0].context)
    assert packed[:12] == select_request(shop).context.packed[:12] and not log.decisions[0].defaulted_features
    answer(engine, select_request(shop, context=Context()))
    assert list(log.decisions[1].defaulted_features) == ["weights", "member"]


def test_the_same_request_is_answered_the_same_and_logged_once(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    first = answer(engine, select_request(shop, request_id="r"))
    assert answer(engine, select_request(shop, request_id="r")).SerializeToString() == first.SerializeToString()
    assert len(log.decisions) == 1


def test_another_body_under_a_known_request_id_is_refused(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    answers = engine.select([select_request(shop, request_id="r"), select_request(shop, request_id="r", unit="other")])
    assert isinstance(answers[1], RequestIdReused) and answers[1].field == "request_id" and len(log.decisions) == 1


def test_what_the_log_refuses_is_not_answered_and_may_be_sent_again(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    log.full = True
    with pytest.raises(LogUnavailable):
        engine.select([select_request(shop, request_id="r")])
    log.full = False
    assert answer(engine, select_request(shop, request_id="r")).logged
    assert len(log.decisions) == 1


def test_a_forgotten_request_gets_the_same_decision_on_the_same_snapshot(engine: Engine, shop: TaskPolicy) -> None:
    first = answer(engine, select_request(shop, request_id="r"))
    engine._memory = RequestMemory(entries=100)
    assert answer(engine, select_request(shop, request_id="r")) == first


def test_the_kill_switch_puts_the_baseline_in_charge_and_says_so(engine: Engine, log: Log, store: Store, shop: TaskPolicy) -> None:
    promote(store, publish(store, shop, seed=1))
    holder = engine.holder(tenant="", task="shop")
    holder.refresh()
    assert answer(engine, select_request(shop)).policy == "linear_thompson"
    store.set_kill_switch(True, reason="test", now_us=2, actor="test")
    holder.refresh()
    response = answer(engine, select_request(shop))
    assert response.policy == "uniform" and response.fallback == FALLBACK_REASON_KILL_SWITCH == log.decisions[-1].fallback


def test_a_pinned_snapshot_decides_or_the_request_is_refused(engine: Engine, store: Store, shop: TaskPolicy) -> None:
    first = store.champion()
    assert first is not None
    promote(store, publish(store, shop, seed=1))
    engine.holder(tenant="", task="shop").refresh()
    assert answer(engine, select_request(shop, snapshot_digest=first.digest)).snapshot_digest == first.digest
    (refused,) = engine.select([select_request(shop, snapshot_digest="0" * 64, request_id="r")])
    assert isinstance(refused, SnapshotNotServed) and refused.field == "snapshot_digest"
    assert answer(engine, select_request(shop, request_id="r")).logged


def test_a_unit_keeps_its_slate_where_draws_are_by_unit(tasks: Path, tmp_path: Path, log: Log) -> None:
    from bandits.first import ensure_champion
    from protos.task import load_task

    rules = parse_rules(load_task(tasks / "shop.yaml", overrides=["policy.draw_by=unit"]))
    sticky = Store(tmp_path / "sticky", "shop")
    ensure_champion(sticky, rules.policy, now_us=1)
    holder = SnapshotHolder(sticky, rules)
    with pytest.raises(NotReady):
        _ = holder.served
    holder.start()
    numbers = iter(range(100))
    engine = Engine(
        holders={rules.key: holder}, append=log.append, memory=RequestMemory(entries=0), new_request_id=lambda: str(next(numbers))
    )
    slates = {tuple(slot.action for slot in answer(engine, select_request(rules.policy, unit="one")).slots) for _ in range(20)}
    others = {tuple(slot.action for slot in answer(engine, select_request(rules.policy, unit=str(u))).slots) for u in range(20)}
    assert len(slates) == 1 and len(others) > 1


def test_the_engine_knows_no_grpc() -> None:
    code = "import sys, serving.engine; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawn_slates_have_the_frequencies_that_were_logged(engine: Engine, store: Store, shop: TaskPolicy) -> None:
    """2,000 draws of one context; 5 first-slot actions; false alarms below 1e-6 a run (5 standard errors, 5 comparisons)."""
    promote(store, publish(store, shop, seed=3))
    engine.holder(tenant="", task="shop").refresh()
    answers = engine.select([select_request(shop, request_id=f"draw-{index}") for index in range(2_000)])
    firsts = [found.slots[0] for found in answers if isinstance(found, SelectResponse)]
    for action in "abcde":
        drawn = [slot.propensity for slot in firsts if slot.action == action]
        if drawn:
            p = drawn[0]
            assert abs(len(drawn) / len(firsts) - p) <= 5.2 * math.sqrt(p * (1 - p) / len(firsts))


def test_the_reasons_of_a_linear_score_are_its_terms(tmp_path: Path) -> None:
    """With a linear basis, what a feature adds to a score is the same whatever the others are, and the parts add up."""
    running = running_shop(tmp_path / "linear", settings={"basis": "linear"})
    (response,) = running.select([select_request(running.policy, explain=True)])
    (plain,) = running.select([select_request(running.policy, context=Context(), explain=True)])
    assert [item.action for item in response.explanations] == [slot.action for slot in response.slots]
    intercept = {item.action: item.score for item in plain.explanations}
    for item in response.explanations:
        assert item.uncertainty > 0 and {part.feature for part in item.contributions} == {"weights", "member"}
        sizes = [abs(part.value) for part in item.contributions]
        assert sizes == sorted(sizes, reverse=True)
        if item.action in intercept:
            assert item.score - sum(part.value for part in item.contributions) == pytest.approx(intercept[item.action], abs=1e-9)
    assert not any(item.contributions for item in plain.explanations)


def test_the_explanation_of_a_policy_tree_names_its_rule(tmp_path: Path) -> None:
    """The packed context is (0, 1, 2, 3): three weights and a member."""
    tree = {"feature": [1, 0, 2], "threshold": [0.5, None, 1.5], "action": [0, 0, 1, 2]}
    running = running_shop(tmp_path / "tree", name="policy_tree", settings=tree)
    (response,) = running.select([select_request(running.policy, explain=True)])
    assert {item.rule for item in response.explanations} == {"if weights[1] > 0.5 and weights[2] > 1.5"}


def test_while_the_log_takes_nothing_a_flagged_fallback_may_answer(engine: Engine, log: Log, shop: TaskPolicy) -> None:
    engine._fall_back, log.full = True, True
    only = CandidateSet(actions=["c", "d", "a"], eligible=[False, True, True])
    response = answer(engine, select_request(shop, request_id="r", candidates=only, slate_size=1))
    assert [slot.action for slot in response.slots] == ["d"] and response.slots[0].numerator == DENOMINATOR
    assert not response.logged and response.fallback == FALLBACK_REASON_LOG_FULL and not response.decision_id
    log.full = False
    assert answer(engine, select_request(shop, request_id="r", candidates=only, slate_size=1)).logged and len(log.decisions) == 1


def test_a_bug_in_one_of_many_waiting_requests_is_nobody_elses() -> None:
    def answers(requests: Sequence[int]) -> list[float]:
        return [1 / number for number in requests]

    gathering: Gathering[int, float] = Gathering(answers, most=8, common=LogUnavailable)
    waiting = [_Waiting(number) for number in (1, 0, 4)]
    gathering._answer_batch(waiting)
    assert (waiting[0].outcome, waiting[2].outcome) == (1.0, 0.25)
    assert isinstance(waiting[1].outcome, Raised) and isinstance(waiting[1].outcome.error, ZeroDivisionError)


@pytest.mark.parametrize("waits", [True, False])
def test_who_has_led_is_answered_and_the_first_that_waits_leads_on(waits: bool) -> None:
    """One comes while the first is decided: the first does not wait for its answer."""
    gathering: Gathering[int, int]

    def doubled(numbers: Sequence[int]) -> list[int]:
        if numbers == [1]:
            gathering._queue.append(late)
        return [2 * number for number in numbers]

    gathering, late = Gathering(doubled, most=8, common=LogUnavailable), _Waiting[int, int](5)
    assert gathering.answer(1, waits=waits) == 2
    assert late.leads and not late.done.locked() and gathering._leading.locked()
    late.done.acquire()
    gathering._lead()
    assert late.outcome == 10 and not late.done.locked() and not gathering._leading.locked()


def test_who_does_not_wait_for_company_goes_with_those_who_wait_already_and_hears_of_its_own_error() -> None:
    seen: list[list[int]] = []

    def inverse(numbers: Sequence[int]) -> list[float]:
        seen.append(list(numbers))
        return [1 / number for number in numbers]

    gathering: Gathering[int, float] = Gathering(inverse, most=8, common=LogUnavailable)
    with pytest.raises(ZeroDivisionError):
        gathering.answer(0, waits=False)
    gathering._queue.append(_Waiting(2))
    assert gathering.answer(4, waits=False) == 0.25 and seen == [[0], [2, 4]]
    assert not gathering._leading.locked()


@pytest.mark.parametrize("waits", [True, False])
def test_gathered_requests_get_their_own_answers(waits: bool) -> None:
    sizes: list[int] = []

    def doubled(numbers: Sequence[int]) -> list[int]:
        sizes.append(len(numbers))
        return [2 * number for number in numbers]

    gathering: Gathering[int, int] = Gathering(doubled, most=8, common=LogUnavailable)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(functools.partial(gathering.answer, waits=waits), range(2_000))) == [2 * number for number in range(2_000)]
    assert sum(sizes) == 2_000 and max(sizes) <= 8
