"""The training step between `backward` and `optimizer.step`, with derivatives that all gauges
share."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size, dealt, take
from gradiometer.measurement.motion import Motion
from gradiometer.measurement.objective import Gradients, Objective
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.measurement.parts import SpreadBuilder, inner_products, squared_norms
from gradiometer.measurement.reading import Sampling, Spread

if TYPE_CHECKING:  # most steps need no second derivative
    from gradiometer.measurement.gradient_graph import GradientGraph

# Largest number of values in memory when gradients are computed per example: 128 MiB in single
# precision.
PER_EXAMPLE_NUMBERS = 2**25

# Up to this many parameters the curvature of a batch is a product with its Hessian. That is exact,
# also where ReLU bends the loss, and its three to five copies of the parameters are small.
MOST_FOR_GRAPH = 2**19


class LikelyGradient(ABC):
    """ĝ of a step. A spread is measured with the likely one, and again if that turns out to be
    wrong."""

    @abstractmethod
    def __call__(self) -> Sequence[Tensor] | None:
        """ĝ, one tensor per trainable parameter; None if it is not available. May wait for an
        accelerator."""

    @abstractmethod
    def likely(self) -> Sequence[Tensor] | None:
        """What ĝ most likely is; None if it has to be asked for. Nothing waits."""

    @abstractmethod
    def was_right(self) -> bool:
        """True if `likely` returned ĝ, or was not called. Waits only if the CPU has not waited
        since."""


class ReadAgain(ABC):
    """P of an optimizer that can be read again, so that a reader may use up what it is given."""

    @abstractmethod
    def __call__(self) -> list[Tensor] | None:
        """P, one tensor per trainable parameter; None if it is not known yet."""

    @abstractmethod
    def handed_over(self) -> list[Tensor] | None:
        """P, one tensor per trainable parameter, held by the caller alone; None if it is not known
        yet."""


class TrainingStep:
    """One step of training. Quantities that several gauges use are computed once, when first used.

    Args:
        objective: The model and its loss.
        batch: The step's batch, or a function that returns it.
        batch_size: B, if it is known before the batch is there.
        index: The step's number, from 0.
        learning_rate: η at this step.
        groups: The settings of the optimizer's parameter groups at this step, if they are known.
        sampling: How the batch was drawn.
        gradient: ĝ of training, one tensor per trainable parameter (a `.grad` that is None counts
            as zero), or a function that returns it (see also `LikelyGradient`). Default: it is
            computed when first used.
        spread: The spread of the micro-batches, if training accumulates gradients; then nothing is
            run again ("shared"). Default: parts of the batch are run again ("apart").
        preconditioner: P of the optimizer before its update, one tensor per trainable parameter
            (see `preconditioner_of`), or a function that returns it, or None if it is not known
            yet.
        probe: Draws other examples, independent of the batch and in random order, on which the step
            is judged. Called once at most. Default: one half of the batch makes the step, and the
            other half judges it.
        motion: Earlier parameters and the velocity, for the gauges that look back (see `Origin`),
            or a function that returns them.
        example_of: A label for every row of the batch, if some rows are copies of one example
            (repeated augmentation). Rows with one label stay in one part.
        arrived: Called when the numbers of a spread are on the CPU.
        over_processes: On several processes: averages gradients over them. `batch` is then the
            share of this process.
        seed: Seed of the random numbers that measuring draws. Training's own random numbers stay
            unchanged.

    >>> import torch
    >>> from gradiometer import Draw, Objective, Sampling, TrainingStep
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> objective = Objective(model, lambda model, batch: 0.5 * model(batch).square().flatten())
    >>> batch = torch.tensor([[1.0], [2.0], [3.0]])  # the gradient of ½ (w x)² at w = 1 is x²
    >>> step = TrainingStep(objective, batch, index=0, learning_rate=0.1, sampling=Sampling(Draw.FRESH))
    >>> step.gradient[0], step.spread(None).squared_norms.ravel().round(3)
    (tensor([[4.6667]]), array([ 1., 16., 81.]))
    """

    def __init__(
        self,
        objective: Objective,
        batch: Batch | Callable[[], Batch],
        *,
        index: int,
        learning_rate: float,
        sampling: Sampling,
        groups: tuple[Group, ...] = (),
        gradient: Sequence[Tensor | None] | Callable[[], Sequence[Tensor] | None] | None = None,
        spread: Spread | None = None,
        preconditioner: Sequence[Tensor]
        | Callable[[], Sequence[Tensor] | None]
        | ReadAgain
        | None = None,
        probe: Callable[[], Batch] | None = None,
        motion: Motion | Callable[[], Motion] | None = None,
        example_of: Int[Tensor, " rows"] | None = None,
        arrived: Callable[[], None] | None = None,
        over_processes: Callable[[Gradients], Gradients] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.objective = objective
        self._batch = batch
        self._size = batch_size
        self.index = index
        self.learning_rate = learning_rate
        self.groups = groups
        self.sampling = sampling
        self.seed = seed
        self._gradient = gradient
        self._shared = spread
        self._preconditioner = preconditioner
        self._probe = probe
        self._motion = motion
        self.example_of = example_of
        self._arrived = arrived
        self._over_processes = over_processes
        self._spreads: dict[int, Spread] = {}

    @cached_property
    def batch(self) -> Batch:
        """The step's batch."""
        return self._batch() if callable(self._batch) else self._batch

    @cached_property
    def batch_size(self) -> int:
        """B, the number of examples in training's gradient, including those of other processes."""
        if self._shared is not None:
            return int(self._shared.sizes.sum())
        return batch_size(self.batch) if self._size is None else self._size

    @cached_property
    def gradient(self) -> Gradients:
        """ĝ, the batch gradient, one tensor per trainable parameter."""
        given = self._gradient() if callable(self._gradient) else self._gradient
        if given is None:
            return self.objective.gradient(self.batch, seed=self.seed_for("gradient"))
        if any(one is None for one in given):
            given = [
                torch.zeros_like(parameter) if one is None else one
                for one, parameter in zip(given, self.objective.parameters, strict=True)
            ]
        return [one.detach() for one in given if one is not None]

    @cached_property
    def motion(self) -> Motion:
        """Earlier parameters, and the velocity.

        Raises:
            BadArgument: No motion was given.
        """
        if self._motion is None:
            raise BadArgument(
                "`motion` is missing, and this gauge looks back: keep one `Origin()` for the run, "
                "and pass `motion=origin.motion(parameters, index)` to the step."
            )
        return self._motion if isinstance(self._motion, Motion) else self._motion()

    @cached_property
    def preconditioner(self) -> Sequence[Tensor] | None:
        """P of the optimizer, one tensor per trainable parameter; None if it is not known yet, or
        was not given."""
        return self._preconditioner() if callable(self._preconditioner) else self._preconditioner

    @staticmethod
    def product_of(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        """The inner product of two lists of one tensor per parameter, summed in double precision
        without a copy."""
        return float(
            (squared_norms(first) if first is second else inner_products(first, second)).sum()
        )

    def products_by_layer(
        self, first: Sequence[Tensor], second: Sequence[Tensor]
    ) -> Float[np.ndarray, " layers"]:
        """The inner product of two lists of one tensor per parameter, by layer, summed in double
        precision."""
        products = squared_norms(first)[0] if first is second else inner_products(first, second)
        return np.bincount(self.objective.layer_of, weights=products.cpu().numpy())

    @cached_property
    def graph(self) -> "GradientGraph":
        """The gradient of the batch with its graph, for products with the Hessian of this batch."""
        from gradiometer.measurement.gradient_graph import GradientGraph  # noqa: PLC0415 (loaded when a gauge asks)

        return GradientGraph(self.objective, self.batch, seed=self.seed_for("graph"))

    @cached_property
    def graph_gradient(self) -> Gradients:
        """The gradient of `graph`, with its random numbers; on several processes the mean over all
        of them."""
        own = self.graph.gradients
        return own if self._over_processes is None else self._over_processes(own)

    @property
    def may_hold_graph(self) -> bool:
        """True if the graph of the gradient is there, is small, or is the only way."""
        return (
            "graph" in self.__dict__
            or self.objective.dimension <= MOST_FOR_GRAPH
            or self._over_processes is not None
        )

    def preconditioner_to_use_up(self) -> list[Tensor] | None:
        """P, for a reader that lets go of each tensor when it has served; None if it is not known
        yet, or was not given."""
        if isinstance(self._preconditioner, ReadAgain):
            self.__dict__.pop("preconditioner", None)
            return self._preconditioner.handed_over()
        return None if self.preconditioner is None else list(self.preconditioner)

    @property
    def has_probe(self) -> bool:
        """True if independent examples judge the step."""
        return self._probe is not None

    @cached_property
    def acting(self) -> Batch:
        """The examples whose gradient makes the step to judge: the batch, or a random
        half of it."""
        return self.batch if self._probe is not None else self._random_halves[0]

    @cached_property
    def judging(self) -> Batch:
        """The examples that judge the step, independent of `acting`: the probe, or the
        other half."""
        return self._probe() if self._probe is not None else self._random_halves[1]

    @cached_property
    def acting_gradient(self) -> Gradients:
        """The gradient of `acting`, one tensor per trainable parameter."""
        if self._probe is not None:
            return self.gradient
        return self.objective.gradient(self.acting, seed=self.seed_for("acting"))

    @property
    def acting_size(self) -> int:
        """The number of examples in `acting`."""
        return batch_size(self.acting)

    def acting_halves(self) -> Iterator[tuple[Gradients, int]]:
        """The gradients of two random halves of `acting`, and their sizes, one after the other;
        none is kept here."""
        return self._halves(self.acting, "acting halves", self._example_of(0))

    def judging_halves(self, *, after: bool = False) -> Iterator[tuple[Gradients, int]]:
        """The gradients of two random halves of `judging`, and their sizes, one after the other;
        none is kept here.

        Args:
            after: True for the same halves, with the same random numbers, after the plain step −ηĝ.
        """
        return self._halves(
            self.judging, "judging halves", self._example_of(1), at=self._after if after else None
        )

    @cached_property
    def judging_loss_after(self) -> float:
        """The loss of `judging` after the plain step. The loss before it is
        `judging_graph.loss`."""
        from gradiometer.measurement.gradient_graph import twice_differentiable  # noqa: PLC0415 (loaded when a gauge asks)

        seed, objective = self.seed_for("judging"), self.objective
        with (
            torch.no_grad(),
            objective.untouched_randomness(seed),
            twice_differentiable(objective.model),
        ):
            return objective.mean_loss(self._after, self.judging).item()

    @cached_property
    def judging_graph(self) -> "GradientGraph":
        """The gradient of `judging` with its graph."""
        from gradiometer.measurement.gradient_graph import GradientGraph  # noqa: PLC0415 (loaded when a gauge asks)

        return GradientGraph(self.objective, self.judging, seed=self.seed_for("judging"))

    @cached_property
    def _after(self) -> Gradients:
        """Φ − ηĝ, one tensor per trainable parameter."""
        here = [parameter.detach() for parameter in self.objective.parameters]
        return list(torch._foreach_add(here, self.acting_gradient, alpha=-self.learning_rate))

    def _halves(
        self,
        batch: Batch,
        purpose: str,
        example_of: Int[Tensor, " rows"] | None,
        at: Sequence[Tensor] | None = None,
    ) -> Iterator[tuple[Gradients, int]]:
        size = batch_size(batch)
        if not size >= 2:
            raise BadArgument(
                f"`batch` leaves only {size} example to split in halves: use at least 4, or a "
                "`probe` of 2."
            )
        for place, part in enumerate(dealt(size, 2, self.generator(purpose), example_of)):
            yield (
                self.objective.gradient(
                    take(batch, part), at=at, seed=self.seed_for(f"{purpose} {place}")
                ),
                len(part),
            )

    @cached_property
    def _random_parts(self) -> list[Tensor]:
        size = batch_size(self.batch)
        if not size >= 2:
            raise BadArgument(
                "`batch` has 1 example, so no other half can judge its step: pass a `probe`."
            )
        return dealt(size, 2, self.generator("judge"), self.example_of)

    @cached_property
    def _random_halves(self) -> list[Batch]:
        return [take(self.batch, part) for part in self._random_parts]

    def _example_of(self, half: int) -> Int[Tensor, " rows"] | None:
        """The labels of the rows in `acting` (0) or `judging` (1)."""
        if self.example_of is None or self._probe is not None:
            return None if half else self.example_of
        return self.example_of[self._random_parts[half].to(self.example_of.device)]

    def seed_for(self, purpose: str) -> int:
        """A seed that differs between runs, steps and purposes."""
        return zlib.crc32(f"{self.seed}/{self.index}/{purpose}".encode())

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the CPU with `seed_for(purpose)`."""
        return torch.Generator().manual_seed(self.seed_for(purpose))

    def spread(self, parts: int | None = 2) -> Spread:
        """The spread of the gradients of parts of this batch.

        If training accumulates micro-batches, these are the parts. Otherwise the batch is split at
        random into `parts` parts, and the gradient of each is computed. If the loss is a fixed
        function of the batch, the last gradient follows from ĝ by subtraction.

        Args:
            parts: k, at least 2; None for one part per example. The parts of a coupled loss hold at
                least two examples, since it has no gradient of a single example.

        Raises:
            BadArgument: `parts` is below 2 or above the number of examples.
        """
        if self._shared is not None:
            return self._shared
        count = self.batch_size if parts is None else parts
        if count not in self._spreads:
            spread = self._of_parts(count, is_likely=True)
            if self._arrived is not None:
                self._arrived()
            if isinstance(self._gradient, LikelyGradient) and not self._gradient.was_right():
                spread = self._of_parts(count, is_likely=False)
            self._spreads[count] = spread  # for the next gauge
        return self._spreads[count]

    def _of_parts(self, count: int, *, is_likely: bool) -> Spread:
        """The spread of `count` parts that are run again, or of as many as the loss and the labels
        allow; with what ĝ most likely is, if asked for."""
        size = self.batch_size
        if not 2 <= count <= size:
            raise BadArgument(
                f"`parts` must be at least 2, and at most the batch size {size}, got {count}: "
                "the spread within a step needs two parts of at least one example each."
            )
        traits = self.objective.traits(self.batch, seed=self.seed)
        if self.example_of is not None:
            count = min(count, len(self.example_of.unique()))
        if traits.coupled:  # there are no batch statistics of one example
            count = max(min(count, size // 2), 2)
        elif count == size > 2 and self.example_of is None:
            return self._per_example()
        parts = dealt(size, count, self.generator("deal"), self.example_of)
        if self._gradient is None or not traits.fixed:
            return self.all_run(parts)
        whole = None
        # on an accelerator, if it is not known yet
        if is_likely and "gradient" not in self.__dict__:
            likely = isinstance(self._gradient, LikelyGradient) and self._gradient.likely()
            whole = list(likely) if likely else None
        return self._with_last_by_subtraction(parts, self.gradient if whole is None else whole)

    def all_run(self, parts: Sequence[Tensor]) -> Spread:
        """Compute the gradient of every part, each with its own random numbers and batch
        statistics; ĝ is their mean."""
        builder = SpreadBuilder(self.objective.layer_of, preconditioner=self.preconditioner)
        mean = list[Tensor]()
        for position, part in enumerate(parts):
            gradients = self.objective.gradient(
                take(self.batch, part), seed=self.seed_for(f"part {position}")
            )
            builder.add(len(part), gradients)
            share = len(part) / self.batch_size
            if mean:
                torch._foreach_add_(mean, gradients, alpha=share)
            else:  # a gradient may share its memory with another tensor, so it is not changed in place
                mean = list(torch._foreach_mul(gradients, share))
            del gradients
        return builder.finish(mean)

    def _with_last_by_subtraction(self, parts: Sequence[Tensor], whole: Gradients) -> Spread:
        """Compute k − 1 gradients; Σ b_j ĝ_j = B ĝ gives the last, of which only the norms are
        kept."""
        builder = SpreadBuilder(self.objective.layer_of, preconditioner=self.preconditioner)
        rest, left = whole, self.batch_size
        for position, part in enumerate(parts[:-1]):
            gradients = self.objective.gradient(
                take(self.batch, part), seed=self.seed_for(f"part {position}")
            )
            builder.add(len(part), gradients)
            left -= len(part)
            # The mean over the remaining examples: ((left + b) rest − b ĝ_j) / left.
            weight = -len(part) / left
            if position == len(parts) - 2:
                builder.add_between(left, rest, gradients, weight)
            elif position:
                torch._foreach_lerp_(rest, gradients, weight)
            else:
                rest = list(torch._foreach_lerp(rest, gradients, weight))
            del gradients
        return builder.finish(whole)

    def _per_example(self) -> Spread:
        """Compute the gradient of every example by vmap, a few at a time; ĝ is their mean."""
        builder = SpreadBuilder(self.objective.layer_of, preconditioner=self.preconditioner)
        size = self.batch_size
        mean = [torch.zeros_like(parameter) for parameter in self.objective.parameters]
        at_once = max(PER_EXAMPLE_NUMBERS // self.objective.dimension, 1)
        for position, part in enumerate(torch.split(torch.arange(size, device="cpu"), at_once)):
            gradients = self.objective.per_example_gradients(
                take(self.batch, part), seed=self.seed_for(f"examples {position}")
            )
            builder.add_each(gradients)
            torch._foreach_add_(mean, [g.sum(0) for g in gradients], alpha=1 / size)
        return builder.finish(mean)

    def preconditioned_spread(self, parts: int | None = 2) -> Spread | None:
        """The same spread under P, the preconditioner of the optimizer; None if P is not known yet.

        Raises:
            BadArgument: No preconditioner was given, or see `spread`.
        """
        if not (
            self._preconditioner is not None
            or (self._shared is not None and self._shared.preconditioned is not None)
        ):
            raise BadArgument(
                "`preconditioner` is missing, and this gauge needs it: pass "
                "`preconditioner=lambda: preconditioner_of(optimizer, parameters)` to the step."
            )
        return self.spread(parts).preconditioned
