"""The columns of an observation come from the messages, field by field, and a decision survives the way through Arrow."""

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protos.events_pb2 import ARM_SOURCE_STICKY, FALLBACK_REASON_LOG_FULL, CandidateSet, Decision, Slot
from protos.observations import DECISION_COLUMNS, OBSERVATION_SCHEMA, decision_row
from tests.bandits.observed import observation, table

FULL = Decision(
    decision_id=bytes(range(16)),
    tenant="t",
    task="news",
    unit_id="u",
    request_id="r",
    parent_decision_id=bytes(16),
    event_time_us=1_700_000_000_000_000,
    context=np.array([1.5, -2.25], "<f4").tobytes(),
    candidates=CandidateSet(
        actions=["a", "b"],
        catalogue="default",
        eligible=[True, False],
        packed_features=np.array([1, 2], "<f4").tobytes(),
        scores=[0.5, 1.0],
    ),
    slots=[
        Slot(action="a", numerator=1 << 31, propensity=1.0, score=0.0),
        Slot(action="b", numerator=1, propensity=2.0**-31, value=3.0, density=0.1),
    ],
    policy="uniform",
    snapshot_digest="s" * 64,
    arm="champion",
    arm_probability=0.5,
    config_digest="c" * 64,
    schema_digest="f" * 64,
    bucket_batch=256,
    bucket_candidates=8,
    fallback=FALLBACK_REASON_LOG_FULL,
    defaulted_features=["age"],
    draw_by="unit+epoch",
    epoch=-3,
    trace_id="0" * 32,
    arm_source=ARM_SOURCE_STICKY,
    ineligible_for=["ranker"],
    unit_features="v1",
)


def leaves(descriptor: Descriptor | None) -> int:
    assert descriptor is not None
    return sum(leaves(field.message_type) if field.type == FieldDescriptor.TYPE_MESSAGE else 1 for field in descriptor.fields)


def test_every_field_of_a_decision_is_a_column_once() -> None:
    assert len(DECISION_COLUMNS) == leaves(Decision.DESCRIPTOR)
    assert len(set(OBSERVATION_SCHEMA.names)) == len(OBSERVATION_SCHEMA.names)
    assert list(decision_row(FULL)) == [field.name for field in DECISION_COLUMNS]


def test_the_example_above_sets_every_field() -> None:
    assert {field.name for field, _ in FULL.ListFields()} == {field.name for field in Decision.DESCRIPTOR.fields}


def test_no_column_is_unsigned_because_delta_has_none() -> None:
    assert not any("uint" in str(field.type) for field in OBSERVATION_SCHEMA)


def test_a_decision_goes_through_arrow_and_comes_back() -> None:
    row = table([observation(FULL)]).to_pylist()[0]
    assert row["decision_time_us"] == FULL.event_time_us and row["decision_id"] == FULL.decision_id
    assert row["context"] == [1.5, -2.25] and row["candidate_packed_features"] == [1.0, 2.0]
    assert row["slot_action"] == ["a", "b"] and row["slot_numerator"] == [1 << 31, 1]
    assert row["slot_score"] == [0.0, None], "a score of zero is data, an unset one is null"
    assert row["slot_value"] == [None, 3.0] and row["slot_density"] == [None, 0.1]
    assert row["candidate_eligible"] == [True, False] and row["candidate_scores"] == [0.5, 1.0]
    assert row["fallback"] == FALLBACK_REASON_LOG_FULL and row["epoch"] == -3 and row["defaulted_features"] == ["age"]


def test_an_empty_decision_is_a_row_of_empty_values() -> None:
    row = table([observation(Decision(), rewards=[])]).to_pylist()[0]
    assert row["slot_action"] == row["candidate_actions"] == row["context"] == [] and row["tenant"] == ""


def test_a_packed_vector_of_broken_length_is_no_vector() -> None:
    with pytest.raises(ValueError, match="multiple of element size"):
        decision_row(Decision(context=b"\0\0\0"))


def test_the_schema_is_one_that_a_table_can_have() -> None:
    assert pa.schema(OBSERVATION_SCHEMA).empty_table().num_rows == 0
