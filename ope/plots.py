"""Estimates with their intervals as a picture file, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ope.errors import SourceError
from ope.estimate import Estimate
from ope.paired import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SUFFIXES", "check_path", "plot_comparisons", "plot_estimates"]

SUFFIXES = (".png", ".svg")
_BLUE, _GREY, _INK = "#2b6cb0", "#718096", "#1a202c"


class _Line(NamedTuple):
    """One interval of a panel."""

    label: str
    estimate: Estimate
    colour: str


def check_path(path: Path) -> None:
    """Raises SourceError for a picture that could not be written there; asked before the work, not after."""
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError(
            f"--plot {path}: {path.suffix or 'no ending'} is no kind of picture here; end the name in {' or '.join(SUFFIXES)}"
        )
    if not path.parent.is_dir():
        raise SourceError(f"--plot {path}: there is no folder {path.parent}; make it first")


def plot_estimates(path: Path, *, estimates: Mapping[str, Estimate], on_policy: Mapping[str, Estimate]) -> None:
    """A line an estimator: the value with its interval; the mean of the policy's own log below, where there is one."""
    lines = [_Line(name, estimate, _BLUE) for name, estimate in estimates.items()]
    lines += [_Line(name, estimate, _GREY) for name, estimate in on_policy.items()]
    figure, (axes,) = _panels(len(lines), 1)
    _draw(axes, lines, xlabel=f"value per {lines[0].estimate.denominator}, {_kind(lines[0].estimate)}")
    _save(figure, path)


def plot_comparisons(path: Path, *, found: Mapping[str, Comparison]) -> None:
    """Two panels, an estimator a line: challenger's and champion's values, and their paired difference beside zero."""
    values, differences = [], []
    for name, one in found.items():
        values += [_Line(f"{name}, challenger", one.challenger, _BLUE), _Line(f"{name}, champion", one.champion, _GREY)]
        differences.append(_Line(name, one.difference, _BLUE))
    figure, (left, right) = _panels(len(values), 2)
    first = differences[0].estimate
    _draw(left, values, xlabel=f"value per {first.denominator}, {_kind(first)}")
    _draw(right, differences, xlabel=f"challenger less champion per {first.denominator}, same rows")
    right.axvline(0.0, color=_INK, linewidth=1, linestyle="--")
    _save(figure, path)


def _kind(estimate: Estimate) -> str:
    return f"{1 - estimate.level:.0%} {estimate.interval}"


def _panels(lines: int, panels: int) -> tuple["Figure", Sequence[Any]]:
    # Takes a second to load, for which no command that draws nothing should wait.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2 * panels, 1.3 + 0.34 * lines), dpi=144, layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _draw(axes: Any, lines: Sequence[_Line], *, xlabel: str) -> None:
    """Values as points, intervals as bars, first line on top; what could not be had is said in words."""
    for place, line in enumerate(lines):
        estimate = line.estimate
        if np.isfinite(estimate.value):
            axes.plot(estimate.value, place, "o", color=line.colour, markersize=5, zorder=3)
        else:
            axes.text(0.02, place, "no evidence", transform=axes.get_yaxis_transform(), va="center", color=_GREY)
        if np.isfinite(estimate.lower) and np.isfinite(estimate.upper):
            axes.hlines(place, estimate.lower, estimate.upper, color=line.colour, linewidth=2.4, alpha=0.75)
    doubted = [f"{line.label} *" if line.estimate.reasons else line.label for line in lines]
    axes.set(yticks=range(len(lines)), yticklabels=doubted, ylim=(len(lines) - 0.5, -0.5), xlabel=xlabel)
    if any(line.estimate.reasons for line in lines):
        axes.set_title("* has reasons for doubt: see the text", fontsize="small", color=_GREY, loc="left")
    axes.grid(axis="x", color="#e2e8f0", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path, format=path.suffix.lower()[1:])
    except OSError as error:
        raise SourceError(f"--plot {path}: cannot be written ({error}); give another path") from error
