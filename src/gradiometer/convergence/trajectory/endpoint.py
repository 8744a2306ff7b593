"""The point that training has reached: a saddle, dead units, a symmetry that persists; and the
findings about it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.trajectory.path_facts import Kind, Trail
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.uncertainty.arithmetic import transform

if TYPE_CHECKING:  # runs are read on machines without torch
    from torch import Tensor

    from gradiometer.measurement.batch import Batch
    from gradiometer.measurement.objective import Objective

NAME = "endpoint"

BLIND = 0.01
"""Share of small batches' gradients along the negative curvature below which noise does not reach
it. If a symmetry keeps the run there, it is zero up to rounding and the eigenvector's error; in
networks in training it was 0.02 to 0.06.
"""

PARAMETERS = "parameters"
"""The name of all numbers of a tiny model, as rows (see `dead_units`)."""

MANY = 0.5
"""Share of dead units in a layer from which a finding is made. Twins in a layer are told whatever
their share: random initial weights have none. In a tiny model, in which each number is a row, two
may be equal for another reason.
"""


@dataclass(frozen=True)
class Endpoint:
    """Measurements of a model at one point of training.

    Args:
        examples: Number of examples measured on.
        travelled: Σ η over the last three quarters of the run, two doublings of time.
        along: Share of the moves in that time along the eigenvector of λ_min, between 0 and 1.
        seen: Share of the gradients of small batches along it, root mean square.
        smallest, sharpness: λ_min and λ_max of the Hessian of these examples, with their residual
            bounds; None if not measured.
        dead: For every ReLU, the number of dead units and of all units.
        twins: For every weight with twins, the number of rows equal to another up to sign, and of
            all rows.
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
        check_whole("examples", self.examples, 1)
        check_number("travelled", self.travelled)

    @property
    def saddle(self) -> bool:
        """True if the run stays at a clearly negative curvature for so long that any deviation
        would have left it."""
        if self.smallest is None or self.sharpness is None:
            return False
        # A run whose late moves have a fifth along the negative curvature is leaving the saddle.
        if not (self.along < 0.2 and self.seen < BLIND):
            return False
        # Networks in training have negative curvatures of less than a tenth of the largest.
        marked = -self.smallest.high > 0.1 * max(
            abs(self.sharpness.value), abs(self.smallest.value)
        )
        # A deviation grows by exp(−λ Σ η): 20-fold over this time.
        return bool(marked and -self.smallest.high * self.travelled >= 3.0)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as an event of a run stores them."""
        return asdict(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Endpoint":
        """From an event of a run."""
        return msgspec.convert(dict(fields), cls)

    def findings(self, kind: Kind) -> Iterator[Finding]:
        """The findings, given the kind of the path; none if nothing is unusual."""
        if kind is not Kind.UNDER_WAY and self.saddle and self.smallest and self.sharpness:
            facts = {
                "sharpness": self.sharpness,
                "growth": -self.smallest.high * self.travelled,
                "examples": self.examples,
            }
            numbers = {"smallest_curvature": self.smallest}
            yield Finding(NAME, Issue.CONVERGENCE, "saddle", State.ACT, numbers, facts)
        worst = _most(self.dead)
        if worst:
            name, dead, units = worst
            facts = {"layer": name, "dead": dead, "units": units, "examples": self.examples}
            state = State.ACT if dead == units else State.LOOK
            yield Finding(NAME, Issue.CONVERGENCE, "dead_relu", state, facts=facts)
        worst = _most(self.twins, least=0.0 if PARAMETERS not in self.twins else MANY)
        if worst:
            name, twins, rows = worst
            facts = {"weight": name, "twins": twins, "rows": rows}
            state = State.ACT if twins >= MANY * rows else State.LOOK
            yield Finding(NAME, Issue.CONVERGENCE, "twin_units", state, facts=facts)


def endpoint_of(
    objective: "Objective",
    batch: "Batch",
    path: Trail,
    *,
    curvature: bool = True,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> Endpoint:
    """Measure a model at its current parameters. Training is not changed.

    Costs a gradient of the examples and, with `curvature`, one more and at most 60 Hessian
    products.

    Args:
        objective: The model and its loss.
        batch: Examples, a few hundred.
        path: The run's trajectory so far.
        curvature: Find the ends of the Hessian's spectrum.
        weight_decay: Added to every curvature, because training minimises the loss with its
            penalty.
        seed: Seed of everything random.
    """
    from gradiometer.convergence.trajectory.dead_units import dead_units_of, twin_units_of  # noqa: PLC0415
    from gradiometer.convergence.trajectory.trajectory import sketch  # noqa: PLC0415
    from gradiometer.drift.curvature import Curvature  # noqa: PLC0415
    from gradiometer.measurement.batch import batch_size  # noqa: PLC0415

    late, along, seen = path.last(2), 0.0, 0.0
    travelled = float(late.time[-1] - late.time[0]) if len(late.time) else 0.0
    smallest = sharpness = None
    if curvature:
        hessian = Curvature.of(objective, batch, seed=seed)
        # 60: most Hessian products for the eigenvalues.
        values = hessian.eigenvalues(
            largest=1, smallest=min(1, hessian.dimension - 1), tolerance=0.03, most_products=60
        )
        sharpness, smallest = (
            transform(end, lambda h: h + weight_decay, unit=end.unit)
            for end in (values.sharpness, (values.smallest or values.largest)[0])
        )
        along = _share_along(late, sketch([values.vectors[-1]]).numpy())
        seen = _share_seen(objective, batch, values.vectors[-1], seed)
    dead, twins = dead_units_of(objective, batch, seed), twin_units_of(objective.model)
    return Endpoint(batch_size(batch), travelled, along, seen, smallest, sharpness, dead, twins)


def _share_along(path: Trail, direction: Float[np.ndarray, " sketch"]) -> float:
    """Root of the share of the squared moves along a direction; 0 if the path does not move."""
    moved = float((path.moves**2).sum())
    if not moved > 0:
        return 0.0
    along = float(((path.moves @ direction) ** 2).sum()) / float(direction @ direction)
    return min(math.sqrt(along / moved), 1.0)


def _share_seen(objective: "Objective", batch: "Batch", direction: "Tensor", seed: int) -> float:
    """Root of the share of small batches' squared gradients along a unit vector; 0 if there is no
    gradient."""
    from gradiometer.measurement.batch import batch_size, span  # noqa: PLC0415
    from gradiometer.measurement.gradient_graph import flat  # noqa: PLC0415

    size = batch_size(batch)
    # 8: number of small batches that the examples are divided into for `BLIND`.
    length = max(size // 8, 1)
    along = whole = 0.0
    for start in range(0, size, length):
        gradient = flat(
            objective.gradient(span(batch, start, min(start + length, size)), seed=seed)
        ).double()
        along += float(gradient @ direction.double()) ** 2
        whole += float(gradient @ gradient)
    return min(math.sqrt(along / whole), 1.0) if whole > 0 else 0.0


def _most(
    counts: Mapping[str, tuple[int, int]], least: float = MANY
) -> tuple[str, int, int] | None:
    """The layer with the largest share, if that is at least `least`."""
    shares = {name: some / all_ for name, (some, all_) in counts.items() if all_}
    name = max(shares, key=lambda name: shares[name], default=None)
    return (name, *counts[name]) if name is not None and shares[name] >= least else None
