"""Unit features: what a request lacks is the unit's own, what it gives stands; the record says which version, and replays to the same."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bandits.store import Store
from protos.events_pb2 import Decision, Event
from protos.log_files import DECISIONS
from protos.policy_pb2 import Context, FeatureValue, SelectRequest
from protos.task import TaskFile
from protos.unit_features import FEATURES_FILE, LATEST, MANIFEST_FILE, FeatureColumn, UnitFeaturesManifest
from serving.replay import replay_logs
from serving.snapshots import Served
from serving.tasks import parse_rules
from serving.traffic.keeper import keeper_of
from serving.traffic.units import UnitTables
from serving.validate import validate
from tests.serving.kit import TASK, records_of

PLAYS, DAYS = "play_count_7d", "login_last_30d"
SHOP: dict[str, Any] = {
    **TASK,
    "features": {"context": [{"name": "age", "default": 18.0}, {"name": PLAYS, "default": -1.0}, {"name": DAYS}], "actions": list("abc")},
    "policy": {"name": "uniform", "floor": 1.0},
    "limits": {"max_candidates": 8, "max_slots": 1},
    "traffic": {"experiments": {"e": {"target": f"{PLAYS} > 5", "arms": {"a": {"share": 1.0}}}}},
}
COLUMNS = (FeatureColumn(PLAYS, "play", "count", 604_800.0, 0.0), FeatureColumn(DAYS, "login", "last", 2_592_000.0, 99.0))
PLAIN = {**SHOP, "traffic": {}}


def write(folder: Path, version: str, rows: dict[str, tuple[float, float]]) -> None:
    """A version as attribution writes it, and the name of the newest."""
    target = folder / version
    target.mkdir(parents=True)
    table = pa.table(
        {
            "unit_id": list(rows),
            PLAYS: pa.array([row[0] for row in rows.values()], pa.float64()),
            DAYS: pa.array([row[1] for row in rows.values()], pa.float64()),
            "first_time_us": pa.array([0] * len(rows), pa.int64()),
        }
    )
    pq.write_table(table, target / FEATURES_FILE)
    digest = hashlib.sha256((target / FEATURES_FILE).read_bytes()).hexdigest()
    manifest = UnitFeaturesManifest(version, "default", 1, digest, len(rows), 2, COLUMNS)
    (target / MANIFEST_FILE).write_text(manifest.to_json())
    (folder / LATEST).write_text(version)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "units" / "default", "v1", {"ann": (7.0, 3.0), "bob": (2.0, 1e300)})
    return tmp_path / "units"


def file_of(content: dict[str, Any]) -> TaskFile:
    return TaskFile(name="shop", tenant="default", digest="0" * 64, sections={key: content[key] for key in content if key != "task"})


class Kept:
    """A task with what is beside its decisions, followed by its keeper; no policy is loaded."""

    def __init__(self, tmp_path: Path, content: dict[str, Any], tables: UnitTables | None) -> None:
        self.rules = parse_rules(file_of(content))
        found = keeper_of(Store(tmp_path / "store", "shop"), self.rules, tables=tables)
        assert found is not None
        self._keeper, self.beside = found, found.begin(no_policy, now_us=1)

    def refresh(self) -> bool:
        """Is there anything else now?"""
        before, self.beside = self.beside, self._keeper.look(no_policy)
        return self.beside is not before

    def asked(self, request: SelectRequest) -> Any:
        assert self.beside is not None
        return self.beside.asked(validate(request, self.rules), Served("champion", None, "baseline", False))


def no_policy(digest: str) -> Any:
    raise AssertionError(f"{digest} was to be loaded")


@pytest.fixture
def kept(tmp_path: Path, folder: Path) -> Kept:
    return Kept(tmp_path, SHOP, UnitTables(folder))


def asked(kept: Kept, unit: str, **given: float) -> Any:
    features = {name: FeatureValue(number=value) for name, value in given.items()}
    request = SelectRequest(task="shop", unit_id=unit, context=Context(features=features))
    return kept.asked(request)


def context_of(found: Any) -> list[float]:
    return np.frombuffer(found.selection.context, "<f4").tolist()


def test_what_the_request_lacks_is_the_units_own_and_what_it_gives_stands(kept: Kept) -> None:
    own = asked(kept, "ann", age=40.0)
    assert context_of(own) == [40.0, 7.0, 3.0] and own.selection.defaulted == () and own.selection.unit_features == "v1"
    given = asked(kept, "ann", **{PLAYS: 1.0})
    assert context_of(given) == [18.0, 1.0, 3.0] and given.selection.defaulted == ("age",)
    whole = asked(kept, "ann", age=1.0, **{PLAYS: 1.0, DAYS: 1.0})
    assert context_of(whole) == [1.0, 1.0, 1.0] and whole.selection.unit_features == ""


def test_a_unit_without_a_row_has_the_tables_defaults_and_a_number_that_fits_no_float_is_one_too(kept: Kept) -> None:
    assert context_of(asked(kept, "nobody")) == [18.0, 0.0, 99.0]
    assert context_of(asked(kept, "bob")) == [18.0, 2.0, 99.0]


def test_a_packed_context_is_whole_and_takes_nothing_of_the_table(kept: Kept) -> None:
    packed = Context(packed=np.arange(3, dtype="<f4").tobytes(), schema_digest=kept.rules.schema_digest)
    found = kept.asked(SelectRequest(task="shop", unit_id="ann", context=packed))
    assert context_of(found) == [0.0, 1.0, 2.0] and found.selection.unit_features == ""


def test_targets_see_the_units_features_and_the_record_says_which_version(kept: Kept) -> None:
    assert asked(kept, "ann").assignment.arm == "e/a" and asked(kept, "bob").assignment.arm == "champion"
    further = Decision.FromString(asked(kept, "bob").selection.further)
    assert (further.unit_features, list(further.ineligible_for)) == ("v1", ["e"])


def test_a_new_version_is_served_at_the_next_look_and_a_broken_one_never(kept: Kept, folder: Path) -> None:
    before = kept.beside
    assert not kept.refresh() and kept.beside is before
    write(folder / "default", "v2", {"ann": (8.0, 4.0)})
    assert kept.refresh() and context_of(asked(kept, "ann")) == [18.0, 8.0, 4.0]
    write(folder / "default", "v3", {"ann": (9.0, 5.0)})
    (folder / "default" / "v3" / FEATURES_FILE).write_bytes(b"torn")
    assert not kept.refresh() and asked(kept, "ann").selection.unit_features == "v2"


def test_a_task_that_names_no_column_is_decided_as_if_there_were_no_table(tmp_path: Path, folder: Path) -> None:
    other = {**PLAIN, "features": {"context": [{"name": "age"}], "actions": list("abc")}}
    assert Kept(tmp_path, other, UnitTables(folder)).beside is None


def test_a_table_that_comes_later_is_found(tmp_path: Path) -> None:
    kept = Kept(tmp_path, PLAIN, UnitTables(tmp_path / "units"))
    assert kept.beside is None and not kept.refresh()
    write(tmp_path / "units" / "default", "v1", {"ann": (7.0, 3.0)})
    assert kept.refresh() and context_of(asked(kept, "ann")) == [18.0, 7.0, 3.0]


@pytest.mark.slow
def test_a_server_logs_the_vector_that_was_used_and_replay_agrees(tmp_path: Path, folder: Path, front: str) -> None:
    import yaml

    from serving.client import PolicyClient
    from tests.serving.kit import serving_from

    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "shop.yaml").write_text(yaml.safe_dump({**SHOP, "policy": {"name": "linear_thompson"}}))
    with serving_from(tmp_path, tasks, front=front, unit_features=str(folder)) as server, PolicyClient(server.address) as client:
        for unit in ("ann", "bob", "nobody"):
            client.select("shop", unit_id=unit, context={"age": 30.0})
    decisions = [Event.FromString(record.payload).decision for record in records_of(tmp_path / "logs" / DECISIONS)]
    logged = [(d.unit_features, np.frombuffer(d.context, "<f4").tolist()) for d in decisions if d.unit_id]
    assert logged == [("v1", [30.0, 7.0, 3.0]), ("v1", [30.0, 2.0, 99.0]), ("v1", [30.0, 0.0, 99.0])]
    report = replay_logs(tmp_path / "logs", store=tmp_path / "store")
    assert report.sound and report.decisions == 3
