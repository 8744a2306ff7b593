"""`watch` measures your own training loop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from gradiometer.arguments import (
    check_level,
    check_number,
    check_scaler,
    check_whole,
    type_name,
)
from gradiometer.errors import BadArgument, bounded
from gradiometer.gauges import Asked, GaugesAsked
from gradiometer.integrations.sharding import refuse_unsupported_shards, reshard
from gradiometer.integrations.watch.description import (
    gauges_for,
    refuse_what_cannot_be_watched,
    sampling_of,
)
from gradiometer.integrations.watch.observers.losses import loss_of_a_person, no_loss
from gradiometer.integrations.watch.observers.products import reads_products
from gradiometer.integrations.watch.record import Announcements, check_place
from gradiometer.integrations.watch.shield import in_silence, log
from gradiometer.integrations.watch.sources.choice import source_of
from gradiometer.integrations.watch.sources.source import GradientSource
from gradiometer.integrations.watch.subject import Batches, Probe, Subject
from gradiometer.integrations.watch.watching import Watch
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.objective import Loss, Objective
from gradiometer.measurement.optimizer.steps import bare, bare_optimizer
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.run.budget import Budget
from gradiometer.run.clock import Turns, clock_for


@bounded
def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Any,
    *,
    loss: Loss | None = None,
    out: Path | str = "runs",
    name: str = "loop",
    sampling: "Sampling | DataLoader[Any] | None" = None,
    examples: int | None = None,
    replacement: bool | None = None,
    groups: int | Callable[[Batch], Any] | None = None,
    batch_axis: int = 0,
    probe: Any = None,
    accumulation: int = 1,
    scaler: Any = None,
    budget: float = 0.02,
    every: int | None = None,
    steps: int | None = None,
    trials: float = 0.0,
    checkpoints: int = 0,
    gauges: GaugesAsked | None = None,
    parts: int | None = None,
    level: float = LEVEL,
    seed: int = 0,
    to: Sequence[Any] = (),
    page: bool = True,
    quiet: bool = False,
) -> Watch:
    """Measure your own training loop. Training stays the same, bit for bit.

    Call `step` after every `backward` and before `optimizer.step()`:

        with watch(model, optimizer, loss=loss) as w:
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch)
                optimizer.step()
            print(w.findings())

    If `backward` and the update are one call, write `for batch in w.batches(loader)` instead of
    calling `step`.

    Hooks read the gradients as `backward` makes them, before clipping, DDP's all-reduce and FSDP's
    reduce-scatter. They are in place only at measured steps. If an update takes one backward on one
    process, the noise is read from `.grad` of successive steps, within the budget, and nothing is
    run again: call `step` right after `backward`, with the loss that it was called on. With `every`
    above 1, `parts`, `probe` or `groups`, or under an optimizer other than SGD, Adam, AdamW, NAdam
    and Adamax, half of the batch is run once more instead, which needs `loss`. If an update takes
    several backwards, or one on each of several processes, their gradients are compared, and
    nothing more is run.

    Args:
        model: The model that is trained: plain, compiled, wrapped in DistributedDataParallel, or
            sharded over all processes by `fully_shard` (FSDP2). Only the noise and preconditioned
            noise of a sharded model is measured.
        optimizer: The optimizer that trains it, a wrapper of it (Accelerate, fastai), or a list of
            several.
        loss: Called as `loss(model, batch)`. Returns one value per example or their mean: the loss
            that is trained, under the same autocast, without a scaler. Optional unless half of the
            batch is run again; gauges that run the model, such as the batch sharpness, are then not
            available.
        out: Folder of the runs.
        name: Beginning of the run's name.
        sampling: How batches are drawn: the DataLoader, or a `Sampling`. By default that of the
            loader given to `w.batches`, otherwise independent draws. In shuffled epochs over N
            examples, ‖g‖² is without it too small by the relative amount noise scale / N: leave it
            out only if N is much larger than the noise scale.
        examples: N, the size of the training set, instead of `sampling`.
        replacement: With `examples`: True for independent draws, False (the default) for shuffled
            epochs.
        groups: Number of consecutive rows of a batch that are augmented copies of one example, or a
            function of the batch that returns a label for every row. Copies stay in one half; a
            batch counts its rows.
        batch_axis: The axis of the examples: 1 for batches of sequences with time along the first
            axis.
        probe: Measure independent examples instead of the batches of training: the training
            examples (tensors, a map-style data set, or the DataLoader), from which batches are
            drawn with replacement; or a function of a number of examples that returns so many new
            ones. In shuffled epochs over few examples it removes a bias: the coming batch was not
            trained on in this epoch, so its gradient is larger than that of the training set. A
            reading then costs a whole step. Needs `loss`, one process and one backward per update.
        accumulation: Number of backwards per update on each process. Each divides its mean loss by
            this number.
        scaler: The GradScaler, if there is one.
        budget: Share of the training time that measuring may use; 0 switches measuring off.
        every: Measure at every `every`-th step instead of keeping to the budget. With 1 the noise
            is read from the gradients of all steps, and gauges that run the model run at one in 16
            (after step 512 as often in each doubling).
        steps: Number of updates of the whole training, if you know it: the first 40 readings are
            then spread over the run, up to 1,000 steps, in place of the first 300 steps.
        trials: Share of the training time that forks may use to try the cure of what limits the
            run, such as 0.1: at the end, and at a few marks if the length of the training is not
            known, on copies; the next headline uses what they show. Up to four earlier states are
            kept, as with `checkpoints`. Needs `loss`, and the data: sampling=loader, or a loop over
            `w.batches(loader)`.
        checkpoints: Number of earlier states of model and optimizer that are kept in memory, the
            newest of steps 4, 8, 16, 32, ..., so that `w.fork(at=STEP)` can start from them later,
            also after the last update. Each is a copy of at most 16 million numbers. Above 0, the
            newest 64 to 96 updates are kept, too, with three more such states, so that
            `w.incident` can say why the loss went wrong. On an accelerator training then waits for
            its losses once in 32 updates.
        gauges: Names with commas between them, or a list of names and gauges of your own, such as
            ["noise", MyGauge()]. By default the noise, if training's own gradients show it or there
            is `loss`; under Adam, AdamW, RMSprop, Adagrad and their kind also the preconditioned
            noise, unless the model is sharded; under SGD with `loss` also the batch sharpness, on
            one process. On several: noise, preconditioned_noise, temperature, trajectory, and with
            `loss` batch_sharpness and curvature_along_gradient.
        parts: Number of parts that a batch is split into at a measured step of one backward; 0
            means one per example. By default 2, if the gradients of successive steps do not show
            the noise.
        level: Confidence level of every interval.
        seed: Seed of the random numbers that measuring draws. Training's own random states are not
            touched.
        to: Trackers that also get the estimates, as value, low and high: TensorBoard writers,
            Lightning loggers, functions of (numbers, step). An active run of W&B, MLflow or trackio
            is found automatically.
        page: Write the page of a run with readings when the `with` block ends, which takes 1 to 2
            seconds.
        quiet: Do not print on standard error where the run is, what is measured and how often, and
            where its page is.

    Returns:
        The watch: a context manager with `step`, `findings` and `run`, and with looks at the model
        on request: `certify`, `sharpness`, `snapshot`, `ensemble`.

    Raises:
        BadArgument: An argument cannot be used, or two do not fit together.
        Unsupported: The model, the optimizer or the loop cannot be measured.
    """
    check_settings(
        model=model,
        loss=loss,
        out=out,
        name=name,
        scaler=scaler,
        accumulation=accumulation,
        budget=budget,
        every=every,
        steps=steps,
        trials=trials,
        parts=parts,
        level=level,
        seed=seed,
        to=to,
        groups=groups,
        batch_axis=batch_axis,
    )
    check_whole("checkpoints", checkpoints, 0)
    optimizers = optimizers_of(optimizer)
    called = model
    model = bare(model)
    source = source_of(model, accumulation)
    chosen = gauges_for(
        gauges,
        optimizers,
        has_loss=loss is not None,
        alone=not source.is_joint,
        sharded=not source.runs_model,
    )
    is_default = gauges is None and every is None and parts is None and accumulation == 1
    if is_default and loss is None and probe is None and groups is None:
        supported = bool(budget) and source.reads_successive
        if source.reads_successive and not reads_products(
            optimizers, chosen.names, supported=supported
        ):
            chosen = Asked(())  # what limits the run is looked for in any loop
    drawn = None
    if probe is not None:
        drawn = probe_from(probe, chosen, source, has_loss=loss is not None)
    reshard(model)
    refuse_what_cannot_be_watched(model, optimizers)
    refuse_unsupported_shards(model, source.ranks)
    batches = Batches(
        sampling_from(sampling, examples, replacement),
        drawn,
        groups,
        known=sampling is not None or examples is not None,
        axis=batch_axis,
    )
    trained = batches.loss_of(loss)
    objective = Objective(model, no_loss if trained is None else loss_of_a_person(trained))
    clock = clock_for(objective.parameters[0].device.type)
    subject = Subject(
        objective=objective,
        called=called,
        optimizers=optimizers,
        batches=batches,
        budget=Budget(budget, clock if isinstance(clock, Turns) else Turns(clock)),
        source=source,
        tell=log if source.is_first else in_silence,
        has_loss=loss is not None,
        scaler=scaler if scaler is not None and scaler.is_enabled() else None,
        seed=seed,
    )
    subject.budget.planned = steps
    return Watch(
        subject,
        out=Path(out),
        name=name,
        asked={"every": every, "gauges": ",".join(chosen.names), "parts": parts, "level": level},
        gauges=chosen,
        to=to,
        announcements=Announcements(page, quiet),
        trials=trials,
        checkpoints=checkpoints,
        data=sampling if isinstance(sampling, DataLoader) else None,
    )


def check_settings(
    *,
    model: Any,
    loss: Any,
    out: Any,
    name: Any,
    scaler: Any,
    accumulation: Any,
    budget: Any,
    every: Any,
    steps: Any,
    trials: Any,
    parts: Any,
    level: Any,
    seed: Any,
    to: Any,
    groups: Any,
    batch_axis: Any,
) -> None:
    """Check the type and the range of every argument that is used as it is given.

    Raises:
        BadArgument: One of them cannot be used.
    """
    if isinstance(model, torch.optim.Optimizer):
        raise BadArgument(
            "`model` is an optimizer: write watch(model, optimizer), the model first."
        )
    if not isinstance(model, nn.Module):
        raise BadArgument(f"`model` must be a torch.nn.Module, got {type_name(model)}.")
    if not (loss is None or callable(loss)):
        raise BadArgument(
            f"`loss` must be a function, called as loss(model, batch), got {type_name(loss)}."
        )
    if isinstance(loss, nn.Module):
        raise BadArgument(
            f"`loss` is a {type(loss).__name__}, which does not take a model and a batch: give "
            "loss=supervised(criterion) for batches of (input, target), or loss=lambda model, "
            "batch: ..."
        )
    check_place(out, name, to)
    check_scaler(scaler)
    check_whole("accumulation", accumulation, 1)
    check_number("budget", budget)
    check_number("trials", trials)
    if trials != 0 and loss is None:
        raise BadArgument("`trials` needs `loss`: give loss=lambda model, batch: ...")
    if not budget < 1:
        raise BadArgument(
            f"`budget` must be below 1, the whole training time, got {budget}: write 0.02 for 2 %."
        )
    for argument, value in (("every", every), ("steps", steps)):
        if value is not None:
            check_whole(argument, value, 1)
    if parts is not None:
        check_whole("parts", parts, 0)
    if parts == 1:
        raise BadArgument("`parts` must be at least 2, or 0 for one part per example, got 1.")
    check_level(level)
    check_whole("seed", seed, 0)
    check_whole("batch_axis", batch_axis, 0)
    if groups is not None and not callable(groups):
        check_whole("groups", groups, 2)


def optimizers_of(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The torch optimizers in an optimizer, in a wrapper of one (Accelerate, fastai), or in a list
    of these.

    Raises:
        BadArgument: There is none.
    """
    several = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    found = [bare_optimizer(one) for one in several]
    strangers = [type_name(one) for one in found if not isinstance(one, torch.optim.Optimizer)]
    if strangers or not found:
        raise BadArgument(
            "`optimizer` must be a torch optimizer, a wrapper of one or a list, got "
            f"{', '.join(strangers) or 'none'}: `watch` follows the `step` of the torch optimizer "
            "that trains `model`. In place of an update by hand, p.data.add_(p.grad, alpha=-lr), "
            "torch.optim.SGD(model.parameters(), lr) does the same."
        )
    return found


def sampling_from(sampling: Any, examples: int | None, replacement: bool | None) -> Sampling:
    """How batches are drawn, from any of the ways to give it.

    Raises:
        BadArgument: They contradict each other, or one cannot be used.
    """
    if examples is None and replacement is not None:
        raise BadArgument(
            "`replacement` is given without the size of the training set: give `examples` too."
        )
    if sampling is not None and examples is not None:
        raise BadArgument(
            "`sampling` and `examples` both say how batches are drawn: leave one of them out."
        )
    if examples is not None:
        check_whole("examples", examples, 1)
        if not isinstance(replacement, bool | None):
            raise BadArgument(f"`replacement` must be True or False, got {replacement!r}.")
        return Sampling(Draw.REPLACEMENT if replacement else Draw.RESHUFFLED, examples)
    if isinstance(sampling, DataLoader):
        return sampling_of(sampling)
    if not isinstance(sampling, Sampling | None):
        raise BadArgument(
            f"`sampling` must be a DataLoader or a Sampling, got {type_name(sampling)}: give "
            "sampling=loader."
        )
    return sampling or Sampling(Draw.REPLACEMENT)


def probe_from(probe: Any, gauges: Asked, source: GradientSource, *, has_loss: bool) -> Probe:
    """The source of independent examples, from what was given as `probe`.

    Raises:
        BadArgument: No examples can be taken from it, or they cannot be measured in this loop.
    """
    if not has_loss:
        raise BadArgument("`probe` is given without `loss`, which runs its examples: give both.")
    if not source.reads_successive:
        raise BadArgument(
            "`probe` is for one backward per update on one process: leave it out, and the "
            "backwards are measured."
        )
    back = next((kind.name for kind in gauges.kinds if kind.looks_back), "")
    if back:
        raise BadArgument(
            f"`gauges` names {back}, which needs training's own batches: leave it out, or `probe`."
        )
    return Probe.of(probe)
