"""Every kind of page: words that stand out, pictures with names, motion that can be turned off, and
a quick start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faint_words import FAINT
from gradiometer.report.compare import compare, write_comparison
from gradiometer.report.overview import listing, write_overview
from gradiometer.report.page import write_page
from gradiometer_lab.lecture.catalogue import STATEMENTS
from gradiometer_lab.lecture.site import write_site
from gradiometer_lab.lecture.statement import result
from report_run import diagnosis_of, run_in

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser
KINDS = ("run", "comparison", "runs", "lecture", "statement")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = [run_in(folder, name=name) for name in ("mlp", "cnn")]
    site = write_site([result(STATEMENTS["S8"])], folder / "site").parent
    return {
        "run": write_page(runs[0], diagnosis_of()),
        "comparison": write_comparison(*compare(runs), folder / "compare.html"),
        "runs": write_overview(listing(folder)[0], folder / "index.html"),
        "lecture": site / "index.html",
        "statement": site / "s08.html",
    }


@pytest.fixture(params=["light", "dark"])
def page(browser: "sync_api.Browser", request: pytest.FixtureRequest) -> Iterator["sync_api.Page"]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=request.param)
    yield page
    page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_of_every_kind_of_page_stands_out(
    page: "sync_api.Page", pages: dict[str, Path], kind: str
) -> None:
    page.goto(pages[kind].as_uri())
    assert page.locator("body").inner_text().strip()
    assert page.evaluate(FAINT) == []


def test_words_that_do_not_stand_out_are_found(page: "sync_api.Page") -> None:
    page.set_content(
        "<p style='color: #999; background: white'>faint</p><p style='color: #000; background: "
        "white'>clear</p>"
    )
    assert page.evaluate(FAINT) == ["faint: 2.85"]


@pytest.mark.parametrize("page", ["light"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_has_a_name(page: "sync_api.Page", pages: dict[str, Path], kind: str) -> None:
    page.goto(pages[kind].as_uri())
    nameless = page.evaluate(
        "[...document.querySelectorAll('svg, canvas, img, [role=img]')].filter((picture) => "
        "picture.checkVisibility() && !picture.closest('[aria-label], [aria-labelledby], "
        "[aria-hidden=true]')).map((picture) => picture.outerHTML.slice(0, 90))"
    )
    assert nameless == []


@pytest.mark.parametrize("page", ["light"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_moves_for_those_who_ask_for_that(
    page: "sync_api.Page", pages: dict[str, Path], kind: str
) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.goto(pages[kind].as_uri())
    moving = page.evaluate(
        "[...document.querySelectorAll('*')].filter((element) => { const style = "
        "getComputedStyle(element); return style.scrollBehavior === 'smooth' || "
        "style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0; "
        "}).map((element) => element.tagName)"
    )
    assert moving == []


def test_a_page_is_ready_within_a_second_of_the_processor(
    page: "sync_api.Page", pages: dict[str, Path]
) -> None:
    """Processor time of the page's own thread: the clock would measure what else the
    machine does."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(pages["run"].as_uri())
    page.wait_for_selector("#span:not([hidden])")
    used = {
        each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]
    }
    assert 0 < used["TaskDuration"] < 1


@pytest.mark.parametrize("width", [1280, 390])
def test_a_comparison_is_short_until_it_is_opened(
    browser: "sync_api.Browser", pages: dict[str, Path], width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(pages["comparison"].as_uri())
    page.wait_for_selector("#span:not([hidden])")
    assert (
        page.locator(".chart svg").count() == 1
        and len(page.locator("#content").inner_text().split()) <= 350
    )
    assert page.evaluate("document.documentElement.scrollHeight") <= 3600
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#open-all").click()
    page.locator(".chart svg").nth(2).wait_for(state="attached")
    assert (
        "Bonferroni" in page.locator("#methods").inner_text()
        and page.locator("details:not([open])").count() == 0
    )
    page.close()
