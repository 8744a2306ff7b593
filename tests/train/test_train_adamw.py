"""`train` with AdamW, for a number of steps, under a name: the updates are PyTorch's, and the
gauges fit the optimizer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gradiometer import BadArgument, Configuration, Run
from gradiometer.cli.options import configuration_from
from gradiometer.measurement import TrainingStep
from gradiometer.problems import load
from gradiometer.run.budget import Budget
from gradiometer.train import resume, train
from gradiometer.train.batch_comparison import compare_for_run
from gradiometer.train.loop import Trainer
from gradiometer.train.training import Training
from spying_gauge import SpyUnderP

ADAMW = {"optimizer": "adamw", "learning_rate": 2e-3, "weight_decay": 0.1, "steps": 60}


def parameters_after(configuration: Configuration) -> list[torch.Tensor]:
    training = Training(load("digits"), configuration, Budget(0.0), gauges=())
    while training.step < training.steps:
        training.backward(training.batch())
        training.update()
    return [parameter.detach().clone() for parameter in training.parameters]


def test_the_updates_are_those_of_torch() -> None:
    configuration = Configuration(**ADAMW)
    ours = parameters_after(configuration)
    training = Training(load("digits"), configuration, Budget(0.0), gauges=())
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=2e-3, weight_decay=0.1)
    for step in range(60):
        batch = training.data.batch(training.order.batch(step))
        optimizer.zero_grad()
        training.problem.loss(training.model, batch).mean().backward()
        optimizer.step()
    assert all(
        torch.equal(one, other)
        for one, other in zip(ours, training.model.parameters(), strict=True)
    )


def test_a_run_says_adamw_and_measures_what_fits_it(tmp_path: Path) -> None:
    run = train(load("digits"), Configuration(**ADAMW, every=2), tmp_path, name="mine")
    assert run.path.name == "mine-1" and run.steps == 60 and run.status == "finished"
    assert run.hyperparameters is not None and run.hyperparameters.family == "adaptive"
    assert run.hyperparameters.sentence.startswith("AdamW")
    assert set(run.gauges) == {
        *("noise", "preconditioned_noise", "preconditioned_sharpness", "trajectory")
    }
    assert not [event for event in run.events if event["event"] == "warning"]
    assert compare_for_run(run.path, seconds=None).finding.gauge == "preconditioned_noise"


def test_the_rate_of_the_last_step_is_on_record(tmp_path: Path) -> None:
    run = train(load("digits"), Configuration(steps=200, schedule="linear", budget=0.0), tmp_path)
    assert run.hyperparameters is not None
    assert run.hyperparameters.steps[-1] == 199 and run.hyperparameters.now[
        0
    ].learning_rate == pytest.approx(0.1 / 200)


def test_without_a_record_of_its_rates_a_run_still_says_adamw(tmp_path: Path) -> None:
    run = train(load("digits"), Configuration(**ADAMW, budget=0.0), tmp_path)
    (run.path / "readings.jsonl").unlink()
    settings = Run.open(run.path).hyperparameters
    assert settings is not None and (settings.optimizer, settings.family) == ("AdamW", "adaptive")


@pytest.mark.slow
def test_a_stopped_run_is_resumed_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = Configuration(**ADAMW, checkpoint_seconds=0, every=3)
    whole = train(load("digits"), configuration, tmp_path)
    step = Trainer._step

    def killed_at_30(loop: Trainer) -> None:
        if loop.training.step == 30:
            raise KeyboardInterrupt
        step(loop)

    monkeypatch.setattr(Trainer, "_step", killed_at_30)
    with pytest.raises(KeyboardInterrupt):
        train(load("digits"), configuration, tmp_path)
    monkeypatch.undo()
    resumed = resume(tmp_path / "digits-mlp-2")
    one, other = (
        load_file(run.path / "checkpoints" / "step_000060" / "tensors.safetensors")
        for run in (whole, resumed)
    )
    # The shape checks of the tests draw from Python's generator.
    assert all(torch.equal(one[name], other[name]) for name in one if name != "random.python")
    assert any(name.startswith("optimizer.") and name.endswith("exp_avg_sq") for name in one)
    assert (
        whole.series("preconditioned_noise").moments["norm_squared"]
        == resumed.series("preconditioned_noise").moments["norm_squared"]
    ).all()


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_norms_under_the_preconditioner_are_those_of_its_definition(
    tmp_path: Path, accumulation: int
) -> None:
    def norms(step: TrainingStep) -> tuple[float, float, int] | None:
        known, found = step.preconditioner, step.preconditioned_spread(2)
        if known is None or found is None:
            return None
        pairs = zip(known, step.objective.parameters, strict=True)
        weighted = sum((p.double() * q.grad.double().square()).sum().item() for p, q in pairs)
        return float(found.mean_squared_norm.sum()), weighted, len(found.sizes)

    spy = SpyUnderP(norms)
    configuration = Configuration(**ADAMW | {"every": 1, "epochs": 1}, accumulation=accumulation)
    train(load("digits"), configuration, tmp_path, gauges=[spy])
    seen = [numbers for numbers in spy.seen if numbers is not None]
    assert len(seen) > 5
    for found, weighted, parts in seen:
        assert found == pytest.approx(weighted, rel=1e-5) and parts == (
            4 if accumulation == 4 else 2
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw", "momentum": 0.9}, "`momentum` and `nesterov` are settings of SGD"),
        (
            {"optimizer": "adam"},
            '`optimizer` must be one of "sgd", "adamw", "schedulefree", got "adam"',
        ),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        Configuration(**settings)


def test_gauges_of_the_other_optimizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadArgument, match=r"batch_sharpness, whose edge of stability is known for SGD.*is adamw"
    ):
        train(load("digits"), Configuration(optimizer="adamw", gauges="batch_sharpness"), tmp_path)
    of_sgd = Configuration().measured  # written by hand, it is not replaced by the default of AdamW
    with pytest.raises(
        BadArgument, match=r"batch_sharpness, whose edge of stability is known for SGD"
    ):
        train(load("digits"), Configuration(optimizer="adamw", gauges=of_sgd), tmp_path)
    with pytest.raises(
        BadArgument, match=r"preconditioned_noise, which needs the preconditioner.*use adamw"
    ):
        train(load("digits"), Configuration(gauges="preconditioned_noise"), tmp_path)


def test_the_default_gauges_follow_the_optimizer_also_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("learning_rate = 0.01\n")
    over_the_file = configuration_from(tmp_path / "run.toml", {"optimizer": "adamw"})
    assert (
        over_the_file.measured
        == Configuration(optimizer="adamw").measured
        != Configuration().measured
    )
    assert Configuration(optimizer="adamw", gauges="").measured == ""


def test_the_decay_of_adamw_is_no_penalty() -> None:
    assert Configuration(weight_decay=0.1).penalty == 0.1
    assert Configuration(optimizer="adamw", weight_decay=0.1).penalty == 0.0
