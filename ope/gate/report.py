"""A verdict as one self-contained HTML page: no script, no link, pictures inside. The first screen is for a reader without statistics."""

import datetime
import html
import math
from collections.abc import Callable, Iterable, Sequence

from ope.estimate import Estimate
from ope.gate.pictures import calibration_picture, difference_picture, ess_picture, value_picture, weights_picture
from ope.gate.plain_words import answers, consequence, headline, sureness, why
from ope.gate.verdict import Verdict

__all__ = ["report_html"]

_COLOURS = {"promote": "#276749", "hold": "#975a16", "veto": "#9b2c2c", "wait": "#4a5568"}
_MARKS = {True: ("✓", "#276749"), False: ("✗", "#9b2c2c"), None: ("·", "#718096")}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 1.5rem auto; padding: 0 1rem; color: #1a202c; }
header { color: white; padding: 1rem 1.5rem; border-radius: .5rem; } header h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
header p { margin: .25rem 0 0; opacity: .9; } dl { margin: 1rem 0; } dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; }
h2 { margin-top: 2rem; font-size: 1.15rem; } img { max-width: 100%; display: block; }
table { border-collapse: collapse; width: 100%; } .mark { font-weight: 700; font-size: 1.2rem; width: 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #e2e8f0; }
td:not(:first-child) { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; } .scroll { overflow-x: auto; }
"""


def report_html(verdict: Verdict) -> str:
    """The page. The same verdict gives the same page."""
    title = headline(verdict)
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        *_first_screen(verdict, title),
        *_estimates(verdict),
        *_segments(verdict),
        *_evidence(verdict),
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _first_screen(verdict: Verdict, title: str) -> Iterable[str]:
    contest = verdict.contest
    kind = "the same policy on newer data" if contest.kind == "refresh" else "another policy or other settings"
    subject = f"Task {contest.task}, {_time(verdict.decided_us)}: {kind}" + (f" ({contest.label})" if contest.label else "")
    yield f'<header style="background: {_COLOURS[verdict.decision]}"><h1>{html.escape(title)}</h1><p>{html.escape(subject)}</p></header>'
    said = {"Why": why(verdict), "What happens now": consequence(verdict), "How sure is this": sureness(verdict)}
    yield "<dl>" + "".join(f"<dt>{term}</dt><dd>{html.escape(text)}</dd>" for term, text in said.items()) + "</dl>"
    yield "<table>" + "".join(_question(*question) for question in answers(verdict)) + "</table>"
    yield "<h2>In the gate's own words</h2>" + "".join(f"<p>{html.escape(reason)}</p>" for reason in verdict.reasons)


def _question(text: str, good: bool | None, answer: str) -> str:
    mark, colour = _MARKS[good]
    return f'<tr><td class="mark" style="color: {colour}">{mark}</td><td><b>{html.escape(text)}</b><br>{html.escape(answer)}</td></tr>'


def _estimates(verdict: Verdict) -> Iterable[str]:
    if not verdict.estimates:
        return ["<p>Estimates are not shown: evidence that is vetoed must not be believed.</p>"] if verdict.decision == "veto" else []
    rows = [
        (f"{name}, {who}", _number(e.value), _number(e.standard_error), _span(e), _number(e.effective_sample_size, ".0f"))
        for name, comparison in verdict.estimates.items()
        for who, e in comparison._asdict().items()
    ]
    level = next(iter(verdict.estimates.values())).difference
    return [
        _picture("What each policy earns", value_picture, verdict),
        _picture("The difference, guardrails and anchor", difference_picture, verdict),
        _table(("estimate", verdict.metric, "standard error", f"{1 - level.level:.0%} interval", "effective rows"), rows),
        f"<p>Interval: {html.escape(level.interval)}, look {verdict.looks}. {html.escape(verdict.estimator)} assumes: "
        f"{html.escape(verdict.assumption)}.</p>",
    ]


def _segments(verdict: Verdict) -> Iterable[str]:
    if not verdict.segments:
        return []
    rows = [(s.feature, s.value, str(s.difference.n), _number(s.difference.value), _span(s.difference)) for s in verdict.segments]
    head = ("feature", "value", "rows", "difference", "90% interval, for reading only")
    return ["<h2>By segment</h2>", _table(head, rows)]


def _evidence(verdict: Verdict) -> Iterable[str]:
    yield _picture("Effective rows over time", ess_picture, verdict) if verdict.ess_over_time else ""
    yield _picture("Weights", weights_picture, verdict)
    yield _picture("Drawn against logged probabilities", calibration_picture, verdict) if verdict.versions else ""
    checks = [
        (check.name, _number(check.value, ".4g"), _number(check.limit, ".4g"), "kept" if check.passed else "BROKEN")
        for check in verdict.checks
    ]
    if checks:
        yield "<h2>Every question and its limit</h2>" + _table(("question", "measure", "limit", "result"), checks)
    yield "<h2>Evidence</h2>" + _table(("what", "value"), _facts(verdict))


def _facts(verdict: Verdict) -> list[tuple[str, str]]:
    contest, inputs = verdict.contest, verdict.inputs
    digests = {"challenger": contest.challenger, "champion": contest.champion, "config of the task": contest.config_digest}
    return [
        ("rows", str(verdict.rows)),
        ("decided from", _time(verdict.first_us)),
        ("decided until", _time(verdict.last_us)),
        ("policies learned until", _time(contest.training_watermark_us)),
        ("verdict of", _time(verdict.decided_us)),
        ("evidence", verdict.evidence),
        *((f"left out: {reason}", str(count)) for reason, count in verdict.excluded.items()),
        *digests.items(),
        *((f"overridden: {key}", str(value)) for key, value in verdict.overridden.items()),
        *((f"gate.{key}", str(value)) for key, value in verdict.config.items()),
        *((f"input: {key}", str(value)) for key, value in inputs.items()),
    ]


def _picture(title: str, draw: Callable[[Verdict], str], verdict: Verdict) -> str:
    return f'<h2>{title}</h2><img alt="{title.lower()}" src="{draw(verdict)}">'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{names}</tr>{cells}</table></div>'


def _number(value: float, form: str = "+.4f") -> str:
    return "unknown" if math.isnan(value) else format(value, form)


def _span(estimate: Estimate) -> str:
    return f"{_number(estimate.lower)} to {_number(estimate.upper)}"


def _time(microseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(microseconds / 1e6, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if microseconds else "never"
