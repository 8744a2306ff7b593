"""A model in training: what is made before its first step, and what one step does, with nothing of
the run around it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradiometer.convergence.averaging import REFRESHED, refresh_batch_norm
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import SnapshotCycle
from gradiometer.convergence.trajectory.endpoint import Endpoint, endpoint_of
from gradiometer.convergence.trajectory.path_facts import Kind, Trail, facts_of, kind_of
from gradiometer.drift.curvature import edge_warning
from gradiometer.drift.curvature_survey import Survey
from gradiometer.drift.stability import MomentumRule, edge_finding, no_edge_finding
from gradiometer.errors import BadArgument, Diverged
from gradiometer.exploration.ensembles.snapshots import checked_cycle
from gradiometer.gauges import Asked
from gradiometer.measurement.batch import Batch, Order, batch_size
from gradiometer.measurement.finding import Finding
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.motion import Origin
from gradiometer.measurement.objective import Objective, checked_loss
from gradiometer.measurement.optimizer.steps import Clipping, at_average, schedule_free, to_average
from gradiometer.measurement.preconditioner import preconditioner_of
from gradiometer.measurement.reading import Draw, Reading, Sampling, Series, Spread
from gradiometer.measurement.step import TrainingStep
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem, new_model
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import seed_everything
from gradiometer.run.budget import COOLING, Budget
from gradiometer.run.clock import clock_for
from gradiometer.run.configuration import OPTIMIZERS, Configuration
from gradiometer.run.folder import file_name
from gradiometer.run.planned import planned
from gradiometer.run.problem import problem_for
from gradiometer.run.ranks import Ranks
from gradiometer.run.recorder import Mode
from gradiometer.run.rules import MOST_STEPS
from gradiometer.train.accumulation import Accumulator, Where
from gradiometer.train.cooling import Cooling


def name_of_run(problem: Problem) -> str:
    """Problem and model as a file name for every system: mine:problem becomes mine-problem."""
    return file_name(f"{problem.name}-{problem.model_name}", "run")


def optimizer_of(
    name: str,
    parameters: Iterable[Tensor],
    rate: float,
    *,
    weight_decay: Amount,
    clip: float | None = None,
    **settings: Any,
) -> Optimizer:
    """The optimizer with a name, one of `OPTIMIZERS`, and with further settings of
    its class. It clips all gradients together to the norm `clip` before each step, if that is
    given."""
    optimizer: Optimizer
    if name == "schedulefree":
        optimizer = schedule_free(parameters, rate, float(weight_decay))
    else:
        kind = getattr(torch.optim, OPTIMIZERS[name].class_name)
        optimizer = kind(parameters, lr=rate, weight_decay=weight_decay, **settings)
    if clip is not None:
        optimizer.register_step_pre_hook(Clipping(clip))
    return optimizer


def hold_out(examples: Examples, configuration: Configuration) -> tuple[Examples, Examples | None]:
    """The examples that are trained on, and those that the configuration holds out, if any.

    Raises:
        BadArgument: None would be left of one of the two.
    """
    if not configuration.held_out:
        return examples, None
    count = round(configuration.held_out * len(examples))
    if not 0 < count < len(examples):
        raise BadArgument(
            f"`held_out` {configuration.held_out:g} leaves {len(examples) - count:,} of "
            f"{len(examples):,} training examples, and holds out {count:,}: both must be above 0."
        )
    order = torch.randperm(
        len(examples), generator=torch.Generator().manual_seed(configuration.seed)
    )
    return examples.part(order[count:].sort().values), examples.part(order[:count])


def device_of(name: str, ranks: Ranks) -> torch.device:
    """The device with this name, if torch can use it here."""
    if not (ranks.alone or name == "cpu"):
        raise BadArgument(
            f"`device` is {name!r}, but several processes train on the CPU only: leave it out, or "
            "use `gradiometer.watch` in your own DistributedDataParallel loop."
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" is a device that holds no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".").partition(" device type at start")[0]
        known = "'cuda'" if name.startswith(("gpu", "nvidia")) else "'cpu'"
        raise BadArgument(
            f"`device` is {name!r}, which this machine's torch cannot use ({reason}): try {known}."
        ) from error
    return device


# The commands that rank 0 sends to the other processes of a training.
END, STEP, GO_ON, COOL = range(4)


class Training:
    """A model in training: one object a run, the steps of the loop as its methods.

    Args:
        problem: What to train on.
        configuration: How.
        budget: The account that the cost of reading micro-batches is charged to.
        ranks: The processes that train together. Each has the whole model and data, and makes its
            share of each batch.
        gauges: What is measured; by default the gauges that the configuration names.
    """

    def __init__(
        self,
        problem: Problem,
        configuration: Configuration,
        budget: Budget,
        ranks: Ranks | None = None,
        gauges: Sequence[Gauge] | None = None,
    ) -> None:
        self.problem = problem
        self.configuration = configuration
        self.budget = budget
        self.ranks = ranks or Ranks()
        self.device = device_of(configuration.device, self.ranks)
        seed_everything(configuration.seed)
        self.model = new_model(problem).to(self.device)
        self.objective = Objective(self.model, problem.loss)
        self.parameters = self.objective.parameters
        self.data = hold_out(problem.train, configuration)[0].to(self.device)
        self.order = Order(
            Draw(configuration.sampling),
            len(self.data),
            configuration.batch_size,
            seed=configuration.seed,
        )
        self.steps = configuration.steps or configuration.epochs * self.order.steps_per_epoch
        if not self.steps < MOST_STEPS:
            raise BadArgument(
                f"`epochs` must give less than 2^53 steps: give fewer than "
                f"{configuration.epochs:,}."
            )
        beyond = [step for step in configuration.lasting_checkpoints if step > self.steps]
        if beyond:
            raise BadArgument(
                f"`checkpoint_at` names step {min(beyond):,}, but this run has {self.steps:,} "
                "steps: leave it out."
            )
        budget.clock = clock_for(self.device.type)
        budget.planned = self.steps
        c = configuration
        momentum = {"momentum": c.momentum, "nesterov": c.nesterov} if c.optimizer == "sgd" else {}
        self.optimizer = optimizer_of(
            c.optimizer,
            self.parameters,
            c.rate,
            weight_decay=c.weight_decay,
            clip=c.clip,
            **momentum,
        )
        cycle = SnapshotCycle(configuration.rate, self.steps, max(configuration.snapshots, 1))
        self.cycle = checked_cycle(cycle) if configuration.snapshots else None
        schedule = self.schedule
        # Refuse a schedule that gives no rate at some step: every step is tried, in a very long run
        # evenly spaced ones and the last one.
        for step in (*range(0, self.steps, -(-self.steps // 100_000)), self.steps - 1):
            schedule(step)
        self.scheduler = schedule.scheduler(self.optimizer)
        self.cooling: Cooling | None = None
        if configuration.cool != "off":
            self.cooling = Cooling(
                self.objective,
                self.data,
                (self.steps, configuration.batch_size),
                acts=configuration.cool == "auto",
                share=configuration.budget if configuration.every is None else None,
                budget=configuration.cool_budget,
                level=configuration.level,
                seed=configuration.seed,
            )
        self.gauges = tuple(
            Asked.of(configuration.measured).made(configuration) if gauges is None else gauges
        )
        adaptive = any(gauge.needs_preconditioner for gauge in self.gauges)
        self.preconditioner = (
            partial(preconditioner_of, self.optimizer, self.parameters) if adaptive else None
        )
        self._accumulator: Accumulator | None = None
        if self.shared:
            self._accumulator = Accumulator(
                self.objective,
                configuration.accumulation,
                self.ranks,
                budget,
                configuration.seed,
                self.preconditioner,
            )
        backward = [gauge.name for gauge in self.gauges if gauge.looks_back]
        if configuration.probe and (backward or self.shared):
            who = f"{backward[0]} measures" if backward else "several gradients per update are"
            raise BadArgument(
                f"`probe` is for measuring apart from training, but {who} training's own: leave "
                "one out."
            )
        self.origin = Origin() if backward else None
        # The spread of the micro-batches of the step at hand, if gradients are accumulated and it
        # is measured.
        self.spread: Spread | None = None
        self.step = 0
        self.first_loss = math.nan

    @property
    def schedule(self) -> Schedule:
        """η as a function of the step."""
        return planned(self.configuration, self.steps)

    @property
    def learning_rate(self) -> float:
        """η of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def sampling(self) -> Sampling:
        """The way batches are drawn, and the number of examples."""
        return Sampling(self.order.draw, self.order.examples)

    @property
    def shared(self) -> bool:
        """True if ĝ is the mean of several gradients, made one after another or on several
        processes."""
        return self.configuration.accumulation > 1 or not self.ranks.alone

    @property
    def mode(self) -> Mode:
        """The source of the spread: training's own micro-batches, or gradients apart from it."""
        return "shared" if self.shared else "apart"

    def batch(self) -> Batch:
        """The batch of the next step."""
        return self.data.batch(self.order.batch(self.step))

    def endpoint(self, trajectory: Series) -> Endpoint:
        """The endpoint on a few hundred examples, with curvature only if the path may have come to
        rest."""
        path = Trail.of(
            trajectory.steps, np.asarray(trajectory.moments["point"]), trajectory.learning_rate
        )
        facts = facts_of(path)
        rests = "straightness" in facts and kind_of(facts) is not Kind.UNDER_WAY
        with user_code("loss", "after the last step"):
            return endpoint_of(
                self.objective,
                self._few(),
                path,
                curvature=rests,
                weight_decay=self.configuration.penalty,
                seed=self.configuration.seed,
            )

    def _few(self) -> Batch:
        """256 examples, always the same: for the check of the edge before the first step, and of
        the endpoint after the last."""
        count = min(256, len(self.data))
        generator = torch.Generator().manual_seed(self.configuration.seed)
        return self.data.batch(torch.randperm(len(self.data), generator=generator)[:count])

    def edge_warning(self) -> str | None:
        """A sentence if the learning rate is above the edge of stability at the present
        parameters."""
        configuration = self.configuration
        with user_code("loss", "before the first step"):
            return edge_warning(
                self.objective,
                self._few(),
                learning_rate=self.learning_rate,
                kind=MomentumRule(configuration.momentum, configuration.nesterov),
                weight_decay=configuration.weight_decay,
                seed=configuration.seed,
            )

    def backward(self, batch: Batch, measured: bool = False) -> float:
        """Put ĝ into `.grad`, and return the loss. `measured` asks for the spread of accumulated
        micro-batches."""
        self.spread = None
        # One example cannot be shared out: it has no parts to accumulate.
        if self._accumulator is not None and not (self.ranks.alone and batch_size(batch) == 1):
            loss, self.spread = self._accumulator(
                batch, measured, self.step, partial(Where, self.step)
            )
            return loss
        self.optimizer.zero_grad(set_to_none=True)
        with user_code("loss", Where(self.step, batch)):
            each = self.problem.loss(self.model, batch)
            value = checked_loss(each, batch, has_graph=True).mean()
            value.backward()
        return value.item()

    def divergence(self, loss: float) -> str | None:
        """The reason to call this step diverged, or None. Checked before the update."""
        if math.isnan(self.first_loss):
            self.first_loss = loss
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        # A loss this many times that of the first step is called diverged.
        if abs(loss) > 1e4 * abs(self.first_loss) > 0:
            times = abs(loss / self.first_loss)
            return (
                f"the loss is {loss:.3g}, {times:{',.0f' if times < 1e9 else '.3g'}} times that of "
                "the first step"
            )
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        # The sum of the norms is finite only if all are, and an accelerator is waited for once.
        if not math.isfinite(torch.stack(torch._foreach_norm(gradients)).sum().item()):
            return f"the gradient is not finite (the loss is {loss:.3g})"
        return None

    def update(self) -> list[dict[str, Any]]:
        """Φ ← Φ − η ĝ, with momentum and weight decay if configured. Returns the events of the
        cooling."""
        learning_rate = self.learning_rate
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise BadArgument(
                f"`learning_rate` is {learning_rate:.3g} at step {self.step:,}, which the type of "
                "the parameters cannot hold: give a smaller one."
            ) from error
        self.scheduler.step()
        self.step += 1
        self._cool()
        if self.cooling is None or self.cooling.passes_over(learning_rate, self.step):
            return []
        with self.budget.spending(COOLING):
            return self.cooling.observe(self.parameters, learning_rate, self.step)

    def decide(self, begins: int | None, *, forked: bool) -> None:
        """Take in a decision of the cooling before the next step: see `Cooling.decide`."""
        if self.cooling is not None:
            self.cooling.decide(self.step, begins, forked=forked)
            self._cool()

    def _cool(self) -> None:
        """Set the rate to the schedule's rate times the factor of the cooling."""
        if self.cooling is not None and self.cooling.acts:
            for group, rate in zip(
                self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True
            ):
                group["lr"] = rate * self.cooling.multiplier(self.step)

    @contextmanager
    def at_average(self) -> Iterator[None]:
        """The model at the averaged point of an optimizer that averages its iterates; parameters,
        buffers and optimizer afterwards as before."""
        with at_average(self.model, self.optimizer) as averaged:
            if averaged:
                self._refresh()
            yield

    def end_at_average(self) -> None:
        """Leave the model at the averaged point, which is what the training ends with."""
        if to_average(self.optimizer):
            self._refresh()

    def _refresh(self) -> None:
        """Measure the statistics of BatchNorm again, where there are any."""
        newest = range(max(self.step - REFRESHED, 0), max(self.step, 1))
        batches = (self.data.batch(self.order.batch(step)) for step in newest)
        refresh_batch_norm(self.model, batches, self.problem.loss, seed=self.configuration.seed)

    def evaluation_due(self) -> bool:
        """True if the last step ended the run, or an epoch that is followed by an evaluation."""
        epochs, left = divmod(self.step, self.order.steps_per_epoch)
        # At most 20 evaluations in a run, evenly spaced.
        every = -(-self.steps // (20 * self.order.steps_per_epoch))
        return self.step == self.steps or (left == 0 and epochs % every == 0)

    def facts(self) -> dict[str, Any]:
        """What the run folder records of this training besides its configuration."""
        probe = {}
        if self.configuration.probe:
            # The examples of a probe are drawn independently.
            probe["probe"] = Sampling(Draw.REPLACEMENT, len(self.data)).to_dict()
        return {
            "seeds": {"seed": self.configuration.seed},
            "sampling": self.sampling.to_dict(),
            **probe,
            "layers": list(self.objective.layers),
            "mode": self.mode if self.configuration.budget else "off",
            "ranks": self.ranks.count,
            "steps": self.steps,
            "problem": {
                "name": self.problem.name,
                "model": self.problem.model_name,
                "parameters": self.objective.dimension,
                "fingerprint": self.problem.fingerprint,
                "description": self.problem.description,
            },
        }


def start_training(configuration: Configuration) -> Training:
    """The configured training before its first step."""
    return Training(problem_for(configuration), configuration, Budget(0.0))


def advance(
    training: Training, steps: int, gauge: Gauge | None = None, last: int = 0
) -> list[Reading]:
    """Make some steps, and measure a gauge at the last ones. Batches of a single example are not
    measured.

    Raises:
        Diverged: The loss or the gradient is not finite, or the loss exploded.

    Example:
        >>> from gradiometer import Configuration, GradientNoise
        >>> training = start_training(Configuration(model="mlp"))
        >>> readings = advance(training, 5, GradientNoise(), last=2)
        >>> training.step, [reading.step for reading in readings]
        (5, [3, 4])
    """
    readings = []
    for left in range(steps, 0, -1):
        batch = training.batch()
        measured = gauge is not None and left <= last
        loss = training.backward(batch, measured)
        reason = training.divergence(loss)
        if reason is not None:
            raise Diverged(
                f"training diverged at step {training.step:,} with learning rate "
                f"{training.configuration.rate:g}: {reason}; try a smaller --lr"
            )
        # A batch of one example has no spread.
        if gauge is not None and measured and batch_size(batch) >= 2:
            step = TrainingStep(
                training.objective,
                batch,
                index=training.step,
                learning_rate=training.learning_rate,
                sampling=training.sampling,
                gradient=[parameter.grad for parameter in training.parameters],
                spread=training.spread,
                preconditioner=training.preconditioner,
                seed=training.configuration.seed,
            )
            moments = gauge.measure(step)
            if moments is not None:
                readings.append(
                    Reading(gauge.name, step.index, step.batch_size, step.learning_rate, moments)
                )
        training.update()
    return readings


def rate_ahead(training: Training) -> float:
    """η of the next step, or the initial η if a schedule has ended at zero."""
    return training.learning_rate if training.learning_rate > 0 else training.configuration.rate


def sharpness_finding(training: Training, found: Survey) -> Finding:
    """Compare the sharpness of a survey with the edge of the training's learning rate."""
    settings = training.configuration
    if settings.optimizer != "sgd":
        return no_edge_finding(
            found.sharpness, found.step, (OPTIMIZERS[settings.optimizer].class_name,)
        )
    kind = MomentumRule(settings.momentum, settings.nesterov)
    return edge_finding(
        found.sharpness, rate_ahead(training), kind, weight_decay=settings.weight_decay
    )
