"""The Python dict once more, for a team that wants the columns that ours writes: all of an event, all of an observation. Pure.

The join is `dict_join`'s; beside it stands what was parsed and is written when a decision closes.
"""

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
from dict_join import DictJoin

from attribution.events import EVENT_SCHEMA
from protos.observations import OBSERVATION_SCHEMA

__all__ = ["WholeDictJoin"]

_KEYS = attrgetter("tenant", "task", "unit_id", "decision_id")
_HEAD = attrgetter("decision_id", "tenant", "task", "unit_id", "request_id", "parent_decision_id", "event_time_us")
_SOURCE = attrgetter("policy", "snapshot_digest", "arm", "arm_probability", "config_digest", "schema_digest", "bucket_batch")
_TRACE = attrgetter("draw_by", "epoch", "trace_id", "arm_source")
# More than any kind of event leaves empty.
_NOTHING = (None,) * 13


class WholeDictJoin:
    """As DictJoin, and the two tables with the columns of EVENT_SCHEMA and OBSERVATION_SCHEMA."""

    def __init__(self, *, digest: str) -> None:
        self._join, self._digest, self._commits = DictJoin(), digest, 0
        self._fields: list[tuple[Any, ...]] = []
        self._decisions: dict[bytes, tuple[Any, int, int]] = {}
        # Times of impressions and rewards by decision, then by event.
        self._shown: dict[bytes, dict[str, int]] = defaultdict(dict)
        self._paid: dict[bytes, dict[str, int]] = defaultdict(dict)
        self.marks = self._join.marks

    def take(self, kind: str, body: Any, *, topic: str, partition: int, append_us: int) -> None:
        self._join.take(kind, body, topic=topic, partition=partition, append_us=append_us)
        self._fields.append(_fields(kind, body))
        if kind == "decision":
            self._decisions.setdefault(body.decision_id, (body, partition, append_us))
        elif kind in ("impression", "reward"):
            held = self._shown if kind == "impression" else self._paid
            held[body.decision_id].setdefault(body.event_id, body.event_time_us)

    def landed(
        self, topics: list[str], partitions: list[int], offsets: list[int], times: list[int], kinds: list[str], payloads: Any
    ) -> Any:
        """What was taken since the last call, as EVENT_SCHEMA."""
        fields, self._fields = list(zip(*self._fields, strict=True)), []
        return _table([topics, partitions, offsets, times, kinds, *fields, payloads], EVENT_SCHEMA)

    def rows(self) -> Any:
        """What has closed since the last call, as OBSERVATION_SCHEMA."""
        closed, self._commits = self._join.closed(), self._commits + 1
        watermark_us = min(self.marks.values())
        return _table(zip(*(self._row(row, watermark_us) for row in closed), strict=True), OBSERVATION_SCHEMA)

    def _row(self, row: dict[str, Any], watermark_us: int) -> tuple[Any, ...]:
        body, partition, append_us = self._decisions.pop(row["decision_id"])
        times, rewards = sorted(self._shown.pop(row["decision_id"], {}).values()), len(self._paid.pop(row["decision_id"], {}))
        seen, reward = row["seen"], row["reward"]
        outcome = {"name": "click", "slot": 0, "value": reward, "status": "final" if rewards else "missing", "count": rewards}
        joined = (append_us, [seen], [times[0] if times else None], times, [reward if seen else None], reward, [outcome] if seen else [])
        return (*_decision(body), *joined, False, True, "final", 1, self._digest, partition, watermark_us, self._commits)


def _fields(kind: str, body: Any) -> tuple[Any, ...]:
    """An event's columns from `fault` to `producer`."""
    if kind == "heartbeat":
        return (*_NOTHING, body.source, body.final, body.producer)
    if kind == "decision":
        return (None, *_KEYS(body), None, body.event_time_us, *_NOTHING[:9])
    keys = (None, *_KEYS(body), body.event_id, body.event_time_us)
    if kind == "impression":
        return (*keys, *_NOTHING[:4], [one.slot for one in body.seen], [one.action for one in body.seen], None, None, body.producer)
    value, slot = (getattr(body, name) if body.HasField(name) else None for name in ("value", "slot"))
    return (*keys, body.name, value, slot, body.action, *_NOTHING[:4], body.producer)


def _decision(body: Any) -> tuple[Any, ...]:
    """The columns of a decision."""
    listed, slots = body.candidates, body.slots
    optional = ([getattr(one, name) if one.HasField(name) else None for one in slots] for name in ("score", "value", "density"))
    return (
        *_HEAD(body),
        _floats(body.context),
        list(listed.actions),
        listed.catalogue,
        list(listed.eligible),
        _floats(listed.packed_features),
        list(listed.scores),
        [one.action for one in slots],
        [one.numerator for one in slots],
        [one.propensity for one in slots],
        *optional,
        *_SOURCE(body),
        body.bucket_candidates,
        body.fallback,
        list(body.defaulted_features),
        *_TRACE(body),
        list(body.ineligible_for),
        body.unit_features,
    )


def _floats(packed: bytes) -> Any:
    return np.frombuffer(packed, dtype="<f4")


def _table(columns: Any, schema: pa.Schema) -> Any:
    made: Sequence[Any] = [list(column) for column in columns]
    return pa.table(made, schema=schema) if made else schema.empty_table()
