"""`ope gate-coverage`: how often the gate promotes what is not better, and what is."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ope.gate.coverage import DAYS, SCENARIOS, simulate

__all__ = ["gate_coverage"]

# The scenario that must fail, to show that the simulation can tell.
_KNOWN_BAD = "known bad"


def gate_coverage(
    seeds: Annotated[int, typer.Option(min=1, help="Simulated contests for each scenario.")] = 400,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first contest.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Simulates contests of 30 daily looks: at most 5 % false promotions, 80 % of gains of 3.5 standard errors found; else exit code 1."""
    console = Console(stderr=True)
    outcomes = [simulate(name, seeds=seeds, first_seed=first_seed) for name in track(SCENARIOS, console=console, transient=True)]
    if as_json:
        print(json.dumps([{**outcome._asdict(), "kept": outcome.kept, "looks": DAYS} for outcome in outcomes], indent=2))
    else:
        table = Table("scenario", "promoted", "asked for", "kept")
        for outcome in outcomes:
            asked = f"at {outcome.asks} {outcome.share:.0%}"
            table.add_row(outcome.scenario, f"{outcome.promoted:.1%}", asked, "yes" if outcome.kept else "NO")
        Console().print(table)
    return 0 if all(outcome.kept != outcome.scenario.startswith(_KNOWN_BAD) for outcome in outcomes) else 1
