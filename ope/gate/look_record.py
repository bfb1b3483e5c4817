"""The record of looks in the store: what was declared before the first one, and how many were taken. Touches the store."""

from bandits.store import Store
from ope.gate.config import GateConfig
from ope.gate.looks import Declared, declared, looked
from ope.gate.verdict import Verdict

__all__ = ["declare", "record"]

_KIND = "looks"
_SECOND_US = 1_000_000


def declare(store: Store, config: GateConfig, *, challenger: str, generation: int, now_us: int) -> Declared:
    """The declaration under which a challenger is looked at, from the store or made now. Raises GateError (see `declared`)."""
    kept = {name: Declared(**note) for name, note in store.notes(_KIND).items()}
    since_us = now_us - round(config.budget_period_s * _SECOND_US)
    others = sum(name != challenger and since_us < other.began_us for name, other in kept.items())
    return declared(kept.get(challenger), config, generation=generation, now_us=now_us, challenger_in_period=others + 1)


def record(store: Store, standing: Declared, verdict: Verdict) -> Declared:
    """Counts the look if an estimate was seen; after a veto too the config stands, so that no limit is loosened to fit."""
    after = looked(standing, rows=verdict.rows) if verdict.estimates else standing
    if after != standing or verdict.decision == "veto":
        store.put_note(_KIND, verdict.contest.challenger, after._asdict())
    return after
