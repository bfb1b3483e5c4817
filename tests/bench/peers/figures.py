"""What every benchmark prints: one figure a line."""

import json
from typing import NamedTuple

__all__ = ["Figure", "printed"]


class Figure(NamedTuple):
    """One line of a benchmark. `value` is ours, `peer_value` theirs, `ratio` what ours is better by, by `better`: "higher" or "lower"."""

    figure: str
    value: float
    unit: str
    target: float | None
    better: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    rounds: int = 1
    note: str = ""


def printed(figure: Figure, *, as_json: bool) -> None:
    """Prints a figure at once: a JSON object, or a line of text."""
    print(json.dumps(figure._asdict()) if as_json else _line(figure), flush=True)


def _line(figure: Figure) -> str:
    peer = f"  {figure.peer}: {figure.peer_value} (ratio {figure.ratio})" if figure.peer else ""
    return f"{figure.figure}: {figure.value:.4g} {figure.unit} (target {figure.target}){peer} {figure.note}"
