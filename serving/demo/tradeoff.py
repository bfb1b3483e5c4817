"""Quality against reliability over the demo's run, beside the baseline and beside plain Thompson sampling. Computes; touches nothing."""

import html
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from bandits.outcomes import slot_outcomes
from serving.demo.page import BLUE, GREEN, GREY, ORANGE, canvas, svg
from serving.demo.plain_thompson import plain_thompson
from serving.demo.world import Extra

__all__ = ["Course", "Courses", "TradeoffWorld", "courses", "tradeoff_extra"]

_BINS = 60


class TradeoffWorld(Protocol):
    """A world that knows what each action would come to, and what it is compared with."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Ids of the actions."""

    @property
    def baseline(self) -> str:
        """The baseline's action."""

    @property
    def alpha(self) -> float:
        """Share of the baseline's reliability that may be lost, in [0, 1]."""

    def success(self, contexts: np.ndarray) -> np.ndarray:
        """Expected reliability of each action, f64[n, A], from contexts f32[n, d]."""

    def quality(self, contexts: np.ndarray) -> np.ndarray:
        """Expected quality of each action, f64[n, A]."""


class Course(NamedTuple):
    """Mean quality and reliability in each bin of time, f64[bins] each, and over the second half of the run."""

    quality: np.ndarray
    reliability: np.ndarray
    late_quality: float
    late_reliability: float


class Courses(NamedTuple):
    """`seconds` since the first decision, middle of each bin. `served`: as observed; `baseline` and `plain`: what is expected of them for
    the same uploads. `violates`: share of the late decisions whose expected reliability is below (1 - alpha) times the baseline's."""

    seconds: np.ndarray
    served: Course
    baseline: Course
    plain: Course
    violates_served: float
    violates_plain: float


def tradeoff_extra(world: TradeoffWorld, rows: pa.Table, *, moved_s: Sequence[float], seed: int) -> Extra:
    """Two pictures, their figures, and two lines of the story."""
    found = courses(world, rows, moved_s=moved_s, seed=seed)
    kept = found.served.late_reliability / found.baseline.late_reliability
    figures = {
        "quality_first_tenth": float(found.served.quality[: _BINS // 10].mean()),
        "quality_last_half": found.served.late_quality,
        "quality_baseline": found.baseline.late_quality,
        "quality_plain_thompson": found.plain.late_quality,
        "reliability_last_half": found.served.late_reliability,
        "reliability_baseline": found.baseline.late_reliability,
        "reliability_plain_thompson": found.plain.late_reliability,
        "reliability_kept": kept,
        "violations_last_half": found.violates_served,
        "violations_plain_thompson": found.violates_plain,
    }
    least = f"{'within' if kept >= 1.0 - world.alpha else 'BELOW'} the {1.0 - world.alpha:.0%} that it must"
    lines = [
        f"11. Quality went from {figures['quality_first_tenth']:.2f} to {found.served.late_quality:.2f} (baseline "
        f"{found.baseline.late_quality:.2f}); reliability kept {kept:.1%} of the baseline's, {least}.",
        f"12. Plain Thompson sampling on the same uploads: quality {found.plain.late_quality:.2f}, but "
        f"{found.plain.late_reliability / found.baseline.late_reliability:.1%} of the reliability; it chose too unreliable a resolution in "
        f"{found.violates_plain:.0%} of the uploads, the served policy in {found.violates_served:.0%}.",
    ]
    return Extra(lines, figures, [("Quality and reliability", _pictures(found, world, moved_s))])


def courses(world: TradeoffWorld, rows: pa.Table, *, moved_s: Sequence[float], seed: int) -> Courses:
    """The courses of a run. `moved_s`: when a challenger was promoted, seconds since the first decision: when plain sampling learns too."""
    contexts = np.array(rows["context"].to_pylist(), np.float32)
    time_s = (rows["decision_time_us"].to_numpy() - rows["decision_time_us"][0].as_py()) / 1e6
    action = np.array([world.actions.index(slot[0]) for slot in rows["slot_action"].to_pylist()])
    observed = slot_outcomes(rows["outcomes"], names=("quality", "reliability"), slots=1)[:, 0]
    success, quality = world.success(contexts), world.quality(contexts)
    place, base = np.arange(len(contexts)), world.actions.index(world.baseline)
    learns = np.searchsorted(time_s, moved_s).tolist()
    plain = plain_thompson(contexts, quality, learns_at=learns, first=base, seed=seed)
    edges = np.linspace(0.0, max(float(time_s[-1]), 1e-6), _BINS + 1)
    bins = np.clip(np.searchsorted(edges, time_s, side="right") - 1, 0, _BINS - 1)
    bound, late = (1.0 - world.alpha) * success[:, base], len(contexts) // 2
    return Courses(
        seconds=(edges[:-1] + edges[1:]) / 2,
        served=_course(bins, observed[:, 0], observed[:, 1]),
        baseline=_course(bins, quality[:, base], success[:, base]),
        plain=_course(bins, quality[place, plain], success[place, plain]),
        violates_served=float((success[place, action] < bound)[late:].mean()),
        violates_plain=float((success[place, plain] < bound)[late:].mean()),
    )


def _course(bins: np.ndarray, quality: np.ndarray, reliability: np.ndarray) -> Course:
    count = np.maximum(np.bincount(bins, minlength=_BINS), 1)
    means = [np.bincount(bins, values, _BINS) / count for values in (quality, reliability)]
    late = len(bins) // 2
    return Course(means[0], means[1], float(quality[late:].mean()), float(reliability[late:].mean()))


def _pictures(found: Courses, world: TradeoffWorld, moved_s: Sequence[float]) -> str:
    drawn = []
    for name in ("quality", "reliability"):
        figure, axes = canvas("seconds since the first decision", f"mean {name}")
        for second in moved_s:
            axes.axvline(second, color=GREEN, linewidth=1, alpha=0.35)
        axes.plot(found.seconds, getattr(found.plain, name), color=ORANGE, label="plain Thompson sampling")
        axes.plot(found.seconds, getattr(found.baseline, name), color=GREY, label=f"baseline, {world.baseline}")
        if name == "reliability":
            bound = (1.0 - world.alpha) * found.baseline.reliability
            axes.plot(found.seconds, bound, color=GREY, linestyle="--", label=f"{1.0 - world.alpha:.0%} of the baseline's")
        axes.plot(found.seconds, getattr(found.served, name), color=BLUE, linewidth=2, label="served policy")
        axes.legend(loc="best", frameon=False, fontsize="small")
        drawn.append(svg(figure))
    note = (
        "The served policy as observed; the baseline and plain Thompson sampling as this world expects them on the same uploads. Plain "
        "Thompson sampling learns when a challenger is promoted, from what it chose itself, and passes no gate. Green lines are promotions."
    )
    return "".join(drawn) + f"<p class='note'>{html.escape(note)}</p>"
