"""What the joiner tells Prometheus. Labels are partitions, quantiles and what events counted as: never a unit, an item or a decision.

slateloop_join_freshness_seconds{quantile}       from a reward's append to the commit that says it, apart from the windows
slateloop_join_watermark_age_seconds{partition}  how far event time lies behind the clock; grows while a source is silent (stale)
slateloop_join_events_total{counted_as}          feedback by what it counted as: attributed, late, duplicates, the reasons of quarantine
slateloop_join_landed_events_total               events landed by this process
slateloop_join_rows_total                        revisions written by this process
slateloop_join_overridden_rows_total             revisions of slates that were shown otherwise than decided: callers re-rank
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from attribution.errors import AttributionError
from attribution.watermarks import FINAL_US, UNSEEN_US
from attribution.worker import Worker

__all__ = ["registry_of", "serve_metrics"]


class _Watcher:
    """Reads a worker when it is asked; what it reads is replaced whole, never changed in place."""

    def __init__(self, worker: Worker, now_us: Callable[[], int]) -> None:
        self._worker, self._now_us = worker, now_us

    def collect(self) -> Iterable[Any]:
        """The families of this moment."""
        yield self._freshness()
        yield self._watermarks()
        yield self._counted()
        totals = self._worker.totals
        yield CounterMetricFamily("slateloop_join_landed_events", "Events landed.", value=totals.events)
        yield CounterMetricFamily("slateloop_join_rows", "Revisions written.", value=totals.rows)
        yield CounterMetricFamily("slateloop_join_overridden_rows", "Revisions of slates shown otherwise.", value=totals.overridden)

    def _freshness(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily("slateloop_join_freshness_seconds", "From a reward's append to its commit.", labels=["quantile"])
        found = self._worker.freshness.now()
        for quantile, seconds in (("0.5", found.p50_s), ("0.99", found.p99_s)):
            if seconds is not None:
                family.add_metric([quantile], seconds)
        return family

    def _watermarks(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily("slateloop_join_watermark_age_seconds", "Event time behind the clock.", labels=["partition"])
        for number, watermark_us in self._worker.watermarks_us.items():
            if watermark_us not in (UNSEEN_US, FINAL_US):
                family.add_metric([str(number)], (self._now_us() - watermark_us) / 1e6)
        return family

    def _counted(self) -> CounterMetricFamily:
        family = CounterMetricFamily("slateloop_join_events", "Feedback by what it counted as.", labels=["counted_as"])
        for name, count in sorted(self._worker.counts.items()):
            family.add_metric([name], count)
        return family


def registry_of(worker: Worker, *, now_us: Callable[[], int]) -> CollectorRegistry:
    """A registry that reads the worker when Prometheus comes."""
    registry = CollectorRegistry()
    registry.register(_Watcher(worker, now_us))
    return registry


def serve_metrics(worker: Worker, address: str, *, now_us: Callable[[], int]) -> str:
    """Answers Prometheus at HOST:PORT from now on; returns the address with the port that was bound. Raises AttributionError."""
    host, _, port = address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), addr=host, registry=registry_of(worker, now_us=now_us))
    except (OSError, ValueError, OverflowError) as error:
        raise AttributionError(f"--metrics-address {address}: cannot be bound ({error}); give HOST:PORT, e.g. 127.0.0.1:9108") from error
    return f"{host}:{server.server_port}"
