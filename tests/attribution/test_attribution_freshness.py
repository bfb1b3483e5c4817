"""Freshness: from a reward's append to the commit that says it, in the process, at Prometheus and in the status."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attribution.__main__ import app
from attribution.embedded_source import EmbeddedSource
from attribution.errors import AttributionError
from attribution.freshness import COMMIT_KEY, FreshnessWindow, commit_metadata, freshness_of_commits
from attribution.metrics import registry_of, serve_metrics
from attribution.status import report
from attribution.worker import Worker
from tests.attribution.event_kit import append_log, decision, impression, join_config, reward, us


def worker_over(tmp_path: Path, *, now_s: float) -> Worker:
    """A worker over a decision, an impression in another slot than decided, and two rewards, logged at 2.0 and 3.0 s."""
    append_log(tmp_path / "logs", "decisions", [decision()])
    append_log(tmp_path / "logs", "feedback", [impression(seen=[(0, "b")]), reward("r1", 2.0), reward("r2", 3.0)])
    source = EmbeddedSource(tmp_path / "logs")
    return Worker(source, out=tmp_path / "out", config=join_config(tmp_path / "tasks"), now_us=lambda: us(now_s))


def test_a_window_of_rewards_knows_its_median_and_its_last_hundredth() -> None:
    window = FreshnessWindow(keep=100)
    assert window.now() == (0, None, None)
    window.add(np.full(500, us(0.0)), committed_us=us(100.0))
    window.add(us(0.0) + np.arange(100) * 1_000_000, committed_us=us(100.0))
    assert window.now() == (100, 50.0, 99.0), "only the newest are kept: they waited 1 to 100 s"


def test_commits_tell_the_freshness_of_their_rewards_weighed_by_how_many_they_had() -> None:
    def entry(append_s: list[float], committed_s: float) -> dict[str, object]:
        return {"timestamp": us(committed_s) // 1000, **commit_metadata(np.array([us(at) for at in append_s]))}

    assert commit_metadata(np.array([], dtype=np.int64)) == {}, "a commit without rewards says nothing"
    history = [entry([1.0] * 99, 2.0), entry([1.0], 9.0), {"timestamp": 0}]
    assert freshness_of_commits(history) == (100, 1.0, 1.0)
    assert freshness_of_commits([entry([1.0, 2.0, 3.0], 4.0)]) == (3, 2.0, 3.0)
    assert freshness_of_commits([{"timestamp": 0}]) == (0, None, None)
    assert json.loads(str(history[0][COMMIT_KEY]))[0] == 99


def test_the_joiners_gauges_say_freshness_watermark_counts_and_slates_shown_otherwise(tmp_path: Path) -> None:
    worker = worker_over(tmp_path, now_s=13.0)
    registry = registry_of(worker, now_us=lambda: us(13.0))
    assert registry.get_sample_value("slateloop_join_freshness_seconds", {"quantile": "0.5"}) is None, "no reward has come"
    assert worker.cycle().events == 4
    assert registry.get_sample_value("slateloop_join_freshness_seconds", {"quantile": "0.5"}) == 10.0
    assert registry.get_sample_value("slateloop_join_freshness_seconds", {"quantile": "0.99"}) == 11.0
    assert registry.get_sample_value("slateloop_join_watermark_age_seconds", {"partition": "0"}) == 15.0, "0.0 s less the grace"
    assert registry.get_sample_value("slateloop_join_landed_events_total") == 4
    assert registry.get_sample_value("slateloop_join_rows_total") == 0
    append_log(tmp_path / "logs", "decisions", [decision(2, 60.0, unit="u2")])
    append_log(tmp_path / "logs", "feedback", [impression("i2", 60.0, key=2, unit="u2"), reward("r3", 60.0, key=2, unit="u2")])
    assert worker.cycle().rows == 1
    assert registry.get_sample_value("slateloop_join_overridden_rows_total") == 1
    assert registry.get_sample_value("slateloop_join_events_total", {"counted_as": "attributed"}) == 3


def test_prometheus_is_answered_at_the_address_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    worker = worker_over(tmp_path, now_s=13.0)
    worker.cycle()
    address = serve_metrics(worker, "127.0.0.1:0", now_us=lambda: us(13.0))
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    assert 'slateloop_join_freshness_seconds{quantile="0.5"} 10.0' in text and "u1" not in text
    for wrong in ("nowhere", "127.0.0.1:99999", address):
        with pytest.raises(AttributionError, match="--metrics-address"):
            serve_metrics(worker, wrong, now_us=lambda: 0)


def test_the_status_says_how_fresh_the_newest_commits_were(tmp_path: Path) -> None:
    worker = worker_over(tmp_path, now_s=13.0)
    assert report(tmp_path / "out", config=join_config(tmp_path / "tasks"))["freshness"] == {"rewards": 0, "p50_s": None, "p99_s": None}
    worker.cycle()
    told = CliRunner().invoke(app, ["status", "--out", str(tmp_path / "out"), "--tasks", str(tmp_path / "tasks"), "--json"])
    freshness = json.loads(told.stdout)["freshness"]
    # The kit's events are of 2023, and Delta's clock is the machine's.
    assert freshness["rewards"] == 2 and freshness["p99_s"] - freshness["p50_s"] == 0.0 and freshness["p50_s"] > 1e7
