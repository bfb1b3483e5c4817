"""Agreement with the answers of the Open Bandit Pipeline 0.5.7, recorded at full precision (see tests/ope/data/README.md)."""

import os
from pathlib import Path

import pytest

from tests.ope.parity import Line, lines

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMITTED = HERE / "data" / "ope_reference"
# Larger sets, where they lie beside the checkout or are named by the environment; the committed one always runs.
SETS = ROOT.parent / "shared" / "data"
FOLDERS = [COMMITTED, SETS / "ope_reference", SETS / "open_bandit" / "reference"]
NAMED = os.environ.get("SLATELOOP_OPE_REFERENCE")
FOUND = [folder for folder in [*FOLDERS, *([Path(NAMED)] if NAMED else [])] if folder.is_dir()]


def _compared(folder: Path) -> list[Line]:
    return list(lines(folder))


@pytest.mark.parametrize("folder", FOUND, ids=[folder.name if folder == COMMITTED else f"beside-{folder.name}" for folder in FOUND])
def test_estimates_agree_with_the_recorded_ones_to_1e_10(folder: Path) -> None:
    compared = _compared(folder)
    assert compared, f"{folder} holds no case"
    apart = [line for line in compared if not line.relative <= 1e-10]
    assert not apart, apart


def test_the_committed_cases_cover_every_estimator_of_the_catalog() -> None:
    assert {line.name for line in _compared(COMMITTED)} == {"ips", "snips", "dm", "dr", "sips", "rips"}


def test_the_comparison_finds_a_wrong_answer(tmp_path: Path) -> None:
    for path in COMMITTED.glob("discrete_binary_k10.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    case = tmp_path / "discrete_binary_k10.json"
    case.write_text(case.read_text().replace('"ips": 0.49337', '"ips": 0.49338'))
    assert any(line.relative > 1e-10 for line in _compared(tmp_path) if line.name == "ips")
