"""Catalogues that the server holds: their features, their versions, and their files that are read anew."""

from pathlib import Path

import pytest

from bandits.first import ensure_champion
from bandits.store import Store
from protos.errors import ConfigError
from protos.events_pb2 import CandidateSet, Decision
from protos.policy_pb2 import SelectRequest, SelectResponse
from protos.task import load_task
from serving.catalogues import CatalogueFile
from serving.engine import Engine
from serving.errors import RequestRefused
from serving.idempotency import RequestMemory
from serving.snapshots import SnapshotHolder
from serving.tasks import TaskRules, parse_rules

SPRING = "actions:\n  x: {price: 2.0, new: true}\n  y: {}\n  z: {price: 0.5}\n"


@pytest.fixture
def rules(tasks: Path) -> TaskRules:
    return parse_rules(load_task(tasks / "ranked.yaml"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "ranked.yaml"
    found.write_text(SPRING)
    return found


def file_of(path: Path, rules: TaskRules) -> CatalogueFile:
    return CatalogueFile(path, schema=rules.schema, limits=rules.limits)


def test_a_request_that_names_the_catalogue_has_its_features(path: Path, rules: TaskRules, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "ranked")
    ensure_champion(store, rules.policy, now_us=1)
    holder = SnapshotHolder(store, rules, catalogue=file_of(path, rules))
    assert holder.refresh_catalogue() and not holder.refresh_catalogue()
    holder.start()
    bodies: list[bytes] = []
    engine = Engine(holders={rules.key: holder}, append=bodies.extend, memory=RequestMemory(entries=0), new_request_id=lambda: "r")
    asked = [
        SelectRequest(tenant="other", task="ranked", unit_id="u", **given)
        for given in (
            {},
            {"candidates": CandidateSet(catalogue="default", actions=["z", "x"]), "slate_size": 2},
            {"candidates": CandidateSet(catalogue="default", actions=["z", "w"]), "slate_size": 2},
        )
    ]
    whole, some, strange = engine.select(asked)
    assert isinstance(whole, SelectResponse) and isinstance(some, SelectResponse) and isinstance(strange, RequestRefused)
    first, second = map(Decision.FromString, bodies)
    vectors = holder.rules.catalogue.vectors
    assert list(first.candidates.actions) == ["x", "y", "z"] and first.candidates.packed_features == b"".join(map(vectors.get, "xyz"))
    assert list(second.candidates.actions) == ["z", "x"] and second.candidates.packed_features == vectors["z"] + vectors["x"]


def test_the_version_is_the_content_and_not_the_file(path: Path, rules: TaskRules) -> None:
    first = file_of(path, rules).read()
    path.write_text(SPRING.replace("2.0", "2.00") + "# the same\n")
    assert file_of(path, rules).read().version == first.version
    path.write_text(SPRING.replace("2.0", "2.5"))
    assert file_of(path, rules).read().version != first.version


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("actions: {x: {prise: 1.0}}", "did you mean `price`"),
        ("actions: {x: {price: .nan}}", "x.price"),
        ("action: {x: {}}", "did you mean `actions`"),
        ("actions: {" + ", ".join(f"a{index}: {{}}" for index in range(9)) + "}", "limits.max_candidates"),
        ("actions: [", "YAML"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_the_one_before_serves_on(path: Path, rules: TaskRules, text: str, named: str) -> None:
    file = file_of(path, rules)
    assert file.poll() is not None
    path.write_text(text)
    assert file.poll() is None and file.failures == 1 and file.poll() is None and file.failures == 1
    with pytest.raises(ConfigError, match=named):
        file.read()
    path.unlink()
    assert file.poll() is None
