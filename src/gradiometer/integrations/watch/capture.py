"""From the backwards of one step, as they are heard, to the `TrainingStep` that the gauges ask."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gradiometer.errors import BadArgument
from gradiometer.integrations.fsdp import ShardListener, is_sharded, norms_of_all, not_the_mean
from gradiometer.integrations.gradients import Listener
from gradiometer.integrations.watch.loss_check import LossCheck
from gradiometer.measurement.batch import Batch, batch_size, joined
from gradiometer.measurement.motion import Motion, multiple
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.parts import SpreadBuilder, squared_norms
from gradiometer.measurement.reading import Sampling
from gradiometer.measurement.spread import Spread
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks

Norms = Float[Tensor, " parameters"]


@dataclass(frozen=True)
class Part:
    """One backward: its examples, how many, and their mean loss."""

    batch: Batch
    size: int
    loss: Tensor | float


class Catcher:
    """Listens to the steps that are measured.

    Args:
        objective: The bare model and the loss.
        sampling: How batches are drawn.
        budget: Where the cost is counted.
        ranks: The processes that train together; each is heard, and one exchange a measured step joins them.
        accumulation: Backwards an update takes on each.
        scaler: The GradScaler, where there is one: gradients are heard scaled.
        has_loss: Whether the objective can be run.
        seed: Of what measuring draws.
        warn: Told what is amiss, in a sentence.
    """

    def __init__(
        self,
        objective: Objective,
        sampling: Sampling,
        budget: Budget,
        ranks: Ranks,
        *,
        accumulation: int,
        scaler: Any,
        has_loss: bool,
        seed: int,
        warn: Callable[[str], None],
    ) -> None:
        self._objective, self._sampling, self._ranks = objective, sampling, ranks
        self._parameters = objective.parameters
        self._accumulation, self._scaler, self._has_loss = accumulation, scaler, has_loss
        self._seed, self._warn = seed, warn
        self._listener = (
            ShardListener(objective, budget) if is_sharded(objective.model) else Listener(objective.parameters, budget)
        )
        self._builder = SpreadBuilder(objective.layer_of)
        self._check = LossCheck(objective, warn, accumulation, seed) if has_loss else None
        self._told: set[str] = set()
        self.at_the_door = True
        """Whether nothing was updated yet: what is amiss then is refused; later it is told, and training goes on."""
        self._accelerators: list[torch.device] = []
        self.next_due = 0
        """Of several processes: the step that the first one means to measure next, as all have been told."""

    @property
    def shared(self) -> bool:
        """Whether training's own micro-batches, here and on other processes, are the spread."""
        return self._accumulation * self._ranks.count > 1

    @property
    def listening(self) -> bool:
        """Whether the step that is going on is measured."""
        return self._listener.listening

    @property
    def has_heard(self) -> bool:
        """Whether a backward was made since the last was caught."""
        return self._listener.has_heard

    def listen(self) -> None:
        """Measure the step to come."""
        self._builder = SpreadBuilder(self._objective.layer_of)
        self._accelerators = [device for device in {p.device for p in self._parameters} if device.type != "cpu"]
        self._listener.listen()
        self._listener.whole_is_wanted = self.shared and self._accumulation == 1

    def rest(self) -> None:
        """Do not measure the step to come."""
        self._listener.rest()

    def forget_what_was_not_told(self) -> None:
        """The parameters were updated after a backward, and `step` was not called."""
        self._refuse_or_tell(
            "`step` was not called before `optimizer.step()`: call it after `backward`, before the update"
        )
        self.forget()

    def forget(self) -> None:
        """The parameters were updated: a backward that was made before is no part of the step to come."""
        self._listener.forget()

    @property
    def changed(self) -> bool:
        """Whether other parameters are trained than at the start: frozen, unfrozen or replaced since. Told once."""
        if isinstance(self._listener, ShardListener):
            return False
        trained = [parameter for parameter in self._objective.model.parameters() if parameter.requires_grad]
        if len(trained) == len(self._parameters) and all(map(is_, trained, self._parameters)):
            return False
        self._tell_once(
            "`model` trains other parameters than when `watch` was called (some were frozen, unfrozen or replaced): "
            "nothing is measured while it does; begin a new `watch` where they change"
        )
        return True

    def settle(self) -> None:
        """Wait for what training has asked of an accelerator: it is not the instrument's time."""
        if self.listening:
            self.wait()

    def wait(self) -> None:
        """The same, whether this step is measured or not."""
        for device in self._accelerators:
            torch.get_device_module(device.type).synchronize(device)

    def catch(self, parts: Sequence[Part]) -> None:
        """One more backward was made."""
        if not self.has_heard:
            self._refuse_or_tell(
                "`step` was called, but no backward of this model was made since the last one: call it after every "
                "`backward`, on the model that was given to `watch`",
                can_go_on=self._ranks.alone,  # others wait for the exchange
            )
            self.rest()
        elif self.shared:
            self._builder.add_norms(parts[-1].size, self._listener.norms())
            self._listener.whole_is_wanted = len(parts) == self._accumulation - 1

    def step(
        self,
        parts: Sequence[Part],
        *,
        index: int,
        learning_rate: float,
        proposal: int,
        motion: Callable[[Norms], Motion] | None = None,
    ) -> TrainingStep | None:
        """The step, if there is a spread within it to see.

        Args:
            parts: All backwards of this process.
            index: The step's number.
            learning_rate: η.
            proposal: Where the first process would measure next; after this, `next_due` on all of them.
            motion: Of ‖ĝ‖² of every parameter, as `backward` made it, how training moves; asked by gauges that look
                back, when they are.
        """
        spread = self._spread(proposal) if self.shared else None
        if self.changed:
            return None
        gradient, made = self._gradient()
        if self._check is not None:
            self._check(parts[0].batch, parts[0].loss, gradient if isinstance(gradient, list) else None)
        if spread is None and (self.shared or not self._halves(parts[0])):
            return None
        return TrainingStep(
            self._objective,
            self._batch(parts),
            index=index,
            learning_rate=learning_rate,
            sampling=self._sampling,
            gradient=gradient if self._check is None or self._check.same_loss else None,
            spread=spread,
            motion=None if motion is None or made is None else partial(motion, made()),
            seed=self._seed,
        )

    def _spread(self, proposal: int) -> Spread | None:
        """That of all micro-batches, if they are of one size: only then is training's gradient their plain mean."""
        whole = self._listener.whole
        if whole is None:
            raise BadArgument("`accumulation` is more than the backwards there were: say how many an update takes.")
        squared = torch.cat(self._builder.squared)
        own = torch.tensor(
            [[proposal, size] for size in self._builder.sizes], dtype=squared.dtype, device=squared.device
        )
        everyone = self._ranks.gathered(torch.cat([torch.cat([own, squared], dim=1), pad(whole, (2, 0))]))
        self.next_due = int(everyone[0, 0])
        sizes = everyone[:, 1]
        sizes = sizes[sizes > 0]
        sharded = isinstance(self._listener, ShardListener)
        squared, whole, adds_up = norms_of_all(everyone[:, 2:], self._ranks.count, sharded=sharded)
        if not adds_up:
            self._refuse_or_tell(not_the_mean(self._ranks.count, sharded=sharded))
            return None
        spread = SpreadBuilder(self._objective.layer_of, sizes.int().tolist(), [squared]).finish_from(whole)
        finite = np.isfinite(spread.squared_norms).all() and np.isfinite(spread.mean_squared_norm).all()
        if len(set(spread.sizes)) > 1 or not finite:
            return None
        scale = self._scale
        return Spread(
            spread.sizes,
            spread.squared_norms * (self._accumulation / scale) ** 2,
            spread.mean_squared_norm / scale**2,
        )

    def _refuse_or_tell(self, text: str, *, can_go_on: bool = True) -> None:
        if self.at_the_door or not can_go_on:
            raise BadArgument(f"{text}.")
        self._tell_once(f"{text}; such steps are not measured")

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._warn(text)

    def _halves(self, part: Part) -> bool:
        """Whether a batch has two halves with a gradient each: of a loss that couples examples, two in each."""
        if not 2 <= part.size < 4:
            return part.size >= 2
        return not self._objective.traits(part.batch, seed=self._seed).coupled

    def _batch(self, parts: Sequence[Part]) -> Batch:
        """The examples of this process; where they do not fit together (sequences of unlike lengths), the last ones."""
        if len(parts) == 1 or not self._has_loss:
            return parts[-1].batch
        try:
            return joined([part.batch for part in parts])
        except BadArgument:
            return parts[-1].batch

    def _gradient(self) -> tuple[Gradients | Callable[[], Gradients | None] | None, Callable[[], Norms] | None]:
        """ĝ, or what gives it when asked, and what gives ‖ĝ‖² of every parameter; None where it is nowhere whole."""
        scale, whole = self._scale, self._listener.whole
        if isinstance(self._listener, ShardListener):
            return None, None
        if self.shared and whole is not None:
            squared = whole[0, : len(self._parameters)]
            return partial(self._as_made, squared, scale), lambda: squared / scale**2
        in_parts, heard = self._listener.in_parts, self._listener.take()
        gradient = heard if scale == 1 else list(torch._foreach_div(heard, scale))
        if in_parts:
            self._tell_once(
                "several backwards went through `model` before one `step`: what is measured is of `loss` alone, which "
                "is run for both halves"
            )
        return None if in_parts else gradient, lambda: squared_norms(gradient)[0]

    def _as_made(self, squared: Norms, scale: float) -> Gradients | None:
        """ĝ from `.grad`, which may be clipped or unscaled by now; None where that was done otherwise than by a factor.

        Args:
            squared: ‖·‖² of every parameter's `.grad` at the end of the last backward.
            scale: By which it was scaled then.
        """
        taken = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in self._objective.parameters]
        factor = multiple(squared, taken)
        if factor is None or not math.isfinite(factor):
            return None
        return taken if factor * scale == 1 else list(torch._foreach_div(taken, factor * scale))

    @property
    def _scale(self) -> float:
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())


@contextmanager
def as_written() -> Iterator[None]:
    """A region in which compiled code runs as it was written, and is left as it was compiled."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def part_of(batch: Batch, loss: Tensor | float) -> Part:
    """A backward that was made of the mean loss of a batch."""
    if not isinstance(loss, Tensor | float | int | np.number):
        raise BadArgument(
            f"`loss` of the step must be a number or a tensor, got {type(loss).__name__}: give the loss itself, such "
            'as output["loss"].'
        )
    if not isinstance(loss, Tensor):
        return Part(batch, batch_size(batch), float(loss))
    value = loss.detach().mean() if loss.dim() else loss.detach()
    return Part(batch, batch_size(batch), value.item() if value.device.type == "cpu" else value)
