"""Loops that differ from the documented ones: training keeps its bits, and what is read is right or said not to be."""

import copy
import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradiometer import watch
from gradiometer.errors import BadArgument
from gradiometer.integrations.watch.capture import part_of
from gradiometer.integrations.watch.updates import A_WHILE
from gradiometer.integrations.watch.watching import Watch
from gradiometer.measurement.objective import supervised

Batch = tuple[Tensor, Tensor]
Network = tuple[nn.Sequential, torch.optim.SGD]
JUDGES = ("batch_sharpness", "step_drift", "loss_change")
LOSSES = supervised(nn.CrossEntropyLoss(reduction="none"))


def network(rate: float = 0.05) -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    return model, torch.optim.SGD(model.parameters(), lr=rate)


def batches(count: int, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 8, generator=generator, dtype=torch.float64),
            torch.randint(5, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def backward(model: nn.Module, batch: Batch, share: float = 1.0) -> Tensor:
    loss = LOSSES(model, batch).mean()
    (loss * share).backward()
    return loss


def by_hand(model: nn.Module, parts: list[Batch]) -> tuple[float, float]:
    """tr Σ and ‖g‖² from the gradients of micro-batches, each made by itself on a copy of the model."""
    rows = []
    for part in parts:
        alone = copy.deepcopy(model)
        alone.zero_grad()
        backward(alone, part)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in alone.parameters() if p.requires_grad]
        rows.append(torch.cat([grad.reshape(-1) for grad in grads]))
    gradients, size = torch.stack(rows), len(parts[0][0])
    trace = size * float(gradients.var(dim=0).sum())
    return trace, float(gradients.mean(0).square().sum()) - trace / (size * len(parts))


def examples(batch: Batch) -> list[Batch]:
    return [(batch[0][[place]], batch[1][[place]]) for place in range(len(batch[1]))]


def assert_read(w: Watch, expected: list[tuple[float, float]], steps: list[int] | None = None) -> None:
    """The readings at these steps, at all if none are named, are those made by hand."""
    series = w.run.series("noise")
    assert series.steps.tolist() == ([*range(len(expected))] if steps is None else steps)
    read = np.stack([series.moments["trace"].sum(1), series.moments["signal"].sum(1)], axis=1)
    assert read == pytest.approx(np.array(expected)[series.steps], rel=1e-9, abs=1e-9)


def watched(tmp_path: Path, made: Network, **settings: Any) -> Watch:
    settings = {"loss": LOSSES, "every": 1, "gauges": "noise", "parts": 0} | settings
    return watch(*made, out=tmp_path, **settings)


# More backwards than one --------------------------------------------------------------------------------------------


def a_penalty_of_its_own(model: nn.Module, batch: Batch) -> Tensor:
    loss = backward(model, batch)
    (0.5 * sum(p.square().sum() for p in model.parameters())).backward()
    return loss


def an_attack_on_the_inputs(model: nn.Module, batch: Batch) -> Tensor:
    inputs = batch[0].clone().requires_grad_()
    LOSSES(model, (inputs, batch[1])).mean().backward()
    model.zero_grad()
    batch[0].add_(0.1 * inputs.grad.sign())
    return backward(model, batch)


def one_through_the_other_network_s_update(model: nn.Module, batch: Batch) -> Tensor:
    (-model(batch[0]).square().mean()).backward()
    model.zero_grad()
    return backward(model, batch)


def gradients_asked_for_beside(model: nn.Module, batch: Batch) -> Tensor:
    torch.autograd.grad(LOSSES(model, batch).sum(), [*model.parameters()])
    return backward(model, batch)


def two_pieces_of_one_loss(model: nn.Module, batch: Batch) -> Tensor:
    losses = LOSSES(model, batch)
    (losses[:3].sum() / len(losses)).backward(retain_graph=True)
    (losses[3:].sum() / len(losses)).backward()
    return losses.mean()


@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.parametrize(
    "backwards",
    [
        a_penalty_of_its_own,
        an_attack_on_the_inputs,
        one_through_the_other_network_s_update,
        gradients_asked_for_beside,
        two_pieces_of_one_loss,
    ],
)
def test_of_several_backwards_before_one_step_the_loss_alone_is_measured(
    tmp_path: Path, backwards: Callable[[nn.Module, Batch], Tensor], parts: int
) -> None:
    """With halves the mean of both is the batch's gradient, whatever else was heard: ‖g‖² + tr Σ/B is ‖ĝ‖²."""
    made, alone = network(), network()
    expected = []
    with watched(tmp_path, made, parts=parts) as w:
        for batch, same in zip(batches(6), batches(6), strict=True):
            for (model, optimizer), one, told in ((made, batch, w), (alone, same, None)):
                optimizer.zero_grad()
                loss = backwards(model, one)
                if told:
                    expected.append(by_hand(model, examples(one)))
                    told.step(loss, one)
                optimizer.step()
    assert all(map(torch.equal, made[0].parameters(), alone[0].parameters()))
    assert [warning for warning in w.run.warnings if "several backwards went through `model`" in warning]
    if parts == 0:
        assert_read(w, expected)
        return
    moments = w.run.series("noise").moments
    squared = moments["signal"].sum(1) + moments["trace"].sum(1) / 8
    assert squared == pytest.approx([signal + trace / 8 for trace, signal in expected], rel=1e-9)
    assert (moments["trace"].sum(1) < 3 * max(trace for trace, _ in expected)).all()


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ("factor", "1024 times as long along it"),  # of a scaler that the watch was not given
        ("hook", "`backward` made another gradient than `loss` has"),
        ("batch", "give `step` the batch that it is of"),
    ],
)
def test_a_gradient_that_is_not_the_loss_s_is_told_and_not_taken_for_it(tmp_path: Path, spoilt: str, told: str) -> None:
    made = model, optimizer = network()
    if spoilt == "hook":
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    ahead, expected = batches(7), []
    with watched(tmp_path, made, parts=2) as w:
        for batch, another in pairwise(ahead):
            optimizer.zero_grad()
            loss = backward(model, batch, 1024.0 if spoilt == "factor" else 1.0)
            given = another if spoilt == "batch" else batch
            expected.append(by_hand(copy.deepcopy(model), examples(given)))
            w.step(loss if spoilt != "batch" else LOSSES(model, another).mean(), given)
            if spoilt == "factor":
                for parameter in model.parameters():
                    parameter.grad /= 1024
            optimizer.step()
    assert told in w.run.warnings[0]
    moments = w.run.series("noise").moments
    squared = moments["signal"].sum(1) + moments["trace"].sum(1) / 8
    assert squared == pytest.approx([signal + trace / 8 for trace, signal in expected], rel=1e-9)


def test_a_network_is_measured_through_another_that_trains_too(tmp_path: Path) -> None:
    made = model, optimizer = network()
    judge, expected = nn.Linear(5, 1).double(), []

    def losses(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.softplus(-judge(model(batch[0])))[:, 0]

    with watched(tmp_path, made, loss=losses) as w:
        for batch in batches(3):
            optimizer.zero_grad()
            (loss := losses(model, batch).mean()).backward()
            kept = [p.grad.clone() for p in judge.parameters()]
            expected.append(float(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).square().sum()))
            w.step(loss, batch)
            assert all(map(torch.equal, kept, [p.grad for p in judge.parameters()]))
            optimizer.step()
    moments = w.run.series("noise").moments
    assert moments["signal"].sum(1) + moments["trace"].sum(1) / 8 == pytest.approx(expected, rel=1e-9)


def test_an_update_of_two_gradients_such_as_sam_s_is_watched_at_the_first(tmp_path: Path) -> None:
    made = model, optimizer = network()
    expected = []
    with watched(tmp_path, made) as w:
        for batch in batches(6):
            optimizer.zero_grad()
            loss = backward(model, batch)
            expected.append(by_hand(model, examples(batch)))
            w.step(loss, batch)
            climbed = [0.05 * p.grad for p in model.parameters()]
            with torch.no_grad():
                torch._foreach_add_([*model.parameters()], climbed)
            optimizer.zero_grad()
            backward(model, batch)
            with torch.no_grad():
                torch._foreach_sub_([*model.parameters()], climbed)
            optimizer.step()
    assert_read(w, expected)
    assert w.run.warnings == []


def accumulated(tmp_path: Path, between: Callable[[nn.Module, torch.optim.Optimizer], None]) -> Watch:
    """A loop of three backwards an update, and what else is done after it."""
    made = model, optimizer = network()
    ahead, expected = iter(batches(15)), []
    with watched(tmp_path, made, loss=None, accumulation=3) as w:
        for _ in range(5):
            parts = []
            for _ in range(3):
                parts.append(next(ahead))
                loss = backward(model, parts[-1], 1 / 3)
                if len(parts) == 3:
                    expected.append(by_hand(model, parts))
                w.step(loss, parts[-1])
            optimizer.step()
            between(model, optimizer)
    assert_read(w, expected, w.run.series("noise").steps.tolist())
    return w


def test_accumulated_backwards_that_do_not_add_up_to_training_s_gradient_are_not_measured(tmp_path: Path) -> None:
    def another_backward(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.ones(2, 8, dtype=torch.float64)).square().mean().backward()
        optimizer.zero_grad()

    plain = accumulated(tmp_path, lambda model, optimizer: optimizer.zero_grad())
    assert len(plain.run.series("noise")) == 5 and plain.run.warnings == []
    zeros = accumulated(tmp_path, lambda model, optimizer: optimizer.zero_grad(set_to_none=False))
    assert len(zeros.run.series("noise")) == 5 and zeros.run.warnings == []
    for between in (lambda model, optimizer: None, another_backward):
        w = accumulated(tmp_path, between)
        assert w.run.series("noise").steps.tolist() == [0]
        (told,) = w.run.warnings
        assert "`.grad` is not the sum of the backwards that `step` was called after" in told
    made = model, _ = network()
    backward(model, batches(1)[0])
    with watched(tmp_path, made, loss=None, accumulation=2) as w, pytest.raises(BadArgument, match="is not the sum of"):
        for batch in batches(2):
            w.step(backward(model, batch), batch)


# Parameters and optimizers that change ------------------------------------------------------------------------------


def froze(model: nn.Sequential, _: torch.optim.Optimizer) -> None:
    model[0].requires_grad_(False)


def replaced(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2] = nn.Linear(16, 5).double()
    optimizer.add_param_group({"params": [*model[2].parameters()]})


def removed(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    model[2] = nn.Identity()


def unfroze(model: nn.Sequential, _: torch.optim.Optimizer) -> None:
    model[0].requires_grad_(True)


@pytest.mark.parametrize("change", [froze, replaced, removed, unfroze])
@pytest.mark.parametrize("settings", [{}, {"gauges": "noise,trajectory"}, {"accumulation": 2, "loss": None}], ids=str)
def test_a_model_that_trains_other_parameters_than_at_the_start_is_not_measured_any_more(
    tmp_path: Path, change: Callable[[nn.Sequential, torch.optim.Optimizer], None], settings: dict[str, Any]
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
    assert [warning for warning in w.run.warnings if "`model` trains other parameters than when" in warning]


def test_steps_that_are_no_updates_are_told(tmp_path: Path) -> None:
    for updates in ("rare", "by another"):
        made = model, optimizer = network()
        other = torch.optim.SGD(model.parameters(), lr=0.01)
        with watched(tmp_path, made, every=20) as w:
            for step, batch in enumerate(batches(A_WHILE + 1)):
                w.step(backward(model, batch), batch)
                if updates == "rare" and step % 4 == 3:
                    optimizer.step()
                    optimizer.zero_grad()
                elif updates == "by another":
                    other.step()
                    other.zero_grad()
        (told,) = w.run.warnings
        assert f"`optimizer` made {7 if updates == 'rare' else 0} updates in 32 steps" in told


def test_parameters_that_no_optimizer_holds_are_named(tmp_path: Path) -> None:
    model, _ = network()
    with watched(tmp_path, (model, torch.optim.SGD(model[2].parameters(), lr=0.1))) as w:
        w.step(backward(model, batch := batches(1)[0]), batch)
    assert "`optimizer` leaves out 0.weight and 1 more parameters" in w.run.warnings[0]


def test_a_warm_up_by_hand_may_begin_at_zero(tmp_path: Path) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made) as w:
        for step, batch in enumerate(batches(3)):
            optimizer.param_groups[0]["lr"] = 0.05 * step
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    assert w.run.series("noise").learning_rate.tolist() == [0.0, 0.05, 0.1]


# What is run beside -------------------------------------------------------------------------------------------------


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
def test_what_the_loss_cannot_do_beside_training_is_told_and_training_goes_on(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="checkpoint it with use_reentrant=False"):
        checkpointed(tmp_path, True, gauges="noise")
    _, w = checkpointed(tmp_path, False, gauges="noise", parts=0)
    assert "torch.func.vmap" in w.run.warnings[0] and w.run.status == "finished"


def test_a_loss_for_batches_of_one_size_is_refused_in_words(tmp_path: Path) -> None:
    made = model, _ = network()
    fixed = supervised(lambda outputs, labels: nn.functional.cross_entropy(outputs.view(8, 5), labels))
    batch = batches(1)[0]
    with watched(tmp_path, made, loss=fixed) as w, pytest.raises(BadArgument, match=r"`loss` fails .* on 1 examples"):
        w.step(backward(model, batch), batch)
    with (
        watched(tmp_path, made, loss=lambda model, batch: LOSSES(model, batch).sum()) as w,
        pytest.raises(BadArgument, match="`loss` is the sum over the examples"),
    ):
        w.step(backward(model, batch), batch)


def test_a_default_device_changes_nothing(tmp_path: Path) -> None:
    made = model, optimizer = network()
    ahead, expected = batches(3), []
    with watched(tmp_path, made, gauges="noise,batch_sharpness,step_drift,trajectory") as w, torch.device("meta"):
        for batch in ahead:
            optimizer.zero_grad()
            loss = backward(model, batch)
            expected.append(by_hand(model, examples(batch)))
            w.step(loss, batch)
            optimizer.step()
    assert_read(w, expected)
    assert w.run.warnings == []


# Calls in other places ----------------------------------------------------------------------------------------------


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
    with pytest.raises(BadArgument, match="`step` is called inside of `with"):
        w.step(backward(model, batch), batch)
    with w:
        w.step(backward(model, batch), batch)
    kept = w.state_dict()
    with pytest.raises(BadArgument, match="`step` is called inside of `with"):
        w.step(backward(model, batch), batch)
    with pytest.raises(BadArgument, match="`watch` is entered once"), w:
        pass
    again = watched(tmp_path, made)
    with pytest.raises(BadArgument, match="`state` is none of a watch"):
        again.load_state_dict({})
    again.load_state_dict(kept)
    model.zero_grad()
    with again:
        again.step(backward(model, batch), batch)
    assert again.run.path == w.run.path and again.run.series("noise").steps.tolist() == [0, 1]


class Looked(nn.Module):
    """An embedding that no module says is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 4))

    def forward(self, words: Tensor) -> Tensor:
        return nn.functional.embedding(words, self.table, sparse=True).square().mean(-1)


def test_other_things_that_cannot_be_watched_are_refused_in_words(tmp_path: Path) -> None:
    def refused(model: nn.Module, words: str) -> None:
        with pytest.raises(BadArgument, match=words):
            watch(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=LOSSES)

    refused(nn.Linear(8, 5, device="meta"), "`model` has weight on the meta device")
    refused(nn.LazyLinear(5), "`model` has weight not made yet")
    model, words = Looked(), torch.arange(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, loss=lambda model, words: model(words), out=tmp_path) as w:
        loss = model(words).mean()
        loss.backward()
        with pytest.raises(BadArgument, match="`model` makes a sparse gradient"):
            w.step(loss, words)
    with pytest.raises(BadArgument, match="must be a number or a tensor, got dict"):
        inspect.unwrap(part_of)(words, {"loss": 0.1})
