"""The reader of observations, on a real Delta table: latest revisions, each revision once, the slowest partition's watermark."""

from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from protos.errors import ObservationsError
from protos.observation_reader import latest_revisions, observed_watermark_us, revisions_of, revisions_since
from protos.observations import OBSERVATION_SCHEMA
from tests.bandits.observed import append, decision, observation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Decisions 1 to 4: 2 revised twice, 3 of another task, 4 on another partition."""
    table = tmp_path / "observations"
    append(table, [observation(decision(number), commit=1) for number in (1, 2)])
    append(table, [observation(decision(2), rewards=[0.0, 1.0], revision=2, commit=2), observation(decision(3, task="other"), commit=2)])
    append(table, [observation(decision(4), commit=1, partition=1)])
    append(table, [observation(decision(2), rewards=[0.5, 1.0], revision=3, commit=3)])
    return table


def keys(rows: pa.Table) -> list[tuple[int, int]]:
    return [
        (int.from_bytes(name, "little"), revision)
        for name, revision in zip(rows["decision_id"].to_pylist(), rows["revision"].to_pylist(), strict=True)
    ]


def test_the_latest_revision_of_each_decision_oldest_first(path: Path) -> None:
    rows = latest_revisions(path, task="small")
    assert keys(rows) == [(1, 1), (2, 3), (4, 1)] and rows.schema.names == OBSERVATION_SCHEMA.names
    assert rows["slot_reward"].to_pylist()[1] == [0.5, 1.0]


def test_decisions_are_chosen_by_their_time(path: Path) -> None:
    assert keys(latest_revisions(path, task="small", decided_after_us=1_000_000)) == [(2, 3), (4, 1)]
    assert keys(latest_revisions(path, task="small", decided_until_us=2_000_000)) == [(1, 1), (2, 3)]
    assert latest_revisions(path, task="nobody").num_rows == 0


def test_columns_are_chosen_and_unknown_ones_refused(path: Path) -> None:
    assert latest_revisions(path, task="small", columns=["unit_id"]).to_pydict() == {"unit_id": ["unit-1", "unit-2", "unit-4"]}
    with pytest.raises(ObservationsError, match="'unit' is not one of an observation"):
        latest_revisions(path, task="small", columns=["unit"])


def test_a_cursor_sees_each_revision_once(path: Path) -> None:
    rows, cursor = revisions_since(path, task="small", cursor={})
    assert keys(rows) == [(1, 1), (2, 1), (2, 2), (2, 3), (4, 1)] and cursor == {0: 3, 1: 1}
    rows, same = revisions_since(path, task="small", cursor=cursor)
    assert rows.num_rows == 0 and same == cursor
    append(path, [observation(decision(5), commit=4), observation(decision(6), commit=1, partition=2)])
    rows, cursor = revisions_since(path, task="small", cursor=cursor)
    assert keys(rows) == [(5, 1), (6, 1)] and cursor == {0: 4, 1: 1, 2: 1}


def test_a_cursor_is_not_disturbed_by_compaction(path: Path) -> None:
    _, cursor = revisions_since(path, task="small", cursor={})
    deltalake.DeltaTable(str(path)).optimize.compact()
    rows, after = revisions_since(path, task="small", cursor=cursor)
    assert rows.num_rows == 0 and after == cursor
    assert keys(latest_revisions(path, task="small")) == [(1, 1), (2, 3), (4, 1)]


def test_all_revisions_of_given_decisions(path: Path) -> None:
    assert sorted(keys(revisions_of(path, task="small", decision_ids=[(2).to_bytes(16, "little")]))) == [(2, 1), (2, 2), (2, 3)]
    assert revisions_of(path, task="other", decision_ids=[(2).to_bytes(16, "little")]).num_rows == 0


def test_the_watermark_is_that_of_the_slowest_partition(path: Path) -> None:
    assert observed_watermark_us(path) == 3_000_000
    append(path, [observation(decision(9), commit=4, watermark_us=50_000_000)])
    assert observed_watermark_us(path) == 4_000_000


def test_a_table_without_rows_has_no_watermark(tmp_path: Path) -> None:
    append(tmp_path / "empty", [])
    assert observed_watermark_us(tmp_path / "empty") is None
    assert latest_revisions(tmp_path / "empty", task="small").num_rows == 0
    assert revisions_since(tmp_path / "empty", task="small", cursor={0: 1})[1] == {0: 1}


def test_what_is_no_table_of_observations_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no table")
    deltalake.write_deltalake(str(tmp_path / "other"), pa.table({"task": ["small"]}))
    for name in ("none", "file", "other"):
        for read in (lambda table: latest_revisions(table, task="small"), observed_watermark_us):
            with pytest.raises(ObservationsError, match=name):
                read(tmp_path / name)
