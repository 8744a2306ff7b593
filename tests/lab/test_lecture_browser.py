"""The lecture in a browser: the dials change the pictures, and the simulations agree with the
library."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gradiometer_lab.closed_forms import OneDimensional
from gradiometer_lab.closed_forms.double_well import DoubleWell
from gradiometer_lab.counterexamples import Arctangent, LogCosh, Saddle
from gradiometer_lab.lecture.catalogue import STATEMENTS
from gradiometer_lab.lecture.site import write_site
from gradiometer_lab.lecture.statement import result

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser
INTERACTIVE = ("S6", "S8", "S11")
ONE_WINDOW = pytest.mark.parametrize("page", [(1280, "light")], ids=str, indirect=True)
"""Of tests whose numbers no window changes."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site([result(STATEMENTS[name]) for name in INTERACTIVE], folder)
    return folder


@pytest.fixture(params=[(1280, "light"), (380, "dark")], ids=str)
def page(browser: "sync_api.Browser", request: pytest.FixtureRequest) -> Iterator["sync_api.Page"]:
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: page.complaints.append(asked.url) if asked.url.startswith("http") else None,
    )
    yield page
    assert page.complaints == []
    page.close()


@pytest.mark.parametrize("name", ["index", "s06", "s08", "s11"])
def test_nothing_is_wider_than_the_window(page: "sync_api.Page", site: Path, name: str) -> None:
    page.goto((site / f"{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("name", ["s06", "s08", "s11"])
def test_every_dial_moves_the_picture_and_the_sentence(
    page: "sync_api.Page", site: Path, name: str
) -> None:
    page.goto((site / f"{name}.html").as_uri())
    for dial in page.locator("form[data-simulation] input[type=range]").all():
        before = page.locator(".picture").inner_html(), page.locator(".said").inner_text()
        dial.focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator(".picture").inner_html() != before[0]
        assert page.locator(".said").inner_text() != before[1]


def test_the_measurement_can_be_hidden(page: "sync_api.Page", site: Path) -> None:
    page.goto((site / "s06.html").as_uri())
    figure = page.locator("figure").first
    assert figure.locator(".both").is_visible()
    figure.locator(".reveal").uncheck()
    assert not figure.locator(".both").is_visible()
    assert figure.locator(".alone").is_visible()


def test_projecting_shows_one_thing_at_a_time_and_a_measurement_when_asked(
    page: "sync_api.Page", site: Path
) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator(".start a").click()
    assert page.url.endswith("s06.html#project")
    shown = page.locator("[data-slide]:visible")
    assert shown.count() == 1 and page.locator("h1").is_visible()
    page.keyboard.press("ArrowRight")  # the simulation
    assert (
        page.locator("form[data-simulation]").is_visible() and not page.locator("h1").is_visible()
    )
    page.keyboard.press(" ")
    figure = page.locator("figure").first
    assert shown.count() == 1 and figure.locator(".alone").is_visible()
    assert (
        not figure.locator("figcaption").is_visible() and not page.locator(".verdict").is_visible()
    )
    page.keyboard.press(" ")
    assert figure.locator(".both").is_visible() and figure.locator("figcaption").is_visible()
    page.keyboard.press("ArrowLeft")
    assert figure.locator(".alone").is_visible()
    for _ in range(9):  # from the first prediction past the limits
        page.keyboard.press("PageDown")
    page.wait_for_url("**/s08.html#project")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/s06.html#project-last")
    assert page.locator("#limits").is_visible()
    page.keyboard.press("Escape")
    assert (
        page.url.endswith("s06.html")
        and page.locator("h1").is_visible()
        and page.locator("figure").count() > 1
    )
    assert page.locator("figure .both").first.is_visible()


@ONE_WINDOW
def test_the_pages_link_to_each_other(page: "sync_api.Page", site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator("table a").first.click()
    assert page.url.endswith("s06.html")
    page.locator("a[rel=next]").first.click()
    assert page.url.endswith("s08.html")


@ONE_WINDOW
@pytest.mark.parametrize("schedule", ["constant", "inverse", "linear"])
def test_the_one_dimensional_simulation_agrees_with_the_library(
    page: "sync_api.Page", site: Path, schedule: str
) -> None:
    page.goto((site / "s06.html").as_uri())
    settings = {"rate": 0.4, "batch": 8, "schedule": schedule, "steps": 60, "chains": 20_000}
    found = page.evaluate(
        "(settings) => { const {law, runs} = simulations.oneDimensional(settings); return {law, "
        "last: runs.map((run) => run[run.length - 1]), rates: simulations.rates(settings)}; }",
        settings,
    )
    means, variances = OneDimensional(variance=4.0).law(found["rates"], 8, start=3.0)
    assert np.allclose([step["mean"] for step in found["law"]], means, rtol=1e-10, atol=1e-12)
    assert np.allclose([step["variance"] for step in found["law"]], variances, rtol=1e-10)
    last = np.array(found["last"])
    assert abs(last.mean() - means[-1]) < 4 * math.sqrt(variances[-1] / len(last))
    # The sample variance of n normal numbers has relative standard error √(2/(n − 1)).
    assert abs(last.var(ddof=1) / variances[-1] - 1) < 4 * math.sqrt(2 / (len(last) - 1))


@ONE_WINDOW
@pytest.mark.parametrize(
    ("example", "problem"),
    [
        ("runaway", Arctangent((0.0,))),
        ("saddle", Saddle((0.0, 1.0))),
        ("cycle", LogCosh((1.0,))),
    ],
)
@pytest.mark.parametrize(("rate", "power"), [(0.8, 1.0), (3.0, 0.0)])
def test_the_counterexamples_take_the_same_steps_as_the_library(
    page: "sync_api.Page",
    site: Path,
    example: str,
    problem: Arctangent | Saddle | LogCosh,
    rate: float,
    power: float,
) -> None:
    page.goto((site / "s08.html").as_uri())
    path = page.evaluate(
        "(settings) => simulations.counterexample(settings).path",
        {"example": example, "rate": rate, "power": power, "steps": 40},
    )
    rates = rate * np.arange(1, 41, dtype=float) ** -power
    exact = problem.simulate(rates)[:, 0]
    assert np.allclose(path, exact, rtol=1e-9, atol=1e-12)


@ONE_WINDOW
def test_the_double_well_and_its_noise_agree_with_the_library(
    page: "sync_api.Page", site: Path
) -> None:
    page.goto((site / "s11.html").as_uri())
    well, places = DoubleWell(), np.linspace(-1.5, 1.5, 13)
    seen = page.evaluate(
        "(places) => places.map((x) => [simulations.well.loss(x), simulations.well.gradient(x)])",
        places.tolist(),
    )
    exact = np.column_stack([(places**2 - 1) ** 2, well.gradient(places)])
    assert np.allclose(seen, exact, atol=1e-12)
    settings = {"rate": 0.001, "batch": 2, "variance": 4.0, "steps": 1, "chains": 20_000}
    one_step = np.array(
        page.evaluate("(settings) => simulations.temperature(settings).places", settings)
    )
    assert abs(one_step.var(ddof=1) / (0.001**2 * 4.0 / 2) - 1) < 4 * math.sqrt(2 / len(one_step))
    temperature = page.evaluate(
        "(settings) => simulations.temperature(settings).temperature", settings
    )
    assert temperature == pytest.approx(DoubleWell(variance=4.0).temperature(0.001, 2))


@ONE_WINDOW
@pytest.mark.parametrize(
    ("example", "rate", "power", "said"),
    [
        (
            "runaway",
            0.0,
            1.0,
            "x goes to infinity with Σ η. The gradient goes to zero, as the theorem says",
        ),
        ("runaway", 0.0, 0.0, "although Σ η² is infinite"),
        ("runaway", 0.0, 1.5, "x stays finite"),
        ("saddle", 0.0, 1.0, "ends at the saddle"),
        ("saddle", -0.5, 1.5, "does not reach the saddle"),
        ("saddle", 0.5, 0.0, "so y grows"),
    ],
)
def test_the_sentence_follows_the_dials(
    page: "sync_api.Page", site: Path, example: str, rate: float, power: float, said: str
) -> None:
    page.goto((site / "s08.html").as_uri())
    page.locator("form[data-simulation] select").select_option(example)
    for dial, value in zip(
        page.locator("form[data-simulation] input[type=range]").all(), (rate, power), strict=True
    ):
        dial.fill(str(value))
    assert said in page.locator(".said").inner_text()
