"""`LoopState`: the state of a training loop that a user wrote, as a source of branches."""

import inspect
import zlib
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.forks.branch import Readout
from gradiometer.forks.continuation import Continuation, Step
from gradiometer.forks.copies import Parts
from gradiometer.forks.data import Data
from gradiometer.forks.evaluation import examples_of, held_out, losses_on, metrics
from gradiometer.forks.stream import Stream
from gradiometer.forks.untouched import refuse_outside
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.optimizer.wrappers import bare, bare_optimizer
from gradiometer.measurement.untouched import Surroundings, in_eval_mode
from gradiometer.randomness import untouched_randomness

TRAIN_EXAMPLES = 2048
"""Most training examples of the readout "train_loss"."""


class LoopState:
    """The state of a training loop that a user wrote, as a source of branches. Nothing here refers to the original.

    Args:
        parts: Copies of the model, the optimizer, the schedulers and the scaler.
        data: The training data.
        loss: The loss of training, called as `loss(model, batch)`.
        step: Makes one whole update, in place of `loss`: called as `step(model, optimizer, batch)`, returns the loss.
        evaluate: A function of the model that returns metrics, or a test set; None for the training loss only.
        accumulation: Number of batches in one update.
        epoch: Number of updates after which training steps its schedulers.
        seed: Seed of the fork.
        index: Index of the first update, as training counts.
        readout_examples: Most training examples of the readout "train_loss".
    """

    def __init__(
        self,
        parts: Parts,
        data: Data,
        *,
        loss: Loss | None = None,
        step: Step | None = None,
        evaluate: Any = None,
        accumulation: int = 1,
        epoch: int = 1,
        seed: int = 0,
        index: int = 0,
        readout_examples: int = TRAIN_EXAMPLES,
    ) -> None:
        self.seed, self._parts, self._data, self._index = seed, parts, data, index
        self._readout_examples = readout_examples
        self._loss, self._step, self._evaluate = loss, step, evaluate
        self._accumulation, self._epoch = accumulation, epoch
        self._some: list[Batch] | None = None

    @property
    def devices(self) -> set[torch.device]:
        """The devices of the parameters."""
        return {parameter.device for parameter in self._parts.model.parameters()}

    def continuation(self, replicate: int) -> Continuation:
        """New copies, and the data in the order of this replicate."""
        parts = self._parts.copied()
        batches = self._data.batches(self._numbered(f"data/{replicate}"))
        device = next(parts.model.parameters()).device
        return Continuation(
            parts.model,
            parts.optimizer,
            Stream(batches, accumulation=self._accumulation, device=device),
            loss=self._loss,
            step=self._step,
            schedulers=parts.schedulers,
            epoch=self._epoch,
            scaler=parts.scaler,
            step_index=self._index,
        )

    def readouts(self, model: nn.Module) -> dict[str, Readout]:
        """The training loss on a few fixed examples, the loss and accuracy on a test set, the user's metrics."""
        seed, found, evaluate = self._numbered("readouts"), dict[str, Readout](), self._evaluate
        used = Surroundings((self._loss, evaluate), model)
        with torch.no_grad(), untouched_randomness(seed, self.devices), used.untouched(seed), in_eval_mode(model):
            if self._loss is not None:
                if self._some is None:
                    self._some = self._data.some(self._readout_examples, seed)
                found |= losses_on(iter(self._some), self._loss, model, "train")
            if is_test_set(evaluate):
                assert self._loss is not None
                found |= losses_on(held_out(evaluate), self._loss, model, "test")
            elif evaluate is not None:
                found |= metrics(evaluate, model)
        return found

    def _numbered(self, purpose: str) -> int:
        return zlib.crc32(f"{self.seed}/{purpose}".encode())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parts": self._parts.dumped(), "_some": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._parts = Parts.loaded(state["_parts"])


def parts_of(model: Any, optimizer: Any, scheduler: Any, scaler: Any) -> Parts:
    """What a training changes, without wrappers.

    Args:
        model: A model, also under DDP or torch.compile.
        optimizer: Its optimizer.
        scheduler: None, a scheduler, or a list of them.
        scaler: None or a GradScaler.

    Raises:
        BadArgument: They do not fit together.
        Unsupported: The training cannot be continued in a copy.
    """
    if not isinstance(model, nn.Module):
        raise BadArgument(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    model, optimizer = bare(model), bare_optimizer(optimizer)
    schedulers = tuple(scheduler) if isinstance(scheduler, list | tuple) else () if scheduler is None else (scheduler,)
    _check_model(model)
    _check_optimizer(model, optimizer)
    for one in schedulers:
        _check_scheduler(one, optimizer)
    return Parts(model, optimizer, schedulers, scaler if scaler is not None and scaler.is_enabled() else None)


def is_test_set(evaluate: Any) -> bool:
    """True for examples, False for a function of the model and for None."""
    return evaluate is not None and (not callable(evaluate) or isinstance(evaluate, Dataset | DataLoader))


def check_functions(parts: Parts, *, loss: Any, step: Any, evaluate: Any, scaler: Any, accumulation: int) -> None:
    """Raise unless these arguments of `fork` fit together."""
    check_whole("accumulation", accumulation, 1)
    if (loss is None) == (step is None):
        raise BadArgument("`loss` or `step` must be given, and not both.")
    for name, function, arguments in (("loss", loss, "(model, batch)"), ("step", step, "(model, optimizer, batch)")):
        if isinstance(function, nn.modules.loss._Loss):
            raise BadArgument(
                f"`{name}` must be a function of {arguments}, got {type(function).__name__}, a criterion on "
                f"(prediction, target): write supervised(nn.{type(function).__name__}(reduction='none'))."
            )
        if function is not None and not callable(function):
            raise BadArgument(f"`{name}` must be a function of {arguments}, got {type(function).__name__}.")
    if step is not None and (accumulation > 1 or scaler is not None):
        raise BadArgument("`step` makes a whole update: use `accumulation` and `scaler` with `loss`, or inside of it.")
    if step is not None and (evaluate is None or is_test_set(evaluate)):
        raise BadArgument("`evaluate` must be a function of the model with `step`, since no loss is known for it.")
    if loss is not None and _wants_closure(parts.optimizer):
        raise BadArgument(
            f"`optimizer` {type(parts.optimizer).__name__} calls the loss itself: give `step`, which makes a whole "
            "update with its closure, in place of `loss`."
        )
    if is_test_set(evaluate):
        examples_of(evaluate)
    for name, function in (("loss", loss), ("step", step), ("evaluate", evaluate)):
        refuse_outside(name, function, parts.model)


def _wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    parameters = inspect.signature(optimizer.step).parameters
    return "closure" in parameters and parameters["closure"].default is inspect.Parameter.empty


def _check_model(model: nn.Module) -> None:
    if not model.training:
        raise BadArgument("`model` is in eval mode, and branches train it: call model.train() before.")
    if dist.is_available() and dist.is_initialized():
        for module in model.modules():
            if isinstance(module, nn.SyncBatchNorm):
                raise Unsupported("`model` has SyncBatchNorm, which needs all processes, and branches train on one.")
    if any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        raise Unsupported(
            "`model` is sharded (FSDP or tensor parallel), and branches train a whole copy on one process."
        )
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise Unsupported("`model` has parameters without a shape: run it once on a batch before.")


def _check_optimizer(model: nn.Module, optimizer: Any) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadArgument(f"`optimizer` must be one torch.optim.Optimizer, got {type(optimizer).__name__}.")
    own = {id(parameter) for parameter in model.parameters()}
    if not all(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise Unsupported(
            "`optimizer` trains a parameter that is not in `model`, so that a copy of the model would not train it: "
            "put all trained modules into one, such as nn.ModuleDict, and give that as `model`."
        )


def _check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        raise Unsupported(
            "`scheduler` is ReduceLROnPlateau, which needs a metric at every step: leave it out, and the rate stays "
            "what it is now."
        )
    if not isinstance(scheduler, LRScheduler):
        raise BadArgument(f"`scheduler` must be a scheduler of torch, got {type(scheduler).__name__}.")
    if bare_optimizer(scheduler.optimizer) is not optimizer:
        raise BadArgument("`scheduler` belongs to another optimizer than the one given as `optimizer`.")
