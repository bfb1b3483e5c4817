"""Pictures of estimates as files, and the bar that counts rows on a terminal only."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib import image
from rich.console import Console

from ope.evaluate import evaluate
from ope.plots import plot_estimates
from ope.progress import bar_on
from ope.rows import Batch
from tests.ope.test_ope_commands import OPEN_BANDIT, run


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("log") / "log.parquet"
    pl.DataFrame({"reward": rng.random(300), "w": rng.gamma(2.0, 0.5, 300)}).write_parquet(path)
    return path


def test_a_picture_of_values_has_a_line_an_estimator(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "values.png"
    code, _, err = run(capsys, "evaluate", "--log", str(log), "--weight", "w", "--plot", str(picture))
    assert code == 0 and not err, "no bar where there is no terminal"
    pixels = image.imread(picture)[..., :3]
    blue = np.abs(pixels - np.array([0x2B, 0x6C, 0xB0]) / 255).max(axis=2) < 0.02
    rows = np.flatnonzero(blue.any(axis=1))
    assert pixels.shape[1] > 700 and 1 + (np.diff(rows) > 1).sum() == 2


def test_a_picture_of_differences_says_what_is_drawn(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "differences.svg"
    code, _, err = run(capsys, "compare", "--log", str(log), "--weight", "w", "--plot", str(picture))
    assert code == 0 and not err
    for text in (
        "ips, challenger",
        "snips, champion",
        "value per decision, 95% student-t",
        "challenger less champion per decision, same rows",
    ):
        assert f"<!-- {text} -->" in picture.read_text(encoding="utf-8")


def test_what_has_no_value_is_said_in_words(tmp_path: Path) -> None:
    nothing = Batch(np.ones((5, 1)), np.zeros((5, 1)))
    plot_estimates(tmp_path / "nothing.svg", estimates=evaluate([nothing], names=["ips"]), on_policy={})
    assert "no evidence" in (tmp_path / "nothing.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "message"), [("a.pdf", ".pdf is no kind of picture here"), ("absent/a.png", "there is no folder")])
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *OPEN_BANDIT, "--plot", str(tmp_path / name))
    assert code == 2 and not out and message in err


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_drawn_on_a_terminal_only(terminal: bool) -> None:
    drawn = io.StringIO()
    with bar_on(Console(file=drawn, force_terminal=terminal, width=80)) as progress:
        progress.advance(progress.add_task("rows", total=2), 1)
    assert ("rows" in drawn.getvalue()) is terminal
