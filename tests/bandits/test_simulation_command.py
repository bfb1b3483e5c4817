"""`bandits simulate` and `bandits compare`: what they write, and that bad input ends with its name, the value and exit code 2."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.ipc
import pytest
from typer.testing import CliRunner

from bandits.__main__ import app
from bandits.catalog import CATALOG
from bandits.config import PolicySection
from bandits.simulation.catalog import ENVIRONMENTS, environment_of
from bandits.simulation.experiment import Experiment, contenders
from protos import config

EXPERIMENTS = sorted((Path(__file__).resolve().parents[2] / "configs" / "experiments").glob("*.yaml"))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Any, *says: str) -> None:
    assert result.exit_code == 2 and not result.stdout, (result.output, result.exception)
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    for words in says:
        assert words in result.stderr


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 rows whose class is the sign of a column, with some noise."""
    rng = np.random.default_rng(0)
    x, word = rng.normal(size=120), rng.choice(["red", "blue"], 120)
    label = np.where(x + 0.1 * rng.normal(size=120) > 0, "up", "down")
    path = tmp_path_factory.mktemp("data") / "signs.csv"
    path.write_text("x,word,label\n" + "".join(f"{a},{b},{c}\n" for a, b, c in zip(x, word, label, strict=True)))
    return path


def test_compare_runs_the_default_policy_over_the_promised_shuffles(table: Path) -> None:
    arguments = ("compare", "--data", table, "--label", "label", "--rows", 5000, "--shuffles", 3, "--learn-every", 10, "--json", "-")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (figures,) = report["policies"]
    assert figures["policy"] == PolicySection().name and figures["floor"] == PolicySection().floor
    assert report["rounds"] == 120 and report["seeds"] == 3 and len(figures["by_seed"]) == 3
    assert figures["mean_reward"] == pytest.approx(np.mean(figures["by_seed"])) and 0.5 < figures["mean_reward"] <= 1.0
    assert json.loads(run(*arguments).stdout)["policies"][0]["by_seed"] == figures["by_seed"], "a second run gives the same rewards"


def test_compare_writes_table_plot_arrow_and_json(table: Path, tmp_path: Path) -> None:
    sinks = ["--json", tmp_path / "r.json", "--plot", tmp_path / "r.png", "--arrow", tmp_path / "r.arrow"]
    two = ["--policy", "uniform", "--policy", "linear_thompson {prior_scale: 0.5}"]
    result = run("compare", "--data", table, "--label", "label", "--rows", 30, "--shuffles", 2, "--learn-every", 10, *two, *sinks)
    assert result.exit_code == 0, result.output
    assert "uniform" in result.stdout and "30 decisions, 2 seeds" in result.stdout
    policies = json.loads((tmp_path / "r.json").read_text())["policies"]
    assert policies[1]["settings"]["prior_scale"] == 0.5 and policies[1]["less"]["label"] == "uniform"
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    rows = pa.ipc.open_file(tmp_path / "r.arrow").read_all()
    assert rows.num_rows == 2 * 2 * 30 and set(rows["policy"].to_pylist()) == {item["label"] for item in policies}
    one = rows.filter(pa.compute.equal(rows["policy"], "uniform"))
    assert np.mean(one["earned"].to_numpy()) == pytest.approx(policies[0]["mean_reward"])
    assert {numerator for (numerator,) in one["numerator"].to_pylist()} == {1 << 30}


def test_a_table_without_header_is_named_by_number(table: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text(table.read_text().split("\n", 1)[1])
    arguments = ["--rows", 20, "--shuffles", 1, "--policy", "uniform", "--json", "-"]
    with_header = json.loads(run("compare", "--data", table, "--label", "label", *arguments).stdout)
    without = json.loads(run("compare", "--data", bare, "--label", "2", "--no-header", *arguments).stdout)
    assert without["policies"][0]["by_seed"] == with_header["policies"][0]["by_seed"]
    assert with_header["policies"][0]["mean_reward_interval"]["lower"] is None, "one shuffle has no spread to go by"


BAD_FLAGS = [
    (["--label", "labl"], ["label: the table has no column 'labl'", "did you mean `label`"]),
    (["--policy", "linear_tompson"], ["'linear_tompson' is not in the catalog", "did you mean `linear_thompson`"]),
    (["--policy", "linear_thompson {prior_scal: 1}"], ["policy.settings.prior_scal", "did you mean `prior_scale`"]),
    (["--policy", "linear_thompson {"], ["--policy linear_thompson {", "give NAME"]),
    (["--policy", "uniform", "--policy", "uniform"], ["policies: 'uniform' stands twice"]),
    (["--plot", "regret.bmp"], ["--plot: regret.bmp", ".png"]),
    (["--arrow", "no/such/folder.arrow"], ["--arrow: no/such/folder.arrow", "no folder"]),
]


@pytest.mark.parametrize(("flags", "says"), BAD_FLAGS, ids=[" ".join(flags) for flags, _ in BAD_FLAGS])
def test_a_bad_flag_is_refused_by_name_value_and_remedy(table: Path, flags: list[str], says: list[str]) -> None:
    assert_refused(run("compare", "--data", table, "--label", "label", *flags), *says)


def test_a_bad_table_is_refused(tmp_path: Path) -> None:
    for text, says in (("", "cannot be read"), ("x,label\n1,a\n2,a\n", "one class only"), ("x,label\nnan,a\n2,b\n", "no value in row 0")):
        (tmp_path / "bad.csv").write_text(text)
        assert_refused(run("compare", "--data", tmp_path / "bad.csv", "--label", "label"), says)
    assert_refused(run("compare", "--data", tmp_path / "none.csv", "--label", "label"), "none.csv", "give a CSV or Parquet file")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_in_configs_is_one(path: Path) -> None:
    experiment = config.parse(Experiment, config.load_yaml(path), where=path.name)
    assert experiment.environment.name in ENVIRONMENTS and {choice.name for choice in experiment.policies} <= set(CATALOG)
    if not ENVIRONMENTS[experiment.environment.name].reads_table:
        assert contenders(experiment.policies, dims=environment_of(experiment, folder=path.parent).dims)


def test_simulate_runs_an_experiment_with_flags_over_its_file(tmp_path: Path, table: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        f"environment: {{name: classification, settings: {{data: {table}, label: label}}}}\n"
        "policies: [{name: uniform, label: even}, {name: uniform}]\nrounds: 50\nlearn_every: 10\n"
        "delay: {mean_rounds: 2, longest_rounds: 5}\n"
    )
    result = run("simulate", tmp_path / "small.yaml", "--rounds", 20, "--seeds", 2, "--json", "-")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["rounds"], report["seeds"], report["learn_every"]) == (20, 2, 10)
    even, again = report["policies"]
    assert even["label"] == "even" and even["by_seed"] == again["by_seed"] and again["less"]["value"] == 0.0


BAD_EXPERIMENTS = [
    ("environment: {name: wheal}\nrounds: 5\n", ["environment.name: 'wheal'", "did you mean `wheel`"]),
    ("environment: {name: wheel, settings: {delt: 0.5}}\nrounds: 5\n", ["environment.settings.delt", "did you mean `delta`"]),
    ("environment: {name: wheel, settings: {delta: 2}}\nrounds: 5\n", ["environment.settings.delta", "less than 1"]),
    ("environment: {name: wheel}\nround: 5\n", ["bad.yaml.rounds: missing", "bad.yaml.round: unknown key", "did you mean `rounds`"]),
    ("environment: {name: wheel}\nrounds: 5\npolicies: []\n", ["policies: none is named"]),
    ("environment: {name: wheel}\nrounds: 5\npolicies: [{name: unifrm}]\n", ["did you mean `uniform`"]),
    ("environment: {name: wheel}\nrounds: 5\ndelay: {mean_rounds: 0, longest_rounds: 5}\n", ["delay.mean_rounds", "greater than 0"]),
    ("environment: {name: classification, settings: {data: no.csv, label: y}}\nrounds: 5\n", ["no.csv", "cannot be read"]),
    ("- a\n", ["bad.yaml"]),
]


@pytest.mark.parametrize(("text", "says"), BAD_EXPERIMENTS, ids=[text for text, _ in BAD_EXPERIMENTS])
def test_a_bad_experiment_is_refused_by_name_value_and_remedy(tmp_path: Path, text: str, says: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert_refused(run("simulate", tmp_path / "bad.yaml"), *says)
