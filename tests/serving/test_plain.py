"""Plain requests read from their bytes are what protobuf and `validate` make of the same bytes, and nothing else is taken as plain."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.events_pb2 import CandidateSet
from protos.policy_pb2 import CandidateFeatures, Context, FeatureValue, SelectBatchRequest, SelectRequest, SelectResponse
from protos.task import TaskFile
from serving.errors import ServingError
from serving.idempotency import RequestMemory
from serving.plain import PlainReaders, PlainRequest, Span, spans
from serving.tasks import TaskRules, parse_rules
from serving.validate import find_task, validate
from tests.serving.kit import RANKED, TASK, select_request
from tests.serving.test_engine_draws import shop as running_shop


def rules_of(content: dict[str, Any]) -> TaskRules:
    about = {"name": content["task"], "tenant": content.get("tenant", "default"), "digest": "0" * 64}
    return parse_rules(TaskFile(sections={name: value for name, value in content.items() if name not in ("task", "tenant")}, **about))


# Both tasks, and one whose candidates have features and that has a catalogue.
RULES = [rules_of(TASK), rules_of({**RANKED, "features": {**RANKED["features"], "context": [{"name": "age"}]}})]
RULES.append(rules_of({**TASK, "task": "both", "features": {**TASK["features"], "action": [{"name": "price", "default": 2.0}]}}))
READERS = PlainReaders({rules.key: SimpleNamespace(rules=rules) for rules in RULES}, new_request_id=lambda: "drawn")
SHOP = RULES[0]


def packed(count: int) -> bytes:
    return np.arange(1, count + 1, dtype="<f4").tobytes()


def request(rules: TaskRules, **fields: Any) -> SelectRequest:
    context = Context(packed=packed(rules.context_size), schema_digest=rules.schema_digest)
    given: dict[str, Any] = {"task": rules.name, "unit_id": "u", "context": context, "tenant": rules.tenant}
    return SelectRequest(**{**given, **fields})


def candidates(rules: TaskRules, actions: str, *, features: bool = True) -> CandidateSet:
    count = rules.feature_size * len(actions)
    return CandidateSet(actions=list(actions), packed_features=packed(count) if features else b"")


PLAIN: dict[str, Callable[[], SelectRequest]] = {
    "the task's own catalogue": lambda: request(SHOP),
    "without its tenant": lambda: request(SHOP, tenant=""),
    "named candidates": lambda: request(SHOP, candidates=candidates(SHOP, "caz")),
    "candidates with features": lambda: request(RULES[1], candidates=candidates(RULES[1], "xyz")),
    "candidates at their defaults": lambda: request(RULES[1], candidates=candidates(RULES[1], "xyz", features=False)),
    "a catalogue with features": lambda: request(RULES[2]),
    "all of it": lambda: request(RULES[2], request_id="ä" * 60, unit_id="x" * 127, candidates=candidates(RULES[2], "abc"), slate_size=2),
}
# What is sound and has to go the long way.
OTHER: dict[str, Callable[[], SelectRequest]] = {
    "explained": lambda: request(SHOP, explain=True),
    "with a parent": lambda: request(SHOP, parent_decision_id=bytes(16)),
    "by name": lambda: request(SHOP, context=Context(features={"member": FeatureValue(flag=True)})),
    "some eligible": lambda: request(SHOP, candidates=CandidateSet(actions=list("abcd"), eligible=[True, True, False, True])),
    "ranked": lambda: request(SHOP, candidates=CandidateSet(actions=list("abc"), scores=[1.0, 2.0, 3.0])),
    "from the catalogue": lambda: request(SHOP, candidates=CandidateSet(actions=list("abc"), catalogue="default")),
    "features by name": lambda: request(
        RULES[1], candidates=CandidateSet(actions=list("xyz")), candidate_features=[CandidateFeatures() for _ in "xyz"]
    ),
    "with a sticky arm": lambda: request(SHOP, sticky_arm="e/a"),
    "a unit of 128 bytes": lambda: request(SHOP, unit_id="x" * 128),
}


def long_way(data: bytes) -> Any:
    """The selection, or the refusal's type and text, by protobuf and `validate`."""
    message = SelectRequest.FromString(data)
    rules = find_task({rules.key: rules for rules in RULES}, tenant=message.tenant, task=message.task)
    return validate(message, rules, request_id="" if message.request_id else "drawn")


def agrees(data: bytes) -> bool:
    """Was it read as plain, and then as the long way reads it?"""
    found = READERS._plain(data, Span(0, len(data)))
    if found is None:
        return False
    wanted = long_way(data)
    assert found.selection._replace(candidates=wanted.candidates) == wanted
    assert found.selection.candidates.actions == wanted.candidates.actions
    message = SelectRequest.FromString(data)
    assert found.body == (message.SerializeToString(deterministic=True) if message.request_id else b"")
    return True


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_request_is_read_as_the_long_way_reads_it(name: str) -> None:
    data = PLAIN[name]().SerializeToString()
    assert agrees(data) and agrees(data)


@pytest.mark.parametrize("name", OTHER)
def test_any_other_goes_the_long_way(name: str) -> None:
    data = OTHER[name]().SerializeToString()
    assert long_way(data) and not agrees(data) and READERS.one(data) == OTHER[name]()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(PLAIN)), st.data())
def test_a_changed_byte_is_never_read_otherwise_than_the_long_way_reads_it(name: str, data: st.DataObject) -> None:
    agrees(damaged(PLAIN[name]().SerializeToString(), data))


def damaged(message: bytes, data: st.DataObject) -> bytes:
    """The message with one byte set, dropped or inserted, or cut off at some place."""
    body = bytearray(message)
    at = data.draw(st.integers(0, len(body) - 1))
    change = data.draw(st.sampled_from(["set", "drop", "insert", "cut"]))
    if change == "set":
        body[at] = data.draw(st.integers(0, 255))
    elif change == "drop":
        del body[at]
    elif change == "insert":
        body.insert(at, data.draw(st.integers(0, 255)))
    else:
        del body[at:]
    return bytes(body)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_behind_a_sound_beginning_are_read_as_the_long_way_reads_them(rest: bytes) -> None:
    for rules in RULES:
        agrees(request(rules).SerializeToString() + rest)


def test_the_comparison_finds_a_reader_that_misreads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The known-bad case: a reader that takes a slate size for another."""
    reader = READERS._reader(b"\x12\x04shop")
    monkeypatch.setattr(reader, "_default_size", 2)
    with pytest.raises(AssertionError):
        agrees(PLAIN["without its tenant"]().SerializeToString())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*PLAIN, *OTHER]), max_size=6), st.binary(max_size=3))
def test_a_batch_is_its_requests_in_order(names: list[str], rest: bytes) -> None:
    messages = [{**PLAIN, **OTHER}[name]() for name in names]
    data = SelectBatchRequest(requests=messages).SerializeToString() + rest
    try:
        wanted = list(SelectBatchRequest.FromString(data).requests)
    except DecodeError:
        with pytest.raises(DecodeError):
            READERS.batch(data)
        return
    found = READERS.batch(data)
    assert len(found) == len(wanted)
    for one, message in zip(found, wanted, strict=True):
        own = long_way(message.SerializeToString())
        assert one.selection[1:5] == own[1:5] if isinstance(one, PlainRequest) else one == message


def test_the_spans_of_a_batch_are_its_requests() -> None:
    bodies = [PLAIN[name]().SerializeToString() for name in PLAIN]
    data = SelectBatchRequest(requests=[SelectRequest.FromString(body) for body in bodies]).SerializeToString()
    assert [data[start:end] for start, end in spans(data) or ()] == bodies
    assert spans(data[:-1]) is None and spans(data + b"\x10\x00") is None and spans(b"") == []


def test_answers_and_records_are_the_same_bytes_whichever_way_a_request_came(tmp_path: Path) -> None:
    running = running_shop(tmp_path / "plain")
    engine, shop = running.engine, running.policy
    sent = [select_request(shop, unit=f"u{index}", request_id=f"r{index}", slate_size=1 + index % 3) for index in range(40)]
    sent.append(select_request(shop, request_id="none", slate_size=3, candidates=CandidateSet(actions=["a", "b", "new"])))
    sent.append(select_request(shop, request_id="nan", context=Context(packed=b"\xff" * 16, schema_digest=shop.schema.digest)))

    def taken(way: Callable[[SelectRequest], Any]) -> tuple[list[Any], list[bytes]]:
        running.bodies.clear()
        engine._memory = RequestMemory(entries=100)
        answers = engine.answer([way(message) for message in sent])
        return [str(found) if isinstance(found, ServingError) else found for found in answers], list(running.bodies)

    plain = taken(lambda message: engine.readers.one(message.SerializeToString()))
    assert all(isinstance(engine.readers.one(message.SerializeToString()), PlainRequest) for message in sent)
    assert plain == taken(lambda message: message) and len(plain[1]) == len(sent) - 1
    assert len({SelectResponse.FromString(found).decision_id for found in plain[0][:-1]}) == len(sent) - 1


def test_the_reader_follows_the_rules_of_its_task() -> None:
    """A catalogue that was loaded anew is read from the next request on."""
    holder = SimpleNamespace(rules=RULES[2])
    readers = PlainReaders({RULES[2].key: holder}, new_request_id=lambda: "drawn")
    data = PLAIN["a catalogue with features"]().SerializeToString()
    holder.rules = rules_of({**TASK, "task": "both", "features": {**TASK["features"], "action": [{"name": "price", "default": 3.0}]}})
    renamed = request(holder.rules).SerializeToString()
    assert readers._plain(data, Span(0, len(data))) is None
    found = readers._plain(renamed, Span(0, len(renamed)))
    assert found is not None and np.frombuffer(found.selection.features, "<f4").tolist() == [3.0] * 5
