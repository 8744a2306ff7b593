"""Ways of making one step of training: by hand, accumulated, and measured in the two ways there
are."""

from collections.abc import Iterator
from itertools import count, cycle
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from costs.rounds import Step
from costs.workloads import BATCH_SIZE, batches
from gradiometer import (
    BadArgument,
    Configuration,
    Draw,
    GradientNoise,
    Objective,
    Problem,
    Sampling,
    TrainingStep,
)
from gradiometer.estimation import PreconditionedNoise
from gradiometer.integrations.gradients import LastGradient
from gradiometer.integrations.watch.observers.observer import Start
from gradiometer.integrations.watch.observers.observer import Step as Backward
from gradiometer.integrations.watch.observers.products import GradientProducts, reads_products
from gradiometer.integrations.watch.observers.triage.recorder import TriageRecorder
from gradiometer.integrations.watch.sources.one_backward import OneBackward
from gradiometer.integrations.watch.subject import Batches, Subject
from gradiometer.measurement import Batch
from gradiometer.measurement.batch import chunks
from gradiometer.run.budget import Budget
from gradiometer.train.training import Training

LEARNING_RATE = 0.01
MICROBATCHES = 2


class ByHand:
    """Plain torch, as anyone writes it: the unit of all costs.

    Args:
        problem: Its model is made anew, so that no two ways of making a step share weights.
    """

    def __init__(self, problem: Problem) -> None:
        torch.manual_seed(0)
        self.problem = problem
        self.model: nn.Module = problem.model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)
        self.batches: Iterator[Batch] = cycle(batches(problem))

    def __call__(self) -> None:
        """One step: zero_grad, forward, backward, update."""
        self.backward(next(self.batches))
        self.optimizer.step()

    def backward(self, batch: Batch) -> None:
        """ĝ into `.grad`."""
        self.optimizer.zero_grad()
        self.problem.loss(self.model, batch).mean().backward()


def looked_at(problem: Problem) -> Step:
    """By hand, and the gradient looked at for numbers that are not finite before the update, as the
    loop does."""
    by_hand = ByHand(problem)
    parameters = list(by_hand.model.parameters())

    def step() -> None:
        by_hand.backward(next(by_hand.batches))
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not norm.isfinite():
            raise ArithmeticError("the gradient is not finite")
        by_hand.optimizer.step()

    return step


def half_a_batch(problem: Problem) -> Step:
    """The gradient of half the batch by hand, without an update: what measuring beside a step
    cannot undercut."""
    by_hand = ByHand(problem)

    def step() -> None:
        half = chunks(next(by_hand.batches), MICROBATCHES)[0]
        by_hand.backward(half)

    return step


def apart(problem: Problem) -> Step:
    """By hand, and measured beside: the half-batches are run again, or one of them is had by
    subtraction."""
    by_hand, gauge = ByHand(problem), GradientNoise(parts=MICROBATCHES)
    objective = Objective(by_hand.model, problem.loss)
    sampling = Sampling(Draw.RESHUFFLED, len(problem.train))
    index = iter(range(2**62))

    def step() -> None:
        batch = next(by_hand.batches)
        by_hand.backward(batch)
        caught = TrainingStep(
            objective,
            batch,
            index=next(index),
            learning_rate=LEARNING_RATE,
            sampling=sampling,
            gradient=[parameter.grad for parameter in objective.parameters],
        )
        gauge.measure(caught)
        by_hand.optimizer.step()

    return step


def with_products(problem: Problem, *, adam: bool = False) -> Step:
    """By hand, and read from its own gradients as `watch` does, at every step; under AdamW, if
    asked, with P."""
    by_hand = ByHand(problem)
    if adam:
        by_hand.optimizer = torch.optim.AdamW(by_hand.model.parameters(), lr=LEARNING_RATE / 10)
    chosen = reads_products(
        [by_hand.optimizer], [GradientNoise.name, PreconditionedNoise.name][adam:], supported=True
    )
    if chosen is None:
        raise BadArgument("`problem` has no gradients that products can be read from.")
    # With this share every step is read, whatever it costs.
    objective = Objective(by_hand.model, problem.loss)
    optimizers = [by_hand.optimizer]
    subject = Subject(
        objective=objective,
        called=by_hand.model,
        optimizers=optimizers,
        batches=Batches(Sampling(Draw.REPLACEMENT)),
        budget=Budget(0.99),
        source=OneBackward(),
        tell=print,
    )
    last = LastGradient(objective.parameters, optimizers, None)
    triage = TriageRecorder(subject, last, print, lambda: 0)
    steps = count()
    made = 0
    reader = GradientProducts(
        subject,
        last,
        triage,
        chosen[0],
        chosen[1][:1],
        all_steps=True,
        made=lambda: made,
        ended=lambda why: None,
    )
    recorder: Any = SimpleNamespace(add=lambda reading: None)  # nothing else of it is used
    reader.begin(Start(recorder, 0, 0))

    def step() -> None:
        nonlocal made
        batch, index = next(by_hand.batches), next(steps)
        by_hand.optimizer.zero_grad()
        loss = problem.loss(by_hand.model, batch).mean()
        loss.backward()
        if index >= reader.next:
            reader.at_step(Backward(index, loss, batch, batch, 0, is_last=True))
        by_hand.optimizer.step()
        made += 1

    return step


def adam_by_hand(problem: Problem) -> Step:
    """By hand, with AdamW."""
    by_hand = ByHand(problem)
    by_hand.optimizer = torch.optim.AdamW(by_hand.model.parameters(), lr=LEARNING_RATE / 10)
    return by_hand


def two_halves(problem: Problem) -> Step:
    """What one writes without a library: the gradients of two halves, their norms, and that of
    their sum."""
    by_hand = ByHand(problem)
    parameters = list(by_hand.model.parameters())

    def step() -> None:
        by_hand.optimizer.zero_grad()
        norms = []
        for half in chunks(next(by_hand.batches), 2):
            loss = problem.loss(by_hand.model, half).mean() / 2
            gradients = torch.autograd.grad(loss, parameters)
            norms.append(torch.stack(torch._foreach_norm(gradients)).square())
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = (
                    gradient if parameter.grad is None else parameter.grad.add_(gradient)
                )
        norms.append(
            torch.stack(
                torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
            ).square()
        )
        torch.stack(norms).tolist()
        by_hand.optimizer.step()

    return step


def accumulated(problem: Problem, *, measured: bool) -> Step:
    """Two micro-batches accumulated as the training loop does, read as they are made where it is
    measured."""
    configuration = Configuration(
        batch_size=BATCH_SIZE,
        accumulation=MICROBATCHES,
        learning_rate=LEARNING_RATE,
        schedule="constant",
    )
    training = Training(problem, configuration, Budget(configuration.budget))
    gauge = GradientNoise(parts=MICROBATCHES)
    turn = cycle(batches(problem))

    def step() -> None:
        batch = next(turn)
        training.backward(batch, measured)
        if measured:
            seen = TrainingStep(
                training.objective,
                batch,
                index=0,
                learning_rate=LEARNING_RATE,
                sampling=training.sampling,
                gradient=[parameter.grad for parameter in training.parameters],
                spread=training.spread,
            )
            gauge.measure(seen)
        training.optimizer.step()

    return step
