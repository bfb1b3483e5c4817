"""A batch of requests that are alike is read, logged and answered to the byte as its requests are one by one."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.events_pb2 import CandidateSet, Decision
from protos.framing import Record, records
from protos.policy_pb2 import Context, SelectBatchRequest, SelectBatchResponse, SelectRequest, SelectResult
from serving.alike import Alike, read_alike
from serving.alike_batches import AlikeBatches
from serving.blocks import DecisionBlock, column
from serving.decision_log import decision_payloads
from serving.errors import LogUnavailable
from serving.idempotency import RequestMemory
from serving.observers import Observer
from serving.plain import PlainReaders, PlainRequest
from serving.servicer import Servicer
from serving.wire import head
from tests.serving.kit import promote, publish, select_request
from tests.serving.test_engine_draws import Running, shop
from tests.serving.test_plain import RULES, candidates, damaged, request

READERS = PlainReaders({rules.key: SimpleNamespace(rules=rules) for rules in RULES}, new_request_id=lambda: "drawn")


def batch_of(messages: list[SelectRequest]) -> bytes:
    return SelectBatchRequest(requests=messages).SerializeToString()


def read_apart(data: bytes) -> list[Any]:
    """What of each request of a batch differs from the first, read one by one."""
    found = [one.selection for one in READERS.batch(data) if isinstance(one, PlainRequest)]
    return [(one.unit_id, one.request_id, one.context, one.features, one.candidates.actions, one.slate_size) for one in found]


def read_together(data: bytes) -> list[Any] | None:
    found = read_alike(READERS, data)
    if found is None:
        return None
    own = [text.decode() for text in found.request_ids] or ["drawn"] * len(found)
    shared = (found.first.candidates.actions, found.first.slate_size)
    rows = zip(found.units, own, found.contexts, found.features, strict=True)
    return [(unit.decode(), name, context, features, *shared) for unit, name, context, features in rows]


def named(requests: list[SelectRequest]) -> list[SelectRequest]:
    """The same with request ids."""
    for place, one in enumerate(requests):
        one.request_id = f"request {place}"
    return requests


def varied(rules: Any, *, one_length: bool = False, **fields: Any) -> list[SelectRequest]:
    """Requests that are alike, with numbers of their own and units of several lengths."""
    rng, messages = np.random.default_rng(0), []
    for index in range(6):
        context = Context(packed=rng.normal(size=rules.context_size).astype("<f4").tobytes(), schema_digest=rules.schema_digest)
        messages.append(request(rules, unit_id="ü" * (7 if one_length else 1 + index), context=context, **fields))
    return messages


ALIKE: dict[str, Callable[[], list[SelectRequest]]] = {
    "the task's own catalogue": lambda: varied(RULES[0]),
    "named candidates": lambda: varied(RULES[0], candidates=candidates(RULES[0], "caz"), slate_size=2),
    "candidates with features": lambda: varied(RULES[1], candidates=candidates(RULES[1], "xyz")),
    "candidates at their defaults": lambda: varied(RULES[1], candidates=candidates(RULES[1], "xyz", features=False)),
    "a catalogue with features": lambda: varied(RULES[2], slate_size=1),
    "ids of their own": lambda: named(varied(RULES[2], candidates=candidates(RULES[2], "abc"))),
    "one length": lambda: varied(RULES[1], one_length=True, candidates=candidates(RULES[1], "xyz"), slate_size=2),
    "one length, without features": lambda: varied(RULES[0], one_length=True),
    "one length, ids of their own": lambda: named(varied(RULES[2], one_length=True, candidates=candidates(RULES[2], "abc"))),
}


@pytest.mark.parametrize("name", ALIKE)
def test_requests_that_are_alike_are_read_as_one_by_one(name: str) -> None:
    data = batch_of(ALIKE[name]())
    assert read_together(data) == read_apart(data) and len(read_apart(data)) == 6


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ALIKE)), st.data())
def test_a_changed_byte_is_never_read_otherwise_than_one_by_one(name: str, data: st.DataObject) -> None:
    body = damaged(batch_of(ALIKE[name]()), data)
    found = read_together(body)
    assert found is None or found == read_apart(body)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(ALIKE)), st.data())
def test_two_changed_requests_are_never_read_otherwise(name: str, data: st.DataObject) -> None:
    """A length that two fields share, moved from one to the other."""
    messages = ALIKE[name]()
    place = data.draw(st.integers(1, 5))
    messages[place].unit_id = data.draw(st.text(max_size=130))
    messages[place].slate_size = data.draw(st.integers(0, 300))
    try:
        body = batch_of(messages)
    except (UnicodeEncodeError, ValueError):
        return
    found = read_together(body)
    assert found is None or found == read_apart(body)


def test_requests_that_differ_in_anything_else_are_not_alike() -> None:
    for change in ({"slate_size": 2}, {"candidates": CandidateSet(actions=["a", "c"])}, {"explain": True}, {"tenant": "", "task": "both"}):
        messages = varied(RULES[0], candidates=candidates(RULES[0], "ab"))
        messages[3].MergeFrom(SelectRequest(**change))
        assert read_alike(READERS, batch_of(messages)) is None


def answered(running: Running, requests: list[SelectRequest], *, together: bool) -> tuple[list[SelectResult], list[bytes]]:
    """Answers and records of a batch, by an engine that remembers nothing before it."""
    running.bodies.clear()
    engine = running.engine
    engine._memory = engine._alike._memory = RequestMemory(entries=1000)
    engine.readers._new_request_id, engine._alike._new_request_ids = lambda: "drawn", lambda count: [b"drawn"] * count
    batch = engine.read_batch(batch_of(requests)) if together else engine.readers.batch(batch_of(requests))
    assert isinstance(batch, Alike) is together
    return batch_answer(running, batch), list(running.bodies)


def batch_answer(running: Running, batch: Any) -> list[SelectResult]:
    servicer = Servicer(running.engine, append_feedback=len, now_us=lambda: 0, latest_us=lambda: 0)
    return list(SelectBatchResponse.FromString(servicer.select_batch(batch)).results)


def sent(running: Running, count: int, **fields: Any) -> list[SelectRequest]:
    """Requests of one task, each with numbers of its own."""
    rng, digest = np.random.default_rng(1), running.policy.schema.digest
    contexts = [Context(packed=rng.normal(size=4).astype("<f4").tobytes(), schema_digest=digest) for _ in range(count)]
    return [select_request(running.policy, unit=f"u{10 ** (place % 4)}", context=one, **fields) for place, one in enumerate(contexts)]


CASES: dict[str, Callable[[Running], list[SelectRequest]]] = {
    "drawn ids": lambda running: sent(running, 20),
    "own ids": lambda running: named(sent(running, 20)),
    "one length": lambda running: sent(running, 9, unit_id="somebody"),
    "one length, own ids": lambda running: named(sent(running, 9, unit_id="somebody", slate_size=2)),
    "a few": lambda running: named(sent(running, 4, slate_size=1)),
    "ids of several lengths": lambda running: named(sent(running, 30, candidates=CandidateSet(actions=["a", "new one", "c", "another"]))),
    "more than a bucket": lambda running: named(sent(running, 300, slate_size=2)),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Running:
    return shop(tmp_path_factory.mktemp("alike"))


@pytest.mark.parametrize("name", CASES)
def test_answers_and_records_are_the_bytes_of_one_by_one(running: Running, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = answered(running, CASES[name](running), together=False)
    monkeypatch.setattr(running.engine, "answer", None)
    assert answered(running, CASES[name](running), together=True) == apart
    assert len({Decision.FromString(body).decision_id for body in apart[1]}) == (
        len(apart[0]) if named(CASES[name](running)) == CASES[name](running) else 1
    )


def test_what_a_batch_cannot_have_as_columns_is_answered_one_by_one(running: Running) -> None:
    """A number that is none, and an id that stands twice: the refusal or the answer is that of each request alone."""
    broken = named(sent(running, 6))
    broken[2].context.packed = b"\xff" * 16
    double = named(sent(running, 6))
    double[5].request_id = double[4].request_id
    for requests in (broken, double):
        together = answered(running, requests, together=True)
        assert together == answered(running, requests, together=False)
        assert sum(found.HasField("error") for found in together[0]) == 1 and len(together[1]) == 5


def test_a_batch_sent_again_gets_the_same_answers_and_is_not_logged_again(running: Running) -> None:
    requests = named(sent(running, 8))
    first, _ = answered(running, requests, together=True)
    running.bodies.clear()
    again = batch_answer(running, running.engine.read_batch(batch_of(requests)))
    assert again == first and running.bodies == []
    requests[3].slate_size = 1
    reused = batch_answer(running, running.engine.read_batch(batch_of([requests[3], *sent(running, 5)])))
    assert reused[0].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0] and len(running.bodies) == 5


def test_a_staged_promotion_deals_its_arms_one_by_one(tmp_path: Path) -> None:
    running = shop(tmp_path)
    promote(running.store, publish(running.store, running.policy, seed=2), share=0.5)
    running.holder.refresh()
    requests = named(sent(running, 40))
    for place, one in enumerate(requests):
        one.unit_id = f"unit {place}"
    together = answered(running, requests, together=True)
    assert together == answered(running, requests, together=False)
    assert {found.response.arm for found in together[0]} == {"champion", "challenger"}


def test_a_task_with_something_beside_its_decisions_is_answered_one_by_one(running: Running) -> None:
    batch = running.engine.read_batch(batch_of(sent(running, 6)))
    before = running.holder._served
    assert isinstance(batch, Alike) and before is not None and running.engine._alike.answer(batch) is not None
    try:
        running.holder._served = before._replace(beside=object())
        assert running.engine._alike.answer(batch) is None
    finally:
        running.holder._served = before


def test_a_log_that_takes_nothing_leaves_no_claim_behind(running: Running) -> None:
    def full(bodies: Any) -> None:
        raise LogUnavailable("log: full")

    memory = RequestMemory(entries=10)
    parts: dict[str, Any] = {"append": full, "memory": memory, "new_request_id": lambda: "drawn", "observer": Observer()}
    alike = AlikeBatches(running.engine.readers, running.engine._holders, **parts)
    batch = alike.read(batch_of(named(sent(running, 6))))
    assert batch is not None and alike.answer(batch) is None
    assert memory.claim_all([("default", "shop", f"request {place}") for place in range(6)], bodies=[b""] * 6)


def test_records_of_one_length_are_framed_as_any_other() -> None:
    """By whatever clock: the bytes that the time takes are not the same in every year."""
    bodies = [Decision(unit_id=f"unit {number}", task="t").SerializeToString() for number in range(5)]
    units = column([f"unit {number}".encode() for number in range(5)])
    block = DecisionBlock(5, [Decision(task="t").SerializeToString(), head(b"\x22", 6), units])
    assert [Decision.FromString(body) for body in block] == [Decision.FromString(body) for body in bodies] and block[2] == list(block)[2]
    for now_us in (1, 1_700_000_000_000_000, 1 << 60, 200):
        found = list(records(block.framed(now_us), whole=True))
        assert [item.payload for item in found if isinstance(item, Record)] == list(decision_payloads(list(block), now_us))
