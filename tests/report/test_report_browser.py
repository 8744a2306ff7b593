"""The page as a browser shows it: quiet, offline, one zoom for all charts, and readable
on a phone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from faint_words import FAINT
from gradiometer.report.page import write_page
from report_run import diagnosis_of, run_in

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = run_in(tmp_path_factory.mktemp("runs"))
    return write_page(run, diagnosis_of()).as_uri()


@pytest.fixture(params=[(1280, "light"), (380, "dark")], ids=str)
def page(
    browser: "sync_api.Browser", address: str, request: pytest.FixtureRequest
) -> Iterator["sync_api.Page"]:
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.complaints = []
    page.requests = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.requests.append(asked.url))
    page.goto(address)
    page.wait_for_selector("#span:not([hidden])")
    yield page
    page.close()


def open_all(page: "sync_api.Page") -> None:
    page.locator("#open-all").click()
    # the learning rate is constant: it is a number, and has no chart
    page.locator(".chart svg").nth(5).wait_for(state="attached")
    assert page.locator(".chart svg").count() == 6


def test_the_first_screen_has_the_verdict_the_loss_and_the_next_action(
    page: "sync_api.Page",
) -> None:
    assert page.locator(".chart svg").count() == 1  # the others are drawn when their row is opened
    wide = (page.viewport_size or {})["width"] > 1000
    for part in ("h1", "#chart-loss svg", ".next"):
        box = page.locator(part).bounding_box()
        assert box is not None and (box["y"] + box["height"] < 900 or not wide)
    assert page.evaluate("document.documentElement.scrollHeight") <= (1500 if wide else 2000)
    assert len(page.locator("#content").inner_text().split()) <= 350


def test_opening_a_row_draws_its_charts(page: "sync_api.Page") -> None:
    page.locator("#row-batch > summary").click()
    page.wait_for_selector("#chart-noise-scale svg")
    drawn = page.locator(".chart svg").count()
    assert 1 < drawn < 7
    page.locator("#row-batch > summary").click()
    page.locator("#row-batch > summary").click()
    page.wait_for_timeout(100)
    assert page.locator(".chart svg").count() == drawn


def test_open_all_opens_everything_and_closes_it_again(page: "sync_api.Page") -> None:
    open_all(page)
    assert page.locator("details:not([open])").count() == 0
    page.locator("#open-all").click()
    assert page.locator("details[open]").count() == 0


def test_the_page_draws_every_chart_without_a_complaint_or_a_request(
    page: "sync_api.Page", address: str
) -> None:
    open_all(page)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [address]


def test_a_script_that_is_not_the_page_s_own_does_not_run(page: "sync_api.Page") -> None:
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.foreign = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.foreign = true'>");
            document.body.insertAdjacentHTML("beforeend", "<img src='http://localhost:9'>");
        }"""
    )
    assert (
        page.evaluate("fetch('http://localhost:9').then(() => 'sent', () => 'refused')")
        == "refused"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.foreign") is None
    assert len([said for said in page.complaints if "Content Security Policy" in said]) >= 4


def test_nothing_is_wider_than_the_window(page: "sync_api.Page") -> None:
    open_all(page)
    page.emulate_media(media="screen")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_numbers_behind_every_chart_are_downloaded(page: "sync_api.Page") -> None:
    for row in page.locator(".row > summary").all():
        row.click()
    # the learning rate is constant: it is a number, and has no chart
    page.locator(".chart svg").nth(5).wait_for(state="attached")
    assert page.locator(".chart svg").count() == 6
    for figure in page.locator("figure").all():
        with page.expect_download() as begun:
            figure.locator("button.download").click()
        lines = Path(begun.value.path()).read_text().splitlines()
        assert len(lines) >= 6 and "," in lines[0]


def test_with_everything_open_the_page_is_read_in_ten_minutes(page: "sync_api.Page") -> None:
    open_all(page)
    assert len(page.locator("#content").inner_text().split()) <= 2500
    assert page.evaluate("document.documentElement.scrollHeight") <= 8000


def test_one_span_of_steps_zooms_every_chart_and_comes_back(page: "sync_api.Page") -> None:
    open_all(page)
    whole = ticks(page)
    page.locator("#span input").nth(0).fill("2000")
    page.locator("#span input").nth(1).fill("4000")
    page.locator("#span input").nth(1).press("Tab")
    page.wait_for_timeout(200)
    # charts of different width have other ticks between the same ends
    assert len({(found[0], found[-1]) for found in ticks(page)}) == 1
    for found in ticks(page):
        assert len(found) >= 3
        assert all(2000 <= int(tick.replace(",", "")) <= 4000 for tick in found)
    page.locator("#span button").click()
    page.wait_for_timeout(200)
    assert ticks(page) == whole


def test_dragging_across_a_chart_selects_its_steps(page: "sync_api.Page") -> None:
    page.locator("#row-batch > summary").click()
    page.wait_for_selector("#chart-noise-scale svg")
    chart = page.locator("#chart-noise-scale .chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 120)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 120, steps=4)
    page.mouse.up()
    low, high = (int(page.locator("#span input").nth(place).input_value()) for place in (0, 1))
    assert 1200 < low < 2600
    assert 3500 < high < 4500
    chart.dblclick(position={"x": box["width"] / 2, "y": 100})
    assert page.locator("#span input").nth(1).input_value() == "6000"


def ticks(page: "sync_api.Page") -> list[tuple[str, ...]]:
    """The labels on the step axis of every chart along the run."""
    return [
        tuple(sorted(page.evaluate(TICKS, chart)))
        for chart in page.locator(".along-steps").element_handles()
    ]


TICKS = """chart => [...chart.querySelectorAll('[aria-label^="X-axis"] .role-axis-label text')]
    .filter(label => label.getAttribute("opacity") !== "0").map(label => label.textContent)"""


@pytest.mark.parametrize(
    "page",
    [(1280, "light"), (1280, "dark"), (380, "light"), (380, "dark")],
    ids=str,
    indirect=True,
)
def test_every_word_stands_out_from_its_ground(page: "sync_api.Page") -> None:
    open_all(page)
    faint = page.evaluate(FAINT)
    assert faint == []


def test_what_is_drawn_has_words(page: "sync_api.Page") -> None:
    open_all(page)
    drawn = page.locator("[role=graphics-document], .track, .trend svg").all()
    assert len(drawn) >= 9
    assert all(len(picture.get_attribute("aria-label") or "") > 20 for picture in drawn)


def test_the_page_is_walked_by_keyboard_in_the_order_it_is_read(page: "sync_api.Page") -> None:
    walked = []
    for _ in range(60):
        page.keyboard.press("Tab")
        place = page.evaluate(
            "() => { const at = document.activeElement; const style = getComputedStyle(at); return "
            "[at.tagName, at.getBoundingClientRect().top + scrollY, style.outlineStyle, "
            "at.closest('.bar') !== null]; }"
        )
        if place[0] == "BODY":
            break
        walked.append(place)
    tags = [tag for tag, *_ in walked]
    assert tags[0] == "BUTTON"
    assert {"INPUT", "BUTTON", "SUMMARY"} <= set(tags)
    assert all(outline != "none" for _, _, outline, _ in walked)
    # the bar sticks to the window's top
    tops = [top for _, top, _, in_form in walked if not in_form]
    assert tops == sorted(tops)
    page.locator("figure button.download").first.focus()
    with page.expect_download():
        page.keyboard.press("Enter")


def test_the_lines_to_paste_are_copied_from_a_file_by_mouse_and_by_keyboard(
    page: "sync_api.Page",
) -> None:
    button = page.get_by_role("button", name="Copy")
    lines = page.locator("#lines").inner_text()
    # by the clipboard of the browser, or without one by the selection
    page.evaluate("addEventListener('copy', () => { window.taken = String(getSelection()); })")
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', { value: { writeText: "
        "async (text) => { window.taken = text; } }, configurable: true })"
    )
    button.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("window.taken") == lines
    page.evaluate("window.taken = ''; delete navigator.clipboard")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.locator("button.copy").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("window.taken")
    assert page.evaluate("window.taken").strip() == lines
    assert page.locator("button.copy").inner_text() == "Copied"


def test_numbers_are_downloaded_one_by_one_and_together(page: "sync_api.Page") -> None:
    with page.expect_download() as saved:
        page.locator("figure button.download").first.click()
    assert saved.value.suggested_filename == "loss.csv"
    lines = Path(saved.value.path()).read_text().splitlines()
    assert lines[0] == "steps,loss,mean,interval,single batches"
    drawn = page.evaluate("document.querySelectorAll('#chart-loss svg .mark-symbol path').length")
    assert len(lines) > drawn > 0
    with page.expect_download() as saved:
        page.locator("#run > summary").click()
        page.locator("[data-every-table]").click()
    tables = json.loads(Path(saved.value.path()).read_text())["tables"]
    assert {"loss", "noise-scale", "estimation"} <= set(tables)
    assert page.complaints == []


def test_on_paper_there_is_what_was_found_and_nothing_to_press(page: "sync_api.Page") -> None:
    open_all(page)
    page.emulate_media(media="print")
    assert page.locator(".row").count() >= 4
    assert page.locator(".shown").first.is_visible()
    assert (
        page.locator(".chart svg").first.is_visible()
        and page.locator("#chart-noise-scale svg").is_visible()
    )
    assert not page.locator("button, .span").filter(visible=True).count()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    sizes = page.evaluate(
        "[...document.querySelectorAll('.shown p')].map((p) => "
        "parseFloat(getComputedStyle(p).fontSize))"
    )
    assert max(sizes) < 16  # 10.5 pt are 14 px
