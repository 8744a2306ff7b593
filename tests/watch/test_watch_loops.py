"""Loops that differ from the documented ones: training keeps its bits, and what is read is right or
said not to be."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradients_by_hand import (
    LOSSES,
    assert_read,
    backward,
    batches,
    by_hand,
    examples,
    network,
    watched,
)
from gradiometer import BadArgument, Unsupported, UserCodeFailed, watch
from gradiometer.integrations.watch import Watch
from gradiometer.integrations.watch.observers.optimizers import A_WHILE
from gradiometer.measurement import supervised
from gradiometer.verdict import say

JUDGES = ("batch_sharpness", "step_drift", "loss_change")


# Parameters and optimizers that change
# ------------------------------------------------------------------------------


def froze(model: nn.Sequential, _: torch.optim.Optimizer) -> None:
    model[0].requires_grad_(False)


def replaced(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2] = nn.Linear(16, 5).double()
    optimizer.add_param_group({"params": [*model[2].parameters()]})


def removed(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2] = nn.Identity()


def unfroze(model: nn.Sequential, _: torch.optim.Optimizer) -> None:
    model[0].requires_grad_(True)


@pytest.mark.slow
@pytest.mark.parametrize("change", [froze, replaced, removed, unfroze])
@pytest.mark.parametrize(
    "settings", [{}, {"gauges": "noise,trajectory"}, {"accumulation": 2, "loss": None}], ids=str
)
def test_a_model_that_trains_other_parameters_than_at_the_start_is_not_measured_any_more(
    tmp_path: Path,
    change: Callable[[nn.Sequential, torch.optim.Optimizer], None],
    settings: dict[str, Any],
) -> None:
    made = model, optimizer = network()
    model[0].requires_grad_(change is not unfroze)
    expected, count = [], settings.get("accumulation", 1)
    with watched(tmp_path, made, **settings) as w:
        ahead = iter(batches(10 * count))
        for step in range(10):
            if step == 4:
                change(model, optimizer)
            optimizer.zero_grad()
            parts = [next(ahead) for _ in range(count)]
            expected.append(by_hand(model, parts if count > 1 else examples(parts[0])))
            for part in parts:
                w.step(backward(model, part, 1 / count), part)
            optimizer.step()
    assert_read(w, expected, [0, 1, 2, 3])
    assert [
        warning
        for warning in w.run.warnings
        if "`model` trains other parameters than when" in warning
    ]


def test_steps_that_are_no_updates_are_told(tmp_path: Path) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made, every=20) as w:
        for step, batch in enumerate(batches(A_WHILE + 1)):
            w.step(backward(model, batch), batch)
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    (told,) = w.run.warnings
    # counted at the end of a stretch of losses, before the update of its last step, or at the end
    assert re.search("`optimizer` made (7 updates in 32|8 updates in 33) steps", told)


def test_a_closure_that_runs_several_times_in_an_update_is_no_mistake(tmp_path: Path) -> None:
    model, _ = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    batch = next(iter(batches(1)))
    with watched(tmp_path, (model, optimizer), every=4) as w:
        for _ in range(12):

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = backward(model, batch)
                w.step(loss, batch)
                return loss

            optimizer.step(closure)
    assert w.steps > A_WHILE
    (told,) = w.run.warnings
    size = len(batch[1])
    assert (
        f"the first 8 measured batches have the same {size} rows" in told
        and f"give examples={size}" in told
    )
    assert [event["repeats"] for event in w.run.events if "repeats" in event] == ["batch"]


def test_a_training_in_one_call_of_the_optimizer_is_no_mistake(tmp_path: Path) -> None:
    """As in networks for physics: LBFGS makes all iterations in one call."""
    model, _ = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=2 * A_WHILE)
    batch = next(iter(batches(1)))
    with watched(tmp_path, (model, optimizer), every=4) as w:

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = backward(model, batch)
            w.step(loss, batch)
            return loss

        optimizer.step(closure)
    assert w.steps > A_WHILE
    assert not any("updates in" in warning for warning in w.run.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("updates", [5, 10])
def test_several_updates_on_one_batch_are_not_taken_for_the_whole_training_set(
    tmp_path: Path, updates: int
) -> None:
    model, optimizer = network()
    with watched(tmp_path, (model, optimizer), every=1) as w:
        for batch in batches(6):
            for _ in range(updates):
                optimizer.zero_grad()
                w.step(backward(model, batch), batch)
                optimizer.step()
    assert [event["repeats"] for event in w.run.events if "repeats" in event] == (
        ["batch", "no"] if updates > 8 else []
    )
    assert not any("is not possible" in say(finding).means for finding in w.findings())


def test_a_batch_of_places_that_is_the_whole_training_set_is_seen_and_not_doubled(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    inputs, targets, places = torch.randn(64, 4), torch.randn(64, 1), torch.arange(64)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    def loss(model: torch.nn.Module, places: torch.Tensor) -> torch.Tensor:
        return (model(inputs[places]) - targets[places]).square().mean()

    with watched(tmp_path, (model, optimizer), loss=loss, every=1) as w:
        for _ in range(120):
            optimizer.zero_grad()
            value = loss(model, places)
            value.backward()
            w.step(value, places)
            optimizer.step()
    assert any("measured batches have the same 64 rows" in warning for warning in w.run.warnings)
    (finding,) = (finding for finding in w.findings() if finding.gauge == "noise")
    assert "above B = 64" in say(finding).seen and not say(finding).advice
    assert (
        "There are 64 training examples, so twice the batch is not possible" in say(finding).means
    )


def test_a_watch_that_has_ended_looks_at_no_optimizer_any_more(tmp_path: Path) -> None:
    made = model, _ = network()
    other = torch.optim.SGD(model.parameters(), lr=0.01)
    with watched(tmp_path, made, every=20) as w:
        for batch in batches(3 * A_WHILE):  # without an update, so that one is waited for
            w.step(backward(model, batch), batch)
    before = w.findings().warnings
    other.step()
    assert w.findings().warnings == before and not any(
        "no longer trains" in warning for warning in before
    )


def test_updates_of_another_optimizer_are_told_once_and_followed(tmp_path: Path) -> None:
    made = model, _ = network()
    other = torch.optim.SGD(model.parameters(), lr=0.01)
    with watched(tmp_path, made, every=20) as w:
        for batch in batches(3 * A_WHILE):
            w.step(backward(model, batch), batch)
            other.step()
            other.zero_grad()
    (told,) = w.run.warnings
    assert "`optimizer` no longer trains the model: SGD does, which is followed now" in told
    assert w.run.hyperparameters is not None and w.run.hyperparameters.now[0].learning_rate == 0.01


def test_an_optimizer_inside_of_the_given_one_is_followed_without_a_warning(tmp_path: Path) -> None:
    """As in SAM, whose base optimizer makes the updates."""

    class Around(torch.optim.SGD):
        def update(self) -> None:
            self.base.step()

    model, _ = network()
    around = Around(model.parameters(), lr=0.01)
    around.base = torch.optim.SGD(model.parameters(), lr=0.02)
    with watched(tmp_path, (model, around), every=20) as w:
        for batch in batches(3 * A_WHILE):
            w.step(backward(model, batch), batch)
            around.update()
            around.zero_grad()
    assert not any("no longer trains" in warning for warning in w.run.warnings)
    assert w.run.hyperparameters is not None and w.run.hyperparameters.now[0].learning_rate == 0.02


def test_parameters_that_no_optimizer_holds_are_named(tmp_path: Path) -> None:
    model, _ = network()
    with watched(tmp_path, (model, torch.optim.SGD(model[2].parameters(), lr=0.1))) as w:
        w.step(backward(model, batch := batches(1)[0]), batch)
    assert "`optimizer` does not train 0.weight and 1 more parameters" in w.run.warnings[0]


def test_a_warm_up_by_hand_may_begin_at_zero(tmp_path: Path) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made) as w:
        for step, batch in enumerate(batches(3)):
            optimizer.param_groups[0]["lr"] = 0.05 * step
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    assert w.run.series("noise").learning_rate.tolist() == [0.0, 0.05, 0.1]


# What is run beside
# -------------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """A network whose middle is run again in the backward, with batch statistics or without."""

    def __init__(self, normalised: bool, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.reentrant = nn.Linear(8, 16), nn.Linear(16, 5), reentrant
        normalisation = nn.BatchNorm1d(16) if normalised else nn.Identity()
        self.middle = nn.Sequential(nn.Linear(16, 16), normalisation, nn.Tanh())
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        if self.reentrant is None:
            hidden = self.middle(hidden)
        else:
            hidden = checkpoint(self.middle, hidden, use_reentrant=self.reentrant)
        outputs: Tensor = self.last(hidden)
        return outputs


def checkpointed(
    tmp_path: Path, reentrant: bool | None, *, normalised: bool = False, **settings: Any
) -> tuple[nn.Module, Watch]:
    model = Checkpointed(normalised, reentrant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    settings = {"gauges": ",".join(JUDGES), "every": 1, "loss": LOSSES} | settings
    with watch(model, optimizer, out=tmp_path, **settings) as w:
        for batch in batches(8):
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    return model, w


@pytest.mark.parametrize("normalised", [False, True])
def test_a_checkpointed_model_keeps_its_bits_and_reads_what_the_plain_one_reads(
    tmp_path: Path, normalised: bool
) -> None:
    model, w = checkpointed(tmp_path, False, normalised=normalised)
    alone, _ = checkpointed(tmp_path, False, normalised=normalised, budget=0.0, every=None)
    assert all(map(torch.equal, model.state_dict().values(), alone.state_dict().values()))
    _, plain = checkpointed(tmp_path, None, normalised=normalised)
    for gauge in JUDGES:
        one, other = w.run.series(gauge), plain.run.series(gauge)
        assert len(one) == len(other) == 8
        for name in one.moments:
            assert one.moments[name] == pytest.approx(other.moments[name], rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_what_the_loss_cannot_do_beside_training_is_told_and_training_goes_on(
    tmp_path: Path,
) -> None:
    with pytest.raises(Unsupported, match="checkpoint it with use_reentrant=False"):
        checkpointed(tmp_path, True, gauges="noise", parts=2)
    _, w = checkpointed(tmp_path, False, gauges="noise", parts=0)
    assert "torch.func.vmap" in w.run.warnings[0] and w.run.status == "finished"


def test_a_loss_for_batches_of_one_size_is_refused_in_words(tmp_path: Path) -> None:
    made = model, _ = network()
    fixed = supervised(
        lambda outputs, labels: nn.functional.cross_entropy(outputs.view(8, 5), labels)
    )
    batch = batches(1)[0]
    with (
        watched(tmp_path, made, loss=fixed) as w,
        pytest.raises(UserCodeFailed, match=r"`loss` failed .* on 1 examples"),
    ):
        w.step(backward(model, batch), batch)
    with (
        watched(tmp_path, made, loss=lambda model, batch: LOSSES(model, batch).sum()) as w,
        pytest.raises(UserCodeFailed, match="`loss` is the sum over the examples"),
    ):
        w.step(backward(model, batch), batch)


def test_a_default_device_changes_nothing(tmp_path: Path) -> None:
    made = model, optimizer = network()
    ahead, expected = batches(3), []
    with (
        watched(tmp_path, made, gauges="noise,batch_sharpness,step_drift,trajectory") as w,
        torch.device("meta"),
    ):
        for batch in ahead:
            optimizer.zero_grad()
            loss = backward(model, batch)
            expected.append(by_hand(model, examples(batch)))
            w.step(loss, batch)
            optimizer.step()
    assert_read(w, expected)
    assert w.run.warnings == []


# Calls in other places
# ----------------------------------------------------------------------------------------------


def test_calls_that_are_left_out_later_are_told_and_training_goes_on(tmp_path: Path) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made) as w:
        for step, batch in enumerate(batches(8)):
            optimizer.zero_grad()
            loss = backward(model, batch) if step != 6 else LOSSES(model, batch).mean()
            if step not in (2, 3):
                w.step(loss, batch)
            optimizer.step()
    assert w.run.series("noise").steps.tolist() == [0, 1, 2, 3, 5]
    not_told, not_made = w.run.warnings
    assert "`step` was not called before `optimizer.step()`" in not_told
    assert "no backward of this model was made" in not_made


def test_a_watch_is_entered_once_and_step_called_within(tmp_path: Path) -> None:
    made = model, _ = network()
    batch, w = batches(1)[0], watched(tmp_path, made)
    with pytest.raises(BadArgument, match="`step` must be called inside `with"):
        w.step(backward(model, batch), batch)
    with w:
        w.step(backward(model, batch), batch)
    kept = w.state_dict()
    w.step(backward(model, batch), batch)  # after the block: a warning
    assert w.state_dict() == kept
    assert any("`step` was called after" in text for text in w.findings().warnings)
    with pytest.raises(BadArgument, match="`watch` can be entered only once"), w:
        pass
    again = watched(tmp_path, made)
    with pytest.raises(BadArgument, match="`state` is not the state_dict of a watch"):
        again.load_state_dict({})
    with pytest.raises(BadArgument, match=r"`state\['steps'\]` must be a whole number"):
        again.load_state_dict({"steps": "\x00"})
    again.load_state_dict(kept)
    model.zero_grad()
    with again:
        again.step(backward(model, batch), batch)
    assert again.run.path == w.run.path and again.run.series("noise").steps.tolist() == [0, 1]
