"""Proves that a loss that was seen is the one that is trained."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.watch.seen_loss.recipe import GIVE, Recipe
from gradiometer.integrations.watch.subject import Subject
from gradiometer.loop.loop import Loop
from gradiometer.loop.replay import KeptUpdates, check_replay, made_again
from gradiometer.measurement.batch import Batch, batch_size, mapped, span
from gradiometer.measurement.hidden_state import HiddenState
from gradiometer.measurement.objective import checked_loss
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.randomness import untouched_randomness

# Largest relative difference between a loss and the same one made again that is rounding: kernels
# that do not repeat their bits differ by 1e-7 in single precision, and by 1e-3 in half.
ROUNDING = 1e-3

# Largest relative difference between the loss of a batch and the mean of its parts.
OF_PARTS = 1e-4

# Number of batches whose loss is compared with the last losses of the training; the difference in
# standard errors, and as a share, that is too large. Examples that were trained on in this epoch
# have a lower loss.
COMPARED, ERRORS, OTHER = 8, 5.0, 0.1


def proven(
    recipe: Recipe,
    subject: Subject,
    kept: KeptUpdates | None,
    values: Mapping[int, Sequence[float]],
) -> Recipe:
    """The recipe, if it makes kept updates of the training again on a copy: their gradients, and
    the losses that were given to `w.step`. They have other batches than the one that it was seen
    on.

    Args:
        recipe: The loss as it was seen.
        subject: The training.
        kept: Updates of the training.
        values: The losses of each update, by its step.

    Raises:
        BadArgument: It does not make these updates, or none is kept.
    """
    if kept is None or not kept.is_finite or len(kept.updates) < 2:
        raise BadArgument(
            "`loss` is missing. It was seen in your loop, but no update is kept yet by which it "
            f"could be checked: make more updates, or {GIVE}."
        )
    batches = [batch for update in kept.updates for batch in update.batches]
    loop = Loop(
        subject.objective.model,
        subject.optimizers,
        loss=recipe,
        batches=batches,
        accumulation=subject.source.backwards,
        scaler=subject.scaler,
    )
    try:
        check_replay(loop, kept)
        again = made_again(loop, kept)
    except Exception as error:  # it runs what was seen, which may not fit
        raise BadArgument(
            "`loss` is missing, and the one that was seen in your loop does not make its updates "
            f"({_short(error)}): {GIVE}."
        ) from error
    for one in again:
        given = values.get(one.kept.step)
        if given and not _is_close(one.loss, sum(given) / len(given)):
            raise BadArgument(
                f"`loss` is missing, and the one that was seen in your loop is {one.loss:.6g} at "
                f"step {one.kept.step:,}, where your loop gave {sum(given) / len(given):.6g}: "
                f"{GIVE}."
            )
    device = next(subject.objective.model.parameters()).device
    batch = mapped(batches[-1], lambda tensor: tensor.to(device))
    # what the loss keeps elsewhere is put back
    with HiddenState(loop.calls, loop.model).untouched():
        return for_any_size(recipe, loop.copy().model, batch)


def other_losses(loop: Loop, newest: Float[np.ndarray, " steps"]) -> tuple[str, ...]:
    """A sentence if new batches have another loss than the last ones of the training: it may have
    changed since it was seen, as by a weight that grows.

    Args:
        loop: The training, with the loss that was seen.
        newest: The losses of its last updates.
    """
    newest = newest[np.isfinite(newest)]
    copied = loop.copy()
    device = next(copied.model.parameters()).device
    losses = []
    with (
        HiddenState(loop.calls, loop.model).untouched(),
        untouched_randomness(0, copied.devices),
        torch.enable_grad(),
    ):
        for _, drawn in zip(range(COMPARED), copied.data.batches(0), strict=False):
            batch = mapped(drawn, lambda tensor: tensor.to(device))
            assert loop.loss is not None
            losses.append(float(loop.loss(copied.model, batch).detach().mean()))
    if len(newest) < 2 or len(losses) < 2:
        return ()
    here, there = float(np.mean(losses)), float(newest.mean())
    error = math.hypot(
        float(np.std(losses, ddof=1)) / math.sqrt(len(losses)),
        float(newest.std(ddof=1)) / math.sqrt(len(newest)),
    )
    if abs(here - there) <= max(ERRORS * error, OTHER * abs(there)):
        return ()
    return (
        f"The loss that was seen in your loop is {here:.4g} on {len(losses)} new batches, where the "
        f"last {len(newest)} of the training were {there:.4g}. If your loop has changed its loss, "
        f"{GIVE}.",
    )


def _is_close(one: float, two: float) -> bool:
    return one == two or abs(one - two) <= ROUNDING * max(abs(one), abs(two))


def _short(error: Exception) -> str:
    """The middle of a sentence of a refusal."""
    text = str(error).splitlines()[0]
    _, _, rest = text.partition("another training: ")
    return (rest or text).partition(";")[0].rstrip(".")


def for_any_size(recipe: Recipe, model: nn.Module, batch: Batch) -> Recipe:
    """The recipe for batches of any size, if it can be seen which of its numbers grow with the
    batch; otherwise for batches of this size alone.

    A loss whose parts have it as their mean holds for any size. One that couples the examples of a
    batch, or draws random numbers, holds if none of its other numbers may be a batch size.

    Args:
        recipe: The loss.
        model: A copy of the model.
        batch: A batch of training.
    """
    numbers = recipe.numbers()
    equal = [one for one in numbers if one[2] == recipe.size]
    choices = [[], equal, numbers, *([one] for one in numbers[:8])]
    running = None
    for chosen in choices:
        candidate = recipe.scaled(chosen)
        losses = _losses_of_parts(candidate, model, batch)
        if losses is None:
            continue
        whole, parts = losses
        if math.isclose(whole, parts, rel_tol=OF_PARTS, abs_tol=1e-12):
            return candidate
        if running is None:
            running = candidate, chosen
    if running is None:
        return replace(recipe, is_of_any_size=False)
    candidate, chosen = running
    left = [one for one in numbers if one not in chosen]
    is_clear = all(isinstance(value, int) and value != recipe.size for _, _, value in left)
    return candidate if is_clear else replace(recipe, is_of_any_size=False)


def _losses_of_parts(recipe: Recipe, model: nn.Module, batch: Batch) -> tuple[float, float] | None:
    """The loss of a batch, and the mean of the losses of two unequal parts; None if they cannot be
    run."""
    size = batch_size(batch)
    ends = [(0, size // 3), (size // 3, size)]
    if size < 3:
        return None
    devices = {parameter.device for parameter in model.parameters()}

    def loss(part: Batch) -> float:
        with untouched_randomness(0, devices):
            return float(checked_loss(recipe(model, part), part).detach().mean())

    # by its gradient a loss may need the graph
    with suppress(Exception), in_eval_mode(model), torch.enable_grad():
        whole = loss(batch)
        parts = [loss(span(batch, *end)) * (end[1] - end[0]) / size for end in ends]
        return whole, sum(parts)
    return None
