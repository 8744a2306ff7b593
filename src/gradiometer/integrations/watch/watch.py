"""`watch` measures your own training loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.gauges import GaugesAsked
from gradiometer.integrations.fsdp import is_sharded
from gradiometer.integrations.watch.description import bare, bare_optimizer, gauges_for
from gradiometer.integrations.watch.looks import Announcements
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

    Hooks read the gradients as `backward` makes them, before clipping, DDP's all-reduce and FSDP's reduce-scatter.
    They are in place only at measured steps. If an update takes one backward on one process, half of the batch is run
    once more, which needs `loss`. If it takes several backwards, or one on each of several processes, their gradients
    are compared, and nothing more is run.

    Args:
        model: The model that is trained: plain, compiled, wrapped in DistributedDataParallel, or sharded over all
            processes by `fully_shard` (FSDP2). Only the gradient noise of a sharded model is measured.
        optimizer: The optimizer that trains it, or a list of several.
        loss: Called as `loss(model, batch)`. Returns one value per example or their mean: the loss that is trained,
            under the same autocast, without a scaler. Optional if backwards are accumulated or if there are several
            processes; gauges that run the model, such as the batch sharpness, are then not available.
        out: Folder of the runs.
        name: Beginning of the run's name.
        sampling: How batches are drawn, such as `sampling_of(loader)`. By default independent draws, which is close
            enough if the training set is much larger than the noise scale.
        accumulation: Number of backwards per update on each process. Each divides its mean loss by this number.
        scaler: The GradScaler, if there is one.
        budget: Share of the training time that measuring may use; 0 switches measuring off.
        every: Measure at every `every`-th step instead of keeping to the budget.
        gauges: Names with commas between them, or a list of names and gauges of your own, such as
            ["noise", MyGauge()]. By default the noise and, if `loss` is given and the optimizer is SGD, the batch
            sharpness. On several processes: noise, temperature and trajectory only.
        parts: Number of parts that a batch is split into at a measured step of one backward; 0 means one per example.
        level: Confidence level of every interval.
        seed: Seed of the random numbers that measuring draws. Training's own random states are not touched.
        to: Trackers that also get the estimates, as value, low and high: TensorBoard writers, Lightning loggers,
            functions of (numbers, step). An active run of W&B, MLflow or trackio is found automatically.
        page: Write the page of a run with readings when the `with` block ends, which takes 1 to 2 seconds.
        quiet: Do not print the paths of the run and of its page on standard error.

    Returns:
        The watch: a context manager with `step`, `findings` and `run`, and with looks at the model on request:
        `certify`, `sharpness`, `snapshot`, `ensemble`.

    Raises:
        BadArgument: An argument cannot be used, or two do not fit together.
        Unsupported: The model, the optimizer or the loop cannot be measured.
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
        announcements=Announcements(page, quiet),
    )
