"""What a loss has compared is read from its graph, so that a loop need not give its batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradiometer import diagnose, watch
from gradiometer.integrations.watch.observers.triage.batches import IGNORED, compared_by
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.signs import Signs
from watched_loop import READS_LABELS

ROWS = torch.Generator().manual_seed(3)
LOGITS = torch.randn(6, 5, generator=ROWS, requires_grad=True)
CLASSES = torch.randint(5, (6,), generator=ROWS)
TARGETS = torch.rand(6, 5, generator=ROWS)
IMAGES = torch.randn(2, 5, 3, 4, generator=ROWS, requires_grad=True)
PIXELS = torch.randint(5, (2, 3, 4), generator=ROWS)


@READS_LABELS
@pytest.mark.parametrize(
    ("loss", "outputs", "labels"),
    [
        (functional.cross_entropy(LOGITS, CLASSES), LOGITS.log_softmax(1), CLASSES),
        (
            functional.cross_entropy(LOGITS, CLASSES, label_smoothing=0.1),
            LOGITS.log_softmax(1),
            CLASSES,
        ),
        (functional.cross_entropy(IMAGES, PIXELS), IMAGES.log_softmax(1), PIXELS),
        (functional.mse_loss(LOGITS, TARGETS), LOGITS, TARGETS),
        (functional.huber_loss(LOGITS, TARGETS), LOGITS, TARGETS),
        (functional.smooth_l1_loss(LOGITS, TARGETS), LOGITS, TARGETS),
        (functional.binary_cross_entropy_with_logits(LOGITS, TARGETS), LOGITS, TARGETS),
    ],
)
@pytest.mark.parametrize(
    "as_called",
    [
        lambda loss: loss,
        lambda loss: loss / 4,
        lambda loss: loss * torch.tensor(1024.0),
        lambda loss: loss + 0.1 * LOGITS.square().sum(),
    ],
    ids=["alone", "accumulated", "scaled", "with a penalty"],
)
def test_the_outputs_and_labels_are_those_that_the_loss_was_given(
    loss: Tensor, outputs: Tensor, labels: Tensor, as_called: Callable[[Tensor], Tensor]
) -> None:
    found = compared_by(as_called(loss))
    assert found is not None
    assert torch.equal(found[0], outputs.detach()) and torch.equal(found[1], labels)
    assert not found[0].requires_grad


@READS_LABELS
def test_a_label_that_is_left_out_has_the_number_by_which_torch_does_so() -> None:
    found = compared_by(functional.cross_entropy(LOGITS, CLASSES, ignore_index=int(CLASSES[0])))
    assert found is not None
    left_out = CLASSES[0] == CLASSES
    assert (found[1][left_out] == IGNORED).all()
    assert torch.equal(found[1][~left_out], CLASSES[~left_out])


def test_nothing_is_known_of_other_losses_of_two_and_after_backward() -> None:
    assert compared_by((LOGITS - TARGETS).square().mean()) is None
    two = functional.mse_loss(LOGITS, TARGETS) + functional.cross_entropy(LOGITS, CLASSES)
    assert compared_by(two) is None
    assert compared_by(torch.tensor(1.0)) is None
    passed = functional.cross_entropy(LOGITS, CLASSES)
    torch.autograd.grad(passed, LOGITS)
    assert compared_by(passed) is None


def checkpointed(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """A loss whose forward is run again by `backward`."""
    return checkpoint(
        lambda rows: functional.cross_entropy(model(rows), labels), inputs, use_reentrant=False
    )


def network_with_statistics() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train_checkpointed(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[Tensor], object]
) -> None:
    torch.manual_seed(2)
    for _ in range(40):
        chosen = torch.randint(256, (32,))
        optimizer.zero_grad()
        loss = checkpointed(model, INPUTS[chosen], LABELS[chosen])
        loss.backward()
        step(loss)
        optimizer.step()


def test_a_loss_inside_of_a_checkpoint_is_not_run_again(tmp_path: Path) -> None:
    """Running it once more would count in the statistics of BatchNorm, too."""
    plain, optimizer = network_with_statistics()
    assert compared_by(checkpointed(plain, INPUTS, LABELS)) is None
    plain, optimizer = network_with_statistics()
    train_checkpointed(plain, optimizer, lambda _: None)
    watched, optimizer = network_with_statistics()
    with watch(watched, optimizer, out=tmp_path, page=False, quiet=True) as w:
        train_checkpointed(watched, optimizer, w.step)
    for one, other in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_labels_that_were_changed_since_are_not_read() -> None:
    labels = CLASSES.clone()
    loss = functional.cross_entropy(LOGITS, labels)
    labels += 0
    assert compared_by(loss) is None


INPUTS = torch.randn(256, 8, generator=ROWS)
LABELS = (INPUTS @ torch.randn(8, 4, generator=ROWS)).argmax(dim=1)


def trained(folder: Path, *, gives_batch: bool, softmax: bool = False) -> tuple[Signs, str, Tensor]:
    """A small loop of 60 steps: its signs, its first claim and its last parameters."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    if softmax:
        model.append(nn.Softmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=folder, budget=0.3, steps=60, page=False, quiet=True) as w:
        for _ in range(60):
            chosen = torch.randint(256, (32,))
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(INPUTS[chosen]), LABELS[chosen])
            loss.backward()
            if gives_batch:
                w.step(loss, (INPUTS[chosen], LABELS[chosen]))
            else:
                w.step(loss)
            optimizer.step()
    assert w.run is not None
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return Signs.of(w.run), diagnose(w.run).headline.claim, flat


@READS_LABELS
@pytest.mark.parametrize("softmax", [False, True])
def test_a_loop_of_two_lines_is_told_what_one_that_gives_its_batches_is(
    tmp_path: Path, softmax: bool
) -> None:
    given, claim, bits = trained(tmp_path, gives_batch=True, softmax=softmax)
    seen, same_claim, same_bits = trained(tmp_path, gives_batch=False, softmax=softmax)
    assert torch.equal(bits, same_bits)
    assert claim == same_claim
    assert (claim == Claim.SOFTMAX_TWICE) == softmax
    assert len(seen.series("label_entropy")) > 3
    for name in ("label_entropy", "as_cross_entropy", "as_twice", "classes", "output_std"):
        assert seen.series(name) == pytest.approx(given.series(name), rel=1e-5)
