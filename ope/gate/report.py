"""A verdict as one self-contained HTML page: no script, no link, pictures inside."""

import datetime
import html
import math
from collections.abc import Iterable, Sequence

from ope.estimate import Estimate
from ope.gate.pictures import difference_picture, ess_picture, weights_picture
from ope.gate.verdict import Verdict

__all__ = ["report_html"]

_WORDS = {"promote": "Promoted", "hold": "Held", "veto": "Vetoed", "wait": "No verdict yet"}
_COLOURS = {"promote": "#276749", "hold": "#975a16", "veto": "#9b2c2c", "wait": "#4a5568"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1a202c; }
h1 { margin-bottom: 0; } h2 { margin-top: 2rem; font-size: 1.1rem; } img { max-width: 100%; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #e2e8f0; }
td:not(:first-child) { font-variant-numeric: tabular-nums; } code { font-size: .85em; overflow-wrap: anywhere; }
"""


def report_html(verdict: Verdict) -> str:
    """The page. The same verdict gives the same page."""
    title = f"{_WORDS[verdict.decision]}: {verdict.contest.kind} of {verdict.contest.task}"
    label = f"<p><b>{html.escape(verdict.contest.label)}</b></p>" if verdict.contest.label else ""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>',
        f'<h1 style="color: {_COLOURS[verdict.decision]}">{html.escape(title)}</h1>{label}',
        *(f"<p>{html.escape(reason)}</p>" for reason in verdict.reasons),
        *_estimates(verdict),
        f'<h2>Effective rows by slot</h2><img alt="effective rows by slot" src="{ess_picture(verdict)}">',
        f'<h2>Weights</h2><img alt="histogram of weights" src="{weights_picture(verdict)}">',
        "<h2>Evidence</h2>",
        _table(("what", "value"), _facts(verdict)),
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _estimates(verdict: Verdict) -> Iterable[str]:
    if not verdict.estimates:
        return ["<p>Estimates are not shown: evidence that is vetoed must not be believed.</p>"]
    rows = [
        (f"{name}, {who}", _number(e.value), _number(e.standard_error), _span(e), _number(e.effective_sample_size, ".0f"))
        for name, comparison in verdict.estimates.items()
        for who, e in comparison._asdict().items()
    ]
    level = next(iter(verdict.estimates.values())).difference
    return [
        f'<h2>Difference</h2><img alt="difference with its interval" src="{difference_picture(verdict)}">',
        _table(("estimate", verdict.metric, "standard error", f"{1 - level.level:.0%} interval", "effective rows"), rows),
        f"<p>Interval: {html.escape(level.interval)}. {html.escape(verdict.estimator)} assumes: {html.escape(verdict.assumption)}.</p>",
    ]


def _facts(verdict: Verdict) -> list[tuple[str, str]]:
    contest = verdict.contest
    facts = [
        ("rows", str(verdict.rows)),
        ("decided from", _time(verdict.first_us)),
        ("decided until", _time(verdict.last_us)),
        ("policies learned until", _time(contest.training_watermark_us)),
        ("verdict of", _time(verdict.decided_us)),
        *((f"left out: {reason}", str(count)) for reason, count in verdict.excluded.items()),
        *((f"mean weight, slot {slot.slot}", f"{slot.mean:.4f} ({slot.mean_z:+.1f} standard errors from 1)") for slot in verdict.slots),
    ]
    digests = {"challenger": contest.challenger, "champion": contest.champion, "config": contest.config_digest}
    return facts + list(digests.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + f"</tr>{cells}</table>"


def _number(value: float, form: str = "+.4f") -> str:
    return "unknown" if math.isnan(value) else format(value, form)


def _span(estimate: Estimate) -> str:
    return f"{_number(estimate.lower)} to {_number(estimate.upper)}"


def _time(microseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if microseconds else "never"
