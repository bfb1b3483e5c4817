"""The demo's second world by hand, and (slow) the whole loop in it: quality rises, reliability stays within its bound."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from serving.demo.tradeoff import courses
from serving.demo.upload import ALPHA, BASELINE, RESOLUTIONS, UploadWorld
from serving.demo.worlds import WORLDS, world_of
from serving.errors import DemoError

ROOT = Path(__file__).resolve().parents[2]


def test_every_world_has_the_task_that_it_names() -> None:
    for name in WORLDS:
        world = world_of(name)
        assert world.task == name and (ROOT / "configs" / "tasks" / f"{name}.yaml").is_file()
    with pytest.raises(DemoError, match="did you mean `video_upload`"):
        world_of("video_uploads")


def test_the_world_compares_with_the_baseline_that_the_task_declares() -> None:
    task = yaml.safe_load((ROOT / "configs" / "tasks" / "video_upload.yaml").read_text())
    settings = task["policy"]["settings"]
    assert settings["baseline"] == {"action": BASELINE} and settings["constraints"][0]["alpha"] == ALPHA
    assert task["features"]["actions"] == list(RESOLUTIONS)


def test_uploads_come_to_what_the_world_says_of_them() -> None:
    world, rng = UploadWorld(), np.random.default_rng(2)
    (visit,) = world.visits(rng, 1)
    came = [{name: value for name, _, value in world.happens(rng, visit, ["1080p"]).rewards} for _ in range(4_000)]
    for name, expected in (("reliability", world.success(visit.context[None])), ("quality", world.quality(visit.context[None]))):
        values = np.array([one.get(name, 0.0) for one in came])
        # Five standard errors: false alarm 6e-7.
        assert abs(values.mean() - expected[0, 4]) <= 5.0 * values.std() / np.sqrt(len(values)) + 1e-12


def test_quality_alone_drives_reliability_down_in_this_world() -> None:
    world = UploadWorld()
    contexts = np.array([visit.context for visit in world.visits(np.random.default_rng(0), 5_000)])
    success, quality, base = world.success(contexts), world.quality(contexts), RESOLUTIONS.index(BASELINE)
    place, greedy = np.arange(len(contexts)), quality.argmax(axis=1)
    feasible = np.where(success >= (1.0 - ALPHA) * success[:, [base]], quality, -1.0).argmax(axis=1)
    assert success[place, greedy].mean() < (1.0 - ALPHA) * success[:, base].mean() < success[place, feasible].mean()
    assert quality[:, base].mean() + 0.1 < quality[place, feasible].mean()


def test_the_courses_are_means_over_time_beside_the_baseline() -> None:
    world, rng = UploadWorld(), np.random.default_rng(3)
    visits = world.visits(rng, 600)
    outcomes = [[{"name": name, "slot": 0, "value": value} for name, value in (("quality", 0.5), ("reliability", 1.0))]] * 600
    rows = pa.table(
        {
            "decision_time_us": [1_000_000 * second for second in range(600)],
            "context": [visit.context for visit in visits],
            "slot_action": [[BASELINE]] * 600,
            "outcomes": pa.array(outcomes),
        }
    )
    # Without a promotion nothing is learned, by plain sampling neither; the slow test below sees it learn.
    found = courses(world, rows, moved_s=[], seed=0)
    assert np.all(found.served.quality == 0.5) and found.served.late_reliability == 1.0 and found.violates_served == 0.0
    assert abs(found.plain.late_quality - found.baseline.late_quality) < 0.1 and found.violates_plain < 0.3


@pytest.mark.slow
def test_the_whole_loop_raises_quality_and_keeps_reliability(tmp_path: Path) -> None:
    arguments = ("demo", "--task", "video_upload", "--folder", str(tmp_path / "run"), "--seconds", "45")
    ended = subprocess.run(
        [sys.executable, "-m", "serving", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert figures["promotions"] >= 1 and figures["replay_draws"] == figures["replay_propensities"] == 1.0
    assert figures["quality_last_half"] > figures["quality_baseline"] + 0.1
    assert figures["reliability_kept"] >= 1.0 - ALPHA
    assert figures["reliability_plain_thompson"] < (1.0 - ALPHA) * figures["reliability_baseline"]
    assert (tmp_path / "run" / "index.html").read_text().count("<svg") == 5
