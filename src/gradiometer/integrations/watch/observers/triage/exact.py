"""What can be seen exactly in a loop: parameters, dropout, modes, what `backward` finds, rows that
come back."""

import gc
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gradiometer.integrations.gradients import Listener, gradients_of
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.observers.triage.batches import (
    compared_by,
    goes_through_others,
    ranges_of_targets,
)
from gradiometer.integrations.watch.shield import Shield
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.steps import bare_optimizer, trained_ids
from gradiometer.run.budget import Budget


def facts_of(objective: Objective, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """What does not change along a training, for the event of a run."""
    kinds = {
        id(parameter): type(module).__name__
        for module in objective.model.modules()
        # networks of MAML have another `parameters`, without arguments
        for _, parameter in module.named_parameters(recurse=False)
    }
    parameters = objective.parameters
    return {
        "tensors": list(objective.names),
        "sizes": [parameter.numel() for parameter in parameters],
        "axes": [parameter.dim() for parameter in parameters],
        "rows": [len(parameter) if parameter.dim() else 1 for parameter in parameters],
        "layers": [kinds.get(id(parameter), "") for parameter in parameters],
        "untrained": untrained(objective, optimizers),
        "dropout": max(
            (float(p) for p in map(dropout_of, objective.model.modules()) if p is not None),
            default=0.0,
        ),
    }


def untrained(objective: Objective, optimizers: Sequence[torch.optim.Optimizer]) -> list[str]:
    """The names of parameters that no optimizer holds."""
    trained = trained_ids(optimizers)
    return [
        name
        for name, one in zip(objective.names, objective.parameters, strict=True)
        if id(one) not in trained
    ]


def dropout_of(module: nn.Module) -> float | None:
    """The share that a module drops in training; None if it drops nothing."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    share = getattr(module, "dropout", None)
    return share if isinstance(share, float) else None


def sensitive_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that act otherwise in eval mode."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
    ]


class BackwardsOfStep:
    """Listens to the backwards of one update: their number, `.grad` before the first and after the
    last of them.

    A backward of another model, such as the critic of a generator, does not count: it leaves these
    gradients alone. If gradients are set to None between two backwards, as in SAM, only those after
    that count.

    Args:
        objective: The model, whose parameters may be replaced between two looks.
        shield: Takes errors.
        optimizers: Those that clear the gradients now. Gradients of parameters that none of them
            has are left to lie.
    """

    def __init__(
        self,
        objective: Objective,
        optimizers: Sequence[torch.optim.Optimizer],
        shield: Shield,
    ) -> None:
        self._objective = objective
        self._optimizers = optimizers
        self._shield = shield
        self._parameters: Sequence[Tensor] = ()
        self._cleared: Sequence[Tensor] = ()
        self._listener: Listener | None = None
        self._reads_loss = False
        self.count = 0
        # ‖.grad‖ before the first backward; None if it was empty.
        self.stale: Tensor | None = None
        # What each backward was called on.
        self.roots: list[Tensor] = []
        # The outputs and labels that the newest loss has compared; None if they are not known.
        self.compared: tuple[Tensor, Tensor] | None = None
        # The least and the largest target of each loss whose targets are numbers.
        self.targets: list[Tensor] = []
        # True if a backward has reached this model whose gradient no update has used: that of a
        # generator, which goes through its discriminator.
        self.is_judge = False
        # True if the loss goes through parameters of another network.
        self.is_judged = False
        self._own: set[int] = set()
        self._made: Tensor | None = None
        self._marks: list[tuple[int, int]] = []
        self._marks_of_made: list[tuple[int, int]] = []

    @property
    def made(self) -> Tensor:
        """‖.grad‖ of every parameter after the last backward, before anything clipped it."""
        return self._norms() if self._made is None else self._made

    def start(self, *, reads_loss: bool) -> None:
        """Listen to the coming update.

        Args:
            reads_loss: True to look for what the loss compares.
        """
        self.stop()
        self._parameters = self._objective.parameters
        trained = trained_ids(self._optimizers)
        self._cleared = [one for one in self._parameters if id(one) in trained]
        self._reads_loss = reads_loss
        self.count = 0
        self.stale = None
        self.roots = []
        self.targets = []
        self.is_judge = self.is_judged = False
        self._own = {*map(id, self._parameters), *trained}
        self._made = None
        self._listener = Listener(
            Hook(self._shield, self._before), Hook(self._shield, self._after)
        ).start()

    def stop(self) -> None:
        """Do not listen any longer."""
        if self._listener is not None:
            self._listener.remove()
        self._listener = None
        self.compared = None

    @torch.no_grad()
    def _before(self, loss: Tensor | None) -> None:
        held = [
            parameter.grad.detach() for parameter in self._cleared if parameter.grad is not None
        ]
        if not held:
            self.is_judge |= self.count > 0
            self.count = 0
            self.roots = []
            self.targets = []
        if self.count == 0:
            self.stale = together(torch._foreach_norm(held)).norm() if held else None
        self._marks = self._written_grads()
        if self._reads_loss and loss is not None:
            self.compared = compared_by(loss)
            self.targets += ranges_of_targets(loss)
            self.is_judged |= goes_through_others(loss, self._own)

    @torch.no_grad()
    def _after(self, loss: Tensor | None) -> None:
        if self._written_grads() == self._marks:
            return
        self.count += 1
        if loss is not None:
            self.roots.append(loss)
        self._made = self._norms()
        self._marks_of_made = self._written_grads()

    @property
    def counts(self) -> dict[str, int]:
        """What is known of the backwards of this update without their numbers."""
        known = {"judge": self.is_judge, "judged": self.is_judged}
        return {"backwards": self.count} | {name: 1 for name, is_so in known.items() if is_so}

    @property
    def signs(self) -> dict[str, Tensor]:
        """What the losses and `.grad` show, as far as it is known, by name.

        "opposite" is 1 if the losses have one target each, and not the same, as a discriminator has
        for the true and for the false examples.
        """
        found = {} if self.stale is None else {"stale": self.stale}
        if self.roots:
            found["root"] = together([root.reshape(()) for root in self.roots]).mean()
        if len(self.targets) > 1:
            least, largest = torch.stack(self.targets).unbind(dim=1)
            found["opposite"] = ((least == largest).all() & (least.min() < least.max())).float()
        return found

    @property
    def is_unchanged(self) -> bool:
        """True if no `.grad` was written since `made` was taken."""
        return self._made is not None and self._written_grads() == self._marks_of_made

    def _written_grads(self) -> list[tuple[int, int]]:
        """Which tensor each `.grad` is, and how often it was written: what adds to it changes one
        of the two."""
        gradients = [parameter.grad for parameter in self._parameters]
        return [(0, 0) if one is None else (id(one), one._version) for one in gradients]

    def _norms(self) -> Tensor:
        return together(torch._foreach_norm(gradients_of(self._parameters)))


class PassingGradients:
    """Reads each gradient while `backward` makes it, for an optimizer that uses and clears it at
    once. Nothing is kept but numbers.

    Args:
        shield: Takes errors.
    """

    def __init__(self, shield: Shield) -> None:
        self._shield = shield
        self._parameters: Sequence[Tensor] = ()
        self._hooks: list[Any] = []
        self._norms: list[Tensor | None] = []
        self._nonzero: list[Tensor | None] = []

    def start(self, parameters: Sequence[Tensor]) -> None:
        """Read the gradients of the coming backward."""
        self.stop()
        self._parameters = parameters
        self._norms = [None] * len(parameters)
        self._nonzero = [None] * len(parameters)
        self._hooks = [
            one.register_hook(Hook(self._shield, partial(self._read, place)))
            for place, one in enumerate(parameters)
        ]

    @torch.no_grad()
    def _read(self, place: int, gradient: Tensor) -> None:
        self._norms[place] = gradient.norm()
        self._nonzero[place] = gradient.count_nonzero()

    def stop(self) -> None:
        """Remove the hooks."""
        if not self._hooks:
            return
        while self._hooks:
            self._hooks.pop().remove()
        for one in self._parameters:
            # with an empty list of hooks, every backward calls into Python for every parameter
            if one._backward_hooks is not None and not one._backward_hooks:
                one._backward_hooks = None

    @property
    def missing(self) -> int:
        """Parameters that had no gradient."""
        return sum(norm is None for norm in self._norms)

    @property
    def norms(self) -> Tensor:
        """‖·‖ of every parameter's gradient, 0 without one."""
        return self._together(self._norms)

    @property
    def nonzero(self) -> Tensor:
        """How many entries of every gradient are not zero."""
        return self._together(self._nonzero)

    def _together(self, numbers: Sequence[Tensor | None]) -> Tensor:
        pairs = zip(numbers, self._parameters, strict=True)
        return together([one.new_zeros(()) if number is None else number for number, one in pairs])


class SchedulersSeen(WeakKeyDictionary[torch.optim.lr_scheduler.LRScheduler, int]):
    """Schedulers that were found earlier, with the number of their steps then. To find them takes
    0.05 s and more. Those that nobody else has are forgotten.

    Attributes:
        at: Updates when they were found.
    """

    at = -1

    def still_set(self, optimizers: Sequence[torch.optim.Optimizer], steps: int) -> bool:
        """True if no update was made since, or they were stepped and the rates are theirs."""
        rates = [[group["lr"] for group in one.param_groups] for one in optimizers]
        are_used = bool(self) and all(
            one.last_epoch > before and getattr(one, "_last_lr", None) in rates
            for one, before in self.items()
        )
        return steps == self.at or are_used


def schedulers_of(
    optimizers: Sequence[torch.optim.Optimizer], steps: int, seen: SchedulersSeen | None = None
) -> tuple[list[torch.optim.lr_scheduler.LRScheduler], str]:
    """The schedulers of the optimizers, and if they were stepped at each "update" or "epoch".

    A scheduler knows its optimizer, and not the other way round, so that the collector of garbage
    is asked for it.

    Args:
        optimizers: The optimizers.
        steps: Updates so far.
        seen: Those that were found earlier, which are taken if they still set the rates. The ones
            that are found are added.
    """
    if seen is not None and seen.still_set(optimizers, steps):
        found = [*seen]
    else:
        found = _found_schedulers(optimizers)
    if seen is not None:
        seen.clear()
        seen.update({one: one.last_epoch for one in found})
        seen.at = steps
    each_update = all(2 * one.last_epoch >= steps for one in found)
    return found, "update" if each_update else "epoch"


def _found_schedulers(
    optimizers: Sequence[torch.optim.Optimizer],
) -> list[torch.optim.lr_scheduler.LRScheduler]:
    found = []
    for optimizer in optimizers:
        if not any("initial_lr" in group for group in optimizer.param_groups):
            continue
        known = [
            owner
            for owner in _owners(optimizer)
            if isinstance(owner, torch.optim.lr_scheduler.LRScheduler)
            and bare_optimizer(owner.optimizer) is optimizer
        ]
        # those that a chain or a sequence is made of are stepped by it
        inner = {id(part) for one in known for part in getattr(one, "_schedulers", ())}
        outer = [one for one in known if id(one) not in inner]
        if outer:
            found.append(max(outer, key=lambda one: one.last_epoch))
    return found


def _owners(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The objects that have an optimizer as an attribute, or a wrapper of it."""
    found = list[Any]()
    for holder in gc.get_referrers(optimizer):
        # Python keeps the attributes of an object in itself or in a dictionary
        owners = gc.get_referrers(holder) if isinstance(holder, dict) else [holder]
        found += owners
        for owner in owners:
            if isinstance(owner, torch.optim.Optimizer) and bare_optimizer(owner) is optimizer:
                found += _owners(owner) if owner is not optimizer else []
    return found


def plan_of(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """The scheduler of the optimizers and the length that it plans, in its own steps; empty if none
    can be seen."""
    schedulers, _ = schedulers_of(optimizers, 0)
    if not schedulers:
        return {}
    planned = planned_steps(schedulers)
    length = {} if planned is None else {"scheduled": planned}
    return {"scheduler": type(schedulers[0]).__name__, **length}


def planned_steps(schedulers: Sequence[Any]) -> int | None:
    """The length that the first scheduler plans, in its own steps; None if it plans none, as a
    warm-up does."""
    if not schedulers:
        return None
    first = schedulers[0]
    # a rate that is not lower at the end than at the start continues after it
    if getattr(first, "end_factor", 0.0) >= getattr(first, "start_factor", 1.0):
        return None
    # Attributes in which torch's schedulers keep the length of what they plan.
    known = (getattr(first, name, None) for name in ("total_steps", "T_max", "total_iters"))
    return next((length for length in known if isinstance(length, int)), None)


def together(numbers: Sequence[Tensor]) -> Tensor:
    """Single numbers as one tensor in single precision, on the device of the first."""
    device = numbers[0].device
    return torch.stack([number.to(device) for number in numbers]).float()


# Most rows of each kind whose fingerprints are kept: 32 KiB.
ROWS = 4096

# Most numbers of a row that go into its fingerprint: examples that agree in these are the same.
ENTRIES = 2**14


class SharedRows:
    """Compares the rows of one evaluation with the rows of the training batches that are looked at.

    The model is hooked from the first evaluation to the next one, and never if it is compiled.

    Args:
        model: The model.
        shield: Takes errors.
        budget: The account: what runs the model while it is charged is measuring, and no
            evaluation.
    """

    def __init__(self, model: nn.Module, shield: Shield, budget: Budget) -> None:
        self._model = model
        self._shield = shield
        self._budget = budget
        self._hook: Any = None
        self._calls: list[Tensor] = []
        self._trained: list[Tensor] = []
        self._keys: Tensor | None = None
        self._first: list[Tensor] | None = None
        self._evaluations = self._count = 0
        self._seen: set[int] = set()

    def evaluated(self) -> None:
        """An evaluation has ended."""
        self._evaluations += 1
        if self._evaluations == 1:
            self._hook = self._model.register_forward_pre_hook(Hook(self._shield, self._on_call))
        else:
            self.close()

    def close(self) -> None:
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def shared(
        self, inputs: Tensor | None, labels: Tensor | None, *, compares: bool
    ) -> dict[str, Tensor]:
        """How many rows of the batch were seen before, and how many of those in the evaluation are
        trained on.

        Args:
            inputs: The rows of the training batch that is looked at.
            labels: Their labels; None if they are not known.
            compares: False to leave out the evaluation, whose comparison takes as long as the rest
                of a look.
        """
        if inputs is None or not inputs.dim() or inputs[:1].numel() < 2:
            return {}
        signs = self._with_the_first(inputs, labels)
        if self._count < ROWS:
            rows = self._fingerprints(inputs)
            if self._trained:
                signs["repeated_rows"] = self._repeats(rows)
            if rows.is_cpu:
                self._seen.update(rows.tolist())
            self._trained.append(rows)
            self._count += len(rows)
        if not compares or self._hook is not None or not self._calls:
            return signs
        lengths = [torch.full((), float(len(rows)), device=rows.device) for rows in self._calls]
        return signs | {"evaluated_rows": torch.stack(lengths), "shared_rows": self._in_training()}

    def _with_the_first(self, inputs: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Whether some inputs and labels are those of the first batch, as in a loop whose batch is
        the whole training set. A loss over some nodes of a graph has other labels."""
        some = [self._fingerprints(inputs[:: max(len(inputs) // 16, 1)])]
        if labels is not None:
            flat = labels.detach().reshape(-1)
            some.append(flat[:: max(len(flat) // 16, 1)].clone())
        first, self._first = self._first, self._first or some
        if first is None or len(first) != len(some):  # not every look sees labels
            return {}
        if [one.shape for one in some] != [one.shape for one in first]:
            return {"same_rows": torch.zeros((), device=inputs.device)}
        differs = [(one != other).any() for one, other in zip(some, first, strict=True)]
        return {"same_rows": 1 - torch.stack(differs).any().float()}

    def _repeats(self, rows: Tensor) -> Tensor:
        """How many of these rows were seen before. On a CPU a set is quicker than a search in all
        of them."""
        if not rows.is_cpu:
            return torch.isin(rows, torch.cat(self._trained)).sum()
        count = len(self._seen.intersection(rows.tolist()))
        return torch.tensor(float(count), device="cpu")

    def _in_training(self) -> Tensor:
        """How many rows of each call of the evaluation are trained on."""
        if self._trained[0].is_cpu:
            counts = [sum(map(self._seen.__contains__, rows.tolist())) for rows in self._calls]
            return torch.tensor(counts, dtype=torch.float32, device="cpu")
        trained = torch.cat(self._trained)
        found = [torch.isin(rows.to(trained.device), trained).sum() for rows in self._calls]
        return torch.stack(found).float()

    def _on_call(self, _: nn.Module, arguments: Sequence[Any]) -> None:
        if torch.is_grad_enabled() or self._budget.is_spending:
            return
        if sum(map(len, self._calls)) >= ROWS:
            return
        inputs = next((one for one in arguments if isinstance(one, Tensor) and one.dim()), None)
        if inputs is not None and inputs.layout is torch.strided:
            self._calls.append(self._fingerprints(inputs))

    def _fingerprints(self, inputs: Tensor) -> Tensor:
        """One number a row: a sum of its bits with fixed factors, in whole numbers, so that no
        order rounds it."""
        rows = inputs.detach().reshape(len(inputs), -1)[:ROWS, :ENTRIES]
        bits = rows.float().contiguous().view(torch.int32) if rows.is_floating_point() else rows
        if self._keys is None or len(self._keys) < bits.shape[1]:
            self._keys = mixed(bits.shape[1], inputs.device)
        return (bits.long() * self._keys[: bits.shape[1]]).sum(dim=1)


def mixed(count: int, device: torch.device) -> Tensor:
    """Whole numbers without a pattern, made on the device, so that nothing is copied to it.

    Source: Knuth, MMIX: the factors of linear congruential generators.
    """
    numbers = torch.arange(1, count + 1, device=device) * 6364136223846793005
    return (numbers ^ (numbers >> 29)) * 2862933555777941757
