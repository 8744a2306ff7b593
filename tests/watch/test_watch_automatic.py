"""`w.batches`: a loop that makes `backward` and the update in one call, measured without a call of
`step`."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from gradiometer import BadArgument, Draw, Run, Sampling, watch
from gradiometer.integrations.watch import Watch
from gradiometer.measurement import supervised

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
PLAIN = torch.autograd.backward


def loader(size: int = 8, steps: int = 12) -> "DataLoader[Any]":
    draws = torch.Generator().manual_seed(3)
    examples = TensorDataset(
        torch.randn(size * steps, 8, generator=draws),
        torch.randint(5, (size * steps,), generator=draws),
    )
    return DataLoader(examples, batch_size=size)


def network(layer: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), layer(), nn.Linear(16, 5))


class FusedScaler:
    """Makes `backward` and the update in one call, as timm's does."""

    def __init__(self, scale: float = 1.0, enabled: bool = False) -> None:
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=scale, growth_interval=5, enabled=enabled
        )

    def __call__(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, model: nn.Module, *, update: bool
    ) -> None:
        self.scaler.scale(loss).backward()
        if update:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            self.scaler.step(optimizer)
            self.scaler.update()
            optimizer.zero_grad()


def train(
    w: Watch | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Any,
    *,
    fused: FusedScaler,
    accumulation: int = 1,
    called: bool = False,
) -> None:
    """The same training, fused, or with `w.step` between `backward` and the update."""
    for place, batch in enumerate(batches, start=1):
        loss = LOSS(model, batch).mean()
        update = place % accumulation == 0
        if called and w is not None:
            fused(loss / accumulation, optimizer, model, update=False)
            w.step(loss, batch)
            if update:
                fused(torch.zeros((), requires_grad=True), optimizer, model, update=True)
        else:
            fused(loss / accumulation, optimizer, model, update=update)


def trained(
    out: Path,
    how: str,
    *,
    accumulation: int = 1,
    scale: float = 0.0,
    layer: Callable[[], nn.Module] = nn.ReLU,
    **settings: Any,
) -> tuple[nn.Module, Run | None]:
    model, fused = network(layer), FusedScaler(scale or 1.0, enabled=bool(scale))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = {"fused": fused, "accumulation": accumulation}
    if how == "alone":
        train(None, model, optimizer, loader(), **run)
        return model, None
    asked = {
        "every": 2,
        "loss": LOSS,
        "gauges": "noise,temperature",
        "page": False,
        "quiet": True,
    } | settings
    with watch(
        model, optimizer, out=out, name=how, accumulation=accumulation, scaler=fused.scaler, **asked
    ) as w:
        train(
            w,
            model,
            optimizer,
            w.batches(loader()) if how == "batches" else loader(),
            called=how == "step",
            **run,
        )
    assert torch.autograd.backward is PLAIN
    return model, w.run


KINDS: list[dict[str, Any]] = [
    {},
    {"accumulation": 3},
    {"accumulation": 2, "loss": None, "gauges": "noise"},
    {"scale": 1024.0},
    {"scale": 64.0, "accumulation": 2},
    {"layer": lambda: nn.Dropout(0.3)},
    {"layer": lambda: nn.BatchNorm1d(16)},
]


@pytest.mark.parametrize(
    "kind",
    KINDS,
    ids=["plain", "accumulation", "no loss", "scaler", "both", "Dropout", "BatchNorm"],
)
def test_it_measures_what_step_measures_and_leaves_training_as_it_was(
    tmp_path: Path, kind: dict[str, Any]
) -> None:
    alone, _ = trained(tmp_path, "alone", **kind)
    model, run = trained(tmp_path, "batches", **kind)
    _, called = trained(tmp_path, "step", **kind)
    for one, other in zip(alone.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert run is not None and called is not None and run.warnings == called.warnings
    assert run.gauges == called.gauges and run.gauges
    np.testing.assert_allclose(run.losses[1], called.losses[1], rtol=1e-6)
    for gauge in run.gauges:
        ours, theirs = run.series(gauge), called.series(gauge)
        assert (
            ours is not None and theirs is not None and ours.steps.tolist() == theirs.steps.tolist()
        )
        for name, moments in theirs.moments.items():
            assert np.array_equal(ours.moments[name], moments), name


def watched(out: Path, model: nn.Module, **settings: Any) -> tuple[torch.optim.Optimizer, Watch]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return optimizer, watch(
        model, optimizer, out=out, loss=LOSS, every=1, parts=2, page=False, quiet=True, **settings
    )


def test_a_loader_keeps_its_length_its_attributes_and_its_batches(tmp_path: Path) -> None:
    _, w = watched(tmp_path, network())
    given = loader()
    with w:
        batches = w.batches(given)
        batches.mixup_enabled = False
        assert (
            len(batches) == 12 and batches.dataset is given.dataset and given.mixup_enabled is False
        )
        for passed, batch in zip(batches, given, strict=True):
            assert all(map(torch.equal, passed, batch))


def test_backwards_of_other_models_are_not_steps(tmp_path: Path) -> None:
    model, other = network(), network()
    optimizer, w = watched(tmp_path, model)
    with w:
        for batch in w.batches(loader()):
            LOSS(other, batch).mean().backward()
            optimizer.zero_grad()
            LOSS(model, batch).mean().backward()
            LOSS(other, batch).mean().backward()
            optimizer.step()
    assert w.steps == 12 and w.run is not None and w.run.warnings == []


def test_two_networks_are_watched_at_once(tmp_path: Path) -> None:
    one, other = network(), network(nn.Tanh)
    (first, v), (second, w) = watched(tmp_path, one), watched(tmp_path, other)
    with v, w:
        for batch in v.batches(w.batches(loader())):
            for model, optimizer in ((one, first), (other, second)):
                optimizer.zero_grad()
                LOSS(model, batch).mean().backward()
                optimizer.step()
    assert torch.autograd.backward is PLAIN
    for each in (v, w):
        assert each.steps == 12 and each.run is not None and each.run.warnings == []


def test_reentrant_checkpointing_is_one_backward(tmp_path: Path) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = network(), nn.Linear(5, 5)

        def forward(self, inputs: Tensor) -> Any:
            return self.last(
                checkpoint(
                    self.first, inputs, use_reentrant=torch.is_grad_enabled() and self.training
                )
            )

    model = Checkpointed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(
        model,
        optimizer,
        accumulation=2,
        out=tmp_path,
        every=1,
        parts=2,
        gauges="noise",
        page=False,
        quiet=True,
    ) as w:
        for place, (inputs, labels) in enumerate(w.batches(loader()), start=1):
            (nn.functional.cross_entropy(model(inputs.requires_grad_()), labels) / 2).backward()
            if place % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
    assert w.steps == 6 and w.run is not None and w.run.warnings == []


def test_trainings_in_two_threads_are_told_apart(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            both.wait(timeout=20)  # one backward is inside while the other begins
            return gradient

    def training(place: int) -> int:
        optimizer, w = watched(tmp_path / str(place), models[place])
        with w:
            for inputs, labels in w.batches(loader()):
                optimizer.zero_grad()
                nn.functional.cross_entropy(Slow.apply(models[place](inputs)), labels).backward()
                optimizer.step()
        return w.steps

    models = [network(), network(nn.Tanh)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(training, range(2))) == [12, 12]


def test_a_second_backward_for_one_batch_is_a_warning(tmp_path: Path) -> None:
    model = network()
    optimizer, w = watched(tmp_path, model)
    with w:
        for batch in w.batches(loader()):
            optimizer.zero_grad()
            LOSS(model, batch).mean().backward()
            LOSS(model, batch).mean().backward()
            optimizer.step()
    assert w.steps == 12 and w.run is not None
    assert any(
        "several backwards went through `model` for one batch" in warning
        for warning in w.run.warnings
    )


def test_batches_changed_after_loading_are_announced_by_batch(tmp_path: Path) -> None:
    model = network()
    optimizer, w = watched(tmp_path, model)
    with w:
        for inputs, labels in loader():
            batch = w.batch((inputs.flip(0), labels))
            optimizer.zero_grad()
            LOSS(model, batch).mean().backward()
            optimizer.step()
    assert w.steps == 12 and w.run is not None and w.run.warnings == []


def test_a_closure_of_the_optimizer_makes_one_step_per_batch(tmp_path: Path) -> None:
    model = network()
    optimizer, w = watched(tmp_path, model)

    def steps() -> Iterator[None]:
        for batch in w.batches(loader()):

            def closure(batch: Any = batch) -> float:
                optimizer.zero_grad()
                loss = LOSS(model, batch).mean()
                loss.backward()
                return float(loss.detach())

            yield optimizer.step(closure)

    with w:
        assert len(list(steps())) == 12
    assert w.steps == 12 and w.run is not None and w.run.warnings == []


def test_a_batch_is_announced_inside_of_with(tmp_path: Path) -> None:
    _, w = watched(tmp_path, network())
    with pytest.raises(BadArgument, match="`batch` must be announced inside `with watch"):
        next(iter(w.batches(loader())))


def test_step_is_not_called_in_a_loop_over_batches(tmp_path: Path) -> None:
    model = network()
    _, w = watched(tmp_path, model)
    with w, pytest.raises(BadArgument, match=r"not over `w\.batches`, which calls it"):
        for batch in w.batches(loader()):
            loss = LOSS(model, batch).mean()
            loss.backward()
            w.step(loss, batch)


def test_a_backward_of_several_numbers_is_refused(tmp_path: Path) -> None:
    model = network()
    _, w = watched(tmp_path, model)
    with (
        w,
        pytest.raises(
            BadArgument, match="`backward` was not called on one number: call `step` yourself"
        ),
    ):
        batch = w.batch(next(iter(loader())))
        LOSS(model, batch).backward(torch.ones(8))
    assert torch.autograd.backward is PLAIN


def test_a_training_that_fails_leaves_torch_as_it_was(tmp_path: Path) -> None:
    _, w = watched(tmp_path, network())
    with pytest.raises(RuntimeError, match="theirs"), w:
        w.batch(next(iter(loader())))
        assert torch.autograd.backward is not PLAIN
        raise RuntimeError("theirs")
    assert torch.autograd.backward is PLAIN


@pytest.mark.slow
def test_two_processes_measure_the_same_as_with_step(tmp_path: Path) -> None:
    program = str(Path(__file__).parents[1] / "support" / "rank_automatic.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (lambda data: DataLoader(data, batch_size=8, shuffle=True), Sampling(Draw.RESHUFFLED, 96)),
        (
            lambda data: DataLoader(data, batch_size=8, sampler=RandomSampler(data, True, 96)),
            Sampling(Draw.REPLACEMENT, 96),
        ),
        (
            lambda data: DataLoader(data, batch_size=8, sampler=list(range(96))),
            Sampling(Draw.REPLACEMENT),
        ),
        (lambda data: list(DataLoader(data, batch_size=8)), Sampling(Draw.REPLACEMENT)),
    ],
    ids=["shuffled", "with replacement", "unknown sampler", "no loader"],
)
def test_the_sampling_is_that_of_the_loader(
    tmp_path: Path, given: Callable[[Any], Any], found: Sampling
) -> None:
    model = network()
    batches = given(loader().dataset)
    optimizer, w = watched(tmp_path, model)
    with w:
        for batch in w.batches(batches):
            optimizer.zero_grad()
            LOSS(model, batch).mean().backward()
            optimizer.step()
    assert w.run is not None and w.run.sampling == found


def test_a_given_sampling_is_kept(tmp_path: Path) -> None:
    model = network()
    optimizer, w = watched(tmp_path, model, examples=1000)
    with w:
        for batch in w.batches(loader()):
            optimizer.zero_grad()
            LOSS(model, batch).mean().backward()
            optimizer.step()
    assert w.run is not None and w.run.sampling == Sampling(Draw.RESHUFFLED, 1000)
