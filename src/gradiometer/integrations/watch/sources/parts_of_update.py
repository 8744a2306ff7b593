"""An update takes several backwards, one after another, on several processes, or both."""

import sys
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import OFF, Preconditioner
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.exchange import Exchange, OverProcesses, StepOf
from gradiometer.integrations.watch.sources.source import GradientSource, Scale, WrongGradient
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.parts import SpreadBuilder
from gradiometer.measurement.reading import Spread
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks

# Squared norms of micro-batches, and of their mean.
Norms = tuple[Float[Tensor, "parts parameters"], Float[Tensor, "1 parameters"]]


class PartsOfUpdate(GradientSource):
    """Several backwards per update, whose gradients are compared. One exchange per measured step
    joins what several processes read."""

    def __init__(self, ranks: Ranks, backwards: int) -> None:
        super().__init__(ranks, backwards)
        self._kinds = 2

    def connect(
        self,
        objective: Objective,
        budget: Budget,
        shield: Shield,
        preconditioner: Preconditioner | None,
    ) -> None:
        """Hooks that read every gradient, and an exchange."""
        # numbers that are kept of every parameter's gradient
        self._kinds = 2 if preconditioner is None else 3
        self._layer_of = objective.layer_of
        self._builder = SpreadBuilder(self._layer_of)
        device = objective.parameters[0].device
        numbers = self._kinds * len(objective.parameters)
        self._exchange = Exchange(self.ranks, self.backwards, numbers, device)
        self._together = OverProcesses((), self.ranks, budget, device)
        self._device = device
        self._read_with(objective, budget, shield, preconditioner)

    @abstractmethod
    def _read_with(
        self,
        objective: Objective,
        budget: Budget,
        shield: Shield,
        preconditioner: Preconditioner | None,
    ) -> None:
        """Make the hooks."""

    @property
    @abstractmethod
    def _copies(self) -> Float[Tensor, " parameters"] | None:
        """How many processes hold the same piece of every parameter; None if each has all."""

    def begin(self, gauges: Sequence[Gauge], budget: Budget) -> None:
        """All processes measure these gauges together."""
        self._together = OverProcesses(gauges, self.ranks, budget, self._device)

    def start(self) -> None:
        """Read the coming step."""
        self._builder = SpreadBuilder(self._layer_of)
        super().start()

    def take_in(self, place: int, size: int) -> None:
        """Keep the norms of a backward."""
        self._builder.sizes.append(size)
        self._builder.squared.append(self.hooks.norms())
        self.hooks.whole_is_wanted = place + 2 == self.backwards

    def spread(
        self,
        proposal: int,
        chosen: Collection[str],
        share: StepOf,
        scale: Scale,
        arrived: Callable[[], None],
    ) -> Spread | None:
        """The spread over all micro-batches, if they have one size: only then is ĝ their plain
        mean."""
        whole = self.hooks.whole
        if whole is None:
            raise BadArgument(
                "`accumulation` is more than the number of backwards: give the number that an "
                "update takes."
            )
        sizes, norms_read = self._exchange.joined(
            proposal,
            self._together.bits(chosen),
            self._builder.sizes,
            torch.cat(self._builder.squared),
            whole,
        )
        arrived()
        if self.is_joint:  # before anything that may fail on one process alone
            self._together.measure(self._exchange.bits, share)
            self.made = self._together.made
        norms, adds_up = norms_of_all(
            norms_read, self.ranks.count, copies=self._copies, kinds=self._kinds
        )
        if not adds_up:
            raise WrongGradient(not_the_mean(self.ranks.count, sharded=self._copies is not None))
        plain, *others = [self._without_scale(sizes, *each, scale=scale) for each in norms]
        if plain is None or len(set(plain.sizes)) > 1:
            return None
        return replace(plain, preconditioned=others[0]) if others else plain

    def agreed(self, step: int, *, is_due: bool, planned: int) -> tuple[bool, int]:
        """What rank 0 has decided at the last exchange."""
        if not self.is_joint:
            return is_due, planned
        next_due = self._exchange.next_due
        return step >= next_due, min(planned, next_due)

    @property
    def leaves_at(self) -> int | None:
        """The step of the next exchange; None on one process, or after the last one."""
        next_due = self._exchange.next_due
        return next_due if self.is_joint and next_due < sys.maxsize else None

    def leave(self) -> None:
        """Take part in one more exchange, without numbers."""
        self._exchange.leave()

    def _without_scale(
        self, sizes: list[int], squared: Tensor, whole: Tensor, *, scale: Scale
    ) -> Spread | None:
        """The spread for the mean loss, from norms as they were read; None if one is not finite."""
        if not (squared.isfinite().all() and whole.isfinite().all()):
            return None
        builder = SpreadBuilder(self._layer_of, sizes, [squared])
        spread = builder.finish((), whole)
        factor = scale.factor
        return Spread(
            spread.sizes,
            spread.squared_norms * (self.backwards / factor) ** 2,
            spread.mean_squared_norm / factor**2,
        )


def norms_of_all(
    everyone: Float[Tensor, "rows numbers"],
    ranks: int,
    *,
    copies: Float[Tensor, " parameters"] | None = None,
    kinds: int = 2,
) -> tuple[list[Norms], bool]:
    """‖·‖² of the gradient of every micro-batch and of their mean, and if that is the mean of the
    gradients read.

    The first entry of a parameter is on rank 0. There training's entry is compared with the mean of
    the entries read, so that a gradient that is not the plain mean over processes is not mistaken
    for it.

    Args:
        everyone: The micro-batches of a process, then its pieces of the mean, or the whole of it;
            of one process after the other.
        ranks: W, the number of processes.
        copies: How many processes hold the same piece, of every parameter; None if each holds the
            whole of it.
        kinds: Numbers per parameter, see `numbers_of`: 2, or 3 with the norms under P.

    Returns:
        The norms, then those under P if there are any, each a pair for the micro-batches and for
        their mean.
    """
    by_rank = everyone.unflatten(0, (ranks, -1)).unflatten(2, (kinds, -1))
    squared, first = by_rank[:, :-1, 0], by_rank[:, :-1, 1]
    entry, held = by_rank[0, -1, 1], by_rank[:, -1]
    means = held[0] if copies is None else held.sum(0) / copies.to(held.device)
    whole = means[0]
    difference = (entry - first.sum((0, 1)) / ranks).norm()
    unread = (whole > 0) & (squared.sum((0, 1)) == 0)
    off = unread.any() or difference > OFF * (first.abs().sum((0, 1)) / ranks).norm()
    norms = [
        (by_rank[:, :-1, kind].flatten(0, 1), means[kind : kind + 1])
        for kind in range(kinds)
        if kind != 1
    ]
    return norms, not (off and by_rank[:, :, :2].isfinite().all())


def not_the_mean(ranks: int, *, sharded: bool) -> str:
    """The sentence for a training gradient that is not the mean of the gradients read, with the
    usual causes."""
    if ranks == 1:
        return (
            "`.grad` is not the sum of the backwards that `step` was called after: zero it before "
            "the first of them, with all parameters of `model`, and make no other backward between"
        )
    leave_out = (
        "`set_gradient_divide_factor`, all-reduce hooks, updates inside the backward and "
        "`register_fsdp_forward_method`"
        if sharded
        else "averaging by hand (DistributedDataParallel averages within `backward`), communication hooks, and other "
        "backwards before `.grad` is zeroed"
    )
    return (
        f"`model` is not trained on the plain mean of the gradients that its {ranks} processes "
        f"make in its forward and backward: leave out {leave_out}, or switch measuring off with "
        "budget=0"
    )
