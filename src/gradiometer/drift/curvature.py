"""The Hessian of a loss over many examples, as an operator: known by its products with vectors.
What is measured with it at one point: a survey, and a warning if the learning rate is above the
edge of stability."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.arguments import check_whole
from gradiometer.drift.curvature_survey import SpectralDensity, Survey
from gradiometer.drift.lanczos import (
    Eigenvalues,
    Symmetric,
    VectorProduct,
    eigenvalues,
    random_vectors,
)
from gradiometer.drift.probes import spectral_density, trace
from gradiometer.drift.stability import PLAIN, MomentumRule, largest_stable_rate, stability_limit
from gradiometer.errors import BadArgument
from gradiometer.measurement import Estimate, Objective, significant
from gradiometer.measurement.batch import Batch, TrainingSet, batch_size, span
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.gradient_graph import GradientGraph, flat

Mode = Literal["train", "eval"]

# Examples of a survey by default, or all if there are fewer.
EXAMPLES = 1024

# Examples in one graph: the cheapest number for a small CNN on a CPU; all 1,024 in one graph cost
# twice as much.
AT_ONCE = 128

# Residual, relative to λ_max, at which the check of the edge first looks at its upper bound. At the
# start of 14 networks that was at least 1.01 λ_max, with a third to a half of the products of 1 %;
# on 49 others at least 0.91 λ_max, and an error needs less than half of it.
ROUGHLY = 0.3

# Examples whose graphs are kept; for the others every call of `products` builds the graph again.
KEPT = 2048


class Curvature:
    """H, the Hessian of the mean loss over some examples at the model's present parameters, by its
    products.

    The graph of the gradient is built once and differentiated for every product, which costs about
    1.4 gradients; building the graph each time costs about 3. Beyond `kept` examples it is built
    once per call, for all its vectors.

    The model is run in its present mode and is not changed. Dropout uses the same random numbers
    for every product. BatchNorm in training mode uses the statistics of each part, so H depends on
    how the examples are divided. Do not change parameters while you use this object.

    Args:
        objective: The model and its loss.
        batches: The examples, in parts; each is one graph. Parts that are not kept are read again.
        kept: Examples whose graphs are kept.
        seed: Seed for all random numbers, here and in the loss.

    Attributes:
        loss, gradient: Of the mean over all examples.
        examples, dimension: Numbers of examples and of trainable parameters.
        products_made: Hessian products so far.

    Example:
        >>> from gradiometer import Objective
        >>> diagonal = torch.tensor([0.5, 1.0, 4.0])  # the eigenvalues of the loss ½ Σ λ_i w_i²
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> objective = Objective(model, lambda model, batch: (diagonal * model.weight**2).sum() / 2)
        >>> curvature = Curvature(objective, [torch.zeros(1, 3)])
        >>> print(curvature.eigenvalues(largest=1, tolerance=1e-5).sharpness)
        4.00 [4.00, 4.00] loss / parameter²
        >>> print(curvature.trace(probes=4).value)
        5.5
        >>> curvature.products(torch.eye(3)).diag()
        tensor([0.5000, 1.0000, 4.0000])
    """

    def __init__(
        self, objective: Objective, batches: Sequence[Batch], *, kept: int = KEPT, seed: int = 0
    ) -> None:
        if len(batches) < 1:
            raise BadArgument(
                "`batches` is empty: a Hessian needs the loss of at least one example."
            )
        check_whole("seed", seed, 0)
        self.objective = objective
        self.mode: Mode = "train" if objective.model.training else "eval"
        self.batches = batches
        self.seed = seed
        self.examples = 0
        self.products_made = 0
        self._graphs: list[GradientGraph] = []
        self.loss = 0.0
        self.like = flat(objective.parameters).detach()
        self.dimension = len(self.like)
        # A mean in half precision would lose the parts that come last.
        wide = torch.promote_types(self.like.dtype, torch.float32)
        self.gradient: Float[Tensor, " params"] = torch.zeros_like(self.like, dtype=wide)
        for place, batch in enumerate(batches):
            graph = self._graph(place, batch)
            self.examples += graph.examples
            # A running mean, as the number of all examples is known at the end only.
            share = graph.examples / self.examples
            self.gradient += (graph.gradient - self.gradient) * share
            self.loss += (graph.loss - self.loss) * share
            # A graph holds the activations of its examples in memory.
            if self.examples <= kept:
                self._graphs.append(graph)
        self.generator = torch.Generator().manual_seed(seed)

    @classmethod
    def of(
        cls,
        objective: Objective,
        batch: Batch,
        *,
        at_once: int = AT_ONCE,
        kept: int = KEPT,
        seed: int = 0,
    ) -> "Curvature":
        """The Hessian of one large batch, cut into parts of at most `at_once` examples."""
        check_whole("at_once", at_once, 1)
        size = batch_size(batch)
        parts = [
            span(batch, start, min(start + at_once, size)) for start in range(0, size, at_once)
        ]
        return cls(objective, parts, kept=kept, seed=seed)

    def products(self, vectors: Float[Tensor, "probes params"]) -> Float[Tensor, "probes params"]:
        """H v for every row v."""
        total = torch.zeros_like(vectors)
        for graph in self._all_graphs():
            total += graph.products(vectors) * (graph.examples / self.examples)
        self.products_made += len(vectors)
        return total

    def parts(self) -> Iterator[tuple[float, Symmetric]]:
        """The Hessian of each part, with the part's share of the examples."""
        for graph in self._all_graphs():
            yield graph.examples / self.examples, VectorProduct(graph.products, self.like)

    def along(self, direction: Float[Tensor, " params"]) -> float:
        """vᵀ H v, exact for these examples up to rounding. One product."""
        return float(direction.double() @ self.products(direction[None])[0].double())

    def along_gradient(self) -> float:
        """gᵀ H g, with g the gradient of the same examples."""
        return self.along(self.gradient)

    def eigenvalues(self, largest: int = 1, smallest: int = 0, **settings: Any) -> Eigenvalues:
        """The ends of the spectrum; see `gradiometer.drift.eigenvalues`.

        A network's gradient lies largely in its sharpest directions (Gur-Ari, Roberts & Dyer 2018),
        so it is half of
        the start: for the top eigenvalue of a small network that saves a tenth to a third of the
        products. The other half is random, so that no direction is missing. If only the largest
        eigenvalue is wanted and the examples are in at least four parts, the first part alone is
        asked for its sharpest direction, which costs a share of a few products and saves one or
        two. The bound of the residual holds for any start.
        """
        if "start" not in settings and self.gradient.norm() > 0:
            drawn = random_vectors(self, 1, self.generator)
            drawn /= drawn.norm()
            settings["start"] = self.gradient[None] / self.gradient.norm() + drawn
            # A product of one part costs a share of a product, and from four parts on that pays.
            if (largest, smallest) == (1, 0) and len(self._graphs) == len(self.batches) >= 4:
                tolerance = settings.get("tolerance", 1e-2)
                rough = eigenvalues(
                    VectorProduct(self._graphs[0].products, self.like),
                    tolerance=min(5 * tolerance, 0.5),
                    most_products=min(10, settings.get("most_products", 400)),
                    start=settings["start"],
                    generator=self.generator,
                )
                settings["start"] = rough.vectors + 0.1 * drawn
        return eigenvalues(
            self, largest=largest, smallest=smallest, generator=self.generator, **settings
        )

    def trace(self, probes: int = 16, **settings: Any) -> Estimate:
        """Tr H, with separate probes for every part of the examples; see
        `gradiometer.drift.trace`."""
        self.products_made += probes
        return trace(self, probes=probes, generator=self.generator, **settings)

    def density(self, probes: int = 8, **settings: Any) -> SpectralDensity:
        """The spectral density; see `gradiometer.drift.probes.spectral_density`."""
        return spectral_density(self, probes=probes, generator=self.generator, **settings)

    def _all_graphs(self) -> Iterator[GradientGraph]:
        yield from self._graphs
        # Graphs beyond `kept` are built again, one at a time.
        for place in range(len(self._graphs), len(self.batches)):
            yield self._graph(place, self.batches[place])

    def _graph(self, place: int, batch: Batch) -> GradientGraph:
        return GradientGraph(self.objective, batch, seed=self.seed + place)


def survey(
    curvature: Curvature,
    *,
    of: int,
    step: int = 0,
    top: int = 5,
    probes: int = 8,
    iterations: int = 40,
    level: float = LEVEL,
) -> Survey:
    """Measure everything in a `Survey`.

    Costs 20 to 60 products for Lanczos, `probes` for the trace, and probes × iterations for the
    density.

    Args:
        curvature: The Hessian.
        of: Number of examples in the training set.
        step: Number of training steps before the survey.
        top: Number of largest eigenvalues; the smallest is added.
        probes: Number of random vectors for the trace and for the density.
        iterations: Lanczos steps from each, for the density.
        level: Confidence level of trace and density.

    Example:
        >>> import torch
        >>> from gradiometer import Objective
        >>> from gradiometer.drift import Curvature
        >>> from gradiometer.problems import load
        >>> problem = load("digits")
        >>> objective = Objective(problem.model(), problem.loss)
        >>> curvature = Curvature.of(objective, problem.train.batch(torch.arange(100)))
        >>> found = survey(curvature, of=len(problem.train), top=1, iterations=10)
        >>> found.what
        'a fixed subsample of 100 of 1,437 examples, in train mode'
        >>> found.smallest[0].value < 0 < found.sharpness.value
        True
    """
    before = curvature.products_made
    # One direction is left for the smallest eigenvalue.
    top = min(top, max(curvature.dimension - 1, 1))
    ends = curvature.eigenvalues(largest=top, smallest=min(1, curvature.dimension - top))
    trace = curvature.trace(probes=probes, ends=ends, level=level)
    density = curvature.density(probes=probes, iterations=iterations, level=level)
    gradient = curvature.gradient.double()
    return Survey(
        step=step,
        examples=curvature.examples,
        of=of,
        mode=curvature.mode,
        dimension=curvature.dimension,
        loss=curvature.loss,
        largest=ends.largest,
        smallest=ends.smallest or ends.largest[-1:],
        trace=trace,
        gradient_norm_squared=Estimate.exact(
            float(gradient @ gradient), unit="(loss / parameter)²"
        ),
        gradient_curvature=Estimate.exact(curvature.along_gradient(), unit="loss³ / parameter⁴"),
        density=density,
        products=curvature.products_made - before,
        converged=ends.converged,
    )


def survey_examples(
    objective: Objective,
    train: TrainingSet,
    examples: int | None = None,
    *,
    step: int,
    seed: int = 0,
    **numbers: int,
) -> Survey:
    """The curvature of a loss over a training set, or a fixed random subsample of it.

    Args:
        objective: The model, in the mode to use, and its loss.
        train: The training examples.
        examples: Size of the subsample; None for 1,024 or all.
        step: The step of training.
        seed: Seed of the subsample, the vectors and random numbers in the loss.
        numbers: `top`, number of largest eigenvalues, and `probes`, number of random vectors for
            trace and density.

    Raises:
        BadArgument: There are fewer training examples.
    """
    for name, number in numbers.items():
        check_whole(name, number, 1)
    available = len(train)
    examples = min(EXAMPLES, available) if examples is None else examples
    if not 1 <= examples <= available:
        raise BadArgument(
            f"`examples` must lie between 1 and the {available:,} training examples, got "
            f"{examples:,}."
        )
    order = torch.arange(available)
    if examples < available:
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:examples]
    curvature = Curvature(
        objective, [train.batch(part) for part in order.split(AT_ONCE)], seed=seed
    )
    return survey(curvature, of=available, step=step, **numbers)


def edge_warning(
    objective: Objective,
    batch: Batch,
    *,
    learning_rate: float,
    kind: MomentumRule = PLAIN,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> str | None:
    """A sentence if η λ_max is above its limit at the model's present parameters, else None.

    λ_max of the given examples is computed roughly, at the cost of five to ten gradients of them.
    If that is not below half of the limit, it is computed to a residual of 1 %, for ten to twenty.
    Parameters, `.grad`, buffers and random states are not changed.

    Args:
        objective: The model and its loss.
        batch: A few hundred examples.
        learning_rate: η of the first step.
        kind: Plain, heavy-ball or Nesterov.
        weight_decay: Added to the curvature.
        seed: Seed for the random start of Lanczos and for random numbers in the loss.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import Objective, supervised
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> objective = Objective(nn.Linear(1, 1, bias=False), supervised(nn.MSELoss()))
        >>> batch = 3 * torch.ones(8, 1), torch.zeros(8, 1)  # the curvature of (3 w)² is 18
        >>> print(edge_warning(objective, batch, learning_rate=0.1))
        None
        >>> print(edge_warning(objective, batch, learning_rate=0.2))
        the learning rate 0.200 is 1.8 times beyond the edge of stability at the start ...
    """
    curvature = Curvature.of(objective, batch, at_once=AT_ONCE, seed=seed)
    limit = stability_limit(learning_rate, kind, weight_decay=weight_decay)
    if not 2 * curvature.eigenvalues(tolerance=ROUGHLY).sharpness.high > limit:
        return None
    sharpness = curvature.eigenvalues().sharpness
    if not sharpness.low > limit:
        return None
    rate = largest_stable_rate(sharpness, kind, weight_decay=weight_decay)
    return (
        f"the learning rate {significant(learning_rate)} is "
        f"{significant(sharpness.value / limit, 2)} times beyond the edge of stability at the "
        f"start (sharpness {sharpness}, {kind.formula} = {significant(limit)}): on a quadratic the "
        "loss would diverge; a network often reaches a flatter region first. If it diverges, try "
        f"--lr {rate.low:.2g} or a warm-up."
    )
