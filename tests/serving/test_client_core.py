"""What a client decides, without a server: flows are driven by a list of replies."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bandits.keys import decision_id
from protos.events_pb2 import FALLBACK_REASON_CLIENT, Event, Slot
from protos.policy_pb2 import (
    AssignResponse,
    FeedbackResponse,
    GetPolicyResponse,
    RequestError,
    SelectBatchResponse,
    SelectResponse,
    SelectResult,
)
from serving import events
from serving.client import Decision, Fallback
from serving.client.core import SINK, Core
from serving.client.failures import AWAY
from serving.client.outbox import Counts, Outbox
from serving.errors import (
    DeadlineExceeded,
    NotFound,
    Overloaded,
    RequestIdReused,
    RequestRefused,
    ServerFault,
    ServingError,
    SnapshotNotServed,
    Unavailable,
)

GONE = Unavailable("address: nobody there")
POLICY = GetPolicyResponse(schema_digest="d" * 64, actions=["a", "b", "c"])
ANSWER = SelectResponse(decision_id=bytes(16), slots=[Slot(action="b", numerator=1, propensity=0.5)] * 2, logged=True)


class Shell:
    """Drives flows: each call is noted, and answered by the next of the replies."""

    def __init__(self, fallback: Fallback | None = None, *, has_sink: bool = False) -> None:
        numbers = iter(range(10_000))
        self.core = Core(fallback=fallback, has_sink=has_sink, now_us=lambda: 7, new_id=lambda: f"id{next(numbers)}")
        self.calls: list[Any] = []

    def run(self, flow: Any, *replies: Any) -> Any:
        answers = iter(replies)
        try:
            call = next(flow)
            while True:
                self.calls.append(call)
                reply = next(answers)
                call = flow.throw(reply) if isinstance(reply, ServingError) else flow.send(reply)
        except StopIteration as ended:
            assert next(answers, None) is None
            return ended.value

    @property
    def waiting(self) -> list[Event]:
        return self.core.outbox.head()

    def decide(self, *replies: Any, **options: Any) -> Decision:
        decided = self.run(self.core.decide("shop", unit_id="u", context=np.zeros(2), **options), *replies)
        assert isinstance(decided, Decision)
        return decided


def test_a_select_learns_the_schema_once_and_names_the_request() -> None:
    shell = Shell()
    decision = shell.decide(POLICY, ANSWER)
    assert [call.method for call in shell.calls] == ["GetPolicy", "Select"]
    sent = shell.calls[1].message
    assert sent.request_id == "id0" and sent.context.schema_digest == "d" * 64 and sent.unit_id == "u"
    assert (decision.action, decision.actions, decision.propensities, decision.is_fallback) == ("b", ("b", "b"), (0.5, 0.5), False)
    shell.decide(ANSWER)
    assert [call.method for call in shell.calls[2:]] == ["Select"]


def test_an_assignment_by_vector_asks_the_schema_once_and_again_when_it_changed() -> None:
    shell, arm = Shell(), AssignResponse(arm="e/a")
    about: dict[str, Any] = {"unit_id": "u", "context": np.zeros(2)}
    assert shell.run(shell.core.assign("shop", sticky_arm="e/a", **about), POLICY, arm) == arm
    sent = shell.calls[1].message
    assert (sent.sticky_arm, sent.context.schema_digest, len(sent.context.packed)) == ("e/a", "d" * 64, 8)
    with pytest.raises(RequestRefused):
        shell.run(shell.core.assign("shop", **about), RequestRefused("another schema", field="context.schema_digest"))
    shell.run(shell.core.assign("shop", unit_id="u"), arm)
    assert not shell.calls[-1].message.HasField("context")
    shell.run(shell.core.assign("shop", **about), POLICY, arm)
    assert [call.method for call in shell.calls] == ["GetPolicy", "Assign", "Assign", "Assign", "GetPolicy", "Assign"]


def test_a_request_id_of_the_callers_own_is_kept() -> None:
    shell = Shell()
    shell.decide(POLICY, ANSWER, request_id="mine")
    assert shell.calls[1].message.request_id == "mine"


@pytest.mark.parametrize("kind", AWAY)
def test_without_a_fallback_every_error_reaches_the_caller(kind: type[ServingError]) -> None:
    with pytest.raises(kind):
        Shell().decide(POLICY, kind("x"))


@pytest.mark.parametrize("kind", AWAY)
def test_with_a_fallback_a_server_that_is_away_is_replaced_flagged_and_told_of(kind: type[ServingError]) -> None:
    shell = Shell(Fallback())
    shell.decide(POLICY, ANSWER)
    own = shell.decide(kind("x"))
    # In the catalogue's order, as many as the task's slates had.
    assert own.actions == ("a", "b") and own.propensity == 1.0 and own.propensities == (1.0, 1.0)
    assert own.is_fallback and own.response.fallback == FALLBACK_REASON_CLIENT and not own.response.logged
    (event,) = shell.waiting
    told = event.decision
    assert told.fallback == FALLBACK_REASON_CLIENT and told.decision_id == own.decision_id and told.slots == own.response.slots
    assert (told.tenant, told.task, told.unit_id, told.request_id, told.event_time_us) == ("default", "shop", "u", "id1", 7)
    assert list(told.candidates.actions) == ["a", "b", "c"] and len(told.context) == 8
    assert shell.core.counts == Counts(fallbacks=1, waiting=1)


@pytest.mark.parametrize("kind", [RequestRefused, NotFound, SnapshotNotServed, RequestIdReused])
def test_a_request_at_fault_is_refused_with_a_fallback_too(kind: type[RequestRefused]) -> None:
    shell = Shell(Fallback())
    with pytest.raises(kind):
        shell.decide(POLICY, kind("unit_id: x", field="unit_id"))
    assert shell.core.counts == Counts()


def test_every_error_is_either_the_callers_or_means_that_the_server_is_away() -> None:
    for kind in (RequestRefused, NotFound, SnapshotNotServed, RequestIdReused, Unavailable, DeadlineExceeded, Overloaded, ServerFault):
        assert issubclass(kind, RequestRefused) != issubclass(kind, AWAY)


def test_a_fallback_is_the_same_decision_for_the_same_request_and_derives_from_it() -> None:
    shell = Shell(Fallback(actions={"shop": ["x", "y"]}))
    first, second = (shell.decide(GONE, request_id="r", slate_size=1) for _ in range(2))
    assert first.decision_id == second.decision_id
    assert first.decision_id == decision_id(tenant="default", task="shop", request_id="r", arm="client", snapshot_digest="")


def test_before_the_first_contact_the_declared_actions_stand_and_without_any_the_error_says_so() -> None:
    declared = Shell(Fallback(actions={"shop": ["x", "y", "z"]}, slate_size={"shop": 2}))
    assert declared.decide(GONE).actions == ("x", "y")
    with pytest.raises(Unavailable, match=r"name them in the request, or in fallback\.actions"):
        Shell(Fallback()).decide(GONE)


def test_candidates_of_the_request_are_ranked_by_the_callers_own_rule() -> None:
    shell = Shell(Fallback(rank=lambda request, actions: ["nobody", *sorted(actions, reverse=True), "a"]))
    assert shell.decide(POLICY, GONE, candidates=["a", "c", "b"], slate_size=3).actions == ("c", "b", "a")


def test_a_ranking_that_raises_does_not_reach_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Any, actions: Sequence[str]) -> Sequence[str]:
        raise ZeroDivisionError

    assert Shell(Fallback(rank=broken)).decide(GONE, candidates=["c", "a"], slate_size=2).actions == ("c", "a")
    assert "in the given order" in caplog.text


def test_who_may_not_be_shown_is_not_shown_by_a_fallback() -> None:
    shell = Shell(Fallback())
    request = shell.run(shell.core.request("shop", unit_id="u", context={}, candidates=["a", "b", "c"], slate_size=2))
    request.candidates.eligible.extend([False, True, True])
    answer = shell.run(shell.core.select(request), GONE)
    assert [slot.action for slot in answer.slots] == ["b", "c"]


def test_a_batch_falls_back_request_by_request() -> None:
    shell = Shell(Fallback())
    requests = [shell.run(shell.core.request("shop", unit_id=f"u{i}", context={}, candidates=["a", "b"])) for i in range(3)]
    refused = SelectResult(error=RequestError(code=3, message="unit_id: no", field="unit_id"))
    reply = SelectBatchResponse(results=[SelectResult(response=ANSWER), refused, SelectResult(error=RequestError(code=14, message="x"))])
    answers = shell.run(shell.core.select_batch(requests), reply)
    assert answers[0] == ANSWER and isinstance(answers[1], RequestRefused) and answers[2].fallback == FALLBACK_REASON_CLIENT
    answers = shell.run(shell.core.select_batch(requests), GONE)
    assert [answer.fallback for answer in answers] == [FALLBACK_REASON_CLIENT] * 3 and shell.core.counts.fallbacks == 4


def test_a_schema_that_the_server_no_longer_has_is_asked_for_again() -> None:
    shell = Shell(Fallback())
    shell.decide(POLICY, ANSWER)
    with pytest.raises(RequestRefused):
        shell.decide(RequestRefused("another schema", field="context.schema_digest"))
    shell.decide(POLICY, ANSWER)
    assert [call.method for call in shell.calls][-2:] == ["GetPolicy", "Select"]


def test_observe_tells_the_impression_and_the_rewards_by_name() -> None:
    shell = Shell()
    decision = Decision("shop", "u", ANSWER)
    assert shell.run(shell.core.observe(decision, 1.5), FeedbackResponse(accepted=2)) is True
    impression, reward = shell.calls[-1].message.events
    assert impression.impression.decision_id == reward.reward.decision_id == bytes(16)
    assert (reward.reward.name, reward.reward.value, reward.reward.HasField("slot")) == ("reward", 1.5, False)
    named = shell.core.observe(decision, {"click": 0.0, "minutes": 3.0}, slot=1, seen=[(1, "b")])
    assert shell.run(named, FeedbackResponse(accepted=3)) is True
    told = shell.calls[-1].message.events
    assert [(e.reward.name, e.reward.value, e.reward.slot) for e in told[1:]] == [("click", 0.0, 1), ("minutes", 3.0, 1)]
    assert len({e.reward.event_id or e.impression.event_id for e in told}) == 3
    shell.run(shell.core.observe(decision), FeedbackResponse(accepted=1))
    assert len(shell.calls[-1].message.events) == 1


def test_a_slate_that_could_not_be_logged_has_nothing_to_observe() -> None:
    shell = Shell()
    assert shell.run(shell.core.observe(Decision("shop", "u", SelectResponse()), 1.0)) is False and not shell.calls


def test_what_cannot_be_told_waits_in_order_and_is_delivered_when_the_server_is_back() -> None:
    shell = Shell(Fallback())
    own = shell.decide(GONE, candidates=["a"])
    # Behind what waits already: not sent, and no call is spent on it.
    assert shell.run(shell.core.observe(own, 1.0)) is False
    assert [event.WhichOneof("kind") for event in shell.waiting] == ["decision", "impression", "reward"]
    pauses = [shell.run(shell.core.deliver(), GONE) for _ in range(7)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert shell.run(shell.core.deliver(), FeedbackResponse(accepted=3)) is None
    assert shell.core.counts == Counts(fallbacks=1, delivered=3)
    assert shell.run(shell.core.observe(own), FeedbackResponse(accepted=1)) is True


def test_without_a_fallback_an_event_that_cannot_be_told_is_the_callers() -> None:
    shell = Shell()
    with pytest.raises(Unavailable):
        shell.run(shell.core.tell([signal(1)]), GONE)
    assert shell.core.counts == Counts()


def test_a_sink_takes_what_waits_in_place_of_the_server() -> None:
    shell = Shell(Fallback(), has_sink=True)
    own = shell.decide(GONE, candidates=["a"])
    assert shell.run(shell.core.deliver(), None) is None
    assert shell.calls[-1].method == SINK and shell.calls[-1].message[0].decision.decision_id == own.decision_id


def signal(number: int, *, size: int = 1) -> Event:
    return events.signal(unit_id="u" * size, name="n", event_id=f"e{number}", event_time_us=1)


def test_an_outbox_is_bounded_keeps_the_oldest_and_counts_what_it_drops(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(most=3)
    with caplog.at_level(logging.WARNING):
        outbox.put([signal(number) for number in range(5)])
    assert [event.signal.event_id for event in outbox.head()] == ["e0", "e1", "e2"]
    assert outbox.counts == Counts(waiting=3, dropped=2) and caplog.text.count("events are dropped, and counted") == 1
    large = Outbox(most=3)
    large.put([signal(0, size=2 << 20), signal(1)])
    assert large.counts == Counts(waiting=1, dropped=1)


def test_one_call_takes_so_many_events_and_bytes_and_no_more() -> None:
    outbox = Outbox(most=5_000)
    outbox.put(signal(number) for number in range(1_200))
    assert len(outbox.head()) == 500
    heavy = Outbox(most=5_000)
    heavy.put(signal(number, size=400_000) for number in range(10))
    assert len(heavy.head()) == 2


@pytest.mark.parametrize("bad", [0, 3, 6, 7])
def test_a_bad_event_among_many_is_found_by_halves_and_only_it_is_refused(bad: int) -> None:
    shell = Shell(Fallback())
    shell.core.outbox.put([signal(number) for number in range(8)])
    taken: list[str] = []
    flow = shell.core.deliver()
    try:
        call = next(flow)
        while True:
            ids = [event.signal.event_id for event in call.message.events]
            if f"e{bad}" in ids:
                call = flow.throw(NotFound("task: no", field="task"))
            else:
                taken += ids
                call = flow.send(FeedbackResponse(accepted=len(ids)))
    except StopIteration as ended:
        assert ended.value is None
    assert taken == [f"e{number}" for number in range(8) if number != bad]
    assert shell.core.counts == Counts(delivered=7, refused=1)
