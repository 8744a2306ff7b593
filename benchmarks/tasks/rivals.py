"""Other ways to train without choosing a rate, as their packages and their documentation say. None
is required.

pip install schedulefree prodigyopt torch-lr-finder matplotlib optuna
"""

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from tasks.bank import Cell
from tasks.runs import MOMENTUM, SHAPES, End, losses_of, sgd, trained

WARM_UP = 0.05
LOWEST, HIGHEST, TRIED = 1e-6, 100.0, 100
"""Rates of the range test, and their number."""
SKIPPED_FIRST, SKIPPED_LAST = 10, 5
"""Losses of the range test that torch-lr-finder leaves out of its suggestion."""
REFRESHED = 20
"""Batches from which statistics of BatchNorm are measured anew at an averaged iterate."""

Method = Callable[[Cell, int], End]


def schedule_free(cell: Cell, seed: int) -> End:
    """Schedule-free SGD at 1.0, warmed up over 5 % of the steps."""
    kept = []

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        kept.append(
            import_module("schedulefree").SGDScheduleFree(
                model.parameters(),
                lr=1.0,
                momentum=MOMENTUM,
                warmup_steps=round(WARM_UP * cell.steps),
            )
        )
        kept[0].train()
        return kept[0]

    model = trained(cell, seed, optimizer, None)
    kept[0].eval()
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        with torch.no_grad():
            for _, batch in zip(range(REFRESHED), cell.batches(seed), strict=False):
                cell.loss(model, batch)
    return End(*losses_of(cell, model))


def prodigy(cell: Cell, seed: int) -> End:
    """Prodigy with its defaults, linear to zero."""
    made = import_module("prodigyopt").Prodigy
    return End(
        *losses_of(
            cell, trained(cell, seed, lambda model: made(model.parameters()), SHAPES["linear"])
        )
    )


def steepest(cell: Cell, seed: int) -> End:
    """The range test of torch-lr-finder, and its suggestion: where the loss falls fastest."""
    rates, losses = range_test(cell, seed)
    kept = slice(SKIPPED_FIRST, max(len(losses) - SKIPPED_LAST, SKIPPED_FIRST + 2))
    if len(losses[kept]) < 2:
        # The test ends at once where losses are negative, and has nothing to suggest.
        return found(cell, seed, float(rates[0]))
    return found(cell, seed, float(rates[kept][np.gradient(losses[kept]).argmin()]))


def found(cell: Cell, seed: int, rate: float) -> End:
    """A whole training at the rate that a range test found."""
    end = End(*losses_of(cell, trained(cell, seed, sgd(rate), SHAPES["linear"])), rate=rate)
    return replace(end, cost=1 + TRIED / cell.steps)


class WithLosses(nn.Module):
    """A model whose output is the losses of a batch, as torch-lr-finder wants a criterion of
    (outputs, labels)."""

    def __init__(self, cell: Cell, model: nn.Module) -> None:
        super().__init__()
        self.cell, self.model = cell, model

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The losses."""
        return self.cell.loss(self.model, batch)


def range_test(cell: Cell, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates, and smoothed losses of one update at each, with rates that grow exponentially."""
    finders = import_module("torch_lr_finder.lr_finder")
    model = WithLosses(cell, cell.model(seed))
    finder = finders.LRFinder(
        model, sgd(LOWEST)(model), lambda losses, _: losses.mean(), device="cpu"
    )
    batches = finders.TrainDataLoaderIter(
        (batch, torch.zeros(cell.batch)) for batch in cell.batches(seed)
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        finder.range_test(batches, end_lr=HIGHEST, num_iter=TRIED)
    losses = np.array(finder.history["loss"])
    return np.array(finder.history["lr"]), np.where(np.isfinite(losses), losses, math.inf)


def halving(cell: Cell, seed: int) -> End:
    """Successive halving of optuna, which spends one training on rates of SGD, and a whole training
    at the best of them. Its trials are pruned at a sixteenth of the training, and end at a
    quarter."""
    optuna = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    first = max(cell.steps // 16, 1)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
    )
    count = min(max(cell.steps * cell.batch // 32, 1), len(cell.train))
    some = cell.train.batch(
        torch.randperm(len(cell.train), generator=torch.Generator().manual_seed(seed))[:count]
    )
    spent = 0.0
    best = (math.inf, LOWEST)
    while spent < 1:
        trial = study.ask()
        rate = trial.suggest_float("rate", LOWEST, HIGHEST, log=True)
        model = cell.model(seed).train()
        optimizer, batches = sgd(rate)(model), cell.batches(seed)
        for rung, updates in ((1, first), (4, 3 * first)):
            for _ in range(updates):
                optimizer.zero_grad()
                cell.loss(model, next(batches)).mean().backward()
                optimizer.step()
                spent += 1 / cell.steps
            with torch.no_grad():
                loss = float(cell.loss(model, some).mean())
            spent += count / (3 * cell.steps * cell.batch)
            trial.report(loss if math.isfinite(loss) else 1e30, rung)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, loss if math.isfinite(loss) else 1e30)
            best = min(best, (loss, rate))
    return replace(found(cell, seed, best[1]), cost=1 + spent)


RIVALS: dict[str, tuple[str, Method]] = {
    "schedule-free 1.0": ("schedulefree", schedule_free),
    "Prodigy": ("prodigyopt", prodigy),
    "LR finder": ("torch_lr_finder", steepest),
    "optuna's halving": ("optuna", halving),
}
"""Package and method by name."""


def installed() -> dict[str, Method]:
    """The methods whose packages are here."""
    return {name: method for name, (package, method) in RIVALS.items() if find_spec(package)}
