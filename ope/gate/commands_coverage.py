"""`ope coverage --gate`: how often the gate promotes what is not better, and what is."""

import json

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ope.gate.coverage import DAYS, SCENARIOS, simulate

__all__ = ["gate_coverage"]

# The scenario that must fail, to show that the simulation can tell.
_KNOWN_BAD = "known bad"


def gate_coverage(*, seeds: int, first_seed: int, as_json: bool) -> int:
    """Simulates `seeds` contests of 30 daily looks for each scenario, and tells what was promoted; 1 if that is not what is asked."""
    console = Console(stderr=True)
    outcomes = [
        simulate(name, seeds=seeds, first_seed=first_seed)
        for name in track(SCENARIOS, console=console, transient=True, disable=not console.is_terminal)
    ]
    if as_json:
        print(
            json.dumps(
                [{**outcome._asdict(), "error": outcome.error, "kept": outcome.kept, "looks": DAYS} for outcome in outcomes], indent=2
            )
        )
    else:
        table = Table("scenario", "promoted", "asked for", "kept")
        for outcome in outcomes:
            asked = f"at {outcome.asks} {outcome.share:.0%}"
            table.add_row(outcome.scenario, f"{outcome.promoted:.1%} ± {outcome.error:.1%}", asked, "yes" if outcome.kept else "NO")
        Console().print(table)
    return 0 if all(outcome.kept != outcome.scenario.startswith(_KNOWN_BAD) for outcome in outcomes) else 1
