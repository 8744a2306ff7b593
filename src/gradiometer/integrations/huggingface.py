"""The instrument as a callback of the Hugging Face Trainer."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gradiometer.errors import BadArgument, Interrupted, Unsupported
from gradiometer.integrations.watch.description import sampling_of
from gradiometer.integrations.watch.findings import Findings
from gradiometer.integrations.watch.watch import watch
from gradiometer.integrations.watch.watching import Watch
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.loss import Loss

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("transformers is not installed: pip install 'gradiometer[hf]'.") from error

STATE = "gradiometer.json"
"""In a checkpoint of the Trainer."""

ITEMS = "num_items_in_batch"
"""What the Trainer tells a model of the tokens in all micro-batches of a step: its loss is then a part of a mean."""


def output_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss that the model itself returns."""
    loss: Tensor = _loss_in(model(**batch))
    return loss


def _loss_in(output: Any) -> Any:
    """The loss in the output of a model, found as the Trainer finds it: by its name, or first."""
    return output.get("loss") if isinstance(output, Mapping) else output[0]


class _Hook:
    """A hook on a module. Copies and pickles of the module do nothing in its place."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        if self._call is not None:
            self._call(*arguments)

    def __reduce__(self) -> tuple[type["_Hook"], tuple[()]]:
        return _Hook, ()


class HuggingFaceCallback(TrainerCallback):
    """Watches the training of a Trainer without changing it.

        callback = HuggingFaceCallback()
        Trainer(model, args, train_dataset=examples, callbacks=[callback]).train()
        print(callback.findings())

    Gradients are read as `backward` makes them, before they are clipped. The first loss that is not finite is reported
    with its step, layer and examples, even if the Trainer's own log filters it out. The run is continued with the
    Trainer's checkpoints.

    Args:
        loss: Called as `loss(model, batch)`, with a batch as the Trainer gives it to the model. By default the loss
            that the model returns. Give it if the Trainer computes another loss (label smoothing, `compute_loss`).
        settings: Settings of `watch`, such as budget, every, gauges or out. Those that the Trainer knows are optional.
    """

    def __init__(self, loss: Loss = output_loss, **settings: Any) -> None:
        self._loss, self._settings = loss, settings
        self._watch: Watch | None = None
        self._hook: Any = None
        self._made: tuple[Tensor, Batch] | None = None
        self._inside = False
        self._accumulation = 1

    @property
    def watch(self) -> Watch:
        """The watch; available from the start of training."""
        if self._watch is None:
            raise BadArgument("`watch` is available from the start of training: call `trainer.train()` first.")
        return self._watch

    def findings(self) -> Findings:
        """The findings so far, the most urgent first."""
        return self.watch.findings()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start to watch, with the settings of the Trainer."""
        if self._hook is not None:  # the previous training ended in an error, which callbacks do not see
            self._end(Interrupted("another training was started with the same callback"))
        model, self._accumulation = kwargs["model"], args.gradient_accumulation_steps
        known: dict[str, Any] = {"name": type(model).__name__, "accumulation": self._accumulation}
        if "sampling" not in self._settings:
            known["sampling"] = sampling_of(kwargs["train_dataloader"])
        self._watch = watch(model, kwargs["optimizer"], loss=self._loss, **(known | self._settings))
        if (kept := Path(args.output_dir, f"checkpoint-{state.global_step}", STATE)).exists():
            self._watch.load_state_dict(json.loads(kept.read_text()))
        self._hook = model.register_forward_hook(_Hook(self._ran), with_kwargs=True)
        self._watch.__enter__()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A backward was made that is not the last one of its step."""
        self._backward()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last backward of a step was made. Its gradients were read before any clipping."""
        self._backward()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has written a checkpoint."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if self.watch.ranks.first and folder.is_dir():
            (folder / STATE).write_text(json.dumps(self.watch.state_dict()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The run is finished."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._hook.remove()
        self._hook = None
        self.watch.__exit__(None if error is None else type(error), error, None)

    def _ran(self, model: nn.Module, _: Any, batch: Mapping[str, Any], output: Any) -> None:
        """The model was run, by the Trainer or by a measurement."""
        if self._inside or not model.training:
            return
        loss = _loss_in(output)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            return
        share = self._accumulation if ITEMS in batch else 1
        self._made = loss.detach() * share, {name: value for name, value in batch.items() if name != ITEMS}

    def _backward(self) -> None:
        if self._made is None:
            raise Unsupported(
                "`model` returned no loss in training, so the Trainer computes its own: put `gradiometer.watch` into "
                "its `training_step`."
            )
        (loss, batch), self._made = self._made, None
        self._inside = True
        try:
            self.watch.step(loss, batch)
        finally:
            self._inside = False
