"""Observations for tests, written to a real Delta table."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa

from protos.events_pb2 import CandidateSet, Decision, Slot
from protos.observations import OBSERVATION_SCHEMA, decision_row

__all__ = ["append", "decision", "observation", "table"]


def decision(number: int, *, slate: Sequence[str] = ("a", "b"), candidates: Sequence[str] = ("a", "b", "c"), **fields: Any) -> Decision:
    """A decision of the task `small`: context of two numbers, decided at `number` seconds."""
    given = {
        "decision_id": number.to_bytes(16, "little"),
        "tenant": "default",
        "task": "small",
        "unit_id": f"unit-{number}",
        "event_time_us": number * 1_000_000,
        "context": np.array([number % 7, -number % 5], "<f4").tobytes(),
        "candidates": CandidateSet(actions=candidates),
        "slots": [Slot(action=action, numerator=1 << 30, propensity=0.5) for action in slate],
        "draw_by": "decision",
        "arm_probability": 1.0,
    }
    return Decision(**{**given, **fields})


def observation(
    decided: Decision, *, rewards: Sequence[float | None] = (1.0, None), revision: int = 1, commit: int = 1, **columns: Any
) -> dict[str, Any]:
    """One revision of a decision; a reward of None = the slot was not seen."""
    seen = [reward is not None for reward in rewards]
    return {
        **decision_row(decided),
        "append_time_us": decided.event_time_us,
        "slot_seen": seen,
        "slot_seen_time_us": [decided.event_time_us if was else None for was in seen],
        "slot_reward": list(rewards),
        "reward": sum(reward for reward in rewards if reward is not None),
        "outcomes": [],
        "overridden": False,
        "logged": True,
        "status": "final" if revision == 1 else "corrected",
        "revision": revision,
        "join_config_digest": "j",
        "partition": 0,
        "watermark_us": decided.event_time_us,
        "commit_seq": commit,
        **columns,
    }


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows of observations as an Arrow table."""
    return pa.Table.from_pylist(list(rows), schema=OBSERVATION_SCHEMA)


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One commit to a Delta table."""
    deltalake.write_deltalake(str(path), table(rows), mode="append")
