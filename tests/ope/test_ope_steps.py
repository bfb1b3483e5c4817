"""Over a real store and table: steps of a promotion, reruns, what came after, and guardrails that cannot be read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bandits.errors import VerdictRefused
from bandits.learner import Learner
from bandits.loaded import LoadedPolicy
from ope.__main__ import main
from ope.errors import GateError, VerdictError
from ope.gate.config import Guardrail, gate_config
from ope.gate.promotion import promote
from ope.gate.rerun import rerun
from ope.gate.verdict import Verdict, to_json, to_mapping
from ope.gate.watch import Watch
from tests.ope.digits_world import TASK_FILE, World, begin


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A world whose learner has published one challenger, and 2,000 later rows of its champion."""
    world = begin(tmp_path)
    world.live(3_000)
    learner = Learner(world.store, world.policy, world.table)
    learner.absorb()
    learner.publish(now_us=world.now_us)
    world.live(2_000)
    return world


def watch(world: World, **changed: Any) -> Watch:
    few = {"min_rows": 1_000, "max_rows": 4_000, "min_ess": 100.0, "veto_ess": 50.0}
    config = gate_config(world.task).model_copy(update={**few, **changed})
    clock: Callable[[], int] = lambda: world.now_us  # noqa: E731
    return Watch(world.store, task=world.task, config=config, observations=world.table, reports=world.root / "reports", clock=clock)


def looked(watching: Watch) -> Verdict:
    verdict = watching.look()
    assert verdict is not None
    return verdict


def live_in_arms(world: World, challenger: LoadedPolicy, *, n: int = 1_200) -> None:
    """Rows of both arms at even odds, by the policies themselves; a unit keeps its arm."""
    for arm, policy in (("challenger", challenger), ("champion", None)):
        units = [f"{arm}-{unit}" for unit in world.rng.integers(0, 400, n)]
        world.live(n, by=policy, arm=[arm] * n, arm_probability=[0.5] * n, unit_id=units)


def test_a_promotion_goes_step_by_step_each_on_its_own_rows_and_its_own_verdict(world: World) -> None:
    watching = watch(world, stages=(0.5, 1.0), evidence="both")
    first = looked(watching)
    assert (first.decision, first.next_share, first.evidence, first.inputs["anchor"]) == ("promote", 0.5, "offline", "")
    watching.conclude(first)
    pointer = world.store.champion()
    assert pointer is not None and pointer.split is not None and pointer.split.share == 0.5 and world.store.challengers()
    assert looked(watching).decision == "wait", "the rows of the first step do not count for the second"
    live_in_arms(world, world.store.load(first.contest.challenger))
    second = looked(watching)
    assert second.decision == "promote" and second.evidence == "both" and second.next_share == 1.0 and second.other is not None
    online = second.other.estimates["snips"].difference
    assert second.other.evidence == "online" and online.lower > 0.3 and second.other.rows == 2_400 - 1
    watching.conclude(second)
    moved = world.store.champion()
    assert moved is not None and moved.digest == first.contest.challenger and moved.split is None and not world.store.challengers()
    assert [entry["action"] for entry in world.store.audit()][-3:] == ["stage", "promote", "close"]


def test_a_step_that_is_not_passed_takes_the_share_away(world: World) -> None:
    watching = watch(world, stages=(0.5, 1.0), evidence="online")
    watching.conclude(first := looked(watching))
    # In its arm the challenger earns nothing: what the logged rows had promised does not come.
    n, challenger = 1_200, world.store.load(first.contest.challenger)
    arms = {"arm": ["challenger"] * n, "unit_id": [f"c{k % 400}" for k in range(n)], "arm_probability": [0.5] * n}
    world.live(n, by=challenger, **arms, reward=[0.0] * n, slot_reward=[[0.0] * 3] * n)
    world.live(n, arm=["champion"] * n, unit_id=[f"d{k % 400}" for k in range(n)], arm_probability=[0.5] * n)
    verdict = looked(watching)
    assert verdict.decision == "hold" and verdict.evidence == "online"
    verdict_id = watching.conclude(verdict)
    pointer = world.store.champion()
    undone = next(entry for entry in reversed(world.store.audit()) if entry["action"] == "rollback")
    assert pointer is not None and pointer.split is None and pointer.digest == first.contest.champion and not world.store.challengers()
    assert undone["evidence"] == verdict_id and undone["reason"].startswith("step at 50% not passed")


def test_a_rerun_gives_the_same_bytes_whatever_came_since(world: World) -> None:
    verdict = looked(watch(world))
    kept = to_json(to_mapping(verdict))
    world.live(1_000)
    again = rerun(json.loads(kept), overrides=(), store=world.store, task=world.task, observations=world.table)
    assert to_json(to_mapping(again)) == kept


def test_an_overridden_rerun_says_so_and_never_promotes(world: World) -> None:
    held = looked(watch(world, min_ess=1_900.0, max_rows=2_000))
    assert held.decision == "hold"
    again = rerun(to_mapping(held), overrides=["gate.min_ess=100"], store=world.store, task=world.task, observations=world.table)
    assert again.decision == "promote" and again.overridden == {"min_ess": 100}
    with pytest.raises(VerdictError, match="never promotes"):
        promote(world.store, to_mapping(again), now_us=world.now_us, actor="test")
    standing = world.store.champion()
    with pytest.raises(VerdictRefused, match="never promotes"):
        world.store.promote(again.contest.challenger, verdict=to_mapping(again), expected=standing, now_us=world.now_us, actor="test")
    with pytest.raises(VerdictError, match="rows were deleted or derived anew"):
        rerun(
            {**to_mapping(held), "inputs": {**held.inputs, "rows_sha256": "0" * 64}},
            overrides=(),
            store=world.store,
            task=world.task,
            observations=world.table,
        )
    with pytest.raises(VerdictError, match="no key=value"):
        rerun(to_mapping(held), overrides=["min_ess"], store=world.store, task=world.task, observations=world.table)


def test_a_guardrail_that_is_declared_but_not_there_is_an_error_and_nothing_moves(world: World) -> None:
    before = world.store.champion()
    with pytest.raises(GateError, match=r"gate\.guardrails: `complaints` is declared but cannot be read"):
        watch(world, guardrails=(Guardrail(metric="complaints", margin=0.1),)).look()
    assert world.store.champion() == before and world.store.challengers()


def test_one_that_is_there_is_compared_with_its_own_margin_and_so_are_segments(world: World) -> None:
    verdict = looked(watch(world, guardrails=(Guardrail(metric="right", margin=0.1),), segments=("pixels",)))
    assert verdict.decision == "promote" and verdict.guardrails["right"].difference.lower > -0.1
    assert sum(segment.difference.n for segment in verdict.segments) == verdict.rows and verdict.segments[0].feature == "pixels"
    assert [version.rows for version in verdict.versions if not version.action] == [2_000]


def promoted(world: World, **changed: Any) -> Watch:
    watching = watch(world, **changed)
    watching.conclude(looked(watching))
    return watching


def test_what_came_is_compared_with_what_was_predicted(world: World) -> None:
    watching = promoted(world)
    world.live(2_000)
    came = watching.follow()
    assert came is not None and not came.wrong and came.said.endswith("as predicted.") and came.rows == 1_999
    assert watching.follow() is None, "nothing new came"
    notes = world.store.notes("followups")
    assert list(notes) == [came.verdict] and notes[came.verdict]["realised"][0] == came.realised[0]


def test_a_prediction_that_was_wrong_is_told_in_the_audit_log_once(world: World) -> None:
    watching = promoted(world)
    for _ in range(2):
        world.live(1_500, reward=[0.0] * 1_500, slot_reward=[[0.0] * 3] * 1_500)
        came = watching.follow()
        assert came is not None and came.wrong and "WRONG" in came.said
    assert [entry["action"] for entry in world.store.audit()].count("prediction_wrong") == 1


def spoiled(table: pa.Table) -> list[list[dict[str, Any]]]:
    """A `right` that is 0 wherever the champion did what it likes best, and 1 elsewhere."""
    likes = [numerators[0] > 2**30 for numerators in table["slot_numerator"].to_pylist()]
    return [[{"name": "right", "slot": 0, "value": float(not like), "status": "final", "count": 1}] for like in likes]


def test_a_guardrail_that_breaks_after_a_promotion_rolls_back_by_itself_and_quotes_both_verdicts(world: World) -> None:
    watching = promoted(world, guardrails=(Guardrail(metric="right", margin=0.05),))
    pointer = world.store.champion()
    assert pointer is not None
    decided = world.live(3_000)
    ids = {
        name: decided[name].to_pylist()
        for name in ("decision_id", "decision_time_us", "slot_action", "slot_numerator", "context", "unit_id")
    }
    world.live(3_000, **ids, outcomes=spoiled(decided), status=["corrected"] * 3_000, revision=[2] * 3_000)
    came = watching.follow()
    back, undone = world.store.champion(), world.store.audit()[-1]
    assert came is not None and came.broken and back is not None and back.digest == pointer.previous
    assert undone["action"] == "rollback" and undone["quoted"] == pointer.verdict and "Guardrail `right` is broken" in undone["reason"]
    assert world.store.verdict(undone["evidence"])["decision"] == "veto" and watching.follow() is None


def test_several_candidates_are_judged_by_one_command_and_a_verdict_again_by_another(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--task-config", str(TASK_FILE), "--store", str(world.root), "--observations", str(world.table)])
        return int(ended.value.code or 0), capsys.readouterr().out

    digest, champion = world.store.challengers()[0].digest, world.store.champion()
    assert champion is not None
    sets = [part for key in ("min_ess=100", "veto_ess=50", "max_stale_s=null") for part in ("--set", f"gate.{key}")]
    code, out = command("gate", "--candidate", digest, *sets, "--json", "--reports", str(tmp_path / "out"))
    assert code == 0 and json.loads(out)["decision"] == "promote"
    kept = next((tmp_path / "out").glob("*.json"))
    code, _ = command("rerun", str(kept), "--out", str(tmp_path / "again.json"))
    assert code == 0 and (tmp_path / "again.json").read_bytes() == kept.read_bytes()
    code, out = command("rerun", str(kept), "--set", "margin_change=0.9", "--json")
    assert code == 1 and json.loads(out)["overridden"] == {"margin_change": 0.9}
