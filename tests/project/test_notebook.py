"""The card of a notebook: findings with their intervals as bars, without scripts, in the colours of
the notebook."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gradients_by_hand import backward, batches, network, watched
from gradiometer import Diagnosis, State
from gradiometer.integrations.watch.record import Findings
from gradiometer.measurement.finding import Trial
from gradiometer.report.page.page import COLOURS
from gradiometer.verdict import say
from report_run import diagnosis_of

NEVER_CLOSED = {"br", "hr", "img"}


class Elements(HTMLParser):
    """The elements of a card, each with its attributes and place; every one must be closed in its
    order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open += [tag] if tag not in NEVER_CLOSED else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def findings(diagnosis: Diagnosis, *warnings: str) -> Findings:
    return Findings(diagnosis.findings, warnings, diagnosis)


def test_a_card_says_what_print_says_with_the_interval_as_a_bar_against_its_threshold() -> None:
    found = findings(diagnosis_of(unbounded=0), "step 3 was skipped")
    card = Elements(found._repr_html_())
    assert all(
        " ".join(say(finding).seen.split()) in " ".join(card.text.split()) for finding in found
    )
    assert "step 3 was skipped" in card.text and "How sure" in card.text
    assert "◆ Look: A batch twice as large" in card.text, "the verdict has the word of the page"
    (track,) = (dict(attributes) for _, attributes in card.found if attributes.get("role") == "img")
    estimate = found.diagnosis.estimates["noise_scale"]
    assert str(estimate) in track["aria-label"] and "compared with B = 32" in track["aria-label"]
    left, width = next(
        map(float, drawn)
        for _, attributes in card.found
        for drawn in re.findall(r"left:([\d.]+)%;width:([\d.]+)%", attributes.get("style") or "")
    )
    (tick,) = re.findall(r"left:([\d.]+)%;top:-4px", found._repr_html_())
    assert float(tick) < left and 0 < width < 100 - left, "B = 32 is below the whole interval"


def test_a_card_has_no_script_no_style_sheet_no_link_and_escapes_what_it_shows() -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    diagnosis = diagnosis_of()
    facts = dict.fromkeys(("seen", "means", "advice", "caveat"), hostile)
    bad = replace(
        diagnosis.findings[0], claim="own", facts=facts, trial=Trial(facts={"call": hostile})
    )
    card = Elements(Findings((bad,), (hostile,), diagnosis)._repr_html_())
    assert {tag for tag, _ in card.found} <= {
        "div",
        "span",
        "b",
        "code",
        "details",
        "pre",
        "summary",
    }
    assert not any(
        name.startswith("on") or name in {"href", "src", "class", "id"}
        for _, a in card.found
        for name in a
    )


@pytest.mark.parametrize("paper", [(1.0, 1.0, 1.0), (0.067, 0.067, 0.067)], ids=["light", "dark"])
def test_the_colours_of_states_can_be_seen_on_light_and_dark_paper(
    paper: tuple[float, float, float],
) -> None:
    def luminance(colour: tuple[float, ...]) -> float:
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour
        ]
        return sum(
            share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    assert set(COLOURS) == {state.name.lower() for state in State}
    for colour in (*COLOURS.values(), "#3f8fc9"):
        one, other = (
            luminance(tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))),
            luminance(paper),
        )
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 3, colour


def test_a_watch_shows_its_run_and_findings_and_says_when_there_are_none(tmp_path: Path) -> None:
    made = network()
    w = watched(tmp_path, made, page=False)
    assert "Nothing has been measured yet." in w._repr_html_() and repr(w) == "<watch: no step yet>"
    with w:
        for batch in batches(3):
            made[1].zero_grad()
            w.step(backward(made[0], batch), batch)
            made[1].step()
    card = Elements(w._repr_html_())
    assert (
        w.run is not None
        and w.run.name in card.text
        and "3 steps" in card.text
        and "finished" in card.text
    )
    assert repr(w) == f"<watch: {w.run.path}, 3 steps>"
    assert str(w.run.path) in card.text and all(
        say(finding).seen in card.text for finding in w.findings()
    )


def test_print_keeps_to_80_columns_and_names_each_paragraph() -> None:
    text = str(findings(diagnosis_of(unbounded=0), "a warning " * 20))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("! warning: ") and "\n  try: " in text and "\n  caution: " in text
