"""Each rule of the config by its own small case: what it does to the row, and what the event counts as."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from attribution.admission import judge
from attribution.errors import RewardFunctionError
from attribution.events import Raw
from attribution.join import empty_state, step
from attribution.settings import JoinConfig, load_join_config
from attribution.watermarks import FINAL_US, advance, partition_watermark, stale_sources
from protos.events_pb2 import Event
from tests.attribution.event_kit import TASK, decision, heartbeat, impression, reward, table, task_directory, us
from tests.attribution.test_attribution_interleavings import TOPICS, Machine, logs_of, play

_NUMBER = iter(range(1_000_000))


def config_of(tmp_path: Path, **attribution: Any) -> JoinConfig:
    lines = "".join(f"  {name}: {value}\n" for name, value in attribution.items())
    return load_join_config(task_directory(tmp_path / f"tasks{next(_NUMBER)}", TASK + lines))


def outcome_config(tmp_path: Path, text: str, top: str = "") -> JoinConfig:
    changed = TASK.replace("aggregate: max}", f"aggregate: max, {text}}}" if text else "aggregate: max}")
    return load_join_config(task_directory(tmp_path / f"tasks{next(_NUMBER)}", changed.replace("rewards:\n", f"rewards:\n{top}")))


def joined(config: JoinConfig, *events: Event, watermark_us: int = FINAL_US) -> tuple[list[dict[str, Any]], dict[str, int]]:
    stepped = step(empty_state(), table(*events), watermark_us=watermark_us, config=config)
    return stepped.rows.to_pylist(), dict(stepped.state.counts.get(0, {}))


def values(row: dict[str, Any], name: str) -> dict[int | None, float]:
    return {outcome["slot"]: outcome["value"] for outcome in row["outcomes"] if outcome["name"] == name}


def test_a_window_can_begin_at_the_impression(tmp_path: Path) -> None:
    anchored = outcome_config(tmp_path, "anchor: impression")
    events = (decision(), impression(at=8.0), reward("in", 17.0, slot=0), reward("out", 18.5, slot=1), reward("unseen", 9.0, slot=2))
    rows, counts = joined(anchored, *events)
    assert values(rows[0], "click") == {0: 1.0, 1: 0.0} and counts["outside_window"] == 2
    rows, counts = joined(outcome_config(tmp_path, ""), *events)
    assert values(rows[0], "click") == {0: 0.0, 1: 0.0, 2: 1.0} and counts["outside_window"] == 2
    assert anchored.task_frame["window_us"][0] == 20_000_000


def test_an_impression_of_a_slate_that_is_too_old_is_quarantined_and_every_showing_is_listed(tmp_path: Path) -> None:
    shown = [impression(f"i{at}", float(at)) for at in (1, 4, 4, 7)]
    rows, counts = joined(config_of(tmp_path, max_slate_age_s=5.0), decision(), *shown)
    assert rows[0]["exposure_times_us"] == [us(1.0), us(4.0)] and counts == {"attributed": 2, "duplicates": 1, "slate_too_old": 1}
    rows, counts = joined(config_of(tmp_path), decision(), *shown)
    assert rows[0]["exposure_times_us"] == [us(1.0), us(4.0), us(7.0)] and "slate_too_old" not in counts


def test_the_config_says_whether_unseen_slots_have_a_reward_to_learn_from(tmp_path: Path) -> None:
    events = (decision(), impression(seen=[(0, "a")]), reward(slot=0))
    assert joined(config_of(tmp_path, learn_from="treated"), *events)[0][0]["slot_reward"] == [1.0, None, None]
    row = joined(config_of(tmp_path, learn_from="all"), *events)[0][0]
    assert row["slot_reward"] == [1.0, 0.0, 0.0] and row["slot_seen"] == [True, False, False]


def test_a_provisional_row_comes_first_and_the_final_one_replaces_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, provisional_after_s=12.0)
    state, rows = step(empty_state(), table(decision(), impression(), reward(slot=0)), watermark_us=us(12.0), config=config)
    (early,) = rows.to_pylist()
    assert (early["status"], early["revision"], early["reward"]) == ("provisional", 1, 1.0)
    assert {(o["name"], o["status"]) for o in early["outcomes"] if o["slot"] == 0} == {("click", "final"), ("minutes", "provisional")}
    state, rows = step(state, table(reward("m", 13.0, outcome="minutes", value=4.0, slot=0)), watermark_us=us(13.0), config=config)
    assert rows.num_rows == 0
    state, rows = step(state, table(), watermark_us=us(20.0), config=config)
    (final,) = rows.to_pylist()
    assert (final["status"], final["revision"], final["reward"]) == ("final", 2, 3.0)
    assert state.counts[0]["attributed"] == 3, "what a provisional row used is counted once"


def doubled(rows: pa.Table) -> np.ndarray[Any, Any]:
    return 2.0 * rows["reward"].to_numpy()


def broken(rows: pa.Table) -> np.ndarray[Any, Any]:
    return np.full(rows.num_rows, np.nan)


def test_a_users_own_function_makes_the_reward(tmp_path: Path) -> None:
    own = outcome_config(tmp_path, "", top=f"  function: {__name__}:doubled\n")
    assert joined(own, decision(), impression(), reward(slot=0))[0][0]["reward"] == 2.0
    with pytest.raises(RewardFunctionError, match="one finite number a row"):
        joined(outcome_config(tmp_path, "", top=f"  function: {__name__}:broken\n"), decision())
    with pytest.raises(RewardFunctionError, match="can't be loaded"):
        joined(outcome_config(tmp_path, "", top="  function: nowhere:at_all\n"), decision())


def nameless(name: str, at: float, *, action: str = "a", value: float = 1.0, logged: float | None = None, unit: str = "u1") -> Event:
    event = reward(name, at, action=action, value=value, outcome="minutes", logged=logged, unit=unit)
    event.reward.decision_id = b""
    return event


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("last", [0.0, 0.0, 0.0, 8.0]),
        ("first", [8.0, 0.0, 0.0, 0.0]),
        ("linear", [2.0, 2.0, 2.0, 2.0]),
        ("position", [3.2, 0.8, 0.8, 3.2]),
    ],
)
def test_a_reward_that_names_no_decision_is_shared_among_those_that_it_touches(tmp_path: Path, rule: str, wanted: list[float]) -> None:
    touched = [decision(key, float(key)) for key in (1, 2, 3, 4)]
    others = [decision(5, 2.5, unit="u2"), decision(6, 2.5, slate=("b", "c")), decision(7, 6.0), decision(8, -16.0)]
    rows, counts = joined(config_of(tmp_path, credit=rule), *touched, *others, nameless("n", 5.0, value=8.0))
    found = {row["decision_id"][-1]: values(row, "minutes").get(0, 0.0) for row in rows}
    assert [found[key] for key in (1, 2, 3, 4)] == pytest.approx(wanted, abs=1e-12)
    assert {found[key] for key in (5, 6, 7, 8)} == {0.0} and counts["shared"] == 1
    assert joined(config_of(tmp_path), decision(), nameless("n", 1.0))[1] == {"decision_id_missing": 1}


def test_shared_rewards_are_a_function_of_the_units_events_however_they_come(tmp_path: Path) -> None:
    config = config_of(tmp_path, credit="position", provisional_after_s=5.0, learn_from="all")
    differ = 0
    for seed in range(20):
        rng = random.Random(seed)
        events = shared_world(rng)
        logs = logs_of(rng, events + rng.sample(events, k=len(events) // 4))
        played, whole = play(rng, logs, config), Machine(config)
        whole.take([Raw(topic, 0, offset, event.SerializeToString()) for topic, log in logs.items() for offset, event in enumerate(log)])
        assert played.latest() == whole.latest()
        differ += any(row["reward"] > 0 for row in whole.latest().values())
    assert differ > 15


def shared_world(rng: random.Random) -> list[Event]:
    events: list[Event] = []
    for key in range(1, rng.randint(3, 8)):
        at = rng.uniform(0, 40)
        events.append(decision(key, at, unit=f"u{key % 2}", logged=at + rng.choice([0.0, 0.0, 5.0, 25.0, 45.0])))
        events += [impression(f"i{key}", at + 1.0, key=key, unit=f"u{key % 2}")] * rng.randint(0, 1)
    for number in range(rng.randint(2, 8)):
        at = rng.uniform(0, 60)
        late = at + rng.choice([0.0, 0.1, 4.0, 30.0, 60.0])
        events.append(
            nameless(f"n{number}", at, action=rng.choice("abc"), value=rng.randint(1, 8) / 4, logged=late, unit=f"u{rng.randint(0, 1)}")
        )
    return events


def test_each_contradiction_has_its_reason(tmp_path: Path) -> None:
    config = config_of(tmp_path, max_slate_age_s=5.0)
    cases = {
        "other_unit": impression(unit="u9"),
        "slate_too_old": impression(at=6.0),
        "no_candidate": impression(seen=[(0, "zebra")]),
        "no_such_slot": reward(slot=9),
        "slot_and_action_differ": reward(slot=0, action="b"),
        "action_not_in_slate": reward(action="d"),
    }
    for reason, event in cases.items():
        assert joined(config, decision(), event)[1] == {reason: 1}


def test_a_future_stamp_moves_no_watermark_and_a_heartbeat_does(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    beats = [heartbeat(topic, 30.0) for topic in TOPICS]
    marks = advance({}, judge(table(*beats), config=config), grace_us=config.grace_us)
    assert partition_watermark(marks) == us(30.0)
    ahead = decision(1, 1_000.0, logged=31.0)
    assert advance(marks, judge(table(ahead), config=config), grace_us=config.grace_us) == marks
    idle = advance(marks, judge(table(*[heartbeat(topic, 60.0) for topic in TOPICS[:2]]), config=config), grace_us=config.grace_us)
    assert partition_watermark(idle) == us(30.0) and stale_sources(idle) == ["rewards"], "a source that says nothing holds all"
