"""The page of a run: whole in one file, harmless whatever the run is called, and telling what it
leaves out."""

import hashlib
import json
import os
import re
import sys
import zlib
from base64 import b64decode, b64encode
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gradiometer import Diagnosis, Finding, Issue, State, StorageFailed, diagnose
from gradiometer.measurement.finding import Doubt, Trial
from gradiometer.report.live import Followed
from gradiometer.report.overview import listing, write_overview
from gradiometer.report.page import write_page
from gradiometer.report.page.page import render, write_charts
from gradiometer.report.sections.catalogue import SECTIONS
from gradiometer.report.sections.section import Section
from gradiometer.run import Run
from gradiometer.verdict import say
from report_run import LAYERS, diagnosis_of, run_in

NOTHING = Diagnosis((), {}, {}, said="nothing was measured")


class Page(HTMLParser):
    """A page taken apart: its tags, its attributes, and what its scripts and styles hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.held: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, text: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.held.append((self.tags[-1][0], text))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def policy_of(page: str) -> str:
    """The page's security policy."""
    return next(tag["content"] or "" for tag in Page(page).of("meta") if tag.get("http-equiv"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_in(tmp_path_factory.mktemp("runs"), steps=600)


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return render(run, diagnosis_of())


def test_the_page_loads_nothing_from_anywhere(page: str) -> None:
    parsed = Page(page)
    addresses = [
        value
        for _, attributes in parsed.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "data", "action", "poster", "background")
    ]
    assert addresses
    assert all(address and address.startswith(("#", "data:")) for address in addresses)
    style = "".join(text for tag, text in parsed.held if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    assert policy_of(page).startswith("default-src 'none'; script-src 'sha256-")


def test_the_page_runs_the_scripts_it_names_and_no_others(page: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    packed = re.search(r'<script type="text/plain" id="library">(.*?)</script>', page)
    assert packed is not None and len(scripts) == 1
    scripts.append(zlib.decompress(b64decode(packed[1], validate=True)).decode())
    hashes = {b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert set(re.findall(r"'sha256-([^']+)'", policy_of(page))) == hashes
    assert "\r" not in "".join(scripts), (
        "a browser would read a return as a newline, and hash something else"
    )


def test_a_run_named_like_a_script_is_harmless(tmp_path: Path) -> None:
    evil = "<script>alert(1)<!--"
    run = run_in(tmp_path, name=f"{evil}<img src=x onerror=alert(1)>", steps=100)
    (run.path / "events.jsonl").write_text("{torn")
    diagnosis = diagnosis_of(layers=(*LAYERS, "</script><script>alert(2)</script>"))
    finding = replace(diagnosis.findings[0], claim="own", facts={"seen": f"`{evil}` was seen"})
    page = render(
        Run.open(run.path),
        replace(diagnosis, said=evil, outcome=evil, headline=finding, findings=(finding,)),
    )
    parsed = Page(page)
    assert len(parsed.of("script")) == 4
    assert not parsed.of("img")
    assert evil not in page
    numbers = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>', page, flags=re.DOTALL
    )
    assert numbers is not None
    assert "alert(2)" in numbers[1]
    assert not set("<>&") & set(numbers[1])
    assert "<code>&lt;script&gt;alert(1)&lt;!--</code> was seen" in page


def test_every_chart_has_words_and_numbers_behind_it(page: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) == 6
    specs = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>', page, flags=re.DOTALL
    )
    assert specs is not None
    charts = json.loads(specs[1])
    for figure in figures:
        name = re.search(r'data-chart="(.*?)"', figure)
        numbers = re.search(r'data-numbers="(.*?)"', figure)
        assert name is not None and numbers is not None
        assert charts[name[1]]["description"]
        # the picture of the answer stands beside its words
        assert name[1] == "loss" or re.search(r"<figcaption>\s*<p>\S", figure)
        columns, *rows = json.loads(unescape(numbers[1]))
        assert len(rows) >= 5
        assert all(len(row) == len(columns) for row in rows)


def test_names_on_the_page_are_met_once_and_links_arrive(page: str) -> None:
    parsed = Page(page)
    names = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(names) == len(set(names))
    links = [attributes["href"] for attributes in parsed.of("a")]
    assert {f"#{name}" for name in names} >= set(links)


def test_one_point_is_a_number_with_its_interval_and_no_chart(run: Run) -> None:
    diagnosis = diagnosis_of(layers=())
    one = render(
        run,
        replace(
            diagnosis, history={name: points[-1:] for name, points in diagnosis.history.items()}
        ),
    )
    number = re.search(
        r'<div class="single" id="number-noise-scale">(.*?)</div>', one, flags=re.DOTALL
    )
    assert number is not None and str(diagnosis.estimates["noise_scale"]) in number[1].replace(
        "&#39;", "'"
    )
    assert 'data-chart="noise-scale"' not in one and 'data-chart="noise-scale"' in render(
        run, diagnosis
    )
    specs = re.search(
        r'<script type="application/json" id="charts">(.*?)</script>', one, flags=re.DOTALL
    )
    assert specs is not None and {"noise-scale", "noise-and-gradient"}.isdisjoint(
        json.loads(specs[1])
    )


@pytest.mark.slow
def test_a_page_stays_small_when_the_run_is_long(page: str, tmp_path: Path) -> None:
    short = len(page.encode())
    long = len(render(run_in(tmp_path, steps=40_000), diagnosis_of()).encode())
    assert short < long < 700_000
    assert long < 1.1 * short


def test_a_row_shows_its_interval_against_the_batch_size(page: str) -> None:
    row = page[
        page.index('<details class="row look" id="row-batch"') : page.index(
            'id="row-learning-rate"'
        )
    ]
    summary = row[: row.index("</summary>")]
    assert "at least 695 examples (90%)" in summary
    assert 'class="range open-right"' in summary and ">B = 32</span>" in summary
    assert "<polyline" in summary and "along the run: " in summary
    assert "<code>B = 64</code>" in row and "<code>B = 64</code>" not in summary


def test_the_first_screen_has_verdict_loss_action_and_gain(run: Run) -> None:
    paste, forecast = ("batch_size = 64", "lr = 0.1"), "Forecast: 0.6 [0.5, 0.7] times."
    diagnosis = diagnosis_of()
    finding = Finding(
        "noise",
        Issue.ESTIMATION,
        "own",
        State.ACT,
        facts={
            "seen": "It is too small.",
            "paste": paste,
            "advice": ", if time matters more.",
            "forecast": forecast,
        },
        trial=Trial(facts={"call": "`this`"}),
    )
    page = render(
        run, replace(diagnosis, findings=(finding, *diagnosis.findings[1:]), outcome="Trained")
    )
    first = page[page.index('<header class="top">') : page.index('<div class="rows">')]
    assert f"</span> {diagnosis.said[0].upper()}{diagnosis.said[1:]}.</h1>" in first
    assert first.count("data-chart=") == 1 and 'data-chart="loss"' in first
    assert "<code>batch_size = 64\nlr = 0.1</code></pre>" in first
    assert '<button type="button" class="copy" data-copy="lines" hidden>Copy</button>' in first
    assert "<h2>How sure</h2>" in first and "Inferred from what was measured" in first
    assert '<p class="gain">Forecast: 0.6 [0.5, 0.7] times.</p>' in first
    assert "<p>Not tested: <code>this</code>.</p>" in first


def test_the_title_is_not_at_odds_with_the_next_action(run: Run) -> None:
    calm = Finding(
        "trajectory",
        Issue.CONVERGENCE,
        "own",
        State.OK,
        facts={"seen": "The parameters are under way."},
    )
    diagnosis = replace(
        diagnosis_of(),
        findings=(calm,),
        headline=calm,
        said="the parameters are under way",
        outcome="Trained",
    )
    page = render(run, diagnosis)
    assert "<code>--schedule linear</code>" in page
    assert re.search(r"</span> Look</span> The learning rate stays at \S+ to the end.</h1>", page)
    other = replace(
        calm,
        claim="another_loss",
        state=State.CANNOT_TELL,
        facts={"reason": "the loss is another one"},
    )
    numbers = {"numbers": {"steps": 600.0}}
    doubts = (Doubt("decay_not_tried"),)
    ended = replace(calm, gauge="triage", claim="undecided", facts=numbers, doubts=doubts)
    said = "no clear problem in 600 steps, but a learning-rate decay may do better"
    page = render(run, replace(diagnosis, findings=(ended,), headline=ended, said=said))
    assert f"</span> N{said[1:]}.</h1>" in page and "<h2>Also worth a look</h2>" in page
    doubtful = replace(diagnosis, headline=other, said="no verdict: the loss is another one")
    assert "Undecided</span> No verdict: the loss is another one.</h1>" in render(run, doubtful)


def test_a_link_to_the_page_has_the_verdict_in_two_sentences(page: str) -> None:
    named = {
        tag.get("name") or tag.get("property"): tag.get("content") for tag in Page(page).of("meta")
    }
    assert named["description"] == named["og:description"]
    said = diagnosis_of().said
    assert (
        said[1:] in (named["description"] or "") and (named["description"] or "").count(". ") <= 2
    )
    assert (named["og:title"] or "").startswith("digits-1")


def test_the_page_names_no_folder_of_this_machine(run: Run, page: str) -> None:
    assert str(run.path) not in page and str(run.path.parent) not in page
    assert f"{run.path.parent.name}/{run.path.name}" in page


def test_without_advice_the_page_says_that_no_change_is_advised(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=600, schedule="linear")
    diagnosis = diagnosis_of()
    silent = tuple(
        replace(finding, claim="own", facts={"seen": say(finding).seen}, cure=())
        for finding in diagnosis.findings
    )
    assert "No finding advises a change." in render(run, replace(diagnosis, findings=silent))


def test_the_page_is_short_until_something_is_opened(run: Run) -> None:
    page = render(run, diagnosis_of())
    body = re.sub(
        r"<(script|style|noscript)\b.*?</\1>", "", page[page.index("<body") :], flags=re.DOTALL
    )
    while "<details" in body:  # the innermost first
        body = re.sub(
            r"<details[^>]*>\s*<summary>((?:(?!<details).)*?)</summary>(?:(?!<details).)*?</details>",
            r"\1",
            body,
            flags=re.DOTALL,
        )
    words = re.sub(r"<[^>]+>", " ", body).split()
    assert 40 < len(words) <= 350


def test_a_run_without_a_single_number_has_a_page(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=0)
    (run.path / "readings.jsonl").unlink()
    (run.path / "events.jsonl").unlink()
    page = render(Run.open(run.path), NOTHING)
    assert "No loss has been recorded yet." in page
    assert "Not measured" not in page and "What more it can answer" in page


def test_what_could_not_be_read_is_said_on_the_page(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    with (run.path / "readings.jsonl").open("a") as journal:
        journal.write("garbled\n{}\n")
    opened = Run.open(run.path)
    assert opened.warnings
    page = render(opened, diagnosis_of())
    assert "Warnings" in page
    assert all(warning.split("(")[0][:20] in page for warning in opened.warnings)


def test_a_section_that_fails_says_so_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drift_section(run: Run, _: Diagnosis) -> Section:
        raise KeyError(run.manifest["steps"])

    monkeypatch.setitem(SECTIONS.built_in, "drift", drift_section)
    run = run_in(tmp_path, steps=100)
    with pytest.warns(RuntimeWarning, match="drift: the section could not be drawn: KeyError: 100"):
        page = render(run, diagnosis_of(steps=100))
    assert "The section could not be drawn: KeyError: 100." in page
    assert "row-drift-failed" in page and "The gradient noise scale goes from" in page
    with pytest.warns(RuntimeWarning, match="could not be drawn"):
        view = Followed(run.path).latest()
    assert "could not be drawn" in view.update("/live/") and len(view.figures) >= 1


def test_the_page_is_written_into_the_run_and_replaced_whole(
    run: Run, page: str, tmp_path: Path
) -> None:
    assert write_page(run, diagnosis_of()) == run.path / "report.html"
    assert (run.path / "report.html").read_text() == page
    elsewhere = write_page(run, diagnosis_of(), tmp_path / "page.html")
    assert elsewhere.read_text() == page
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are texts there")
def test_a_folder_whose_name_is_no_utf_8_has_its_pages(tmp_path: Path) -> None:
    made = run_in(tmp_path / os.fsdecode(b"\xff\xfe"), steps=60)
    assert "??/digits-1" in unescape(write_page(made, diagnose(made)).read_text())
    assert (
        "digits-1"
        in write_overview(listing(made.path.parent)[0], made.path.parent / "index.html").read_text()
    )


def test_a_place_that_cannot_be_written_to_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        StorageFailed,
        match=r"page.html` could not be written: no such file or directory; choose another file",
    ):
        write_page(run, diagnosis_of(), tmp_path / "missing" / "page.html")
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match=r"could not be written: .*; choose another folder"):
        write_charts(run, diagnosis_of(), tmp_path / "file")


@pytest.mark.slow
def test_every_chart_is_written_as_a_picture(run: Run, tmp_path: Path) -> None:
    written = write_charts(run, diagnosis_of(), tmp_path / "new" / "charts")
    names = [
        "loss",
        "accuracy",
        "noise-scale",
        "noise-and-gradient",
        "batch-size",
        "noise-by-layer",
    ]
    assert [path.stem for path in written] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
