"""The command: a run to the end, a stop by signal, what it says of itself, and bad input."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attribution import errors
from attribution.__main__ import app
from attribution.settings import Attribution, Outcome, Rewards
from tests.attribution.event_kit import append_log, decision, finals, heartbeat, impression, reward, task_directory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return task_directory(tmp_path / "tasks")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_logs(logs: Path, *, ended: bool) -> None:
    append_log(logs, "decisions", [decision(), decision(2, 3.0, unit="u2"), *(finals(90.0)[:1] if ended else [])])
    append_log(logs, "feedback", [impression(), reward(slot=0), reward("r2", unit="u9"), *(finals(90.0)[1:] if ended else [])])


def test_a_run_ends_with_its_input_and_status_and_backfill_agree(tmp_path: Path, tasks: Path) -> None:
    logs, out, again = tmp_path / "logs", tmp_path / "out", tmp_path / "again"
    write_logs(logs, ended=True)
    ran = call("run", "--logs", logs, "--out", out, "--tasks", tasks, "--until-final", "--poll-s", 0.05, "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout) == {"events": 8, "rows": 2, "final": True}
    status = json.loads(call("status", "--out", out, "--tasks", tasks, "--logs", logs, "--json").stdout)
    assert (status["logged"], status["joined"], status["pending"], status["closes"]) == (2, 2, 0, True)
    assert status["events"]["quarantined"] == {"other_unit": 1}
    for number, given in enumerate((("--events", out), ("--logs", logs))):
        filled = call("backfill", *given, "--out", again / str(number), "--tasks", tasks, "--json")
        assert json.loads(filled.stdout) == {"events": 8, "rows": 2}


def test_a_run_stops_cleanly_on_sigterm_and_the_next_goes_on(tmp_path: Path, tasks: Path) -> None:
    logs, out = tmp_path / "logs", tmp_path / "out"
    write_logs(logs, ended=False)
    command = [
        sys.executable,
        "-m",
        "attribution",
        "run",
        "--logs",
        str(logs),
        "--out",
        str(out),
        "--tasks",
        str(tasks),
        "--poll-s",
        "0.05",
        "--json",
    ]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(out / "observations" / "_delta_log" / f"{1:020d}.json", running)
    running.send_signal(signal.SIGTERM)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 0 and not stderr, stderr
    assert json.loads(stdout)["events"] == 5
    append_log(logs, "decisions", [heartbeat("decisions", 60.0)])
    append_log(logs, "feedback", [heartbeat(source, 60.0) for source in ("impressions", "rewards")] + finals(61.0)[1:])
    append_log(logs, "decisions", finals(61.0)[:1])
    assert (
        json.loads(call("run", "--logs", logs, "--out", out, "--tasks", tasks, "--until-final", "--poll-s", 0.05, "--json").stdout)["rows"]
        == 2
    )


def wait_for(path: Path, running: subprocess.Popen[str]) -> None:
    """Waits until a file is there, for as long as its writer lives."""
    while not path.exists():
        assert running.poll() is None, running.communicate()
        os.sched_yield()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("--set=attribution.grace=1", "attribution.grace: unknown key; did you mean `grace_s`?"),
        ("--set=rewards.outcomes.click.agregate=sum", "rewards.outcomes.click.agregate: unknown key; did you mean `aggregate`?"),
        ("--set=rewards.outcomes.click.window_s=-1", "rewards.outcomes.click.window_s: -1 is refused"),
        ("--set=rewards.outcomes.click.aggregate=median", "'median' is refused"),
        ("--set=rewards.outcomes={}", "rewards.outcomes: {} is refused"),
        ("--source=redis", "--source redis: unknown; known: embedded, kafka"),
        ("--source=kafka", "--bootstrap: missing"),
        ("--logs=/nonexistent", "--logs /nonexistent: no such directory"),
        ("--tasks=/nonexistent", "/nonexistent: holds no task"),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it(tmp_path: Path, tasks: Path, change: str, line: str) -> None:
    ended = call("run", "--tasks", tasks, "--out", tmp_path / "out", change)
    assert ended.exit_code == 2
    assert line in ended.stderr and ended.stderr.startswith("error: ") and "Traceback" not in ended.stderr


def test_bad_input_of_the_other_commands_is_refused_too(tmp_path: Path, tasks: Path) -> None:
    absent = call("status", "--out", tmp_path / "nothing", "--tasks", tasks)
    assert absent.exit_code == 2 and "no table" in absent.stderr
    both = call("backfill", "--out", tmp_path / "b", "--tasks", tasks)
    assert both.exit_code == 2 and "one of --events, --logs and --bootstrap, not 0" in both.stderr
    (tmp_path / "file").write_text("x")
    blocked = call("run", "--logs", tmp_path, "--out", tmp_path / "file" / "out", "--tasks", tasks)
    assert blocked.exit_code == 2 and "another --out" in blocked.stderr


def test_print_config_shows_every_value_and_where_it_came_from(tasks: Path) -> None:
    shown = call("run", "--tasks", tasks, "--print-config", "--set", "attribution.grace_s=7").stdout
    assert "# task news" in shown
    assert "attribution.grace_s = 7.0  (flag)" in shown
    assert "rewards.outcomes.click.window_s = 10.0  (file)" in shown
    assert "rewards.outcomes.click.default = 0.0  (default)" in shown


def test_every_key_of_the_sections_is_documented() -> None:
    for model in (Rewards, Outcome, Attribution):
        assert all(field.description and field.description.endswith(".") for field in model.model_fields.values())


def test_the_error_tree_is_drawn_and_every_error_has_one_root() -> None:

    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__ and issubclass(getattr(errors, name), errors.AttributionError)


def test_the_tasks_of_the_repository_are_valid() -> None:
    assert call("run", "--print-config", "--tasks", ROOT / "configs" / "tasks").exit_code == 0


def test_a_joiner_keeps_the_memory_that_it_frees_where_the_c_library_can() -> None:
    script = "from attribution.memory import keep_freed_memory; print(keep_freed_memory())"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    # Another C library (musl, macOS) has no such switch: then nothing changes.
    assert said == str(platform.libc_ver()[0] == "glibc")
