"""The instrument as a callback of Lightning's Trainer."""

import math
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.integrations.watch.description import sampling_of
from gradiometer.integrations.watch.record import Findings
from gradiometer.integrations.watch.watch import watch
from gradiometer.integrations.watch.watching import Watch
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import Loss

# Lightning has two package names whose classes do not mix: take the one that the program uses.
HOME = "pytorch_lightning" if "pytorch_lightning" in sys.modules else "lightning.pytorch"

try:
    Callback: Any = import_module(HOME).Callback
except ImportError as error:
    raise ImportError(
        "Lightning is not installed: pip install 'gradiometer[lightning]'."
    ) from error


class LightningCallback(Callback):
    """Watches the training of a LightningModule without changing it.

        trainer = Trainer(callbacks=[callback := LightningCallback(loss=loss)])
        trainer.fit(module, loader)
        print(callback.findings())

    Gradients are read as `backward` makes them, before Lightning clips them or divides by a scaler.
    Estimates go to the Trainer's loggers. The state is kept in the Trainer's checkpoints.

    Args:
        loss: Called as `loss(module, batch)`. Computes what `training_step` computes, without its
            logging: one value per example, or their mean. Optional with `accumulate_grad_batches`
            above 1, or on several processes.
        settings: Settings of `watch`, such as budget, every, gauges or out. Those that the Trainer
            knows are optional.
    """

    def __init__(self, loss: Loss | None = None, **settings: Any) -> None:
        super().__init__()
        self._loss = loss
        self._settings = settings
        self._watch: Watch | None = None
        self._state: Mapping[str, Any] | None = None
        self._batch: Batch = None
        self._value: Tensor = torch.tensor(float("nan"))

    @property
    def watch(self) -> Watch:
        """The watch; available from the start of training."""
        if self._watch is None:
            raise BadArgument(
                "`watch` is available from the start of training: call `trainer.fit` first."
            )
        return self._watch

    def findings(self) -> Findings:
        """The findings so far, the most urgent first."""
        return self.watch.findings()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start to watch, with the settings of the Trainer."""
        if not pl_module.automatic_optimization:
            raise Unsupported(
                "`automatic_optimization` is False, so the module makes its own backwards: put "
                "`gradiometer.watch` around them in `training_step`."
            )
        for other in trainer.callbacks:
            if len(set(getattr(other, "scheduling", {}).values())) > 1:
                raise Unsupported(
                    f"`callbacks` has a {type(other).__name__} that changes the number of "
                    f"backwards per update ({other.scheduling}), and so the batch size: use one "
                    "`accumulate_grad_batches` throughout."
                )
        known: dict[str, Any] = {
            "name": type(pl_module).__name__,
            "accumulation": trainer.accumulate_grad_batches,
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            "to": trainer.loggers,
            "steps": int(expected)
            if 0 < (expected := trainer.estimated_stepping_batches) < math.inf
            else None,
        }
        if "sampling" not in self._settings:
            known["sampling"] = sampling_of(trainer.train_dataloader)
        self._watch = watch(
            pl_module, trainer.optimizers, loss=self._loss, **(known | self._settings)
        )
        if self._state is not None:
            self._watch.load_state_dict(self._state)
        self._watch.__enter__()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the examples of the next backward."""
        self._batch = batch

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Keep their loss, which Lightning has divided for accumulation and possibly scaled."""
        with self.watch.shield:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            scale = scaler.get_scale() if scaler is not None else 1.0
            self._value = loss.detach() * (trainer.accumulate_grad_batches / scale)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """The gradients are complete."""
        self.watch.step(self._value, self._batch)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the validation loss, if the module logs one."""
        if self._watch is None or trainer.sanity_checking:
            return
        with self.watch.shield:
            # Names under which modules log their loss on held-out examples.
            names = [
                name
                for name in ("val_loss", "valid_loss", "validation_loss", "val/loss", "valid/loss")
                if name in trainer.callback_metrics
            ]
            if names:
                self.watch.evaluated(test=trainer.callback_metrics[names[0]])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The run is finished."""
        self.watch.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The run is interrupted."""
        if self._watch is not None:
            self._watch.__exit__(type(exception), exception, None)

    def state_dict(self) -> dict[str, Any]:
        """For the Trainer's checkpoints."""
        return {} if self._watch is None else self._watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the Trainer's checkpoints."""
        self._state = state_dict or None
