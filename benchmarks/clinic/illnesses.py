"""The illnesses of the clinic, each a small function that spoils a healthy recipe, and the cure of
each claim."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clinic.recipe import Recipe

Spoil = Callable[[Recipe, float], Recipe]
KAIMING = 2.4
"""√6, the factor between PyTorch's default weights of a layer and Kaiming's for ReLU."""
GAINS = dict.fromkeys(("deep", "tower", "funnel", "leaky"), KAIMING)
"""Networks that begin with Kaiming's weights. The others begin with PyTorch's."""
PAIR = ("no_decay", "stopped_early")
"""Claims that readings take for each other at a constant rate."""
BY_A_PERSON = {"labels_random", "labels_noisy"}
"""Illnesses that only a person can cure: no setting of the loop mends wrong labels."""


def unchanged(recipe: Recipe, much: float) -> Recipe:
    """The healthy recipe as it is."""
    return recipe


def few_rows(recipe: Recipe, rows: float) -> Recipe:
    """A person with few training rows, who stops when the evaluations no longer improve."""
    return replace(recipe, examples=int(rows), keep_best=True)


def many_epochs(recipe: Recipe, much: float) -> Recipe:
    """A person with 3,000 rows and twice the usual steps: 10 epochs at a batch of 32."""
    return replace(recipe, examples=3_000, steps=2 * recipe.steps)


def with_dropout(recipe: Recipe, rows: float) -> Recipe:
    """A person with few training rows, who uses dropout."""
    return replace(recipe, examples=int(rows), dropout=0.5)


@dataclass(frozen=True)
class Illness:
    """What is wrong with a training.

    Args:
        claim: The public name of the claim that is right.
        spoil: Makes a healthy recipe sick. The second argument is how sick, in the unit of the
            illness.
        prepare: What the healthy recipe has that makes this illness possible.
    """

    claim: str
    spoil: Spoil
    prepare: Spoil = unchanged


def _wrong_unit(schedule: str) -> Spoil:
    return lambda recipe, much: replace(recipe, schedule=schedule, schedule_setting=much)


def _frozen(reason: str) -> Spoil:
    return lambda recipe, much: replace(recipe, frozen=reason)


def _weights(recipe: Recipe, gain: float) -> Recipe:
    return replace(recipe, gain=gain)


ILLNESSES: dict[str, Illness] = {
    # the rate and its schedule
    "rate_low": Illness("rate_low", lambda recipe, much: replace(recipe, rate=recipe.rate / much)),
    "rate_high": Illness(
        "rate_high", lambda recipe, much: replace(recipe, rate=recipe.rate * much)
    ),
    "momentum_rate": Illness(
        # Momentum was added to plain SGD, and the rate was kept.
        "momentum_rate",
        lambda recipe, much: replace(recipe, optimizer="momentum", momentum=much),
    ),
    "no_decay": Illness("no_decay", lambda recipe, much: replace(recipe, schedule="constant")),
    "decay_early": Illness(
        "decay_early", lambda recipe, much: replace(recipe, schedule_setting=much)
    ),
    "by_step": Illness("schedule_unit", _wrong_unit("exponential")),
    "waves": Illness("schedule_unit", _wrong_unit("waves")),
    "by_epoch": Illness("schedule_unit", _wrong_unit("onecycle by epoch")),
    "stopped_early": Illness(
        "stopped_early", lambda recipe, much: replace(recipe, steps=int(recipe.steps / much))
    ),
    # the batch
    "batch_small": Illness(
        # The rate is lowered by the root of the ratio: otherwise it would be the rate that is
        # wrong.
        "batch_small",
        lambda recipe, much: replace(
            recipe, batch=int(much), rate=recipe.rate * (much / recipe.batch) ** 0.5
        ),
    ),
    "batch_large": Illness(
        "batch_large",
        lambda recipe, much: replace(
            recipe, batch=int(recipe.batch * much), steps=int(recipe.steps / much)
        ),
        many_epochs,
    ),
    "accumulation": Illness(
        "accumulation",
        lambda recipe, much: replace(recipe, pieces=int(much), batch=32, divided=False),
    ),
    "zero_grad": Illness("zero_grad", lambda recipe, much: replace(recipe, zero_every=int(much))),
    "clip_small": Illness("clip_small", lambda recipe, much: replace(recipe, clip=much)),
    "weight_decay": Illness(
        "weight_decay", lambda recipe, much: replace(recipe, weight_decay=much)
    ),
    # the data
    "overfit": Illness("overfit", lambda recipe, much: replace(recipe, keep_best=False), few_rows),
    "leak": Illness("leak", lambda recipe, much: replace(recipe, leak=True), few_rows),
    "unshuffled": Illness("unshuffled", lambda recipe, much: replace(recipe, shuffled=False)),
    "unscaled": Illness("unscaled", lambda recipe, much: replace(recipe, scale=much)),
    "uncentred": Illness("unscaled", lambda recipe, much: replace(recipe, offset=much)),
    "labels_random": Illness(
        "labels_random", lambda recipe, much: replace(recipe, wrong_labels=1.0)
    ),
    "labels_noisy": Illness(
        "labels_noisy", lambda recipe, much: replace(recipe, wrong_labels=much)
    ),
    # the network
    "vanishing": Illness("vanishing", _weights),
    "sigmoids": Illness("vanishing", lambda recipe, much: replace(recipe, sigmoid=True, gain=much)),
    "exploding": Illness("exploding", _weights),
    "dead_relu": Illness("dead_relu", lambda recipe, much: replace(recipe, bias=-much)),
    "dropout": Illness("dropout", lambda recipe, much: replace(recipe, dropout=much)),
    "softmax_twice": Illness("softmax_twice", lambda recipe, much: replace(recipe, softmax=True)),
    "eval_mode": Illness("eval_mode", lambda recipe, much: replace(recipe, stays_in_eval=True)),
    "eval_dropout": Illness(
        "eval_mode", lambda recipe, much: replace(recipe, stays_in_eval=True), with_dropout
    ),
    "head_only": Illness("no_gradient", _frozen("optimizer")),
    "detached": Illness("no_gradient", _frozen("detached")),
    # what happens on the way
    "bad_batch": Illness("bad_batch", lambda recipe, much: replace(recipe, bad_batch=much)),
    "rate_burst": Illness("rate_burst", lambda recipe, much: replace(recipe, burst=much)),
    "nan_example": Illness("nan_example", lambda recipe, much: replace(recipe, nan_rows=int(much))),
}


def _usual_start(recipe: Recipe) -> Recipe:
    return replace(recipe, gain=GAINS.get(recipe.network, 1.0), sigmoid=False)


def _other_momentum(recipe: Recipe) -> Recipe:
    return replace(recipe, rate=recipe.rate * (1 - recipe.momentum))


def _planned_decay(recipe: Recipe) -> Recipe:
    decays = ("cosine", "step", "linear", "polynomial")
    schedule = recipe.schedule if recipe.schedule in decays else "cosine"
    return replace(recipe, schedule=schedule, schedule_setting=1.0)


CURES: dict[str, Callable[[Recipe], Recipe]] = {
    "rate_low": lambda recipe: replace(recipe, rate=4 * recipe.rate),
    "rate_high": lambda recipe: replace(recipe, rate=recipe.rate / 4),
    "momentum_rate": _other_momentum,
    "no_decay": _planned_decay,
    "decay_early": _planned_decay,
    "schedule_unit": _planned_decay,
    "stopped_early": lambda recipe: replace(recipe, steps=2 * recipe.steps),
    "batch_small": lambda recipe: replace(
        recipe, batch=8 * recipe.batch, rate=8**0.5 * recipe.rate
    ),
    "batch_large": lambda recipe: replace(
        recipe, batch=max(recipe.batch // 4, 1), steps=4 * recipe.steps
    ),
    "accumulation": lambda recipe: replace(recipe, divided=True),
    "zero_grad": lambda recipe: replace(recipe, zero_every=1),
    "clip_small": lambda recipe: replace(recipe, clip=None),
    "weight_decay": lambda recipe: replace(recipe, weight_decay=recipe.weight_decay / 100),
    "overfit": lambda recipe: replace(recipe, keep_best=True),
    "leak": lambda recipe: replace(recipe, leak=False, keep_best=True),
    "unshuffled": lambda recipe: replace(recipe, shuffled=True),
    "unscaled": lambda recipe: replace(recipe, scale=1.0, offset=0.0),
    "vanishing": _usual_start,
    "exploding": _usual_start,
    "dead_relu": lambda recipe: replace(recipe, bias=None),
    "dropout": lambda recipe: replace(recipe, dropout=min(recipe.dropout, 0.1)),
    "softmax_twice": lambda recipe: replace(recipe, softmax=False),
    "eval_mode": lambda recipe: replace(recipe, stays_in_eval=False),
    "no_gradient": lambda recipe: replace(recipe, frozen=""),
    "bad_batch": lambda recipe: replace(recipe, skip_bad=True),
    "rate_burst": lambda recipe: replace(recipe, burst=1.0),
    "nan_example": lambda recipe: replace(recipe, skip_bad=True),
    "unstable": lambda recipe: replace(recipe, clip=1.0),
}
"""What a person does to the loop who believes the claim and is given no number."""

CHANGE = re.compile(r"(rate|momentum|clip|weight decay) ([0-9.e-]+)(x?)")
BATCH = re.compile(r"batch ([0-9.]+)x(, rate sqrt)?")
LENGTH = re.compile(r"train for ([0-9,]+) steps")
"""Cures with a number in them, as the verdict writes them."""


def follow(claim: str, cure: Sequence[str], recipe: Recipe) -> Recipe | None:
    """The recipe after the cure of a claim, or None if no function cures it or nothing would
    change.

    Args:
        claim: The public name of the claim.
        cure: What the verdict says to change, the first of which is done. Without a number it is
            done as in `CURES`.
    """
    if claim in BY_A_PERSON or claim not in CURES:
        return None
    changed = as_written(cure[0], recipe) if cure else None
    if changed is None:
        changed = CURES[claim](recipe)
    return None if changed == recipe else changed


def as_written(text: str, recipe: Recipe) -> Recipe | None:
    """The recipe after a change that has a number, or None for any other text."""
    if found := LENGTH.fullmatch(text):
        return replace(recipe, steps=int(found[1].replace(",", "")))
    if found := BATCH.fullmatch(text):
        factor = float(found[1])
        batch = max(round(factor * recipe.batch), 1)
        # A smaller batch makes more updates in the same epochs.
        steps = round(recipe.steps / factor) if factor < 1 else recipe.steps
        rate = recipe.rate * (factor**0.5 if found[2] else 1.0)
        return replace(recipe, batch=batch, steps=steps, rate=rate)
    if found := CHANGE.fullmatch(text):
        field = found[1].replace(" ", "_")
        value = float(found[2])
        if found[3]:
            value *= getattr(recipe, field) or 0.0
        return replace(recipe, **{field: value})
    return None
