"""The batch of a loop that gives `loss` to `watch`, and no batch to `step`: made of what the model was
called with and of the labels that the loss has compared."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import Listener
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.observers.losses import value_of
from gradiometer.integrations.watch.observers.triage.batches import compared_by
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.subject import Subject, takes_no_hooks
from gradiometer.measurement.batch import Batch

# Largest relative difference of two values of one loss: rounding, TF32 included.
SAME = 1e-3

# A form of a batch: it is made of the positional arguments of the model, those by name, and labels.
Form = Callable[[tuple[Any, ...], Mapping[str, Any], Tensor | None], Batch]

FORMS: tuple[Form, ...] = (
    lambda given, named, labels: (*given, *named.values(), labels),
    lambda given, named, labels: dict(named),
    lambda given, named, labels: {**named, "labels": labels},
    lambda given, named, labels: given[0],
    lambda given, named, labels: given,
    lambda given, named, labels: (given, labels),
)


class SeenBatch:
    """Makes the batch of a backward from the newest call of the model. The form is the first one on
    which the given loss has the value that training has.

    Args:
        subject: The training, with its loss.
        shield: Takes errors.
    """

    def __init__(self, subject: Subject, shield: Shield) -> None:
        self._subject = subject
        self._given: tuple[Any, ...] = ()
        self._named: Mapping[str, Any] = {}
        self._labels: Tensor | None = None
        self._form: Form | None = None
        self._hook: Any = None
        self._listener = Listener(Hook(shield, self._before_backward), Hook())
        if not takes_no_hooks(subject.called):
            self._hook = subject.called.register_forward_pre_hook(
                Hook(shield, self._called), with_kwargs=True
            )

    def _called(self, _: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if torch.is_grad_enabled() and not self._subject.budget.is_spending:
            self._given, self._named = given, named
            self._listener.start()

    def _before_backward(self, loss: Tensor | None) -> None:
        compared = None if loss is None else compared_by(loss)
        self._labels = None if compared is None else compared[1]

    def take(self, loss: Any) -> Batch:
        """The batch of the newest call of the model.

        Args:
            loss: Training's loss on it.

        Raises:
            BadArgument: It was not seen.
        """
        given, named, labels = self._given, self._named, self._labels
        self._given, self._named, self._labels = (), {}, None
        forms = FORMS if self._form is None else (self._form,)
        can_run = self._subject.source.runs_model and not self._subject.batches.axis
        for form in forms if can_run else ():
            with suppress(Exception):
                batch = form(given, named, self._by_example(labels, given, named))
                if self._form is not None or self._is_batch_of(loss, batch):
                    self._form = form
                    return batch
        raise BadArgument(
            "`batch` is missing: `loss` needs it, and what the model was called with is not the "
            "batch that gives this loss. Call w.step(loss, batch)."
        )

    def _by_example(
        self, labels: Tensor | None, given: tuple[Any, ...], named: Mapping[str, Any]
    ) -> Tensor | None:
        """The labels with one row for each example: those of a text are compared as one row."""
        inputs = next(_tensors((*given, *named.values())), None)
        if labels is None or inputs is None or len(labels) == len(inputs):
            return labels
        return labels.reshape(len(inputs), -1)

    def _is_batch_of(self, loss: Any, batch: Batch) -> bool:
        """True if the given loss has the value of training on this batch. One that draws random
        numbers may differ by a quarter."""
        objective, seed = self._subject.objective, self._subject.seed
        with torch.no_grad(), objective.untouched_randomness(seed):
            value = objective.mean_loss(objective.parameters, batch).item()
        trained = float(value_of(loss))
        off = abs(trained - value)
        most = max(abs(trained), abs(value))
        if off <= SAME * most:
            return True
        return off <= most / 4 and objective.traits(batch, seed=seed).random

    def remove(self) -> None:
        """Stop looking: the loop gives its batches, or has ended."""
        if self._hook is not None:
            self._hook.remove()
        self._listener.remove()
        self._given, self._named, self._labels = (), {}, None


def _tensors(values: tuple[Any, ...]) -> Iterator[Tensor]:
    return (one for one in values if isinstance(one, Tensor) and one.dim())
