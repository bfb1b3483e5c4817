"""The demo in short: every part as a process, the accounting closed, the page whole. Its parts that compute, by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from serving.dashboard.demo_folder import metrics_of
from serving.demo.environment import SEEN_PROBABILITY, DigitsWorld, react
from serving.demo.results import curve, forecasts
from serving.demo.standing import Judgement

ROOT = Path(__file__).resolve().parents[2]
# What readers of summary.json may count on.
PROMISED = {
    *("answered", "acknowledged", "logged", "joined", "pending", "expired", "quarantined", "promotions", "holds", "vetoes"),
    *("reward_first_tenth", "reward_last_tenth", "reward_uniform", "replay_draws", "replay_propensities", "select_p50_ms", "select_p99_ms"),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    arguments = ("demo", "--folder", str(folder), "--seconds", "8", "--rate", "400")
    ended = subprocess.run(
        [sys.executable, "-m", "serving", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def test_every_decision_of_the_demo_is_accounted_for(demo: Path) -> None:
    figures = json.loads((demo / "summary.json").read_text())
    assert set(figures) >= PROMISED
    assert figures["answered"] == figures["acknowledged"] + figures["unlogged"] > 1_000
    assert figures["logged"] == figures["joined"] + figures["pending"] + figures["expired"] + figures["quarantined"]
    assert figures["logged"] >= figures["acknowledged"] and figures["pending"] == 0
    assert figures["replay_draws"] == figures["replay_propensities"] == 1.0


def test_server_and_joiner_of_the_demo_say_where_their_metrics_are(demo: Path) -> None:
    (demo / "summary.json").rename(demo / "ended.json")
    try:
        addresses = {metrics_of(demo, part) for part in ("server", "joiner")}
    finally:
        (demo / "ended.json").rename(demo / "summary.json")
    assert len(addresses) == 2 and all(address.startswith("127.0.0.1:") and address[-1] != ":" for address in addresses)
    assert metrics_of(demo, "server") == "", "it has ended"


def test_the_page_of_the_demo_is_one_file_with_three_pictures(demo: Path) -> None:
    page = (demo / "index.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("https://matplotlib.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_the_demo_empties_no_folder_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    ended = subprocess.run(
        [sys.executable, "-m", "serving", "demo", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1 and "--folder" in ended.stderr
    assert (tmp_path / "thesis.txt").exists()


def test_uniform_slates_earn_what_the_arithmetic_says() -> None:
    rng, world = np.random.default_rng(3), DigitsWorld.load()
    visits = world.visits(rng, 20_000)
    slates = [[str(digit) for digit in rng.permutation(10)[:3]] for _ in visits]
    earned = np.mean([react(rng, visit, slate).right is not None for visit, slate in zip(visits, slates, strict=True)])
    expected = sum(SEEN_PROBABILITY) / 10
    # Five standard errors of a proportion: false alarm 6e-7.
    assert abs(earned - expected) < 5 * np.sqrt(expected * (1 - expected) / 20_000)


def observed(*, digest: list[str], reward: list[float]) -> pa.Table:
    times = [1_000_000 * second for second in range(len(reward))]
    return pa.table({"decision_time_us": times, "snapshot_digest": digest, "reward": reward})


def test_the_curve_is_the_mean_of_each_bin() -> None:
    drawn = curve(observed(digest=["a"] * 4, reward=[0.0, 1.0, 1.0, 1.0]), bins=2)
    assert drawn.reward.tolist() == [0.5, 1.0]
    assert drawn.error.tolist() == pytest.approx([0.5 / np.sqrt(2), 0.0])


def test_a_forecast_stands_beside_what_its_champion_earned() -> None:
    judgement = Judgement("promote", "b", "a", "refresh", "", (), 10, 0, (0.7, 0.6, 0.8), (0.1, 0.0, 0.2))
    held = judgement._replace(decision="hold")
    (forecast,) = forecasts(observed(digest=["a", "b", "b"], reward=[0.0, 1.0, 0.5]), [judgement, held])
    assert (forecast.realised, forecast.decisions) == (0.75, 2)
