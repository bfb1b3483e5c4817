"""A picture of cumulative regret, drawn without a display. Pure: a figure out, no file."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from bandits.simulation.summary import LEVEL, Summary

__all__ = ["regret_picture"]


def regret_picture(summaries: Sequence[Summary], *, title: str) -> Figure:
    """Cumulative regret over rounds, one line a policy, with its interval over seeds shaded."""
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.subplots()
    for summary in summaries:
        curve = summary.curve
        (line,) = axes.plot(curve.round, curve.value, label=summary.label)
        axes.fill_between(curve.round, curve.lower, curve.upper, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="decisions", ylabel=f"cumulative regret ({LEVEL:.0%} interval over seeds)", title=title)
    axes.legend(frameon=False)
    return figure
