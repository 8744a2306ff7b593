"""`watch` measures your own training loop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from gradiometer.arguments import check_whole
from gradiometer.gauges import Asked, GaugesAsked
from gradiometer.integrations.announcements import Announcements
from gradiometer.integrations.fsdp import is_sharded, refuse_unsupported_shards, reshard
from gradiometer.integrations.watch.checks.arguments import (
    check_settings,
    optimizers_of,
    probe_from,
    sampling_from,
)
from gradiometer.integrations.watch.data import Batches
from gradiometer.integrations.watch.description import (
    PARTS,
    gauges_for,
    refuse_what_cannot_be_watched,
)
from gradiometer.integrations.watch.subject import Subject
from gradiometer.integrations.watch.successive import reads_products
from gradiometer.integrations.watch.watching import Watch
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.optimizer.several import bare
from gradiometer.measurement.reading import Sampling
from gradiometer.run.ranks import Ranks


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
    parts: int = 2,
    level: float = 0.9,
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
    run again: call `step` right after `backward`, with the loss that it was called on. With
    `every`, `parts`, `probe` or `groups`, or under an optimizer other than SGD, Adam, AdamW, NAdam
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
        every: Measure at every `every`-th step instead of keeping to the budget.
        steps: Number of updates of the whole training, if you know it: the first 40 readings are
            then spread over the run, up to 1,000 steps, in place of the first 300 steps.
        trials: Share of the training time that forks may use to try the cure of what limits the
            run, such as 0.1: at a few marks and at the end, on copies; the next headline uses what
            they show. Needs `loss`, and the data: sampling=loader, or a loop over
            `w.batches(loader)`.
        checkpoints: Number of earlier states of model and optimizer that are kept in memory, the
            newest of steps 4, 8, 16, 32, ..., so that `w.fork(at=STEP)` can start from them later,
            also after the last update. Each is a copy of at most 16 million numbers.
        gauges: Names with commas between them, or a list of names and gauges of your own, such as
            ["noise", MyGauge()]. By default the noise, if training's own gradients show it or there
            is `loss`; under Adam, AdamW, RMSprop, Adagrad and their kind also the preconditioned
            noise, unless the model is sharded; under SGD with `loss` also the batch sharpness, on
            one process. On several: noise, preconditioned_noise, temperature, trajectory, and with
            `loss` batch_sharpness and curvature_along_gradient.
        parts: Number of parts that a batch is split into at a measured step of one backward; 0
            means one per example.
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
    optimizers = optimizers_of(optimizer)
    chosen = gauges_for(
        gauges,
        optimizers,
        has_loss=loss is not None,
        alone=Ranks.here().alone,
        sharded=is_sharded(bare(model)),
    )
    is_default = gauges is None and every is None and parts == PARTS
    if is_default and loss is None and probe is None and groups is None and accumulation == 1:
        compared = is_sharded(bare(model)) or not Ranks.here().alone
        if not (compared or reads_products(optimizers, chosen.names, supported=bool(budget))):
            chosen = Asked(())  # what limits the run is looked for in any loop
    drawn = (
        None
        if probe is None
        else probe_from(probe, chosen, accumulation, has_loss=loss is not None)
    )
    asked = {
        "budget": budget,
        "every": every,
        "gauges": ",".join(chosen.names),
        "parts": parts,
        "level": level,
        "seed": seed,
    }
    model_as_called = model
    model = bare(model)
    reshard(model)
    refuse_what_cannot_be_watched(model, optimizers)
    refuse_unsupported_shards(model, Ranks.here())
    batches = Batches(
        sampling_from(sampling, examples, replacement),
        drawn,
        groups,
        known=sampling is not None or examples is not None,
        axis=batch_axis,
    )
    watched = Watch(
        Subject.of_loop(model, batches.loss_of(loss), budget),
        model_as_called,
        optimizers,
        out=Path(out),
        name=name,
        batches=batches,
        accumulation=accumulation,
        scaler=scaler,
        asked=asked,
        gauges=chosen,
        to=to,
        announcements=Announcements(page, quiet),
        trials=trials,
    )
    if isinstance(sampling, DataLoader):
        watched.on_the_way.draw_from(sampling)
    check_whole("checkpoints", checkpoints, 0)
    watched.on_the_way.kept.keep_states(checkpoints)
    watched.budget.planned = steps
    return watched
