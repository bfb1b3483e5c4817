"""Features of units: what they say, by a slow reference; how versions appear, stay and go; and that a deleted unit is in none."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from attribution.__main__ import app
from attribution.embedded_source import EmbeddedSource
from attribution.errors import TableError
from attribution.housekeeping import delete_unit
from attribution.unit_feature_build import FeatureRequest, build_unit_features
from attribution.unit_feature_store import features_folder, versions
from attribution.unit_features import AGGREGATES, feature_columns, unit_features, usable_signals, without_units
from attribution.worker import Worker
from protos.errors import UnitFeaturesError
from protos.events_pb2 import Event, Signal
from protos.unit_features import FEATURES_FILE, LATEST, UnitFeatures, latest_version, load_unit_features
from tests.attribution.event_kit import append_log, decision, heartbeat, join_config, table, us


def signal(event_id: str, at: float, *, unit: str, name: str = "play", value: float | None = 1.0, tenant: str = "default") -> Event:
    body = Signal(event_id=event_id, tenant=tenant, unit_id=unit, name=name, event_time_us=us(at))
    if value is not None:
        body.value = value
    return Event(signal=body, append_time_us=us(at))


def told(rng: random.Random) -> list[Event]:
    """Signals of three units, without order, and some of them twice."""
    events = [
        signal(
            f"e{key}",
            rng.randrange(100),
            unit=rng.choice("abc"),
            name=rng.choice(["play", "search", "other"]),
            value=rng.choice([None, 0.0, 2.5]),
        )
        for key in range(200)
    ]
    return [*events, *rng.sample(events, 20)]


def slow(events: Sequence[Event], *, unit: str, name: str, aggregate: str, window_s: float, at: float) -> float:
    """One feature, event by event."""
    found = {e.signal.event_id: e.signal for e in events if e.signal.unit_id == unit and e.signal.name == name}
    inside = [s for s in found.values() if us(at - window_s) <= s.event_time_us < us(at)]
    inside.sort(key=lambda s: (s.event_time_us, s.event_id))
    values = [s.value if s.HasField("value") else 1.0 for s in inside]
    return {"count": float(len(values)), "sum": sum(values), "last": values[-1] if values else -1.0}[aggregate]


@pytest.mark.parametrize("seed", range(5))
def test_every_feature_is_that_of_the_slow_reference(seed: int) -> None:
    events = told(random.Random(seed))
    columns = feature_columns(["play", "search", "never"], windows_s=[7.0, 60.0], last_default=-1.0)
    assert len(columns) == 3 * 2 * len(AGGREGATES) and columns[0].name == "play_count_7s"
    rows = unit_features(usable_signals(table(*events), tenant="default"), columns, at_us=us(80.0))
    assert rows["unit_id"].to_list() == sorted(rows["unit_id"]) and rows.null_count().sum_horizontal()[0] == 0
    for row in rows.iter_rows(named=True):
        wanted = {
            c.name: slow(events, unit=row["unit_id"], name=c.signal, aggregate=c.aggregate, window_s=c.window_s, at=80.0) for c in columns
        }
        assert {name: row[name] for name in wanted} == wanted


def test_the_name_of_a_feature_says_its_window_in_words() -> None:
    assert [c.name for c in feature_columns(["x"], windows_s=[7 * 86_400.0, 43_200.0, 90.0])][::3] == [
        "x_count_7d",
        "x_count_12h",
        "x_count_90s",
    ]


def test_a_row_goes_if_an_event_in_it_is_covered_and_stays_if_all_are_later() -> None:
    rows = pl.DataFrame({"unit_id": ["a", "b"], "first_time_us": [10, 10]})

    def kept(until_us: int, tenant: str = "t") -> list[str]:
        deletions = pl.DataFrame({"tenant": [tenant], "unit_id": ["a"], "until_us": [until_us], "requested_us": [99]})
        return without_units(rows, deletions, tenant="t")["unit_id"].to_list()

    assert (kept(9), kept(10), kept(10, tenant="other")) == (["a", "b"], ["b"], ["a", "b"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Tables with the signals of two units of one tenant and one of another, and a watermark at 40 s."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    append_log(logs, "decisions", [decision(1, 0.0, unit="ann"), heartbeat("decisions", 40.0)])
    played = [signal(f"{unit}{at}", at, unit=unit, value=at) for unit in ("ann", "bob") for at in (3.0, 30.0)]
    others = [signal("s", 5.0, unit="ann", name="secret", tenant="other"), signal("late", 45.0, unit="ann")]
    append_log(logs, "feedback", [*played, *others, *(heartbeat(source, 40.0) for source in ("impressions", "rewards"))])
    Worker(EmbeddedSource(logs), out=out, config=join_config(tmp_path / "tasks")).cycle()
    return out


def ask(**change: Any) -> FeatureRequest:
    return FeatureRequest(**{"tenant": "default", "signals": [], "windows_s": [20.0], **change})


def load(out: Path) -> UnitFeatures:
    found = load_unit_features(features_folder(out, "default"))
    assert found is not None
    return found


def test_a_version_counts_up_to_the_watermark_and_says_what_stands_in_it(out: Path) -> None:
    made = build_unit_features(out, ask(), now_us=1, keep=3)
    found = load(out)
    assert found.manifest == made and (made.at_us, made.rows) == (us(40.0), 2) and made.version.startswith(f"{us(40.0):020d}-")
    assert [c.name for c in made.columns] == ["play_count_20s", "play_sum_20s", "play_last_20s"], "another tenant's signal is no column"
    assert found.rows(["bob", "nobody"]).tolist() == [[1.0, 30.0, 30.0], [0.0, 0.0, 0.0]]
    assert load_unit_features(features_folder(out, "other")) is None
    assert build_unit_features(out, ask(), now_us=2, keep=3) == made, "the same rows are the same version"


def test_some_versions_are_kept_and_none_is_ever_changed(out: Path) -> None:
    folder = features_folder(out, "default")
    made = [build_unit_features(out, ask(at_us=us(at)), now_us=number, keep=2) for number, at in enumerate((31.0, 35.0, 60.0))]
    assert [one.version for one in versions(folder)] == [one.version for one in made[1:]] and latest_version(folder) == made[2].version
    (file,) = folder.glob(f"{made[2].version}/{FEATURES_FILE}")
    assert file.stat().st_mode & 0o222 == 0
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UnitFeaturesError, match="digest"):
        load(out)
    (folder / LATEST).write_text("gone\n")
    with pytest.raises(UnitFeaturesError, match="is not there"):
        load(out)


def test_a_unit_that_is_deleted_is_in_no_version_and_its_later_signals_count(out: Path) -> None:
    folder = features_folder(out, "default")
    for number, at in enumerate((31.0, 35.0)):
        build_unit_features(out, ask(at_us=us(at)), now_us=number, keep=3)
    done = delete_unit(out, tenant="default", unit_id="ann", until_us=us(40.0), now_us=us(100.0))
    assert done["unit_features"] == 2 and len(versions(folder)) == 2
    stood = [pl.read_parquet(folder / one.version / FEATURES_FILE)["unit_id"].to_list() for one in versions(folder)]
    assert stood == [["bob"], ["bob"]] and load(out).rows(["ann"]).tolist() == [[0.0, 0.0, 0.0]]
    assert not [path for path in folder.rglob("*") if path.is_file() and b"ann" in path.read_bytes()]
    build_unit_features(out, ask(at_us=us(50.0)), now_us=5, keep=3)
    assert load(out).rows(["ann"]).tolist() == [[1.0, 1.0, 1.0]]


def test_a_deletion_that_comes_between_reading_and_publishing_is_obeyed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attribution import unit_feature_build

    def late(*arguments: Any, **named: Any) -> Any:
        delete_unit(out, tenant="default", unit_id="ann", until_us=us(40.0), now_us=us(100.0))
        return publish(*arguments, **named)

    publish = unit_feature_build.publish
    monkeypatch.setattr(unit_feature_build, "publish", late)
    assert build_unit_features(out, ask(), now_us=1, keep=3).rows == 1
    assert list(load(out).row_of) == ["bob"]


def test_tables_that_can_tell_nothing_are_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no signal of tenant 'nobody'"):
        build_unit_features(out, ask(tenant="nobody"), now_us=1, keep=3)
    append_log(tmp_path / "young", "decisions", [decision()])
    append_log(tmp_path / "young", "feedback", [signal("s", 1.0, unit="u")])
    Worker(EmbeddedSource(tmp_path / "young"), out=tmp_path / "new", config=join_config(tmp_path / "tasks")).cycle()
    with pytest.raises(TableError, match="--at-us"):
        build_unit_features(tmp_path / "new", ask(), now_us=1, keep=3)
    assert features_folder(out, "../x").parent == features_folder(out, "default").parent


def test_the_command_publishes_and_says_where(out: Path) -> None:
    given = ["unit-features", "--out", out, "--signal", "play", "--signal", "search", "--window-days", 1, "--window-days", 7, "--json"]
    said = json.loads(CliRunner().invoke(app, [str(one) for one in given]).stdout)
    assert said["units"] == 2 and len(said["columns"]) == 12 and "search_last_7d" in said["columns"]
    assert Path(said["folder"]).name == said["version"] == latest_version(features_folder(out, "default"))
