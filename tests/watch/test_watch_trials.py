"""Trials on the way: `watch(..., trials=...)` tries the cure of what limits a loop, and training
keeps its bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from finished_forks import kept
from gradiometer import BadArgument, diagnose, supervised, watch
from gradiometer.integrations.watch import Watch
from gradiometer.integrations.watch.observers import trials as trials_of_loops
from gradiometer.integrations.watch.observers.triage import exact
from gradiometer.integrations.watch.observers.trials import Trials
from gradiometer.integrations.watch.requests.forks import LoopForks
from gradiometer.loop import forks_of
from gradiometer.loop.recorded.trials import by_late_loss
from gradiometer.loop.replay import KeptUpdates
from gradiometer.measurement.optimizer.steps import SeveralOptimizers
from gradiometer.problems import load
from gradiometer.verdict.claims import Claim, Claimed, Code, InWords
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import Triage
from report_run import run_in
from unseen import unseen


class Clock:
    """Counts the steps of training; what is measured takes no time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def trained(
    out: Path,
    trials: float,
    *,
    steps: int = 420,
    rate: float = 5e-4,
    gives_data: bool = True,
    noise: float = 0.0,
    shrinks: bool = False,
    price: float = 0.0,
    quiet: bool = True,
    factor: float = 1.0,
) -> tuple[Watch, list[float]]:
    """A loop on digits whose rate is far too low for its batch and length."""
    torch.manual_seed(0)
    digits = load("digits", model="mlp")
    model = digits.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    loader, losses = (
        DataLoader(TensorDataset(*digits.train.data), batch_size=128, shuffle=True),
        list[float](),
    )
    sampling = loader if gives_data else None
    clock = Clock()
    hidden = unseen(clock)

    def priced(model: nn.Module, batch: Any) -> Tensor:
        hidden.value.seconds += price
        return loss(model, batch)

    with watch(
        model,
        optimizer,
        loss=priced if price else loss,
        out=out,
        page=False,
        quiet=quiet,
        trials=trials,
        sampling=sampling,
        gauges=[],
    ) as w:
        w.budget.clock = clock
        while len(losses) < steps:
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(factor * value, batch)
                for parameter in model.parameters() if noise else ():
                    parameter.grad += noise * torch.randn(parameter.shape)  # type: ignore[operator]
                optimizer.step()
                if shrinks:  # an update that `loss` and the optimizer do not make
                    with torch.no_grad():
                        for parameter in model.parameters():
                            parameter.mul_(0.9999)
                clock.seconds += 1
                losses.append(value.item())
    return w, losses


def test_a_trial_tells_a_low_rate_from_a_large_batch_and_training_keeps_its_bits(
    tmp_path: Path,
) -> None:
    plain, losses = trained(tmp_path / "plain", 0.0, steps=396)
    w, with_trials = trained(tmp_path / "tried", 0.5, steps=396)
    assert losses == with_trials
    assert plain.run is not None and w.run is not None
    before, after = diagnose(plain.run), diagnose(w.run)
    assert before.triage is not None and before.triage.claims[0].claim == "batch_large"
    assert after.triage is not None and after.triage.claims[0].claim == "rate_low"
    (record, *_) = forks_of(w.run)
    assert [one.name for one in record.fork.alternatives] == ["rate 4x"]
    assert after.triage.claims[0].numbers["fork"] == record.fork.effects()[0].estimate
    assert w.run.warnings == []


def test_trials_stay_within_their_share_by_plan(tmp_path: Path) -> None:
    w, losses = trained(tmp_path, 0.5)
    assert w.run is not None
    updates = sum(
        len(record.fork.results) * max(result.updates for result in record.fork.results)
        for record in forks_of(w.run)
    )
    assert 0 < updates <= 0.5 * len(losses)


def test_a_tenth_of_a_short_training_pays_for_a_trial_of_an_early_state_at_its_end(
    tmp_path: Path,
) -> None:
    w, losses = trained(tmp_path, 0.1, steps=900)
    assert w.run is not None
    (record,) = forks_of(w.run)
    updates = sum(result.updates for result in record.fork.results)
    assert record.plan.step == 128 and 48 <= updates <= 0.1 * len(losses)
    (effect,) = record.fork.effects()
    assert effect.verdict == "better"
    headline = diagnose(w.run).headline
    assert headline is not None and headline.claim == "rate_low"
    assert headline.numbers["fork"] == effect.estimate


def test_a_training_that_is_too_short_for_a_trial_is_told_what_would_pay_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    w, losses = trained(tmp_path, 0.1, quiet=False)
    assert w.run is not None and forks_of(w.run) == ()
    said = capsys.readouterr().err
    assert (
        f"no cure was tried: trials=0.1 pays for {len(losses) / 10:.0f} of the {len(losses)} updates, "
        "and a trial takes 72 or more; trials=0.2 would pay for one"
    ) in said
    w, _ = trained(tmp_path, 0.2, quiet=False)
    assert w.run is not None and len(forks_of(w.run)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "1 trial of cures took 0 of the training time" in said
    assert (
        "tried: " in said and " against going on as it is, in training loss: rate " in said.lower()
    )


def test_no_trial_judges_a_rate_by_the_last_updates_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(LoopForks, "fork", lambda self, **given: asked.append((self.steps, given)))
    monkeypatch.setattr(LoopForks, "updates_in_all", lambda self, _: max(self.steps, 420) + 7)
    trained(tmp_path, 0.5, steps=420)
    ((step, given),) = asked
    assert step >= 420 and given["at"] == 64  # at the end, from an early state


def test_trials_without_data_or_for_a_loop_that_cannot_be_replayed_are_a_warning(
    tmp_path: Path,
) -> None:
    w, _ = trained(tmp_path / "no data", 0.5, gives_data=False)
    assert w.run is not None and any(
        "trials need the training data" in text for text in w.run.warnings
    )
    w, losses = trained(tmp_path / "noise", 0.5, noise=1e-3)
    assert w.run is not None and any(
        "no more cures are tried: `loss` does not make" in text for text in w.run.warnings
    )
    assert len(losses) >= 420 and forks_of(w.run) == ()


def test_the_last_trial_is_of_a_loop_that_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trials, "at_step", lambda *_: None)
    w, _ = trained(tmp_path, 0.5, shrinks=True)
    assert w.run is not None and any("no more cures are tried" in text for text in w.run.warnings)
    assert forks_of(w.run) == ()


def tried_at_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    claimed: Claimed,
    *,
    begin: float = 1.0,
    end: float = 1.0,
    early: int | None = 128,
    suspects: tuple[Claimed, ...] = (),
    has_beginning: bool = False,
    family: str = "other",
    **forked: int,
) -> list[str]:
    """What is tried at the end of a training with one claim, whose rate went to `end`."""
    found = Triage(suspects or (claimed,), Level(2.3, Known.LABELS), unseen={})
    monkeypatch.setattr(trials_of_loops, "triage_of", lambda _: found)
    rates = np.linspace(begin, end, 200)
    monkeypatch.setattr(
        Signs, "of", lambda _: Signs(losses=np.ones(200), rates=rates, family=family)
    )
    run = run_in(tmp_path, steps=200)
    assert trials_of_loops._first(run) is None or claimed.cure or suspects
    for change, step in forked.items():
        ends = {"go on": [0.5, 0.51, 0.52], change.replace("_", " "): [0.3, 0.31, 0.32]}
        kept(run, ends, step=step, tail="none")
    questions = trials_of_loops._trials_at_end(run, early=early, has_beginning=has_beginning)
    return [one.change.name + " from the start" * one.from_first_weights for one in questions]


@pytest.mark.parametrize(
    ("doubts", "end", "tried"),
    [
        (("decay_not_tried",), 1.0, ["cool now", "rate 2x"]),
        (("still_falls",), 1.0, ["cool now", "rate 2x"]),
        (("few_looks",), 1.0, ["cool now", "rate 2x"]),
        (("rate_not_tried",), 1.0, ["cool now", "rate 2x"]),
        (("rate_not_tried",), 0.0, ["rate 2x"]),
    ],
)
def test_at_the_end_trials_settle_the_doubt_about_a_training_without_a_claim(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    doubts: tuple[str, ...],
    end: float,
    tried: list[str],
) -> None:
    undecided = Claimed(Claim.UNDECIDED, {"steps": 200.0}, doubts=doubts)
    assert tried_at_end(tmp_path, monkeypatch, undecided, end=end) == tried


@pytest.mark.parametrize(
    ("end", "tried"), [(1.0, ["cool now", "rate 2x"]), (0.1, ["rate 2x"]), (0.0, ["rate 2x"])]
)
def test_at_the_end_a_higher_rate_is_tried_also_if_nothing_is_wrong_and_a_constant_one_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: float, tried: list[str]
) -> None:
    healthy = Claimed(Claim.HEALTHY, {"steps": 200.0})
    assert tried_at_end(tmp_path, monkeypatch, healthy, end=end) == tried


def test_a_cut_of_the_first_half_settles_nothing_about_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = Claimed(Claim.HEALTHY, {"steps": 200.0})
    early, late = tmp_path / "early", tmp_path / "late"
    assert tried_at_end(early, monkeypatch, healthy, cool_now=20) == ["cool now", "rate 2x"]
    assert tried_at_end(late, monkeypatch, healthy, cool_now=150) == ["rate 2x"]


def test_a_training_that_stopped_early_is_cut_in_a_trial_as_it_looks_like_a_missing_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Claimed(
        Claim.STOPPED_EARLY, {"fell": 0.2}, (InWords("train for 800 steps"),), ("no_decay",)
    )
    assert tried_at_end(tmp_path, monkeypatch, stopped) == ["cool now"]


def test_a_rate_that_nothing_speaks_against_is_not_tried_from_the_first_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = Claimed(Claim.HEALTHY, {"steps": 200.0})
    assert tried_at_end(tmp_path / "1", monkeypatch, healthy, end=0.0, early=32) == []
    assert tried_at_end(tmp_path / "2", monkeypatch, healthy, early=32) == ["cool now"]
    low = (Claimed(Claim.RATE_LOW, {}, ("rate 8x",), is_certain=False),)
    assert tried_at_end(tmp_path / "3", monkeypatch, healthy, end=0.0, early=32, suspects=low) == [
        "rate 2x"
    ]


@pytest.mark.parametrize(
    ("family", "stride", "tried"),
    [
        ("adaptive", 4.0, ["rate 0.25x from the start", "rate 4x from the start"]),
        ("adaptive", 0.4, ["rate 4x from the start"]),
        ("sgd", 0.4, ["rate 0.25x from the start", "rate 4x from the start"]),
        ("sgd", 0.2, ["rate 4x from the start"]),
        ("other", 0.2, ["rate 2x"]),
    ],
)
def test_after_long_strides_a_lower_rate_is_tried_first_from_the_beginning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    stride: float,
    tried: list[str],
) -> None:
    monkeypatch.setattr(Signs, "strides", np.full(200, stride))
    healthy = Claimed(Claim.HEALTHY, {"steps": 200.0})
    found = tried_at_end(tmp_path, monkeypatch, healthy, end=0.0, has_beginning=True, family=family)
    assert found == tried
    rising = {"begin": 0.0, "has_beginning": True, "family": family}  # any higher rate is better
    found = tried_at_end(tmp_path / "rising", monkeypatch, healthy, **rising)  # type: ignore[arg-type]
    assert not any("from the start" in one for one in found)


def test_a_rate_beside_a_small_batch_is_tried_from_an_early_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate that goes with a small batch is low: from the first weights a higher one is faster."""
    small = (Claimed(Claim.BATCH_SMALL, {}, (Code("batch_size = 32"),), is_certain=False),)
    settings: dict[str, Any] = {"end": 0.0, "has_beginning": True, "family": "sgd"}
    found = tried_at_end(tmp_path, monkeypatch, small[0], suspects=small, **settings)
    assert found == ["rate 2x"]


def from_the_first_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, factor: float = 1.0
) -> tuple[Watch, list[float]]:
    """A training whose rate is tried at a quarter from the first weights, and its losses. The watch
    gets `factor` times the loss."""
    healthy = Triage((Claimed(Claim.HEALTHY, {}),), Level(2.3, Known.LABELS), unseen={})
    monkeypatch.setattr(trials_of_loops, "triage_of", lambda _: healthy)
    monkeypatch.setattr(trials_of_loops, "has_long_strides", lambda _: True)
    monkeypatch.setattr(trials_of_loops, "PART_AT_BEGINNING", 2)
    monkeypatch.setattr(LoopForks, "updates_in_all", lambda self, _: max(self.steps, 420))
    _, losses = trained(tmp_path / "plain", 0.0, rate=0.5)
    w, with_trials = trained(tmp_path / "tried", 1.0, rate=0.5, factor=factor)
    assert losses == with_trials
    assert w.run is not None
    return w, losses


def test_a_quarter_of_the_rate_is_tried_from_the_first_weights_against_the_training_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, losses = from_the_first_weights(tmp_path, monkeypatch)
    assert w.run is not None
    (record,) = (one for one in forks_of(w.run) if one.plan.step == 4)
    own, tried = record.fork.results
    assert (own.alternative, tried.alternative) == ("go on", "rate 0.25x")
    # the last batch of an epoch is smaller, so that there are more than 210
    assert own.updates == tried.updates == 224 and record.fork.replicates == 1
    # the losses of the training from its first step on, which cost nothing
    assert own.seconds == 0 and own.examples == tried.examples
    assert own.curve[0][1] == pytest.approx(np.mean(losses[: -(-own.updates // 48)]))
    assert own.readouts["train_loss"].mean == pytest.approx(
        np.mean(losses[own.updates // 2 : own.updates])
    )
    # after four updates it begins at 2.18
    assert tried.curve[0][1] > 2.2
    (effect,) = by_late_loss(record.fork).effects()
    assert effect.estimate.samples == 6 and effect.verdict == "worse"


def test_losses_that_are_not_those_of_the_updates_stand_for_no_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, _ = from_the_first_weights(tmp_path, monkeypatch, factor=1.1)
    assert w.run is not None
    tried = {one.name for record in forks_of(w.run) for one in record.fork.alternatives}
    assert tried and "rate 0.25x" not in tried and not w.run.warnings


@pytest.mark.parametrize("of", ["one", "two"])
def test_a_state_of_the_first_steps_is_brought_before_all_of_them(of: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    trained = {
        name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad
    }
    parts: list[torch.optim.Optimizer] = [
        torch.optim.Adam(parameters, lr=0.1)
        for parameters in ([*model[1].parameters()],) * (of == "one")
        or ([model[1].weight], [model[1].bias])
    ]
    optimizer = parts[0] if of == "one" else SeveralOptimizers(parts)
    for _ in range(4):
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()
    kept_state = KeptUpdates(
        {name: one.detach().clone() for name, one in model.named_parameters()},
        optimizer.state_dict(),
        None,
        step=4,
    )
    kept_state.before_all(trained).put_into(model, optimizer, None)
    for name, before in trained.items():
        assert torch.equal(model.get_parameter(name), before)
    assert not any(one.state for one in parts) and parts[0].param_groups[0]["lr"] == 0.1
    assert kept_state.optimizer["state"]


@pytest.mark.parametrize(("early", "tried"), [(128, ["rate 4x"]), (None, [])])
def test_at_the_end_of_a_schedule_a_rate_is_tried_from_an_early_state_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: int | None, tried: list[str]
) -> None:
    low = Claimed(Claim.RATE_LOW, {"reach": 1.0}, ("rate 4x",))
    found = tried_at_end(tmp_path, monkeypatch, low, end=1e-9, early=early)
    assert found == tried


@pytest.mark.parametrize(
    ("suspect", "end", "tried"),
    [
        (Claimed(Claim.RATE_LOW, {}, ("rate 8x",), is_certain=False), 0.0, ["rate 2x"]),
        (Claimed(Claim.RATE_LOW, {}, ("rate 8x",), is_certain=False), 1.0, ["cool now", "rate 2x"]),
        (Claimed(Claim.STOPPED_EARLY, {}, is_certain=False), 1.0, ["cool now", "rate 2x"]),
        (Claimed(Claim.OVERFIT, {}, (InWords("examples 2x"),), is_certain=False), 0.0, ["rate 2x"]),
    ],
)
def test_at_the_end_a_suspect_is_tried_before_the_doubts_of_a_training_without_a_claim(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suspect: Claimed,
    end: float,
    tried: list[str],
) -> None:
    undecided = Claimed(Claim.UNDECIDED, {"steps": 200.0}, doubts=("still_falls",))
    found = tried_at_end(tmp_path, monkeypatch, undecided, end=end, suspects=(suspect,))
    assert found == tried


def test_a_trial_ends_when_its_branches_have_cost_what_the_share_pays_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials_of_loops.Trials, "at_step", lambda *_: None)
    # an update of a branch takes 2.5 times as long as one of training
    w, losses = trained(tmp_path, 0.15, steps=900, price=2.5)
    assert w.run is not None
    (record,) = forks_of(w.run)
    assert record.finished and record.fork.replicates < record.plan.replicates
    assert 0 < w.budget.spent_on["trials"] <= 0.15 * len(losses)


def test_the_share_of_a_training_whose_length_is_known_is_kept_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoopForks, "updates_in_all", lambda self, _: max(self.steps, 420))
    w, _ = trained(tmp_path, 0.5)
    assert w.run is not None
    (record,) = forks_of(w.run)
    assert record.plan.step == 64


@pytest.mark.parametrize(
    ("total", "kept"), [(6_000, [512, 4096]), (None, [4 * 2**k for k in range(11)])]
)
def test_only_states_that_a_trial_can_use_are_kept_if_the_length_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int | None, kept: list[int]
) -> None:
    monkeypatch.setattr(LoopForks, "updates_in_all", lambda self, _: total)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = supervised(nn.MSELoss())
    w = watch(model, optimizer, loss=loss, trials=0.1, out=tmp_path, quiet=True)
    trials = next(one for one in w.observers if isinstance(one, Trials))
    assert [step for step in (4 * 2**k for k in range(11)) if trials._wants_state(step)] == kept


@pytest.mark.parametrize(("steps", "states"), [(300, 0), (5_000, 4)])
def test_no_states_are_kept_for_a_trial_that_the_share_will_not_pay_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, states: int
) -> None:
    monkeypatch.setattr(LoopForks, "updates_in_all", lambda self, _: max(self.steps, steps))
    w, _ = trained(tmp_path, 0.1, steps=200)
    assert w.forks.kept_updates.states == states


def test_trials_need_a_loss_and_a_share(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadArgument, match="`trials` needs `loss`"):
        watch(model, optimizer, out=tmp_path, trials=0.1)
    with pytest.raises(BadArgument, match="`trials`"):
        watch(model, optimizer, out=tmp_path, loss=loss, trials=-0.1)


def test_schedulers_are_searched_for_once_and_again_after_another_took_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    searches = []
    owners_of = exact._owners
    monkeypatch.setattr(exact, "_owners", lambda given: searches.append(1) or owners_of(given))
    seen, schedulers = exact.SchedulersSeen(), torch.optim.lr_scheduler
    first: Any = schedulers.ExponentialLR(optimizer, 0.9)
    for step in (4, 8, 8, 16):
        assert exact.schedulers_of([optimizer], step, seen)[0] == [first]
        optimizer.step()
        first.step()
    assert len(searches) == 1
    del first
    second = schedulers.LambdaLR(optimizer, lambda _: 0.5)
    for step in (32, 64):
        optimizer.step()
        second.step()
        assert exact.schedulers_of([optimizer], step, seen)[0] == [second]
    assert len(searches) == 2
