"""What triage reads in loops with more than one model, more than one backward, or a model that
takes no hooks."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradiometer import BadArgument, Run, diagnose, watch
from gradiometer.integrations.watch.observers.triage.recorder import is_time_first
from gradiometer.verdict.triage.signs import Signs
from watched_loop import READS_LABELS

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(256, 8, generator=GENERATOR)
LABELS = (INPUTS @ torch.randn(8, 4, generator=GENERATOR)).argmax(dim=1)

FAULTS = {"accumulation", "zero_grad", "no_gradient"}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def loss_on(model: nn.Module, rows: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(INPUTS[rows]), LABELS[rows])


def run_of(
    folder: Path, update: Callable[[nn.Module, torch.optim.Optimizer, Tensor], Tensor]
) -> Run:
    """A run whose loop calls `update` for the gradient of each step."""
    torch.manual_seed(1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=folder, quiet=True, page=False) as w:
        for _ in range(150):
            rows = torch.randint(len(INPUTS), (16,))
            loss = update(model, optimizer, rows)
            w.step(loss, (INPUTS[rows], LABELS[rows]))
            optimizer.step()
    assert w.run is not None
    return w.run


def claims_of(run: Run) -> list[str]:
    triage = diagnose(run).triage
    assert triage is not None
    return [each.claim.value for each in triage.claims]


def test_another_model_that_is_trained_between_two_steps_is_no_fault_of_this_one(
    tmp_path: Path,
) -> None:
    other = network()
    optimizer_of_other = torch.optim.SGD(other.parameters(), lr=0.1)

    def update(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> Tensor:
        optimizer_of_other.zero_grad()
        loss_on(other, rows).backward()
        optimizer_of_other.step()
        optimizer.zero_grad()
        loss = loss_on(model, rows)
        loss.backward()
        return loss

    run = run_of(tmp_path, update)
    assert not FAULTS & set(claims_of(run))
    assert {signs["backwards"] for _, signs in run.signs if "backwards" in signs} == {1}


def test_two_backwards_with_gradients_cleared_between_them_are_not_added(tmp_path: Path) -> None:
    def update(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss_on(model, rows).backward()
        optimizer.zero_grad()
        loss = loss_on(model, rows)
        loss.backward()
        return loss

    assert not FAULTS & set(claims_of(run_of(tmp_path, update)))


@pytest.mark.parametrize("in_place", [False, True], ids=["to None", "in place"])
def test_two_backwards_that_are_added_and_gradients_that_are_never_cleared_are_seen(
    tmp_path: Path, in_place: bool
) -> None:
    def added(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=not in_place)
        loss_on(model, rows).backward()
        loss = loss_on(model, rows)
        loss.backward()
        return loss

    def never_cleared(model: nn.Module, _: torch.optim.Optimizer, rows: Tensor) -> Tensor:
        loss = loss_on(model, rows)
        loss.backward()
        return loss

    assert "accumulation" in claims_of(run_of(tmp_path / "added", added))
    assert "zero_grad" in claims_of(run_of(tmp_path / "never", never_cleared))


@READS_LABELS
def test_examples_along_the_second_axis_are_the_batch(tmp_path: Path) -> None:
    """A transformer with the time first, whose batch of 128 was called too small, as one of 4."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.RNN(8, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            head: Tensor = self.head(self.layer(x)[0][-1])
            return head

    torch.manual_seed(1)
    model = Last()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(100):
            optimizer.zero_grad()
            labels = torch.randint(4, (32,))
            loss = nn.functional.cross_entropy(model(torch.randn(3, 32, 8)), labels)
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert w.run is not None
    signs = Signs.of(w.run)
    assert signs.batch_size == 32 and set(signs.series("rows")) == {32.0}
    assert "batch_small" not in claims_of(w.run)


def test_features_as_many_as_labels_are_no_batch() -> None:
    """A graph of 128 nodes with 32 features each, of which 32 nodes have labels."""
    labels = torch.zeros(32, dtype=torch.long)
    assert not is_time_first(torch.randn(128, 32), labels)
    assert is_time_first(torch.randint(9, (128, 32)), labels)
    assert is_time_first(torch.randn(128, 32, 8), labels)
    assert not is_time_first(torch.randn(32, 32, 8), labels)


@READS_LABELS
@pytest.mark.parametrize("is_divided", [False, True], ids=["as a mean", "as a part"])
@pytest.mark.parametrize("given", ["each", "the last", "its part"])
def test_micro_batches_are_counted_in_two_lines(
    tmp_path: Path, given: str, is_divided: bool
) -> None:
    """`step` may get each loss, the last one, or what `backward` was called on."""
    torch.manual_seed(1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(200):
            optimizer.zero_grad()
            for _ in range(4):
                loss = loss_on(model, torch.randint(len(INPUTS), (8,)))
                part = loss / 4 if is_divided else loss
                part.backward()
                if given == "each":
                    w.step(loss)
            if given != "each":
                w.step(part if given == "its part" else loss)
            optimizer.step()
    assert w.run is not None
    assert ("accumulation" in claims_of(w.run)) is not is_divided


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_model_is_watched_and_needs_its_batches(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = torch.jit.script(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for step in range(60):
            rows = torch.randint(len(INPUTS), (16,))
            optimizer.zero_grad()
            loss = loss_on(model, rows)
            loss.backward()
            if not step:
                with pytest.raises(BadArgument, match="`batch` is missing"):
                    w.step(loss)
            w.step(loss, (INPUTS[rows], LABELS[rows]))
            optimizer.step()
            if step % 20 == 19:
                w.evaluated(test=0.1 + loss)
    assert w.run is not None and not w.run.warnings
    assert len(w.run.losses[1]) == 60 and len(w.run.signs) > 5


def test_the_inputs_that_stand_for_a_batch_hold_no_graph(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    features = INPUTS[:16].clone().requires_grad_()
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        nn.functional.cross_entropy(model(features * 2), LABELS[:16]).backward()
        assert w._batch_seen(None).grad_fn is None


@pytest.mark.parametrize("steps", range(20, 24), ids=lambda steps: f"{steps} steps")
def test_after_the_end_a_watch_holds_no_copy_of_the_parameters(tmp_path: Path, steps: int) -> None:
    """Also if the training ends in the middle of a look or of a chain."""
    size = 123 * 4
    model = nn.Sequential(nn.Linear(8, 123), nn.ReLU(), nn.Linear(123, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = torch.arange(16)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(INPUTS[rows]), LABELS[rows])
            loss.backward()
            w.step(loss, (INPUTS[rows], LABELS[rows]))
            optimizer.step()
    optimizer.zero_grad()
    del loss
    gc.collect()
    whole = sum(parameter.numel() for parameter in model.parameters())
    tensors = [
        one
        for one in gc.get_objects()
        if type(one) in (Tensor, nn.Parameter) and one.numel() in (size, whole)
    ]
    copies = {one.data_ptr() for one in tensors}
    # the weights, the two moments of Adam, and the small model's start for `certify`
    assert len(copies) == 4
    assert w.steps == steps
