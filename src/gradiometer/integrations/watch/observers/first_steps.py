"""Mistakes that the first steps show: `step` in the wrong place, the loss of something else, two
watches of one training."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import NEVER, Listener, is_inside_backward
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.observers.losses import value_of
from gradiometer.integrations.watch.observers.observer import Observer, Step, Update
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.subject import Subject

# Updates and steps that are looked at: three losses that follow one another by chance are rare.
LOOKED_AT = 4

# Most nodes of a graph that are compared with those of another one.
MOST_NODES = 5000

BETWEEN = "call it between `loss.backward()` and `optimizer.step()`"

# What watches follow now.
_followed: "WeakSet[FirstSteps]" = WeakSet()


class FirstSteps(Observer):
    """Looks at the order of backwards, steps and updates, and at the losses of the first steps.

    Args:
        subject: The training.
        warn: Takes a warning, and what it withholds.
        shield: Takes errors.
    """

    def __init__(self, subject: Subject, warn: Callable[..., None], shield: Shield) -> None:
        self._subject = subject
        self._warn = warn
        self._shield = shield
        # What happened since the last update, and between it and the one before: a letter for each
        # backward of the model (b) and for each step (s).
        self._since = self._before = ""
        self._updates = 0
        self._was_called = False
        self._marks: list[tuple[int, int]] = []
        self._root: Tensor | None = None
        self._made: list[float] = []
        self._given: list[float] = []
        self._listener: Listener | None = None

    def start(self) -> list[Listener]:
        """The training begins. Returns what must be removed at its end."""
        subject = self._subject
        source = subject.source
        if source.is_ours or not (source.records_model and subject.budget.share):
            return []
        ids = set(map(id, subject.optimizers))
        for other in _followed:
            same = other._subject.objective.model is subject.objective.model
            if same and ids & set(map(id, other._subject.optimizers)):
                self._warn(
                    "two watches follow this model and optimizer at once, so that each counts the "
                    "time of the other: use one `with watch(...)` around the training"
                )
        _followed.add(self)
        self._listener = Listener(
            Hook(self._shield, self._before_backward), Hook(self._shield, self._after_backward)
        ).start()
        self.next = 0
        self.awaits_update = True
        return [self._listener]

    def _before_backward(self, loss: Tensor | None) -> None:
        self._root = loss
        self._marks = self._written()

    def _after_backward(self, _: Tensor | None) -> None:
        if self._written() != self._marks:
            self._since += "b"
        else:
            self._root = None

    def _written(self) -> list[tuple[int, int]]:
        """Which tensor each `.grad` is, and how often it was written."""
        gradients = [one.grad for one in self._subject.parameters]
        return [(0, 0) if one is None else (id(one), one._version) for one in gradients]

    def at_step(self, event: Step) -> None:
        """Look at where the step is, and at its loss."""
        root, self._root = self._root, None
        self._since += "s"
        self._was_called = True
        self._look_at_place()
        if self._listener is None:
            return
        if root is not None and self._since == "bs" and self._subject.source.backwards == 1:
            self._look_at_loss(root, event.loss)
        if event.index + 1 >= LOOKED_AT:
            self._end()

    def updated(self, update: Update) -> None:
        """Look at what came before the update."""
        if is_inside_backward():
            self._end()
            return
        self._updates += 1
        self._before, self._since = self._since, ""
        if self._updates == 1 and self._before.lstrip("s") and self._before.startswith("s"):
            self._misplaced(f"`w.step` was called before `backward`: {BETWEEN}")
        elif self._updates > 1 and self._before.startswith("s") and "b" in self._before:
            self._called_twice()
        elif self._updates == LOOKED_AT and not self._was_called:
            self._warn(
                f"`w.step` was not called in the first {LOOKED_AT} updates, which are not "
                f"recorded: {BETWEEN}"
            )
            self._end()

    def close(self, error: BaseException | None) -> None:
        """The training is over."""
        if self._updates and not self._was_called and error is None and self._listener:
            self._warn(f"`w.step` was never called, so that nothing was recorded: {BETWEEN}")
        self._end()
        _followed.discard(self)

    def _end(self) -> None:
        """Look no more."""
        if self._listener is not None:
            self._listener.remove()
        self._listener = self._root = None
        self._made = []
        self._given = []
        self.next = NEVER
        self.awaits_update = False

    def _look_at_place(self) -> None:
        """Compare the place of this step with those of the backwards."""
        since, before = self._since, self._before
        steps, backwards = since.count("s"), since.count("b")
        if steps > backwards > 0 and since.startswith("b"):
            self._called_twice()
        elif since == "s" and self._updates and before.count("s") < before.count("b"):
            self._misplaced(f"`w.step` was called after the update: {BETWEEN}")

    def _called_twice(self) -> None:
        text = (
            "`w.step` was called twice after one `backward`: call it once, and not over `w.batches`, "
            "which calls it"
        )
        if not self._updates:
            raise BadArgument(f"{text}.")
        self._misplaced(text)

    def _misplaced(self, text: str) -> None:
        self._end()
        self._warn(text, withholds="place")

    def _look_at_loss(self, root: Tensor, loss: Any) -> None:
        """Compare the loss with the one that `backward` was called on."""
        if isinstance(loss, float) and not root.is_cpu:
            self._warn(
                "`w.step` got a number: give the tensor `loss`, since `.item()` makes training "
                "wait for the accelerator at every step"
            )
        if isinstance(loss, Tensor) and have_nothing_in_common(root, loss):
            self._another(
                "`w.step` got the loss of another call of the model than `backward` was called on"
            )
            return
        given = value_of(loss)
        if not (root.is_cpu and (given.is_cpu if isinstance(given, Tensor) else True)):
            return  # to compare numbers of an accelerator, training would wait for it
        self._made.append(number_of(root))
        self._given.append(number_of(given))
        if len(self._given) == LOOKED_AT:
            text = other_numbers(self._given, self._made)
            if text:
                self._another(f"`w.step` got {text}")

    def _another(self, text: str) -> None:
        self._end()
        self._warn(f"{text}: give it the loss of this batch", withholds="loss")


def number_of(loss: Any) -> float:
    """A loss on the CPU as a number, also in types that NumPy lacks, such as bfloat16."""
    return float(loss.detach().double().numpy()) if isinstance(loss, Tensor) else float(loss)


def have_nothing_in_common(root: Tensor, loss: Tensor) -> bool:
    """True if two losses come from different calls of a model: their graphs have no node in common
    but the parameters."""
    if loss is root or loss.grad_fn is None or root.grad_fn is None:
        return False
    one, other = nodes_of(root), nodes_of(loss)
    return len(one) < MOST_NODES and len(other) < MOST_NODES and not one & other


def nodes_of(loss: Tensor) -> set[Any]:
    """The nodes of a graph without its leaves."""
    found = set[Any]()
    waiting = [loss.grad_fn]
    while waiting and len(found) < MOST_NODES:
        node = waiting.pop()
        # leaves have a tensor
        if node is None or node in found or hasattr(node, "variable"):
            continue
        found.add(node)
        waiting += [child for child, _ in node.next_functions]
    return found


def other_numbers(given: Sequence[float], made: Sequence[float]) -> str:
    """What numbers are that are not the losses of successive steps; empty if they may be.

    A loss may be given without a factor or a penalty that training adds to it.

    Args:
        given: What `step` was given.
        made: What `backward` was called on.

    >>> other_numbers([4.0, 3.5, 3.0], [4.0, 3.0, 2.0])
    'the running mean of the losses'
    >>> other_numbers([8.0, 6.0, 4.0], [4.0, 3.0, 2.0])
    ''
    """
    losses, numbers = np.array(made), np.array(given)
    if not (np.isfinite(losses).all() and np.isfinite(numbers).all()):
        return ""
    if np.ptp(losses) <= 1e-3 * np.abs(losses).max():
        return ""
    sums = np.cumsum(losses)
    kinds = {
        "the loss of the step before": losses[:-1],
        "the running mean of the losses": (sums / np.arange(1, len(losses) + 1))[1:],
        "the sum of all losses so far": sums[1:],
        "the same number at every step": np.full(len(losses) - 1, numbers[0]),
    }
    for text, expected in kinds.items():
        if np.allclose(numbers[1:], expected, rtol=1e-5, atol=0.0):
            return text
    return ""
