"""Deletion, expiry, compaction, dead letters and SQL, on the tables of one run; after each of them the account still closes."""

import json
import os
from pathlib import Path
from typing import Any

import deltalake
import pytest
from typer.testing import CliRunner

from attribution.__main__ import app
from attribution.backfill import TimeRange, backfill_landed, backfill_source
from attribution.datasets import query
from attribution.dead_letters import by_producer, dead_letters
from attribution.embedded_source import EmbeddedSource
from attribution.errors import QueryError, TableError
from attribution.housekeeping import compact, delete_unit, expire
from attribution.settings import JoinConfig
from attribution.status import landed_events, needed_since_us, report
from attribution.unit_feature_build import FeatureRequest, build_unit_features
from attribution.worker import Worker
from protos.events_pb2 import Event, Signal
from tests.attribution.event_kit import append_log, decision, finals, heartbeat, impression, join_config, number, reward, us
from tests.attribution.test_attribution_hops import rows


@pytest.fixture
def config(tmp_path: Path) -> JoinConfig:
    return join_config(tmp_path / "tasks")


def signal(name: str, at: float, *, unit: str, value: float) -> Event:
    body = Signal(event_id=f"{name}-{at}", tenant="default", unit_id=unit, name=name, event_time_us=us(at), value=value)
    return Event(signal=body, append_time_us=us(at))


def world() -> tuple[list[Event], list[Event]]:
    """Two units with a decision each that closes, one of each that does not, and what can't be used."""
    decisions = [decision(1, 0.0, unit="ann"), decision(2, 1.0, unit="bob"), decision(3, 39.0, unit="ann"), decision(4, 39.0, unit="bob")]
    feedback = [impression("i1", 1.0, unit="ann"), reward("r1", 2.0, unit="ann", slot=0), impression("i2", 2.0, key=2, unit="bob")]
    feedback += [reward("x", 2.0, key=2, unit="ann"), reward("y", 2.0, key=77, unit="bob"), reward("z", 2.0, outcome="nothing")]
    feedback += [signal("play", at, unit=unit, value=at) for unit in ("ann", "bob") for at in (3.0, 30.0)]
    beats = [heartbeat(source, 40.0) for source in ("impressions", "rewards")]
    return [*decisions, heartbeat("decisions", 40.0)], [*feedback, *beats]


@pytest.fixture
def run(tmp_path: Path, config: JoinConfig) -> tuple[Path, Path, Worker]:
    """The log, the tables, and the worker that made them."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    for log, events in zip(("decisions", "feedback"), world(), strict=True):
        append_log(logs, log, events)
    worker = Worker(EmbeddedSource(logs), out=out, config=config)
    worker.cycle()
    return logs, out, worker


def account(out: Path, config: JoinConfig) -> dict[str, Any]:
    found = report(out, config=config)
    assert found["closes"]
    return {name: found[name] for name in ("logged", "joined", "pending", "expired", "quarantined")}


def everything(out: Path) -> bytes:
    """All bytes of all files below a directory, the tables' own logs included."""
    return b"".join(path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file())


def test_a_unit_that_is_deleted_is_gone_from_tables_history_memory_and_every_backfill(
    run: tuple[Path, Path, Worker], config: JoinConfig, tmp_path: Path
) -> None:
    logs, out, worker = run
    assert account(out, config) == {"logged": 4, "joined": 2, "pending": 2, "expired": 0, "quarantined": 0}
    assert b"ann" in everything(out / "events")
    assert "ann" in str(dead_letters(landed_events(out), config=config).to_dicts())
    done = delete_unit(out, tenant="default", unit_id="ann", until_us=us(100.0), now_us=us(100.0))
    assert "ann" not in str(dead_letters(landed_events(out), config=config).to_dicts())
    assert done["events"] == 7 and done["observations"] == 1
    assert b"ann" not in everything(out / "events") + everything(out / "observations")
    assert account(out, config) == {"logged": 4, "joined": 1, "pending": 1, "expired": 2, "quarantined": 0}
    append_log(logs, "feedback", [reward("again", 40.0, key=3, unit="ann", slot=0, logged=41.0), *finals(60.0)[1:]])
    append_log(logs, "decisions", [decision(5, 41.0, unit="ann"), *finals(60.0)[:1]])
    worker.cycle()
    assert account(out, config) == {"logged": 5, "joined": 2, "pending": 0, "expired": 3, "quarantined": 0}
    assert {row["unit_id"] for row in rows(out)} == {"bob"}
    assert b"ann" not in everything(out / "events") + everything(out / "observations")
    backfill_landed(out, out=tmp_path / "landed", config=config)
    backfill_source(EmbeddedSource(logs), out=tmp_path / "log", config=config, on_progress=lambda progress: None, deletions=out)
    assert rows(tmp_path / "landed") == rows(tmp_path / "log") == rows(out)
    backfill_source(EmbeddedSource(logs), out=tmp_path / "forgot", config=config, on_progress=lambda progress: None)
    assert rows(tmp_path / "forgot") != rows(out), "a path that does not obey deletions is seen"


def test_a_file_that_a_crash_left_before_any_commit_named_it_goes_and_one_under_way_stays(run: tuple[Path, Path, Worker]) -> None:
    _, out, _ = run
    left, under_way = (out / "events" / f"part-{name}.parquet" for name in ("left", "under-way"))
    for path in (left, under_way):
        path.write_bytes(b"ann")
    os.utime(left, (1.0, 1.0))
    delete_unit(out, tenant="default", unit_id="ann", until_us=us(100.0), now_us=us(100.0))
    assert not left.exists() and under_way.exists()
    os.utime(under_way, (1.0, 1.0))
    assert compact(out, owner="night", keep_s=0.0)["events"] >= 1 and not under_way.exists()


def test_what_is_old_goes_after_a_dry_run_and_the_account_closes(
    run: tuple[Path, Path, Worker], config: JoinConfig, tmp_path: Path
) -> None:
    _, out, _ = run
    cuts = {"events_before_us": us(0.5), "observations_before_us": us(0.5), "held_since_us": us(1.0)}
    before = landed_events(out).height
    dry = expire(out, **cuts, apply=False)
    assert landed_events(out).height == before and (dry.events, dry.decisions, dry.observations) == (0, 1, 1)
    assert expire(out, **cuts, apply=True) == dry
    assert account(out, config) == {"logged": 4, "joined": 1, "pending": 2, "expired": 1, "quarantined": 0}
    assert (expire(out, **cuts, apply=True).decisions, needed_since_us(out, config=config) < us(0.0)) == (0, True)
    with pytest.raises(TableError, match="the join still needs"):
        expire(out, events_before_us=us(2.0), observations_before_us=0, held_since_us=us(1.0), apply=True)


def test_what_counts_over_a_window_says_so_where_events_of_it_have_expired(run: tuple[Path, Path, Worker]) -> None:
    _, out, _ = run
    asked = FeatureRequest("default", ["play"], [36.5])
    window = f"SELECT sum(count)::INT AS n FROM unit_activity({us(40.0)}, 36.5) WHERE name = 'play'"
    keep = {"observations_before_us": 0, "held_since_us": us(40.0)}
    assert build_unit_features(out, asked, now_us=1, keep=1).rows == 2
    for before in (us(3.5), us(2.0)):
        expire(out, events_before_us=before, **keep, apply=True)
        assert build_unit_features(out, asked, now_us=1, keep=1).rows == 2
        assert query(out, window).to_pylist() == [{"n": 2}], "a window that begins where events are whole is answered"
    expire(out, events_before_us=us(4.0), **keep, apply=True)
    expire(out, events_before_us=us(3.0), **keep, apply=True)
    assert build_unit_features(out, asked, now_us=1, keep=1).rows == 2, "where nothing more went, no more is missing"
    with pytest.raises(TableError, match="have expired; ask for shorter windows"):
        build_unit_features(out, FeatureRequest("default", ["play"], [36.6]), now_us=1, keep=1)
    with pytest.raises(QueryError, match="have expired"):
        query(out, window.replace("36.5", "36.6"))


def test_compaction_has_one_owner_and_changes_no_row(run: tuple[Path, Path, Worker], config: JoinConfig, tmp_path: Path) -> None:
    logs, out, worker = run
    before = rows(out)
    compact(out, owner="night", keep_s=0.0)
    with pytest.raises(TableError, match="'night' compacts"):
        compact(out, owner="other", keep_s=0.0)
    append_log(logs, "decisions", finals(60.0)[:1])
    append_log(logs, "feedback", finals(60.0)[1:])
    worker.cycle()
    compact(out, owner="night", keep_s=0.0)
    assert [row for row in rows(out) if row["decision_id"] in {number(1), number(2)}] == before and len(rows(out)) == 4
    assert len(deltalake.DeltaTable(out / "events").file_uris()) == 1
    # A compacted file is asked in another way than one that was appended, and where it lies is nothing that a query should mind.
    out = out.rename(tmp_path / "o'u t")
    assert query(out, "SELECT count(*) AS n FROM signals WHERE name = 'play'").to_pylist() == [{"n": 4}]


def test_dead_letters_have_place_and_reason_and_the_rate_of_their_producer(run: tuple[Path, Path, Worker], config: JoinConfig) -> None:
    _, out, _ = run
    landed = landed_events(out)
    letters = dead_letters(landed, config=config)
    assert sorted(letters["reason"]) == ["no_decision", "other_unit", "unknown_outcome"]
    assert set(letters["topic"]) == {"feedback"} and letters["offset"].n_unique() == 3
    (rate,) = by_producer(letters.filter(letters["reason"] == "other_unit"), landed).to_dicts()
    assert rate["letters"] == 1 and rate["rate"] == pytest.approx(1 / landed.height)


def test_a_backfill_of_a_time_range_gives_the_rows_of_its_decisions(
    run: tuple[Path, Path, Worker], config: JoinConfig, tmp_path: Path
) -> None:
    logs, out, _ = run
    within = TimeRange(us(0.5), us(10.0))
    backfill_landed(out, out=tmp_path / "landed", config=config, within=within)
    backfill_source(EmbeddedSource(logs), out=tmp_path / "log", config=config, on_progress=lambda progress: None, within=within)
    wanted = [row for row in rows(out) if row["decision_id"] == number(2)]
    assert rows(tmp_path / "landed") == rows(tmp_path / "log") == wanted


def test_the_datasets_answer_sql(run: tuple[Path, Path, Worker]) -> None:
    _, out, _ = run
    assert query(out, "SELECT count(*) AS n FROM observations").to_pylist() == [{"n": 2}]
    shown = query(out, "SELECT slot, action, seen, reward, times_shown FROM exposures WHERE unit_id = 'ann' ORDER BY slot").to_pylist()
    assert [(row["action"], row["seen"], row["reward"], row["times_shown"]) for row in shown] == [
        ("a", True, 1.0, 1),
        ("b", True, 0.0, 1),
        ("c", False, None, 1),
    ]
    daily = query(out, "SELECT action, decided, seen, reward FROM action_daily ORDER BY action").to_pylist()
    assert daily[0] == {"action": "a", "decided": 2, "seen": 2, "reward": 1.0}
    active = query(out, f"SELECT * FROM unit_activity({us(31.0)}, 10.0) WHERE unit_id = 'bob'").to_pylist()
    assert [(row["name"], row["count"], row["sum"], row["last"]) for row in active] == [("play", 1, 30.0, 30.0)]
    whole = query(out, f"SELECT count, sum, last FROM unit_activity({us(31.0)}, 60.0) WHERE unit_id = 'bob'").to_pylist()
    assert whole == [{"count": 2, "sum": 33.0, "last": 30.0}]
    with pytest.raises(QueryError, match="tables: observations"):
        query(out, "SELECT * FROM nothing_here")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands_say_what_they_did(run: tuple[Path, Path, Worker], config: JoinConfig, tmp_path: Path) -> None:
    _, out, _ = run
    tasks = tmp_path / "tasks"
    found = json.loads(call("dead-letters", "--out", out, "--tasks", tasks, "--reason", "other_unit", "--json").stdout)
    assert [letter["reason"] for letter in found["letters"]] == ["other_unit"]
    assert json.loads(call("query", "SELECT count(*) AS n FROM exposures", "--out", out, "--json").stdout) == [{"n": 6}]
    call("query", "SELECT * FROM exposures", "--out", out, "--to", tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text().count("\n") == 7
    dry = json.loads(
        call("expire", "--out", out, "--tasks", tasks, "--events-days", 36_500, "--observations-days", 36_500, "--json").stdout
    )
    assert dry == {"tables": {"events": 0, "decisions": 0, "observations": 0}, "topics": [], "logs": [], "applied": False}
    assert json.loads(call("delete-unit", "bob", "--out", out, "--json").stdout)["observations"] == 1
    assert set(json.loads(call("compact", "--out", out, "--owner", "me", "--json").stdout)) == {"events", "observations"}


def test_lint_finds_what_the_join_would_refuse(tmp_path: Path, config: JoinConfig) -> None:
    good, bad = tmp_path / "good.bin", tmp_path / "bad.bin"
    bare = reward(slot=0)
    bare.ClearField("append_time_us")
    bare.reward.producer = "shop"
    good.write_bytes(bare.SerializeToString())
    bad.write_bytes(reward(outcome="clik").SerializeToString())
    sound = call("lint", good, "--tasks", tmp_path / "tasks", "--json")
    assert sound.exit_code == 0 and json.loads(sound.stdout)["messages"][0]["advice"] == []
    faulty = call("lint", good, bad, "--tasks", tmp_path / "tasks", "--json")
    assert faulty.exit_code == 1 and [message["fault"] for message in json.loads(faulty.stdout)["messages"]] == [None, "unknown_outcome"]
