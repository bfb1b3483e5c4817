"""`ope propose`: which weights of short-term outcomes to run next, so that a long-term outcome rises."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.table import Table

from bandits.simulation.tables import read_table
from ope.errors import SourceError
from ope.propose import Plan, Proposal, Result, proposed
from protos import config

__all__ = ["propose", "results_of"]


def propose(
    plan: Annotated[Path, typer.Argument(help="YAML: objective, weights with their ranges, declared weights, guardrails, results.")],
    out: Annotated[Path | None, typer.Option(help="Write the weights of each arm here as YAML, for `bandits personalise`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Proposes the next round of weight vectors to run as arms, from the long-term outcomes of the rounds so far."""
    parsed = config.parse(Plan, config.load_yaml(plan), where="")
    found = proposed(parsed, results_of(parsed, plan.parent / parsed.results))
    if out is not None:
        out.write_text(yaml.safe_dump({"round": found.round, "arms": [dict(arm) for arm in found.arms]}, sort_keys=False), encoding="utf-8")
    if as_json:
        print(json.dumps(_plain(found), indent=2, allow_nan=False))
        return
    _show(parsed, found)


def results_of(plan: Plan, file: Path) -> list[Result]:
    """The rows of the results file, none where it is not there yet. Raises SourceError for a column or number that is missing."""
    if not file.exists():
        return []
    table = read_table(file)
    long_term = list(dict.fromkeys([plan.objective, *plan.guardrails]))
    columns = ["round", *plan.weights, *long_term, *(f"{name}_error" for name in long_term)]
    if lacking := [name for name in columns if name not in table.column_names]:
        raise SourceError(f"{file}: no column {lacking[0]!r}; a row is a round, the weights, and mean and error of each long-term outcome")
    values = {name: np.asarray(table[name].cast("float64").to_numpy(zero_copy_only=False), np.float64) for name in columns}
    for name, each in values.items():
        if not np.all(np.isfinite(each)):
            raise SourceError(f"{file}: column {name!r} has no number in row {int(np.argmin(np.isfinite(each)))} (0 = first); complete it")
    return [
        Result(
            int(values["round"][row]),
            {name: float(values[name][row]) for name in plan.weights},
            {name: float(values[name][row]) for name in long_term},
            {name: float(values[f"{name}_error"][row]) for name in long_term},
        )
        for row in range(table.num_rows)
    ]


def _plain(found: Proposal) -> dict[str, Any]:
    best = None if found.best is None else {"weights": dict(found.best), "gain": found.gain, "standard_error": found.error}
    return {"round": found.round, "arms": [dict(arm) for arm in found.arms], "best": best}


def _show(plan: Plan, found: Proposal) -> None:
    console = Console()
    table = Table("arm", *plan.weights, title=f"round {found.round}")
    for at, arm in enumerate(found.arms):
        table.add_row("declared" if at == 0 else str(at), *(f"{arm[name]:g}" for name in plan.weights))
    console.print(table)
    if found.best is None:
        console.print("No arm has kept its guardrails so far." if found.round > 1 else "Nothing has been run yet: these are spread evenly.")
        return
    sure = "clear" if found.gain > 2 * found.error and not math.isclose(found.gain, 0.0) else "not clear of chance"
    weights = ", ".join(f"{name} {value:g}" for name, value in found.best.items())
    console.print(
        f"best so far: {weights}; {plan.objective} {found.gain:+.4g} (error {found.error:.2g}) over the declared weights, {sure}",
        highlight=False,
    )
