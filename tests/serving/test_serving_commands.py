"""The command line: bad input ends with exit code 2 and one line a fault; configs are shown with their origin."""

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bandits.config import TaskPolicy
from protos.config import load_yaml
from protos.task import load_tasks
from serving.commands import _prepare_jax, _serve_here, app
from serving.config import ServerConfig
from serving.server import Server
from tests.serving.kit import RANKED, ROOT

runner = CliRunner()


def run(*arguments: object) -> Any:
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("metrics_address", ["127.0.0.1:0", ""])
def test_a_server_says_where_it_listens_and_then_where_its_metrics_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, metrics_address: str
) -> None:
    (tmp_path / "ranked.yaml").write_text(yaml.safe_dump(RANKED))
    config = ServerConfig(address="127.0.0.1:0", metrics_address=metrics_address)
    server = Server(config, tasks=load_tasks(tmp_path), store=tmp_path / "store", logs=tmp_path / "logs")
    stop = threading.Event()
    stop.set()
    _serve_here(server, stop, tmp_path / "address")
    gc.unfreeze()
    said = f"metrics: {server.metrics_address}\n" if metrics_address else ""
    assert capsys.readouterr().out == f"serving: {server.address}\n{said}" and not server.metrics_address.endswith(":0")
    assert (tmp_path / "address").read_text() == f"{server.address}\n"


def test_programs_for_another_number_of_cores_are_kept_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr("serving.commands.jax.config.update", told.__setitem__)
    kept = []
    for cores in ("1", "4"):
        monkeypatch.setenv("PJRT_NPROC", cores)
        _prepare_jax(tmp_path)
        kept.append(Path(told["jax_compilation_cache_dir"]))
    assert kept[0] != kept[1] and {one.parent for one in kept} == {tmp_path}, "XLA would take the programs of the one for the other"


def test_the_documented_config_is_the_default_and_names_every_key() -> None:
    documented = load_yaml(ROOT / "configs" / "serving.yaml")
    assert ServerConfig(**documented) == ServerConfig() and set(documented) == set(ServerConfig.model_fields)


def test_print_config_says_where_each_value_came_from(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("threads: 2\npoll_s: 3.0\n")
    where = ("--tasks", tmp_path, "--store", tmp_path, "--logs", tmp_path)
    shown = run("serve", *where, "--config", path, "--set", "poll_s=4.0", "--address", "0.0.0.0:1", "--print-config")
    assert shown.exit_code == 0
    for line in ("threads = 2  (file)", "poll_s = 4.0  (flag)", "address = '0.0.0.0:1'  (flag)", "heartbeat_s = 0.2  (default)"):
        assert line in shown.stdout.splitlines()


BAD_SERVE = {
    "misspelt key": (("--set", "thread=2"), "did you mean `threads`?"),
    "value out of range": (("--set", "threads=0"), "threads: 0"),
    "two faults": (("--set", "threads=0", "--set", "poll_s=0"), "poll_s: 0"),
    "address without port": (("--address", "localhost"), "address: 'localhost'"),
    "flag without value": (("--set", "threads"), "section.key=value"),
    "no such config": (("--config", "nowhere.yaml"), "nowhere.yaml"),
    "no task": ((), "holds no task"),
}


@pytest.mark.parametrize("name", BAD_SERVE)
def test_bad_input_of_serve_ends_with_2_and_a_line_a_fault(name: str, tmp_path: Path) -> None:
    flags, fault = BAD_SERVE[name]
    ended = run("serve", "--tasks", tmp_path, "--store", tmp_path, "--logs", tmp_path / "logs", "--compilation-cache", tmp_path, *flags)
    assert ended.exit_code == 2 and fault in ended.stderr and "Traceback" not in ended.output
    assert all(line.startswith("error: ") for line in ended.stderr.splitlines())


@pytest.mark.parametrize(
    ("section", "value", "fault"),
    [
        ("limits", {"max_candidate": 3}, "limits.max_candidate: unknown key; did you mean `max_candidates`?"),
        ("limits", {"max_candidates": 2}, "limits.max_candidates: 2 is below the 5 actions"),
        ("limits", {"max_slots": 2}, "limits.max_slots: 2 is below policy.slate_size 3"),
        ("traffic", {"arms": 2}, "traffic.arms: unknown key"),
    ],
)
def test_a_bad_section_of_a_task_is_refused_by_name(section: str, value: Any, fault: str, tasks: Path, tmp_path: Path) -> None:
    task = {**yaml.safe_load((tasks / "shop.yaml").read_text()), section: value}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(task))
    ended = run("serve", "--tasks", tmp_path, "--store", tmp_path, "--logs", tmp_path / "logs", "--compilation-cache", tmp_path)
    assert ended.exit_code == 2 and fault in ended.stderr


def test_a_slate_and_its_feedback_from_the_shell(start_server: Callable[..., Server], shop: TaskPolicy) -> None:
    where = ("--address", start_server().address, "--unit", "u")
    asked = run("select", "shop", *where, "--context", '{"weights": [1, 2, 3], "member": true}', "--explain", "--json")
    answer = json.loads(asked.stdout)
    assert asked.exit_code == 0 and len(answer["slots"]) == len(answer["explanations"]) == 3
    assert "propensity" in run("select", "shop", *where, "--candidate", "a", "--slate-size", 1).stdout
    decision = ("--decision", answer["decision_id"])
    assert run("feedback", "impression", "shop", *where, *decision).stdout == "accepted: 1\n"
    assert run("feedback", "reward", "shop", *where, *decision, "--name", "buy", "--value", 1).stdout == "accepted: 1\n"
    assert run("feedback", "signal", *where, "--name", "login").stdout == "accepted: 1\n"
    assert run("feedback", "heartbeat", "rewards", *where[:2], "--final").stdout == "accepted: 1\n"


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (("select", "shoppe", "--unit", "u"), "task: 'shoppe' does not exist; did you mean `shop`?"),
        (("select", "shop", "--unit", "u", "--context", "{"), "--context: '{' is no JSON"),
        (("select", "shop", "--unit", "u", "--context", "[]"), "is no JSON object"),
        (("select", "shop", "--unit", "u", "--context", "@nowhere"), "--context: '@nowhere'"),
        (("select", "shop", "--unit", "u", "--context", '{"weights": "x"}'), "context.features.weights"),
        (("feedback", "impression", "shop", "--unit", "u", "--decision", "xyz"), "--decision: 'xyz' is not hex"),
        (("feedback", "heartbeat", "clicks"), "'clicks' is no stream"),
    ],
)
def test_bad_input_of_a_call_ends_with_2(start_server: Callable[..., Server], command: tuple[str, ...], fault: str) -> None:
    ended = run(*command, "--address", start_server().address)
    assert ended.exit_code == 2 and fault in ended.stderr and ended.stderr.startswith("error: ")


def test_a_server_that_is_not_there_is_named() -> None:
    ended = run("feedback", "heartbeat", "rewards", "--address", "127.0.0.1:1")
    assert ended.exit_code == 2 and ended.stderr.startswith("error: address: 127.0.0.1:1 cannot be reached")


def test_replay_without_logs_ends_with_2(tmp_path: Path) -> None:
    ended = run("replay", "--logs", tmp_path, "--store", tmp_path)
    assert ended.exit_code == 2 and "error: --logs" in ended.stderr


def test_the_module_is_the_command() -> None:
    ended = subprocess.run([sys.executable, "-m", "serving", "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and all(name in ended.stdout for name in ("serve", "replay", "select", "feedback"))


def test_no_command_waits_for_pictures_or_tables_that_it_does_not_need() -> None:
    wanted = {"serving.commands": "matplotlib duckdb polars deltalake serving.replay serving.demo.run", "ope.__main__": "matplotlib duckdb"}
    for module, unwanted in wanted.items():
        code = f"import sys, {module}; print([name for name in {unwanted.split()} if name in sys.modules])"
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert ended.stdout.strip() == "[]", module
