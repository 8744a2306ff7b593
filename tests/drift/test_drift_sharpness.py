"""`gradiometer measure sharpness`, the survey it makes, and the page's section of drift."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from gradiometer import BadArgument, Diagnosis, diagnose
from gradiometer.cli.measure.sharpness import sharpness
from gradiometer.drift import Curvature
from gradiometer.drift.curvature import survey
from gradiometer.drift.curvature_survey import Survey
from gradiometer.measurement import Estimate, Objective
from gradiometer.problems import load
from gradiometer.report.charts import save_png
from gradiometer.report.charts.charts import page_spec
from gradiometer.report.sections.drift import density_figure, drift_section
from gradiometer.run import Configuration, Run
from gradiometer.run.artifacts import load_artifacts, save_artifact
from gradiometer.storage.journal import plain
from gradiometer.train import train
from gradiometer_lab.closed_forms import Quadratic
from report_run import run_in

CURVATURES = np.geomspace(0.01, 5, 30)


@cache
def known() -> Survey:
    """The survey of a quadratic in random axes, whose spectrum is known."""
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 30)))[0]
    quadratic = Quadratic(axes * CURVATURES @ axes.T, np.eye(30))
    torch.manual_seed(0)
    problem = quadratic.problem(examples=64)
    curvature = Curvature.of(
        Objective(problem.model(), problem.loss), problem.train.data, at_once=20
    )
    return survey(curvature, of=64, top=3, probes=8)


def run_verb(*arguments: str) -> Result:
    return CliRunner().invoke(sharpness, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    configuration = Configuration(
        problem="digits", model="mlp", epochs=1, learning_rate=0.2, budget=0.0
    )
    return train(load("digits", model="mlp"), configuration, tmp_path_factory.mktemp("runs"))


def test_a_survey_holds_the_known_curvatures_of_a_quadratic() -> None:
    for estimate, value in zip(known().largest, CURVATURES[::-1], strict=False):
        assert estimate.low <= value <= estimate.high
    assert known().smallest[0].low <= CURVATURES[0] <= known().smallest[0].high
    assert known().trace.low <= CURVATURES.sum() <= known().trace.high
    assert known().examples == known().of == 64 and known().what.startswith(
        "the full loss, 64 examples"
    )
    assert CURVATURES[0] < known().along_gradient.value < CURVATURES[-1]
    assert known().negative_share.value < 0.05


def test_a_saved_survey_is_loaded_unchanged(trained: Run) -> None:
    save_artifact(trained, replace(known(), step=7))
    (again,) = [kept for kept in load_artifacts(trained, Survey) if kept.step == 7]
    (trained.path / "curvature" / "step_000007.json").unlink()
    assert plain(again) == plain(replace(known(), step=7)) and again.estimates == known().estimates


def test_the_verb_surveys_a_problem_at_its_start_and_later(tmp_path: Path) -> None:
    picture = tmp_path / "density.png"
    result = run_verb(
        "digits",
        "--set",
        "model=mlp",
        "--examples",
        "64",
        "--steps",
        "3",
        "--top",
        "2",
        "--png",
        str(picture),
    )
    assert "a fixed subsample of 64 of 1,437 examples, in train mode, at step 3" in " ".join(
        result.output.split()
    )
    assert "λ_2" in result.output and "2/η = 20.0" in " ".join(result.output.split())
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_verb_prints_one_json_object_with_every_number() -> None:
    result = run_verb(
        "digits",
        "--set",
        "model=mlp",
        "--examples",
        "64",
        "--mode",
        "eval",
        "--json",
        "--seed",
        "3",
    )
    found = json.loads(result.output)
    assert found["examples"] == 64 and found["mode"] == "eval" and len(found["largest"]) == 5
    assert all(each["low"] <= each["value"] <= each["high"] for each in found["largest"])
    assert found["finding"]["seen"].startswith("The sharpness λ_max") and found["page"] is None
    again = json.loads(
        run_verb(
            "digits",
            "--set",
            "model=mlp",
            "--examples",
            "64",
            "--mode",
            "eval",
            "--json",
            "--seed",
            "3",
        ).output
    )
    assert again == found


def test_the_verb_surveys_the_last_checkpoint_and_saves_the_survey(trained: Run) -> None:
    found = json.loads(run_verb(str(trained.path), "--examples", "100", "--json").output)
    assert found["step"] == trained.steps and Path(found["page"]).is_file()
    (kept,) = load_artifacts(trained, Survey)
    assert kept.step == trained.steps and kept.sharpness.value == pytest.approx(
        found["largest"][0]["value"]
    )


def test_the_section_shows_sharpness_its_edge_and_the_density(trained: Run, tmp_path: Path) -> None:
    run = _with_surveys(trained)
    history = {
        "batch_sharpness": tuple((step, _around(5 + step / 10)) for step in (10, 20, 30, 40)),
        "edge": tuple((step, Estimate.exact(10.0)) for step in (10, 20, 30, 40)),
    }
    section = drift_section(run, Diagnosis((), {"batch_sharpness": _around(9.0)}, history))
    assert [figure.name for figure in section.figures] == ["sharpness", "density"]
    assert "batch sharpness goes from 6.00 [5.40, 6.60]" in section.figures[0].summary
    assert "The edge 2/η is 10.0." in section.figures[0].summary
    names = [row[0] for row in section.table.rows]
    assert names[0].startswith("batch sharpness") and "trace of the Hessian, Tr H" in names
    for figure in section.figures:
        json.dumps(page_spec(figure.chart, figure.summary), allow_nan=False)
        assert (
            save_png(figure.chart, tmp_path / f"{figure.name}.png", figure.title).stat().st_size
            > 5000
        )


def test_the_section_of_a_run_without_drift_names_the_command(tmp_path: Path) -> None:
    configuration = Configuration(
        problem="digits", model="mlp", epochs=1, batch_size=500, budget=0.0
    )
    run = train(load("digits", model="mlp"), configuration, tmp_path)
    section = drift_section(run, diagnose(run))
    assert not section.figures and "gradiometer measure sharpness" in section.lead


def test_a_density_is_drawn_without_an_edge() -> None:
    figure = density_figure(known(), None)
    assert figure.summary.startswith("Hessian of the full loss") and len(figure.table.rows) == 50


def test_an_incomplete_survey_file_is_left_out(trained: Run) -> None:
    run = _with_surveys(trained)
    (run.path / "curvature" / "step_000001.json").write_text('{"step": 1, "lar')
    assert all(each.step != 1 for each in load_artifacts(run, Survey))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("digits", "--examples", "2000"),
            "`examples` must lie between 1 and the 1,437 training examples, got 2,000",
        ),
        (("digits", "--examples", "0"), "`examples` must lie between 1 and the 1,437"),
        (("nonesuch",), "`problem` 'nonesuch' is unknown"),
        (
            ("digits", "--set", "learning_rate=nan"),
            "`learning_rate` must be positive and finite, got nan",
        ),
        (("digits", "--png", "/nonesuch/x.png"), "the folder /nonesuch does not exist"),
    ],
)
def test_wrong_arguments_of_the_verb_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        run_verb(*arguments)


def test_settings_of_a_problem_are_refused_for_a_run(trained: Run) -> None:
    with pytest.raises(
        BadArgument,
        match=r"`--set learning_rate` is only for a problem: leave it out, the run .* has its own value",
    ):
        run_verb(str(trained.path), "--set", "learning_rate=0.1")


def _around(value: float) -> Estimate:
    return Estimate.interval(
        value, 0.9 * value, 1.1 * value, level=0.9, method="Fieller", samples=20
    )


def _with_surveys(run: Run) -> Run:
    save_artifact(run, known())
    return run


def test_the_edge_is_drawn_for_a_changing_learning_rate(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=600, schedule="cosine")
    history = {"batch_sharpness": ((600, _around(9.0)),), "edge": ((600, Estimate.exact(40.0)),)}
    figure = drift_section(run, Diagnosis((), {"batch_sharpness": _around(9.0)}, history)).figures[
        0
    ]
    assert "The edge 2/η is 20.0 at the largest η, and rises as η falls." in figure.summary
    drawn = [
        row["edge"]
        for rows in figure.chart.to_dict()["datasets"].values()
        for row in rows
        if "edge" in row
    ]
    known = [edge for edge in drawn if edge is not None]
    assert min(known) == pytest.approx(20.0) and 300 < max(known) <= 400 and None in drawn
