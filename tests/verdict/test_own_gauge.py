"""A gauge of your own: given to `watch` and `train` as an object, recorded in the run, and read
again."""

import inspect
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from gradiometer import GAUGES, BadArgument, UserCodeFailed, diagnose
from gradiometer.cli import main
from gradiometer.gauges import Asked
from gradiometer.integrations.watch import watch
from gradiometer.measurement import (
    Estimate,
    Finding,
    Gauge,
    Issue,
    RunFacts,
    Series,
    State,
    TrainingStep,
)
from gradiometer.measurement.gauge import NOTHING_KNOWN
from gradiometer.measurement.uncertainty import mean
from gradiometer.problems import load
from gradiometer.report.page import write_page
from gradiometer.run import Configuration, Run
from gradiometer.testing import check_gauge
from gradiometer.train import resume, train
from gradiometer.verdict import say


@dataclass(frozen=True)
class LongShare(Gauge):
    """The share of steps whose gradient is longer than `norm`."""

    norm: float = 1.0

    name: ClassVar[str] = "long_share"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = ""
    labels: ClassVar[Mapping[str, str]] = {"long_share": "share of long gradients"}
    question: ClassVar[str] = "Are most gradients long?"
    needs_loss: ClassVar[bool] = False

    def measure(self, step: TrainingStep) -> dict[str, float]:
        return {
            "long": float(torch.cat([part.flatten() for part in step.gradient]).norm() > self.norm)
        }

    def estimate(self, series: Series, level: float = 0.9) -> dict[str, Estimate]:
        return {"long_share": mean(series.moments["long"], level=level, spacing=series.spacing)}

    def judge(self, estimates: Mapping[str, Estimate], run: RunFacts = NOTHING_KNOWN) -> Finding:
        facts = {
            "seen": "Longer than {norm} is a share of {long_share}.",
            "means": "This is a test.",
            "norm": self.norm,
        }
        return Finding(
            self.name, self.issue, "own", State.OK, {"long_share": estimates["long_share"]}, facts
        )


class Failing(LongShare):
    name: ClassVar[str] = "failing"

    def estimate(self, series: Series, level: float = 0.9) -> dict[str, Estimate]:
        raise ZeroDivisionError("no steps")


def watched(folder: Path, **settings: object) -> Run:
    torch.manual_seed(0)
    digits = load("digits", model="mlp")
    model = digits.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, loss=digits.loss, out=folder, every=1, **settings) as w:
        for index in torch.randperm(len(digits.train))[:640].split(32):
            optimizer.zero_grad()
            batch = digits.train.batch(index)
            loss = digits.loss(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
        assert w.findings() or w.findings().warnings
    return w.run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return watched(tmp_path_factory.mktemp("runs"), gauges=["noise", LongShare(norm=0.5)])


@pytest.mark.slow
def test_it_is_in_findings_run_table_page_and_export(run: Run, tmp_path: Path, capsys) -> None:
    diagnosis = diagnose(run)
    assert any(say(finding).seen.startswith("Longer than 0.5") for finding in diagnosis.findings)
    assert diagnosis.estimates["long_share"].samples == 20
    assert run.manifest["gauges"] == [
        {
            "name": "long_share",
            "path": f"{__name__}:LongShare",
            "repr": "LongShare(norm=0.5)",
            "settings": '{"norm": 0.5}',
        }
    ]
    page = write_page(run, diagnosis, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Are most gradients long?" in page and "share of long gradients" in page
    with pytest.raises(SystemExit):
        main(["runs", "export", str(run.path), "--out", str(tmp_path / "readings.csv")])
    assert "long_share" in (tmp_path / "readings.csv").read_text(encoding="utf-8")


def test_a_run_opens_without_the_class_and_names_the_gap(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, __name__)
    opened = Run.open(run.path)
    diagnosis = diagnose(opened)
    (gap,) = [finding for finding in diagnosis.findings if finding.gauge == "long_share"]
    assert gap.state is State.CANNOT_TELL and say(gap).seen == (
        f"The class of the gauge 'long_share', {__name__}:LongShare, is not available. The run has "
        "20 readings of it."
    )
    assert (
        opened.series("long_share").moments["long"].shape == (20,)
        and "long_share" not in diagnosis.estimates
    )
    for given in (LongShare, LongShare(norm=0.5)):
        assert "long_share" in diagnose(Run.open(run.path, gauges=[given])).estimates


def test_a_file_cannot_choose_what_is_imported_or_made(run: Run, tmp_path: Path) -> None:
    text = (run.path / "run.toml").read_text(encoding="utf-8")
    manifest = tmp_path / "copy" / "run.toml"
    manifest.parent.mkdir()
    for name in ("readings.jsonl", "events.jsonl"):
        (manifest.parent / name).write_bytes((run.path / name).read_bytes())
    for path in ("antigravity:LongShare", "os:system", f"{__name__}:load", ":", "", "sys:modules"):
        manifest.write_text(text.replace(f"{__name__}:LongShare", path), encoding="utf-8")
        assert "long_share" not in diagnose(Run.open(manifest.parent)).estimates
        assert "antigravity" not in sys.modules
    manifest.write_text(
        text.replace('\\"norm\\": 0.5', '\\"norm\\": 0.7').replace('"norm": 0.5', '"norm": 0.7')
    )
    assert "long_share" not in diagnose(Run.open(manifest.parent)).estimates, (
        "settings that do not give the repr"
    )


def test_train_takes_it_and_resume_wants_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = Configuration(
        problem="digits", model="mlp", epochs=1, every=5, check_endpoint=False
    )
    problem = load("digits", model="mlp")
    run = train(problem, configuration, tmp_path, gauges=["noise", LongShare()])
    assert (
        run.configuration.gauges == "noise,long_share" and "long_share" in diagnose(run).estimates
    )
    (run.path / "events.jsonl").write_text(
        "".join(
            line
            for line in (run.path / "events.jsonl").read_text().splitlines(keepends=True)
            if json.loads(line)["event"] != "finished"
        )
    )
    monkeypatch.delitem(sys.modules, __name__)
    with pytest.raises(
        BadArgument, match=f"`gauges` lacks long_share: import {__name__}:LongShare and give it"
    ):
        resume(run.path)
    assert resume(run.path, gauges=[LongShare()]).status == "finished"


def test_the_command_line_imports_it_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    name = f"{Path(__file__).stem}:LongShare"
    flags = [
        "--model",
        "mlp",
        "--epochs",
        "1",
        "--every",
        "5",
        "--out",
        str(tmp_path),
        "--json",
        "--no-open",
    ]
    with pytest.raises(SystemExit):
        main(["train", "digits", "--gauges", f"noise,{name}", *flags])
    found = json.loads(capsys.readouterr().out)
    assert "long_share" in found["estimates"]
    with pytest.raises(SystemExit):
        main(["show", found["run"], "--gauge", name, "--json"])
    assert "long_share" in json.loads(capsys.readouterr().out)["estimates"]


def test_one_that_fails_names_itself(tmp_path: Path) -> None:
    run = watched(tmp_path, gauges=[Failing()])
    words = r"`Failing.estimate` raised ZeroDivisionError: no steps, at test_own_gauge"
    assert re.search(words, run.warnings[0]) and run.status == "finished"
    with pytest.raises(UserCodeFailed, match=words):
        diagnose(run)


@pytest.mark.parametrize(
    ("gauges", "message"),
    [
        (["nois"], "has the unknown name 'nois'. Did you mean 'noise'"),
        ("noise,lng", "has the unknown name 'lng'"),
        (
            [type("Nameless", (LongShare,), {"name": None})()],
            "Nameless needs `name`, a class attribute of type str",
        ),
        (
            [type("Taken", (LongShare,), {"name": "noise"})()],
            "Taken is named 'noise': rename it to an identifier",
        ),
        ([LongShare(), LongShare(2.0)], "has two gauges named long_share"),
        (["json:LongShare"], "the module json has no gauge class 'LongShare'"),
    ],
)
def test_what_is_no_gauge_is_refused_before_training(
    tmp_path: Path, gauges: object, message: str
) -> None:
    with pytest.raises(BadArgument, match=f"`gauges`.*{message}"):
        watched(tmp_path, gauges=gauges)


@pytest.mark.parametrize(
    ("gauges", "message"),
    [
        (
            ["noise", LongShare],
            r"must hold gauge objects, got the class LongShare: write LongShare\(\)",
        ),
        (LongShare(), "must be a list of names and gauge objects"),
        (["noise", 3], "must hold names and gauge objects, got int"),
    ],
)
def test_another_type_is_refused_too(gauges: object, message: str) -> None:
    without_the_suites_own_check = inspect.unwrap(Asked.of.__func__)
    with pytest.raises(BadArgument, match=f"`gauges` {message}"):
        without_the_suites_own_check(Asked, gauges)


@pytest.mark.parametrize("kind", GAUGES.values(), ids=lambda kind: kind.name)
def test_every_gauge_meets_the_laws_and_shares_no_quantity(kind: type[Gauge]) -> None:
    check_gauge(kind())
    others = [other for other in GAUGES.values() if other is not kind]
    assert not any(set(kind.labels) & set(other.labels) for other in others), (
        "a quantity belongs to one gauge"
    )


def test_the_catalogue_takes_a_new_gauge_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new gauge is one file and its entry: nothing else in the package names it."""
    monkeypatch.setitem(GAUGES.built_in, LongShare.name, LongShare)
    again = watched(run.path.parent / "catalogue", gauges="noise,long_share")
    diagnosis = diagnose(again)
    assert (
        "long_share" in diagnosis.estimates
        and diagnosis.labels["long_share"] == "share of long gradients"
    )
    assert "gauges" not in again.manifest or again.manifest["gauges"] == []


@dataclass(frozen=True)
class Answers(LongShare):
    """A gauge with a method that returns something else than it has to."""

    wrong: str = ""

    def measure(self, step: TrainingStep) -> Any:
        return 5 if self.wrong == "measure" else {"long": 1.0}

    def estimate(self, series: Series, level: float = 0.9) -> Any:
        return {"long_share": 5} if self.wrong == "estimate" else super().estimate(series, level)

    def judge(self, estimates: Mapping[str, Estimate], run: RunFacts = NOTHING_KNOWN) -> Any:
        return (1, 2) if self.wrong == "judge" else None


@pytest.mark.parametrize("wrong", ["measure", "estimate", "judge"])
def test_a_wrong_answer_of_a_gauge_is_named(wrong: str, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(
        model,
        optimizer,
        loss=lambda model, batch: model(batch).square().mean(),
        gauges=[Answers(wrong=wrong)],
        every=1,
        out=tmp_path,
        page=False,
    ) as watched:
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            watched.step(loss, torch.ones(4, 2))
            optimizer.step()
    run = watched.run
    assert run is not None and len(run.losses[0]) == 4
    sentence = f"`Answers.{wrong}` must return"
    if wrong == "measure":
        assert any(sentence in text for text in run.warnings)
    else:
        with pytest.raises(BadArgument, match=sentence):
            diagnose(run)
