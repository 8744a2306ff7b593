"""A training as settings, and the loop that runs it: a person's plain PyTorch loop, with `watch` or
without."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from clinic.catalogue import data_of, network_of
from clinic.data import Data, Pairs
from gradiometer.integrations.watch import watch
from gradiometer.loop.data import data_of as data_of_loop

EVALUATIONS = 12
"""Evaluations of a training, spread evenly."""
SHOWN = 400
"""Rows of an evaluation, of the held-out rows and of the training rows each."""
PATIENCE = 3
"""Evaluations without improvement after which a person who stops early stops."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. The defaults are healthy; an illness changes some of them.

    Args:
        network, data: Names of the network and of the data.
        optimizer: "sgd", "momentum", "nesterov", "rmsprop", "adam" or "adamw".
        schedule: "constant", "cosine", "step", "onecycle", "linear", "polynomial" (the square of
            linear), "warm" (a tenth of warm-up, then a cosine), "geometric" (down to a hundredth),
            "restarts" (cosines of one, two and four sevenths of the run), "plateau" (a third of the
            rate when the evaluations no longer improve), or one stepped in the wrong unit:
            "exponential" (a factor that is meant for epochs, at each step), "waves" (a cosine of
            `schedule_setting` steps, over and over) and "onecycle by epoch" (which hardly leaves
            its warm-up).
        schedule_setting: For "cosine", "step", "linear" and "polynomial" the part of the run at
            whose end they end; for "exponential" the factor; for "waves" the steps down.
        steps, batch: Updates of the training, and examples of an update.
        pieces, divided: Backwards of an update, and True if each divides its loss by their number.
        clip: The largest norm of the gradient, or None.
        zero_every: `zero_grad` is called at every `zero_every`-th update.
        examples: Number of training rows used, or None for all.
        keep_best: Stop when the evaluations no longer improve, and keep the best weights.
        leak: True if the rows of the evaluation are also trained on.
        shuffled: False if the rows are sorted by their target and read in order.
        scale, offset: Every second column, or the whole image, is multiplied by `scale`; `offset`
            is added.
        wrong_labels: Share of the training targets that are replaced by those of other rows.
        gain: Factor of the body's weights at the start, over PyTorch's default.
        bias: The body's biases at the start, or None for PyTorch's default.
        sigmoid: True if the activations of the body are sigmoids.
        dropout: Dropout before the head.
        softmax: True if the network ends in a softmax, which the loss takes again.
        stays_in_eval: True if `model.train()` is forgotten after an evaluation.
        frozen: "" or why the body does not learn: "optimizer" (it has the head alone) or
            "detached".
        bad_batch: Factor of the inputs of one batch with wrong labels at 85 % of the run, or 0.
        burst: Factor of the rate during 2 % of the run, at 85 % of it.
        nan_rows: Training rows with a NaN in their inputs.
        skip_bad: Batches with a loss far above the usual one, or without a finite one, are skipped.
    """

    network: str
    data: str
    optimizer: str
    rate: float
    schedule: str = "cosine"
    schedule_setting: float = 1.0
    steps: int = 500
    batch: int = 32
    momentum: float = 0.9
    weight_decay: float = 0.0
    pieces: int = 1
    divided: bool = True
    clip: float | None = None
    zero_every: int = 1
    examples: int | None = None
    keep_best: bool = False
    leak: bool = False
    shuffled: bool = True
    scale: float = 1.0
    offset: float = 0.0
    wrong_labels: float = 0.0
    gain: float = 1.0
    bias: float | None = None
    sigmoid: bool = False
    dropout: float = 0.0
    softmax: bool = False
    stays_in_eval: bool = False
    frozen: str = ""
    bad_batch: float = 0.0
    burst: float = 1.0
    nan_rows: int = 0
    skip_bad: bool = False

    def digest(self, seed: int) -> str:
        """A name of this training and seed, for its folder."""
        text = json.dumps([asdict(self), seed], sort_keys=True)
        return f"{self.network}-{self.data}-{hashlib.sha256(text.encode()).hexdigest()[:12]}-{seed}"


class Detach(nn.Module):
    """Cuts the graph between body and head."""

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers, without a gradient."""
        return x.detach()


def build(recipe: Recipe, data: Data) -> nn.Sequential:
    """The network of a recipe, as a body and a head."""
    activation = nn.Sigmoid if recipe.sigmoid else nn.ReLU
    layers, width = network_of(recipe.network)(data, activation)
    body = nn.Sequential(*layers)
    model = nn.Sequential()
    model.add_module("body", body)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if parameter.dim() >= 2:
                parameter.mul_(recipe.gain)
            elif recipe.bias is not None and name.endswith("bias"):
                parameter.fill_(recipe.bias)
    if recipe.frozen == "detached":
        model.add_module("detach", Detach())
    if recipe.dropout:
        model.add_module("dropout", nn.Dropout(recipe.dropout))
    model.add_module("head", nn.Linear(width, data.outputs))
    if recipe.softmax:
        model.add_module("softmax", nn.Softmax(dim=-1))
    return model


def optimizer_of(recipe: Recipe, model: nn.Sequential) -> torch.optim.Optimizer:
    """The optimizer of a recipe."""
    trained = model.head.parameters() if recipe.frozen == "optimizer" else model.parameters()
    settings: dict[str, Any] = {"lr": recipe.rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(trained, **settings)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(trained, **settings)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(trained, **settings)
    nesterov = recipe.optimizer == "nesterov"
    momentum = recipe.momentum if nesterov or recipe.optimizer == "momentum" else 0.0
    return torch.optim.SGD(trained, momentum=momentum, nesterov=nesterov, **settings)


def warm(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    """A tenth of warm-up, then a cosine."""
    up = recipe.steps // 10
    rise = schedulers.LinearLR(optimizer, 0.1, 1.0, total_iters=up)
    fall = schedulers.CosineAnnealingLR(optimizer, T_max=recipe.steps - up)
    return schedulers.SequentialLR(optimizer, [rise, fall], milestones=[up])


def scheduler_of(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    """One of PyTorch's schedulers."""
    setting, steps = recipe.schedule_setting, recipe.steps
    end = setting * steps
    kinds: dict[str, Callable[[], Any]] = {
        "constant": lambda: schedulers.ConstantLR(optimizer, factor=1.0),
        "cosine": lambda: schedulers.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * min(step / end, 1.0))) / 2
        ),
        "step": lambda: schedulers.MultiStepLR(optimizer, [int(0.5 * end), int(0.8 * end)]),
        "linear": lambda: schedulers.LinearLR(optimizer, 1.0, 0.0, total_iters=int(end)),
        "polynomial": lambda: schedulers.PolynomialLR(optimizer, int(end), power=2.0),
        "warm": lambda: warm(recipe, optimizer),
        "geometric": lambda: schedulers.ExponentialLR(optimizer, gamma=0.01 ** (1 / steps)),
        "restarts": lambda: schedulers.CosineAnnealingWarmRestarts(
            optimizer, T_0=math.ceil(steps / 7), T_mult=2
        ),
        "plateau": lambda: schedulers.ReduceLROnPlateau(optimizer, factor=1 / 3, patience=0),
        "exponential": lambda: schedulers.ExponentialLR(optimizer, gamma=setting),
        "waves": lambda: schedulers.CosineAnnealingLR(optimizer, T_max=int(setting)),
    }
    if recipe.schedule.startswith("onecycle"):
        return schedulers.OneCycleLR(optimizer, max_lr=recipe.rate, total_steps=steps + 1)
    return kinds[recipe.schedule]()


def rows_of(recipe: Recipe, data: Data, seed: int) -> tuple[Pairs, Pairs]:
    """The training rows and the rows of the evaluation, with what the recipe does to them."""
    generator = torch.Generator().manual_seed(1_000 + seed)
    inputs, targets = data.train
    shown = tuple(part[:SHOWN] for part in data.evaluation)
    if recipe.examples is not None:
        chosen = torch.randperm(len(inputs), generator=generator)[: recipe.examples]
        inputs, targets = inputs[chosen], targets[chosen]
    if recipe.leak:
        shown = (inputs[:SHOWN], targets[:SHOWN])
    if recipe.wrong_labels:
        wrong = torch.rand(len(targets), generator=generator) < recipe.wrong_labels
        others = targets[torch.randperm(len(targets), generator=generator)]
        targets = torch.where(wrong.view(-1, *[1] * (targets.dim() - 1)), others, targets)
    if not recipe.shuffled:
        keys = targets.flatten(1)[:, 0] if targets.dim() > 1 else targets
        order = keys.argsort(stable=True)
        inputs, targets = inputs[order], targets[order]
    if recipe.nan_rows:
        inputs = inputs.clone()
        damaged = torch.randperm(
            min(len(inputs), recipe.steps * recipe.batch // 2), generator=generator
        )
        inputs[damaged[: recipe.nan_rows]] = math.nan
    return (in_units(recipe, inputs), targets), (in_units(recipe, shown[0]), shown[1])


def in_units(recipe: Recipe, inputs: Tensor) -> Tensor:
    """The inputs in the units of the recipe: pixels and columns that nobody scaled."""
    if not inputs.is_floating_point() or (recipe.scale == 1 and recipe.offset == 0):
        return inputs
    scale = torch.full(inputs.shape[1:], recipe.scale)
    if inputs.dim() == 2:
        scale[1::2] = 1
    return inputs * scale + recipe.offset


def batches(recipe: Recipe, rows: Pairs, seed: int) -> Iterator[Pairs]:
    """Batches in shuffled epochs, or in the order of the rows, without end."""
    generator = torch.Generator().manual_seed(2_000 + seed)
    count, size = len(rows[0]), size_of(recipe, rows)
    while True:
        order = (
            torch.randperm(count, generator=generator) if recipe.shuffled else torch.arange(count)
        )
        for chosen in order[: count - count % size].split(size):
            yield rows[0][chosen], rows[1][chosen]


def size_of(recipe: Recipe, rows: Pairs) -> int:
    """The examples of a backward."""
    return min(max(recipe.batch // recipe.pieces, 1), len(rows[0]))


def damaged(recipe: Recipe, batch: Pairs) -> Pairs:
    """The one bad batch: inputs multiplied, targets of other rows."""
    inputs, targets = batch
    if inputs.is_floating_point():
        inputs = inputs * recipe.bad_batch
    return inputs, targets.roll(1, 0)


@dataclass
class Outcome:
    """How a training ended.

    Args:
        fresh: Loss on rows that the training never saw.
        evaluations: (step, loss of the evaluation, loss of training rows).
        losses: Losses of the batches.
        bits: Digits that identify the parameters at the end, bit for bit.
        seconds: Processor time of the training and its watch.
        spent: Share of the training time that trials took, by their own account.
    """

    fresh: float
    evaluations: list[tuple[int, float, float]]
    losses: list[float]
    bits: str = ""
    seconds: float = field(default=0.0, compare=False)
    spent: float = field(default=0.0, compare=False)


@torch.no_grad()
def loss_on(model: nn.Module, data: Data, rows: Pairs, *, stays_in_eval: bool = False) -> float:
    """The mean loss on these rows, in eval mode."""
    model.eval()
    value = float(data.loss(model(rows[0]), rows[1]))
    if not stays_in_eval:
        model.train()
    return value


def watched(
    recipe: Recipe,
    model: nn.Module,
    optimizer: Any,
    data: Data,
    rows: Pairs,
    out: Path | None,
    *,
    alone: bool,
    trials: float,
) -> Any:
    """The watch of a training on these rows, or nothing."""
    if out is None:
        return nullcontext()
    settings: dict[str, Any] = {"out": out, "page": False, "quiet": True}
    if not alone or trials:
        settings["loss"] = lambda model, batch: data.loss(model(batch[0]), batch[1])
    if not alone:
        settings |= {
            "steps": recipe.steps,
            "examples": len(rows[0]),
            "accumulation": recipe.pieces,
        }
    w = watch(model, optimizer, trials=trials, **settings)
    if trials:
        size = size_of(recipe, rows)
        # rows are indexed, as in the training: a DataLoader takes a third of an update
        drawn = (
            data_of_loop(rows, size) if recipe.shuffled else DataLoader(TensorDataset(*rows), size)
        )
        w.request.draw_from(drawn)
    return w


def train(
    recipe: Recipe,
    seed: int,
    out: Path | None = None,
    *,
    alone: bool = False,
    trials: float = 0.0,
) -> Outcome:
    """Train a recipe, under `watch` if there is a folder for the run: in two lines, without batch
    and evaluations, if it is watched alone. With trials such a watch has what trials need, too: the
    loss, the data and the batches."""
    torch.manual_seed(seed)
    data = data_of(recipe.data)
    rows, shown = rows_of(recipe, data, seed)
    model = build(recipe, data)
    optimizer = optimizer_of(recipe, model)
    scheduler = scheduler_of(recipe, optimizer)
    stream = batches(recipe, rows, seed)
    epoch = max(len(rows[0]) // recipe.batch, 1)
    bad_step = int(0.85 * recipe.steps)
    evaluate_every = max(recipe.steps // EVALUATIONS, 1)
    evaluations = Evaluations(recipe, model, data, shown, (rows[0][:SHOWN], rows[1][:SHOWN]))
    losses: list[float] = []
    began = time.process_time()

    model.train()
    with watched(recipe, model, optimizer, data, rows, out, alone=alone, trials=trials) as w:
        for step in range(recipe.steps):
            if step % recipe.zero_every == 0:
                optimizer.zero_grad()
            skipped = False
            for _ in range(recipe.pieces):
                batch = next(stream)
                if recipe.bad_batch and step == bad_step:
                    batch = damaged(recipe, batch)
                loss = data.loss(model(batch[0]), batch[1])
                if recipe.skip_bad and is_bad(float(loss.detach()), losses):
                    skipped = True
                    continue
                (loss / recipe.pieces if recipe.divided else loss).backward()
                losses.append(float(loss.detach()))
                if w is not None and alone and not trials:
                    w.step(loss)
                elif w is not None:
                    w.step(loss, batch)
            if not skipped:
                update(
                    recipe,
                    model,
                    optimizer,
                    in_burst=bad_step <= step < bad_step + max(recipe.steps // 50, 3),
                )
            every = epoch if recipe.schedule == "onecycle by epoch" else 1
            if recipe.schedule != "plateau" and (step + 1) % every == 0:
                scheduler.step()
            seen = None if alone else w
            if (step + 1) % evaluate_every == 0:
                if evaluations.evaluate(step + 1, seen):
                    break
                if recipe.schedule == "plateau":
                    scheduler.step(evaluations.taken[-1][1])
    seconds = time.process_time() - began
    evaluations.restore_best()
    fresh = loss_on(model, data, (in_units(recipe, data.fresh[0]), data.fresh[1]))
    spent = w.budget.spent_on["trials"] / w.budget.training if trials else 0.0
    return Outcome(fresh, evaluations.taken, losses, bits_of(model), seconds, spent)


def bits_of(model: nn.Module) -> str:
    """Digits that identify the parameters and buffers of a model, bit for bit."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def update(
    recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, *, in_burst: bool
) -> None:
    """Clip the gradient and take the step, in a burst of the rate with a larger one."""
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    factor = recipe.burst if in_burst else 1.0
    rate = optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"] = rate * factor
    optimizer.step()
    optimizer.param_groups[0]["lr"] = rate


@dataclass
class Evaluations:
    """The evaluations of a training, and the best weights so far where they are kept.

    Args:
        shown: Rows of the evaluation.
        trained: Training rows that are evaluated beside them.
    """

    recipe: Recipe
    model: nn.Module
    data: Data
    shown: Pairs
    trained: Pairs

    def __post_init__(self) -> None:
        self.taken: list[tuple[int, float, float]] = []
        self._best: dict[str, Tensor] | None = None

    def evaluate(self, step: int, w: Any) -> bool:
        """Evaluate, and give both losses to the watch. True if a person who keeps the best weights
        stops here."""
        stays = self.recipe.stays_in_eval
        test = loss_on(self.model, self.data, self.shown, stays_in_eval=stays)
        training = loss_on(self.model, self.data, self.trained, stays_in_eval=stays)
        evaluated(w, test, training)
        earlier = [loss for _, loss, _ in self.taken]
        self.taken.append((step, test, training))
        if not self.recipe.keep_best:
            return False
        if test < min(earlier, default=math.inf):
            self._best = {name: value.clone() for name, value in self.model.state_dict().items()}
        losses = [*earlier, test]
        return len(losses) > PATIENCE and min(losses[-PATIENCE:]) > min(losses[:-PATIENCE])

    def restore_best(self) -> None:
        """Put the best weights back, if they were kept."""
        if self._best is not None:
            self.model.load_state_dict(self._best)


def is_bad(loss: float, before: list[float]) -> bool:
    """True for a loss that is not finite, or more than five times the largest of the last 50."""
    return not math.isfinite(loss) or (len(before) >= 50 and loss > 5 * max(before[-50:]))


def evaluated(w: Any, test: float, training: float) -> None:
    """Give an evaluation to the watch. The only place that asks if this version of `watch` takes
    them."""
    if w is not None and hasattr(w, "evaluated"):
        w.evaluated(test=test, train=training)
