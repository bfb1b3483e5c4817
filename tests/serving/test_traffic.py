"""Experiments of a task: who is in which arm, with which probability, what the log says of it, and who moves the shares."""

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from scipy import stats

from bandits.allocation import ExperimentState, moved, share_of
from bandits.config import TaskPolicy, parse_task
from bandits.errors import SnapshotError
from bandits.first import ensure_champion
from bandits.store import Store
from bandits.traffic import CHAMPION_ARM, Split
from protos.errors import ConfigError
from protos.events_pb2 import ARM_SOURCE_OVERRIDE, ARM_SOURCE_STICKY, ARM_SOURCE_UNSPECIFIED, Decision, Event
from protos.log_files import DECISIONS, FEEDBACK
from protos.policy_pb2 import AssignRequest, AssignResponse, Context, FeatureValue, SelectRequest
from protos.task import TaskFile, load_task
from serving.client import AsyncPolicyClient, PolicyClient
from serving.replay import replay_logs
from serving.server import Server
from serving.snapshots import Served
from serving.tasks import TaskRules, parse_rules, rules_by_key
from serving.traffic.beside import ArmFeature, Beside
from serving.traffic.experiments import Experiments, Placed
from serving.traffic.keeper import TrafficKeeper, followed, keeper_of
from serving.traffic.section import Traffic
from serving.validate import validate
from tests.serving.kit import TASK, promote, publish, records_of, select_request, serving_from

TRAFFIC = {
    "namespace": "home",
    "holdout": {"share": 0.1},
    "experiments": {
        "ranker": {
            "segments": [0, 5000],
            "target": "member",
            "arms": {"control": {"share": 0.5}, "even": {"share": 0.4, "policy": {"name": "uniform", "floor": 1.0}}},
        },
        "first": {"segments": [5000, 8000], "arms": {"old": {"share": 1.0, "serves": "baseline"}}},
    },
    "overrides": {"tester": "ranker/even"},
}
SHOP = {**TASK, "traffic": TRAFFIC}
BASELINE_ARMS = ("holdout", "first/old")


def file_of(content: dict[str, Any]) -> TaskFile:
    sections = {key: value for key, value in content.items() if key not in ("task", "tenant")}
    return TaskFile(name=content["task"], tenant=content.get("tenant", "default"), digest="0" * 64, sections=sections)


def experiments_of(content: dict[str, Any]) -> Experiments:
    """The experiments of a task, or of a section `traffic`, as they begin, all arms served."""
    rules = parse_rules(file_of(content if "task" in content else {**TASK, "traffic": content}))
    found = {
        name: ExperimentState(moved({}, {arm: a.share for arm, a in e.arms.items()}), {}, {})
        for name, e in rules.traffic.experiments.items()
    }
    return Experiments(rules.traffic, found, task="shop", targets=rules.targets, arms={name for name, _ in rules.traffic.arms()})


MEMBER, STRANGER = (np.array([0, 0, 0, flag], "<f4").tobytes() for flag in (1, 0))


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
        experiments_section = {**TRAFFIC["experiments"], "ranker": {**TRAFFIC["experiments"]["ranker"], "salt": f"s{step}"}}  # type: ignore[dict-item]
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
        keeper_of(None, parse_rules(file_of({**TASK, "traffic": section})), tables=None)  # type: ignore[arg-type]


# On a server.


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traffic-tasks")
    (folder / "shop.yaml").write_text(yaml.safe_dump(SHOP))
    return folder


@pytest.fixture
def shop(tasks: Path) -> TaskPolicy:
    return parse_task(load_task(tasks / "shop.yaml"))


@pytest.fixture
def store(tmp_path: Path, shop: TaskPolicy) -> Store:
    found = Store(tmp_path / "store", "shop")
    ensure_champion(found, shop, now_us=1, actor="test")
    promote(found, publish(found, shop, seed=1))
    return found


@pytest.fixture
def server(tmp_path: Path, tasks: Path, store: Store, front: str) -> Iterator[Server]:
    with serving_from(tmp_path, tasks, front=front) as running:
        yield running


def asked(shop: TaskPolicy, unit: str, *, member: bool, **fields: Any) -> SelectRequest:
    packed = np.array([1, 2, 3, member], "<f4").tobytes()
    return select_request(shop, unit=unit, context=Context(packed=packed, schema_digest=shop.schema.digest), **fields)


def decisions(folder: Path) -> list[Decision]:
    events = [Event.FromString(record.payload) for record in records_of(folder / "logs" / DECISIONS)]
    return [event.decision for event in events if event.HasField("decision")]


def test_the_server_decides_by_arm_and_logs_what_placed_the_unit(tmp_path: Path, server: Server, store: Store, shop: TaskPolicy) -> None:
    units = [(f"unit-{number}", number % 3 > 0) for number in range(60)] + [("tester", False)]
    with PolicyClient(server.address) as client:
        answers = [client.send_select(asked(shop, unit, member=member)) for unit, member in units]
    wanted = experiments_of(TRAFFIC)
    pointer, state = store.champion(), store.traffic()
    assert pointer is not None
    even = state.experiments["ranker"].serves["even"]
    digests = {**dict.fromkeys(BASELINE_ARMS, pointer.baseline), "ranker/even": even}
    for (unit, member), answer, logged in zip(units, answers, decisions(tmp_path), strict=True):
        placed = wanted.place(unit, MEMBER if member else STRANGER)
        digest = digests.get(placed.arm, pointer.digest)
        for told in (answer, logged):
            assert (told.arm, told.arm_probability, told.snapshot_digest) == (placed.arm, placed.probability, digest)
        assert (logged.arm_source, tuple(logged.ineligible_for)) == (placed.source, placed.ineligible_for)
        assert list(logged.slots) == list(answer.slots)
    assert {logged.arm for logged in decisions(tmp_path)} == {"holdout", "ranker/control", "ranker/even", "first/old", CHAMPION_ARM}
    report = replay_logs(tmp_path / "logs", store=tmp_path / "store")
    assert report.sound and report.draws_agree == report.decisions == len(units)


def test_assign_tells_the_arm_of_select_and_logs_an_exposure(tmp_path: Path, server: Server, shop: TaskPolicy) -> None:
    units = [f"unit-{number}" for number in range(30)]
    stub_context = Context(features={"member": FeatureValue(flag=True)})
    with PolicyClient(server.address) as client:
        selected = [client.send_select(asked(shop, unit, member=True)) for unit in units]
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/slateloop.v1.PolicyService/Assign")
        raw = [AssignRequest(task="shop", unit_id=unit, context=stub_context).SerializeToString() for unit in units]
        assigned = [AssignResponse.FromString(call(request)) for request in raw]
    assert [(a.arm, a.arm_probability, a.snapshot_digest) for a in assigned] == [
        (s.arm, s.arm_probability, s.snapshot_digest) for s in selected
    ]
    assert all(answer.exposed for answer in assigned)
    signals = [Event.FromString(record.payload).signal for record in records_of(tmp_path / "logs" / FEEDBACK)]
    assert [(s.unit_id, s.name, s.value) for s in signals] == [
        (unit, f"exposure:shop:{a.arm}", a.arm_probability) for unit, a in zip(units, assigned, strict=True)
    ]
    assert len({s.event_id for s in signals}) == len(units)


def test_both_clients_assign_by_context_and_keep_a_sticky_arm(server: Server) -> None:
    wanted = experiments_of(TRAFFIC)
    unit = next(unit for unit in map(str, range(1_000)) if wanted.place(unit, MEMBER).arm == "ranker/control")
    options: list[dict[str, Any]] = [
        {"context": {"member": True}},
        {"context": np.array([1, 2, 3, 1])},
        {"context": {"member": True}, "sticky_arm": "ranker/even"},
        {"context": {"member": False}, "sticky_arm": "ranker/even"},
        {},
    ]

    async def ask() -> list[AssignResponse]:
        async with AsyncPolicyClient(server.address) as client:
            return [await client.assign("shop", unit_id=unit, **given) for given in options]

    with PolicyClient(server.address) as client:
        answers = [client.assign("shop", unit_id=unit, **given) for given in options]
    assert answers == asyncio.run(ask())
    named, packed, kept_in, *strangers = answers
    assert named == packed and (named.arm, named.arm_source) == ("ranker/control", ARM_SOURCE_UNSPECIFIED)
    assert (kept_in.arm, kept_in.arm_probability, kept_in.arm_source) == ("ranker/even", 1.0, ARM_SOURCE_STICKY)
    assert [(a.arm, list(a.ineligible_for)) for a in strangers] == [(CHAMPION_ARM, ["ranker"])] * 2


def kept(store: Store, tasks: Path, load: Any = lambda digest: digest) -> TrafficKeeper:
    """A keeper that has begun; policies are what `load` makes of digests."""
    found = TrafficKeeper(store, parse_rules(load_task(tasks / "shop.yaml")))
    found.begin(load, now_us=1)
    return found


def arms_of(keeper: TrafficKeeper) -> list[str]:
    beside = keeper.look(lambda digest: digest)  # type: ignore[arg-type, return-value]
    assert beside is not None and beside.experiments is not None
    return [beside.experiments.place(unit, MEMBER).arm for unit in map(str, range(500))]


def test_shares_that_are_moved_in_the_store_are_followed_at_the_next_look(tmp_path: Path, tasks: Path) -> None:
    store = Store(tmp_path, "shop")
    keeper = kept(store, tasks)
    before, same = keeper.look(no_load), keeper.look(no_load)
    first = arms_of(keeper)

    def stop(standing: Any) -> Any:
        found = standing.experiments["ranker"]
        ranges = moved(found.ranges, {"control": 0.5, "even": 0.0})
        return standing._replace(experiments={**standing.experiments, "ranker": found._replace(ranges=ranges)})

    store.move_traffic(stop, expected=1, now_us=9, actor="ann", reason="too slow")
    assert before is same and {pair for pair in zip(first, arms_of(keeper), strict=True) if pair[0] != pair[1]} == {
        ("ranker/even", CHAMPION_ARM)
    }
    assert [entry["actor"] for entry in store.audit()] == ["serving", "ann"]


def no_load(digest: str) -> Any:
    raise AssertionError(f"{digest} was to be loaded")


def test_snapshots_of_arms_are_never_collected(tmp_path: Path, tasks: Path) -> None:
    store = Store(tmp_path, "shop")
    kept(store, tasks)
    store.collect(keep=0)
    assert store.traffic().digests == set(store.digests()) != set()


def test_an_arm_whose_snapshot_cannot_be_served_leaves_its_units_with_the_champion(tmp_path: Path, tasks: Path) -> None:
    def broken(digest: str) -> Any:
        raise SnapshotError(f"snapshot {digest}: altered")

    store = Store(tmp_path, "shop")
    pairs = set(zip(arms_of(kept(store, tasks)), arms_of(kept(store, tasks, broken)), strict=True))
    assert ("ranker/even", CHAMPION_ARM) in pairs and ("ranker/control", "ranker/control") in pairs


def test_a_task_without_any_of_it_has_nothing_beside(tmp_path: Path) -> None:
    rules = parse_rules(file_of(TASK))
    assert keeper_of(Store(tmp_path, "shop"), rules, tables=None) is None


WITH_ARM = {
    **TASK,
    "features": {
        **TASK["features"],
        "context": [*TASK["features"]["context"], {"name": "arm", "type": "category", "vocabulary": ["e/a", "e/b"]}],
    },  # type: ignore[index]
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
