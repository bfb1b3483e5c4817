"""The page of a verdict, as a real browser shows it: its first screen tells what was decided and why, in plain words."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from ope.gate.plain_words import consequence, headline
from ope.gate.report import report_html
from ope.gate.verdict import Verdict, from_mapping, to_mapping
from tests.ope.browser import HEIGHT, WIDTH, evaluate, needs_browser, screenshot
from tests.ope.gate_rows import CONTEST, judged, rows

LATE = dataclasses.replace(CONTEST, training_watermark_us=3_000_000)
VERDICTS = {
    "promote": judged(rows(2_000, gain=0.5), segmented=True),
    "hold": judged(rows(4_000)),
    "veto": judged(rows(2_000, gain=0.5), contest=LATE),
}
COLOURS = {"promote": (39, 103, 73), "hold": (151, 90, 22), "veto": (155, 44, 44)}


@pytest.fixture(params=VERDICTS, scope="module")
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A verdict's decision and its page."""
    path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    path.write_text(report_html(VERDICTS[request.param]), encoding="utf-8")
    return request.param, path


@needs_browser
def test_the_first_screen_shows_the_decision_the_reason_and_what_happens_now(page: tuple[str, Path]) -> None:
    decision, path = page
    script = (
        "JSON.stringify({w: innerWidth, over: document.documentElement.scrollWidth > innerWidth, "
        "broken: [...document.images].filter(i => !i.naturalWidth).length, images: document.images.length, "
        "header: document.querySelector('header').getBoundingClientRect().bottom, "
        "now: document.querySelectorAll('dd')[1].getBoundingClientRect().bottom, "
        "last: [...document.querySelectorAll('.mark')].pop().getBoundingClientRect().top})"
    )
    seen = json.loads(evaluate(path, path.parent, script).replace("&quot;", '"'))
    assert seen["w"] == WIDTH and not seen["over"] and seen["broken"] == 0
    assert seen["images"] == (5 if decision != "veto" else 3) - (0 if VERDICTS[decision].versions else 1)
    assert 0 < seen["header"] < seen["now"] < seen["last"] < HEIGHT


@needs_browser
def test_the_screen_has_the_colour_of_the_decision(page: tuple[str, Path]) -> None:
    decision, path = page
    pixels = np.asarray(image.imread(screenshot(path, path.with_suffix(".png"))))[..., :3] * 255
    share = (np.abs(pixels - COLOURS[decision]).max(axis=2) < 2).mean()
    assert 0.03 < share < 0.3
    others = [colour for name, colour in COLOURS.items() if name != decision]
    assert all((np.abs(pixels - colour).max(axis=2) < 2).mean() < share / 3 for colour in others)


@pytest.mark.parametrize("decision", VERDICTS)
def test_the_page_says_it_in_plain_words(decision: str) -> None:
    verdict = VERDICTS[decision]
    text = report_html(verdict)
    words = {"promote": "the new policy takes over", "hold": "the current policy stays", "veto": "must not be believed"}
    assert words[decision] in headline(verdict) and headline(verdict) in text
    first = text.split("<h2>")[0]
    assert "What happens now" in first and "How sure is this" in first
    for jargon in ("propensit", "sample size", "confidence", "standard error"):
        assert jargon not in first.split("<table>")[0]


def test_a_segmented_verdict_has_a_table_of_segments_and_a_step_says_its_share() -> None:
    text = report_html(VERDICTS["promote"])
    assert "By segment" in text and "<td>device</td><td>phone</td>" in text
    step = dataclasses.replace(VERDICTS["promote"], next_share=0.1)
    assert "10% of the users" in headline(step) and "next step" in consequence(step)


def test_a_rerun_with_other_settings_says_that_it_moves_nothing() -> None:
    overridden: Verdict = dataclasses.replace(VERDICTS["promote"], overridden={"level": 0.2})
    assert "can promote nobody" in consequence(overridden) and "overridden: level" in report_html(overridden)


@pytest.mark.parametrize("decision", VERDICTS)
def test_a_page_is_the_same_after_the_verdict_went_through_json(decision: str) -> None:
    again = from_mapping(json.loads(json.dumps(to_mapping(VERDICTS[decision]))))
    assert report_html(again) == report_html(VERDICTS[decision])
