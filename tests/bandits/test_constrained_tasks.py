"""A task with a constrained policy: named errors at start-up, outcomes out of observations, revisions, a baseline that stands still."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

from bandits.catalog import PolicySpec, build
from bandits.config import TaskPolicy, parse_task
from bandits.errors import PolicyError, UnknownSnapshot
from bandits.first import ensure_champion
from bandits.learner import Learner
from bandits.outcomes import slot_outcomes
from bandits.policies.constrained import ConstrainedState
from bandits.policy import Batch
from bandits.snapshots import Draft
from bandits.standing_baseline import starting_state
from bandits.store import Store
from protos.errors import ConfigError
from protos.task import TaskFile, load_task
from tests.bandits.observed import append, decision, observation, table

UPLOADS = Path(__file__).resolve().parents[2] / "configs" / "tasks" / "video_upload.yaml"
POLICY: dict[str, Any] = {
    "name": "constrained_thompson",
    "settings": {"baseline": {"action": "b"}, "constraints": [{"outcome": "safe", "alpha": 0.05}], "draws": 16},
}
OUTCOMES = {"gain": {"window_s": 1.0}, "safe": {"window_s": 1.0, "weight": 0.0}}


def task_of(policy: dict[str, Any], *, outcomes: dict[str, Any] = OUTCOMES) -> TaskPolicy:
    features = {"context": [{"name": "x", "size": 2}], "actions": ["a", "b", "c"]}
    return parse_task(TaskFile("small", "default", {"features": features, "policy": policy, "rewards": {"outcomes": outcomes}}, "d"))


def changed(**settings: Any) -> dict[str, Any]:
    kept = {**POLICY["settings"], **settings}
    return {**POLICY, "settings": {name: value for name, value in kept.items() if value is not None}}


BAD = [
    (changed(baseline=None), PolicyError, "policy.settings.baseline: none is declared"),
    (changed(baseline={"action": "z"}), PolicyError, "policy.settings.baseline.action: 'z' is no candidate"),
    (changed(baseline={"action": 7}), PolicyError, "policy.settings.baseline.action: 7 is no candidate"),
    (changed(baseline={"policy": "fixd"}), PolicyError, "did you mean `fixed`"),
    (changed(baseline={"action": "a", "policy": "fixed"}), ConfigError, "one of the two"),
    (changed(baseline={"policy": "fixed", "snapshot": "abc"}), ConfigError, "snapshot"),
    (changed(constraints=None), PolicyError, "policy.settings.constraints: none is declared"),
    (changed(constraints=[]), ConfigError, "policy.settings.constraints"),
    (changed(constraints=[{"outcome": "safety", "alpha": 0.1}]), PolicyError, "no event carries it; did you mean `safe`"),
    (changed(constraints=[{"outcome": "safe", "alpha": 1.5}]), ConfigError, "policy.settings.constraints.0.alpha"),
    (changed(constraints=[{"outcome": "safe", "alpha": -0.1}]), ConfigError, "policy.settings.constraints.0.alpha"),
    (changed(constraints=[{"outcome": "safe"}]), ConfigError, "give `alpha`"),
    (changed(constraints=[{"outcome": "safe", "alpha": 0.1, "threshold": 1.0}]), ConfigError, "one of the two"),
    (changed(reward={"axes": [{"outcome": "fame", "levels": [0.0]}], "worth": [1.0]}), PolicyError, "'fame' is no outcome"),
    (changed(strict=0.9), ConfigError, "policy.settings.strict"),
]


@pytest.mark.parametrize(("policy", "error", "said"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_is_a_named_error_when_the_task_is_read(policy: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        task_of(policy)


def test_the_demos_task_is_read_with_its_baseline_in_place() -> None:
    task = parse_task(load_task(UPLOADS))
    assert yaml.safe_load(task.spec.settings)["baseline"]["action"] == task.schema.actions.index("480p")
    # What serves first can draw every action, so the log can judge whatever is learned.
    assert task.baseline.name == "fixed" and min(yaml.safe_load(task.baseline.settings)["probabilities"]) > 0.0


def outcome(name: str, slot: int | None, value: float) -> dict[str, Any]:
    return {"name": name, "slot": slot, "value": value, "status": "final", "count": 1}


def test_outcomes_stand_in_their_slot_and_those_of_the_slate_in_every_slot() -> None:
    listed = [outcome("safe", 1, 0.25), outcome("gain", None, 3.0), outcome("gain", 0, 2.0), outcome("other", 0, 9.0)]
    column = table([observation(decision(1), outcomes=listed), observation(decision(2), outcomes=[])])["outcomes"]
    found = slot_outcomes(column, names=("gain", "safe"), slots=2)
    assert found.tolist() == [[[2.0, 0.0], [3.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]]]
    assert slot_outcomes(column, names=(), slots=2).shape == (2, 2, 0)


def logged(number: int, *, safe: float, revision: int = 1, commit: int = 1) -> dict[str, Any]:
    listed = [outcome("safe", 0, safe), outcome("gain", 0, number / 8)]
    decided = decision(number, schema_digest=task_of(POLICY).schema.digest)
    return observation(decided, rewards=(number / 8, None), revision=revision, commit=commit, outcomes=listed)


def test_a_revised_outcome_is_taken_back_to_the_bit(tmp_path: Path) -> None:
    """Numbers whose sums do not round: learned, then corrected, is what the corrected rows alone would have given."""
    task, numbers = task_of(POLICY), range(1, 40)

    def learned(folder: Path, *commits: list[dict[str, Any]]) -> ConstrainedState:
        learner = Learner(Store(folder / "store", "small"), task, folder / "observations")
        for rows in commits:
            append(folder / "observations", rows)
            learner.absorb()
        state: ConstrainedState = learner._state
        return state

    first = [logged(number, safe=0.5) for number in numbers]
    revised = [logged(number, safe=-2.25, revision=2, commit=2) for number in numbers if number % 3 == 0]
    whole = [logged(number, safe=-2.25 if number % 3 == 0 else 0.5) for number in numbers]
    corrected, at_once = learned(tmp_path / "a", first, revised), learned(tmp_path / "b", whole)
    for one, other in zip(corrected.models.linear, at_once.models.linear, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.any(np.asarray(learned(tmp_path / "c", first).models.linear.own_moment) != corrected.models.linear.own_moment)


def published(store: Store, task: TaskPolicy, spec: PolicySpec) -> str:
    names = {"tenant": "default", "task": "small", "actions": task.schema.actions, "schema_digest": task.schema.digest}
    return store.publish(
        Draft(spec=spec, state=build(spec).init(), manifest={**names, "config_digest": "d", "kind": "change", "created_us": 1})
    )


def test_a_baseline_that_is_a_snapshot_stands_still_and_comes_from_the_store(tmp_path: Path) -> None:
    plain, store = task_of(POLICY), Store(tmp_path, "small")
    ensure_champion(store, plain, now_us=1)
    digest = published(store, plain, PolicySpec.of("epsilon_greedy", {"epsilon": 0.5}, floor=0.05, dims=plain.spec.dims))

    def with_baseline(**given: Any) -> TaskPolicy:
        return task_of(changed(baseline={"policy": "epsilon_greedy", "settings": {"epsilon": 0.5}, "snapshot": digest, **given}))

    task = with_baseline()
    state = starting_state(store, task)
    kept = state.baseline
    policy = build(task.spec)
    moved = jax.jit(policy.update)(state, Batch.of(np.ones((4, 2)), np.arange(4) % 3, np.ones(4), outcomes=np.ones((4, 1))))
    assert all(np.array_equal(a, b) for a, b in zip(moved.baseline, kept, strict=True))
    for wrong, error, said in (
        ({"settings": {"epsilon": 0.1}}, PolicyError, "is declared, snapshot"),
        ({"policy": "softmax", "settings": {}}, PolicyError, "is declared, snapshot"),
        ({"snapshot": "0" * 64}, UnknownSnapshot, "0000"),
    ):
        with pytest.raises(error, match=said):
            Learner(store, with_baseline(**wrong), tmp_path / "observations")
    wrapped = {**changed(baseline={"policy": "epsilon_greedy", "settings": {"epsilon": 0.5}, "snapshot": digest})}
    with pytest.raises(PolicyError, match="stands still"):
        Learner(store, task_of({**wrapped, "wrappers": [{"name": "even_start", "rows": 5}]}), tmp_path / "observations")
