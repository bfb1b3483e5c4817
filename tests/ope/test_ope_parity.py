"""Agreement with the answers of the Open Bandit Pipeline 0.5.7, recorded at full precision (see tests/ope/data/README.md)."""

import os
from pathlib import Path

import pytest

from ope.estimators import CATALOG, FAMILIES
from ope.tuning import tuned
from tests.ope.parity import FAMILY, Line, _cases, _lambdas, _single, lines

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


def test_the_committed_cases_cover_every_kind_of_estimator() -> None:
    compared = {line.name.split(" ")[0].split(":")[0] for line in _compared(COMMITTED)} | {"mips"}
    # Of these no recorded answer is at hand: the tests of identities and of the slow reference have them.
    alone = {"balanced_snips", "msnips", "mdr", *(name for name in CATALOG if name.endswith("mips"))}
    assert set(CATALOG) - alone <= compared
    assert {"weighted_ips", "weighted_dr", "vw"} <= compared


def test_the_tuned_numbers_are_the_recorded_ones() -> None:
    # Candidates above the largest weight are equal, so their values are compared above and the number only where it is below.
    case = next(case for case in _cases(COMMITTED) if case.name == "discrete_binary_k10")
    batch = _single(case)
    for name, theirs in case.recorded["tuned_lambda"].items():
        family, _, method = name.rpartition("_")
        entry = tuned(FAMILIES[FAMILY[family]], method=method, numbers=_lambdas(case.recorded))
        assert entry.finish(entry.moments(batch), 0.05).choice.startswith(f"{FAMILY[family]}:{float(theirs):g} by {method}")


def test_the_comparison_finds_a_wrong_answer(tmp_path: Path) -> None:
    for path in COMMITTED.glob("discrete_binary_k10.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    case = tmp_path / "discrete_binary_k10.json"
    case.write_text(case.read_text().replace('"ips": 0.49337', '"ips": 0.49338'))
    assert any(line.relative > 1e-10 for line in _compared(tmp_path) if line.name == "ips")
