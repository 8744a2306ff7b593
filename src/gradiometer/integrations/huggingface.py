"""The instrument as a callback of the Hugging Face Trainer."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor, nn

from gradiometer.errors import BadArgument, Interrupted, Unsupported
from gradiometer.integrations.watch.description import sampling_of
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.observers.triage.batches import IGNORED
from gradiometer.integrations.watch.record import Findings
from gradiometer.integrations.watch.watch import watch
from gradiometer.integrations.watch.watching import Watch
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import Loss
from gradiometer.storage.disk import read_file

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("transformers is not installed: pip install 'gradiometer[hf]'.") from error

# In a checkpoint of the Trainer.
STATE = "gradiometer.json"

# What the Trainer tells a model of the tokens in all micro-batches of a step: its loss is then a
# part of a mean.
ITEMS = "num_items_in_batch"


def output_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss that the model itself returns."""
    loss: Tensor = _loss_in(model(**batch))
    return loss


def _loss_in(output: Any) -> Any:
    """The loss in the output of a model, found as the Trainer finds it: by its name, or first."""
    return output.get("loss") if isinstance(output, Mapping) else output[0]


class HuggingFaceCallback(TrainerCallback):
    """Watches the training of a Trainer without changing it.

        callback = HuggingFaceCallback()
        Trainer(model, args, train_dataset=examples, callbacks=[callback]).train()
        print(callback.findings())

    Gradients are read as `backward` makes them, before they are clipped. The first loss that is not
    finite is reported with its step, layer and examples, even if the Trainer's own log filters it
    out. The run is continued with the Trainer's checkpoints.

    Args:
        loss: Called as `loss(model, batch)`, with a batch as the Trainer gives it to
            `compute_loss`. By default the loss that is trained: the one that the model returns, or
            that of `label_smoothing_factor`, `compute_loss_func` or an own `compute_loss`, which
            measuring then calls on parts of a batch. Give it if an own `compute_loss` also does
            other things, such as logging.
        settings: Settings of `watch`, such as budget, every, gauges or out. Those that the Trainer
            knows are optional.
    """

    def __init__(self, loss: Loss | None = None, **settings: Any) -> None:
        self._loss = loss
        self._settings = settings
        self._own: _OwnLoss | None = None
        self._watch: Watch | None = None
        self._hook: Any = None
        self._trainer: Any = None
        # A step that somebody has put on the Trainer itself; None for that of its class.
        self._replaced: Callable[..., Tensor] | None = None
        self._made: tuple[Tensor, Batch] | None = None
        self._inside = False
        self._accumulation = 1

    @property
    def watch(self) -> Watch:
        """The watch; available from the start of training."""
        if self._watch is None:
            raise BadArgument(
                "`watch` is available from the start of training: call `trainer.train()` first."
            )
        return self._watch

    def findings(self) -> Findings:
        """The findings so far, the most urgent first."""
        return self.watch.findings()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start to watch, with the settings of the Trainer."""
        # the previous training ended in an error, which callbacks do not see
        if self._hook is not None:
            self._end(Interrupted("another training was started with the same callback"))
        model, self._accumulation = kwargs["model"], args.gradient_accumulation_steps
        known: dict[str, Any] = {"name": type(model).__name__, "accumulation": self._accumulation}
        known["steps"] = state.max_steps if state.max_steps > 0 else None
        if "sampling" not in self._settings:
            known["sampling"] = sampling_of(kwargs["train_dataloader"])
        self._trainer, resumed_from = _calling_trainer()
        self._own = _OwnLoss.of(self._trainer, self._take_loss)
        scaler = self._trainer.accelerator.scaler
        loss = self._loss or (output_loss if self._own is None else self._own)
        self._watch = watch(
            model, kwargs["optimizer"], loss=loss, scaler=scaler, **(known | self._settings)
        )
        for folder in (resumed_from, Path(args.output_dir, f"checkpoint-{state.global_step}")):
            if folder is not None and (kept := folder / STATE).exists():
                kept_state = json.loads(read_file(kept))
                if "run" in kept_state and not Path(kept_state["run"]).is_dir():
                    self._watch._warn(
                        f"the run of the checkpoint, {kept_state['run']}, is not here: a new run "
                        "begins"
                    )
                    kept_state = {"steps": kept_state["steps"]}
                self._watch.load_state_dict(kept_state)
                break
        self._hook = model.register_forward_hook(
            Hook(self._watch.shield, self._ran), with_kwargs=True
        )
        self._watch.__enter__()
        # The Trainer has clipped the gradients before it calls any callback.
        self._replaced = vars(self._trainer).get("training_step")
        self._trainer.training_step = partial(self._step, self._trainer.training_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has written a checkpoint."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        with self.watch.shield:
            if self.watch.ranks.first and folder.is_dir():
                (folder / STATE).write_text(json.dumps(self.watch.state_dict()))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the loss of an evaluation."""
        loss = kwargs.get("metrics", {}).get("eval_loss")
        if loss is not None and self._hook is not None:
            with self.watch.shield:
                self.watch.evaluated(test=float(loss))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The run is finished."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._hook.remove()
        self._hook = None
        del self._trainer.training_step
        if self._replaced is not None:
            self._trainer.training_step = self._replaced
        if self._own is not None:
            self._own.remove()
        self.watch.__exit__(None if error is None else type(error), error, None)

    def _ran(self, model: nn.Module, _: Any, batch: Mapping[str, Any], output: Any) -> None:
        """The model was run, by the Trainer or by a measurement."""
        if self._inside or self._own is not None or not model.training:
            return
        loss = _loss_in(output)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            return
        items, labels = batch.get(ITEMS), batch.get("labels")
        shares: Tensor | int = 1 if items is None else self._accumulation
        if items is not None and isinstance(labels, Tensor):
            # micro-batches of fewer tokens, as the last one of an epoch, are a smaller part; one
            # without any has a loss of zero
            shares = items / labels.ne(IGNORED).sum().clamp(min=1)
        self._made = (
            loss.detach() * shares,
            {name: value for name, value in batch.items() if name != ITEMS},
        )

    def _take_loss(self, loss: Tensor, batch: Batch, *, scaled: bool) -> None:
        """The Trainer computed a loss of its own. If it is scaled, it is a part of the mean of an
        update."""
        if not self._inside and loss.requires_grad:
            self._made = loss.detach() * (self._accumulation if scaled else 1), batch

    def _step(self, training_step: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
        """The Trainer's forward and backward of one micro-batch, and then the watch's step."""
        loss = training_step(*arguments, **named)
        self._backward()
        return loss

    def _backward(self) -> None:
        with self.watch.shield:
            if self._made is None:
                raise Unsupported(
                    "`model` returned no loss in training, and the Trainer did not call "
                    "`compute_loss`: put `gradiometer.watch` into its `training_step`."
                )
            (loss, batch), self._made = self._made, None
            self._inside = True
            try:
                self.watch.step(loss, batch)
            finally:
                self._inside = False


class _OwnLoss:
    """The loss of a Trainer that does not take it from its model: called by measuring, and observed
    in training.

    Args:
        trainer: The Trainer, whose `compute_loss` is wrapped until `remove`.
        computed: Takes the loss, its batch, and whether the loss is already scaled for
            accumulation.
    """

    def __init__(self, trainer: Any, computed: Callable[..., None]) -> None:
        self._trainer = trainer
        self._take_loss = computed
        self._compute = trainer.compute_loss
        self._counts = False
        trainer.compute_loss = self._observe

    @classmethod
    def of(cls, trainer: Any, computed: Callable[..., None]) -> "_OwnLoss | None":
        """None if the Trainer takes the loss from the model."""
        plain = getattr(type(trainer).compute_loss, "__module__", "") == "transformers.trainer"
        own = getattr(trainer, "label_smoother", None) or getattr(
            trainer, "compute_loss_func", None
        )
        return None if plain and own is None else cls(trainer, computed)

    def remove(self) -> None:
        """Leave the Trainer as it was."""
        vars(self._trainer).pop("compute_loss", None)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss that the Trainer computes."""
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        items = labels.ne(IGNORED).sum() if self._counts and isinstance(labels, Tensor) else None
        loss: Tensor = _first(self._compute(model, _copy(batch), num_items_in_batch=items))
        return loss

    def _observe(self, model: nn.Module, inputs: Any, *arguments: Any, **named: Any) -> Any:
        batch = _copy(inputs)  # labels are popped from the original
        result = self._compute(model, inputs, *arguments, **named)
        if model.training:
            self._counts = named.get("num_items_in_batch") is not None
            self._take_loss(_first(result), batch, scaled=self._divides_loss())
        return result

    def _divides_loss(self) -> bool:
        """As `Trainer.training_step` decides it."""
        stated = getattr(self._trainer, "loss_is_scaled_for_ga", None)
        if stated is not None:
            return bool(stated)
        by_model = getattr(self._trainer, "model_accepts_loss_kwargs", False) and self._counts
        return bool(by_model or getattr(self._trainer, "compute_loss_func", None) is not None)


def _copy(batch: Any) -> Any:
    return dict(batch) if isinstance(batch, Mapping) else batch


def _first(result: Any) -> Any:
    """The loss that `compute_loss` returned, with outputs or without."""
    return result[0] if isinstance(result, tuple) else result


def _calling_trainer() -> tuple[Any, Path | None]:
    """The Trainer that called the callback, which it does not pass on, and the checkpoint that it
    resumes from."""
    trainer: Any = None
    resumed_from: Path | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        one, given = frame.f_locals.get("self"), frame.f_locals.get("resume_from_checkpoint")
        if trainer is None and hasattr(one, "compute_loss") and hasattr(one, "training_step"):
            trainer = one
        if resumed_from is None and isinstance(given, str):
            resumed_from = Path(given)
        frame = frame.f_back
    if trainer is None:
        raise Unsupported(
            "`HuggingFaceCallback` was not called by a Trainer: put it into the Trainer's "
            "`callbacks`."
        )
    return trainer, resumed_from
