"""What a watched loop says of its optimizer, learning rate and schedule, and the advice that
follows from them."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from gradiometer import BadArgument, diagnose, watch
from gradiometer.cli.measure.batch import batch
from gradiometer.cli.show import show
from gradiometer.estimation import PreconditionedNoise
from gradiometer.integrations.watch import Watch
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement import Finding, supervised
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.report.page import write_page
from gradiometer.run import Run
from gradiometer.run.configuration import WatchedConfiguration
from gradiometer.verdict import diagnosis as chain
from gradiometer.verdict import say
from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.triage import Triage


@pytest.fixture(autouse=True)
def let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are drawn at random here, which triage says, and then gauges advise nothing."""
    passed = Triage((Claimed(Claim.UNDECIDED, {"steps": 1.0}),), Level(math.nan, Known.NOTHING), {})
    monkeypatch.setattr(chain, "triage_of", lambda _: passed)


LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
STEPS = 200


class Lion(torch.optim.Optimizer):
    """An optimizer whose steps are signs."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.99)})

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


def sgd(model: nn.Module, rate: float = 0.1, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)


def groups(model: nn.Module) -> torch.optim.Optimizer:
    first, _, last = model
    own = [
        {"params": first.parameters()},
        {"params": last.parameters(), "lr": 0.01, "weight_decay": 0.1},
    ]
    return torch.optim.SGD(own, lr=0.1)


def no_schedule(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Keep the rate."""


def scheduled(kind: Any, **settings: Any) -> Callable[[torch.optim.Optimizer, int], None]:
    """A scheduler of torch, made at the first step."""
    made: list[Any] = []

    def set_rate(optimizer: torch.optim.Optimizer, step: int) -> None:
        if not made:
            made.append(kind(optimizer, **settings))
        elif isinstance(made[0], torch.optim.lr_scheduler.ReduceLROnPlateau):
            made[0].step(1.0)
        else:
            made[0].step()

    return set_rate


def warm_up_and_cosine(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Set by hand, as nanoGPT does: over 20 steps to 6e-4, then to 6e-5."""
    rate = 6e-5 + 2.7e-4 * (1 + math.cos(math.pi * (step - 20) / (STEPS - 21)))
    for group in optimizer.param_groups:
        group["lr"] = 6e-4 * step / 20 if step < 20 else rate


def by_hand(optimizer: torch.optim.Optimizer, step: int) -> None:
    if step == 150:
        for group in optimizer.param_groups:
            group["lr"] = 0.01


def loop(
    out: Path,
    make: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    set_rate: Callable[[torch.optim.Optimizer, int], None] = no_schedule,
    **settings: Any,
) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    optimizer = make(model)
    settings = {"loss": LOSS, "every": 4, "gauges": "noise"} | settings
    with watch(model, optimizer, out=out, **settings) as w:
        for step in range(STEPS):
            set_rate(optimizer, step)
            one_step(model, optimizer, w)
    assert w.run is not None
    return w.run


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, w: Watch) -> None:
    inputs, labels = torch.randn(8, 8), torch.randint(5, (8,))
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    loss.backward()
    w.step(loss, (inputs, labels))
    optimizer.step()


def settings_of(run: Run) -> Hyperparameters:
    assert run.hyperparameters is not None
    return run.hyperparameters


def facts_of(run: Run) -> dict[str, str]:
    """The facts about the optimizer at the top of the page."""
    return settings_of(run).facts


def of_the_batch(run: Run) -> Finding:
    return next(finding for finding in diagnose(run).findings if finding.gauge == "noise")


def batch_of(run: Run) -> dict[str, Any]:
    result = CliRunner().invoke(
        batch, [str(run.path), "--json"], standalone_mode=False, catch_exceptions=False
    )
    return dict(json.loads(result.stdout))


ONE_CYCLE = scheduled(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=STEPS)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)


def test_one_cycle_is_described_and_its_edge_has_the_momentum_of_each_step(tmp_path: Path) -> None:
    run = loop(
        tmp_path, lambda model: sgd(model, momentum=0.9), ONE_CYCLE, gauges="noise,batch_sharpness"
    )
    facts = facts_of(run)
    assert facts["optimizer"] == "SGD" and facts["momentum"] == "between 0.85 and 0.95, now 0.95"
    assert facts["learning rate"] == "warm-up over 59 steps to 0.1, then cosine to 4e-7"
    series = run.series("batch_sharpness")
    assert series is not None
    momentum = series.moments["momentum"]
    assert 0.85 <= momentum.min() < 0.87 and momentum.max() > 0.94
    edge = diagnose(run).estimates["edge"].value
    assert edge == pytest.approx(2 * (1 + momentum[-1]) / series.learning_rate[-1])


def test_under_a_schedule_the_advice_scales_the_schedule_from_its_peak(tmp_path: Path) -> None:
    run = loop(
        tmp_path,
        set_rate=scheduled(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS),
        parts=0,
    )
    advice, told = say(of_the_batch(run)).advice, batch_of(run)
    factor, peak, updates = re.findall(
        r"times ([\d.]+) \(peak ([\d.]+) instead of 0\.1\), over ([\d.]+)", advice
    )[0]
    assert advice.startswith("`batch_size = 16` with the whole schedule of the learning rate")
    assert float(peak) == pytest.approx(0.1 * float(factor), rel=0.01)
    assert float(factor) * float(updates) == pytest.approx(1, rel=0.01)
    row = next(row for row in told["rows"] if row["batch_size"] == 8)
    assert row["learning_rate"]["value"] == told["learning_rate"] == 0.1
    assert told["learning_rates"] == facts_of(run)["learning rate"]


def test_advice_at_a_constant_rate_is_batch_and_rate(tmp_path: Path) -> None:
    run = loop(tmp_path)
    finding = of_the_batch(run)
    rate = re.findall(
        r"^`batch_size = 16` with `lr = ([\d.]+)`, if wall time matters", say(finding).advice
    )[0]
    scale = diagnose(run).estimates["noise_scale"].value
    assert float(rate) == pytest.approx(0.1 * (1 + scale / 8) / (1 + scale / 16), rel=0.01)
    assert (
        "times the updates" in say(finding).forecast
        and facts_of(run)["learning rate"] == "constant 0.1"
    )
    assert run.configuration == WatchedConfiguration(batch_size=8, every=4, gauges="noise")
    assert not {"learning_rate", "schedule", "epochs", "momentum"} & set(
        run.manifest["configuration"]
    )


@pytest.mark.slow
def test_adamw_with_warm_up_and_cosine_gets_a_range_of_rates(tmp_path: Path) -> None:
    run = loop(tmp_path, adamw, warm_up_and_cosine, every=2)
    facts, finding, told = facts_of(run), of_the_batch(run), batch_of(run)
    assert facts["optimizer"] == "AdamW" and facts["weight decay"] == "0.1"
    assert facts["learning rate"] == "warm-up over 20 steps to 6e-4, then cosine to 6e-5"
    assert (
        "The optimizer is AdamW, for which SGD's forecast of updates and examples does not hold."
        in say(finding).means
    )
    assert (
        "`batch_size = 16` with a learning rate between 5.88e-4 and 9.29e-4 as the peak"
        in say(finding).advice
    )
    assert "doubling" not in str(finding) and told["rows"] == [] and "B^p" in told["caveat"]
    assert told["brackets"][3]["low"] == pytest.approx(6e-4 * 2**-0.03)
    page = write_page(run, diagnose(run)).read_text()
    top = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", page))
    assert facts.items() <= top.items()
    assert "The edge of stability" not in page and "watch(…, loss=loss)" in page


def test_two_groups_are_shown_with_both_rates(tmp_path: Path) -> None:
    run = loop(tmp_path, groups, gauges="noise,batch_sharpness")
    assert facts_of(run)["learning rate"] == "2 groups: 0.1 and 0.01, constant"
    assert facts_of(run)["weight decay"] == "0 and 0.1"
    assert re.search(
        r"with all learning rates times [\d.]+ \(0\.1\d+ and 0\.01\d+\)",
        say(of_the_batch(run)).advice,
    )
    edge = next(finding for finding in diagnose(run).findings if finding.gauge == "batch_sharpness")
    assert "different learning rates (0.1 and 0.01): η is the largest of them" in say(edge).caveat
    assert [group.learning_rate for group in settings_of(run).now] == [0.1, 0.01]


@pytest.mark.slow
def test_a_plateau_scheduler_and_a_rate_set_by_hand_are_cuts(tmp_path: Path) -> None:
    plateau = loop(
        tmp_path,
        set_rate=scheduled(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=110),
        parts=0,
    )
    hand = loop(tmp_path, set_rate=by_hand, parts=0)
    assert re.fullmatch(r"0\.1, then 0\.01 from step 11\d", facts_of(plateau)["learning rate"])
    assert re.fullmatch(r"0\.1, then 0\.01 from step 15[0-3]", facts_of(hand)["learning rate"])
    for run in (plateau, hand):
        assert re.search(r"\(peak 0\.1[5-9]\d* instead of 0\.1\)", say(of_the_batch(run)).advice)
        assert settings_of(run).now[0].learning_rate == pytest.approx(0.01)


def test_an_optimizer_without_a_predictor_is_named_and_gets_no_batch(tmp_path: Path) -> None:
    run = loop(tmp_path, lambda model: Lion(model.parameters(), lr=1e-3))
    finding, told = of_the_batch(run), batch_of(run)
    assert (
        finding.state == "cannot tell"
        and say(finding).advice == ""
        and "The optimizer is Lion." in say(finding).means
    )
    assert facts_of(run)["optimizer"] == "Lion" and told["rows"] == told["brackets"] == []


def test_a_resumed_loop_continues_the_record(tmp_path: Path) -> None:
    """What the first process recorded from the resumed step on is not used."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    optimizer, state = sgd(model), {}
    with watch(model, optimizer, loss=LOSS, out=tmp_path, every=4) as w:
        for step in range(40):
            by_hand(optimizer, step + 115)
            if step == 30:
                state = w.state_dict()
            one_step(model, optimizer, w)
    with watch(model, optimizer, loss=LOSS, out=tmp_path, every=4) as w:
        w.load_state_dict(state)
        optimizer.param_groups[0]["lr"] = 0.02
        one_step(model, optimizer, w)
    assert w.run is not None and settings_of(w.run).rate_words == "0.1, then 0.02 from step 30"


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate: float) -> None:
    def broken(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = sgd(model)
        optimizer.param_groups[0]["lr"] = rate
        return optimizer

    with pytest.raises(BadArgument, match="`optimizer` has the learning rate"):
        loop(tmp_path, broken)


def test_the_sharpness_under_another_optimizer_is_a_reading_without_an_edge(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))
    optimizer = adamw(model)
    with watch(model, optimizer, loss=LOSS, out=tmp_path, every=2, gauges="noise", quiet=True) as w:
        one_step(model, optimizer, w)
        assert (
            w.sharpness((torch.randn(32, 8), torch.randint(5, (32,))), probes=4, top=1) is not None
        )
    assert w.run is not None
    page = write_page(w.run, diagnose(w.run)).read_text()
    assert "The edge of stability is known for SGD, and not for AdamW." in page
    assert "edge 2(1 + μ)/η" not in page


@pytest.mark.slow
def test_where_the_preconditioned_noise_scale_answers_the_plain_one_says_nothing(
    tmp_path: Path,
) -> None:
    run = loop(tmp_path, adamw, gauges="noise,preconditioned_noise")
    found = {finding.gauge: finding for finding in diagnose(run).findings}
    assert "noise" not in found
    answer = say(found["preconditioned_noise"])
    assert "with a learning rate between 5.88e-4 and 9.29e-4, if wall time" in answer.advice
    assert batch_of(run)["finding"]["advice"] == answer.advice


@pytest.mark.slow
def test_where_the_preconditioned_noise_scale_cannot_tell_the_plain_one_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop(tmp_path, adamw, gauges="noise,preconditioned_noise")
    judge = PreconditionedNoise.judge
    monkeypatch.setattr(
        PreconditionedNoise, "judge", lambda *args: replace(judge(*args), claim="batch_undecided")
    )
    assert {"noise", "preconditioned_noise"} <= {each.gauge for each in diagnose(run).findings}


@pytest.mark.parametrize("after", [adamw, lambda model: sgd(model, 0.02)], ids=["AdamW", "SGD"])
def test_an_exchanged_optimizer_is_found_and_followed(tmp_path: Path, after: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    optimizer = sgd(model)
    with watch(
        model, optimizer, loss=LOSS, out=tmp_path, every=4, gauges="noise,batch_sharpness"
    ) as w:
        for step in range(160):
            if step == 60:
                optimizer = after(model)
            one_step(model, optimizer, w)
    run = w.run
    assert run is not None
    settings, name = settings_of(run), type(optimizer).__name__
    assert settings.now[0].learning_rate == optimizer.param_groups[0]["lr"] and settings.names == (
        name,
    )
    assert settings.steps[0] == 0 and 60 <= settings.steps[1] <= 110
    (told,) = [warning for warning in run.warnings if "no longer trains the model" in warning]
    assert f"{name} does" in told
    series = run.series("noise")
    assert series is not None and series.learning_rate[-1] == settings.now[0].learning_rate
    assert ("edge of stability is not known" in " ".join(run.warnings)) == (name == "AdamW")


@pytest.mark.slow
def test_the_report_in_the_terminal_names_the_settings(tmp_path: Path) -> None:
    run = loop(tmp_path, adamw, warm_up_and_cosine)
    told, asked = (CliRunner().invoke(show, [str(run.path), *flags]) for flags in ([], ["--json"]))
    words = "learning rate warm-up over 20 steps to 6e-4, then cosine to 6e-5"
    assert f"AdamW · {words} · momentum (β₁) 0.9 · weight decay 0.1" in " ".join(
        told.stdout.split()
    )
    assert json.loads(asked.stdout)["hyperparameters"]["optimizer"] == "AdamW"


def test_an_equal_rate_that_a_scheduler_writes_anew_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    groups_now = Subject.groups.fget
    assert groups_now is not None
    monkeypatch.setattr(Subject, "groups", property(lambda one: read.append(1) or groups_now(one)))
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    factors = [1.0] * 40 + [0.5] * 40
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 * factors[step])
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(60):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 2)).square().mean()
            loss.backward()
            w.step(loss)
            optimizer.step()
            scheduler.step()
    assert len(read) < 10
    assert {group.learning_rate for group in settings_of(w.run).now} == {0.05}
