"""The join's rules one by one, small enough to check by hand."""

from typing import Any

import pytest

from attribution.join import Stepped, empty_state, step
from attribution.settings import JoinConfig, load_join_config
from protos.events_pb2 import FALLBACK_REASON_CLIENT, Event
from protos.observations import OBSERVATION_SCHEMA
from tests.attribution.event_kit import TASK, decision, impression, join_config, number, reward, table, task_directory, us

CLOSE_S = 20.0


@pytest.fixture
def config(tmp_path: Any) -> JoinConfig:
    return join_config(tmp_path)


def one_step(config: JoinConfig, *events: Event, until: float = CLOSE_S) -> Stepped:
    return step(empty_state(), table(*events), watermark_us=us(until), config=config)


def only_row(stepped: Stepped) -> dict[str, Any]:
    (row,) = stepped.rows.to_pylist()
    return dict(row)


def test_every_decision_yields_a_row_at_the_close_of_its_longest_window_and_not_before(config: JoinConfig) -> None:
    assert one_step(config, decision(), until=CLOSE_S - 0.001).rows.num_rows == 0
    stepped = one_step(config, decision())
    row = only_row(stepped)
    assert row["decision_id"] == number(1) and row["revision"] == 1 and row["status"] == "final" and row["logged"]
    assert row["slot_seen"] == [False] * 3 and row["slot_reward"] == [None] * 3 and row["reward"] == 0.0
    assert set(stepped.rows.schema.names) == set(OBSERVATION_SCHEMA.names) - {"watermark_us", "commit_seq"}
    assert step(stepped.state, table(), watermark_us=us(CLOSE_S + 1), config=config).rows.num_rows == 0


def test_unseen_slots_are_null_and_seen_slots_without_reward_have_the_default(config: JoinConfig) -> None:
    row = only_row(one_step(config, decision(), impression(), reward(slot=1, value=0.0)))
    assert row["slot_seen"] == [True, True, False] and row["slot_reward"] == [0.0, 0.0, None]
    by_name = {(outcome["name"], outcome["slot"]): (outcome["value"], outcome["status"], outcome["count"]) for outcome in row["outcomes"]}
    assert by_name["click", 1] == (0.0, "final", 1), "a reward of zero is data"
    assert by_name["click", 0] == (0.0, "missing", 0) and by_name["rating", None] == (-1.0, "missing", 0)
    assert ("click", 2) not in by_name


def test_rewards_belong_to_a_slot_an_action_or_the_slate(config: JoinConfig) -> None:
    row = only_row(
        one_step(
            config,
            decision(),
            impression(),
            reward("r1", slot=0),
            reward("r2", action="b", outcome="minutes", value=3.0),
            reward("r3", outcome="minutes", value=4.0),
            reward("r4", slot=2, value=9.0),
        )
    )
    assert row["slot_reward"] == [1.0, 1.5, None], "the reward of an unseen slot is recorded and does not count"
    assert row["reward"] == 1.0 + 1.5 + 2.0
    assert {"name": "click", "slot": 2, "value": 9.0, "status": "final", "count": 1} in row["outcomes"]


@pytest.mark.parametrize(
    ("aggregate", "value"), [("first", 5.0), ("last", 2.0), ("sum", 10.0), ("max", 5.0), ("mean", 10 / 3), ("count", 3.0)]
)
def test_several_rewards_of_a_slot_are_aggregated_as_the_config_says(tmp_path: Any, aggregate: str, value: float) -> None:
    config = load_join_config(task_directory(tmp_path, TASK.replace("aggregate: max", f"aggregate: {aggregate}")))
    rewards = [reward("r1", 3.0, slot=0, value=3.0), reward("r2", 1.0, slot=0, value=5.0), reward("r3", 4.0, slot=0, value=2.0)]
    assert only_row(one_step(config, decision(), impression(), *rewards))["slot_reward"][0] == pytest.approx(value, rel=1e-15)


def test_an_impression_without_slots_is_of_the_whole_slate(config: JoinConfig) -> None:
    assert only_row(one_step(config, decision(), impression(seen=[])))["slot_seen"] == [True] * 3


def test_windows_are_by_event_time_half_open_and_forgive_the_grace_before_the_decision(config: JoinConfig) -> None:
    events = [decision(at=5.0), impression("i1", 3.0, seen=[(0, "a")]), impression("i2", 15.0, seen=[(1, "b")])]
    stepped = one_step(config, *events, impression("i3", 2.9, seen=[(2, "c")]), until=25.0)
    assert only_row(stepped)["slot_seen"] == [True, False, False]
    assert stepped.state.counts[0]["outside_window"] == 2


def test_a_late_event_makes_a_corrected_revision_until_the_horizon_is_over(config: JoinConfig) -> None:
    first = one_step(config, decision(), impression())
    late = reward(slot=0, logged=CLOSE_S + 2.0 + 5.0)
    second = step(first.state, table(late), watermark_us=us(30.0), config=config)
    row = only_row(second)
    assert row["revision"] == 2 and row["status"] == "corrected" and row["slot_reward"][0] == 1.0
    again = step(second.state, table(late), watermark_us=us(31.0), config=config)
    assert again.rows.num_rows == 0 and again.state.counts[0]["duplicates"] == 1, "what changes nothing makes no revision"
    too_late = reward("r2", slot=1, logged=CLOSE_S + 2.0 + 30.0)
    assert step(again.state, table(too_late), watermark_us=us(32.0), config=config).rows.num_rows == 0


def test_an_event_that_was_logged_in_time_is_no_correction_however_late_we_look(config: JoinConfig) -> None:
    first = one_step(config, decision(), impression())
    row = only_row(step(first.state, table(reward(slot=0, logged=CLOSE_S + 1.0)), watermark_us=us(30.0), config=config))
    assert row["revision"] == 2 and row["status"] == "final"


def test_of_two_payloads_under_one_id_the_same_wins_in_either_order(config: JoinConfig) -> None:
    one, other = reward(slot=0, value=1.0), reward(slot=0, value=2.0)
    rows = [only_row(one_step(config, decision(), impression(), *pair)) for pair in ([one, other], [other, one])]
    assert rows[0]["slot_reward"] == rows[1]["slot_reward"] and rows[0]["slot_reward"][0] in (1.0, 2.0)


def test_a_retried_decision_counts_once_and_the_first_logged_stands(config: JoinConfig) -> None:
    stepped = one_step(config, decision(at=0.0), decision(at=1.0), until=30.0)
    assert only_row(stepped)["decision_time_us"] == us(0.0) and stepped.state.counts[0] == {"duplicates": 1}
    later = step(stepped.state, table(decision(at=2.0)), watermark_us=us(31.0), config=config)
    assert later.rows.num_rows == 0 and later.state.counts[0] == {"duplicates": 2}


def test_orphans_wait_for_their_decision_and_are_counted_in_the_end(config: JoinConfig) -> None:
    waiting = step(empty_state(), table(impression(), reward(slot=0)), watermark_us=us(15.0), config=config)
    assert not waiting.state.counts
    assert only_row(step(waiting.state, table(decision()), watermark_us=us(20.0), config=config))["reward"] == 1.0
    over = step(waiting.state, table(), watermark_us=us(200.0), config=config)
    assert over.state.counts[0] == {"orphans": 2} and over.state.feedback.is_empty()


@pytest.mark.parametrize("seen", [[(0, "d")], [(1, "a")], [(0, "a"), (3, "a")]], ids=["outside the slate", "another slot", "no such slot"])
def test_a_slate_shown_otherwise_than_decided_is_overridden(config: JoinConfig, seen: list[tuple[int, str]]) -> None:
    assert only_row(one_step(config, decision(), impression(seen=seen)))["overridden"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (impression(seen=[(0, "x"), (1, "b")]), "no_candidate"),
        (impression(unit="u2"), "other_unit"),
        (reward(unit="u2", slot=0), "other_unit"),
        (reward(slot=5), "no_such_slot"),
        (reward(slot=0, action="b"), "slot_and_action_differ"),
        (reward(action="d"), "action_not_in_slate"),
        (reward(outcome="clik"), "unknown_outcome"),
        (reward(at=10.0, logged=4.9), "future"),
        (impression(task="nws"), "unknown_task"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_contradiction_is_quarantined_with_its_reason_and_leaves_the_row_alone(config: JoinConfig, event: Event, reason: str) -> None:
    stepped = one_step(config, decision(), event)
    row = only_row(stepped)
    assert row["slot_seen"] == [False] * 3 and row["reward"] == 0.0 and not row["overridden"]
    assert stepped.state.counts[0] == {reason: 1}


def test_a_decision_of_an_unknown_task_or_from_the_future_yields_no_row(config: JoinConfig) -> None:
    stepped = one_step(config, decision(1, task="nws"), decision(2, at=10.0, logged=4.0), decision(3, logged=60.0), until=100.0)
    assert stepped.rows.num_rows == 0
    assert stepped.state.counts[0] == {"unknown_task": 1, "future": 1, "too_late": 1}


def test_a_decision_that_a_client_made_for_itself_is_marked_as_not_logged(config: JoinConfig) -> None:
    event = decision()
    event.decision.fallback = FALLBACK_REASON_CLIENT
    assert not only_row(one_step(config, event))["logged"]


def test_the_state_is_empty_again_when_all_horizons_have_passed(config: JoinConfig) -> None:
    stepped = one_step(config, decision(), impression(), reward(slot=0), until=500.0)
    state = step(stepped.state, table(), watermark_us=us(500.0), config=config).state
    assert state.decisions.is_empty() and state.feedback.is_empty() and state.forgotten.is_empty()
