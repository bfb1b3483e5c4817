"""The dashboard as a real browser shows it: on a desk, on a phone, in the dark, with all its sources and with none.

The pictures stay under `var/dashboard`, for people to look at.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bandits.config import parse_task
from protos.task import load_task
from serving.dashboard.state import Board, Places
from serving.dashboard.web import Website
from tests.serving.chromium import Browser, browser, needs_browser
from tests.serving.dashboard_world import BEGAN_US, JOINER, SECONDS, endpoint, exposition, joined, moved, rows
from tests.serving.kit import ROOT, TASK

pytestmark = needs_browser
PICTURES = ROOT / "var" / "dashboard"
READY = "document.documentElement.dataset.ready"
SCREENS = {"desktop": (1280, 800, False), "phone": (390, 844, False), "dark": (1280, 800, True), "phone-dark": (390, 844, True)}
# Every text with the ground that it stands on: the smallest contrast by WCAG 2, and where.
CONTRAST = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const s = c / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement, said = texts.currentNode.textContent.trim();
    if (!said || !node.getClientRects().length || ["SCRIPT", "NOSCRIPT", "OPTION"].includes(node.tagName)) continue;
    const style = getComputedStyle(node), ink = parts(node.ownerSVGElement ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, said.slice(0, 40)];
  }
  return worst;
})()"""
# What a hand or a screen reader would miss: pictures without words, controls without names, targets too small for a finger.
FAULTS = """[
  ...[...document.querySelectorAll('svg')].filter((s) => !s.getAttribute('aria-label')).map(() => 'a picture without words'),
  ...[...document.querySelectorAll('button, a, select')].filter((c) => !(c.textContent.trim() || c.ariaLabel))
    .map(() => 'a control without a name'),
  ...[...document.querySelectorAll('button, select')].filter((c) => c.getBoundingClientRect().height < 36)
    .map((c) => 'too small: ' + c.textContent),
  ...[...document.querySelectorAll('th')].filter((h) => !h.scope).map(() => 'a head without a scope'),
  ...[...document.querySelectorAll('section')].filter((s) => !s.ariaLabel && !document.getElementById(s.getAttribute('aria-labelledby')))
    .map(() => 'a section without a name'),
  ...(document.querySelectorAll('h1').length === 1 ? [] : ['not one h1']),
  ...(document.documentElement.scrollWidth > innerWidth ? ['wider than the screen'] : []),
]"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole loop at rest."""
    found = tmp_path_factory.mktemp("loop")
    (found / "shop.yaml").write_text(yaml.safe_dump(TASK))
    task = parse_task(load_task(found / "shop.yaml"))
    joined(found, rows("shop", moved(found, task), actions=list("abcde")))
    return found


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The page of the loop, whose server has been looked at a dozen times."""
    said = [exposition(500 * look) for look in range(1, 14)]
    clock = iter(range(10_000))
    with endpoint(*said) as server, endpoint(JOINER) as joiner:
        places = Places(folder / "store", folder / "attribution" / "observations", servers=[server], joiner=joiner)
        board = Board(places, now_us=lambda: BEGAN_US + (SECONDS + 5 * next(clock)) * 1_000_000)
        for _ in said:
            board.look()
        yield from _website(board)


def _website(board: Board) -> Iterator[str]:
    running = Website(board, "127.0.0.1:0")
    running.start()
    try:
        yield f"http://{running.address}/"
    finally:
        running.close()


def opened(tab: Browser, url: str, screen: str) -> Any:
    """The page on a screen, when it has said all that it knows."""
    width, height, dark = SCREENS[screen]
    tab.errors.clear()
    tab.screen(width, height, dark=dark)
    tab.open(url)
    return tab.until(READY)


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_is_whole_readable_and_without_an_error_on_every_screen(screen: str, tab: Browser, url: str) -> None:
    opened(tab, url, screen)
    tab.picture(PICTURES / f"{screen}.png")
    assert tab.errors == [] and tab.evaluate(FAULTS) == []
    contrast, where = tab.evaluate(CONTRAST)
    assert contrast >= 4.5, where
    assert (
        tab.evaluate("[...document.querySelectorAll('figure svg')].length") == 5
        and tab.evaluate("document.querySelectorAll('.loading').length") == 0
    )
    text = tab.evaluate("document.body.innerText")
    for said in (
        "linear_thompson",
        "ope rollback --task shop",
        "A promotion is staged",
        "Step to 10 %",
        "Vetoed",
        "Held",
        "as predicted",
        "challenger",
    ):
        assert said in text


def test_without_any_source_the_page_says_in_each_place_what_to_start(tab: Browser, tmp_path: Path) -> None:
    for url in _website(Board(Places(tmp_path / "store", tmp_path / "table"), now_us=lambda: BEGAN_US)):
        opened(tab, url, "phone")
        tab.picture(PICTURES / "absent.png")
        assert tab.errors == [] and tab.evaluate(FAULTS) == []
        text = tab.evaluate("document.body.innerText")
        for said in ("serving serve --set metrics_address", "attribution run", "bandits begin"):
            assert said in text
        assert tab.evaluate("document.querySelectorAll('.absent').length") >= 8


def test_a_picture_is_told_by_its_table_and_by_the_arrow_keys(tab: Browser, url: str) -> None:
    opened(tab, url, "desktop")
    tab.evaluate("document.querySelector('#reward summary').click()")
    assert tab.until("document.querySelectorAll('#reward tbody tr').length") == 120
    press = "new KeyboardEvent('keydown', {key: 'Home'})"
    tab.evaluate(f"document.querySelector('#reward svg').dispatchEvent({press})")
    assert "reward: 0." in tab.evaluate("document.querySelector('#reward .tip').innerText")


def test_words_of_a_store_are_never_taken_for_markup(tab: Browser, tmp_path: Path, folder: Path) -> None:
    store = tmp_path / "store" / "shop"
    (store / "verdicts").mkdir(parents=True)
    for name in ("champion.json", "audit.jsonl"):
        (store / name).write_bytes((folder / "store" / "shop" / name).read_bytes())
    bad = "<img src=x onerror=document.title='broken'>"
    (store / "verdicts" / "v.json").write_text(f'{{"decision": "hold", "challenger": "c", "reasons": ["{bad}"], "label": "{bad}"}}')
    for url in _website(Board(Places(tmp_path / "store", tmp_path / "table"), now_us=lambda: BEGAN_US)):
        opened(tab, url, "desktop")
        assert tab.errors == [] and bad in tab.evaluate("document.body.innerText") and "broken" not in tab.evaluate("document.title")


def test_a_server_that_has_gone_is_said_and_the_figures_stay(tab: Browser, folder: Path) -> None:
    places = Places(folder / "store", folder / "attribution" / "observations")
    pages = _website(Board(places, now_us=lambda: BEGAN_US + SECONDS * 1_000_000))
    opened(tab, next(pages), "desktop")
    pages.close()
    tab.evaluate("look()")
    assert "No answer" in tab.until(
        "document.getElementById('pulse').dataset.is === 'lost' && document.getElementById('pulse-text').textContent"
    )
    assert "linear_thompson" in tab.evaluate("document.body.innerText")


def test_the_browser_finds_what_is_wrong_with_a_page(tab: Browser, tmp_path: Path) -> None:
    """The known-bad case of every look above."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<h1>a</h1><h1>b</h1><p style='color: #aaa; background: #fff'>pale</p><svg></svg><button></button>"
        "<div style='width: 3000px'>wide</div>"
        "<script>console.error('said'); setTimeout(() => { throw new Error('thrown') }, 0)</script><img src='nowhere.png'>"
    )
    tab.errors.clear()
    tab.screen(390, 844)
    tab.open(page.as_uri())
    tab.evaluate("new Promise((done) => setTimeout(done, 0))")
    errors = " ".join(tab.errors)
    assert "said" in errors and "thrown" in errors and "nowhere.png" in errors
    faults = tab.evaluate(FAULTS)
    for fault in ("a picture without words", "a control without a name", "too small: ", "not one h1", "wider than the screen"):
        assert fault in faults
    assert tab.evaluate(CONTRAST) == [pytest.approx(2.32, abs=0.01), "pale"]


@pytest.mark.slow
def test_the_first_picture_comes_within_a_second(tab: Browser, url: str) -> None:
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    taken = []
    for _ in range(5):
        ready = float(opened(tab, url, "desktop"))
        taken.append((tab.until(paint), ready))
    paints, figures = (sorted(column)[2] for column in zip(*taken, strict=True))
    print(f"first picture {paints:.0f} ms, all figures {figures:.0f} ms (medians of 5)")
    assert paints < 1_000
