"""The command `bandits`: every command has help, does its work on real files, and refuses bad input with one line a fault."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import typer.testing

from bandits.__main__ import app
from bandits.config import parse_task
from bandits.store import Store
from protos.task import load_task
from tests.bandits.observed import append, decision, observation

TASK = """
task: small
features: {context: [{name: x, type: float, size: 2}], actions: [a, b, c]}
policy: {name: linear_thompson, slate_size: 2, min_new_rows: 4}
"""
COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """`learn` ends on SIGTERM and SIGINT; the test run gets its own handlers back."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the file of a task and a table of five observations."""
    (tmp_path / "small.yaml").write_text(TASK)
    schema = parse_task(load_task(tmp_path / "small.yaml")).schema.digest
    append(tmp_path / "observations", (observation(decision(number, schema_digest=schema)) for number in range(5)))
    return tmp_path


def run(*arguments: str | Path) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])


def learn(files: Path, *more: str | Path) -> typer.testing.Result:
    known = ["--task-config", files / "small.yaml", "--store", files / "store", "--observations", files / "observations", "--once"]
    return run("learn", *known, *more)


def assert_refused(result: typer.testing.Result, *says: str) -> None:
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert lines and all(line.startswith("error: ") for line in lines)
    assert all(word in result.stderr for word in says), result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_a_task_begins_learns_and_is_listed(files: Path) -> None:
    assert run("begin", "--task-config", files / "small.yaml", "--store", files / "store").exit_code == 0
    learned = learn(files)
    assert learned.exit_code == 0 and "challenger" in learned.output and "5 decisions" in learned.output
    assert "continues" in learn(files).output
    listed = json.loads(run("snapshots", "small", "--store", files / "store", "--json").stdout)
    assert [(row["policy"], row["role"], row["rows"]) for row in listed] == [
        ("uniform", "champion", 0),
        ("linear_thompson", "challenger", 5),
    ]
    assert "linear_thompson" in run("snapshots", "small", "--store", files / "store").output
    assert "sound" in run("verify", "small", listed[1]["digest"], "--store", files / "store").output


def test_the_config_is_shown_with_where_every_value_came_from(files: Path) -> None:
    result = learn(files, "--set", "policy.floor=0.2", "--print-config")
    assert result.exit_code == 0 and not (files / "store").exists()
    assert "policy.floor = 0.2  (flag)" in result.output
    assert "policy.slate_size = 2  (file)" in result.output
    assert "policy.draw_by = 'decision'  (default)" in result.output


BAD_FLAGS = [
    ("policy.flor=0.1", ["policy.flor", "did you mean `floor`"]),
    ("polcy.floor=0.1", ["polcy", "did you mean `policy`"]),
    ("policy.floor=0", ["policy.floor", "0", "greater than 0"]),
    ("policy.floor=.nan", ["policy.floor", "nan"]),
    ("policy.name=linear_tompson", ["policy.name", "linear_tompson", "did you mean `linear_thompson`"]),
    ("policy.settings.nods=32", ["policy.settings.nods", "did you mean `nodes`"]),
    ("policy.settings.nodes=3", ["policy.settings.nodes", "3", "greater than or equal to 32"]),
    ("policy.train_on=some", ["policy.train_on", "some", "'seen' or 'all'"]),
    ("policy=3", ["policy", "3"]),
    ("policy.floor", ["policy.floor", "section.key=value"]),
    ("policy.floor=[", ["policy.floor=[", "YAML"]),
    ("policy.floor=2026-01-01", ["policy.floor", "dates quoted"]),
    ("policy.name.x=1", ["policy.name.x", "holds a value"]),
    ("features.actions=[a, a]", ["'a' stands twice"]),
    ("task=", ["task", "give a name"]),
]


@pytest.mark.parametrize(("flag", "says"), BAD_FLAGS, ids=[flag for flag, _ in BAD_FLAGS])
def test_a_bad_flag_is_refused_by_name_value_and_remedy(files: Path, flag: str, says: list[str]) -> None:
    assert_refused(learn(files, "--set", flag), *says)
    assert not (files / "store").exists(), "nothing is written before the input is checked"


def test_two_faults_are_two_lines(files: Path) -> None:
    result = learn(files, "--set", "policy.flor=1", "--set", "policy.slate_size=0")
    assert_refused(result, "policy.flor", "policy.slate_size")
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    "text", ["", "- a", "task: small\ntask: other", "task: [", "task: small\npolicy: {floor: 2026-02-30}", "task: small\n\0"]
)
def test_a_file_that_is_no_task_is_refused(files: Path, text: str) -> None:
    (files / "small.yaml").write_text(text)
    assert_refused(learn(files), "small.yaml")


def test_files_that_are_absent_are_named(files: Path) -> None:
    (files / "file").write_text("no folder")
    known = ["--observations", files / "observations", "--once"]
    assert_refused(run("learn", "--task-config", files / "none.yaml", "--store", files / "store", *known), "none.yaml", "give the path")
    assert_refused(run("learn", "--task-config", files / "small.yaml", "--store", files / "file", *known), "file", "directory")
    assert_refused(learn(files, "--observations", files / "nowhere"), "nowhere", "attribution run")
    assert_refused(run("begin", "--task-config", files, "--store", files / "store"), str(files), "give the path")


def test_an_unknown_task_or_snapshot_is_refused_with_the_nearest(files: Path) -> None:
    learn(files)
    store = ["--store", files / "store"]
    assert_refused(run("snapshots", "smal", *store), "'smal'", "did you mean `small`")
    assert_refused(run("snapshots", "../small", *store), "'../small'", "letters, digits")
    assert_refused(run("verify", "small", "abc", *store), "'abc'", "64 lower-case hex digits")
    assert_refused(run("verify", "small", "0" * 64, *store), "0" * 64, "not in the store")


def test_a_snapshot_with_a_flipped_byte_is_refused(files: Path) -> None:
    learn(files)
    store = Store(files / "store", "small")
    digest = store.digests()[-1]
    path = store.snapshot_dir(digest) / "params.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert_refused(run("verify", "small", digest, "--store", files / "store"), digest, "params.safetensors", "restore")


def test_an_unknown_option_is_refused(files: Path) -> None:
    result = learn(files, "--pol", "1")
    assert result.exit_code == 2 and "--pol" in result.stderr
