"""Drift of features: read from the decision log, against the histograms of the snapshot that serves; exported, and kept for the gate."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest

from bandits.features import FeaturesSection, Schema
from bandits.histograms import Seen, histograms
from bandits.store import Store
from protos.config import parse
from protos.events_pb2 import Decision, Event
from protos.framing import frame
from protos.log_files import segment_path
from serving.drift import DRIFT_NOTE, DriftWatch
from serving.metrics import Watched, _Watcher

SCHEMA = Schema.of(parse(FeaturesSection, {"context": [{"name": "age"}, {"name": "member", "type": "bool"}]}, where="features"))
KEY = ("default", "shop")


def contexts(n: int, *, age: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(age, 5, n), rng.random(n) < 0.5]).astype("<f4")


def holder(features: Any) -> Any:
    rules = SimpleNamespace(context_size=2, schema_digest=SCHEMA.digest, schema=SCHEMA, name="shop")
    champion = SimpleNamespace(digest="c" * 64, manifest=SimpleNamespace(features=features))
    return SimpleNamespace(ready=True, served=SimpleNamespace(champion=champion), rules=rules)


def append(log: Path, rows: np.ndarray, *, lacking: int = 0, digest: str = SCHEMA.digest) -> None:
    log.mkdir(exist_ok=True)
    with segment_path(log, 0).open("ab") as file:
        for place, row in enumerate(rows):
            defaulted = ["age"] if place < lacking else []
            decision = Decision(
                tenant="default", task="shop", unit_id="u", context=row.tobytes(), schema_digest=digest, defaulted_features=defaulted
            )
            file.write(frame(Event(decision=decision).SerializeToString()))


def watch_of(tmp_path: Path, features: Any) -> DriftWatch:
    (tmp_path / "log").mkdir(exist_ok=True)
    return DriftWatch(tmp_path / "log", {KEY: holder(features)}, {KEY: Store(tmp_path, "shop")}, every_s=1.0, now_us=lambda: 7)


TRAINED = histograms(Seen(contexts(2_000, age=40, seed=1), [()] * 2_000), SCHEMA)


def test_features_that_moved_are_found_told_and_kept(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, TRAINED)
    append(tmp_path / "log", contexts(800, age=40, seed=2))
    watch.look()
    assert watch.found[KEY].rows == 800 and max(one.psi for one in watch.found[KEY].features.values()) < 0.1
    append(tmp_path / "log", contexts(900, age=60, seed=3), lacking=450)
    watch.look()
    found = watch.found[KEY]
    assert found.rows == 1_700 and found.features["age"].psi > 0.2 > found.features["member"].psi
    assert found.features["age"].missing == 450 / 1_700
    note = Store(tmp_path, "shop").notes(DRIFT_NOTE)["server"]
    assert (note["rows"], note["digest"], note["features"]["age"]["psi"]) == (1_700, "c" * 64, found.features["age"].psi)
    registry = CollectorRegistry()
    registry.register(_Watcher(Watched((), {}, {}, {}, watch), lambda: 7))
    assert 'slateloop_feature_psi{feature="age",task="shop"}' in generate_latest(registry).decode()


def test_without_histograms_nothing_is_read(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, {})
    append(tmp_path / "log", contexts(10, age=40, seed=2))
    before = watch._offset
    watch.look()
    assert watch.found == {} and watch._offset == before


def test_rows_of_another_schema_are_left_out_and_a_look_reads_no_more_than_its_share(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, TRAINED)
    append(tmp_path / "log", contexts(5, age=40, seed=2), digest="0" * 64)
    append(tmp_path / "log", contexts(3_000, age=40, seed=3))
    watch.look()
    assert 900 <= watch.found[KEY].rows <= 1_600
