"""Own loops with incidents, drawn at random: what their watch keeps of the newest updates, makes
again and puts back is compared with what the loop itself had."""

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer import GradiometerError, diagnose, watch
from gradiometer.integrations.watch import Watch
from gradiometer.verdict import say
from gradiometer.verdict.triage.signs import Signs

ROWS = 4096


class Pair(NamedTuple):
    """A batch of a class of one's own."""

    inputs: Tensor
    targets: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda inputs, targets: (inputs, targets),
    "list": lambda inputs, targets: [inputs, targets],
    "mapping": lambda inputs, targets: {0: inputs, 1: targets},
    "named": Pair,
}

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "Nesterov": lambda parameters: torch.optim.SGD(
        parameters, lr=0.02, momentum=0.9, nesterov=True
    ),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.005),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.05),
}


@dataclass
class Case:
    """A loop, its incident, and what is asked of its watch."""

    seed: int
    dtype: torch.dtype
    optimizer: str
    several: bool
    batch_norm: bool
    dropout: float
    size: int
    accumulation: int
    epoch: int
    form: str
    steps: int
    incident: str
    at: int
    scheduler: bool
    scaler: bool
    clips: bool
    checkpoints: int
    back_at: int | None
    back_by: int
    asked_at: int | None
    unfrozen: bool

    @classmethod
    def of(cls, seed: int) -> "Case":
        """The case of a seed."""
        draw = random.Random(seed)
        steps = draw.choice([40, 90, 150, 220])
        dtype = draw.choice([torch.float32] * 4 + [torch.float64, torch.bfloat16])
        several = draw.random() < 0.15
        scaler = draw.random() < 0.1 and not several and dtype == torch.float32
        return cls(
            seed,
            dtype,
            optimizer=draw.choice([*OPTIMIZERS]),
            several=several,
            batch_norm=draw.random() < 0.3,
            dropout=0.2 if draw.random() < 0.25 else 0.0,
            size=draw.choice([2, 4, 7, 16]),
            accumulation=draw.choice([1, 1, 1, 2, 3]),
            # batches in an epoch, whose end makes an update of fewer
            epoch=draw.choice([5, 9, 10, 33, 1000]),
            form=draw.choice([*FORMS]),
            steps=steps,
            incident=draw.choice(
                ["outlier", "nan", "inf", "rate", "weights", "batch", "level", "none"]
            ),
            at=draw.randrange(10, steps),
            scheduler=draw.random() < 0.25,
            scaler=scaler,
            clips=draw.random() < 0.15 and not scaler,
            checkpoints=draw.choice([1, 2, 3, 5]),
            back_at=draw.randrange(5, steps) if draw.random() < 0.5 else None,
            back_by=draw.choice([0, 1, 5, 20, 60]),
            asked_at=draw.randrange(5, steps) if draw.random() < 0.4 else None,
            unfrozen=draw.random() < 0.1,
        )


class Training:
    """The loop of a case, with what it had before each update."""

    def __init__(self, case: Case) -> None:
        self.case = case
        torch.manual_seed(case.seed)
        self.first = nn.Linear(4, 8)
        norm = nn.BatchNorm1d(8) if case.batch_norm else nn.Identity()
        self.last = nn.Linear(8, 1)
        self.model = nn.Sequential(
            self.first, norm, nn.ReLU(), nn.Dropout(case.dropout), self.last
        ).to(case.dtype)
        make = OPTIMIZERS[case.optimizer]
        self.optimizers = [make(self.model.parameters())]
        if case.several:
            others = [*norm.parameters(), *self.last.parameters()]
            self.optimizers = [make(self.first.parameters()), torch.optim.SGD(others, lr=0.01)]
        self.schedulers = [
            torch.optim.lr_scheduler.ExponentialLR(one, 0.995)
            for one in self.optimizers
            if case.scheduler
        ]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if case.scaler else None
        self.inputs = torch.randn(ROWS, 4).to(case.dtype)
        noise = 0.3 * torch.randn(ROWS, 1)
        self.targets = (self.inputs.float().sum(dim=1, keepdim=True) / 3 + noise).to(case.dtype)
        self.taken = 0
        self.states: list[dict[str, Tensor]] = []
        self.norms: list[list[float]] = []
        self.went_back = False
        if case.unfrozen:
            self.first.requires_grad_(False)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean(dim=1)

    def watched(self, out: Path) -> Watch:
        case = self.case
        settings: dict[str, Any] = {"scaler": self.scaler} if self.scaler else {}
        return watch(
            self.model,
            self.optimizers if case.several else self.optimizers[0],
            loss=self.loss,
            out=out,
            accumulation=case.accumulation,
            checkpoints=case.checkpoints,
            page=False,
            quiet=True,
            **settings,
        )

    def batch(self, step: int) -> Any:
        case = self.case
        rows = torch.arange(self.taken * case.size, (self.taken + 1) * case.size) % ROWS
        inputs, targets = self.inputs[rows], self.targets[rows]
        wrong = {"outlier": 300.0, "nan": math.nan, "inf": math.inf}.get(case.incident)
        if step == case.at and wrong is not None:
            targets[0] = wrong
        if step == case.at and case.incident == "batch":
            targets += 30
        if step >= case.at and case.incident == "level":
            targets += 10
        self.taken += 1
        return FORMS[case.form](inputs, targets)

    def change(self, step: int) -> None:
        """What the loop does before an update."""
        case = self.case
        if case.unfrozen and step == case.steps // 2:
            self.first.requires_grad_(True)
        if step == case.at and case.incident == "weights":
            with torch.no_grad():
                self.last.weight.add_(30.0)
        factor = {case.at: 50.0, case.at + 10: 0.02}.get(step, 1.0)
        if case.incident == "rate":
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] *= factor

    def update(self, step: int, watched: Watch | None) -> None:
        case = self.case
        self.change(step)
        self.states.append({name: one.clone() for name, one in self.model.state_dict().items()})
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        count = min(case.accumulation, case.epoch - self.taken % case.epoch)
        for batch in [self.batch(step) for _ in range(count)]:
            loss = self.loss(self.model, batch).mean()
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            (scaled / count).backward()
            if watched is not None:
                watched.step(loss.detach(), batch)
        trained = [one for one in self.model.parameters() if one.requires_grad]
        self.norms.append([0.0 if one.grad is None else float(one.grad.norm()) for one in trained])
        if case.clips:
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step() if self.scaler is None else self.scaler.step(optimizer)
        if self.scaler is not None:
            self.scaler.update()
        for scheduler in self.schedulers:
            scheduler.step()

    def run(self, watched: Watch | None) -> None:
        case = self.case
        for step in range(case.steps):
            self.update(step, watched)
            if watched is None:
                continue
            if step == case.asked_at:
                self.asked(watched)
            if step == case.back_at:
                self.go_back(watched, max(step - case.back_by, 0), step)

    def asked(self, watched: Watch) -> Any:
        """The cause of the incident; None if there is a reason why not."""
        before = {name: one.clone() for name, one in self.model.state_dict().items()}
        try:
            found = watched.incident(batches=(self.inputs, self.targets), batch_size=self.case.size)
        except GradiometerError as error:
            assert str(error).endswith("."), error
            found = None
        assert self.farthest(before) == 0, "asking moved the parameters"
        return found

    def go_back(self, watched: Watch, step: int, now: int) -> None:
        try:
            reached = watched.go_back(step)
        except GradiometerError as error:
            assert str(error).endswith("."), error
            return
        assert reached <= step
        far = self.farthest(self.states[reached])
        assert far <= 1e-3, f"at {now} going back to {step} reached {reached}, {far} away"
        self.went_back = True

    def farthest(self, state: dict[str, Tensor], model: nn.Module | None = None) -> float:
        """The largest difference of the model from a state, as a share of its largest number."""
        differences, sizes = [], [1.0]
        for name, one in (model or self.model).state_dict().items():
            two = state[name]
            both = one.isfinite() & two.isfinite()
            if not torch.equal(one.isfinite(), two.isfinite()):
                return math.inf
            differences.append(float((one[both].double() - two[both].double()).abs().sum()))
            sizes.append(float(two[both].double().abs().sum()))
        return max(differences) / max(sizes)


def fault(seed: int, folder: Path) -> str | None:
    """What is wrong with the case of a seed; None if nothing is."""
    case = Case.of(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(case, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error} ({case})"
    return None


def _check(case: Case, folder: Path) -> None:
    plain, training = Training(case), Training(case)
    plain.run(None)
    torch.manual_seed(case.seed + 1)
    with training.watched(folder) as watched:
        training.run(watched)
    if not (training.went_back or case.dropout):
        assert training.farthest(plain.model.state_dict()) == 0, "the bits of training differ"
    assert watched.run is not None
    said = [*watched.run.warnings, *watched.findings().warnings]
    stopped = [text for text in said if "no longer kept" in text or "has stopped" in text]
    assert not stopped, stopped
    _check_looks(training, Signs.of(watched.run))
    _check_updates(training, watched)
    found = training.asked(watched)
    if found is not None and not training.went_back:
        training.go_back(watched, found.start, case.steps)
    for finding in diagnose(watched.run).findings:
        str(say(finding))


def _check_looks(training: Training, signs: Signs) -> None:
    """The gradients of all looks are those of their own steps."""
    if training.case.unfrozen or training.went_back:
        return
    for look, norms in zip(signs.looks, signs.tensors.get("gradient", ()), strict=False):
        own = training.norms[int(look)]
        # single precision has no larger squares
        if max(own) < 1e15:
            assert np.allclose(norms, own, rtol=0.02, atol=1e-6 * max(own)), (look, norms, own)


def _check_updates(training: Training, watched: Watch) -> None:
    """The updates of the incident, made again on a copy, come to the states that training had."""
    case, held = training.case, watched.forks.newest_updates.incident
    # what changes weights between two updates, and draws, cannot be made again
    if held is None or case.dropout or case.incident == "weights" or case.clips:
        return
    data = training.inputs, training.targets
    try:
        loop, _ = watched.forks.own_loop(
            watched.run, data, None, batch_size=case.size, scheduler=None
        )
        copied = replace(
            held, batches=[*held.batches], rates=[*held.rates], losses=[*held.losses]
        ).brought_to(held.peak, loop, held.peak)
    except GradiometerError as error:
        assert str(error).endswith("."), error
        return
    far = training.farthest(training.states[held.peak], copied.model)
    rounding = 0.05 if case.dtype == torch.bfloat16 else 1e-3
    assert far <= rounding, f"from {held.state.step} to {held.peak}: {far}"
