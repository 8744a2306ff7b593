"""Where training stands: a saddle, dead units, a symmetry that holds; and the words for it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gradiometer.convergence.trajectory.path_facts import Kind, Path
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State

if TYPE_CHECKING:  # it is read, a year later, on a machine without torch
    from torch import Tensor

    from gradiometer.measurement.batch import Batch
    from gradiometer.measurement.objective import Objective

NAME = "endpoint"

CURVED = 0.1
"""A negative curvature counts from this share of the largest one on: a network in training has smaller ones."""

HELD = 3.0
"""−λ Σ η over the last three quarters of the run, from which on a saddle holds: what left would have grown 20-fold."""

LED_OFF = 0.2
"""Share of the late moves along the negative curvature from which on it has led off, and the point is not held."""

BLIND = 0.01
"""Share of small batches' gradients along the negative curvature below which noise does not see it: it is not there, up
to rounding and the eigenvector's error, where a symmetry holds a run; in a network in training it was 0.02 to 0.06."""

SMALL_BATCHES = 8
"""That the examples are cut into, to see what noise sees."""

MANY = 0.5
"""Share of dead or twin units in a layer that is worth a word."""

PRODUCTS = 60
"""Hessian products spent on the eigenvalues, at most."""


@dataclass(frozen=True)
class Endpoint:
    """What was seen of a model at one point.

    Args:
        examples: How many it was looked at with.
        travelled: Σ η over the last three quarters of the run, two doublings of time.
        along: Share of the moves of that time that lies along the eigenvector of λ_min, between 0 and 1.
        seen: Share of the gradients of small batches that lies along it, root mean square.
        smallest, sharpness: λ_min and λ_max of the Hessian of these examples, with their residual bounds; None where
            they were not asked for.
        dead: Of every ReLU, dead units and all units.
        twins: Of every weight that has some, rows equal to another up to sign, and all rows.
    """

    examples: int
    travelled: float
    along: float = 0.0
    seen: float = 0.0
    smallest: Estimate | None = None
    sharpness: Estimate | None = None
    dead: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    twins: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.examples >= 1:
            raise BadArgument(f"`examples` must be at least 1, got {self.examples}.")
        if not self.travelled >= 0:
            raise BadArgument(f"`travelled` must be a sum of learning rates, at least 0, got {self.travelled}.")

    @property
    def saddle(self) -> bool:
        """Whether a marked negative curvature has been stood upon for long enough to be left, and nothing leads off."""
        if self.smallest is None or self.sharpness is None:
            return False
        if not (self.along < LED_OFF and self.seen < BLIND):
            return False
        marked = -self.smallest.high > CURVED * max(abs(self.sharpness.value), abs(self.smallest.value))
        return bool(marked and -self.smallest.high * self.travelled >= HELD)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as an event of a run has them."""
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Endpoint":
        """From an event of a run."""
        smallest, sharpness = (
            None if fields.get(name) is None else Estimate(**fields[name]) for name in ("smallest", "sharpness")
        )
        dead, twins = (
            {name: (int(some), int(all_)) for name, (some, all_) in fields.get(key, {}).items()}
            for key in ("dead", "twins")
        )
        return cls(
            int(fields["examples"]),
            float(fields["travelled"]),
            float(fields.get("along", 0.0)),
            float(fields.get("seen", 0.0)),
            smallest,
            sharpness,
            dead,
            twins,
        )

    def findings(self, kind: Kind) -> Iterator[Finding]:
        """What is to be said of it, given the name of the path; nothing where all is ordinary."""
        if kind is not Kind.UNDER_WAY and self.saddle:
            yield _saddle(self)
        if worst := _most(self.dead):
            yield _dead(*worst, self.examples)
        if worst := _most(self.twins):
            yield _twin(*worst)


def endpoint_of(
    objective: "Objective",
    batch: "Batch",
    path: Path,
    *,
    curvature: bool = True,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> Endpoint:
    """Look at a model where it stands. Nothing of training is changed.

    Costs a gradient of the examples and, with `curvature`, one more and at most 60 Hessian products of them.

    Args:
        objective: The model and its loss.
        batch: Examples, a few hundred.
        path: How it came there.
        curvature: Whether to find the ends of the Hessian's spectrum.
        weight_decay: Added to every curvature, since training moves on the loss with its penalty.
        seed: Of what is drawn.
    """
    from gradiometer.convergence.trajectory.dead_units import dead_units, twin_units  # noqa: PLC0415
    from gradiometer.convergence.trajectory.trajectory import sketch  # noqa: PLC0415
    from gradiometer.drift.curvature import Curvature  # noqa: PLC0415
    from gradiometer.measurement.batch import batch_size  # noqa: PLC0415

    late, along, seen = path.last(2), 0.0, 0.0
    travelled = float(late.time[-1] - late.time[0]) if len(late.time) else 0.0
    smallest = sharpness = None
    if curvature:
        hessian = Curvature.of(objective, batch, seed=seed)
        values = hessian.eigenvalues(
            largest=1, smallest=min(1, hessian.dimension - 1), tolerance=0.03, most_products=PRODUCTS
        )
        ends = values.sharpness, (values.smallest or values.largest)[0]
        sharpness, smallest = (_penalised(end, weight_decay) for end in ends)
        along = _share_along(late, sketch([values.vectors[-1]]).numpy())
        seen = _share_seen(objective, batch, values.vectors[-1], seed)
    dead, twins = dead_units(objective, batch, seed), twin_units(objective.model)
    return Endpoint(batch_size(batch), travelled, along, seen, smallest, sharpness, dead, twins)


def _penalised(curvature: Estimate, weight_decay: float) -> Estimate:
    """The curvature of the loss with its penalty."""
    low, high = curvature.low + weight_decay, curvature.high + weight_decay
    return replace(curvature, value=curvature.value + weight_decay, low=low, high=high)


def _share_along(path: Path, direction: Float[np.ndarray, " sketch"]) -> float:
    """Root of the share of the squared moves along a direction; 0 for a path that does not move."""
    moved = float((path.moves**2).sum())
    if not moved > 0:
        return 0.0
    along = float(((path.moves @ direction) ** 2).sum()) / float(direction @ direction)
    return min(math.sqrt(along / moved), 1.0)


def _share_seen(objective: "Objective", batch: "Batch", direction: "Tensor", seed: int) -> float:
    """Root of the share of the squared gradients of small batches along a unit vector; 0 where there is no gradient."""
    from gradiometer.measurement.batch import batch_size, span  # noqa: PLC0415
    from gradiometer.measurement.gradient_graph import flat  # noqa: PLC0415

    size = batch_size(batch)
    length = max(size // SMALL_BATCHES, 1)
    along = whole = 0.0
    for start in range(0, size, length):
        gradient = flat(objective.gradient(span(batch, start, min(start + length, size)), seed=seed)).double()
        along += float(gradient @ direction.double()) ** 2
        whole += float(gradient @ gradient)
    return min(math.sqrt(along / whole), 1.0) if whole > 0 else 0.0


def named(kind: Kind, endpoint: Endpoint | None) -> str:
    """The trajectory and where it stands, in a word or two: what stands out first, else the kind of the path."""
    if endpoint is not None:
        if any(some == all_ for some, all_ in endpoint.dead.values()):
            return "dead units"
        if _most(endpoint.twins):
            return "symmetric start"
        if kind is not Kind.UNDER_WAY and endpoint.saddle:
            return "saddle"
    return str(kind)


def _most(counts: Mapping[str, tuple[int, int]]) -> tuple[str, int, int] | None:
    """The layer with the largest share, if that is large."""
    shares = {name: some / all_ for name, (some, all_) in counts.items() if all_}
    name = max(shares, key=lambda name: shares[name], default=None)
    return (name, *counts[name]) if name is not None and shares[name] >= MANY else None


def _saddle(endpoint: Endpoint) -> Finding:
    growth = significant(-endpoint.smallest.high * endpoint.travelled, 2) if endpoint.smallest else "?"
    return Finding(
        NAME,
        Issue.CONVERGENCE,
        State.ACT,
        f"Training stands at a saddle: the smallest curvature is {endpoint.smallest}, the largest "
        f"{endpoint.sharpness}.",
        f"Whatever left along the first would have grown by e to the {growth} in the last three quarters of the run: "
        "no gradient and no noise leads off.",
        "Another start: add random numbers to the parameters, and look for a symmetry of the start.",
        f"The curvature is that of {endpoint.examples:,} examples.",
        ("smallest_curvature",),
    )


def _dead(name: str, dead: int, units: int, examples: int) -> Finding:
    return Finding(
        NAME,
        Issue.CONVERGENCE,
        State.ACT if dead == units else State.LOOK,
        f"{name}: {dead:,} of {units:,} units are dead, zero on each of {examples:,} examples.",
        "Their weights have no gradient and stay as they are; a step too long often did it.",
        "A smaller --lr at the start or a warm-up, from a new start.",
        "A unit may still answer to an example that was not looked at.",
    )


def _twin(name: str, twins: int, rows: int) -> Finding:
    return Finding(
        NAME,
        Issue.CONVERGENCE,
        State.ACT,
        f"{name}: {twins:,} of {rows:,} rows equal another up to sign: a symmetric start that training has kept.",
        "Their gradients are equal too, whatever the batch: they will never part, and count as fewer units.",
        "Random numbers at the start.",
    )
