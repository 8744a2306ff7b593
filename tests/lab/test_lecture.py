"""The lecture: experiments are predicted before they are measured, and a wrong prediction is shown
as such."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gradiometer import BadArgument
from gradiometer.cli import main
from gradiometer.measurement import Estimate
from gradiometer_lab.lecture.catalogue import STATEMENTS, chosen
from gradiometer_lab.lecture.site import Site, prediction, write_site
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    ExperimentResult,
    Result,
    measure,
    meets,
    predict,
    result,
    run,
)


def within(low: float, high: float) -> Estimate:
    return Estimate.interval((low + high) / 2, low, high, level=0.999, method="test", samples=100)


def experiment(**changes: object) -> Experiment:
    usual = Experiment(
        name="test",
        setting=Circumstance.KNOWN,
        where="a test",
        quantity="q",
        dial="d",
        points=(1, 2),
        predict=lambda point: point,
        measure=lambda point: within(point - 0.1, point + 0.1),
        says="One, then two.",
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def shown() -> Result:
    return result(STATEMENTS["S8"])


@pytest.fixture(scope="module")
def site(shown: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a site of one statement."""
    folder = tmp_path_factory.mktemp("lecture") / "site"
    write_site([shown], folder)
    return folder


def test_an_experiment_that_comes_out_as_predicted_held() -> None:
    assert measure(predict(experiment())).held


def test_one_point_outside_its_interval_means_that_it_did_not_hold() -> None:
    outcome = measure(
        predict(
            experiment(measure=lambda point: within(0.9, 1.1) if point == 1 else within(2.01, 2.1))
        )
    )
    assert outcome.points_held == (True, False)
    assert not outcome.held


def test_nothing_holds_before_it_is_measured() -> None:
    assert not predict(experiment()).held


def test_if_the_claim_fails_the_measurement_must_exclude_it() -> None:
    assert measure(predict(experiment(claim=lambda point: point + 4))).held
    assert not measure(predict(experiment(claim=lambda point: {1: 5.0, 2: 2.05}[point]))).held


def test_an_unknown_measurement_meets_no_prediction() -> None:
    assert not meets(
        Estimate.exact(1.0), Estimate.unknown(level=0.999, method="too few", samples=3)
    )


def test_all_predictions_are_made_before_the_first_measurement() -> None:
    order: list[str] = []

    def noted(word: str, estimate: Estimate) -> Estimate:
        order.append(word)
        return estimate

    one = experiment(
        points=(1,),
        predict=lambda _: noted("predict", Estimate.exact(1.0)),
        measure=lambda _: noted("measure", within(0.5, 1.5)),
    )
    list(run(replace(STATEMENTS["S6"], experiments=(one, replace(one, name="again")))))
    assert order == ["predict", "predict", "measure", "measure"]


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_is_measured_on_a_known_answer_on_a_real_network_and_where_it_fails(
    name: str,
) -> None:
    experiments = STATEMENTS[name].experiments
    assert {each.setting for each in experiments} == set(Circumstance)
    assert len({each.name for each in experiments}) == len(experiments)


def test_an_unknown_statement_raises_and_is_named() -> None:
    with pytest.raises(
        BadArgument, match=r"Unknown statement 'S13' in `statements`\. Available: S1, S2"
    ):
        chosen(("S1", "S13"))


def test_statements_come_in_the_order_of_the_lecture() -> None:
    assert [statement.name for statement in chosen(("s7", "S2"))] == ["S2", "S7"]


def test_the_row_of_a_statement_has_its_numbers(shown: Result) -> None:
    line = shown.to_dict()
    assert line["statement"] == "S8"
    assert line["held"] is True
    assert line["low"] <= line["measured"] <= line["high"]
    assert line["predicted_low"] <= line["high"] and line["low"] <= line["predicted_high"]
    assert not line["predicted_low"] <= line["rival"] <= line["predicted_high"]


def test_a_page_shows_predictions_and_measurements(shown: Result, site: Path) -> None:
    page = (site / "s08.html").read_text()
    for outcome in shown.outcomes:
        assert outcome.experiment.says.replace("'", "&#39;") in page
    assert page.count("<svg") == 2 * len(shown.outcomes) + 1
    assert "✓" in page
    wrong = shown.real.experiment.rival
    assert wrong is not None
    assert (
        f"A wrong theory (dash-dotted): {wrong.says}: 15.9 at the last point, excluded at 2 of 3 "
        "points." in page
    )
    assert wrong.says in (site / "index.html").read_text()


SIMULATION = 1
"""Pictures of the simulation that the index begins with."""


def test_the_site_is_written_as_the_lecture_goes_on(shown: Result, tmp_path: Path) -> None:
    other = replace(shown.statement, name="S9", title="Another")
    site = Site(tmp_path, [shown.statement, other])
    index = tmp_path / "index.html"
    assert "2 to come" in index.read_text() and 'http-equiv="refresh"' in index.read_text()
    site.add(shown, "0:20 left")
    text = index.read_text()
    assert "Still to come, about 0:20 left" in text
    assert (
        "1 held, 1 to come" in text
        and "Another" in text
        and "s09.html" not in text
        and text.count("<svg") == SIMULATION + 1
    )
    assert "s09.html" not in (tmp_path / "s08.html").read_text()
    site.add(Result(other, shown.outcomes))
    text = index.read_text()
    assert (
        "2 held<" in text
        and 'http-equiv="refresh"' not in text
        and text.count("<svg") == SIMULATION + 2
    )
    assert "s09.html" in (tmp_path / "s08.html").read_text(), (
        "the page before links to the next one"
    )
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))


def test_the_site_needs_no_network(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text()
        links = re.findall(r'(?:href|src)="([^"]*)"', text)
        assert all(not link.startswith(("http", "//")) for link in links)
        assert "default-src 'none'" in text


def test_ids_on_a_page_are_unique(site: Path) -> None:
    names = re.findall(r'\bid="([^"]+)"', (site / "s08.html").read_text())
    assert len(names) == len(set(names))


def test_a_prediction_within_rounding_is_one_number() -> None:
    assert (
        prediction(
            Estimate.bound(0.194, low=0.1939999, high=0.1940001, method="rounding", samples=1)
        )
        == "0.194"
    )
    assert (
        prediction(Estimate.bound(0.2, low=0.1, high=0.3, method="bound", samples=1))
        == "[0.100, 0.300]"
    )


def test_a_statement_that_did_not_hold_is_shown_as_such(shown: Result, tmp_path: Path) -> None:
    outcome = shown.outcomes[0]
    missed = ExperimentResult(
        outcome.experiment, tuple(Estimate.exact(7e7) for _ in outcome.predicted), outcome.measured
    )
    write_site([Result(shown.statement, (missed, *shown.outcomes[1:]))], tmp_path)
    assert "did not hold" in (tmp_path / "s08.html").read_text()
    assert "0 held" in (tmp_path / "index.html").read_text()


def test_a_file_instead_of_a_folder_raises(shown: Result, tmp_path: Path) -> None:
    (tmp_path / "site").write_text("mine")
    with pytest.raises(BadArgument, match="`--out` must be a folder, got the file"):
        write_site([shown], tmp_path / "site")


def test_the_command_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["learn", "lecture", "S8", "--json"])
    assert ended.value.code == 0
    table = json.loads(capsys.readouterr().out)
    assert [line["statement"] for line in table["statements"]] == ["S8"]
    assert {"claim", "predicted", "measured", "low", "high", "held"} <= set(table["statements"][0])


@pytest.mark.slow
def test_the_numbers_are_the_same_in_processes(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for pool in ("here", "processes:2"):
        with pytest.raises(SystemExit):
            main(["learn", "lecture", "S8", "S1", "--json", "--pool", pool])
        printed.append(capsys.readouterr())
    assert printed[0].out == printed[1].out and json.loads(printed[0].out)["held"] == 2
    told = [re.sub(r", about [\d:]+ left", "", each.err) for each in printed]
    assert told[0] == told[1]
