"""The gate reads what the servers say of their requests' features, where the task's file asks for it."""

from pathlib import Path

import pytest

from bandits.store import Store
from ope.gate.watch import _drift
from tests.ope.gate_rows import CONFIG, judged, rows

ASKED = CONFIG.model_copy(update={"max_psi": 0.2})


def test_a_feature_that_moved_is_a_veto_that_names_it() -> None:
    verdict = judged(rows(4_000, gain=0.6), config=ASKED, complete=True, drift=(0.5, "age"))
    assert verdict.decision == "veto" and "'age'" in verdict.reasons[0] and "max_psi = 0.2" in verdict.reasons[0]


@pytest.mark.parametrize("config", [ASKED, CONFIG])
def test_features_that_did_not_move_or_are_not_asked_for_decide_nothing(config: object) -> None:
    drift = (0.1, "age") if config is ASKED else (9.0, "age")
    verdict = judged(rows(4_000, gain=0.6), config=config, complete=True, drift=drift)
    assert verdict.decision == "promote"
    assert [check.value for check in verdict.checks if check.name.startswith("drift")] == ([0.1] if config is ASKED else [])


def test_the_feature_that_moved_most_is_read_from_the_notes_about_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, "shop")
    monkeypatch.setattr(Store, "champion", lambda self: type("Pointer", (), {"digest": "c"}))
    assert _drift(store) == (0.0, "")
    store.put_note("drift", "one", {"digest": "c", "features": {"age": {"psi": 0.1}, "plan": {"psi": 0.3}}})
    store.put_note("drift", "two", {"digest": "before", "features": {"age": {"psi": 9.0}}})
    assert _drift(store) == (0.3, "plan")
