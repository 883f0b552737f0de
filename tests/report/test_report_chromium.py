"""The report in a real Chromium: it loads, draws, filters, and obeys mouse and keys; hostile text does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from report_browser import Browser, Tab, chromium
from report_world import HOSTILE, World

from pipeline.report.html import build

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian's package `chromium`)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run's report, with a comment in it that a browser would choke on."""
    world = World(tmp_path_factory.mktemp("seen") / "data", num=24).write()
    return build.build_report(["world"], world.workspace, None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One process for all tests here."""
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def open_tab(browser: Browser, report: Path) -> Tab:
    """The report, open on a desk's screen, in light."""
    return browser.open(report)


@pytest.fixture
def tab(open_tab: Tab) -> Tab:
    """The same, with nothing filtered and the first tree whole."""
    open_tab.evaluate("byId('filters').reset()")
    open_tab.wait("byId('traces-count').textContent.startsWith(count(browser.data.columns.id.length))")
    open_tab.evaluate("openTree(0); document.activeElement.blur(); scrollTo(0, 0)")
    return open_tab


def number_of(tab: Tab) -> int:
    """How many traces the filters leave."""
    return int(tab.evaluate("byId('traces-count').textContent.split(' ')[0].replaceAll(',', '')"))


def test_loads_without_a_complaint_or_a_request(tab: Tab, report: Path):
    assert tab.problems() == []
    assert tab.requests() == [report.as_uri()]
    assert tab.evaluate("document.title") == "world: Ratchet report"


def test_every_chart_has_marks_and_says_what_it_is(tab: Tab):
    marks = "path, rect, text, line"
    drawn = tab.evaluate(
        "[...document.querySelectorAll('[data-chart]')].map((place) => [place.dataset.chart,"
        f" place.querySelectorAll('svg .role-mark :is({marks})').length,"
        " place.getAttribute('aria-label') ?? ''])"
    )
    assert len(drawn) > 15
    assert [name for name, count, label in drawn if not count or not label] == []


def test_text_of_a_model_does_nothing_but_stand_there(tab: Tab):
    assert tab.evaluate("typeof window.owned") == "undefined"
    tab.click("#f-text")
    tab.type("</script>")
    tab.wait("byId('trace-list').textContent.includes('</script>')")
    assert HOSTILE in tab.evaluate("byId('trace-list').textContent")
    assert tab.evaluate("byId('trace-list').querySelectorAll('script, img').length") == 0
    assert tab.evaluate("typeof window.owned") == "undefined"
    assert tab.problems() == []


def test_filters_narrow_and_clear(tab: Tab):
    everything = number_of(tab)
    tab.choose("#f-ok", "1")
    tab.wait(f"+byId('traces-count').textContent.split(' ')[0].replaceAll(',', '') < {everything}")
    right = number_of(tab)
    assert right == tab.evaluate("browser.data.columns.ok.filter((ok) => ok === 1).length")
    words = "[...document.querySelectorAll('#trace-list .tag:first-child')].map((tag) => tag.textContent)"
    assert set(tab.evaluate(words)) == {"right"}
    tab.choose("#f-change", "1")
    tab.wait("document.querySelectorAll('#trace-list .tag.info').length > 0")
    assert 0 < number_of(tab) < right
    tab.click("#filters button[type=reset]")
    tab.wait(f"browser.shown.length === {everything}")
    assert number_of(tab) == everything


def test_a_search_by_keys_and_pages_by_clicks(tab: Tab):
    tab.click("#f-text")
    tab.type("target")
    tab.wait("browser.text === 'target' && browser.shown.length > 40 && !byId('pager').hidden")
    first = tab.evaluate("byId('trace-list').textContent")
    tab.click("#page-next")
    tab.wait("byId('page-where').textContent.startsWith('page 2 ')")
    assert tab.evaluate("byId('trace-list').textContent") != first
    tab.click("#page-last")
    tab.wait("byId('page-next').disabled")


def test_step_scores_colour_the_text(tab: Tab):
    colours = tab.evaluate(
        "[...document.querySelectorAll('#trace-list .scored')].map((step) => getComputedStyle(step).backgroundColor)"
    )
    assert len(set(colours)) > 3


def test_a_learned_problem_opens_its_traces(tab: Tab):
    tab.click("[data-learned] summary")
    tab.wait("document.querySelector('[data-learned] details').open")
    asked = tab.evaluate("document.querySelector('[data-learned] button').textContent")
    tab.click("[data-learned] button")
    tab.wait("browser.problem >= 0")
    questions = tab.evaluate(
        "[...document.querySelectorAll('#trace-list .question')].map((p) => p.textContent)"
    )
    assert set(questions) == {asked}


def test_the_tree_folds_by_click_and_walks_by_keys(tab: Tab):
    count = "document.querySelectorAll('#tree .node').length"
    assert tab.evaluate("document.querySelectorAll('#tree .node.way').length") >= 2
    whole = tab.evaluate(count)
    tab.click("#tree .node .shape")  # the root
    tab.wait(f"{count} === 1")
    assert tab.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"
    tab.press("Enter")
    tab.wait(f"{count} === {whole}")
    tab.press("ArrowRight")
    tab.wait("document.activeElement.getAttribute('aria-level') === '2'")
    said = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "visits" in said
    assert tab.evaluate("byId('tree-detail').textContent").startswith("Step 1")
    tab.press("End")
    tab.press("ArrowLeft")
    tab.press("Home")
    tab.wait("document.activeElement.getAttribute('aria-level') === '1'")
    zoom = tab.evaluate("wood.zoom")
    tab.press("+")
    assert tab.evaluate("wood.zoom") > zoom
    tab.click("#tree-way")
    tab.wait("[...document.querySelectorAll('#tree [aria-expanded=true]')].every((it) => it.matches('.way'))")
    assert tab.evaluate(count) <= whole


def test_the_tree_moves_under_the_mouse(tab: Tab):
    tab.evaluate("byId('tree').scrollIntoView({block: 'center', behavior: 'instant'})")
    x, y = tab.evaluate(
        "(() => { const b = byId('tree').getBoundingClientRect(); return [b.x + b.width - 30, b.y + 30]; })()"
    )
    before = tab.evaluate("wood.x")
    tab.ask("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x - 60, y=y + 10, button="left", buttons=1)
    tab.ask("Input.dispatchMouseEvent", type="mouseReleased", x=x - 60, y=y + 10, button="left", clickCount=1)
    assert tab.evaluate("wood.x") == pytest.approx(before - 60)


def test_every_control_is_named_and_reached_by_tab(tab: Tab):
    unnamed = tab.evaluate(
        "[...document.querySelectorAll('button, input, select, a, summary')].filter((it) =>"
        " !(it.textContent.trim() || it.getAttribute('aria-label') || it.labels?.length)).length"
    )
    assert unnamed == 0
    seen = set()
    for _ in range(14):
        tab.press("Tab")
        seen.add(tab.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
    assert {"Skip to the report", "See the curves", "Better?"} <= seen


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_what_is_behind_them(browser: Browser, report: Path, dark: bool):
    tab = browser.open(report, dark=dark)
    worst = tab.evaluate(CONTRAST)
    assert worst["checked"] > 100
    assert worst["ratio"] >= 4.5, worst
    assert tab.problems() == []


def test_a_phone_needs_no_sideways_scroll(browser: Browser, report: Path):
    tab = browser.open(report, width=390, height=844)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    wide = tab.evaluate(
        "[...document.querySelectorAll('.chart svg')].filter((s) => s.getBoundingClientRect().right > 391).length"
    )
    assert wide == 0


#: the lowest contrast (WCAG 2) of any visible text, computed from what the browser painted
CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (it) => { for (; it; it = it.parentElement) {
    const colour = rgba(getComputedStyle(it).backgroundColor); if (colour[3] === 1) return colour; }
    return [255, 255, 255, 1]; };
  const worst = { ratio: 99, checked: 0 };
  for (const it of document.querySelectorAll("main *:not(svg *), header *, nav *, footer *")) {
    const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !it.checkVisibility() || it.disabled || it.tagName === "OPTION") continue;
    const pair = [light(rgba(getComputedStyle(it).color)), light(behind(it))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    worst.checked++;
    if (ratio < worst.ratio) Object.assign(worst, { ratio, text: it.textContent.slice(0, 40), tag: it.className });
  }
  return worst;
})()"""
