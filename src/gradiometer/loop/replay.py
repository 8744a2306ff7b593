"""Updates that a training has made are made again on a copy and compared: a fork never answers for
another training."""

import copy
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradiometer.errors import Unsupported
from gradiometer.loop.marks import NO_GRADIENT, Marks, marks_of, relative
from gradiometer.measurement.batch import Batch, leaves, mapped
from gradiometer.measurement.optimizer.steps import optimizers_in
from gradiometer.measurement.untouched import Surroundings
from gradiometer.randomness import GlobalStates, untouched_randomness

if TYPE_CHECKING:  # a watch keeps updates, and most never make one again
    from gradiometer.loop.loop import Loop
    from gradiometer.loop.parts import MovingAverage

# Largest difference between an update and its copy, as a share of the update, that counts as
# rounding. The same loss in another order, in double precision, or in halves gave 1e-7 to 2e-6 with
# SGD and AdamW; gradients of SGD that are clipped to a norm that is 1 % off give 1e-2.
ROUNDING = 1e-3

# Largest relative difference of weights without a gradient that is rounding: that of single
# precision is 1e-7, and a decay of 0.999 in place of 0.998 gave 1e-5.
STILL = 1e-6

# Settings of a parameter group that a loop or a scheduler may change between updates.
SETTINGS = ("lr", "momentum", "betas", "weight_decay", "nesterov", "eps")

WAY_OUT = (
    "give `step=`, a function of (model, optimizer, batch) that makes one whole update as your "
    "loop does"
)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of a model by the names of its parameters."""
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by their names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def trained_by(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are trained."""
    return frozenset(name for name, one in model.named_parameters() if one.requires_grad)


def all_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of a model and of the state of its optimizer."""
    state = leaves(state_dict_of(optimizer)["state"], "optimizer")
    return {**tensors_of(model), **{name: leaf for name, leaf in state if isinstance(leaf, Tensor)}}


def state_dict_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The `state_dict` of an optimizer.

    Raises:
        Unsupported: It has none, since it keeps the state of a parameter that left its groups.
    """
    try:
        return optimizer.state_dict()
    except KeyError as error:
        raise Unsupported(
            "`optimizer` keeps the state of a parameter that is in none of its groups any more, so "
            "that its state_dict() fails: delete that entry of optimizer.state, or make a new "
            "optimizer where you replace a layer"
        ) from error


@dataclass(frozen=True)
class KeptUpdate:
    """One update as a training made it.

    Args:
        step: Its index.
        batches: Its batches.
        random: The random states after the update before.
        at_forward: Those at the first call of the model; None if it was not seen.
        generators: Generators that the loss uses, each with its state.
        modes: The mode of every module.
        settings: The settings of every parameter group.
        weights: The parameters at the backward.
        above: Those at a second forward before the update; None if there was none.
        gradient: The gradient at the update.
        state: Parameters, buffers and the state of the optimizer after it.
    """

    step: int
    batches: tuple[Batch, ...]
    random: GlobalStates
    at_forward: GlobalStates | None
    generators: Sequence[tuple[Any, bytes]]
    modes: Sequence[bool]
    settings: Sequence[Mapping[str, Any]]
    weights: Marks
    above: Marks | None
    gradient: Marks
    state: Marks


@dataclass
class KeptUpdates:
    """Some updates in a row, and the state before the first of them.

    Args:
        model: Parameters and buffers.
        optimizer: `state_dict` of the optimizer.
        scaler: The scaler, if there is one.
        step: Index of the first update.
        updates: The updates.
        schedulers: `state_dict` of each scheduler, if the training may be forked from here later.
        trained: Names of the parameters that are trained.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Any
    step: int
    updates: list[KeptUpdate] = field(default_factory=list)
    schedulers: Sequence[Mapping[str, Any]] = ()
    trained: frozenset[str] = frozenset()

    @property
    def is_finite(self) -> bool:
        """True if the parameters were finite before and after each update: the bits of NaN do not
        repeat."""
        return all(
            math.isfinite(marks.norm) for one in self.updates for marks in (one.weights, one.state)
        )

    @property
    def numbers(self) -> int:
        """How many numbers the state has."""
        state = leaves(self.optimizer, "optimizer")
        tensors = [*self.model.values(), *(leaf for _, leaf in state if isinstance(leaf, Tensor))]
        return sum(tensor.numel() for tensor in tensors)

    def put_into(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Bring a training, or a copy of it, back to the state before the first update."""
        own = tensors_of(model)
        if {name: one.shape for name, one in own.items()} != {
            name: one.shape for name, one in self.model.items()
        }:
            raise Unsupported(
                f"`model` has other parameters than at step {self.step:,}, so that its "
                "updates cannot be made again: fork some updates after such a change."
            )
        try:
            optimizer.load_state_dict(copy.deepcopy(dict(self.optimizer)))
        except ValueError as error:
            raise Unsupported(
                f"`optimizer` has other parameter groups than at step {self.step:,}, so that its "
                "updates cannot be made again: fork some updates after such a change."
            ) from error
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self.model[name])
        if scaler is not None and self.scaler is not None:
            scaler.load_state_dict(self.scaler.state_dict())

    def before_all(self, start: Mapping[str, Tensor]) -> "KeptUpdates":
        """This state with the trained parameters as they were before the first update, by name, and
        an optimizer that has made none."""
        # several optimizers have a state each, by a name
        none: dict[str, Any] = {
            name: {} for name in self.optimizer["state"] if isinstance(name, str)
        }
        return replace(
            self, model={**self.model, **start}, optimizer={**self.optimizer, "state": none}
        )

    def brought_back(self, loop: "Loop") -> "Loop":
        """A copy of the training as it was before the first update. What is left of it is at least
        what it has made since.

        Raises:
            Unsupported: Its schedulers were others, or it trained other parameters.
        """
        from gradiometer.loop.parts import RateByHand  # noqa: PLC0415

        copied = loop.copy()
        if trained_by(copied.model) != self.trained:
            raise Unsupported(
                f"`model` trained other parameters at step {self.step:,}: its updates cannot be "
                "made again after some were frozen or unfrozen."
            )
        self.put_into(copied.model, copied.optimizer, copied.scaler)
        step = self.step
        by_hand = [{"index": step} for one in copied.schedulers if isinstance(one, RateByHand)]
        states = by_hand or self.schedulers
        if len(states) != len(copied.schedulers):
            raise Unsupported(
                f"`scheduler` was not known at step {step:,}, so that the training cannot be "
                "brought back there."
            )
        for scheduler, state in zip(copied.schedulers, states, strict=True):
            scheduler.load_state_dict(copy.deepcopy(dict(state)))
        since = (copied.index - step) * copied.size
        copied.index = step
        copied.examples -= since
        copied.left = since + (copied.left or 0)
        return copied


@dataclass(frozen=True)
class Again:
    """An update that was made again on a copy.

    Args:
        kept: The update of training.
        weights: The parameters of the copy before it.
        gradient: Its gradient.
        state: Its state after the update.
        loss: Its mean loss.
        is_judged_after: False if a person's `step` may change more after it: then the parameters
            before the next update count.
    """

    kept: KeptUpdate
    weights: Marks
    gradient: Marks
    state: Marks
    loss: float
    is_judged_after: bool

    @property
    def is_same(self) -> bool:
        """True if every bit is that of training."""
        return self.weights == self.kept.weights and (
            not self.is_judged_after or self.state == self.kept.state
        )

    @property
    def before(self) -> float:
        """The difference of the parameters before the update, as a share of the update; inf if it
        is not known."""
        return max(self._share(self.weights, self.kept.weights), self._still())

    def _still(self) -> float:
        """The difference of the parameters without a gradient, on the scale of the others."""
        still = [name for name in self.kept.weights if name not in self.kept.gradient]
        if not still or self.weights.keys() != self.kept.weights.keys():
            return 0.0
        sizes = self.kept.weights.norm_of
        size = math.hypot(*(sizes[name] for name in still))
        far = self.weights.distance(self.kept.weights, still)
        return far / size * ROUNDING / STILL if size > 0 else far

    @property
    def difference(self) -> float:
        """The larger of the differences of the parameters before and after the update, as a share
        of the update."""
        after = self._share(self.state, self.kept.state) if self.is_judged_after else 0.0
        return max(self.before, after)

    def _share(self, one: Marks, two: Marks) -> float:
        kept, names = self.kept, self.moved
        if one.keys() != two.keys() or self.gradient.keys() != kept.gradient.keys():
            return math.inf
        size = kept.weights.distance(kept.state, names)
        return one.distance(two, names) / size if size > 0 else math.inf

    @property
    def moved(self) -> list[str]:
        """The parameters whose gradients are more than rounding."""
        norms = self.kept.gradient.norm_of
        least = NO_GRADIENT * max(norms.values(), default=0.0)
        return [name for name, norm in norms.items() if norm > least]

    @property
    def common_ratio(self) -> float | None:
        """The gradient of training over that of the copy, if it is the same in every parameter."""
        seen, made = self.kept.gradient.norm_of, self.gradient.norm_of
        ratios = [seen[name] / made[name] for name in self.moved if made.get(name, 0.0) > 0]
        if not ratios or max(ratios) - min(ratios) >= ROUNDING * max(ratios):
            return None
        return statistics.median(ratios)

    @property
    def is_close(self) -> bool:
        """True if it differs by rounding at most."""
        return self.is_same or self.difference < ROUNDING


def check_replay(loop: "Loop", kept: KeptUpdates) -> tuple[str, ...]:
    """Make kept updates again on a copy of a training. Clipping between the backward and the update
    is found and taken, and so are a second backward and a moving average of weights.

    Args:
        loop: The training. Its `clip`, `clip_value`, `ascent` and `average` are set to what its
            updates show.
        kept: Some of its updates.

    Returns:
        Sentences about what a reader of the fork should know; none if every bit is that of
        training.

    Raises:
        Unsupported: The updates of the copy are others.
    """
    averages: "list[MovingAverage | None]" = [*_averages(kept)] if loop.step is None else []
    for average in averages or [None]:
        loop.average = average
        found = _explain(loop, kept)
        if _is_complete(found, kept):
            return _notes(found)
    loop.average = None
    raise Unsupported(_refusal(loop, found[-1]))


def _explain(loop: "Loop", kept: KeptUpdates) -> list[Again]:
    """The updates made again, with the second backward or the clipping that explains them."""
    plain = made_again(loop, kept)
    if _is_complete(plain, kept):
        return plain
    for settings in (*_ascents(plain[-1]), *_clippings(plain[-1])):
        for name, value in settings.items():
            setattr(loop, name, value)
        changed = made_again(loop, kept)
        if _is_complete(changed, kept):
            return changed
        for name in settings:
            setattr(loop, name, None)
    return plain


def _notes(found: Sequence[Again]) -> tuple[str, ...]:
    if all(again.is_same for again in found):
        return ()
    most = max(again.difference for again in found)
    if not most:
        return (
            "Updates of the loop were made again on a copy: its parameters have the same bits, and "
            "other tensors, such as statistics that each process keeps for itself, differ.",
        )
    return (
        f"Updates of the loop were made again on a copy and differ by rounding, {most:.1g} of an "
        "update: the loop computes its loss in another order, or its kernels do not repeat.",
    )


def _is_complete(found: Sequence[Again], kept: KeptUpdates) -> bool:
    return len(found) == len(kept.updates) and found[-1].is_close


def made_again(loop: "Loop", kept: KeptUpdates) -> list[Again]:
    """The updates made again, up to the first that differs, by the better of two guesses where
    random draws begin."""
    first = _made_again(loop, kept, at_forward=False)
    draws = any(
        one.at_forward is not None and not one.at_forward.same_as(one.random)
        for one in kept.updates
    )
    if not draws or _is_complete(first, kept):
        return first
    second = _made_again(loop, kept, at_forward=True)
    return (
        second
        if (len(second), -second[-1].difference) > (len(first), -first[-1].difference)
        else first
    )


def _made_again(loop: "Loop", kept: KeptUpdates, *, at_forward: bool) -> list[Again]:
    found: list[Again] = []
    from gradiometer.loop.engine import guarded_copy  # noqa: PLC0415

    with guarded_copy(loop, loop.seed) as start:
        again = start.copy()
        again.schedulers = ()
        kept.put_into(again.model, again.optimizer, again.scaler)
        used = Surroundings(again.calls, again.model)
        with untouched_randomness(0, again.devices), used.untouched(0):
            for update in kept.updates:
                # With a person's `step`, several optimizers, or a moving average, more follows the
                # first optimizer's step: then the parameters before the next update judge this one,
                # if there is one.
                alone = loop.step is None and len(optimizers_in(loop.optimizer)) == 1
                alone = alone and loop.average is None
                judged = alone or len(kept.updates) == 1
                found.append(
                    _one_again(again, update, used, at_forward=at_forward, is_judged_after=judged)
                )
                if not found[-1].is_close:
                    break
    return found


def _one_again(
    again: "Loop",
    update: KeptUpdate,
    used: Surroundings,
    *,
    at_forward: bool,
    is_judged_after: bool,
) -> Again:
    device = next(again.model.parameters()).device
    for group, settings in zip(again.optimizer.param_groups, update.settings, strict=True):
        group.update(settings)
    for module, training in zip(again.model.modules(), update.modes, strict=True):
        module.training = training
    update.random.restore()
    used.restore(update.generators)
    handles: list[Any] = []
    if at_forward and update.at_forward is not None:
        states = update.at_forward

        def begin(*_: Any) -> None:
            handles.pop().remove()  # the first call only
            states.restore()

        handles.append(again.model.register_forward_pre_hook(begin))
    weights = marks_of(dict(again.model.named_parameters()))
    batches = [mapped(batch, lambda tensor: tensor.to(device)) for batch in update.batches]
    loss = float(again.update(*batches))
    for handle in handles:
        handle.remove()
    state = marks_of(all_tensors(again.model, again.optimizer))
    return Again(update, weights, marks_of(gradients_of(again.model)), state, loss, is_judged_after)


def _ascents(again: Again) -> Iterator[dict[str, float]]:
    """Distances by which the parameters may have been moved along the gradient before a second
    backward."""
    kept, made = again.kept, again.gradient
    if kept.above is None or not made or kept.above.keys() != kept.weights.keys():
        return
    move = torch.cat([kept.above[name].sample - kept.weights[name].sample for name in made])
    gradient = torch.cat([one.sample for one in made.values()])
    scale = float(move @ gradient / (gradient @ gradient))
    if scale > 0 and float((move - scale * gradient).norm()) < ROUNDING * float(move.norm()):
        yield from ({"ascent": near} for near in _near(scale * made.norm))


def _averages(kept: KeptUpdates) -> "Iterator[MovingAverage]":
    """Moving averages by which weights without a gradient may have followed others between two
    updates."""
    from gradiometer.loop.parts import MovingAverage  # noqa: PLC0415

    if len(kept.updates) < 2:
        return
    before, after = kept.updates[0].weights, kept.updates[1].weights
    trained = kept.updates[0].gradient
    if before.keys() != after.keys():
        return
    old = {name: one.sample for name, one in before.items()}
    new = {name: one.sample for name, one in after.items()}
    slow = [name for name in old if name not in trained and not torch.equal(old[name], new[name])]
    pairs, shares = [], []
    for name in slow:
        size = after[name].size
        candidates = [fast for fast in trained if fast in after and after[fast].size == size]
        gaps = {fast: float(_gap(old[name], new[name], new[fast])[1]) for fast in candidates}
        if not gaps:
            return
        nearest = min(gaps, key=lambda fast: gaps[fast])
        pairs.append((name, nearest))
        shares.append(_gap(old[name], new[name], new[nearest])[0])
    if pairs and 0 < statistics.median(shares) <= 1:
        # Largest relative error of the share that a moving average takes, as single precision shows
        # it: it was 0.006 at a decay of 0.999.
        for share in _near(statistics.median(shares), 0.02):
            yield MovingAverage(tuple(pairs), 1 - share)


def _gap(old: Tensor, new: Tensor, fast: Tensor) -> tuple[float, float]:
    """The share of the way to others that weights have gone, and how far they are from that way."""
    way, gone = (fast - old).double(), (new - old).double()
    share = float(way @ gone / (way @ way)) if way.any() else 0.0
    return share, float((gone - share * way).norm())


def _clippings(again: Again) -> Iterator[dict[str, float]]:
    """Norms, or values, to which the gradient may have been clipped, those with few
    digits first."""
    seen, made = again.kept.gradient, again.gradient
    if seen.keys() != made.keys() or not seen:
        return
    ratio = again.common_ratio
    if ratio is not None and ratio < 1:
        yield from ({"clip": near} for near in _near(ratio * made.norm))
    pairs = [(float(one.largest), float(made[name].largest)) for name, one in seen.items()]
    values = [one for one, two in pairs if one < two]
    if values and max(values) - min(values) <= ROUNDING * max(values):
        yield from ({"clip_value": near} for near in _near(max(values)))


def _near(number: float, near_enough: float = ROUNDING) -> Iterator[float]:
    """Numbers with few digits near a number, and then itself."""
    known = set()
    for digits in range(1, 8):
        near = float(f"{number:.{digits}g}")
        if near not in known and abs(near / number - 1) < near_enough:
            known.add(near)
            yield near


def _refusal(loop: "Loop", again: Again) -> str:
    """What differs, where, by how much, and what to give."""
    kept = again.kept
    function = "`loss`" if loop.step is None else "`step`"
    begin = (
        f"{function} does not make the updates of your loop, so that a fork would answer for "
        "another training: "
    )
    at = f"at step {kept.step:,}"
    if again.before > ROUNDING:
        name, seen, made = kept.weights.farthest(again.weights)
        return (
            f"{begin}{at} {name} had norm {seen:.6g} before the update, and {made:.6g} in a copy. "
            f"Something besides the optimizer changed it between two updates; {WAY_OUT}."
        )
    name, seen, made = kept.gradient.farthest(again.gradient)
    ratio = again.common_ratio
    if ratio is not None and relative(ratio, 1.0) > ROUNDING:
        return (
            f"{begin}{at} its gradient was {ratio:.4g} times that of a copy, in every parameter. "
            f"Give the loss that is trained, with its factor, or {WAY_OUT[5:]}."
        )
    if kept.at_forward is not None and kept.at_forward.seed != kept.random.seed:
        return (
            f"{begin}{at} your loop seeded the random generator (torch.manual_seed("
            f"{kept.at_forward.seed})), and its loss then drew numbers before it called the model. "
            f"Seed once, before the loop, or {WAY_OUT}."
        )
    if relative(seen, made) > ROUNDING:
        return (
            f"{begin}{at} the gradient of {name} had norm {seen:.4g} at the update, and {made:.4g} "
            "in a copy. Your loop makes another backward (its loss, a second one, random draws), "
            f"or changes the gradient before the update; {WAY_OUT}."
        )
    name, seen, made = kept.state.farthest(again.state)
    return (
        f"{begin}{at} {name} had norm {seen:.6g} after the update, and {made:.6g} in a copy, from "
        f"the same gradient. {WAY_OUT[0].upper()}{WAY_OUT[1:]}."
    )
