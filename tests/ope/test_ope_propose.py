"""`ope propose`: rounds of weights find what a long-term outcome wants, within its guardrails; and what cannot be used is named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import typer.testing
import yaml

from bandits.__main__ import app
from ope.__main__ import main
from ope.propose import Plan, Result, proposed, weights_at
from ope.tune_search import Tried, next_points, spread_points
from tests.bandits.experiments import made_up

PLAN: dict[str, Any] = {
    "objective": "stays",
    "weights": {"clicks": [0.0, 1.0], "minutes": [0.0, 2.0]},
    "declared": {"clicks": 1.0, "minutes": 0.0},
    "results": "rounds.csv",
    "arms": 4,
    "seed": 3,
}


def world(weights: Mapping[str, float], *, rng: np.random.Generator, drift: float = 0.0) -> tuple[float, float]:
    """Shares of members that stay, and that complain, where the policy of these weights serves; both drift from round to round.

    Two of three arms win clicks and minutes, by what a member is like; minutes keep members, clicks alone drive some away.
    """
    x = np.random.default_rng(0).normal(size=(4_000, 2))
    clicks = np.stack([np.zeros(4_000), 0.5 + 0.3 * x[:, 0], 0.1 + 0.2 * x[:, 1]], axis=1)
    minutes = np.stack([np.zeros(4_000), -0.2 * x[:, 0], 0.3 * x[:, 1] + 0.1], axis=1)
    arm = np.argmax(weights["clicks"] * clicks + weights["minutes"] * minutes, axis=1)
    each = np.arange(4_000)
    stays = (0.1 * clicks + 0.5 * minutes)[each, arm].mean()
    complains = (0.3 * np.maximum(minutes, 0.0))[each, arm].mean()
    return float(0.6 + drift + stays + 0.004 * rng.normal()), float(0.05 + complains + 0.002 * rng.normal())


def rounds(folder: Path, capsys: pytest.CaptureFixture[str], count: int, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the command and the world in turn; the last proposal, and all that was run."""
    (folder / "weights.yaml").write_text(yaml.safe_dump(PLAN | more))
    (folder / "rounds.csv").unlink(missing_ok=True)
    rng, ran = np.random.default_rng(1), []
    for number in range(1, count + 1):
        found = command(folder, capsys)
        assert found["round"] == number and found["arms"][0] == PLAN["declared"]
        for arm in found["arms"]:
            stays, complains = world(arm, rng=rng, drift=0.05 * number)
            ran.append({"round": number, **arm, "stays": stays, "stays_error": 0.004, "complains": complains, "complains_error": 0.002})
        header = ",".join(ran[0])
        (folder / "rounds.csv").write_text("\n".join([header, *(",".join(map(str, row.values())) for row in ran)]) + "\n")
    return command(folder, capsys), ran


def command(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["propose", str(folder / "weights.yaml"), "--json", *flags])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def exact(weights: Mapping[str, float]) -> tuple[float, float]:
    class Still:
        @staticmethod
        def normal() -> float:
            return 0.0

    return world(weights, rng=Still())


GRID = [{"clicks": c, "minutes": m} for c in np.linspace(0.0, 1.0, 21) for m in np.linspace(0.0, 2.0, 21)]


def test_four_rounds_find_most_of_what_the_best_weights_gain_though_rounds_drift(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fixed keys. Picking an arm at random would keep 0.5 of it on average; without differences within rounds the last round would win."""
    found, ran = rounds(tmp_path, capsys, 4)
    declared = exact(PLAN["declared"])[0]
    possible = max(exact(weights)[0] for weights in GRID) - declared
    gained = exact(found["best"]["weights"])[0] - declared
    assert gained > 0.9 * possible and found["best"]["gain"] == pytest.approx(gained, abs=4 * found["best"]["standard_error"])
    assert len(ran) == 20 and found["round"] == 5


@pytest.mark.slow
def test_a_guardrail_keeps_the_search_on_its_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = [exact(weights) for weights in GRID]
    limit = 0.5 * (exact(PLAN["declared"])[1] + max(complains for _, complains in every))
    found, _ = rounds(tmp_path, capsys, 4, guardrails={"complains": {"at_most": limit}})
    free, _ = rounds(tmp_path, capsys, 4)
    assert exact(found["best"]["weights"])[1] <= limit < exact(free["best"]["weights"])[1]
    declared, most = exact(PLAN["declared"])[0], max(stays for stays, complains in every if complains <= limit)
    assert exact(found["best"]["weights"])[0] - declared > 0.7 * (most - declared)


def test_points_of_a_round_lie_apart_and_follow_from_the_seed() -> None:
    tried = [Tried(point, float(-np.sum((point - 0.6) ** 2)), np.zeros(0)) for point in spread_points(2, 8, seed=0)]
    found = next_points(tried, 3, seed=5)
    np.testing.assert_array_equal(found, next_points(tried, 3, seed=5))
    apart = [np.linalg.norm(one - other) for at, one in enumerate(found) for other in found[:at]]
    assert min(apart) > 1e-3 and np.all((found >= 0) & (found <= 1))


def test_the_proposed_weights_go_into_the_next_experiments_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = PLAN | {"weights": {"y": [0, 1], "z": [0, 1]}, "declared": {"y": 1.0, "z": 0.0}}
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(plan))
    command(tmp_path, capsys, "--out", str(tmp_path / "arms.yaml"))
    (arm, *_) = yaml.safe_load((tmp_path / "arms.yaml").read_text())["arms"][1:]
    pyarrow.csv.write_csv(made_up(300), tmp_path / "data.csv")
    config = {"data": "data.csv", "treatment": "arm", "outcomes": arm, "covariates": ["age"]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(config))
    written = tmp_path / "arm1.yaml"
    result = typer.testing.CliRunner().invoke(app, ["personalise", str(tmp_path / "p.yaml"), "--json", "--task", str(written)])
    assert result.exit_code == 0 and json.loads(result.stdout)["outcomes"] == arm and "policy_tree" in written.read_text()


def test_weights_are_points_of_their_ranges_in_four_digits() -> None:
    plan = Plan.model_validate(PLAN)
    assert weights_at(plan, np.array([0.25, 0.123456])) == {"clicks": 0.25, "minutes": 0.2469}


def test_a_first_round_is_shown_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(PLAN))
    with pytest.raises(SystemExit):
        main(["propose", str(tmp_path / "weights.yaml")])
    assert "declared" in (said := capsys.readouterr().out) and "spread evenly" in said


HEADER = "round,clicks,minutes,stays,stays_error"
BAD: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"weights": {"clicks": [1, 0], "minutes": [0, 1]}}, "", ["weights.clicks", "smaller end first"]),
    ({"declared": {"clicks": 1.0}}, "", ["declared.minutes"]),
    ({"declared": {"clicks": 1.0, "minutes": 0.0, "taps": 1.0}}, "", ["'taps' has no range"]),
    ({"weights": {}}, "", ["none is named"]),
    ({"guardrails": {"stays": {}}}, "", ["at_least", "at_most"]),
    ({"objectiv": "stays"}, "", ["objectiv", "did you mean `objective`"]),
    ({}, "round,clicks,minutes,stays\n1,1,0,0.5\n", ["no column 'stays_error'"]),
    ({}, f"{HEADER}\n1,1,0,,0.1\n", ["'stays'", "row 0", "complete it"]),
    ({}, f"{HEADER}\n1,0.5,0,0.5,0.1\n", ["round 1", "run them in every round"]),
    ({}, f"{HEADER}\n1,1,0,0.5,0.1\n1,1,9,0.5,0.1\n", ["outside the ranges"]),
]


@pytest.mark.parametrize(("more", "results", "says"), BAD)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], results: str, says: list[str]
) -> None:
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(PLAN | more))
    if results:
        (tmp_path / "rounds.csv").write_text(results)
    with pytest.raises(SystemExit) as ended:
        main(["propose", str(tmp_path / "weights.yaml"), "--json"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and all(word in said for word in says), said


def test_a_guardrail_beside_the_declared_arm_is_a_difference_within_the_round() -> None:
    plan = Plan.model_validate(PLAN | {"guardrails": {"complains": {"at_most": 0.01, "beside_declared": True}}})
    rows = [
        Result(1, PLAN["declared"], {"stays": 0.5, "complains": 0.30}, {"stays": 0.0, "complains": 0.0}),
        Result(1, {"clicks": 0.5, "minutes": 1.0}, {"stays": 0.6, "complains": 0.305}, {"stays": 0.0, "complains": 0.0}),
        Result(1, {"clicks": 0.0, "minutes": 1.0}, {"stays": 0.7, "complains": 0.32}, {"stays": 0.0, "complains": 0.0}),
    ]
    found = proposed(plan, rows)
    assert found.best == {"clicks": 0.5, "minutes": 1.0} and found.gain == pytest.approx(0.1)
