"""Pictures of a verdict as data URIs, drawn without a display. Pure: bytes out, no file."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure

from ope.gate.evidence import WEIGHT_EDGES
from ope.gate.verdict import Verdict

__all__ = ["difference_picture", "ess_picture", "weights_picture"]

_BLUE, _GREY, _RED = "#2b6cb0", "#a0aec0", "#c53030"


def difference_picture(verdict: Verdict) -> str:
    """Challenger less champion with its interval, one line an estimator, and the margin."""
    figure = Figure(figsize=(6.4, 1.2 + 0.5 * len(verdict.estimates)), layout="constrained")
    axes = figure.subplots()
    for row, comparison in enumerate(verdict.estimates.values()):
        difference = comparison.difference
        axes.plot([difference.lower, difference.upper], [row, row], color=_BLUE, linewidth=2, solid_capstyle="butt")
        axes.plot([difference.value], [row], "o", color=_BLUE)
    axes.axvline(0.0, color=_GREY, linewidth=1)
    axes.axvline(verdict.margin, color=_RED, linestyle="--", linewidth=1, label=f"must exceed {verdict.margin:+g}")
    axes.set(yticks=range(len(verdict.estimates)), yticklabels=list(verdict.estimates))
    axes.set(xlabel=f"difference in {verdict.metric} per decision")
    axes.invert_yaxis()
    axes.legend(loc="best", frameon=False)
    return _data_uri(figure)


def weights_picture(verdict: Verdict) -> str:
    """Histogram of the challenger's joint weights; the first and last bar hold all that is smaller or larger."""
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(len(verdict.weight_counts)), verdict.weight_counts, width=1.0, color=_BLUE, edgecolor="white")
    places = range(0, len(WEIGHT_EDGES), 5)
    axes.set(xticks=[place + 0.5 for place in places], xticklabels=[f"{WEIGHT_EDGES[place]:.2g}" for place in places])
    axes.set(xlabel="weight of the whole slate, challenger against logging policy", ylabel="rows")
    return _data_uri(figure)


def ess_picture(verdict: Verdict) -> str:
    """Effective rows of each slot; those that carry the value are blue."""
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axes = figure.subplots()
    places = [slot.slot for slot in verdict.slots]
    colours = [_BLUE if slot.carries else _GREY for slot in verdict.slots]
    axes.bar(places, [slot.effective_sample_size for slot in verdict.slots], color=colours)
    axes.axhline(verdict.rows, color=_GREY, linewidth=1, linestyle=":", label="rows")
    axes.set(xticks=places, xlabel="slot (0 = top)", ylabel="effective rows")
    axes.legend(loc="best", frameon=False)
    return _data_uri(figure)


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Without the library's version in it, equal verdicts give equal bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
