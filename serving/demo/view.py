"""The demo's live view in the terminal."""

from typing import NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from serving.demo.standing import Judgement, Standing

__all__ = ["Moment", "percentiles_ms", "picture"]

_COLOURS = {"promote": "green", "hold": "yellow", "veto": "red"}
_SHOWN = 6


class Moment(NamedTuple):
    """What the view shows of one moment. `realised`: mean reward of the newest closed decisions of the champion, None before any."""

    elapsed_s: float
    limit_s: float
    answered: int
    rate: float
    select_s: list[float]
    realised: float | None
    standing: Standing


def picture(moment: Moment, *, title: str) -> RenderableType:
    """The view of a moment; `title`: what the loop learns."""
    figures = Table.grid(padding=(0, 3))
    for name, value in _figures(moment):
        figures.add_row(Text(name, style="dim"), value)
    bar = ProgressBar(total=moment.limit_s, completed=min(moment.elapsed_s, moment.limit_s), width=60)
    return Panel(
        Group(bar, "", figures, "", _verdicts(moment.standing.judgements)),
        title=f"slateloop: the closed loop on {title}",
        width=118,
    )


def percentiles_ms(select_s: list[float]) -> tuple[float, float]:
    """p50 and p99 of single Selects, milliseconds; NaN before the first."""
    if not select_s:
        return float("nan"), float("nan")
    p50, p99 = np.percentile(np.array(select_s), [50, 99]) * 1e3
    return float(p50), float(p99)


def _figures(moment: Moment) -> list[tuple[str, str]]:
    p50, p99 = percentiles_ms(moment.select_s)
    state = moment.standing
    estimated = next((j.challenger for j in reversed(state.judgements) if j.digest == state.champion and j.challenger), None)
    predicted = "no estimate yet" if estimated is None else f"{estimated[0]:.3f} [{estimated[1]:.3f}, {estimated[2]:.3f}]"
    return [
        ("decisions", f"{moment.answered:,} ({moment.rate:,.0f}/s)"),
        ("Select latency", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"),
        ("observations", f"{state.observations:,} revisions joined"),
        ("champion", f"{state.policy} {state.champion[:12]} (move {state.generation}){' · a challenger waits' if state.waiting else ''}"),
        (
            "champion's value",
            f"estimated before it served {predicted} · realised {'-' if moment.realised is None else f'{moment.realised:.3f}'}",
        ),
    ]


def _verdicts(judgements: tuple[Judgement, ...]) -> RenderableType:
    table = Table("verdict", "challenger", "rows", "difference to the champion", "because", box=None, header_style="dim", pad_edge=False)
    for judgement in judgements[-_SHOWN:]:
        difference = "not shown" if judgement.difference is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*judgement.difference)
        name = f"{judgement.digest[:10]}{' (drill)' if judgement.label else ''}"
        decision = Text(judgement.decision, style=_COLOURS.get(judgement.decision, ""))
        table.add_row(
            decision,
            name,
            f"{judgement.rows:,}",
            difference,
            Text(judgement.reasons[0] if judgement.reasons else "", overflow="ellipsis", no_wrap=True),
        )
    return table
