"""What a watch does besides measuring steps: looks at the model on request, its snapshots, and the
page at the end."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gradiometer.compiler import as_written
from gradiometer.convergence.averaging import tracking_layers
from gradiometer.convergence.certificate.certificate import CERTAINTY, TOLERANCE, Certificate
from gradiometer.convergence.certificate.certifying import (
    BATCHES,
    EXAMPLES,
    UNIT,
    certify,
    gradient_squared,
)
from gradiometer.drift.curvature import survey_examples
from gradiometer.drift.curvature_survey import Survey
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.estimation.noise import GradientNoise, of_the_gradient_meant
from gradiometer.estimation.products import source_of
from gradiometer.exploration.ensembles.snapshots import Snapshot
from gradiometer.integrations.watch.losses import no_loss
from gradiometer.integrations.watch.measuring import Measuring
from gradiometer.integrations.watch.subject import OnDevice, examples_of
from gradiometer.measurement.artifact import Artifact, Evaluation, PerExample
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.measurement.uncertainty.skewed import skewed_mean
from gradiometer.problems.problem import Problem
from gradiometer.run.artifacts import save_artifact, save_snapshot, snapshot_paths
from gradiometer.run.reader import Run

if TYPE_CHECKING:
    from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport


# Optimizers whose `weight_decay` is the gradient of a penalty. In AdamW, a subclass of Adam, it is
# not.
PENALTIES = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad)


LossesGiven = float | Tensor | Sequence[Any]
"""A mean loss, or the losses of single examples."""


class Looks(Measuring):
    """Looks at the model of a watched loop, on request. They are kept in the run and shown on its
    page.

    Call them inside of `with watch(...) as w:`, after the first step, or after it. Training stays
    the same, bit for bit. Later readings pay their time back, as far as the run is long enough. On
    several processes rank 0 looks, and the others get None.
    """

    @property
    def overhead(self) -> dict[str, Any]:
        """The share of the training time that measuring may use and has used; empty before the
        first step."""
        return {} if self._recorder is None else self._recorder.overhead

    def evaluated(self, test: LossesGiven | None = None, train: LossesGiven | None = None) -> None:
        """Record an evaluation of the model as it is now, so that overfitting can be seen. Call it
        before the block of `with watch(...) as w:` ends; later evaluations are not recorded, with a
        warning.

            w.evaluated(test=test_losses, train=losses_on_some_training_examples)

        Args:
            test: The loss on held-out examples: their mean, or the loss of every example, whose
                mean has an interval. Losses of single examples are kept in the run, 4 bytes each,
                so that runs are compared example by example: give them in the same order.
            train: The same on training examples, in eval mode.

        Raises:
            BadArgument: An argument is not a number, a tensor or a list of numbers.
        """
        if self.ranks.first:
            self.record_evaluation(evaluation(test=test, train=train))

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Record an evaluation whose estimates are known, such as "test_loss"."""
        if self._recorder is not None and self._recorder.closed:
            self._warn(
                f"the evaluation after step {self.steps:,} was not recorded, because the run has "
                "ended: call `evaluated` inside `with watch(...) as w:`"
            )
            return
        self._evaluations.append((self.steps, evaluation))
        self._write_evaluations()
        with self._triage.shield:
            self._triage.evaluated()

    def certify(
        self,
        train: Any,
        *,
        exact: bool = False,
        batches: int = BATCHES,
        batch_size: int | None = None,
        examples: int = EXAMPLES,
        weight_decay: float | None = None,
        tolerance: float = TOLERANCE,
        level: float = CERTAINTY,
        start: Estimate | None = None,
        seed: int = 0,
    ) -> Certificate | None:
        """Decide if the model is now at a minimum, a saddle, or not at a stationary point of the
        training loss.

        The model runs in its present mode: call `model.eval()` before to leave Dropout and batch
        statistics out.

        Args:
            train: The training examples: a tree of tensors, a map-style data set, or a DataLoader.
            exact: Use all examples for the gradient.
            batches, batch_size: Otherwise, use this many batches of this size. Default: the batch
                size of training.
            examples: Number of examples for the curvature.
            weight_decay: λ of the penalty in the loss. Default: that of SGD, Adam, RMSprop or
                Adagrad, and 0 for other optimizers, in which the decay is not part of the gradient.
            tolerance: Gradients below this share of the one at the start, and curvatures below this
                share of λ_max, count as zero.
            level: Confidence level of every interval, and of the verdict.
            start: ‖g‖² at the start, by `gradient_squared` of
                `gradiometer.convergence.certificate.certifying`.
                Default: it is measured at the parameters of the first step, which are kept for
                models of up to 16 million; above that and in a continued run, the mean of the first
                8 readings of the noise.
            seed: Seed of the batches and the random vectors.

        Raises:
            BadArgument: An argument is invalid, there was no step yet, or `start` is missing.
            Unsupported: The model is sharded.

        Example:
            >>> import torch
            >>> from gradiometer import supervised, watch
            >>> train, model = (torch.ones(16, 1), torch.arange(16.0)[:, None]), torch.nn.Linear(1, 1, bias=False)
            >>> _ = torch.nn.init.zeros_(model.weight)
            >>> loss, optimizer = supervised(torch.nn.MSELoss()), torch.optim.SGD(model.parameters(), lr=0.1)
            >>> with watch(model, optimizer, loss=loss, every=1, page=False, quiet=True) as w:
            ...     for _ in range(100):
            ...         optimizer.zero_grad()
            ...         value = loss(model, train)
            ...         value.backward()
            ...         w.step(value, train)
            ...         optimizer.step()
            ...     print(w.certify(train, exact=True).verdict)
            minimum
        """
        with self._looking() as run:
            if run is None:
                return None
            data = self._on_device(train)
            size = (
                min(run.configuration.batch_size, len(data)) if batch_size is None else batch_size
            )
            decay = self._penalty() if weight_decay is None else weight_decay
            gradient: dict[str, Any] = {
                "exact": exact,
                "batches": batches,
                "batch_size": size,
                "weight_decay": decay,
                "level": level,
            }
            if not start and self._at_start is None:
                start = _start_of(run, level)
            elif not start:
                at = [kept.to(data.device) for kept in self._at_start or ()]
                start, *_ = gradient_squared(self._objective, data, seed=seed, at=at, **gradient)
            certificate = certify(
                self._objective,
                data,
                start,
                examples=examples,
                tolerance=tolerance,
                step=self.steps,
                seed=seed + 1,
                **gradient,
            )
            self._keep(run, certificate)
            return certificate

    def sharpness(
        self,
        train: Any,
        *,
        examples: int | None = None,
        top: int = 5,
        probes: int = 8,
        seed: int = 0,
    ) -> Survey | None:
        """Measure the curvature of the training loss at the present parameters.

        The model runs in its present mode.

        Args:
            train: The training examples: a tree of tensors, a map-style data set, or a DataLoader.
            examples: Size of a fixed random subsample of them; None for 1,024 or all.
            top: Number of largest eigenvalues.
            probes: Number of random vectors for trace and density.
            seed: Seed of the subsample and the random vectors.

        Raises:
            BadArgument: An argument is invalid, or there was no step yet.
            Unsupported: The model is sharded, or its loss has no second derivative.
        """
        with self._looking() as run:
            if run is None:
                return None
            data = self._on_device(train)
            found = survey_examples(
                self._objective, data, examples, step=self.steps, top=top, probes=probes, seed=seed
            )
            self._keep(run, found)
            return found

    def snapshot(self) -> Path | None:
        """Write the model into the run as a member of its ensemble, and return the file.

        Call it at the end of a cycle of the learning rate. One of the same step is replaced.

        Raises:
            BadArgument: There was no step yet.
            StorageFailed: It cannot be written.
        """
        with self._looking() as run:
            if run is None:
                return None
            folder = run.snapshots_path
            number = (
                sum(path.stem != f"step_{self.steps:06d}" for path in snapshot_paths(folder)) + 1
            )
            path = save_snapshot(
                folder, Snapshot.of(self._objective.model, number=number, step=self.steps)
            )
            if self._recorder is not None and not self._recorder.closed:
                self._recorder.event("snapshot", self.steps, number=number)
            return path

    def ensemble(
        self, test: Any, *, train: Any = None, points: int = 9, level: float = LEVEL
    ) -> "EnsembleReport | None":
        """Average the predictions of the run's snapshots and score the average on examples that
        were not trained on.

        A quarter of the examples selects the number of snapshots and the calibration; the others
        are scored.

        Args:
            test: Pairs (inputs, labels) of a classification, of which `model(inputs)` gives the
                logits: tensors, a map-style data set, or a DataLoader.
            train: The training examples, for a model with BatchNorm: the statistics of averaged
                weights are estimated on them.
            points: Number of points on the line from each snapshot to the last; 0 skips the error
                barriers.
            level: Confidence level of every interval.

        Raises:
            BadArgument: There are fewer than two snapshots, or `train` is missing.
            Unsupported: The examples are not those of a classification, or too few.
        """
        from gradiometer.run.ensemble import score_snapshots  # noqa: PLC0415 (heavy)

        with self._looking() as run:
            if run is None:
                return None
            model = self._objective.model
            if train is None and tracking_layers(model):
                raise BadArgument(
                    "`train` is missing, on which the statistics of BatchNorm are estimated."
                )
            held_out = examples_of(test, "test")
            examples = held_out if train is None else examples_of(train, "train")
            problem = Problem(
                run.name, lambda: copy.deepcopy(model), self._objective.loss, examples, held_out
            )
            report = score_snapshots(run, problem, points=points, level=level).report
            self._keep(run, report)
            return report

    @contextmanager
    def _looking(self, *, forks: str = "") -> Iterator[Run | None]:
        """The run, while the time is charged, that of forks to this name; None on every process
        except rank 0."""
        if self._subject.sharded:
            raise Unsupported("`model` is sharded (FSDP): no process can run it alone.")
        run = self.run
        if run is None and self.ranks.first:
            raise BadArgument(
                "`step` was not called yet, so there is no run to keep a result in: call it first."
            )
        name = forks or "looks on request"
        with self.budget.spending(name, fixed=not forks, outside=bool(forks)), as_written():
            yield run
        with self.shield:
            self.budget.take_turn()

    def _on_device(self, train: Any) -> OnDevice:
        """The examples, if there is a loss to run on them."""
        if self._objective.loss is no_loss:
            raise BadArgument(
                "`loss` is missing, and this runs the model: give loss=lambda model, batch: ... to "
                "`watch`."
            )
        return OnDevice(examples_of(train, "train"), self._objective.parameters[0].device)

    def _keep(self, run: Run, artifact: Artifact) -> None:
        """Save a result in the run. After the end of the run its page is written again."""
        save_artifact(run, artifact)
        if self._recorder is not None and self._recorder.closed:
            self._announcements.show(run)

    def _penalty(self) -> float:
        """λ of the loss that the optimizer trains."""
        groups = [(type(one), group) for one in self._optimizers for group in one.param_groups]
        found = {
            float(group.get("weight_decay", 0.0))
            if issubclass(kind, PENALTIES) and kind is not torch.optim.AdamW
            else 0.0
            for kind, group in groups
        }
        if len(found) > 1:
            raise BadArgument(
                "`weight_decay` differs between the parameter groups "
                f"({', '.join(map(str, sorted(found)))}): give the one of the loss to certify, "
                "such as weight_decay=0."
            )
        return found.pop()


def _start_of(run: Run, level: float) -> Estimate:
    """‖g‖² at the start, from the first readings of the noise."""
    series = run.series(GradientNoise.name)
    why = "the run has no readings of the noise"
    if series is not None:
        first = series[:8]
        source = source_of(first)
        _, norm_squared, _ = of_the_gradient_meant(
            source.variance, source.norm_squared, first, "train"
        )
        found = mean(norm_squared.sum(axis=1), level=level, unit=UNIT)
        if found.low > 0:
            return found
        why = f"the first {len(first)} readings of the noise do not show it ({found})"
    raise BadArgument(
        f"`start` is missing, and {why}: give start=gradient_squared(Objective(model, loss), "
        "Examples(train))[0], measured before training."
    )


def evaluation(**losses: LossesGiven | None) -> Evaluation:
    """An evaluation, from the losses on the test and the training examples.

    Raises:
        BadArgument: None is given, or one is not a number, a tensor or a list of numbers.
    """
    estimates, examples = {}, {}
    for name, value in losses.items():
        if value is not None:
            given = losses_given(name, value)
            estimates[f"{name}_loss"] = mean_loss(given)
            if name == "test" and given.size > 1:
                examples[f"{name}_loss"] = given
    if not estimates:
        raise BadArgument(
            "`test` and `train` are missing: give the loss on held-out examples as test=..."
        )
    return Evaluation(estimates, examples)


def losses_given(name: str, value: Any) -> PerExample:
    """What was given for an evaluation, as an array.

    Raises:
        BadArgument: It is not a number, a tensor or a list of numbers.
    """
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu().double().numpy()
        losses = np.asarray(value, dtype=np.float64).reshape(-1)
    # NotImplementedError is of a meta tensor, OverflowError of a whole number of 400 digits
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        raise BadArgument(
            f"`{name}` must be a loss or the losses of single examples, got a "
            f"{type(value).__name__}: give a number, a tensor or a list of numbers."
        ) from error
    if not losses.size:
        raise BadArgument(f"`{name}` holds no loss: give a number, or the loss of every example.")
    return losses


def mean_loss(losses: PerExample) -> Estimate:
    """The mean, with an interval if these are the losses of single examples."""
    if not np.isfinite(losses).all():
        return Estimate.unknown(level=LEVEL, method="a loss is not finite", samples=losses.size)
    return Estimate.exact(float(losses[0])) if losses.size == 1 else skewed_mean(losses)
