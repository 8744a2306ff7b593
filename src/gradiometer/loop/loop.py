"""`Loop`: a training between two updates, which is copied, advanced, kept and restored."""

import math
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradiometer.arguments import check_scaler, check_whole
from gradiometer.convergence.averaging import REFRESHED, refresh_batch_norm
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument, UserCodeFailed, bounded
from gradiometer.loop.checks import check_functions, check_scheduler, optimizer_from
from gradiometer.loop.copies import Parts, copies_of, digest_of, dump_parts, load_parts
from gradiometer.loop.data import Data, data_of, first_size, updates_per_step
from gradiometer.loop.evaluation import COUPLED, couples_examples, readouts_of
from gradiometer.loop.horizon import Horizon
from gradiometer.loop.parts import (
    Gradient,
    MovingAverage,
    RateByHand,
    Source,
    Step,
    only,
    schedulers_from,
)
from gradiometer.loop.readout import Readout
from gradiometer.loop.stream import ORIGINAL, Groups, Stream
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.objective import Loss, checked_loss
from gradiometer.measurement.optimizer.steps import (
    averages_itself,
    bare,
    clip_before_steps,
    moved_up,
    optimizers_in,
    to_average,
)
from gradiometer.problems.evaluation import AT_ONCE
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness

# Most training examples on which points of a training are compared, as by "train_loss".
TRAIN_EXAMPLES = 2048


class Loop:
    """A training between two updates: its model, optimizer, scheduler, scaler, loss and data.

    It refers to the training itself. `copy` makes another one, which is changed and trained
    instead. Make it between two updates, in training mode.

    Args:
        model: The model. DDP and torch.compile are unwrapped.
        optimizer: An optimizer of torch that trains this model, or a list of several, each of which
            makes a step in every update.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example. May
            use autocast.
        step: In place of `loss`: called as `step(model, optimizer, batch)`, makes one whole update,
            returns the loss. With several optimizers it is called with the list of them.
        batches: The training data: a DataLoader that shuffles; tensors or a data set, with
            `batch_size`; a list of batches; or a function of a seed that returns an iterable of
            batches.
        batch_size: Size of a batch, if `batches` are examples.
        groups: Rows of a batch that are one example, such as its augmented copies: how many follow
            each other, or a function of the batch that returns a label for every row.
        evaluate: A test set (tensors, data set, DataLoader), for the readouts "test_loss" and, with
            labels of classes, "test_accuracy"; or a function of the model that returns a number, or
            a mapping from names to numbers, to one value per example, or to `Readout`s. The model
            is in eval mode, without gradients.
        scheduler: A scheduler of torch for `optimizer`, or a list of them; or, if the loop sets the
            rate itself, a function of the index of an update that returns its rate. It is stepped
            in units of the original batch, so that a batch of 2x advances it by two.
        scheduler_each: "update" if training steps it after every update, "epoch" if after every
            epoch.
        scaler: The GradScaler of training, for `loss`.
        accumulation: Number of batches whose gradients are added up in one update.
        left: What is left of the training, such as "4000 updates"; needed for lengths in percent.
        index: Number of updates so far, from which `Skip` counts.
        readout_examples: Most training examples of the readout "train_loss".

    Attributes:
        factor: Factor on the rate of training, which a change may set, as the following ones.
        batch_factor: Factor on the batch of training.
        share: Share of the length of a branch that is trained.
        clip: Largest norm of the gradient, by a change or by training itself; None for no clipping.
        clip_value: Largest absolute value of the numbers in the gradient, as training clips them;
            None if it does not.
        ascent: How far training moves the parameters along the gradient before a second backward,
            as SAM does (its ρ); None if it does not.
        average: The moving average of weights that the model has; None if it has none.
        hold: Share of a branch before its rate falls to zero; None for that of its tail.
        stream: The batches of a branch, after `begin`.
        size: Examples in an update.
        epoch: Examples in an epoch; None if that is not known.
        examples: Examples that were trained on so far.
        left: Examples that are left of the training; None if that is not known.
        gradient: Makes the gradient in place of a backward pass of `loss`.
        source: The run that the loop comes from; None for a person's loop.
        warnings: Sentences about the state that it starts from.
        high_until: The last step with half of the highest rate or more; None if it is not known.
        seed: Seed of the data orders and of the random draws of branches.
        couples: True to read out on batches of training's size, since the loss compares the
            examples of a batch; None to find that out at the first readout.

    Raises:
        BadArgument: An argument cannot be used.
        Unsupported: The training cannot be copied.

    >>> import torch
    >>> from gradiometer import supervised
    >>> from gradiometer.loop import Loop
    >>> model, inputs = torch.nn.Linear(1, 1), torch.arange(8.0)[:, None]
    >>> optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.01), supervised(torch.nn.MSELoss())
    >>> loop = Loop(model, optimizer, loss=loss, batches=(inputs, 2 * inputs), batch_size=4)
    >>> copy = loop.copy()
    >>> losses = [copy.update((inputs, 2 * inputs)) for _ in range(10)]
    >>> bool(losses[-1] < losses[0]), copy.index, loop.index
    (True, 10, 0)
    """

    @bounded
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        loss: Loss | None = None,
        step: Step | None = None,
        batches: Any,
        batch_size: int | None = None,
        groups: Groups = None,
        evaluate: Any = None,
        scheduler: Any = None,
        scheduler_each: Literal["update", "epoch"] = "update",
        scaler: Any = None,
        accumulation: int = 1,
        left: str | None = None,
        index: int = 0,
        readout_examples: int = TRAIN_EXAMPLES,
    ) -> None:
        self.data: Data = data_of(batches, batch_size, groups)
        if not isinstance(model, nn.Module):
            raise BadArgument(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
        self.model: nn.Module = bare(model)
        self.optimizer: torch.optim.Optimizer = optimizer_from(self.model, optimizer)
        check_whole("index", index, 0)
        self.schedulers = schedulers_from(scheduler, self.optimizer, index)
        for one in self.schedulers:
            check_scheduler(one, self.optimizer)
        check_scaler(scaler)
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        check_functions(
            self.model,
            self.optimizer,
            loss=loss,
            step=step,
            evaluate=evaluate,
            scaler=scaler,
            accumulation=accumulation,
        )
        check_whole("readout_examples", readout_examples, 1)
        self.loss = loss
        self.step = step
        self.evaluate = evaluate
        self.gradient: Gradient | None = None
        self.accumulation = accumulation * self.data.shards
        self.size = first_size(self.data, 0) * self.accumulation
        self.epoch = self.data.epoch
        self.scheduler_every = updates_per_step(scheduler_each, self.data, self.size)
        self.index = index
        self.examples = index * self.size
        self.left: int | None = None
        if left is not None:
            self.left = Horizon.parse(left, "left").examples(
                batch=self.size, epoch=self.epoch, name="left"
            )
        self.readout_examples = readout_examples
        self.source: Source | None = None
        self.warnings: tuple[str, ...] = ()
        self.high_until: int | None = None
        self.seed = 0
        self.factor = 1.0
        self.batch_factor = ORIGINAL
        self.share = 1.0
        self.clip: float | None = None
        self.clip_value: float | None = None
        self.ascent: float | None = None
        self.average: MovingAverage | None = None
        self.hold: float | None = None
        self.stream = Stream(iter(()))
        self._schedule: Schedule | None = None
        self._fixed: dict[str, Sequence[Any]] = {}
        # The optimizer that the schedulers move, also if a change has put another one in its place.
        self._planner = self.optimizer
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._updates = 0
        self._is_clipping = False
        self._has_gradient = False
        self._takes_gradients = False
        self._newest: deque[Batch] = deque(maxlen=REFRESHED)
        self._some: list[Batch] | None = None
        self.couples: bool | None = None

    @property
    def devices(self) -> set[torch.device]:
        """The devices of the parameters."""
        return {parameter.device for parameter in self.model.parameters()}

    @property
    def calls(self) -> tuple[Callable[..., Any], ...]:
        """The functions that an update calls."""
        return tuple(call for call in (self.loss, self.step, self.gradient) if call is not None)

    def copy(self) -> "Loop":
        """A copy of everything that training changes; functions and data are shared.

        Hooks on modules, parameters and the optimizer are kept, except those of a watch. Gradients
        are left out.

        Raises:
            Unsupported: A part cannot be copied.
        """
        if self.source is not None:
            self.source.bring(self)
        own = {"_fixed": dict(self._fixed), "_newest": self._newest.copy()}
        return _loop_of(copies_of(*self._parts), {**vars(self), **own})

    @property
    def _parts(self) -> Parts:
        optimizers = list(dict.fromkeys([self._planner, self.optimizer]))
        return self.model, optimizers, self.schedulers, self.scaler

    def state(self) -> dict[str, Any]:
        """The states of the model, the optimizer, the schedulers and the scaler, as `state_dict` of
        each gives it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "index": self.index,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put a state back, which `state` has returned. The optimizer keeps tensors of it."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for scheduler, one in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(one)
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.index = state["index"]

    def digest(self) -> str:
        """The first digits of the SHA-256 of the model's and the optimizer's state."""
        return digest_of([self.model.state_dict(), self.optimizer.state_dict()])

    def __reduce__(self) -> tuple[Callable[..., "Loop"], tuple[Any, ...]]:
        if self.source is not None:
            return self.source.again(self)
        parts = {"model", "optimizer", "schedulers", "scaler", "_planner"}
        others = {name: value for name, value in vars(self).items() if name not in parts}
        others |= {"stream": Stream(iter(())), "_some": None}
        return _load_loop, (dump_parts(*self._parts), others)

    def begin(self, replicate: int) -> None:
        """Start a branch here: the data come in the order of this replicate."""
        device = next(self.model.parameters()).device
        batches = self.data.replicate(self.seed, replicate)
        self.stream = Stream(
            batches, accumulation=self.accumulation, groups=self.data.groups, device=device
        )
        for scheduler in self.schedulers:
            if isinstance(scheduler, RateByHand):
                scheduler.begin()
        self._rates = [float(group["lr"]) for group in self._planner.param_groups]
        self._updates = 0
        if self.source is not None:
            self.source.seed(replicate)

    def fix(self, setting: str, values: Sequence[Any]) -> None:
        """Keep a setting of the optimizer at these values, one for every parameter group."""
        self._fixed[setting] = values

    def follow(self, schedule: Schedule) -> None:
        """Take the rate from a schedule of the original updates since the fork, in place of
        training's own."""
        if not max(self._rates) > 0:
            raise BadArgument(
                "`optimizer` has the rate 0 now, so a schedule has no ratios to keep: fork an "
                "update later."
            )
        self._schedule = schedule

    def forget(self) -> None:
        """Empty the state of the optimizer: its momentum and its averages."""
        for optimizer in optimizers_in(self.optimizer):
            optimizer.state.clear()

    def use(self, optimizer: torch.optim.Optimizer) -> None:
        """Use another optimizer. Its rate changes in the proportion in which training's own would
        have changed."""
        if not max(self._rates) > 0:
            raise BadArgument(
                "`optimizer` has the rate 0 now, and another one cannot follow its schedule: fork "
                "an update later."
            )
        self.optimizer = optimizer
        if averages_itself(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        self._fixed.clear()

    def update(self, *batches: Batch) -> Tensor | float:
        """One update on these batches, whose gradients are added up, as training makes it. Returns
        their mean loss."""
        if not batches:
            raise BadArgument("`batches` is missing: give at least one batch.")
        loss = self._train(batches)
        self._count(self._updates + 1)
        return loss

    def advance(self, tail: Callable[[int, int], float], most: int) -> Tensor | float | None:
        """The next update of a branch. The rate of each parameter group is the one that training
        would have there.

        It is multiplied by `factor` and by the factor of the tail. Schedulers continue in units of
        the original batch. Returns the mean loss; None if the whole batch was skipped.

        Args:
            tail: The factor of the tail, called with the examples before and after the update.
            most: Largest number of examples.
        """
        before = self.stream.examples
        original = self.stream.original if self._schedule is not None else Fraction(0)
        pieces = self.stream.take(self.batch_factor, most)
        loss = None
        if pieces:
            if averages_itself(self.optimizer):
                self._newest.extend(pieces)
            groups = self.optimizer.param_groups
            base = [group["lr"] for group in groups]
            multiplier = self.factor * tail(before, self.stream.examples)
            for group, rate in zip(groups, self._rates_now(base, original), strict=True):
                group["lr"] = rate * multiplier
            for setting, values in self._fixed.items():
                for group, value in zip(groups, values, strict=True):
                    group[setting] = value
            loss = self._train(pieces)
            for group, rate in zip(groups, base, strict=True):
                group["lr"] = rate
        self._count(self.stream.updates)
        return loss

    def finish(self) -> None:
        """Move the model to the average of an optimizer that averages its iterates, with new
        BatchNorm statistics."""
        if to_average(self.optimizer) and self.loss is not None and self._newest:
            refresh_batch_norm(self.model, self._newest, self.loss)

    def readouts(self, model: nn.Module) -> dict[str, Readout]:
        """The numbers that a model is judged by, with the same random numbers at every call.

        They are the training loss on a few fixed examples, the loss and accuracy on a test set, the
        user's metrics, without gradients unless a loss needs them, as a gradient penalty does.
        """
        if not self._takes_gradients:
            with suppress(UserCodeFailed):
                return self._readouts(model, torch.no_grad())
        found = self._readouts(model, torch.enable_grad())
        self._takes_gradients = True
        return found

    def _readouts(
        self, model: nn.Module, gradients: AbstractContextManager[Any]
    ) -> dict[str, Readout]:
        seed = zlib.crc32(f"{self.seed}/readouts".encode())
        if self.loss is not None and self._some is None:
            with gradients, untouched_randomness(seed, self.devices):  # a data set may draw, too
                if self.couples is None:
                    self.couples = couples_examples(model, self.loss, self.data.batches(seed))
                self._some = self.data.some(self.readout_examples, seed, whole=self.couples)
            if self.couples:
                self.warnings = (*self.warnings, COUPLED)
        with gradients, untouched_randomness(seed, self.devices):
            return readouts_of(
                model,
                self.loss,
                self._some or [],
                self.evaluate,
                seed,
                self.data.groups,
                self.size // self.accumulation if self.couples else AT_ONCE,
            )

    def _rates_now(self, base: Sequence[Any], original: Fraction) -> Sequence[Any]:
        """The rate of every group at this update, without the factors."""
        replaced = self.optimizer is not self._planner
        if self._schedule is not None:
            rates = base if replaced else self._rates
            largest = max(map(float, rates))
            return [
                self._schedule(math.floor(original)) * (float(rate) / largest) for rate in rates
            ]
        if replaced:
            now = max(float(group["lr"]) for group in self._planner.param_groups)
            return [rate * (now / max(self._rates)) for rate in base]
        return base

    def _train(self, pieces: Sequence[Batch]) -> Tensor | float:
        """Train on these pieces, and return their mean loss."""
        if not self._is_clipping and (self.clip is not None or self.clip_value is not None):
            # a person's `step` steps each optimizer itself
            stepped = [self.optimizer] if self.step is None else optimizers_in(self.optimizer)
            clip_before_steps(stepped, self.clip, self.clip_value)
            self._is_clipping = True
        if self.step is not None:
            with user_code("step"):
                each: Any = optimizers_in(self.optimizer)
                given = each[0] if len(each) == 1 else each
                loss: Any = self.step(self.model, given, only(pieces))
            kind = type(loss).__name__
            if isinstance(loss, Tensor) and (loss.is_meta or not loss.is_floating_point()):
                kind, loss = f"a tensor of {loss.dtype} on {loss.device}", None
            if not isinstance(loss, Tensor | float):
                raise UserCodeFailed(f"`step` returned {kind}: return the mean loss of the batch.")
            return loss.detach().mean() if isinstance(loss, Tensor) else loss
        if self.gradient is not None:
            mean = self.gradient(self.model, only(pieces), self.batch_factor)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            mean = self.backward(pieces)
            if self.ascent is not None:
                with moved_up(self.optimizer, self.ascent):
                    self.backward(pieces)
        self._has_gradient = self._has_gradient or any(
            p.grad is not None for group in self.optimizer.param_groups for p in group["params"]
        )
        if not self._has_gradient:
            raise BadArgument(
                "`loss` gave no gradient to the model that it was called with: use its arguments "
                "(model, batch), not a model from outside."
            )
        with user_code("optimizer"):
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        return mean

    def backward(self, pieces: Sequence[Batch]) -> Tensor:
        """Add up the gradient of the mean loss of these pieces, and return this loss."""
        assert self.loss is not None
        sizes = [batch_size(piece) for piece in pieces] if len(pieces) > 1 else [1]
        total, losses = sum(sizes), []
        for piece, size in zip(pieces, sizes, strict=True):
            with user_code("loss"):
                value = self.loss(self.model, piece)
                loss = checked_loss(value, piece, has_graph=True).mean()
            if len(pieces) > 1:
                # A division where sizes are equal, since that is what training loops write; it has
                # other bits.
                loss = loss / len(pieces) if size * len(pieces) == total else loss * (size / total)
            with user_code("loss", "in backward"):
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _count(self, updates: int) -> None:
        """Count the updates of the original training since the loop began, and step its schedulers
        as often as due."""
        due, done = updates // self.scheduler_every, self._updates // self.scheduler_every
        self.index += updates - self._updates
        self._updates = updates
        for _ in range(due - done):
            for scheduler in self.schedulers:
                scheduler.step()


def _loop_of(parts: Parts, others: dict[str, Any]) -> Loop:
    """A loop with these parts and these other attributes."""
    loop = Loop.__new__(Loop)
    vars(loop).update(others)
    loop.model, optimizers, loop.schedulers, loop.scaler = parts
    loop._planner = optimizers[0]
    loop.optimizer = optimizers[-1]
    return loop


def _load_loop(parts: bytes, others: dict[str, Any]) -> Loop:
    """The loop from what `Loop.__reduce__` has made."""
    return _loop_of(load_parts(parts), others)
