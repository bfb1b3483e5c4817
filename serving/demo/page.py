"""The demo's page: three pictures and the figures, one self-contained HTML file. Pure."""

import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from serving.demo.results import Results

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "canvas", "page", "svg"]

BLUE, GREEN, ORANGE, GREY = "#1f5fa8", "#2b8a3e", "#c9600a", "#8a8f98"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2129; background: #fff; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } svg { width: 100%; height: auto; }
ol { padding-left: 0; list-style: none; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid #e3e6ea; vertical-align: top; }
.promote { color: #2b8a3e; } .hold { color: #9a5b00; } .veto { color: #b02a2a; } .scroll { overflow-x: auto; } p.note { color: #596170; }
"""


def page(results: Results, *, lines: Sequence[str], title: str, parts: Sequence[tuple[str, str]] = ()) -> str:
    """The page as text; `title`: what the loop learned; `parts`: (heading, HTML) that a world adds."""
    added = [text for heading, body in parts for text in (f"<h2>{html.escape(heading)}</h2>", body)]
    whole = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>slateloop demo</title><style>{_STYLE}</style>",
        f"<h1>The closed loop on {html.escape(title)}</h1>",
        "<ol>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ol>",
        *added,
        "<h2>Reward over time</h2>",
        svg(_reward_picture(results)),
        "<p class='note'>Mean reward per decision, with two standard errors. Each line marks a promotion by the gate.</p>",
        "<h2>Estimated before, realised after</h2>",
        svg(_forecast_picture(results)),
        "<p class='note'>For each champion: the gate's estimate from its predecessor's log, and the mean of the decisions it made.</p>",
        "<h2>Propensities</h2>",
        svg(_propensity_picture(results)),
        "<p class='note'>Probability with which each shown item was drawn, as logged. The floor keeps every item possible.</p>",
        "<h2>Verdicts</h2>",
        _verdict_table(results),
        "<h2>Figures</h2>",
        _figure_table(results),
    ]
    return "\n".join(whole) + "</html>\n"


def _reward_picture(results: Results) -> Figure:
    figure, axes = canvas("seconds since the first decision", "mean reward")
    curve = results.curve
    for second in results.promoted_s:
        axes.axvline(second, color=GREEN, linewidth=1, alpha=0.55)
    axes.fill_between(curve.seconds, curve.reward - 2 * curve.error, curve.reward + 2 * curve.error, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(curve.seconds, curve.reward, color=BLUE, label="served policy")
    if results.figures["reward_uniform"] is not None:
        axes.axhline(results.figures["reward_uniform"], color=GREY, linestyle="--", label="uniform slates")
    axes.plot([], [], color=GREEN, label="promotion")
    axes.set_ylim(0.0, 1.0)
    axes.legend(loc="center right", frameon=False)
    return figure


def _forecast_picture(results: Results) -> Figure:
    figure, axes = canvas("champion, in order of promotion", "reward per decision")
    for place, forecast in enumerate(results.forecasts, start=1):
        value, lower, upper = forecast.estimated
        axes.errorbar(place - 0.08, value, yerr=[[value - lower], [upper - value]], fmt="o", color=ORANGE, capsize=3)
        axes.errorbar(place + 0.08, forecast.realised, yerr=forecast.half_width, fmt="s", color=BLUE, capsize=3)
    axes.plot([], [], "o", color=ORANGE, label="estimated by the gate, before")
    axes.plot([], [], "s", color=BLUE, label="realised, after")
    axes.set_xticks(range(1, len(results.forecasts) + 1))
    axes.legend(loc="lower right", frameon=False)
    return figure


def _propensity_picture(results: Results) -> Figure:
    figure, axes = canvas("propensity of a shown item (log scale)", "slots")
    smallest = max(float(results.propensities.min(initial=1.0)), 1e-6)
    axes.hist(results.propensities, bins=list(np.geomspace(smallest, 1.0, 41)), color=BLUE)
    axes.set_xscale("log")
    axes.set_yscale("log")
    return figure


def canvas(x: str, y: str) -> tuple[Figure, Any]:
    """A figure and its axes, with labels."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Figure) -> str:
    """The figure as SVG text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "slateloop"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


def _verdict_table(results: Results) -> str:
    rows = []
    for judgement in results.judgements:
        difference = "not shown" if judgement.difference is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*judgement.difference)
        cells = (judgement.digest[:12], judgement.label or judgement.kind, f"{judgement.rows:,}", difference, " ".join(judgement.reasons))
        rows.append(
            f"<tr><td class='{judgement.decision}'>{judgement.decision}</td>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        )
    head = "<tr><th>verdict<th>challenger<th>kind<th>rows<th>difference to the champion<th>because"
    return f"<div class='scroll'><table>{head}{''.join(rows)}</table></div>"


def _figure_table(results: Results) -> str:
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{_number(value)}</td></tr>" for name, value in results.figures.items())
    return f"<table>{rows}</table>"


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else html.escape(f"{value:,}" if isinstance(value, int) else str(value))
