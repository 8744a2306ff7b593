"""A step with a high loss is examined during training: its examples, its layers, and the loss on
other examples."""

import math
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import Draw, Finding, Objective, Run, Sampling, diagnose, watch
from gradiometer.drift.spikes.examination import Before, Examiner
from gradiometer.problems import Examples, Problem
from gradiometer.run import Configuration
from gradiometer.train import train
from gradiometer.verdict.words.say import say

STEPS, AT, SIZE = 320, 270, 16
EVENT = "loss_examined"


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def model_and_batches(seed: int = 0) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    inputs = torch.randn(STEPS, SIZE, 8, generator=random)
    targets = inputs.sum(dim=2, keepdim=True).sign() + 0.2 * torch.randn(
        STEPS, SIZE, 1, generator=random
    )
    return model, list(zip(inputs, targets, strict=True))


def trained(
    folder: Path | None, *, bad: tuple[int, ...] = (), jump: float = 0.0, **watched: Any
) -> tuple[nn.Module, Run | None]:
    """Train a small network. At step `AT` the targets of the bad examples are wrong, or the
    parameters are moved."""
    model, batches = model_and_batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches[AT][1][list(bad)] += 30
    settings = {
        "loss": loss,
        "sampling": Sampling(Draw.FRESH),
        "every": 90,
        "page": False,
        "quiet": True,
    }
    with (
        nullcontext()
        if folder is None
        else watch(model, optimizer, out=folder, **settings | watched) as w
    ):
        for step, batch in enumerate(batches):
            if jump and step == AT:
                with torch.no_grad():
                    model[-1].weight.mul_(jump)
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            if w is not None:
                w.step(value, batch)
            optimizer.step()
        return model, None if w is None else w.run


def finding(run: Run | None) -> Finding:
    assert run is not None
    (found,) = (each for each in diagnose(run).findings if each.gauge == "spikes")
    return found


def test_wrong_labels_are_this_batch_and_the_examples_are_named(tmp_path: Path) -> None:
    found = finding(trained(tmp_path, bad=(2, 5))[1])
    assert "at step 270" in say(found).seen and say(found).means.startswith("This batch: ")
    assert re.search(
        r"2 of its 16 examples have \d+% of the rise: examples 2, 5 of the batch\.",
        say(found).means,
    )
    then, now = map(
        float,
        re.findall(
            r"the batch before, the loss was (\S+) at their step and (\S+) at", say(found).means
        )[0],
    )
    assert now == pytest.approx(then, abs=0.3)


def test_parameters_that_moved_are_an_instability_though_the_first_loss_is_the_highest(
    tmp_path: Path,
) -> None:
    found = finding(trained(tmp_path, jump=8.0)[1])
    assert "at step 270" in say(found).seen and say(found).means.startswith("Instability: ")
    assert "The rise is spread over the batch" in say(found).means
    then, now = map(
        float,
        re.findall(
            r"the batch before, the loss was (\S+) at their step and (\S+) at", say(found).means
        )[0],
    )
    assert now > 5 * then


@pytest.mark.parametrize(
    "settings", [{"bad": (2, 5)}, {"jump": 8.0}, {}], ids=["bad", "jump", "quiet"]
)
def test_an_examination_leaves_training_as_it_was(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain, (watched, run) = trained(None, **settings)[0], trained(tmp_path, **settings)
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)
    assert run is not None and [event["event"] for event in run.events].count(EVENT) == bool(
        settings
    )


def test_without_a_budget_nothing_is_examined(tmp_path: Path) -> None:
    run = trained(tmp_path, bad=(2, 5), budget=0.0, every=None)[1]
    assert run is not None and EVENT not in [event["event"] for event in run.events]
    assert (
        say(finding(run)).means.startswith("This batch: ")
        and "of its 16 examples" not in say(finding(run)).means
    )


def test_a_training_of_a_problem_names_examples_and_layer(tmp_path: Path) -> None:
    _, batches = model_and_batches()
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    targets[700] = 60.0  # seen once in every epoch
    problem = Problem("wild", lambda: model_and_batches()[0], loss, Examples((inputs, targets)))
    settings = {
        "batch_size": SIZE,
        "epochs": 1,
        "learning_rate": 0.01,
        "every": 20,
        "momentum": 0.0,
    }
    run = train(problem, Configuration(problem="wild", **settings), tmp_path)
    found = finding(run)
    assert (
        say(found).means.startswith("This batch: ")
        and "1 of its 16 examples has" in say(found).means
    )
    assert re.search(
        r"The gradient of \S+ was \d+ times as long as usual, the most of all layers\.",
        say(found).means,
    )


def test_a_loss_that_couples_its_examples_or_fails_again_gives_no_examples() -> None:
    model, batches = model_and_batches()
    coupled = Examiner(Objective(nn.Sequential(nn.BatchNorm1d(8), model), loss))
    fails = Examiner(Objective(model, lambda model, batch: model(batch[0]).unknown))
    for examiner in (coupled, fails):
        for _ in range(64):
            examiner.learn([1.0])
        assert examiner.limit == pytest.approx(1.2)
    assert (coupled.examine(9.0, batches[0], None) or {"examples": []})["examples"] == []
    assert (
        fails.examine(9.0, batches[0], Before(batches[1], 1.0)) is None and fails.limit == math.inf
    )


def test_a_buffer_that_is_filled_again_is_not_the_batch_before() -> None:
    model, batches = model_and_batches()
    examiner = Examiner(Objective(model, loss))
    for _ in range(64):
        examiner.learn([1.0])
    again = examiner.examine(9.0, batches[0], Before(batches[0], 1.0))
    assert again is None or (again["others_now"] is None and again["others_then"] is None)
    other = examiner.examine(
        9.0, batches[0], Before((batches[1][0].clone(), batches[1][1].clone()), 1.0)
    )
    assert other is not None and other["others_then"] == 1.0 and other["others_now"] > 0


def test_examinations_pause_and_end() -> None:
    model, batches = model_and_batches()
    examiner, examined = Examiner(Objective(model, loss)), []
    for step in range(3500):
        value = 9.0 if step % 10 == 9 else 1.0
        if not value < examiner.limit:
            examiner.examine(value, batches[0], None)
            examined.append(step)
        examiner.learn([value])
    assert min(np.diff(examined)) >= 64
    # one more in each further thousand steps
    assert [step // 1000 for step in examined] == [0] * 5 + [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("size", [2, 7, 64, 200])
def test_one_wrong_example_is_found_in_a_batch_of_any_size(size: int) -> None:
    model, _ = model_and_batches()
    random = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(size, 8, generator=random), torch.zeros(size, 1)
    targets[size // 2] = 100.0
    examiner = Examiner(Objective(model, loss))
    for _ in range(64):
        examiner.learn([0.1])
    found = examiner.examine(loss(model, (inputs, targets)).item(), (inputs, targets), None)
    assert found is not None and found["examples"] == [size // 2] and 0.8 < found["share"] <= 1.05


def test_losses_of_before_a_resume_leave_the_limit_that_they_had() -> None:
    model, _ = model_and_batches()
    random = np.random.default_rng(0)
    losses = (1 + 0.05 * random.standard_normal(400)).tolist()
    losses[150] = losses[300] = 9.0
    whole, resumed = (Examiner(Objective(model, loss)) for _ in range(2))
    for at, value in enumerate(losses):
        if not value < whole.limit:
            whole.examine(value, model_and_batches()[1][at % STEPS], None)
        whole.learn([value])
    resumed.repeat(losses[:170])
    assert resumed.limit == math.inf  # a pause after the examination
    resumed.repeat(losses[170:])
    assert resumed.limit == whole.limit < 9.0
