"""The demo's task as an observations table: real pictures, decisions by a snapshot of a real store, rewards by its rules."""

import dataclasses
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

from bandits.config import TaskPolicy, parse_task
from bandits.first import ensure_champion
from bandits.keys import decision_id, draw_key
from bandits.loaded import LoadedPolicy
from bandits.requests import Requests
from bandits.store import Store
from protos.observations import OBSERVATION_SCHEMA
from protos.task import TaskFile, load_task

TASK_FILE = Path(__file__).resolve().parents[2] / "configs" / "tasks" / "digits.yaml"
SEEN = np.array([1.0, 0.7, 0.4])
SLOTS = len(SEEN)
DECISION_GAP_US = 1_000


@dataclasses.dataclass
class World:
    """A store, an observations table and what has happened so far."""

    task: TaskFile
    policy: TaskPolicy
    store: Store
    root: Path
    table: Path
    rng: np.random.Generator
    decided: int = 0

    @property
    def now_us(self) -> int:
        """Time of the next decision, microseconds since the epoch."""
        return 1_700_000_000_000_000 + self.decided * DECISION_GAP_US

    def live(self, n: int, *, by: LoadedPolicy | None = None, settled: bool = True, **changed: Any) -> pa.Table:
        """n decisions of a policy (the champion where none is given), joined and committed; `changed` overrides columns."""
        champion = self.store.champion()
        assert champion is not None
        rows = self._rows(n, by or self.store.load(champion.digest), settled)
        table = pa.table(
            {name: changed.get(name, rows.get(name, [None] * n)) for name in OBSERVATION_SCHEMA.names}, schema=OBSERVATION_SCHEMA
        )
        deltalake.write_deltalake(self.table, table, mode="append")
        return table

    def _rows(self, n: int, policy: LoadedPolicy, settled: bool) -> dict[str, Any]:
        data = load_digits()
        picture = self.rng.integers(0, len(data.target), n)
        first_us, ids = (
            self.now_us,
            [
                decision_id(
                    tenant="default", task=self.task.name, request_id=str(self.decided + i), arm="champion", snapshot_digest=policy.digest
                )
                for i in range(n)
            ],
        )
        requests = _requests(data.data[picture], ids, self.policy)
        answer = policy.decide(requests, slots=SLOTS)
        seen = self.rng.random((n, SLOTS)) < SEEN
        right = answer.slates == data.target[picture][:, None]
        reward = np.where(seen, right.astype(float), 0.0)
        self.decided += n
        actions = list(self.policy.schema.actions)
        return {
            "decision_id": ids,
            "tenant": ["default"] * n,
            "task": [self.task.name] * n,
            "unit_id": [f"u{int(unit)}" for unit in self.rng.integers(0, 500, n)],
            "decision_time_us": [first_us + i * DECISION_GAP_US for i in range(n)],
            "context": list(requests.context),
            "candidate_actions": [actions] * n,
            "candidate_eligible": [[]] * n,
            "candidate_packed_features": [[]] * n,
            "slot_action": [[actions[a] for a in slate] for slate in answer.slates],
            "slot_numerator": answer.numerators.tolist(),
            "snapshot_digest": [policy.digest] * n,
            "schema_digest": [self.policy.schema.digest] * n,
            "draw_by": ["decision"] * n,
            "epoch": [0] * n,
            "fallback": [0] * n,
            "slot_seen": seen.tolist(),
            "slot_reward": [
                [r if s else None for r, s in zip(*row, strict=True)] for row in zip(reward.tolist(), seen.tolist(), strict=True)
            ],
            "reward": reward.sum(axis=1),
            "outcomes": [
                [{"name": "right", "slot": k, "value": r, "status": "final", "count": 1} for k, r in enumerate(row)]
                for row in reward.tolist()
            ],
            "overridden": [False] * n,
            "logged": [True] * n,
            "status": ["final" if settled else "provisional"] * n,
            "revision": [1] * n,
            "partition": [0] * n,
            "watermark_us": [first_us + n * DECISION_GAP_US + 10_000_000] * n,
            "commit_seq": [self.decided] * n,
        }


def begin(folder: Path, *, seed: int = 0) -> World:
    """A world with its first champion and no decision yet."""
    task = load_task(TASK_FILE)
    policy, store = parse_task(task), Store(folder / "store", task.name)
    world = World(task, policy, store, folder / "store", folder / "observations", np.random.default_rng(seed))
    ensure_champion(store, policy, now_us=world.now_us)
    return world


def _requests(pictures: np.ndarray, ids: list[bytes], policy: TaskPolicy) -> Requests:
    keys = np.stack([draw_key(i) for i in ids])
    return Requests.of(pictures, np.arange(len(policy.schema.actions)), slots=SLOTS, draw_key=keys)
