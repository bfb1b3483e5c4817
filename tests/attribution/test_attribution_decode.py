"""Bytes to columns: what is kept, what is refused and why."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attribution.admission import REASONS
from attribution.decisions import decision_table
from attribution.decode import decode
from attribution.events import EVENT_SCHEMA, Raw, empty_events
from protos.events_pb2 import Event, Signal
from protos.observations import DECISION_COLUMNS, decision_row
from tests.attribution.event_kit import decision, heartbeat, impression, reward, table, us


def without(event: Event, field: str) -> Event:
    body = getattr(event, str(event.WhichOneof("kind")))
    body.ClearField(field)
    return event


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (without(decision(), "decision_id"), "decision_id_missing"),
        (without(decision(), "slots"), "slate_empty"),
        (without(decision(), "unit_id"), "unit_id_missing"),
        (without(decision(), "event_time_us"), "event_time_missing"),
        (without(impression(), "event_id"), "event_id_missing"),
        (without(impression(), "decision_id"), "decision_id_missing"),
        (reward(value=None), "value_missing"),
        (reward(value=float("nan")), "value_not_finite"),
        (reward(value=float("inf")), "value_not_finite"),
        (without(reward(), "name"), "name_missing"),
        (Event(reward=reward().reward), "append_time_missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_event_that_lacks_something_says_what(event: Event, fault: str) -> None:
    assert table(event)["fault"].to_list() == [fault]
    assert fault in REASONS


def test_malformed_ids_and_vectors_are_refused() -> None:
    short, ragged, elsewhere = decision(), decision(), heartbeat("rewards")
    short.decision.decision_id, ragged.decision.context, elsewhere.heartbeat.partition = b"short", b"12345", 3
    assert table(short, ragged, elsewhere)["fault"].to_list() == ["decision_id_malformed", "features_malformed", "heartbeat_elsewhere"]


@pytest.mark.parametrize("payload", [b"", b"\xff\xff\xff", Event(append_time_us=1).SerializeToString()])
def test_bytes_that_are_no_event_are_kept_as_undecodable(payload: bytes) -> None:
    (row,) = decode([Raw("decisions", 0, 7, payload, append_time_us=5)]).to_dicts()
    assert (row["kind"], row["fault"], row["offset"], row["payload"]) == ("undecodable", "undecodable", 7, payload)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_garbage_never_raises(payloads: list[bytes]) -> None:
    events = decode([Raw("rewards", 0, offset, payload) for offset, payload in enumerate(payloads)])
    assert events.height == len(payloads) and events.columns == EVENT_SCHEMA.names


def test_columns_have_one_type_whatever_kinds_a_batch_holds() -> None:
    signal = Event(signal=Signal(event_id="s", tenant="default", unit_id="u", name="login", event_time_us=us(0)), append_time_us=us(0))
    schema = empty_events().schema
    for events in ([decision()], [impression(seen=[])], [reward()], [signal], [heartbeat("rewards")], [decision(), reward(), signal]):
        assert table(*events).schema == schema
        assert not table(*events)["fault"].drop_nulls().len()


def test_slots_beyond_int32_stay_slots_that_no_slate_has() -> None:
    assert table(reward(slot=2**32 - 1))["slot"].to_list() == [2**31 - 1]
    assert table(impression(seen=[(2**32 - 1, "a")]))["seen_slots"].to_list() == [[2**31 - 1]]


def test_decisions_become_the_same_columns_in_bulk_as_one_by_one() -> None:
    plain, rich = decision(1), decision(2, slate=("d",))
    body = rich.decision
    body.candidates.eligible.extend([True, False, True, True])
    body.candidates.packed_features, body.candidates.catalogue = bytes(16), "default"
    body.candidates.scores.extend([0.1, 0.2, 0.3, 0.4])
    body.slots[0].ClearField("score")
    body.slots[0].value, body.slots[0].density = 0.0, 2.0
    body.defaulted_features.append("age")
    bulk = decision_table([event.SerializeToString() for event in (plain, rich)])
    singly: list[dict[str, Any]] = [decision_row(event.decision) for event in (plain, rich)]
    assert bulk.equals(pa.Table.from_pylist(singly, schema=pa.schema(DECISION_COLUMNS)))
    assert decision_table([]).num_rows == 0
