"""What the server tells Prometheus. Labels are tenants' tasks, policies, methods, codes and stages: never a unit, an item or a request."""

import bisect
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from serving.drift import DriftWatch
from serving.observers import Observed, Observer
from serving.shipping import Lag, Shipper
from serving.snapshots import SnapshotHolder
from serving.traffic.shadow import Shadows

__all__ = ["Metrics", "Watched"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# Features of a task that are told of, those that moved most.
_FEATURES = 50
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Watched(NamedTuple):
    """The parts of a server that are looked at when somebody asks."""

    holders: Iterable[SnapshotHolder]
    lags: Mapping[str, Callable[[], Lag]]
    shippers: Mapping[str, Shipper]
    blocked: Mapping[str, Callable[[], bool]]
    drift: DriftWatch | None = None
    shadows: Shadows | None = None


class Metrics(Observer):
    """Counts as calls end; the rest is read when Prometheus comes. Thread-safe."""

    def __init__(self, *, now_us: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self._calls = _Calls()
        self.registry.register(self._calls)
        self._batches = _Batches()
        self.registry.register(self._batches)
        self._refusals = Counter("slateloop_refusals_total", "Requests of any call without an answer, by status.", ["code"], **made)
        self._fallbacks = Counter("slateloop_fallbacks_total", "Unlogged fallbacks that were answered.", **made)
        self._now_us = now_us

    def watch(self, watched: Watched) -> None:
        """Adds what is read when Prometheus comes."""
        self.registry.register(_Watcher(watched, self._now_us))

    def ended(self, method: str, code: str, seconds: float) -> None:
        """A call ended."""
        self._calls.add(method, code, seconds)

    def ended_together(self, method: str, codes: Sequence[str], seconds: Sequence[float]) -> None:
        """Calls ended."""
        self._calls.add_all(method, codes, seconds)

    def batch(self, observed: Observed) -> None:
        """A batch was decided."""
        self._batches.add(observed)

    def refused(self, code: str) -> None:
        """A request got no answer."""
        self._refusals.labels(code).inc()

    def fell_back(self) -> None:
        """An unlogged fallback was answered."""
        self._fallbacks.inc()

    def timer(self) -> float:
        """Seconds of a clock that only goes forward."""
        return time.perf_counter()


class _Buckets:
    """How many values lie in which bucket, and their sum. Who keeps it has the lock.

    prometheus_client's own counter and histogram cost 2.2 us a call, which is much where a whole call costs 30.
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: upper ones, ascending; a last bucket has none."""
        self._bounds, self._counts, self._total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """One more."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._total += value

    def add_all(self, values: Sequence[float]) -> None:
        """Some more."""
        bounds, counts = self._bounds, self._counts
        for value in values:
            counts[bisect.bisect_left(bounds, value)] += 1
        self._total += sum(values)

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """Bounds with how many lie at or below each, and the sum, as a family takes them."""
        bounds = map(floatToGoString, (*self._bounds, float("inf")))
        return list(zip(bounds, itertools.accumulate(self._counts), strict=True)), self._total


class _Calls:
    """Calls that ended by method and status, and their times by method. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # One count.
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._times: dict[str, _Buckets] = {}
        self._seen: dict[tuple[str, str], tuple[list[int], _Buckets]] = {}

    def add(self, method: str, code: str, seconds: float) -> None:
        """One more, of a method by its full name."""
        with self._lock:
            count, times = self._seen.get((method, code)) or self._begun(method, code)
            count[0] += 1
            times.add(seconds)

    def add_all(self, method: str, codes: Sequence[str], seconds: Sequence[float]) -> None:
        """As `add` for each."""
        with self._lock:
            for code in {*codes}:
                count, times = self._seen.get((method, code)) or self._begun(method, code)
                own = [took_s for took_s, one in zip(seconds, codes, strict=True) if one == code]
                count[0] += len(own)
                times.add_all(own)

    def _begun(self, method: str, code: str) -> tuple[list[int], _Buckets]:
        name = method.rpartition("/")[2]
        times = self._times.setdefault(name, _Buckets(_SECONDS))
        found = self._seen[method, code] = (self._counts.setdefault((name, code), [0]), times)
        return found

    def collect(self) -> Iterable[Any]:
        """The families of this moment."""
        calls = CounterMetricFamily("slateloop_calls", "Calls that ended, by method and status.", labels=["method", "code"])
        took = HistogramMetricFamily("slateloop_call_seconds", "From the arrival of a call to its answer.", labels=["method"])
        with self._lock:
            for (name, code), count in self._counts.items():
                calls.add_metric([name, code], count[0])
            for name, times in self._times.items():
                took.add_metric([name], *times.told())
        return (calls, took)


class _Batches:
    """Decisions, sizes of batches, and the times of their stages. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decided, self._sizes = 0, _Buckets(_SIZES)
        self._stages = {stage: _Buckets(_SECONDS) for stage in ("admit", "decide", "append")}

    def add(self, observed: Observed) -> None:
        """One more."""
        stages = self._stages
        with self._lock:
            self._decided += observed.decided
            self._sizes.add(observed.requests)
            stages["admit"].add(observed.admit_s)
            stages["decide"].add(observed.decide_s)
            stages["append"].add(observed.append_s)

    def collect(self) -> Iterable[Any]:
        """The families of this moment."""
        sizes = HistogramMetricFamily("slateloop_batch_requests", "Requests that were decided together.")
        took = HistogramMetricFamily("slateloop_stage_seconds", "Time of a stage, for a whole batch.", labels=["stage"])
        with self._lock:
            decisions = CounterMetricFamily("slateloop_decisions", "Decisions that were logged and answered.", value=self._decided)
            sizes.add_metric([], *self._sizes.told())
            for stage, times in self._stages.items():
                took.add_metric([stage], *times.told())
        return (decisions, sizes, took)


class _Watcher:
    """Reads snapshots, logs and shippers when it is asked."""

    def __init__(self, watched: Watched, now_us: Callable[[], int]) -> None:
        self._watched, self._now_us = watched, now_us

    def collect(self) -> Iterable[Any]:
        """The families of this moment."""
        yield from self._snapshots()
        yield from self._logs()
        yield from self._beside()

    def _snapshots(self) -> Iterable[Any]:
        info = GaugeMetricFamily("slateloop_snapshot", "1 for the snapshot that decides.", labels=["task", "policy", "digest"])
        age = GaugeMetricFamily("slateloop_snapshot_age_seconds", "Since the deciding snapshot was made.", labels=["task"])
        failures = CounterMetricFamily("slateloop_snapshot_failures", "Snapshots that could not be served.", labels=["task"])
        for holder in self._watched.holders:
            task = holder.rules.name
            failures.add_metric([task], holder.failures)
            if holder.ready:
                manifest = holder.served.deciding.manifest
                info.add_metric([task, manifest.policy, holder.served.deciding.digest], 1.0)
                age.add_metric([task], max(self._now_us() - manifest.created_us, 0) / 1e6)
        return (info, age, failures)

    def _beside(self) -> Iterable[Any]:
        psi = GaugeMetricFamily(
            "slateloop_feature_psi", "Stability index of a feature against the training rows.", labels=["task", "feature"]
        )
        missing = GaugeMetricFamily("slateloop_feature_missing", "Share of requests that lacked a feature.", labels=["task", "feature"])
        shadows = CounterMetricFamily(
            "slateloop_shadow_decisions", "Decisions of shadow policies, by what became of them.", labels=["fate"]
        )
        watch, queue = self._watched.drift, self._watched.shadows
        for (_, task), found in (watch.found if watch is not None else {}).items():
            for name, one in sorted(found.features.items(), key=lambda item: -item[1].psi)[:_FEATURES]:
                psi.add_metric([task, name], one.psi)
                missing.add_metric([task, name], one.missing)
        if queue is not None:
            shadows.add_metric(["scored"], queue.scored)
            shadows.add_metric(["left_out"], queue.left_out)
            shadows.add_metric(["over_budget"], queue.over_budget)
        return (psi, missing, shadows)

    def _logs(self) -> Iterable[Any]:
        size = GaugeMetricFamily("slateloop_shipping_lag_bytes", "Bytes of a log that the broker does not have.", labels=["log"])
        age = GaugeMetricFamily("slateloop_shipping_lag_seconds", "Age of the oldest record that the broker does not have.", labels=["log"])
        retries = CounterMetricFamily("slateloop_shipping_retries", "Chunks that were sent again.", labels=["log"])
        fatal = CounterMetricFamily("slateloop_shipping_fatal_errors", "Producers that ended fatally.", labels=["log"])
        blocked = GaugeMetricFamily("slateloop_log_blocked", "1 while a log takes nothing: a bound, or the disk.", labels=["log"])
        for name, ask in self._watched.lags.items():
            lag = ask()
            size.add_metric([name], lag.size_bytes)
            age.add_metric([name], lag.age_s)
        for name, shipper in self._watched.shippers.items():
            retries.add_metric([name], shipper.retries)
            fatal.add_metric([name], shipper.fatal_errors)
        for name, takes_nothing in self._watched.blocked.items():
            blocked.add_metric([name], float(takes_nothing()))
        return (size, age, retries, fatal, blocked)
