"""Rates and latencies from the counters that servers keep: what happened between two looks. Pure."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from serving.dashboard.prometheus import Samples, value_of

__all__ = ["Look", "loads"]

# Figures of "now" are those of the last looks within this, seconds.
_NOW_S = 30.0
_LATENCY = "slateloop_call_seconds"


class Look(NamedTuple):
    """What all servers said at a time, microseconds since the epoch."""

    time_us: int
    samples: Samples


def loads(looks: Sequence[Look]) -> dict[str, Any]:
    """Traffic and latency over time and now, oldest first; at least one look. A rate needs two."""
    newest = looks[-1]
    recent = next(look for look in looks if newest.time_us - look.time_us <= _NOW_S * 1e6)
    pairs = list(itertools.pairwise(looks))
    quantiles = [_quantiles_ms(before, after) for before, after in pairs]
    return {
        "since_us": looks[0].time_us,
        "now": _now(recent, newest),
        "series": {
            "time_us": [after.time_us for _, after in pairs],
            "per_s": [_rate(before, after, "slateloop_decisions_total") for before, after in pairs],
            "p50_ms": [p50 for p50, _ in quantiles],
            "p99_ms": [p99 for _, p99 in quantiles],
        },
        "snapshots": [dict(labels) for labels in sorted(newest.samples.get("slateloop_snapshot", {}))],
        "codes": _by_code(newest.samples),
    }


def _now(recent: Look, newest: Look) -> dict[str, Any]:
    p50, p99 = _quantiles_ms(recent, newest)
    if p50 is None:
        # One look, or no call since: then those of all calls since the server's start.
        p50, p99 = _quantiles_ms(Look(newest.time_us, {}), newest)
    return {
        "per_s": _rate(recent, newest, "slateloop_decisions_total") if recent is not newest else None,
        "p50_ms": p50,
        "p99_ms": p99,
        "decisions": value_of(newest.samples, "slateloop_decisions_total"),
        "fallbacks": value_of(newest.samples, "slateloop_fallbacks_total"),
        "refused": value_of(newest.samples, "slateloop_refusals_total"),
        "log_blocked": value_of(newest.samples, "slateloop_log_blocked") > 0,
        "snapshot_failures": value_of(newest.samples, "slateloop_snapshot_failures_total"),
        "shipping_lag_s": max(newest.samples.get("slateloop_shipping_lag_seconds", {}).values(), default=None),
    }


def _rate(before: Look, after: Look, name: str) -> float | None:
    """Per second; None across a restart, where counters begin anew."""
    seconds = (after.time_us - before.time_us) / 1e6
    grown = value_of(after.samples, name) - value_of(before.samples, name)
    return grown / seconds if seconds > 0 and grown >= 0 else None


def _quantiles_ms(before: Look, after: Look) -> tuple[float | None, float | None]:
    counts = _bucket_counts(before, after)
    return _quantile_ms(counts, 0.5), _quantile_ms(counts, 0.99)


def _bucket_counts(before: Look, after: Look) -> list[tuple[float, float]]:
    """(upper bound in seconds, calls up to it) of the calls between two looks that decide, ascending."""
    totals: dict[float, float] = {}
    for samples, sign in ((after.samples, 1.0), (before.samples, -1.0)):
        for labels, count in samples.get(f"{_LATENCY}_bucket", {}).items():
            own = dict(labels)
            if own["method"] in ("Select", "SelectBatch"):
                bound = float(own["le"])
                totals[bound] = totals.get(bound, 0.0) + sign * count
    return sorted(totals.items())


def _quantile_ms(counts: Sequence[tuple[float, float]], share: float) -> float | None:
    """The quantile by linear interpolation within its bucket, as Prometheus does it; None without calls."""
    if not counts or counts[-1][1] <= 0:
        return None
    rank, low, below = share * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= rank:
            if math.isinf(bound):
                return low * 1e3
            return (low + (bound - low) * (rank - below) / max(count - below, 1e-12)) * 1e3
        low, below = bound, count
    return None


def _by_code(samples: Samples) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, count in samples.get("slateloop_calls_total", {}).items():
        code = dict(labels)["code"]
        found[code] = found.get(code, 0.0) + count
    return dict(sorted(found.items(), key=lambda item: -item[1]))
