"""`watch`: the instrument in a loop of your own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.gauges import GaugesAsked
from gradiometer.integrations.fsdp import is_sharded
from gradiometer.integrations.watch.description import bare, bare_optimizer, gauges_for
from gradiometer.integrations.watch.watching import Watch
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.run.ranks import Ranks


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    loss: Loss | None = None,
    out: Path | str = "runs",
    name: str = "loop",
    sampling: Sampling | None = None,
    accumulation: int = 1,
    scaler: Any = None,
    budget: float = 0.02,
    every: int | None = None,
    gauges: GaugesAsked | None = None,
    parts: int = 2,
    level: float = 0.9,
    seed: int = 0,
    to: Sequence[Any] = (),
) -> Watch:
    """Put the instrument beside a training loop of your own; training is the same, bit for bit.

    Call `step` after every `backward` and before `optimizer.step()`:

        with watch(model, optimizer, loss=loss) as w:
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch)
                optimizer.step()
            print(w.findings())

    Gradients are heard by hooks as `backward` makes them: clipping, DDP's all-reduce and FSDP's reduce-scatter come
    later. Hooks are in place at measured steps only. Where a step is one backward on one process, its spread is seen by
    running half of the batch once more, which takes `loss`; where it is several, or one on each of several processes,
    they are the spread.

    Args:
        model: The model, as it is trained: plain, compiled, wrapped in DistributedDataParallel, or sharded by
            `fully_shard` (FSDP2) over all processes, of which the gradient noise is measured.
        optimizer: The one that trains it, or several.
        loss: Called as `loss(model, batch)`; one value per example or their mean: the loss that is trained, under the
            same autocast, but without a scaler. May be left out where backwards are accumulated or there are several
            processes; what runs the model, such as the batch sharpness, is then not measured.
        out: Folder of the runs.
        name: Beginning of the run's name.
        sampling: How batches are drawn, such as `sampling_of(loader)`; left out, independent draws, which is as good
            as right where the training set is much larger than the batch.
        accumulation: Backwards an update takes on each process, each of the mean loss over so many.
        scaler: The GradScaler, where there is one.
        budget: Share of the training time that measuring may use; 0 switches it off.
        every: Measure every so many steps instead of keeping to the budget.
        gauges: Names with commas between them, or a list of names and gauges of your own, such as
            ["noise", MyGauge()]. By default the noise and, if `loss` is given and the optimizer is SGD, the batch
            sharpness. On several processes: noise, temperature and trajectory only.
        parts: Parts of the batch measured beside a step of one backward; 0 means per example.
        level: Confidence level of every interval.
        seed: Of the random numbers measuring draws; training's own are left alone.
        to: Where the estimates go too, as value, low and high: TensorBoard writers, Lightning loggers, functions of
            (numbers, step). A run of W&B, MLflow or trackio that is active is found by itself.

    Raises:
        BadArgument: Something does not fit together, in one sentence.
    """
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    chosen = gauges_for(
        gauges,
        [*map(bare_optimizer, optimizers)],
        has_loss=loss is not None,
        alone=Ranks.here().alone,
        sharded=is_sharded(bare(model)),
    )
    asked = {
        "budget": budget,
        "every": every,
        "gauges": ",".join(chosen.names),
        "parts": parts,
        "level": level,
        "seed": seed,
    }
    return Watch(
        model,
        optimizers,
        loss,
        out=Path(out),
        name=name,
        sampling=sampling or Sampling(Draw.REPLACEMENT),
        accumulation=accumulation,
        scaler=scaler,
        asked=asked,
        gauges=chosen,
        to=to,
    )
