"""The command `ope`: what it prints, and how it answers bad input: one line a fault, and an exit code."""

import json
from pathlib import Path

import pytest
import typer.main

from ope.__main__ import app, main

HERE = Path(__file__).parent
SAMPLE = HERE / "data" / "open_bandit_sample"
TASK = HERE.parents[1] / "configs" / "tasks" / "digits.yaml"
OPEN_BANDIT = ["evaluate", "--format", "open-bandit", "--log", str(SAMPLE / "random" / "all")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_every_command_and_option_says_what_it_is() -> None:
    commands = typer.main.get_command(app).commands
    wanted = {"compare", "coverage", "evaluate", "gate", "promote", "propose", "report", "rerun", "rollback", "tune", "verdicts"}
    assert set(commands) == wanted
    for command in commands.values():
        assert command.help and all(parameter.help for parameter in command.params if parameter.param_type_name == "option")


def test_evaluate_prints_estimates_and_the_on_policy_mean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    code, out, _ = run(capsys, *OPEN_BANDIT, "--target", str(SAMPLE / "bts" / "all"), "--json")
    answer = json.loads(out)
    assert code == 0 and list(answer["estimates"]) == ["ips", "snips", "dm", "dr", "sndr"]
    assert answer["on_policy"]["on-policy, target's log"]["value"] == 0.0042
    assert answer["estimates"]["dm"]["effective_sample_size"] is None
    code, out, _ = run(capsys, *OPEN_BANDIT, "--target", str(SAMPLE / "bts" / "all"))
    assert code == 0 and "on-policy" in out and "never taken: 1" in " ".join(out.split())


def test_evaluate_reads_parquet_by_a_mapping_of_columns(capsys: pytest.CaptureFixture[str]) -> None:
    log = HERE / "data" / "ope_reference" / "discrete_binary_k10.parquet"
    columns = ["--propensity", "pscore", "--target-propensity", "pi_e", "--q-logged", "q_hat_logged", "--v-target", "v_hat"]
    code, out, _ = run(capsys, "evaluate", "--log", str(log), *columns, "--estimator", "dr", "--json")
    assert code == 0 and json.loads(out)["estimates"]["dr"]["value"] == pytest.approx(0.49488383563495664, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluat"], "No such command 'evaluat'"),
        (["evaluate"], "Missing option '--log'"),
        (["evaluate", "--log", "absent.parquet"], "absent.parquet: cannot be read as Parquet"),
        ([*OPEN_BANDIT, "--level", "0.9"], "level is 0.9"),
        ([*OPEN_BANDIT, "--estimator", "drr"], "estimator 'drr' is unknown; known: ips"),
        ([*OPEN_BANDIT, "--target", "nowhere"], "nowhere: cannot be read"),
        (["evaluate", "--format", "observations", "--log", "x"], "--store: not given"),
        (["evaluate", "--format", "xml", "--log", "x"], "--format"),
        (["report", "absent.json"], "absent.json: no verdict can be read there"),
        (["promote", "0" * 64, "--task", "digits", "--store", "absent"], "not in the store"),
        (["rollback", "--task", "digits", "--store", "absent", "--reason", " "], "--reason: is empty"),
        (["rollback", "--task", "a/b", "--reason", "x"], "cannot name a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2 and not out and message in err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gate"], "--task-config: not given"),
        (["gate", "--task-config", "absent.yaml"], "absent.yaml: cannot be read"),
        (["gate", "--task-config", str(TASK), "--set", "gate.levl=0.1"], "gate.levl: unknown key; did you mean `level`"),
        (["gate", "--task-config", str(TASK), "--set", "gte.level=0.1"], "gte: unknown section; did you mean `gate`"),
        (["gate", "--task-config", str(TASK), "--watch", "--poll-s", "0"], "--poll-s: 0.0 is refused"),
        (["gate", "--task-config", str(TASK)], "no open challenger"),
    ],
)
def test_errors_of_the_gate_are_exit_code_3(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 3 and not out and message in err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_the_config_is_shown_with_its_origins(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "gate", "--task-config", str(TASK), "--set", "gate.level=0.01", "--print-config", "--json")
    shown = {row["name"]: (row["value"], row["origin"]) for row in json.loads(out)}
    assert code == 0 and shown["gate.level"] == (0.01, "flag") and shown["gate.estimator"] == ("rips", "file")
    assert shown["gate.margin_change"] == (0.0, "default")


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0 and "evaluate" in out
