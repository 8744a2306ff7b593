"""A watched run: its path, its page, and looks at its model on request."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.data import DataLoader

from gradiometer import BadArgument, Estimate, Objective, Run, supervised, watch
from gradiometer.cli import gradiometer
from gradiometer.convergence.certificate import Certificate
from gradiometer.convergence.certificate.certifying import gradient_squared
from gradiometer.drift.curvature_survey import Survey
from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport
from gradiometer.integrations.watch import Watch
from gradiometer.problems import Examples
from gradiometer.run.artifacts import load_artifacts
from watched_loop import one_backward, simple

START = Estimate.exact(1.0)
LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))


def data(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 8, generator=generator), torch.randint(
        5, (count,), generator=generator
    )


def through(model: nn.Module, optimizer: torch.optim.Optimizer, w: Watch, steps: int = 6) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        w.step(*one_backward(model))
        optimizer.step()


def watched(out: Path, steps: int = 6, **settings: Any) -> Watch:
    model, optimizer, w = simple(out, **settings)
    with w:
        through(model, optimizer, w, steps)
    return w


@pytest.mark.page
def test_a_program_that_changes_its_folder_keeps_its_run_and_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    model, optimizer, w = simple(Path("runs"))
    with w:
        through(model, optimizer, w)
        monkeypatch.chdir(tmp_path / "elsewhere")
        through(model, optimizer, w)
        assert not w.findings().warnings
    assert (
        w.run is not None
        and w.run.path == tmp_path / "runs" / "loop-1"
        and len(w.run.losses[0]) == 12
    )
    assert (w.run.path / "report.html").exists()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_it_prints_once_where_the_run_is_what_is_measured_and_what_that_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = "in 2 % of the training time, and about 10 % in the first"
    for place, (settings, often) in enumerate(
        (
            ({"every": 1}, "at every step"),
            ({"every": 3}, "at one step in 3"),
            ({"every": 1, "parts": None}, "at every step"),
            ({"every": None}, f"{share} 300 steps"),
            ({"every": None, "parts": 4}, f"{share} 1,000 steps"),
        ),
        start=1,
    ):
        watched(tmp_path, gauges="noise,trajectory", **settings)
        printed = (
            f"gradiometer: {tmp_path / f'loop-{place}'}: measures noise, trajectory {often}, to "
            "see if the batch is too small or too large\n"
        )
        assert capsys.readouterr() == ("", printed)
    for place, steps, cost in (
        (6, 40, "more than 10 % of the time of only 40 steps"),
        (7, 300, "about 10 % of the time of these 300 steps"),
    ):
        model, optimizer, w = simple(tmp_path, gauges="noise", every=None, steps=steps)
        with w:
            through(model, optimizer, w, 2)
        told = capsys.readouterr().err
        assert f"loop-{place}: measures noise in {cost}, to see" in told
    watched(tmp_path, gauges="trajectory", every=None)
    assert capsys.readouterr().err.endswith(f"measures trajectory {share} 1,000 steps\n")
    watched(tmp_path, budget=0.0, every=None)
    assert capsys.readouterr().err.endswith("loop-9: nothing is measured (budget 0)\n")
    watched(tmp_path, quiet=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.page
def test_its_page_is_written_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched(tmp_path)
    page = tmp_path / "loop-1" / "report.html"
    assert capsys.readouterr().err.splitlines()[-1] == f"gradiometer: the page is {page}"
    assert "loop-1" in page.read_text(encoding="utf-8")


@pytest.mark.page
@pytest.mark.parametrize(
    "settings", [{"page": False}, {"budget": 0.0, "every": None}], ids=["unwanted", "unmeasured"]
)
def test_no_page_is_written_if_it_is_not_wanted_or_if_nothing_was_measured(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    watched(tmp_path, **settings)
    assert (tmp_path / "loop-1").is_dir() and not (tmp_path / "loop-1" / "report.html").exists()


@pytest.mark.page
def test_a_page_that_cannot_be_written_does_not_fail_the_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer, w = simple(tmp_path)
    with w:
        through(model, optimizer, w)
        (tmp_path / "loop-1" / "report.html").mkdir()
    assert caplog.messages[-1].startswith("the page was not written: ")
    assert Run.open(tmp_path / "loop-1").status == "finished"


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 5)
    )


def trained(out: Path, *, looks: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer, loss=LOSS, out=out, every=2) as w:
        through(model, optimizer, w, 9)
        if looks:
            before = w.budget.spent
            assert w.certify(data(), batches=8, start=START) is not None
            assert w.budget.spent > before
            assert w.sharpness(data(), top=1, probes=4) is not None
            assert w.snapshot() is not None
        through(model, optimizer, w, 4)
    return [value.clone() for value in model.state_dict().values()], torch.get_rng_state()


def test_looks_leave_training_as_it_was(tmp_path: Path) -> None:
    (plain, random), (looked_at, other) = (
        trained(tmp_path, looks=False),
        trained(tmp_path, looks=True),
    )
    assert all(torch.equal(one, two) for one, two in zip(plain, looked_at, strict=True))
    assert torch.equal(random, other)
    kept = Run.open(tmp_path / "loop-2")
    assert [found.step for found in load_artifacts(kept, Certificate)] == [9]
    assert [found.step for found in load_artifacts(kept, Survey)] == [9]
    assert (kept.path / "snapshots" / "step_000009.safetensors").is_file()


def test_a_loader_gives_its_examples_through_its_own_collate_fn(tmp_path: Path) -> None:
    inputs, labels = data(20)

    def batch_of(items: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs[items], labels[items]

    w = watched(tmp_path)
    by_loader = w.sharpness(
        DataLoader(range(20), batch_size=4, collate_fn=batch_of), top=1, probes=4
    )  # type: ignore[arg-type]
    assert repr(by_loader) == repr(w.sharpness((inputs, labels), top=1, probes=4))


@pytest.mark.page
def test_a_look_after_the_end_is_on_the_page(tmp_path: Path) -> None:
    w = watched(tmp_path)
    page = tmp_path / "loop-1" / "report.html"
    before = page.read_text(encoding="utf-8")
    assert "lowest curvature" not in before
    w.certify(data(), exact=True, start=START)
    assert "lowest curvature" in page.read_text(encoding="utf-8")


def through_one_batch(
    w: Watch, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any
) -> None:
    with w:
        for _ in range(20):
            optimizer.zero_grad()
            value = LOSS(model, batch).mean()
            value.backward()
            w.step(value, batch)
            optimizer.step()


def test_a_certificate_compares_with_the_gradient_at_the_first_step(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path)
    batch = data(16)
    start, _ = gradient_squared(Objective(model, LOSS), Examples(batch), exact=True, batch_size=16)
    through_one_batch(w, model, optimizer, batch)
    certificate = w.certify(batch, exact=True)
    assert certificate is not None and certificate.step == 20
    assert certificate.start_squared.value == pytest.approx(start.value, rel=1e-12)
    assert certificate.gradient_squared.value < start.value


def test_a_large_model_or_a_continued_run_compares_with_the_first_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradiometer.integrations.watch.observers.kept_updates.MOST_NUMBERS", 10)
    model, optimizer, w = simple(tmp_path)
    batch = data()[0], torch.ones(64, dtype=torch.long)
    through_one_batch(w, model, optimizer, batch)
    certificate = w.certify(batch, exact=True)
    series = Run.open(tmp_path / "loop-1").series("noise")
    assert certificate is not None and series is not None
    first = series.moments["gradient_norm_squared"][:8].sum(axis=1).mean()
    assert certificate.start_squared.value == pytest.approx(first, rel=1e-12)
    for gauges, steps, why in (
        ("batch_sharpness", 6, "no readings of the noise"),
        ("noise", 3, "do not show it"),
    ):
        w = watched(tmp_path, gauges=gauges, steps=steps)
        with pytest.raises(BadArgument, match=f"`start` is missing, and .*{why}"):
            w.certify(data())


@pytest.mark.parametrize(
    ("kind", "decay"), [(torch.optim.SGD, 0.25), (torch.optim.Adam, 0.25), (torch.optim.AdamW, 0.0)]
)
def test_a_certificate_counts_weight_decay_only_if_it_is_a_penalty(
    tmp_path: Path, kind: Any, decay: float
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 5)
    optimizer = kind(model.parameters(), lr=1e-9, weight_decay=0.25)
    with watch(model, optimizer, loss=LOSS, out=tmp_path, every=1, parts=2) as w:
        through(model, optimizer, w)
    default, given = (
        w.certify(data(), exact=True, start=START, **more) for more in ({}, {"weight_decay": decay})
    )
    assert default == given
    assert default != w.certify(data(), exact=True, start=START, weight_decay=0.125)


def test_groups_of_different_weight_decay_must_be_settled(tmp_path: Path) -> None:
    model = nn.Linear(8, 5)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    with watch(model, optimizer, loss=LOSS, out=tmp_path, every=1, parts=2) as w:
        through(model, optimizer, w)
        with pytest.raises(BadArgument, match="`weight_decay` differs"):
            w.certify(data(), start=START)


def test_looks_need_a_step_and_a_loss(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path)
    with w, pytest.raises(BadArgument, match="`step` was not called yet"):
        w.snapshot()
    model, optimizer, w = simple(tmp_path, loss=None, accumulation=2)
    with w:
        for _ in range(2):
            through(model, optimizer, w, 1)
        with pytest.raises(BadArgument, match="`loss` is missing"):
            w.sharpness(data())


def test_snapshots_of_a_watched_run_are_scored_as_an_ensemble(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path)
    with w:
        for _ in range(3):
            through(model, optimizer, w, 2)
            w.snapshot()
        before = [value.clone() for value in model.state_dict().values()]
        report = w.ensemble(data(1000), points=0)
        assert all(
            torch.equal(one, two)
            for one, two in zip(before, model.state_dict().values(), strict=True)
        )
    run = Run.open(tmp_path / "loop-1")
    assert report is not None and report.snapshots == 3
    assert [found.scored for found in load_artifacts(run, EnsembleReport)] == [report.scored]
    assert [event["number"] for event in run.events if event["event"] == "snapshot"] == [1, 2, 3]


def test_an_ensemble_with_batch_norm_needs_the_training_examples(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer, loss=LOSS, out=tmp_path, every=1, parts=2) as w:
        for _ in range(2):
            through(model, optimizer, w, 1)
            w.snapshot()
        with pytest.raises(BadArgument, match="`train` is missing"):
            w.ensemble(data(1000))
        assert w.ensemble(data(1000), train=data(), points=0) is not None


@pytest.mark.parametrize(
    ("verb", "command"),
    [
        ("certify", "measure certificate"),
        ("sharpness", "measure sharpness"),
        ("ensemble", "ensemble"),
    ],
)
def test_a_verb_names_the_line_that_does_its_work_in_the_program(
    tmp_path: Path, verb: str, command: str
) -> None:
    watched(tmp_path)
    done = CliRunner().invoke(gradiometer, [*command.split(), str(tmp_path / "loop-1")])
    assert isinstance(done.exception, BadArgument) or done.exit_code
    assert re.search(rf"w\.{verb}\((train|test)\)", f"{done.exception} {done.output}")


def test_batch_compares_batches_for_a_watched_run(tmp_path: Path) -> None:
    watched(tmp_path, steps=60)
    done = CliRunner().invoke(
        gradiometer, ["measure", "batch", str(tmp_path / "loop-1")], catch_exceptions=False
    )
    assert (
        done.exit_code == 0
        and "To the same loss" in done.output
        and "time" not in done.output.split("caution")[0]
    )


def test_a_look_counts_against_the_budget(tmp_path: Path) -> None:
    w = watched(tmp_path, every=None, loss=LOSS)
    assert w.certify(data()) is not None
    overhead = w.overhead
    assert overhead["spent"]["looks on request"] > 0 and "looks of cooling" not in overhead["spent"]
    assert (overhead["fixed"], overhead["outside"]) == (
        ["looks on request", "updates kept for forks"],
        [],
    )
    assert w.budget.budgeted == w.budget.spent
