"""Events made by hand, and records as a log would hold them. Times are seconds after T0."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from attribution.decode import decode
from attribution.events import Raw
from attribution.settings import JoinConfig, load_join_config
from protos.events_pb2 import Decision, Event, Heartbeat, Impression, Reward, SeenSlot, Slot
from protos.framing import frame
from protos.log_files import end_offset, segment_path

T0 = 1_700_000_000_000_000
SLATE = ("a", "b", "c")
CANDIDATES = ("a", "b", "c", "d")

# Impressions count for 10 s, clicks for 10 s, minutes for 20 s: a decision closes after 20 s, is on time for 2 s, corrected for 30 s.
TASK = """
task: news
rewards:
  outcomes:
    click: {window_s: 10.0, aggregate: max}
    minutes: {window_s: 20.0, aggregate: sum, weight: 0.5, default: 0.0}
    rating: {window_s: 20.0, aggregate: last, weight: 0.0, default: -1.0, level: slate}
attribution:
  impression_window_s: 10.0
  grace_s: 2.0
  correction_horizon_s: 30.0
  max_future_s: 5.0
"""


def us(seconds: float) -> int:
    """Seconds after T0 as microseconds since the epoch."""
    return T0 + round(seconds * 1e6)


def task_directory(path: Path, text: str = TASK) -> Path:
    """A directory with one task file."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "news.yaml").write_text(text, encoding="utf-8")
    return path


def join_config(path: Path) -> JoinConfig:
    return load_join_config(task_directory(path))


def number(key: int) -> bytes:
    """A decision id."""
    return key.to_bytes(16, "big")


def decision(
    key: int = 1, at: float = 0.0, *, unit: str = "u1", logged: float | None = None, slate: Sequence[str] = SLATE, task: str = "news"
) -> Event:
    body = Decision(decision_id=number(key), tenant="default", task=task, unit_id=unit, request_id=f"r{key}", event_time_us=us(at))
    body.context = np.arange(3, dtype="<f4").tobytes()
    body.candidates.actions.extend(CANDIDATES)
    body.slots.extend(Slot(action=action, numerator=2**31 - place, propensity=1.0, score=0.5) for place, action in enumerate(slate))
    return Event(decision=body, append_time_us=us(at if logged is None else logged))


def impression(
    name: str = "i1",
    at: float = 1.0,
    *,
    key: int = 1,
    unit: str = "u1",
    logged: float | None = None,
    seen: Sequence[tuple[int, str]] = ((0, "a"), (1, "b")),
    task: str = "news",
) -> Event:
    body = Impression(event_id=name, tenant="default", task=task, decision_id=number(key), unit_id=unit, event_time_us=us(at))
    body.seen.extend(SeenSlot(slot=slot, action=action) for slot, action in seen)
    return Event(impression=body, append_time_us=us(at if logged is None else logged))


def reward(
    name: str = "r1",
    at: float = 2.0,
    *,
    key: int = 1,
    unit: str = "u1",
    logged: float | None = None,
    outcome: str = "click",
    value: float | None = 1.0,
    slot: int | None = None,
    action: str = "",
) -> Event:
    body = Reward(
        event_id=name, tenant="", task="news", decision_id=number(key), unit_id=unit, event_time_us=us(at), name=outcome, action=action
    )
    body.value, body.slot = value or 0.0, slot or 0
    if value is None:
        body.ClearField("value")
    if slot is None:
        body.ClearField("slot")
    return Event(reward=body, append_time_us=us(at if logged is None else logged))


def heartbeat(source: str, at: float = 0.0, *, final: bool = False, logged: float | None = None) -> Event:
    logged_us = us(at if logged is None else logged)
    return Event(heartbeat=Heartbeat(source=source, event_time_us=us(at), final=final), append_time_us=logged_us)


def finals(at: float = 0.0) -> list[Event]:
    """Final heartbeats of all three sources."""
    return [heartbeat(source, at, final=True) for source in ("decisions", "impressions", "rewards")]


def topic_of(event: Event) -> str:
    """The Kafka topic in which an event travels."""
    kind = str(event.WhichOneof("kind"))
    return event.heartbeat.source if kind == "heartbeat" else f"{kind}s"


def table(*events: Event) -> pl.DataFrame:
    """Decoded events, each topic with offsets from 0."""
    return decode([Raw(topic_of(event), 0, offset, event.SerializeToString()) for offset, event in enumerate(events)])


def append_log(logs: Path, log: str, events: Sequence[Event]) -> None:
    """Appends records to a log directory as the server does."""
    directory = logs / log
    directory.mkdir(parents=True, exist_ok=True)
    path = segment_path(directory, 0)
    assert not path.exists() or end_offset(directory) == path.stat().st_size
    with path.open("ab") as file:
        for event in events:
            file.write(frame(event.SerializeToString()))
