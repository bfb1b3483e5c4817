"""`ope coverage`: how often the intervals hold, on simulated logs whose truth is known."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ope.coverage import ESTIMATORS, Covered, coverage
from ope.coverage_worlds import DESIGNS
from ope.gate.commands_coverage import gate_coverage
from ope.progress import bar_on

__all__ = ["coverage_command"]


def coverage_command(
    design: Annotated[list[str] | None, typer.Option(help=f"Design to simulate: {', '.join(DESIGNS)}; repeatable, all without it.")] = None,
    estimator: Annotated[list[str] | None, typer.Option(help="Estimator to ask; repeatable.")] = None,
    of_gate: Annotated[bool, typer.Option("--gate", help="Ask the gate instead: false promotions, and gains that are found.")] = False,
    replications: Annotated[
        int | None, typer.Option(min=2, help="Logs of each design, 2,000 where not given; with --gate contests of each scenario, 400.")
    ] = None,
    level: Annotated[float, typer.Option(help="Probability that an interval may miss, in (0, 0.5).")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the logs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of a table.")] = False,
) -> int:
    """Measures how often the intervals hold, and with --gate how often the gate is wrong, on simulated logs whose truth is known.

    With --gate, exit code 1 where a level is not kept or too few gains are found.
    """
    if of_gate:
        return gate_coverage(seeds=replications or 400, first_seed=seed, as_json=as_json)
    replications = replications or 2_000
    designs, names = tuple(design or DESIGNS), tuple(estimator or ESTIMATORS)
    console = Console(stderr=True)
    with bar_on(console) as progress:
        bar = progress.add_task("logs", total=replications * len(designs))
        asked = coverage(
            designs, replications=replications, level=level, seed=seed, names=names, advance=lambda done: progress.advance(bar, done)
        )
        found = []
        for covered in asked:
            found.append(covered)
            if as_json:
                print(json.dumps(covered._asdict(), allow_nan=False), flush=True)
    if not as_json:
        Console().print(_table(found))
    return 0


def _table(found: list[Covered]) -> Table:
    table = Table("design", "of", "estimator", "interval", "logs", "coverage", "width", "rms error", "effective rows")
    for covered in found:
        numbers = (f"{covered.width:.4f}", f"{covered.root_mean_square:.4f}", f"{covered.effective_sample_size:.0f}")
        share = f"{covered.coverage:.1%} ± {covered.error:.1%}"
        table.add_row(covered.design, covered.of, covered.estimator, covered.interval, str(covered.replications), share, *numbers)
    return table
