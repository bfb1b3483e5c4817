"""Everything that the page shows of a task at a moment. A source that is absent or broken says so in its place; the others stand."""

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bandits.errors import BanditsError
from protos.errors import ObservationsError
from serving.dashboard.demo_folder import SUMMARY, metrics_of
from serving.dashboard.loads import Look, loads
from serving.dashboard.prometheus import ask, summed, value_of
from serving.dashboard.rows import figures, read_recent
from serving.dashboard.standing import standing, task_names

__all__ = ["Board", "Places"]

# Looks at the servers that are kept: half an hour at one every five seconds.
_LOOKS, _LOOK_EVERY_S = 360, 5.0
# What was worked out of the store and the table stands for this long, or for this many times as long as it took.
_FRESH_S, _FRESH_TIMES = 2.0, 10.0


class Places(NamedTuple):
    """Where the sources are. `servers` and `joiner`: host:port of their metrics; `demo`: folder of a demo, whose summary is shown once it
    has ended, and whose server and joiner are asked while it runs, where no others are named."""

    store: Path
    observations: Path
    servers: Sequence[str] = ()
    joiner: str = ""
    demo: Path | None = None


class _Kept(NamedTuple):
    until_s: float
    value: dict[str, Any]


class Board:
    """The state of all tasks. Thread-safe; `watch` keeps looking at the servers until it is told to stop."""

    def __init__(self, places: Places, *, now_us: Callable[[], int]) -> None:
        self._places, self._now_us = places, now_us
        self._looks: deque[Look] = deque(maxlen=_LOOKS)
        self._fault = ""
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def tasks(self) -> list[str]:
        """Names of the store's tasks."""
        return task_names(self._places.store)

    def watch(self, stop: threading.Event) -> None:
        """Looks at the servers every few seconds; first it reads what the first page will ask for."""
        for task in self.tasks()[:1]:
            self._slow(task)
        while self._places.servers or self._places.demo:
            self.look()
            if stop.wait(_LOOK_EVERY_S):
                return

    def look(self) -> None:
        """One look at the servers; one that cannot be asked is said, and the others' figures stand."""
        found, faults = [], []
        for address in self._servers():
            try:
                found.append(ask(address))
            except (OSError, ValueError) as error:
                faults.append(f"{address} does not answer ({error})")
        self._fault = "; ".join(faults)
        if found:
            self._looks.append(Look(self._now_us(), summed(found)))

    def state(self, task: str) -> dict[str, Any]:
        """Everything of a task, as plain data: for each source its figures, or {"absent": why}."""
        return {"now_us": self._now_us(), "tasks": self.tasks(), "task": task, "server": self._server(), **self._slow(task)}

    def _slow(self, task: str) -> dict[str, Any]:
        """What is read from disk: one at a time, and not more often than a tenth of the time."""
        with self._lock:
            kept, began = self._kept.get(task), time.monotonic()
            if kept is None or kept.until_s < began:
                value = {"standing": self._standing(task), "rows": self._rows(task), "joiner": self._joiner(), "run": self._run()}
                took = time.monotonic() - began
                kept = self._kept[task] = _Kept(time.monotonic() + max(_FRESH_S, _FRESH_TIMES * took), value)
            return kept.value

    def _servers(self) -> Sequence[str]:
        return self._places.servers or [address for address in (self._of_demo("server"),) if address]

    def _of_demo(self, part: str) -> str:
        return metrics_of(self._places.demo, part) if self._places.demo else ""

    def _server(self) -> dict[str, Any]:
        if not self._servers():
            if self._places.demo:
                return _absent(
                    "The demo is not running, or not ready yet, so its server has no figures; give --metrics to look at another."
                )
            return _absent("No server was named: start `serving serve --set metrics_address=127.0.0.1:9107`, and give --metrics here.")
        if not self._looks or self._fault:
            return _absent(f"{self._fault or 'Not looked at yet'}. Is the server up, with `metrics_address` set?")
        return loads(list(self._looks))

    def _joiner(self) -> dict[str, Any]:
        joiner = self._places.joiner or self._of_demo("joiner")
        if not joiner and self._places.demo:
            return _absent("The demo is not running, or not ready yet, so its joiner has no figures; give --joiner to look at another.")
        if not joiner:
            return _absent("No joiner was named: start `attribution run --metrics-address 127.0.0.1:9108`, and give --joiner here.")
        try:
            samples = ask(joiner)
        except (OSError, ValueError) as error:
            return _absent(f"{joiner} does not answer ({error}). Is `attribution run` up, with --metrics-address?")
        counted = {dict(labels)["counted_as"]: count for labels, count in samples.get("slateloop_join_events_total", {}).items()}
        freshness = samples.get("slateloop_join_freshness_seconds", {})
        return {
            "freshness_s": {dict(labels)["quantile"]: seconds for labels, seconds in freshness.items()},
            "behind_s": max(samples.get("slateloop_join_watermark_age_seconds", {}).values(), default=None),
            "overridden": value_of(samples, "slateloop_join_overridden_rows_total"),
            "events": dict(sorted(counted.items(), key=lambda item: -item[1])),
        }

    def _standing(self, task: str) -> dict[str, Any]:
        if not task:
            return _absent(f"{self._places.store} has no task with a champion yet: `serving serve` or `bandits begin` makes the first one.")
        try:
            found = standing(self._places.store, task)
        except (BanditsError, OSError, ValueError, KeyError, TypeError) as error:
            return _absent(f"The store {self._places.store} cannot be read: {error}")
        return found or _absent(
            f"{self._places.store} has no champion of {task!r}: `serving serve` or `bandits begin` makes the first one."
        )

    def _rows(self, task: str) -> dict[str, Any]:
        try:
            found = figures(read_recent(self._places.observations, task=task, now_us=self._now_us()))
        except ObservationsError:
            return _absent(f"{self._places.observations} is no table yet: `attribution run` writes it, and --observations names it.")
        return found or _absent(f"{self._places.observations} has no row of {task!r} yet: decisions appear when they are joined.")

    def _run(self) -> dict[str, Any]:
        """What the demo's callers measured themselves; nothing where this is no demo."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if self._places.demo is not None:
                told: Mapping[str, Any] = json.loads((self._places.demo / SUMMARY).read_text())
                return {key: float(told[key]) for key in ("select_p50_ms", "select_p99_ms", "decisions_per_s", "traffic_s")}
        return {}


def _absent(why: str) -> dict[str, Any]:
    return {"absent": why}
