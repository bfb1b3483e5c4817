"""The learner on a real table: each revision once, a restart that changes nothing, and one challenger at a time."""

from pathlib import Path
from typing import Any

import deltalake
import jax
import numpy as np
import pyarrow as pa
import pytest

from bandits.config import TaskPolicy, parse_task
from bandits.errors import StoreError
from bandits.first import ensure_champion
from bandits.learner import Learner
from bandits.store import Store
from protos.errors import ObservationsError
from protos.events_pb2 import FALLBACK_REASON_KILL_SWITCH, Decision
from protos.task import load_task
from tests.bandits.observed import append, decision, observation

TASK = """
task: small
features:
  context: [{name: x, type: float, size: 2}]
  actions: [a, b, c]
policy: {name: linear_thompson, slate_size: 2, min_new_rows: 4}
"""


def small(tmp_path: Path, text: str = TASK, **flags: str) -> TaskPolicy:
    (tmp_path / "small.yaml").write_text(text)
    return parse_task(load_task(tmp_path / "small.yaml", overrides=[f"policy.{key}={value}" for key, value in flags.items()]))


def learner(tmp_path: Path, task: TaskPolicy | None = None, *, store: str = "store") -> Learner:
    task = task or small(tmp_path)
    ensure_champion(Store(tmp_path / store, task.name), task, now_us=1)
    return Learner(Store(tmp_path / store, task.name), task, tmp_path / "observations")


def decided(tmp_path: Path, number: int, **fields: Any) -> Decision:
    return decision(number, **{"schema_digest": small(tmp_path).schema.digest, **fields})


def state(of: Learner) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(of._state)]


def assert_same_state(one: Learner, other: Learner) -> None:
    for a, b in zip(state(one), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


def fill(tmp_path: Path, numbers: range, *, commit: int = 1, **columns: Any) -> None:
    append(tmp_path / "observations", (observation(decided(tmp_path, n), commit=commit, **columns) for n in numbers))


def test_it_learns_the_rows_that_were_seen_once(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    of = learner(tmp_path)
    assert of.absorb() == 10
    gram, _, _, moment, _, square = state(of)
    # Slot 0 (action a) was seen with reward 1; slot 1 (b) was not seen; c was never shown.
    np.testing.assert_array_equal(gram[:, 0, 0], [10, 0, 0])
    np.testing.assert_array_equal(moment[0, :3], [10, *np.sum([[n % 7, -n % 5] for n in range(10)], axis=0)])
    assert square == 10
    assert of.progress.rows == 10 and of.progress.training_watermark_us == 9_000_000
    assert of.absorb() == 0
    np.testing.assert_array_equal(state(of)[0], gram)


def test_slots_that_were_not_seen_train_as_zero_where_the_task_says_so(tmp_path: Path) -> None:
    fill(tmp_path, range(4))
    of = learner(tmp_path, small(tmp_path, train_on="all"))
    of.absorb()
    np.testing.assert_array_equal(state(of)[0][:, 0, 0], [4, 4, 0])
    np.testing.assert_array_equal(state(of)[3][:, 0], [4, 0, 0])


def test_a_revision_replaces_what_stood_before(tmp_path: Path) -> None:
    fill(tmp_path, range(8))
    revised, direct = learner(tmp_path), learner(tmp_path, store="other")
    revised.absorb()
    append(tmp_path / "observations", [observation(decided(tmp_path, 3), rewards=[0.0, 5.0], revision=2, commit=2)])
    append(tmp_path / "observations", [observation(decided(tmp_path, 3), rewards=[2.0, None], revision=3, commit=3)])
    append(tmp_path / "observations", [observation(decided(tmp_path, 5), rewards=[7.0, None], revision=2, commit=4)])
    assert revised.absorb() == 0
    direct.absorb()
    assert_same_state(revised, direct)
    np.testing.assert_array_equal(state(direct)[0][:, 0, 0], [8, 0, 0])
    np.testing.assert_array_equal(state(direct)[3][0, 0], 6 + 2 + 7)
    assert revised.progress.rows == 8


def test_revisions_met_one_by_one_come_to_the_same(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    of = learner(tmp_path)
    of.absorb()
    for revision, reward in ((2, 4.0), (3, None), (4, 0.5)):
        append(tmp_path / "observations", [observation(decided(tmp_path, 1), rewards=[reward, 0.0], revision=revision, commit=revision)])
        of.absorb()
    np.testing.assert_array_equal(state(of)[0][:, 0, 0], [3, 1, 0])
    np.testing.assert_array_equal(state(of)[1][0, 0], 1 + 0.5 + 1)


def test_rows_that_are_no_evidence_do_not_train(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    fill(tmp_path, range(2, 4), commit=2, overridden=True)
    fill(tmp_path, range(4, 6), commit=3, logged=False)
    killed = decided(tmp_path, 6, fallback=FALLBACK_REASON_KILL_SWITCH)
    unknown = decided(tmp_path, 7, candidates=["x", "a"], slate=["x"])
    append(tmp_path / "observations", [observation(killed, commit=4), observation(unknown, rewards=[1.0], commit=4)])
    of = learner(tmp_path)
    of.absorb()
    np.testing.assert_array_equal(state(of)[0][:, 0, 0], [2, 0, 0])


def test_rows_of_another_schema_or_task_are_passed_over_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    wider = np.zeros(5, "<f4").tobytes()
    append(tmp_path / "observations", [observation(decided(tmp_path, 2, schema_digest="older", context=wider), commit=2)])
    append(tmp_path / "observations", [observation(decided(tmp_path, 3, task="large", context=wider), commit=3)])
    of = learner(tmp_path)
    assert of.absorb() == 2 and of.progress.other_schema == 1 and of.progress.cursor == {0: 3}


def test_a_restart_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, first = learner(tmp_path, store="whole"), learner(tmp_path, store="halves")
    fill(tmp_path, range(6))
    for each in (whole, first):
        each.absorb()
    digest = first.publish(now_us=2).digest
    fill(tmp_path, range(6, 12), commit=2)
    append(tmp_path / "observations", [observation(decided(tmp_path, 2), rewards=[0.25, 0.75], revision=2, commit=3)])
    second = learner(tmp_path, store="halves")
    assert second.resume() == digest and second.progress.rows == 6 and second.parent == digest
    for each in (whole, second):
        assert each.absorb() == 6
    assert_same_state(whole, second)
    assert whole.progress == second.progress


def test_a_state_is_not_continued_on_another_table_schema_or_policy(tmp_path: Path) -> None:
    fill(tmp_path, range(6))
    of = learner(tmp_path)
    of.absorb()
    digest = of.publish(now_us=2).digest
    assert learner(tmp_path).resume() == digest
    for changed in (
        TASK.replace("[a, b, c]", "[a, b, d]"),
        TASK.replace("[a, b, c]", "[b, a, c]"),
        TASK.replace("name: x", "name: y"),
        TASK.replace("slate_size: 2", "settings: {nodes: 128}"),
        TASK.replace("slate_size: 2", "floor: 0.1"),
    ):
        assert learner(tmp_path, small(tmp_path, changed)).resume() == ""


def test_a_damaged_snapshot_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    fill(tmp_path, range(6))
    of = learner(tmp_path)
    of.absorb()
    older = of.publish(now_us=2).digest
    store = Store(tmp_path / "store", "small")
    store.close_challenger(older, "v")
    newer = of.publish(now_us=3).digest
    path = store.snapshot_dir(newer) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert learner(tmp_path).resume() == older


def test_one_challenger_waits_for_its_verdict_before_the_next(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    of, store = learner(tmp_path), Store(tmp_path / "store", "small")
    of.absorb()
    assert not of.due(), "three decisions are fewer than min_new_rows"
    fill(tmp_path, range(3, 5), commit=2)
    of.absorb()
    assert of.due()
    first = of.publish(now_us=2)
    assert first.kind == "change" and [item.digest for item in store.challengers()] == [first.digest]
    fill(tmp_path, range(5, 10), commit=3)
    of.absorb()
    assert not of.due()
    with pytest.raises(StoreError, match="one at a time"):
        of.publish(now_us=3)
    store.close_challenger(first.digest, "held")
    assert of.due()
    second = store.manifest(of.publish(now_us=4).digest)
    assert second.parent == first.digest and second.rows == 10 and second.training_watermark_us == 9_000_000 and second.cursor == {0: 3}


def test_newer_data_for_the_champions_policy_is_a_refresh(tmp_path: Path) -> None:
    fill(tmp_path, range(5))
    of, store = learner(tmp_path), Store(tmp_path / "store", "small")
    of.absorb()
    first, standing = of.publish(now_us=2), store.champion()
    assert standing is not None
    verdict = {"decision": "promote", "challenger": first.digest, "champion": standing.digest}
    store.close_challenger(first.digest, store.promote(first.digest, verdict=verdict, expected=standing, now_us=3, actor="test").verdict)
    fill(tmp_path, range(5, 10), commit=2)
    of.absorb()
    assert of.publish(now_us=4).kind == "refresh"


def test_a_table_that_is_absent_or_another_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObservationsError, match="no observations table"):
        learner(tmp_path).absorb()
    deltalake.write_deltalake(str(tmp_path / "observations"), pa.table({"task": ["small"]}))
    with pytest.raises(ObservationsError, match="without column 'append_time_us'"):
        learner(tmp_path).absorb()
