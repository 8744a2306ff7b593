"""`RunSource`: the state of a run at one of its steps, as a source of branches."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from gradiometer.forks.branch import Readout
from gradiometer.forks.continuation import Continuation
from gradiometer.forks.evaluation import losses_on
from gradiometer.forks.stream import Stream
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.problems.evaluation import AT_ONCE, correctness
from gradiometer.problems.problem import Problem
from gradiometer.problems.registry import load
from gradiometer.randomness import untouched_randomness
from gradiometer.run.budget import Budget
from gradiometer.run.configuration import Configuration
from gradiometer.run.ranks import Ranks
from gradiometer.train.accumulation import Accumulator
from gradiometer.train.forking.order import positions
from gradiometer.train.restoring.replay import RunState
from gradiometer.train.restoring.state import restore, set_random_states
from gradiometer.train.training import Training

TRAIN_EXAMPLES = 2048
"""Most training examples of the readout "train_loss"."""


class RunSource:
    """The state of a run after some updates. It can be pickled; the data are loaded again where it arrives.

    A branch follows the schedule of the run, with the way to zero that `cool` has begun; `cool` decides nothing more.

    Args:
        configuration: The configuration of the run.
        state: Its state.
        seed: Seed of the fork.
        own_until: Step up to which all branches see the batches of the run itself, so that they can be skipped. With
            it, replicate 0 also has the run's own random draws. Default: batches in a new order for every replicate.
        problem: The problem of the run, if it is loaded already.
    """

    def __init__(
        self,
        configuration: Configuration,
        state: RunState,
        *,
        seed: int = 0,
        own_until: int = 0,
        problem: Problem | None = None,
    ) -> None:
        self.configuration, self.state = configuration, state
        self.seed, self.own_until = seed, own_until
        self._problem = problem

    @property
    def devices(self) -> set[torch.device]:
        """The device of the run."""
        return {torch.device(self.configuration.device)}

    @property
    def problem(self) -> Problem:
        """The problem of the run, loaded once in each process."""
        if self._problem is None:
            c = self.configuration
            self._problem = _loaded(c.problem, c.model, c.data_dir, c.seed)
        return self._problem

    def continuation(self, replicate: int) -> Continuation:
        """A training of its own at this state, with the data in the order of a replicate."""
        state, own = self.state, replicate == 0 and self.own_until > self.state.step
        with untouched_randomness(0, self.devices):
            training = Training(self.problem, self.configuration, Budget(0.0), gauges=())
            # A restored optimizer keeps the tensors that it is given, and other branches start from them too.
            restore(training, {name: tensor.clone() for name, tensor in state.tensors.items()}, state.values)
        if own:
            set_random_states(training.device, state.tensors, state.values["random"])
        _keep_cooling(training)
        accumulated = _Accumulated(training) if self.configuration.accumulation > 1 else None
        going = Continuation(
            training.model,
            training.optimizer,
            Stream(_batches(training, self._numbered(f"{replicate}/order"), self.own_until)),
            loss=None if accumulated else self.problem.loss,
            step=accumulated,
            schedulers=[training.scheduler],
            step_index=state.step,
        )
        if accumulated is not None:
            accumulated.factor = lambda: going.batch_factor
        return going

    def readouts(self, model: nn.Module) -> Mapping[str, Readout]:
        """Loss on fixed training examples, and loss and accuracy on the test set, in eval mode."""
        data = self.problem.train.to(self.configuration.device)
        generator = torch.Generator().manual_seed(self._numbered("readouts"))
        chosen = torch.randperm(len(data), generator=generator)[:TRAIN_EXAMPLES]
        with torch.no_grad(), in_eval_mode(model), untouched_randomness(self._numbered("evaluation"), self.devices):
            found = losses_on(map(data.batch, chosen.split(AT_ONCE)), self.problem.loss, model, "train")
            if self.problem.test is not None:
                test = self.problem.test.to(self.configuration.device)
                found |= losses_on(test.batches(AT_ONCE), self.problem.loss, model, "test")
                right = [correctness(self.problem, model, batch) for batch in test.batches(AT_ONCE)]
                if known := [each for each in right if each is not None]:
                    correct = torch.cat(known).double().cpu().numpy()
                    found["test_accuracy"] = Readout.of(correct, lower_is_better=False)
        return found

    def _numbered(self, purpose: str) -> int:
        return zlib.crc32(f"{self.seed}/{purpose}".encode())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_problem": None}


@lru_cache(maxsize=1)
def _loaded(name: str, model: str | None, data_dir: str | None, seed: int) -> Problem:
    return load(name, model=model, data_dir=data_dir, seed=seed)


def _batches(training: Training, seed: int, own_until: int) -> Iterator[Batch]:
    return map(training.data.batch, positions(training.order, training.step, seed, own_until))


def _keep_cooling(training: Training) -> None:
    """Let the scheduler give the rate with the way to zero that has begun in a run that cools itself."""
    cooling, scheduler = training.cooling, cast("LambdaLR", training.scheduler)
    if cooling is not None and cooling.acts:
        (schedule,) = scheduler.lr_lambdas
        scheduler.lr_lambdas = [lambda step: schedule(step) * cooling.multiplier(step)]


class _Accumulated:
    """An update of a training that accumulates: as many micro-batches as it makes, more of them for a larger batch."""

    def __init__(self, training: Training) -> None:
        self._training, self._other = training, dict[int, Accumulator]()
        self.factor: Callable[[], Fraction] = lambda: Fraction(1)

    def __call__(self, _: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
        training, factor = self._training, self.factor()
        if factor == 1:
            loss, _spread = training.backward(batch, measured=False)
        else:
            parts = max(round(training.configuration.accumulation * factor), 1)
            if parts not in self._other:
                seed = training.configuration.seed
                self._other[parts] = Accumulator(training.objective, parts, Ranks(), Budget(0.0), seed)
            loss, _spread = self._other[parts](batch, False, training.step, lambda _: "in a branch")
        optimizer.step()
        return loss
