"""Pictures of a verdict as data URIs, drawn without a display. Pure: bytes out, no file."""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ope.estimate import Estimate
from ope.gate.evidence import WEIGHT_EDGES
from ope.gate.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["calibration_picture", "difference_picture", "ess_picture", "value_picture", "weights_picture"]

_BLUE, _GREY, _RED, _GREEN = "#2b6cb0", "#a0aec0", "#c53030", "#2f855a"
# Actions of a version whose calibration is drawn, the ones furthest from 1; more would not be read.
_ACTIONS_DRAWN = 12


def value_picture(verdict: Verdict) -> str:
    """What each policy earns, with its interval, one line an estimator and policy."""
    rows = [(f"{who}, {name}", getattr(pair, kind)) for name, pair in verdict.estimates.items() for kind, who in _WHO]
    return _intervals(rows, xlabel=f"{verdict.metric} per decision", colours=[_BLUE, _GREY] * len(verdict.estimates))


def difference_picture(verdict: Verdict) -> str:
    """Challenger less champion with its interval: each estimator, each guardrail and the anchor, with what each must exceed."""
    rows = [(f"{verdict.metric}, {name}", pair.difference) for name, pair in verdict.estimates.items()]
    sign = 1 if verdict.direction == "higher" else -1
    marks = [sign * verdict.margin] * len(rows)
    for rail in verdict.config.get("guardrails", ()):
        if rail["metric"] in verdict.guardrails:
            rows.append((f"guardrail {rail['metric']}", verdict.guardrails[rail["metric"]].difference))
            marks.append(-rail["margin"] if rail["direction"] == "higher" else rail["margin"])
    if verdict.anchor is not None:
        rows.append(("against the anchor", verdict.anchor.difference))
        marks.append(-sign * verdict.config["margin_anchor"])
    return _intervals(rows, xlabel="new policy less the other, per decision", marks=marks)


def weights_picture(verdict: Verdict) -> str:
    """Histogram of the challenger's joint weights; the first and last bar hold all that is smaller or larger."""
    figure, axes = _canvas(2.4)
    axes.bar(np.arange(len(verdict.weight_counts)), verdict.weight_counts, width=1.0, color=_BLUE, edgecolor="white")
    places = range(0, len(WEIGHT_EDGES), 5)
    axes.set(xticks=[place + 0.5 for place in places], xticklabels=[f"{WEIGHT_EDGES[place]:.2g}" for place in places])
    axes.set(xlabel="weight of the whole slate, challenger against logging policy", ylabel="rows")
    return _data_uri(figure)


def ess_picture(verdict: Verdict) -> str:
    """Effective rows as rows came, one line a slot; those that carry the value are solid."""
    figure, axes = _canvas(2.6)
    rows = [point.rows for point in verdict.ess_over_time]
    for slot in verdict.slots:
        effective = [point.effective_sample_sizes[slot.slot] for point in verdict.ess_over_time]
        axes.plot(rows, effective, linestyle="-" if slot.carries else ":", marker=".", label=f"slot {slot.slot}")
    axes.axhline(verdict.config.get("min_ess", 0.0), color=_RED, linestyle="--", linewidth=1, label="needed to promote")
    axes.set(xlabel="rows, oldest first", ylabel="effective rows")
    axes.legend(loc="best", frameon=False, fontsize=8)
    return _data_uri(figure)


def calibration_picture(verdict: Verdict) -> str:
    """How often each policy version drew what it logged, against 1; the actions furthest from it."""
    overall = [check for check in verdict.versions if not check.action]
    actions = sorted((check for check in verdict.versions if check.action), key=lambda check: -abs(check.z))[:_ACTIONS_DRAWN]
    shown = [*overall, *actions]
    figure, axes = _canvas(1.0 + 0.28 * len(shown))
    for row, check in enumerate(shown):
        reach = 3 * check.standard_error
        axes.plot([check.mean - reach, check.mean + reach], [row, row], color=_BLUE if not check.action else _GREY, linewidth=2)
        axes.plot([check.mean], [row], "o", color=_BLUE if not check.action else _GREY, markersize=4)
    axes.axvline(1.0, color=_RED, linestyle="--", linewidth=1)
    axes.set(yticks=range(len(shown)), yticklabels=[f"{c.version[:8]} {c.action or 'all actions'}" for c in shown])
    axes.set(xlabel="drawn against logged (1 = as logged), with 3 standard errors")
    axes.invert_yaxis()
    return _data_uri(figure)


_WHO = (("challenger", "new"), ("champion", "current"))


def _intervals(rows: Sequence[tuple[str, Estimate]], *, xlabel: str, colours: Iterable[str] = (), marks: Sequence[float] = ()) -> str:
    figure, axes = _canvas(0.9 + 0.4 * len(rows))
    shades = list(colours) or [_BLUE] * len(rows)
    for row, ((_, estimate), colour) in enumerate(zip(rows, shades, strict=True)):
        axes.plot([estimate.lower, estimate.upper], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([estimate.value], [row], "o", color=colour)
    for row, mark in enumerate(marks):
        label = "must be passed" if row == 0 else None
        axes.plot([mark, mark], [row - 0.4, row + 0.4], color=_RED, linestyle="--", linewidth=1.5, label=label)
    if marks:
        axes.axvline(0.0, color=_GREY, linewidth=1)
        axes.legend(loc="best", frameon=False, fontsize=8)
    axes.set(yticks=range(len(rows)), yticklabels=[name for name, _ in rows], xlabel=xlabel)
    axes.invert_yaxis()
    return _data_uri(figure)


def _canvas(height: float) -> tuple["Figure", Any]:
    # Takes a second to load, for which no command that draws nothing should wait.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _data_uri(figure: "Figure") -> str:
    buffer = io.BytesIO()
    # Without the library's version in it, equal verdicts give equal bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
