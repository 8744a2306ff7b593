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
from gradiometer.convergence.trajectory.path_facts import NO_END, OUTWARDS, Kind, Trail
from gradiometer.measurement import Estimate, Estimates, Finding, Issue, State
from gradiometer.measurement.uncertainty import mean, transform

if TYPE_CHECKING:  # runs are read on machines without torch
    from gradiometer.measurement import Batch, Objective

NAME = "endpoint"

# Share of dead units in a layer from which a finding is made. Twins in a layer are told whatever
# their share: random initial weights have none. In a tiny model, in which each number is a row, two
# may be equal for another reason.
MANY = 0.5


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
        # Noise does not reach it where small batches' gradients have less than 0.01 along it: if a
        # symmetry keeps the run there, it is zero up to rounding and the eigenvector's error; in
        # networks in training it was 0.02 to 0.06.
        if not (self.along < 0.2 and self.seen < 0.01):
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
            yield Finding(
                NAME,
                Issue.CONVERGENCE,
                "saddle",
                State.ACT,
                {"smallest_curvature": self.smallest},
                facts,
            )
        worst = _most(self.dead)
        if worst:
            name, dead, units = worst
            facts = {"layer": name, "dead": dead, "units": units, "examples": self.examples}
            state = State.ACT if dead == units else State.LOOK
            yield Finding(NAME, Issue.CONVERGENCE, "dead_relu", state, facts=facts)
        # All numbers of a tiny model have this one name, see `dead_units`.
        worst = _most(self.twins, least=MANY if "parameters" in self.twins else 0.0)
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
    from gradiometer.measurement.batch import batch_size, span  # noqa: PLC0415
    from gradiometer.measurement.gradient_graph import flat  # noqa: PLC0415

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
        direction = values.vectors[-1].double()
        projection = sketch([direction]).numpy()
        moved = float((late.moves**2).sum()) * float(projection @ projection)
        if moved > 0:
            along = min(math.sqrt(float(((late.moves @ projection) ** 2).sum()) / moved), 1.0)
        # The share of the squared gradients of eight small batches along it.
        size = batch_size(batch)
        length = max(size // 8, 1)
        part_along = whole = 0.0
        for start in range(0, size, length):
            part = span(batch, start, min(start + length, size))
            gradient = flat(objective.gradient(part, seed=seed)).double()
            part_along += float(gradient @ direction) ** 2
            whole += float(gradient @ gradient)
        if whole > 0:
            seen = min(math.sqrt(part_along / whole), 1.0)
    dead, twins = dead_units_of(objective, batch, seed), twin_units_of(objective.model)
    return Endpoint(batch_size(batch), travelled, along, seen, smallest, sharpness, dead, twins)


def _most(
    counts: Mapping[str, tuple[int, int]], least: float = MANY
) -> tuple[str, int, int] | None:
    """The layer with the largest share, if that is at least `least`."""
    shares = {name: some / all_ for name, (some, all_) in counts.items() if all_}
    name = max(shares, key=lambda name: shares[name], default=None)
    return (name, *counts[name]) if name is not None and shares[name] >= least else None


def chaos_finding(
    share: Estimate | None,
    facts: Estimates,
    losses: Float[np.ndarray, " steps"],
    learning_rate: float,
) -> Finding | None:
    """The finding about chaos past the edge of stability; None if one of its three signs is
    missing.

    The signs: the sharpness is above its limit by more than half, the loss of the last quarter of
    the run is above the best that was reached or no lower than at the start, and a step says little
    about the next one. Each of them alone
    is common in ordinary training: early sharpness, a noisy loss, and noise. If the late loss is
    twice the first one,
    the sharpness is not needed: steps that are too long also reach flat places, where it is small.

    Args:
        share: Measured sharpness over its limit, for example ηλ_max/2; None if it was not measured.
        facts: The numbers about the path, from `facts_of`.
        losses: The loss of every step so far.
        learning_rate: η.

    >>> import numpy as np
    >>> from gradiometer import Estimate
    >>> from gradiometer.convergence.trajectory.endpoint import chaos_finding
    >>> facts = {"step_correlation": Estimate.interval(-0.1, -0.2, 0.0, level=0.9, method="mean", samples=20)}
    >>> losses = np.r_[np.linspace(4, 1, 50), np.random.default_rng(0).uniform(1, 7, 450)]
    >>> chaos_finding(Estimate.exact(3.5), facts, losses, 7.0).state.value
    'act'
    >>> chaos_finding(Estimate.exact(1.1), facts, losses, 7.0) is None
    True
    """
    correlation = facts.get("step_correlation")
    # A smooth path has a correlation near 1 between a step and the next, noise has 0.
    if correlation is None or not correlation.high < 0.5:
        return None
    if len(losses) < 64 or not np.isfinite(losses).all():
        return None
    late = mean(losses[-(len(losses) // 4) :], level=0.98)
    first = max(float(losses[0]), 0.0)
    # Steps after which the loss is twice the first one are too long, whatever the sharpness at one
    # point.
    far = late.low > 2 * first > 0
    # Training at the edge of stability stays within 1.2 of it.
    past = share is not None and share.low > 1.5
    # The mean of 8 losses, as the lowest single one may be a lucky batch.
    best = float(np.convolve(losses, np.ones(8) / 8, mode="valid").min())
    # Either training does not keep what it reaches, or it has gained nothing.
    lost = late.low > 1.15 * max(best, 0.0) or late.low > 0.9 * first > 0
    if not (far or (past and lost)):
        return None
    edge = {
        "sharpness_share": share if past else None,
        "learning_rate": learning_rate,
        "times_best": late.value / best if best > 0 else None,
    }
    return Finding(
        NAME, Issue.CONVERGENCE, "chaos", State.ACT, {"step_correlation": correlation}, edge
    )


def infinity_finding(
    facts: Estimates, losses: Float[np.ndarray, " steps"], weight_decay: float
) -> Finding | None:
    """The finding that the parameters run to infinity; None if one of its three signs is missing.

    The signs: ‖Φ‖ has grown in each of the last four doublings of time, not by clearly less each
    time, in the direction in which it points; the loss was already below 2 % of its first value
    before a quarter of the run; and it has at least halved since. Weight decay ends this, so with
    it there is no finding.

    Args:
        facts: The numbers about the path, from `facts_of`.
        losses: The loss of every step so far.
        weight_decay: The largest weight decay of the parameters.

    >>> import numpy as np
    >>> from gradiometer import Estimate
    >>> from gradiometer.convergence.trajectory.endpoint import infinity_finding
    >>> facts = {"norm_growth": Estimate.exact(0.1), "alignment": Estimate.exact(0.8)}
    >>> losses = 2.3 / (1 + np.arange(4000))
    >>> infinity_finding(facts, losses, 0.0).state.value
    'look'
    >>> infinity_finding(facts, losses, 0.01) is None
    True
    """
    growth, alignment = facts.get("norm_growth"), facts.get("alignment")
    if growth is None or alignment is None or weight_decay > 0:
        return None
    if not (growth.high > NO_END and alignment.value >= OUTWARDS):
        return None
    steps = len(losses)
    if steps < 64 or not np.isfinite(losses).all():
        return None
    first = losses[:8].mean()
    early = losses[steps // 8 : steps // 4].mean()
    late = losses[-(steps // 4) :].mean()
    # Early on every example is fitted, more or less, and since then the loss has halved: it goes
    # on.
    if not (0 < early < 0.02 * first and late < early / 2):
        return None
    shares = {
        "early_share": float(early / first),
        "late_share": float(late / first),
        "early_until": steps // 4,
    }
    return Finding(
        NAME, Issue.CONVERGENCE, "path_to_infinity", State.LOOK, {"norm_growth": growth}, shares
    )
