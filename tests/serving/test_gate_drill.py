"""The drill of the gate: every act ends as it should."""

import json
from pathlib import Path

import pytest

from serving.demo.gate_drill import run_drill
from serving.errors import DemoError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_bad_challengers_are_stopped_a_good_one_is_promoted_and_undone_when_it_turns(tmp_path: Path) -> None:
    acts = run_drill(tmp_path / "drill", config=ROOT / "configs" / "drill" / "offers.yaml")
    assert [act.became for act in acts] == ["veto", "hold", "veto", "promote", "rolled back"] and all(act.passed for act in acts)
    assert "2 steps" in acts[3].because and "complaint" in acts[4].because
    assert len(json.loads((tmp_path / "drill" / "drill.json").read_text())) == 5


def test_a_folder_that_is_not_the_drills_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    with pytest.raises(DemoError, match="not the drill's own"):
        run_drill(tmp_path, config=ROOT / "configs" / "drill" / "offers.yaml")
    assert (tmp_path / "letter").read_text() == "mine"
