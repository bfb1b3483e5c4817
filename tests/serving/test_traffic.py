"""Experiments of a task: who is in which arm, with which probability, and which policy decides for whom."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandits.allocation import moved, share_of
from bandits.store import Store
from bandits.traffic import CHAMPION_ARM, Split
from protos.errors import ConfigError
from protos.events_pb2 import ARM_SOURCE_OVERRIDE, ARM_SOURCE_STICKY, ARM_SOURCE_UNSPECIFIED
from protos.policy_pb2 import Context, FeatureValue, SelectRequest
from serving.snapshots import Served
from serving.tasks import TaskRules, parse_rules, rules_by_key
from serving.traffic.beside import ArmFeature, Beside
from serving.traffic.experiments import Experiments, Placed
from serving.traffic.keeper import followed, keeper_of
from serving.traffic.section import Traffic
from serving.validate import validate
from tests.serving.kit import TASK
from tests.serving.traffic_kit import MEMBER, SHOP, STRANGER, TRAFFIC, asked, experiments_of, file_of

BASELINE_ARMS = ("holdout", "first/old")


def test_every_unit_has_one_arm_and_the_probabilities_of_its_draw_add_up_to_one() -> None:
    experiments = experiments_of(TRAFFIC)
    placed = {experiments.place(f"unit-{number}", MEMBER) for number in range(3_000)}
    assert {arm: round(p, 12) for arm, p, *_ in placed} == {
        "holdout": 0.1,
        "ranker/control": 0.25,
        "ranker/even": 0.2,
        "first/old": 0.3,
        CHAMPION_ARM: 0.25,
    }


def test_who_is_no_target_stays_with_the_champion_whose_probability_says_so() -> None:
    experiments = experiments_of(TRAFFIC)
    placed = {experiments.place(f"unit-{number}", STRANGER) for number in range(3_000)}
    assert placed == {
        Placed("holdout", 0.1),
        Placed("first/old", 0.3, ineligible_for=("ranker",)),
        Placed(CHAMPION_ARM, 0.7, ineligible_for=("ranker",)),
    }


def test_arms_get_their_shares_on_a_fixed_salt() -> None:
    # 60,000 units. The salts are fixed: no false alarm once passed; a share that is off by a percentage point would be seen.
    experiments = experiments_of(TRAFFIC)
    placed = [experiments.place(f"member-{number}", MEMBER).arm for number in range(60_000)]
    shares = {"holdout": 0.1, "ranker/control": 0.225, "ranker/even": 0.18, "first/old": 0.27, CHAMPION_ARM: 0.225}
    counts = [placed.count(arm) for arm in shares]
    assert sum(counts) == 60_000 and stats.chisquare(counts, 60_000 * np.array([*shares.values()])).pvalue > 1e-6


@pytest.mark.slow
def test_a_holdout_gets_no_treatment_in_a_million_decisions() -> None:
    experiments = experiments_of(TRAFFIC)
    held = {number for number in range(100_000) if experiments.place(f"u{number}", MEMBER).arm == "holdout"}
    # Ten shares and targets later the same units are held out, and none else: 1,000,000 decisions.
    for step in range(10):
        experiments_section = {**TRAFFIC["experiments"], "ranker": {**TRAFFIC["experiments"]["ranker"], "salt": f"s{step}"}}
        now = experiments_of({**TRAFFIC, "experiments": experiments_section, "namespace": f"n{step}"})
        arms = [now.place(f"u{number}", MEMBER if number % 2 else STRANGER).arm for number in range(100_000)]
        assert {number for number, arm in enumerate(arms) if arm == "holdout"} == held


def test_two_tasks_with_one_holdout_hold_the_same_units_out() -> None:
    one, other = experiments_of(TRAFFIC), experiments_of({"holdout": {"share": 0.1}})
    for number in range(2_000):
        assert (one.place(f"u{number}", MEMBER).arm == "holdout") == (other.place(f"u{number}", MEMBER).arm == "holdout")


def test_an_override_and_a_sticky_arm_are_marked_and_have_no_probability() -> None:
    experiments = experiments_of(TRAFFIC)
    assert experiments.place("tester", STRANGER) == Placed("ranker/even", 1.0, ARM_SOURCE_OVERRIDE)
    in_control = next(u for u in map(str, range(1_000)) if experiments.place(u, MEMBER).arm == "ranker/control")
    assert experiments.place(in_control, MEMBER, sticky_arm="ranker/even") == Placed("ranker/even", 1.0, ARM_SOURCE_STICKY)
    for strange in ("ranker/gone", "first/old", "holdout", "champion", "x"):
        assert experiments.place(in_control, MEMBER, sticky_arm=strange).source == ARM_SOURCE_UNSPECIFIED
    # Outside the target nothing sticks.
    assert experiments.place(in_control, STRANGER, sticky_arm="ranker/even").arm == CHAMPION_ARM


def test_growing_an_arm_in_the_file_moves_no_assigned_unit() -> None:
    arms = {"a": {"share": 0.1}, "b": {"share": 0.3}}
    sections = [{"experiments": {"e": {"arms": {**arms, "a": {"share": share}}}}} for share in (0.1, 0.2)]
    rules = [parse_rules(file_of({**TASK, "traffic": section})) for section in sections]
    serves = {"e/a": "champion", "e/b": "champion"}
    state = followed(Store(Path("unused"), "shop").traffic(), rules[0].traffic, serves)
    grown = followed(state, rules[1].traffic, serves)
    before, after = (Experiments(rules[0].traffic, s.experiments, task="shop", targets={}, arms=serves) for s in (state, grown))
    pairs = {(before.place(unit, MEMBER).arm, after.place(unit, MEMBER).arm) for unit in map(str, range(20_000))}
    assert pairs == {("e/a", "e/a"), ("e/b", "e/b"), (CHAMPION_ARM, CHAMPION_ARM), (CHAMPION_ARM, "e/a")}


def test_a_file_that_did_not_change_leaves_shares_that_were_moved_where_they_are() -> None:
    section = Traffic.model_validate({"experiments": {"e": {"arms": {"a": {"share": 0.1}}}}})
    state = followed(Store(Path("unused"), "shop").traffic(), section, {"e/a": "champion"})
    one = state.experiments["e"]
    by_hand = state._replace(experiments={"e": one._replace(ranges=moved(one.ranges, {"a": 0.6}))})
    assert share_of(followed(by_hand, section, {"e/a": "champion"}).experiments["e"].ranges["a"]) == 0.6


def test_experiments_of_one_namespace_share_no_unit_and_those_that_would_are_refused(tmp_path: Path) -> None:
    one = experiments_of({"namespace": "n", "experiments": {"a": {"segments": [0, 4000], "arms": {"x": {"share": 1.0}}}}})
    other = experiments_of({"namespace": "n", "experiments": {"b": {"segments": [4000, 10000], "arms": {"x": {"share": 1.0}}}}})
    for unit in map(str, range(2_000)):
        assert (one.place(unit, MEMBER).arm == "a/x") != (other.place(unit, MEMBER).arm == "b/x")
    tasks = {
        name: file_of({**TASK, "task": name, "traffic": {"namespace": "n", "experiments": {"e": {"arms": {"x": {"share": 1}}}}}})
        for name in ("p", "q")
    }
    with pytest.raises(ConfigError, match="share segments of namespace 'n'"):
        rules_by_key(tasks)
    assert rules_by_key({name: dataclasses.replace(task, tenant=name) for name, task in tasks.items()})


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"experiments": {"e": {"arms": {"a": {"share": 0.7}, "b": {"share": 0.7}}}}}, "add up to more than 1"),
        ({"experiments": {"e": {"arms": {"a": {"share": 0.5, "snapshot": "0" * 64, "serves": "baseline"}}}}}, "give one of them"),
        ({"experiments": {"e": {"segments": [5, 5], "arms": {}}}}, "begin < end"),
        ({"experiments": {"a/b": {"arms": {}}}}, "is no name"),
        ({"overrides": {"u": "nowhere"}}, "is no arm"),
        ({"holdout": {"share": 0.9}}, "traffic.holdout.share"),
        ({"experimentes": {}}, "did you mean `experiments`"),
        ({"arm_feature": "member"}, "no context feature with a vocabulary"),
        ({"experiments": {"e": {"target": "membr", "arms": {}}}}, "did you mean `member`"),
        ({"experiments": {"e": {"arms": {"a": {"share": 1, "policy": {"name": "unifrm"}}}}}}, "unifrm"),
        ({"experiments": {name: {"arms": {}} for name in "ab"}}, "a and b share segments"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_section_that_cannot_hold_is_refused(section: dict[str, Any], fault: str) -> None:
    with pytest.raises(Exception, match=fault):
        keeper_of(None, parse_rules(file_of({**TASK, "traffic": section})), tables=None)


def test_a_task_without_any_of_it_has_nothing_beside(tmp_path: Path) -> None:
    rules = parse_rules(file_of(TASK))
    assert keeper_of(Store(tmp_path, "shop"), rules, tables=None) is None


WITH_ARM = {
    **TASK,
    "features": {
        **TASK["features"],
        "context": [*TASK["features"]["context"], {"name": "arm", "type": "category", "vocabulary": ["e/a", "e/b"]}],
    },
    "traffic": {"arm_feature": "arm", "experiments": {"e": {"arms": {"a": {"share": 0.4}, "b": {"share": 0.4}}}}},
}


def beside_of(content: dict[str, Any]) -> tuple[Beside, TaskRules]:
    """What is beside the decisions of a task, with names in place of policies."""
    rules = parse_rules(file_of(content))
    feature = ArmFeature.of(rules.traffic.arm_feature, rules.schema) if rules.traffic.arm_feature else None
    policies = dict.fromkeys([name for name, _ in rules.traffic.arms()], CHAMPION_ARM)
    return Beside(1, experiments_of(content), policies, None, feature, ()), rules


def served(**about: Any) -> Any:
    """What serves, by name."""
    return Served(**{"champion": "the champion", "previous": None, "baseline": "the baseline", "kill_switch": False, **about})


def test_the_kill_switch_ends_experiments_and_holdout() -> None:
    beside, rules = beside_of(SHOP)
    for unit in ("tester", *map(str, range(50))):
        found = beside.asked(validate(asked(rules.policy, unit, member=True), rules), served(kill_switch=True))
        assert found.policy == "the baseline" and found.assignment == (CHAMPION_ARM, 1.0) and found.kill_switch


def test_a_staged_promotion_deals_among_those_whom_no_experiment_took() -> None:
    beside, rules = beside_of(SHOP)
    staged = served(challenger="the challenger", split=Split("d", 0.25, "salt"))
    found = set()
    for unit in map(str, range(400)):
        one = beside.asked(validate(asked(rules.policy, unit, member=True), rules), staged)
        if "/" not in one.assignment.arm and one.assignment.arm != "holdout":
            found.add((tuple(one.assignment), one.policy))
    assert found == {(("challenger", 0.25), "the challenger"), (("champion", 0.75), "the champion")}


def test_a_pinned_snapshot_is_in_no_arm() -> None:
    beside, rules = beside_of(SHOP)
    champion = SimpleNamespace(digest="0" * 64)
    request = asked(rules.policy, "unit", member=True, snapshot_digest="0" * 64)
    found = beside.asked(validate(request, rules), served(champion=champion))
    assert (found.policy, found.assignment) == (champion, ("pinned", 1.0))


def test_the_arm_is_a_feature_of_the_context_whatever_the_request_says() -> None:
    beside, rules = beside_of(WITH_ARM)
    seen = set()
    for unit in map(str, range(50)):
        request = SelectRequest(task="shop", unit_id=unit, context=Context(features={"arm": FeatureValue(category="e/b")}))
        found = beside.asked(validate(request, rules), served())
        word = np.frombuffer(found.selection.context, "<f4")[4:].tolist()
        assert word == {"e/a": [1, 0, 0], "e/b": [0, 1, 0], CHAMPION_ARM: [0, 0, 1]}[found.assignment.arm]
        assert found.selection.defaulted == ("weights", "member")
        seen.add(found.assignment.arm)
    assert len(seen) == 3
