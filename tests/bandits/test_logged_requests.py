"""Requests from the log: what was decided comes back as columns, and every slate as indices into its own candidates."""

import numpy as np
import pytest

from bandits.errors import FeatureError
from bandits.keys import draw_key, sticky_key
from bandits.requests import Requests, requests_from_observations
from protos.events_pb2 import CandidateSet, Decision
from tests.bandits.observed import decision, observation, table

ACTIONS = ("a", "b", "c")


def columns(*decisions: Decision, feature_size: int = 0) -> tuple[Requests, np.ndarray]:
    rows = table(observation(decided, rewards=[None] * len(decided.slots)) for decided in decisions)
    return requests_from_observations(rows, actions=ACTIONS, context_size=2, feature_size=feature_size)


def packed(numbers: list[float]) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def test_candidates_of_different_lengths_are_padded_and_slates_index_their_own_row() -> None:
    requests, slates = columns(
        decision(1, candidates=["c", "a", "b", "x"], slate=["b", "c"]),
        decision(2, candidates=["b"], slate=["b"]),
        decision(3, candidates=["a", "y"], slate=["y", "a"]),
    )
    np.testing.assert_array_equal(requests.actions, [[2, 0, 1, 3], [1, 3, 3, 3], [0, 3, 3, 3]])
    np.testing.assert_array_equal(requests.eligible, [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(slates, [[2, 0], [0, -1], [1, 0]])
    np.testing.assert_array_equal(requests.slots, [2, 1, 2])
    np.testing.assert_array_equal(requests.context, [[1, 4], [2, 3], [3, 2]])
    assert [column.dtype for column in requests] == [np.float32, np.int32, np.float32, np.float64, np.bool_, np.int32, np.uint32]
    assert slates.dtype == np.int32 and requests.n_rows == 3


def test_candidates_that_were_not_eligible_stay_so_and_no_list_means_all() -> None:
    requests, _ = columns(
        decision(1, candidates=[], slate=["a"]),
        Decision(**decision_fields(2, CandidateSet(actions=["a", "b", "c"], eligible=[True, False, True]))),
        decision(3, candidates=["a", "b"]),
    )
    np.testing.assert_array_equal(requests.eligible, [[0, 0, 0], [1, 0, 1], [1, 1, 0]])


def decision_fields(number: int, candidates: CandidateSet) -> dict[str, object]:
    fields = {field.name: value for field, value in decision(number).ListFields()}
    return {**fields, "candidates": candidates}


def test_a_slot_whose_action_was_no_candidate_is_absent() -> None:
    _, slates = columns(decision(1, candidates=["a", "b"], slate=["z", "b"]))
    np.testing.assert_array_equal(slates, [[-1, 1]])


def test_features_of_the_candidates_are_dealt_out_row_by_row() -> None:
    two = CandidateSet(actions=["a", "b"], packed_features=packed([1, 2, 3, 4]))
    one = CandidateSet(actions=["c"], packed_features=packed([5, 6]))
    requests, _ = columns(Decision(**decision_fields(1, two)), Decision(**decision_fields(2, one)), feature_size=2)
    np.testing.assert_array_equal(requests.features, [[[1, 2], [3, 4]], [[5, 6], [0, 0]]])


@pytest.mark.parametrize("feature_size", [1, 3])
def test_features_of_another_schema_are_refused(feature_size: int) -> None:
    wrong = CandidateSet(actions=["a", "b"], packed_features=packed([1, 2, 3, 4]))
    with pytest.raises(FeatureError, match="packed_features"):
        columns(Decision(**decision_fields(1, wrong)), feature_size=feature_size)


def test_a_context_of_another_schema_is_refused() -> None:
    with pytest.raises(FeatureError, match="context: a logged vector has 3 numbers, the schema 2"):
        columns(decision(1), decision(2, context=packed([1, 2, 3])))


def test_keys_follow_what_the_decision_says() -> None:
    requests, _ = columns(
        decision(1), decision(2, draw_by=""), decision(3, draw_by="unit", epoch=4), decision(4, draw_by="unit+epoch", epoch=4)
    )
    expected = [
        draw_key((1).to_bytes(16, "little")),
        draw_key((2).to_bytes(16, "little")),
        sticky_key(task="small", unit_id="unit-3", epoch=0),
        sticky_key(task="small", unit_id="unit-4", epoch=4),
    ]
    np.testing.assert_array_equal(requests.draw_key, np.stack(expected))


def test_no_rows_are_no_requests() -> None:
    requests, slates = columns()
    assert requests.n_rows == len(slates) == 0 and requests.context.shape == (0, 2) and requests.draw_key.shape == (0, 2)


def test_a_slice_and_a_table_in_chunks_give_the_rows_that_they_show() -> None:
    import pyarrow as pa

    decisions = [decision(number, candidates=["a", "b", "c"][: number % 3 + 1], slate=["a"]) for number in range(9)]
    rows = table(observation(decided, rewards=[1.0]) for decided in decisions)
    whole, _ = requests_from_observations(rows, actions=ACTIONS, context_size=2, feature_size=0)
    chunked = pa.concat_tables([rows.slice(4, 2), rows.slice(6, 3)])
    part, _ = requests_from_observations(chunked, actions=ACTIONS, context_size=2, feature_size=0)
    for one, other in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one, other[4:9])
