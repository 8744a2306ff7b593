"""The live page and the comparison as a browser shows them: following a run, through its death,
without a word lost."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradiometer.report.compare import compare, write_comparison
from gradiometer.report.live import Live
from gradiometer.run import Run
from gradiometer.run.folder import run_folders
from report_run import run_in

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

PATIENCE = 120_000
"""Milliseconds after which a test gives up: a browser on a busy machine is slow, and none of these
is a timed test."""

EVIL = "<script>alert(1)<!--"


@pytest.fixture(params=[1280, 380])
def page(browser: "sync_api.Browser", request: pytest.FixtureRequest) -> Iterator["sync_api.Page"]:
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (page.complaints.append(dialog.message), dialog.dismiss()))
    yield page
    page.close()


@pytest.fixture
def served() -> Iterator[list[Live]]:
    """Whatever is appended is served, and stopped at the end."""
    lives: list[Live] = []
    yield lives
    for live in lives:
        live.stop()
    for thread in threading.enumerate():
        if thread.name == "live":
            thread.join(10)


def serve(served: list[Live], *paths: Path) -> str:
    live = Live(paths)
    served.append(live)
    threading.Thread(target=live.serve, name="live").start()
    return live.address


def open_page(page: "sync_api.Page", address: str) -> None:
    page.goto(address, timeout=PATIENCE)
    page.wait_for_selector("#span:not([hidden])", timeout=PATIENCE)


STEPS = "#span"


def test_what_comes_is_shown_and_what_was_opened_and_zoomed_stays(
    page: "sync_api.Page", served: list[Live], tmp_path: Path
) -> None:
    run = run_in(tmp_path, EVIL, steps=400)
    other = run_in(tmp_path, "other", steps=60)
    open_page(page, serve(served, run.path, other.path))
    page.locator("#run > summary").click()
    page.locator("#span input").nth(1).fill("200")
    page.locator("#span input").nth(1).press("Tab")
    page.locator("#run > summary").focus()
    with (run.path / "readings.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "losses", "from": 401, "values": [0.5] * 200}) + "\n")
    sync_api.expect(page.locator(STEPS)).to_have_attribute("data-steps", "601", timeout=PATIENCE)
    page.wait_for_selector("#span:not([hidden])", timeout=PATIENCE)
    assert page.locator("#run .settings").first.is_visible()
    assert page.locator("#span input").nth(1).input_value() == "200"
    assert page.locator(".chart svg").count() == page.locator(".chart[data-drawn]").count() > 0
    # what has the focus keeps it
    assert page.evaluate("document.activeElement.parentElement.id") == "run"
    assert page.locator("#live").inner_text() == "live"
    page.get_by_role("navigation", name="Runs").get_by_text("other").click()
    sync_api.expect(page.locator(STEPS)).to_have_attribute("data-steps", "60", timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.complaints == []


def test_a_page_whose_server_is_gone_says_so(
    page: "sync_api.Page", served: list[Live], tmp_path: Path
) -> None:
    open_page(page, serve(served, run_in(tmp_path, steps=60).path))
    served[0].stop()
    sync_api.expect(page.locator("#live")).to_have_text(
        re.compile("^connection lost"), timeout=PATIENCE
    )
    assert page.locator(".chart svg").first.is_visible()


def test_a_run_is_followed_through_sigkill_and_resume(
    browser: "sync_api.Browser", tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "gradiometer"]
    quick = [
        "-b",
        "512",
        "--epochs",
        "9000",
        "--every",
        "20",
        "--set",
        "checkpoint_seconds=1",
        "--set",
        "check_edge=no",
    ]
    start = [*command, "train", "digits", "--model", "cnn", *quick, "--out", str(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    page = browser.new_page()
    training, show = subprocess.Popen([*start, "--no-open"], **quiet), None
    try:
        deadline = time.monotonic() + 60
        while not (run_folders(tmp_path) and Run.open(run_folders(tmp_path)[0]).steps):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        (folder,) = run_folders(tmp_path)
        # A server of its own: in this process, under the suite's shape checks, reading takes ten
        # times as long.
        show = subprocess.Popen(
            [*command, "show", "--live", str(folder), "--no-open"],
            stdout=subprocess.PIPE,
            text=True,
        )
        open_page(page, show.stdout.readline().split()[-1])
        steps = steps_of(page)
        wait_beyond(page, steps)
        assert page.locator(".status").inner_text().endswith("running")
        training.kill()
        training.wait()
        sync_api.expect(page.locator(".status")).to_contain_text("interrupted", timeout=PATIENCE)
        steps = steps_of(page)
        training = subprocess.Popen([*command, "resume", str(folder), "--no-open"], **quiet)
        sync_api.expect(page.locator(".status")).to_contain_text("running", timeout=PATIENCE)
        wait_beyond(page, steps)
    finally:
        page.close()
        for process in filter(None, (training, show)):
            process.send_signal(signal.SIGKILL)
            process.wait()
        if show:
            show.stdout.close()


def steps_of(page: "sync_api.Page") -> int:
    return int(page.locator(STEPS).get_attribute("data-steps"))


def wait_beyond(page: "sync_api.Page", steps: int) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while not steps_of(page) > steps:
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)


def test_a_comparison_draws_its_runs_together(page: "sync_api.Page", tmp_path: Path) -> None:
    runs = [
        run_in(tmp_path, EVIL, steps=400),
        run_in(tmp_path, "other", steps=400, learning_rate=0.01),
    ]
    written = write_comparison(*compare(runs), tmp_path / "compare.html")
    open_page(page, written.as_uri())
    assert page.locator(".chart svg").count() == 1
    assert (
        page.locator("#differences .row[open]").count() == 1 and page.locator(".strip").count() == 3
    )
    assert all(track.bounding_box()["width"] > 200 for track in page.locator(".track").all())
    page.locator("#open-all").click()
    page.locator(".chart svg").nth(2).wait_for(state="attached")
    assert page.locator(".chart svg").count() == 3
    page.locator("#span input").nth(1).fill("100")
    page.locator("#span input").nth(1).press("Tab")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.complaints == []
