"""Config files that users write: every fault named with its path, value and remedy; every value traced; digests that mean the same."""

from pathlib import Path
from typing import Any

import pydantic
import pytest

from protos import config
from protos.errors import ConfigError
from protos.task import SECTIONS, load_task, load_tasks

PLAIN = "task: small\npolicy: {floor: 0.1, settings: {nodes: 32}}\n"


class Inner(config.StrictModel):
    width: int = pydantic.Field(default=3, gt=0)
    names: tuple[str, ...] = ()


class Outer(config.StrictModel):
    first: float
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    choice: Inner | None = None


def task_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    return path


def test_a_task_has_its_sections_and_an_absent_one_is_empty(tmp_path: Path) -> None:
    task = load_task(task_file(tmp_path, PLAIN + "gate:\n"))
    assert (task.name, task.tenant) == ("small", "default")
    assert task.section("policy") == {"floor": 0.1, "settings": {"nodes": 32}}
    assert task.section("gate") == task.section("rewards") == {}
    with pytest.raises(KeyError):
        task.section("polcy")


FAULTS = [
    ("polcy: {}", "polcy: unknown section; did you mean `policy`?"),
    ("policy: {}\npolicy: {}", "key `policy` stands twice"),
    ("policy: {floor: 1, floor: 2}", "key `floor` stands twice"),
    ("gate: {since: 2026-01-01}", "quote dates"),
    ("gate: {since: 2026-02-30}", "not valid YAML"),
    ("gate: {level: .nan}", "finite numbers"),
    ("gate: {level: .inf}", "finite numbers"),
    ("gate: {1: a, b: c}", "text keys"),
    ("gate: {? [a] : b}", "a key is a list or a mapping"),
    ("gate: &x {again: *x}", "Circular"),
    ("gate: [", "not valid YAML"),
    ("gate: !!timestamp x", "not valid YAML"),
    ("gate: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ("tenant: ''", "tenant: '' is refused; give a name of 1 to 128 bytes"),
    ("tenant: 3", "tenant: 3 is refused"),
]


@pytest.mark.parametrize(("text", "says"), FAULTS, ids=[text for text, _ in FAULTS])
def test_a_fault_is_named_with_its_file_and_a_remedy(tmp_path: Path, text: str, says: str) -> None:
    path = task_file(tmp_path, f"task: small\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        load_task(path)
    assert str(path) in str(refused.value) and says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "3", "- a", "tenant: x", "task:", "task: [a]", f"task: {'x' * 129}", "\ufeff\0", "[" * 5_000])
def test_a_file_without_a_task_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_task(task_file(tmp_path, text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("task: café".encode("latin-1"))
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="give the path of a YAML file"):
            load_task(path)


def test_flags_lie_over_the_file(tmp_path: Path) -> None:
    path = task_file(tmp_path, PLAIN + "gate:\n")
    task = load_task(
        path, overrides=["policy.floor=0.2", "policy.settings.more=[1, x]", "gate.level=0.01", "task=other", "limits.a.b=null"]
    )
    assert task.name == "other" and task.section("gate") == {"level": 0.01} and task.section("limits") == {"a": {"b": None}}
    assert task.section("policy") == {"floor": 0.2, "settings": {"nodes": 32, "more": [1, "x"]}}
    assert load_task(path).section("policy")["floor"] == 0.1


BAD_FLAGS = ["policy", "=3", ".=3", "policy.=3", "policy..floor=3", "policy.floor.x=1", "policy.floor=[", "policy.floor=2026-01-01"]
BAD_FLAGS += [
    "policy.floor=.nan",
    "policy.settings={a: 1, a: 2}",
    "policy.floor=2026-02-30",
    "polcy.floor=1",
    "task=",
    "policy.x={? [a] : 1}",
]


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_a_bad_flag_is_refused(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_task(task_file(tmp_path, PLAIN), overrides=[flag])
    assert flag.partition("=")[0].split(".")[0] in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"policy": {"settings": {"nodes": 32}, "floor": 0.1}, "task": "small"}',
        "# a comment\npolicy:\n  settings: {nodes: 0x20}\n  floor: 1.0e-1\ntask: 'small'\n",
        "task: &name small\npolicy: {floor: .1, settings: {nodes: 3_2}}",
    ],
)
def test_the_digest_does_not_depend_on_the_spelling(tmp_path: Path, text: str) -> None:
    plain = load_task(task_file(tmp_path, PLAIN)).digest
    assert load_task(task_file(tmp_path, text)).digest == plain and len(plain) == 64


@pytest.mark.parametrize("flag", ["policy.floor=0.2", "task=other", "tenant=x", "policy.settings.nodes=33", "gate.level=1"])
def test_the_digest_changes_with_every_value(tmp_path: Path, flag: str) -> None:
    path = task_file(tmp_path, PLAIN)
    assert load_task(path, overrides=[flag]).digest != load_task(path).digest


def test_tasks_of_a_folder_are_read_by_name_and_no_name_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no task"):
        load_tasks(tmp_path)
    (tmp_path / "a.yaml").write_text("task: a")
    (tmp_path / "b.yaml").write_text("task: b")
    assert set(load_tasks(tmp_path)) == {"a", "b"}
    (tmp_path / "c.yaml").write_text("task: a")
    with pytest.raises(ConfigError, match=r"c\.yaml: task: 'a' is already defined"):
        load_tasks(tmp_path)


def test_every_section_has_an_owner() -> None:
    assert set(SECTIONS.values()) <= {"bandits", "serving", "attribution", "ope"}


MODEL_FAULTS: list[tuple[Any, list[str]]] = [
    ({}, ["top.first: missing; add it"]),
    ({"frist": 1.0, "first": 1.0}, ["top.frist: unknown key; did you mean `first`?"]),
    ({"first": 1.0, "inner": {"wdith": 1}}, ["top.inner.wdith: unknown key; did you mean `width`?"]),
    ({"first": 1.0, "items": [{}, {"wdith": 1}]}, ["top.items.1.wdith: unknown key; did you mean `width`?"]),
    ({"first": 1.0, "choice": {"qqq": 1}}, ["unknown key; known: names, width"]),
    ({"first": 1.0, "inner": {"width": 0}}, ["top.inner.width: 0 is refused", "greater than 0"]),
    ({"first": float("nan")}, ["top.first: nan is refused"]),
    ({"first": "x", "inner": 3}, ["top.first: 'x' is refused", "top.inner: 3 is refused"]),
    ([1], ["top: [1] is refused"]),
]


@pytest.mark.parametrize(("data", "says"), MODEL_FAULTS, ids=lambda value: str(value)[:40])
def test_a_model_names_path_value_and_remedy_a_line_a_fault(data: Any, says: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse(Outer, data, where="top")
    assert all(word in str(refused.value) for word in says)


def test_every_value_says_where_it_came_from() -> None:
    given = {"first": 1.0, "inner": {"width": 5, "names": ["a"]}}
    model = config.parse(Outer, given, where="top")
    rows = {
        name: (value, origin) for name, value, origin in config.provenance(model, given=given, flags=["top.inner.width=5"], prefix="top.")
    }
    assert rows == {
        "top.first": (1.0, "file"),
        "top.inner.width": (5, "flag"),
        "top.inner.names": (("a",), "file"),
        "top.items": ((), "default"),
        "top.choice": (None, "default"),
    }


@pytest.mark.parametrize("flag", ["top.inner={width: 5}", "top.inner.width=5", "top={first: 1, inner: {width: 5}}"])
def test_a_flag_on_a_whole_section_is_the_origin_of_what_it_holds(flag: str) -> None:
    given = {"first": 1.0, "inner": {"width": 5}}
    rows = config.provenance(config.parse(Outer, given, where="top"), given=given, flags=[flag], prefix="top.")
    assert ("top.inner.width", 5, "flag") in rows and ("top.inner.names", (), "default") in rows
