"""Rows out of the observations table, and their weights under snapshots."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from ope import observed, scoring
from ope.errors import SourceError
from protos.observations import OBSERVATION_SCHEMA
from protos.task import TaskFile
from tests.ope.digits_world import World, begin

ROWS = 300


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield begin(tmp_path_factory.mktemp("observed"))


@pytest.fixture(scope="module")
def table(world: World) -> pa.Table:
    return world.live(ROWS)


def changed(table: pa.Table, **columns: list[object]) -> pa.Table:
    for name, values in columns.items():
        field = OBSERVATION_SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def small(**columns: list[object]) -> pa.Table:
    """A table of a few rows with the columns that are named; the others are null or empty."""
    n = len(next(iter(columns.values())))
    defaults: dict[str, list[object]] = {
        "decision_id": [bytes([i]) for i in range(n)],
        "unit_id": ["u"] * n,
        "decision_time_us": [*range(n)],
    }
    rows = {name: columns.get(name, defaults.get(name, [None] * n)) for name in OBSERVATION_SCHEMA.names}
    return pa.table(rows, schema=OBSERVATION_SCHEMA)


def test_rewards_of_unseen_slots_are_zero_and_the_slates_own_stands_in_its_last_slot() -> None:
    table = small(slot_numerator=[[5, 6, 7], [8]], slot_reward=[[1.0, None, 0.25], [None]], reward=[1.75, 2.0])
    rows = observed.observed(table, metric="reward")
    np.testing.assert_array_equal(rows.reward, [[1.0, 0.0, 0.75], [2.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rows.present, [[True, True, True], [True, False, False]])
    np.testing.assert_array_equal(rows.numerator, [[5, 6, 7], [8, 0, 0]])


def test_a_named_outcome_is_taken_by_slot_and_slate_and_an_unknown_one_names_those_there_are() -> None:
    def outcome(name: str, slot: int | None, value: float) -> dict[str, object]:
        return {"name": name, "slot": slot, "value": value, "status": "final", "count": 1}

    outcomes = [[outcome("right", 0, 1.0), outcome("right", None, 0.5), outcome("minutes", 1, 9.0)], [outcome("right", 1, 3.0)]]
    table = small(slot_numerator=[[5, 6], [8, 9]], outcomes=outcomes, reward=[0.0, 0.0])
    np.testing.assert_array_equal(observed.observed(table, metric="right").reward, [[1.0, 0.5], [0.0, 3.0]])
    with pytest.raises(SourceError, match="no row has an outcome 'rihgt'; known: reward, minutes, right"):
        observed.observed(table, metric="rihgt")


def test_rows_that_no_policy_drew_or_that_were_shown_otherwise_are_left_out_and_counted_once() -> None:
    table = small(overridden=[True, False, False, False], logged=[False, False, True, True], fallback=[2, 2, 1, 0])
    kept, counts = observed.usable(table)
    assert kept.num_rows == 1 and counts == {"overridden": 1, "unlogged": 1, "fallback": 1}


def test_rows_behind_the_first_open_one_wait() -> None:
    table = small(status=["final", "corrected", "provisional", "final"])
    assert observed.settled(table).num_rows == 2
    assert observed.settled(table.slice(0, 2)).num_rows == 2


def test_the_latest_revision_of_each_decision_is_kept_in_order_of_time() -> None:
    table = small(decision_id=[b"b", b"a", b"b"], decision_time_us=[2, 1, 2], revision=[2, 1, 1], reward=[7.0, 1.0, 6.0])
    assert observed.latest(table)["reward"].to_pylist() == [1.0, 7.0]


def test_the_longest_window_is_of_outcomes_and_impressions_and_the_grace_period_is_added() -> None:
    def task(**sections: object) -> TaskFile:
        return TaskFile("t", "default", sections, "0" * 64)

    rewards, joining = {"outcomes": {"a": {"window_s": 2.0}, "b": {"window_s": 60}}}, {"impression_window_s": 5.0, "grace_s": 1.5}
    assert observed.longest_window_us(task(rewards=rewards, attribution=joining)) == 61_500_000
    with pytest.raises(SourceError, match=r"rewards\.outcomes\.a\.window_s: 'soon'"):
        observed.longest_window_us(task(rewards={"outcomes": {"a": {"window_s": "soon"}}}))


def test_a_policys_weights_on_its_own_decisions_are_one(world: World, table: pa.Table) -> None:
    policy = world.store.load(table["snapshot_digest"][0].as_py())
    rows = observed.observed(table, metric="reward")
    (weight,), unsupported = scoring.weights(scoring.score(table, [policy]), rows)
    np.testing.assert_allclose(weight, 1.0, rtol=1e-12)
    assert weight.shape == (ROWS, 3) and not unsupported.any()


def test_scores_added_in_parts_are_those_of_the_whole(world: World, table: pa.Table) -> None:
    policy = world.store.load(table["snapshot_digest"][0].as_py())
    rows, scores = observed.observed(table, metric="reward"), scoring.no_scores(2)
    for part in (table.slice(100), table.slice(0, 100)):
        assert scoring.missing(scores, part["decision_id"].to_pylist()).all()
        scores = scoring.add_scores(scores, scoring.score(part, [policy, policy]))
    assert not scoring.missing(scores, rows.decision_id).any()
    for found, expected in zip(scoring.weights(scores, rows)[0], [np.ones((ROWS, 3))] * 2, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_action_that_no_row_logged_is_named_as_unsupported(world: World, table: pa.Table) -> None:
    policy = world.store.load(table["snapshot_digest"][0].as_py())
    without = [i for i, slate in enumerate(table["slot_action"].to_pylist()) if "7" not in slate]
    part = table.take(without)
    scores, rows = scoring.score(part, [policy]), observed.observed(part, metric="reward")
    assert not scoring.weights(scores, rows)[1].any(), "the logger's own draws are what was logged"
    other = scores._replace(taken=np.where(scores.taken == 3, 7, scores.taken))
    assert scoring.weights(other, rows)[1].sum() == (scores.taken == 3).any(axis=1).sum() > 0
