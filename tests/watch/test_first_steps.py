"""The commonest mistakes of a loop are named at its first steps, and legal loops are not."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import BadArgument, diagnose, supervised, watch
from gradiometer.integrations.watch.observers import first_steps
from gradiometer.integrations.watch.observers.first_steps import other_numbers

INPUTS = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS @ torch.ones(6)).gt(0).long()
LOSS = supervised(nn.CrossEntropyLoss())


class Loop:
    """What a person has in the loop."""

    def __init__(self, w: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.w, self.model, self.optimizer = w, model, optimizer
        self.chance = torch.Generator().manual_seed(1)
        self.kept: list[Any] = []

    def loss(self) -> Tensor:
        rows = torch.randint(256, (16,), generator=self.chance)
        self.batch = INPUTS[rows], LABELS[rows]
        self.optimizer.zero_grad()
        return LOSS(self.model, self.batch)

    def made(self) -> Tensor:
        loss = self.loss()
        loss.backward()
        return loss


def before_backward(here: Loop) -> None:
    loss = here.loss()
    here.w.step(loss)
    loss.backward()
    here.optimizer.step()


def after_the_update(here: Loop) -> None:
    loss = here.made()
    here.optimizer.step()
    here.w.step(loss)


def after_the_gradients_are_cleared(here: Loop) -> None:
    loss = here.made()
    here.optimizer.step()
    here.optimizer.zero_grad()
    here.w.step(loss)


def before_and_after_the_update(here: Loop) -> None:
    loss = here.made()
    here.w.step(loss, here.batch)
    here.optimizer.step()
    here.w.step(loss, here.batch)


def never(here: Loop) -> None:
    here.made()
    here.optimizer.step()


def with_the_loss_before(here: Loop) -> None:
    loss = here.made()
    here.w.step(here.kept[-1] if here.kept else loss)
    here.kept.append(loss.detach())
    here.optimizer.step()


def with_a_running_mean(here: Loop) -> None:
    here.kept.append(here.made().item())
    here.w.step(sum(here.kept) / len(here.kept))
    here.optimizer.step()


def with_a_running_sum(here: Loop) -> None:
    here.kept.append(here.made().item())
    here.w.step(sum(here.kept))
    here.optimizer.step()


def with_the_first_loss(here: Loop) -> None:
    here.kept.append(here.made())
    here.w.step(here.kept[0].item())
    here.optimizer.step()


def with_the_loss_of_another_batch(here: Loop) -> None:
    here.made()
    here.w.step(LOSS(here.model, (INPUTS[:16], LABELS[:16])))
    here.optimizer.step()


MISTAKES: dict[Callable[[Loop], None], str] = {
    before_backward: r"called before `backward`: call it between `loss.backward\(\)` and",
    after_the_update: r"called after the update: call it between `loss.backward\(\)` and",
    after_the_gradients_are_cleared: "called after the update",
    before_and_after_the_update: "called twice after one `backward`: call it once",
    never: "not called in the first 4 updates",
    with_the_loss_before: "got the loss of the step before: give it the loss of this batch",
    with_a_running_mean: "got the running mean of the losses: give it the loss of this batch",
    with_a_running_sum: "got the sum of all losses so far: give it the loss of this batch",
    with_the_first_loss: "got the same number at every step: give it the loss of this batch",
    with_the_loss_of_another_batch: "got the loss of another call of the model than `backward` was",
}


def followed(
    tmp_path: Path, loop: Callable[[Loop], None], kind: str = "SGD", steps: int = 60
) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        here = Loop(w, model, optimizer)
        for _ in range(steps):
            loop(here)
    return w


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("loop", MISTAKES, ids=lambda loop: loop.__name__.replace("_", " "))
def test_a_mistake_is_named_in_one_sentence(
    tmp_path: Path, loop: Callable[[Loop], None], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    w = followed(tmp_path, loop, kind)
    said, *others = caplog.messages
    # twice as many steps as updates are noticed later, too
    assert not others or loop is before_and_after_the_update
    assert said.startswith("`w.step` ")
    assert re.search(MISTAKES[loop], said)
    if w.run is not None:
        verdict = diagnose(w.run).verdict
        assert f"no verdict: {said}" in verdict
        assert [str(w.findings()).count("▲"), str(w.findings()).count("✓")] == [0, 0]


def test_a_mistake_is_named_before_the_sixth_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for loop in MISTAKES:
        caplog.clear()
        followed(tmp_path, loop, steps=5)
        assert len(caplog.messages) == 1, loop


def test_a_loop_that_never_calls_it_is_told_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    followed(tmp_path, never, steps=2)
    assert "`w.step` was never called" in caplog.messages[0]


@pytest.mark.parametrize("has_loss", [True, False])
def test_a_step_that_is_called_twice_before_the_first_update_is_refused(
    tmp_path: Path, has_loss: bool
) -> None:
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings: Any = {"loss": LOSS} if has_loss else {}
    with (
        watch(model, optimizer, out=tmp_path, quiet=True, page=False, **settings) as w,
        pytest.raises(BadArgument, match="twice after one `backward`: call it once"),
    ):
        here = Loop(w, model, optimizer)
        loss = here.made()
        w.step(loss, here.batch)
        w.step(loss, here.batch)


def test_two_watches_of_one_training_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, critic = nn.Linear(6, 2), nn.Linear(6, 2)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, critic)]
    settings: Any = {"out": tmp_path, "quiet": True, "page": False}
    with watch(model, optimizers[0], **settings), watch(critic, optimizers[1], **settings):
        pass
    with watch(model, optimizers[0], **settings):
        pass
    assert caplog.messages == []
    with watch(model, optimizers[0], **settings), watch(model, optimizers[0], **settings):
        pass
    assert len(caplog.messages) == 1
    assert "use one `with watch(...)` around the training" in caplog.messages[0]


# Legal loops
# ------------------------------------------------------------------------------------------------


def with_micro_batches(here: Loop) -> None:
    here.optimizer.zero_grad()
    for start in (0, 16):
        loss = LOSS(here.model, (INPUTS[start:][:16], LABELS[start:][:16]))
        (loss / 2).backward()
        here.w.step(loss)
    here.optimizer.step()


def with_a_penalty(here: Loop) -> None:
    loss = here.loss()
    (loss + sum(one.square().sum() for one in here.model.parameters())).backward()
    here.w.step(loss.item())
    here.optimizer.step()


def with_a_closure(here: Loop) -> None:
    def closure() -> Tensor:
        loss = here.made()
        here.w.step(loss)
        return loss

    here.optimizer.step(closure)


def with_a_skipped_update(here: Loop) -> None:
    here.kept.append(here.made())
    here.w.step(here.kept[-1])
    if len(here.kept) > 2:
        here.optimizer.step()


def with_a_second_backward_for_the_same_update(here: Loop) -> None:
    """As sharpness-aware minimization makes it."""
    loss = here.made()
    here.w.step(loss)
    LOSS(here.model, here.batch).backward()
    here.optimizer.step()


def with_one_batch(here: Loop) -> None:
    here.optimizer.zero_grad()
    loss = LOSS(here.model, (INPUTS[:16], LABELS[:16]))
    loss.backward()
    here.w.step(loss)
    here.optimizer.step()


def with_an_evaluation(here: Loop) -> None:
    with torch.no_grad():
        LOSS(here.model, (INPUTS, LABELS))
    here.w.step(here.made())
    here.optimizer.step()


def after_two_other_updates(here: Loop) -> None:
    for _ in range(2):
        here.made()
        here.optimizer.step()
    here.w.step(here.made())
    here.optimizer.step()


@pytest.mark.parametrize(
    "loop",
    [
        with_micro_batches,
        with_a_penalty,
        with_a_closure,
        with_a_skipped_update,
        with_a_second_backward_for_the_same_update,
        with_one_batch,
        with_an_evaluation,
        after_two_other_updates,
    ],
    ids=lambda loop: loop.__name__.replace("_", " "),
)
def test_a_legal_loop_is_no_mistake(
    tmp_path: Path, loop: Callable[[Loop], None], caplog: pytest.LogCaptureFixture
) -> None:
    w = followed(tmp_path, loop, steps=8)
    assert caplog.messages == []
    assert w.run is not None
    assert "No verdict" not in str(w.findings())


def test_nothing_listens_after_the_first_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    end = first_steps.FirstSteps._end
    monkeypatch.setattr(
        first_steps.FirstSteps, "_end", lambda self: (ended.append(self._updates), end(self))[0]
    )
    followed(tmp_path, with_an_evaluation, steps=8)
    assert ended[0] == first_steps.LOOKED_AT - 1


def draws() -> Iterator[list[float]]:
    chance = torch.Generator().manual_seed(0)
    for _ in range(2000):
        yield (2.3 - 0.3 * torch.rand(4, generator=chance)).tolist()


def test_losses_with_a_factor_or_a_penalty_are_those_of_successive_steps() -> None:
    for losses in draws():
        for factor, penalty in ((1.0, 0.0), (0.25, 0.0), (1.0, 0.3), (1024.0, 0.0)):
            given = [factor * loss - penalty for loss in losses]
            assert not other_numbers(given, losses)
