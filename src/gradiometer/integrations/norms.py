"""Record a training from squared gradient norms that its program computes: in JAX, DeepSpeed,
Megatron or Keras."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import (
    check_level,
    check_number,
    check_whole,
    shown,
    type_name,
)
from gradiometer.errors import BadArgument
from gradiometer.estimation.noise import GradientNoise, moments_of_norms
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.record import (
    Announcements,
    Findings,
    WatchedRun,
    check_place,
)
from gradiometer.integrations.watch.shield import (
    Shield,
    WarningLog,
    attempt,
    log,
    reason_of,
)
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.reading import Draw, Reading, Sampling
from gradiometer.run.folder import WATCHED, versions
from gradiometer.run.reader import Run
from gradiometer.run.rules import MOST_STEPS

# Name of the only layer if the norms are those of the whole model.
WHOLE = "model"


Layers = Float[np.ndarray, " layers"]


def norms_of_step(
    small: Any, big: Any, sizes: Sequence[Any]
) -> tuple[tuple[str, ...], Layers, Layers, str]:
    """Check the arguments of `NormsWatch.norms`.

    Returns:
        The names of the layers; the mean of ‖ĝ_j‖² over the micro-batches of b examples, by layer;
        ‖ĝ‖² of all B examples, by layer; and a sentence if these can hardly be the norms of one
        step.

    Raises:
        BadArgument: A number is missing, negative or not finite, or the numbers cannot be norms of
            one step.
    """
    check_sizes(sizes)
    whole, each = by_layer("big", big), by_layer("small", small)
    if whole.keys() != each.keys():
        raise BadArgument(
            f"`small` has the layers {', '.join(each)}, and `big` has {', '.join(whole)}: give "
            "both by the same layers, or both for the whole model."
        )
    shapes = {values.shape for values in each.values()}
    if len(shapes) > 1:
        raise BadArgument(
            f"`small` must have one number per micro-batch in every layer, got shapes {shapes}."
        )
    if any(values.ndim for values in whole.values()):
        raise BadArgument(
            "`big` must be one number, or one per layer: the squared norm of the mean gradient."
        )
    parts = next(iter(shapes), ())[:1]
    if parts and parts[0] * sizes[0] > sizes[1]:
        raise BadArgument(
            f"`small` has {parts[0]} micro-batches of {sizes[0]} examples, more than the "
            f"{sizes[1]} of the batch: `sizes` is (examples of a micro-batch, examples of the "
            "whole batch)."
        )
    means = np.array([each[layer].mean() for layer in whole])
    squares = np.array([float(values) for values in whole.values()])
    is_complete = not parts or parts[0] * sizes[0] == sizes[1]
    return tuple(whole), means, squares, _doubt(means, squares, is_complete=is_complete)


def _doubt(small: Layers, big: Layers, *, is_complete: bool) -> str:
    """A sentence if these can hardly be the norms of one step; otherwise empty.

    The mean of ‖ĝ_j‖² over all micro-batches is at least the ‖ĝ‖² of their mean, and equal only
    without noise.
    """
    parts, whole = float(small.sum()), float(big.sum())
    # 0.02: largest relative error of a squared norm in bfloat16, with a margin.
    if is_complete and parts < whole * (1 - 0.02):
        return (
            f"`small` is {parts:.4g}, less than `big`, {whole:.4g}: give the mean of the squared "
            "norms over all micro-batches as `small` (or a list of those that you have), and "
            "the squared norm of the mean of their gradients, not of the sum, as `big`."
        )
    if whole > 0 and np.allclose(small, big, rtol=1e-6, atol=0):
        return (
            f"`small` equals `big`, {whole:.4g}: take the norms for `small` before the gradients "
            "are averaged over micro-batches or devices."
        )
    return ""


def check_sizes(sizes: Sequence[Any]) -> None:
    """Raise unless these are b and B, with b below B."""
    if not (isinstance(sizes, Sequence) and len(sizes) == 2):
        raise BadArgument(
            f"`sizes` must be (b, B), the examples of a micro-batch and of the batch, got "
            f"{sizes!r}."
        )
    for size in sizes:
        check_whole("sizes", size, 1)
    if not sizes[0] < sizes[1]:
        raise BadArgument(
            f"`sizes` must be (b, B) with b below B, got ({sizes[0]}, {sizes[1]}): one size shows "
            "no spread."
        )


def by_layer(name: str, value: Any) -> dict[str, Float[np.ndarray, "*micro_batches"]]:
    """Non-negative numbers by layer, one for each micro-batch. Names of nested mappings are joined
    by a dot.

    >>> by_layer("small", {"dense": {"kernel": [1.0, 3.0], "bias": [0.5, 0.1]}})
    {'dense.kernel': array([1., 3.]), 'dense.bias': array([0.5, 0.1])}
    """
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(tree, Mapping) for tree in value)
    ):
        trees = [dict(_leaves(tree)) for tree in value]
        if any(tree.keys() != trees[0].keys() for tree in trees):
            raise BadArgument(
                f"`{name}` has micro-batches with different layers: give the same ones for each."
            )
        leaves = {layer: [tree[layer] for tree in trees] for layer in trees[0]}
    elif isinstance(value, Mapping):
        leaves = dict(_leaves(value))
    else:
        leaves = {WHOLE: value}
    if not leaves:
        raise BadArgument(
            f"`{name}` has no layer: give a number, or a mapping from layer to number."
        )
    return {layer: _numbers(name, layer, leaf) for layer, leaf in leaves.items()}


def number(name: str, value: Any) -> float:
    """One number of Python, NumPy or JAX, or a tensor with one element.

    Raises:
        BadArgument: It is none of these.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadArgument(
            f"`{name}` must be a number, got {type(value).__name__} ({error})."
        ) from error


def _leaves(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _numbers(name: str, layer: str, value: Any) -> Float[np.ndarray, "*micro_batches"]:
    where = f"`{name}`" if layer == WHOLE else f"`{name}` of {layer}"
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        numbers = np.empty((0, 0))
    if value is None or isinstance(value, str | bytes) or numbers.ndim > 1 or not numbers.size:
        shown = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
        raise BadArgument(f"{where} must be a number or a list of numbers, got {shown}.")
    if not (np.isfinite(numbers) & (numbers >= 0)).all():
        wrong = numbers[~(np.isfinite(numbers) & (numbers >= 0))].flat[0]
        raise BadArgument(f"{where} must be squared norms, at least 0 and finite, got {wrong}.")
    return numbers


# A number of Python, NumPy, JAX or TensorFlow, or a tensor with one element.
Number = Any

# A number, a list or array with one number per micro-batch, or a mapping from layer to these,
# possibly nested.
Norm = Any


class NormsWatch:
    """Records a training from its squared gradient norms, for a program without a PyTorch loop.

    Two squared norms of one step, of gradients over b and over B examples, give unbiased estimates
    of tr Σ and ‖g‖². The run has the same estimates, findings and page as one of `watch`.
    Data-parallel training has both norms at hand: each device's gradient before the all-reduce (b),
    and the averaged gradient after it (B).

        with NormsWatch(name="gpt", optimizer="adamw") as w:
            for step in range(steps):
                ...
                if step % 10 == 0:
                    w.norms(small, big, sizes=(b, B), learning_rate=rate, loss=loss, step=step)
            print(w.findings())

    Call it on one process only. Problems in the first call raise. Later ones are warnings, and
    training continues.

    Args:
        out: Folder of the runs.
        name: Beginning of the run's name.
        optimizer: Name of the optimizer, such as "adamw".
        sampling: How batches are drawn. By default independent draws, which is close enough if the
            training set is much larger than the noise scale.
        level: Confidence level of every interval.
        to: Trackers that also get the estimates, as in `watch`.
        page: Write the page of the run when the `with` block ends, which takes 1 to 2 seconds.
        quiet: Do not print the paths of the run and of its page on standard error.

    Raises:
        BadArgument: An argument cannot be used.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, app. A.1.

    Example:
        >>> from gradiometer import NormsWatch
        >>> with NormsWatch(name="jax") as w:
        ...     for step in range(60):
        ...         w.norms(4.0 + step % 3, 2.0, sizes=(16, 128), learning_rate=0.1, loss=1 / (step + 1))
        >>> w.run.series("noise").moments["gradient_variance"][:2, 0].round(2).tolist()
        [36.57, 54.86]
        >>> w.run.steps
        60
    """

    def __init__(
        self,
        *,
        out: Path | str = "runs",
        name: str = "norms",
        optimizer: str | None = None,
        sampling: Sampling | None = None,
        level: float = LEVEL,
        to: Sequence[Any] = (),
        page: bool = True,
        quiet: bool = False,
    ) -> None:
        check_level(level)
        check_place(out, name, to)
        if not (optimizer is None or (isinstance(optimizer, str) and optimizer.strip())):
            raise BadArgument(f"`optimizer` must be a name such as 'adamw', got {optimizer!r}.")
        # Number of steps so far, which is the index of the next one.
        self.steps = 0
        self._warn = WarningLog(lambda: self.steps, log)
        self._shield = Shield(self._stop)
        self._trackers = Trackers(to, level, self._warn)
        self._announcements = Announcements(page, quiet)
        self._record = WatchedRun(
            out=Path(out),
            name=name,
            shield=self._shield,
            warn=self._warn,
            announcements=self._announcements,
        )
        if not isinstance(sampling, Sampling | None):
            raise BadArgument(f"`sampling` must be a Sampling, got {type_name(sampling)}.")
        self._optimizer = optimizer
        self._level = level
        self._sampling = sampling or Sampling(Draw.REPLACEMENT)
        if self._sampling.draw is Draw.RESHUFFLED and self._sampling.examples is None:
            raise BadArgument(
                "`sampling` is reshuffled, over a training set of unknown size: give its "
                "`examples`."
            )
        self._layers: tuple[str, ...] = ()
        self._warned: set[str] = set()
        self._inside = False

    def __enter__(self) -> "NormsWatch":
        if self._inside or self._record.has_begun:
            raise BadArgument(
                "`NormsWatch` can be entered only once, around the whole training: make another "
                "for another training."
            )
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._inside = False
        if not self._record.has_ended:
            self._close(error)

    def norms(
        self,
        small: Norm,
        big: Norm,
        sizes: Sequence[Number],
        *,
        learning_rate: Number,
        loss: Number | None = None,
        step: int | None = None,
    ) -> None:
        """Record the squared norms of the gradients of one step, all at the same parameters.

        Numbers may be those of Python, NumPy, JAX or TensorFlow, or tensors. They are fetched from
        the device at once, so call it at every n-th step if that makes training wait.

        Args:
            small: ‖ĝ_j‖², the squared norm of the mean gradient of the b examples of micro-batch j:
                its mean over all micro-batches of the step, or a list of those that are known. By
                layer: a mapping from layer to these, such as a tree of parameters with numbers in
                place of arrays.
            big: ‖ĝ‖², the squared norm of the mean gradient of all B examples, before clipping. By
                layer as `small`.
            sizes: (b, B), with b below B; B need not be a multiple of b.
            learning_rate: η at this step.
            loss: Mean loss of the batch.
            step: The step's number, above that of the last call. By default the next one.
        """
        if not (self._inside or self._record.has_begun):
            raise BadArgument(
                "`norms` must be called inside `with NormsWatch(...) as w:`, which goes around the "
                "whole training."
            )
        if self._record.has_ended:
            return
        with self._shield:
            try:
                reading = self._read(small, big, sizes, learning_rate, step)
                value = None if loss is None else number("loss", loss)
            except BadArgument as error:
                if self._record.recorder is None:
                    raise
                index = self.steps if step is None else step
                text = f"step {index} is not recorded: {str(error).rstrip('.')}"
                self._warn_once(text, error.argument)
                self.steps += step is None
                return
            self._add(reading, value)
        self._shield.before_first_update = False

    @property
    def run(self) -> Run | None:
        """The run as it is on disk now; None before the first call of `norms`, unless a state was
        loaded."""
        return self._record.run

    def findings(self) -> Findings:
        """The findings so far, the most urgent first, and the warnings."""
        return self._record.findings()

    def state_dict(self) -> dict[str, Any]:
        """Plain values for your checkpoint: with them the same run can be continued."""
        return self._record.state_dict(self.steps)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint. Call it before the first step."""
        self.steps = self._record.load_state_dict(state)

    def __repr__(self) -> str:
        run = self.run
        return f"<watch: {'no step yet' if run is None else f'{run.path}, {run.steps:,} steps'}>"

    def _repr_html_(self) -> str:
        """A card for notebooks: the run and its findings."""
        return self._record.card()

    def _close(self, error: BaseException | None) -> None:
        """Send the last estimates, and write the end of the training."""
        recorder = self._record.recorder
        if recorder is not None:
            with self._shield:
                self._trackers.send(recorder, recorder.budget.clock(), at_once=True)
        self._record.close(error, self.steps)

    def _stop(self, error: Exception) -> None:
        text = f"nothing is recorded from step {self.steps} on: {reason_of(error)}"
        attempt(lambda: self._warn(text))
        if self._record.recorder is not None:
            attempt(self._record.recorder.close)

    def _read(
        self,
        small: Norm,
        big: Norm,
        sizes: Sequence[Number],
        learning_rate: Number,
        step: int | None,
    ) -> Reading:
        """The reading, from the arguments of `norms`."""
        index = self.steps if step is None else step
        rate = number("learning_rate", learning_rate)
        check_number("learning_rate", rate)
        check_whole("step", index, self.steps)
        # a run with a larger one could not be read
        if not index < MOST_STEPS:
            raise BadArgument(f"`step` must be below {MOST_STEPS:,}, got {shown(index)}.")
        layers, parts, whole, doubt = norms_of_step(small, big, sizes)
        if self._layers and layers != self._layers:
            raise BadArgument(
                f"`big` has the layers {', '.join(layers)}, and had "
                f"{', '.join(self._layers)} in the first call."
            )
        if doubt:
            if self._record.recorder is None:
                raise BadArgument(doubt)
            self._warn_once(f"step {index}: {doubt.rstrip('.')}", "doubt")
        self._layers = layers
        variance, norm_squared = moments_of_norms(parts, whole, float(sizes[0]), int(sizes[1]))
        moments = {
            "gradient_variance": variance.tolist(),
            "gradient_norm_squared": norm_squared.tolist(),
        }
        return Reading(GradientNoise.name, int(index), int(sizes[1]), rate, moments)

    def _add(self, reading: Reading, loss: float | None) -> None:
        """Record a step, in a new run if it is the first one."""
        recorder = self._record.recorder
        if recorder is None:
            # Only settings that are known.
            is_reshuffled = self._sampling.draw is Draw.RESHUFFLED
            configuration = {
                "problem": self._record.name,
                "batch_size": reading.batch_size,
                "gauges": GradientNoise.name,
                "level": self._level,
                "sampling": "reshuffled" if is_reshuffled else "replacement",
                **({"learning_rate": reading.learning_rate} if reading.learning_rate else {}),
            }
            manifest = {
                "configuration": configuration,
                "versions": versions(),
                "sampling": self._sampling.to_dict(),
                "layers": list(self._layers),
                "mode": "given",
                "problem": {
                    "name": self._record.name,
                    "description": WATCHED,
                    "optimizer": self._optimizer,
                },
            }
            gauges = [GradientNoise()]
            recorder = self._record.begin(manifest, gauges, reading.step, mode="given")
            self._announcements.say(recorder.folder.path)
        with recorder.budget.spending():
            recorder.due(reading.step)
        recorder.record(reading)
        self.steps = reading.step + 1
        if loss is not None:
            recorder.loss(reading.step, loss)
            if not math.isfinite(loss):
                text = (
                    f"the loss is {loss} at step {reading.step:,}, for the first time in this run"
                )
                self._warn_once(text, "loss")
        self._trackers.send(recorder, recorder.budget.clock())

    def _warn_once(self, text: str, kind: str) -> None:
        """Warn, once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            attempt(lambda: self._warn(text))
