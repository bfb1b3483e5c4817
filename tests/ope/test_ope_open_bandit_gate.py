"""The gate on real logs: candidates against the policy that logged. No direction promotes, and what two rows would decide is vetoed.

The whole sample (two campaigns) is read from the folder in SLATELOOP_DATA, or ../shared/data beside the checkout; one campaign lies here.
"""

import json
import os
from pathlib import Path

import pytest

from ope.__main__ import main
from ope.gate.config import GateConfig
from ope.gate.open_bandit import gate_open_bandit, judged_rows

HERE = Path(__file__).parent / "data" / "open_bandit_sample"
WHOLE = Path(os.environ.get("SLATELOOP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "open_bandit"
DIRECTIONS = [(campaign, behaviour, other) for campaign in ("all", "women") for behaviour, other in (("random", "bts"), ("bts", "random"))]


def folder(behaviour: str, campaign: str) -> Path:
    inside = HERE / behaviour / campaign
    return inside if inside.is_dir() else WHOLE / behaviour / campaign


def target(other: str, campaign: str) -> str:
    return "uniform" if other == "random" else str(folder("bts", campaign))


@pytest.mark.parametrize(("campaign", "behaviour", "other"), DIRECTIONS, ids=["-".join(direction) for direction in DIRECTIONS])
def test_no_direction_promotes(campaign: str, behaviour: str, other: str) -> None:
    if not folder(behaviour, campaign).is_dir():
        pytest.skip("the campaign `women` is in the whole sample only: name its folder in SLATELOOP_DATA")
    verdict = gate_open_bandit(folder(behaviour, campaign), target=target(other, campaign), config=GateConfig(), now_us=1)
    assert verdict.decision in ("hold", "veto") and verdict.rows == 10_000
    if (campaign, behaviour) == ("women", "bts"):
        assert verdict.decision == "veto" and "2 effective rows of 10000" in verdict.reasons[0] and not verdict.estimates
        assert verdict.slots[0].largest == pytest.approx(21_739, rel=1e-4) and verdict.slots[0].mean == pytest.approx(3.13, abs=0.01)


@pytest.mark.skipif(not (WHOLE / "reference").is_dir(), reason="needs the reference figures of the whole sample: SLATELOOP_DATA")
@pytest.mark.parametrize("campaign", ["all", "women"])
def test_the_paired_difference_is_the_published_one(campaign: str) -> None:
    known = json.loads((WHOLE / "reference" / "paired_deltas.json").read_text())[f"{campaign}_bts_to_random"]
    rows = judged_rows(folder("bts", campaign), target="uniform")
    difference = (rows.challenger * rows.reward - rows.champion * rows.reward).mean()
    assert difference == pytest.approx(known["delta_ips"], rel=1e-9)


def test_the_command_judges_a_log_writes_its_page_and_answers_with_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "gate",
                "--log",
                str(HERE / "bts" / "all"),
                "--target",
                "uniform",
                "--reports",
                str(tmp_path),
                "--json",
                "--set",
                "veto_ess=400",
            ]
        )
    verdict = json.loads(capsys.readouterr().out)
    assert ended.value.code == 2 and verdict["decision"] == "veto" and verdict["estimates"] == {} and verdict["looks"] == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".html"}
