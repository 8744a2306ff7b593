"""What a fork of a watched loop says of the loop: weights that follow those of the model, seeds."""

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradiometer import Unsupported, supervised, watch
from gradiometer.loop import Fork
from gradiometer.loop.followers import NOTE

SQUARED = supervised(nn.MSELoss())
Batch = tuple[torch.Tensor, torch.Tensor]


def forked(
    folder: Path,
    loss: Callable[[nn.Module, Batch], torch.Tensor] = SQUARED,
    *,
    before: Callable[[int], Any] = lambda step: None,
    after: Callable[[nn.Module], Callable[[], Any]] = lambda model: lambda: None,
    quiet: bool = True,
    **settings: Any,
) -> Fork:
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(1))
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    follow = after(model)
    with watch(
        model, optimizer, loss=loss, sampling=loader, steps=40, out=folder, page=False, quiet=quiet
    ) as w:
        for step, batch in enumerate(batch for _ in range(4) for batch in loader):
            before(step)
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            w.step(value, batch)
            optimizer.step()
            follow()
        found = w.fork("rate 2x", **({"replicates": 2} | settings))
    assert found is not None
    return found


def averaged(model: nn.Module) -> Callable[[], None]:
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    return lambda: average.update_parameters(model)


def by_hand(model: nn.Module) -> Callable[[], None]:
    slow = copy.deepcopy(model)

    @torch.no_grad()
    def follow() -> None:
        for one, other in zip(slow.parameters(), model.parameters(), strict=True):
            one.mul_(0.9).add_(other, alpha=0.1)

    return follow


def shadow(model: nn.Module) -> Callable[[], None]:
    slow = [one.detach().clone() for one in model.parameters()]

    @torch.no_grad()
    def follow() -> None:
        for one, other in zip(slow, model.parameters(), strict=True):
            one.lerp_(other, 0.1)

    return follow


@pytest.mark.parametrize("kind", [averaged, by_hand, shadow])
def test_a_moving_average_outside_of_the_model_is_named(
    tmp_path: Path, kind: Callable[[nn.Module], Callable[[], None]]
) -> None:
    assert NOTE in forked(tmp_path, after=kind).notes


def snapshot(model: nn.Module) -> Callable[[], None]:
    kept = copy.deepcopy(model)
    return lambda: kept.eval() and None


def another(model: nn.Module) -> Callable[[], None]:
    """Another model of the same kind, which has an optimizer of its own."""
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)

    def follow() -> None:
        optimizer.zero_grad()
        other(torch.ones(2, 4)).sum().backward()
        optimizer.step()

    return follow


@pytest.mark.parametrize("kind", [snapshot, another, lambda model: lambda: None])
def test_without_one_nothing_is_said_of_it(
    tmp_path: Path, kind: Callable[[nn.Module], Callable[[], None]]
) -> None:
    gc.collect()  # the averages of other tests
    assert NOTE not in forked(tmp_path, after=kind).notes


def noisy(model: nn.Module, batch: Batch) -> torch.Tensor:
    inputs, targets = batch
    return SQUARED(model, (inputs + 0.1 * torch.randn_like(inputs), targets))


def test_a_loop_that_seeds_before_every_update_is_refused_by_its_seed(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"your loop seeded the random generator \(torch\.manual"):
        forked(tmp_path, noisy, before=torch.manual_seed)
    assert forked(tmp_path, noisy).effects()


def test_a_fork_says_what_it_costs_before_it_begins(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    forked(tmp_path / "ends", quiet=False)
    said = capfd.readouterr().err
    # 32 of 40 updates are made, and 8 are left to each of 4 branches; the rate stays high
    for end in ("at the rate of its schedule to the end", "cooled to zero over its second half"):
        expected = f"training 4 branches from step 32 (go on; rate 2x; each {end}): 32 updates, 1 times those of the training so far"
        assert said.count(expected) == 1
    forked(tmp_path / "race", quiet=False, replicates=None, budget=4.0)
    assert "up to 160 updates, 5 times those of the training so far" in capfd.readouterr().err
    forked(tmp_path / "quiet")
    assert not capfd.readouterr().err


def test_a_group_that_is_added_among_the_newest_updates_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.randn(64, 4)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.05)

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().mean()

    with watch(model, optimizer, loss=loss, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(10):
            for batch in loader:
                if w.steps == 72:
                    optimizer.add_param_group({"params": model[2].parameters()})
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch)
                optimizer.step()
                if w.steps == 76:
                    with pytest.raises(Unsupported, match="`optimizer` has other parameter groups"):
                        w.fork("rate 2x", batches=loader, horizon="4 updates", replicates=2)


def test_a_loss_may_use_a_name_that_is_not_set_yet(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        value = SQUARED(model, batch)
        return offset if value.isnan().any() else value

    assert forked(tmp_path, loss, horizon="4 updates").effects is not None
    offset = torch.ones(())  # set after the training
