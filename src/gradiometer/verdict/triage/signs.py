"""What is recorded of a training, as arrays for the rules of triage. No torch is needed
to read it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gradiometer.drift.batch_sharpness import (
    FEWEST_READINGS,
    BatchSharpness,
    PreconditionedSharpness,
    reached,
)
from gradiometer.run.reader import Run
from gradiometer.verdict.triage.thresholds import (
    FEWEST_LOGGED,
    FEWEST_STEPS,
    REACH,
    REACH_OF_ADAM,
    STEPS_OF_REACH,
)

# Signs with one number for every parameter tensor.
BY_TENSOR = ("gradient", "nonzero", "weights", "movement", "nonzero_at_start", "weights_at_start")

# Width of the networks on which the limits of `Signs.reach` were chosen; narrower ones count the
# same.
USUAL_WIDTH = 64

# Norm of the weights of a layer over the root of its outputs, half of that at PyTorch's own start:
# 1/√3.
SMALL = 0.29

# Layers beyond which the function of a network with normalisation does not change faster: deeper
# ones are residual.
DEEPEST = 8

# Beginnings of the names of layers that normalise.
NORMALISATIONS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "SyncBatchNorm")

Array = Float[np.ndarray, " _"]


@dataclass(frozen=True)
class Signs:
    """The numbers that triage rests on. What was not recorded is empty.

    Args:
        losses: The training loss of every step.
        looks: Steps at which the signs below were recorded.
        single: Numbers of every look, by name; NaN where one was not recorded.
        tensors: Numbers of every look and tensor, by name.
        distances: A row for every two points of the path that were compared: the step, the earlier
            step, and the squared distance between the parameters at both, over some entries.
        edges: A row for every reading of the batch sharpness: the step, and the share of the edge
            of small batches.
        facts: What does not change: names, sizes, axes and rows of the tensors, layers, dropout,
            planned length.
        rates: The largest learning rate of every step.
        momentum: Momentum of SGD, or β₁; the largest of the groups.
        weight_decay: The largest of the groups.
        optimizer: Class name.
        family: "sgd", "adaptive" or "other".
        batch_size: Examples of one update.
        accumulation: Backwards of one update; a look has the rows of one of them.
        examples: N, the size of the training set; None if unknown.
        evaluated: Steps of the evaluations.
        test: Loss on held-out examples at each; NaN where unknown.
        train: Loss on training examples at each, in eval mode; NaN where unknown.
        has_ended: True if the training is over.
        not_finite: Where the first number was that is not finite: "inputs", "parameters", "layers",
            or empty.
        logged: The step of every loss, where not every step has one, as in a log; empty if each
            has.
    """

    losses: Array
    looks: Int[np.ndarray, " looks"] = field(default_factory=lambda: np.array([], dtype=np.int64))
    single: Mapping[str, Array] = field(default_factory=dict)
    tensors: Mapping[str, Float[np.ndarray, "_ _"]] = field(default_factory=dict)
    distances: Float[np.ndarray, "pairs 3"] = field(default_factory=lambda: np.empty((0, 3)))
    edges: Float[np.ndarray, "readings 2"] = field(default_factory=lambda: np.empty((0, 2)))
    facts: Mapping[str, Any] = field(default_factory=dict)
    rates: Array = field(default_factory=lambda: np.array([]))
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: str = ""
    family: str = "other"
    batch_size: int = 0
    accumulation: int = 1
    examples: int | None = None
    evaluated: Int[np.ndarray, " evaluations"] = field(
        default_factory=lambda: np.array([], dtype=np.int64)
    )
    test: Array = field(default_factory=lambda: np.array([]))
    train: Array = field(default_factory=lambda: np.array([]))
    has_ended: bool = True
    not_finite: str = ""
    logged: Int[np.ndarray, " _"] = field(default_factory=lambda: np.array([], dtype=np.int64))

    @classmethod
    def of(cls, run: Run) -> "Signs":
        """The signs in a run."""
        steps, losses = run.losses
        # a record far behind all others would take the memory of all steps between
        near = steps < 10 * len(steps) + 1_000_000
        steps, losses = steps[near], losses[near]
        # a step whose loss was not recorded has that of its neighbours, so that only a trained loss
        # can be NaN
        every = np.arange(int(steps[-1]) + 1 if len(steps) else 0)
        whole = np.interp(every, steps, losses) if len(steps) else np.array([])
        looks, single, tensors = _stack(run.signs)
        settings = run.hyperparameters
        rates = np.array([])
        momentum = decay = 0.0
        optimizer, family = "", "other"
        if settings is not None:
            rates = along(settings.steps, settings.rates, len(whole))
            momentum = max((group.momentum for group in settings.now), default=0.0)
            decay = max((group.weight_decay for group in settings.now), default=0.0)
            optimizer, family = settings.names[0], settings.family
        updates = [signs for _, signs in run.signs if "rates" in signs]
        if updates:
            # of the update itself: also what is set between `backward` and the update
            seen_at = np.concatenate([signs["rate_steps"] for signs in updates])
            seen = np.concatenate([signs["rates"] for signs in updates])
            if settings is not None:  # looks are rare, and a run may not have its last one yet
                since = np.array(settings.steps) > seen_at.max(initial=-1)
                seen_at = np.append(seen_at, np.array(settings.steps)[since])
                seen = np.append(seen, np.array(settings.rates)[since])
            rates = along(seen_at, seen, len(whole))
            single["rate_changes"] = np.array([updates[-1]["rate_changes"]])
        told = [event for event in run.events if event["event"] == "triage"]
        facts: dict[str, Any] = told[-1] if told else {}
        places_of_nan = [str(event["not_finite"]) for event in run.events if "not_finite" in event]
        evaluated, test, train = _evaluations(run)
        batch_size = run.configuration.batch_size
        if "time_first" in single and np.isfinite(single["time_first"]).any():
            batch_size = int(np.nanmedian(single["time_first"]))
        return cls(
            losses=whole,
            looks=looks,
            single=single,
            tensors=tensors,
            distances=_distances(run.signs),
            edges=_edges(run),
            facts=facts,
            rates=rates,
            momentum=momentum,
            weight_decay=decay,
            optimizer=optimizer,
            family=family,
            batch_size=batch_size,
            accumulation=run.configuration.accumulation,
            examples=run.sampling.examples,
            evaluated=evaluated,
            test=test,
            train=train,
            has_ended=run.is_over,
            not_finite=next(iter(places_of_nan), ""),
        )

    @property
    def steps(self) -> int:
        """Number of steps with a loss."""
        return len(self.losses)

    @property
    def is_short(self) -> bool:
        """True if there are too few steps to say anything about rates, noise or the length."""
        return self.steps < (FEWEST_LOGGED if len(self.logged) else FEWEST_STEPS)

    def step_of(self, place: int) -> int:
        """The step of this loss."""
        return int(self.logged[min(place, len(self.logged) - 1)]) if len(self.logged) else place

    @property
    def length(self) -> int:
        """Length of the training, in steps."""
        return int(self.logged[-1]) + 1 if len(self.logged) else self.steps

    def series(self, name: str) -> Array:
        """A sign along the looks, without those at which it was not recorded."""
        values = self.single.get(name, np.array([]))
        return np.asarray(values[~np.isnan(values)])

    @cached_property
    def given(self) -> Array:
        """The training loss at every look; NaN where it is not written yet."""
        padded = np.append(self.losses, np.nan)
        return np.asarray(padded[np.minimum(self.looks, len(self.losses))])

    @cached_property
    def finite(self) -> Array:
        """The losses that are finite, in order."""
        return np.asarray(self.losses[np.isfinite(self.losses)])

    @cached_property
    def has_no_floor(self) -> bool:
        """True if the loss was below zero, as of a critic, a policy or a density, or is that of a
        game: zero is then not the best, and a share of such a loss means nothing."""
        return self.is_of_a_game or bool((self.finite < 0).any())

    @property
    def is_judge(self) -> bool:
        """True if the network judges another one, as a discriminator does: its losses have one
        target for the true and another one for the false examples, or the gradient of another loss
        goes through it that no update uses."""
        opposite = self.series("opposite")
        passed = len(self.series("judge"))
        return bool(len(opposite) and opposite.mean() > 0.5) or 2 * passed > len(self.looks)

    @property
    def is_judged(self) -> bool:
        """True if the loss goes through another network, as that of a generator does."""
        return len(self.series("judged")) > 0

    @cached_property
    def is_of_a_game(self) -> bool:
        """True if the loss depends on another network, so that it need not fall while both learn."""
        return self.is_judge or self.is_judged

    @cached_property
    def weights(self) -> Int[np.ndarray, " weights"]:
        """Places of the weight tensors: two axes or more. A network without any has all of its
        tensors here."""
        axes = np.array(self.facts.get("axes", []), dtype=int)
        found = np.flatnonzero(axes >= 2)
        return found if len(found) else np.arange(len(axes))

    @cached_property
    def movement(self) -> Array:
        """At every look, the median over weight tensors of ‖Δw‖/‖w‖."""
        if "movement" not in self.tensors:
            return np.array([])
        moved = self.tensors["movement"][:, self.weights]
        size = self.tensors["weights"][:, self.weights]
        with np.errstate(divide="ignore", invalid="ignore"):
            return _median(np.where(size > 0, moved / size, np.nan))

    @cached_property
    def movements(self) -> Array:
        """`movement` at every step; NaN if unknown."""
        return self._at_every_step(self.movement)

    @property
    def steps_an_update(self) -> int:
        """Steps of the watch to an update of the optimizer: more than one if `step` was called at
        each micro-batch and their number was not given."""
        made = self.single.get("updates")
        if made is None or len(made) < 2 or not made[-1] > made[0]:
            return 1
        return max(round(float((self.looks[-1] - self.looks[0]) / (made[-1] - made[0]))), 1)

    @property
    def travel(self) -> float:
        """The sum of `movements` over all steps; NaN if unknown."""
        return float(self.movements.sum())

    @cached_property
    def strides(self) -> Array:
        """By how much every step changed the network: what it moved in the median layer, times the
        number of layers, since a change of the function is a sum over them. NaN if unknown."""
        layers = self._moved.shape[1]
        deep = min(layers, DEEPEST) if self.is_normalised else layers
        return self._at_every_step(_median(self._moved) * deep)

    @property
    def leap(self) -> float:
        """The largest change of the network in one step, as the root of the sum over layers of the
        square of what each moved; 0 if unknown."""
        steps = np.sqrt(np.nansum(self._moved**2, axis=1))
        return float(steps[np.isfinite(steps)].max(initial=0.0)) / self.steps_an_update

    @cached_property
    def _moved(self) -> Float[np.ndarray, "looks layers"]:
        """At every look, ‖Δw‖/‖w‖ of every layer but embeddings, in units that hold for every width
        and momentum; empty if unknown.

        What counts in a layer of width n is the largest singular value of the change, which for the
        same norm is √n times larger against that of the weights. Noise makes the path of the
        weights longer than the way: by √((1 + μ)/(1 − μ)) less with momentum μ than without.

        Source: Yang, Simon and Bernstein (2023), A Spectral Condition for Feature Learning.
        """
        layers = self.facts.get("layers", [])
        places = [place for place in self.weights if not str(layers[place]).startswith("Embedding")]
        if "movement" not in self.tensors or not places:
            return np.empty((0, 0))
        widths = np.sqrt(np.array(self.facts["sizes"], dtype=float)[places])
        # weights that begin far smaller than usual, as in GPT-2, first have to grow to what matters
        sizes = np.maximum(self.tensors["weights"], self._small)[:, places]
        moved = self.tensors["movement"][:, places] / sizes
        # OneCycleLR ends at 0.95, and has 0.85 where most of the way is made
        momentum = min(self.momentum, 0.9)
        persistence = np.sqrt((1 + momentum) / (1 - momentum))
        return np.asarray(moved * np.sqrt(np.maximum(widths / USUAL_WIDTH, 1)) * persistence)

    @property
    def _small(self) -> Float[np.ndarray, " tensors"]:
        """Half of the norm of every tensor at PyTorch's own start; 0 if unknown."""
        outputs = self.facts.get("rows", np.zeros(len(self.facts["sizes"])))
        return np.asarray(SMALL * np.sqrt(np.array(outputs, dtype=float)))

    @property
    def edge(self) -> float:
        """The share of the edge of small batches that steps come to after the first one; NaN with
        few readings. See `reached`."""
        return reached(self._shares_of_the_edge)

    @property
    def highest_edge(self) -> float:
        """The same of the largest reading, such as that of a leap."""
        known = self._shares_of_the_edge
        return float(known.max()) if len(known) >= FEWEST_READINGS else float("nan")

    @property
    def _shares_of_the_edge(self) -> Array:
        """The readings after the first step that are finite."""
        shares = self.edges[self.edges[:, 0] > 0, 1]
        return np.asarray(shares[np.isfinite(shares)])

    @property
    def is_normalised(self) -> bool:
        """True if the network has normalisation layers, which take out the size of the weights
        before them."""
        return any(str(layer).startswith(NORMALISATIONS) for layer in self.facts.get("layers", []))

    @property
    def high_until(self) -> int | None:
        """The last step so far whose rate was at least half of the highest; None if none is
        known."""
        high = np.flatnonzero(self.rates >= np.nanmax(self.rates, initial=0.0) / 2)
        return int(high[-1]) if len(high) else None

    @cached_property
    def reach(self) -> float:
        """How far the layer that went furthest has gone along its path, in sizes of its own
        weights; NaN if unknown. A good rate renews at least one layer; which one depends on the
        network."""
        ways = np.array([self._at_every_step(layer).sum() for layer in self._moved.T])
        known = ways[np.isfinite(ways)]
        return float(known.max()) if len(known) else float("nan")

    def usual_reach(self, steps: int | None = None) -> float:
        """The least reach of trainings at a good rate, under this optimizer and of so many steps,
        or of its own: the way grows as their root up to a length, since good rates are lower in
        longer trainings."""
        limit = REACH if self.family == "sgd" else REACH_OF_ADAM
        return limit * math.sqrt(min((steps or self.steps) / STEPS_OF_REACH, 1.0))

    def _at_every_step(self, values: Array) -> Array:
        """Values of looks at every step: between two looks on a straight line, since looks are not
        equally far apart. Each step to one update has its share."""
        known = np.isfinite(values)
        if not known.any():
            return np.full(self.steps, np.nan)
        everywhere = np.interp(np.arange(self.steps), self.looks[known], values[known])
        return np.asarray(everywhere / self.steps_an_update)

    @cached_property
    def growth(self) -> float:
        """The median over weight tensors of their norm now over that at the start, or over a usual
        one where they began far smaller and have grown; NaN if unknown."""
        if "weights" not in self.tensors or not len(self.looks):
            return float("nan")
        size = self.tensors["weights"][:, self.weights]
        start = self.tensors.get("weights_at_start", self.tensors["weights"])[0, self.weights]
        usual = np.maximum(start, self._small[self.weights])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.maximum(size[-1] / usual, np.minimum(size[-1] / start, 1))
        finite = ratios[np.isfinite(ratios)]
        return float(np.median(finite)) if len(finite) else float("nan")

    @property
    def cosine(self) -> float:
        """Σ⟨ĝ_t, ĝ_{t−1}⟩ / Σ‖ĝ_t‖² over the looks: 1 without noise, 0 if it is all noise; NaN if
        unknown."""
        return self.cosine_since(0)

    def cosine_since(self, step: int) -> float:
        """`cosine` from this step on."""
        if "product" not in self.single or "gradient" not in self.tensors:
            return float("nan")
        products = self.single["product"]
        squares = (self.tensors["gradient"] ** 2).sum(axis=1)
        known = np.isfinite(products) & np.isfinite(squares) & (self.looks >= step)
        total = squares[known].sum()
        return float(products[known].sum() / total) if total > 0 else float("nan")

    @property
    def epochs(self) -> float:
        """Passes over the training set: from its size, or else from rows that came back; NaN if
        neither is known."""
        if self.examples and self.batch_size:
            return self.steps * self.batch_size / self.examples
        return self.epochs_by_rows

    @cached_property
    def is_one_batch(self) -> bool:
        """True if every look had the batch of the first one, which is then the training set."""
        return are_one_batch(self.single.get("same_rows", np.empty(0)))

    @cached_property
    def epochs_by_rows(self) -> float:
        """Passes over the training set, from how often rows came back; NaN if that is unknown.

        Rows of a share f of the steps are compared. In E epochs, a row that is seen was seen before
        with a chance of f (E − 1) / 2 on average. If every look has the same batch, it is the
        training set.
        """
        if self.is_one_batch:
            return float(self.steps)
        repeated, rows = self.single.get("repeated_rows"), self.single.get("rows")
        if repeated is None or rows is None or not np.isfinite(repeated).any():
            return float("nan")
        known = np.isfinite(repeated)
        until = self.looks[known][-1] + 1
        share = rows[known].sum() / (until * np.median(rows) * self.accumulation)
        until_then = 1 + 2 * repeated[known].sum() / rows[known].sum() / share
        return float(until_then * self.steps / until)

    @property
    def updates_an_epoch(self) -> float:
        """Updates in one pass over the training set; NaN if that is unknown."""
        return self.steps / self.epochs if self.epochs > 0 else float("nan")

    def end(self, share: float = 0.1) -> float:
        """The mean loss of the last steps, this share of all and at least ten."""
        last = self.finite[-max(10, round(share * self.steps)) :]
        return float(last.mean()) if len(last) else float("nan")


def are_one_batch(same: Array) -> bool:
    """True if every look had the batch of the first one; NaN is not known.

    The fourth look that sees labels is at step 74: earlier ones may have one batch.
    """
    known = same[np.isfinite(same)]
    return len(known) >= 4 and bool(known.all())


def along(steps: Any, values: Any, count: int) -> Array:
    """Values that hold from their steps on, at every step."""
    places = np.searchsorted(np.asarray(steps), np.arange(count), side="right") - 1
    return np.asarray(np.asarray(values, dtype=float)[np.maximum(places, 0)])


def _stack(
    lines: list[tuple[int, dict[str, Any]]],
) -> tuple[np.ndarray, dict[str, Array], dict[str, np.ndarray]]:
    """The looks, the single numbers and those by tensor. Looks with another number of tensors are
    left out."""
    lines = [line for line in lines if "gradient" in line[1]]
    usual = next(
        (len(signs["gradient"]) for _, signs in lines if isinstance(signs.get("gradient"), list)), 0
    )
    lines = [(step, signs) for step, signs in lines if len(signs.get("gradient", ())) == usual]
    looks = np.array([step for step, _ in lines], dtype=np.int64)
    single: dict[str, Array] = {}
    tensors: dict[str, np.ndarray] = {}
    names = dict.fromkeys(name for _, signs in lines for name in signs)
    for name in ("path_steps", "path"):
        names.pop(name, None)  # see `_distances`
    for name in names:
        if name in BY_TENSOR:
            tensors[name] = np.array(
                [signs.get(name, [np.nan] * usual) for _, signs in lines], dtype=float
            )
        elif name in ("shared_rows", "evaluated_rows"):
            newest = [signs[name] for _, signs in lines if name in signs][-1]
            tensors[name] = np.array([newest], dtype=float)
        else:
            single[name] = np.array([signs.get(name, np.nan) for _, signs in lines], dtype=float)
    return looks, single, tensors


def _distances(lines: list[tuple[int, dict[str, Any]]]) -> np.ndarray:
    """The distances between points of the path."""
    pairs = [
        (step, earlier, square)
        for step, signs in lines
        for earlier, square in zip(signs.get("path_steps", ()), signs.get("path", ()), strict=True)
    ]
    return np.array(pairs, dtype=float).reshape(-1, 3)


def _edges(run: Run) -> np.ndarray:
    """The readings of the batch sharpness, of SGD or of Adam's kind, as shares of the edge."""
    for gauge in (BatchSharpness(), PreconditionedSharpness()):
        series = run.series(gauge.name)
        # a damaged record may have lost a number of every reading
        if series is not None and {"curvature", "norm_squared"} <= series.moments.keys():
            return np.stack([series.steps, gauge.shares(series)], axis=1)
    return np.empty((0, 2))


def _evaluations(run: Run) -> tuple[np.ndarray, Array, Array]:
    steps: list[int] = []
    test: list[float] = []
    train: list[float] = []
    for event in run.evaluations:
        estimates = event["estimates"]
        steps.append(event["step"])
        for values, name in ((test, "test_loss"), (train, "train_loss")):
            values.append(float(estimates[name]["value"]) if name in estimates else np.nan)
    return np.array(steps, dtype=np.int64), np.array(test), np.array(train)


def _median(values: Float[np.ndarray, "looks weights"]) -> Array:
    """The median of every row over its numbers; NaN for a row without any."""
    numbers = [row[np.isfinite(row)] for row in values]
    return np.array([np.median(row) if len(row) else np.nan for row in numbers])
