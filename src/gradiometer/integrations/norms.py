"""Record a training from squared gradient norms that its program computes: in JAX, DeepSpeed,
Megatron or Keras."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from gradiometer.arguments import check_level, check_number, check_whole
from gradiometer.errors import BadArgument, summary
from gradiometer.estimation.noise import GradientNoise, moments_of_norms
from gradiometer.integrations.announcements import Announcements
from gradiometer.integrations.given_norms import GivenNorms, number
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.findings import Findings
from gradiometer.integrations.watch.shield import reason_of
from gradiometer.integrations.watch.warning_log import WarningLog, log
from gradiometer.measurement.reading import Draw, Reading, Sampling
from gradiometer.run.folder import WATCHED, RunFolder, file_name, versions
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder
from gradiometer.verdict.diagnosis import diagnose

Number = Any
"""A number of Python, NumPy, JAX or TensorFlow, or a tensor with one element."""

Norm = Any
"""A number, a list or array with one number per micro-batch, or a mapping from layer to these,
possibly nested."""


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
        level: float = 0.9,
        to: Sequence[Any] = (),
        page: bool = True,
        quiet: bool = False,
    ) -> None:
        check_level(level)
        if optimizer is not None and not (isinstance(optimizer, str) and optimizer.strip()):
            raise BadArgument(f"`optimizer` must be a name such as 'adamw', got {optimizer!r}.")
        self._out = Path(out)
        self._name = file_name(name)
        self._optimizer = optimizer
        self._level = level
        self._sampling = sampling or Sampling(Draw.REPLACEMENT)
        if self._sampling.draw is Draw.RESHUFFLED and self._sampling.examples is None:
            raise BadArgument(
                "`sampling` is reshuffled, over a training set of unknown size: give "
                "its `examples`."
            )
        self._announcements = Announcements(page, quiet)
        self._log = WarningLog(lambda: self.steps, log)
        self._trackers = Trackers(to, level, self._log)
        self._recorder: Recorder | None = None
        self._layers: tuple[str, ...] = ()
        self._restored: Mapping[str, Any] = {}
        self._warned: set[str] = set()
        self._inside = False
        self.steps = 0
        """The next step: one more than the last that was recorded."""

    def __enter__(self) -> "NormsWatch":
        if self._inside or self._recorder is not None:
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
        if self._recorder is None or self._recorder.closed:
            return
        reason = {} if error is None else {"reason": summary(error)}
        try:
            with self._recorder as recorder:
                self._trackers.send(recorder, recorder.budget.clock(), at_once=True)
                recorder.event("finished" if error is None else "interrupted", self.steps, **reason)
        except Exception as failed:
            self._warn(f"the end of the run was not recorded: {reason_of(failed)}", "end")
        with suppress(Exception):
            self._announcements.show(self.run)

    @property
    def run(self) -> Run | None:
        """The run as it is on disk now; None before the first call of `norms`."""
        if self._recorder is None:
            return None
        if not self._recorder.closed:
            self._recorder.flush()
        return Run.open(self._recorder.folder.place)

    def findings(self) -> Findings:
        """The findings so far, the most urgent first, and the warnings."""
        run = self.run
        diagnosis = None if run is None else diagnose(run)
        found = () if diagnosis is None else diagnosis.findings
        return Findings(found, dict.fromkeys(self._log.texts), diagnosis)

    def _repr_html_(self) -> str:
        """A card for notebooks: the run and its findings."""
        return self.findings().card_of(self.run)

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
        if self._recorder is not None:
            self._shielded(self._recorder, (small, big, sizes, learning_rate, loss, step))
            return
        if not self._inside:
            raise BadArgument(
                "`norms` must be called inside `with NormsWatch(...) as w:`, which goes around the "
                "whole training."
            )
        reading, value = self._read(small, big, sizes, learning_rate, loss, step)
        self._keep(self._begin(reading), reading, value)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for your checkpoint: with them the same run can be continued."""
        if self._recorder is None:
            return {"steps": self.steps}
        if not self._recorder.closed:
            self._recorder.flush()
        return {
            "steps": self.steps,
            "run": str(self._recorder.folder.path),
            "recorder": self._recorder.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint. Call it before the first `norms`."""
        if self._recorder is not None:
            raise BadArgument(
                "`state` was loaded after the first `norms`: load it before, to continue the same "
                "run."
            )
        if "steps" not in state:
            raise BadArgument(
                "`state` is not the state_dict of a NormsWatch: give what `state_dict()` returned."
            )
        self.steps = int(state["steps"])
        self._restored = state

    def _shielded(self, recorder: Recorder, given: tuple[Any, ...]) -> None:
        """Record a step of a training that is under way. Nothing that happens here may end it."""
        if recorder.closed:
            return
        try:
            self._keep(recorder, *self._read(*given))
        except BadArgument as error:
            step = given[-1]
            self._warn(
                f"step {self.steps if step is None else step} is not recorded: "
                f"{str(error).rstrip('.')}",
                error.argument,
            )
            self.steps += step is None
        except Exception as error:
            self._warn(f"nothing is recorded from step {self.steps} on: {reason_of(error)}", "end")
            with suppress(Exception):
                recorder.close()

    def _read(
        self,
        small: Norm,
        big: Norm,
        sizes: Sequence[Number],
        learning_rate: Number,
        loss: Number | None,
        step: int | None,
    ) -> tuple[Reading, float | None]:
        """The reading and the loss, from the arguments of `norms`."""
        index, rate = self.steps if step is None else step, number("learning_rate", learning_rate)
        check_number("learning_rate", rate)
        check_whole("step", index, self.steps)
        given = GivenNorms.of(small, big, sizes)
        if self._layers and given.layers != self._layers:
            raise BadArgument(
                f"`big` has the layers {', '.join(given.layers)}, and had "
                f"{', '.join(self._layers)} in the first call."
            )
        if doubt := given.doubt:
            if self._recorder is None:
                raise BadArgument(doubt)
            self._warn(f"step {index}: {doubt.rstrip('.')}", "doubt")
        self._layers = given.layers
        variance, norm_squared = moments_of_norms(
            given.small, given.big, float(sizes[0]), int(sizes[1])
        )
        moments = {
            "gradient_variance": variance.tolist(),
            "gradient_norm_squared": norm_squared.tolist(),
        }
        reading = Reading(GradientNoise.name, int(index), int(sizes[1]), rate, moments)
        return reading, None if loss is None else number("loss", loss)

    def _begin(self, reading: Reading) -> Recorder:
        """Make the run's folder and recorder, or open those of a checkpoint."""
        known = "run" in self._restored
        folder = (
            RunFolder.open(self._restored["run"])
            if known
            else RunFolder.create(self._out, self._name, self._manifest(reading))
        )
        self._recorder = recorder = Recorder(folder, [GradientNoise()], mode="given")
        self._log.attach(recorder)
        self._announcements.say(folder.path)
        if known:
            recorder.load_state_dict(self._restored["recorder"])
            recorder.resume(reading.step)
        else:
            recorder.event("started", reading.step)
        return recorder

    def _manifest(self, reading: Reading) -> dict[str, Any]:
        """The contents of `run.toml`: only settings that are known."""
        return {
            "configuration": {
                "problem": self._name,
                "batch_size": reading.batch_size,
                "gauges": GradientNoise.name,
                "level": self._level,
                "sampling": "reshuffled"
                if self._sampling.draw is Draw.RESHUFFLED
                else "replacement",
                **({"learning_rate": reading.learning_rate} if reading.learning_rate else {}),
            },
            "versions": versions(),
            "sampling": self._sampling.to_dict(),
            "layers": list(self._layers),
            "mode": "given",
            "problem": {"name": self._name, "description": WATCHED, "optimizer": self._optimizer},
        }

    def _keep(self, recorder: Recorder, reading: Reading, loss: float | None) -> None:
        recorder.due(reading.step)
        recorder.record(reading)
        self.steps = reading.step + 1
        if loss is not None:
            recorder.loss(reading.step, loss)
            if not math.isfinite(loss):
                self._warn(
                    f"the loss is {loss} at step {reading.step:,}, for the first time in this run",
                    "loss",
                )
        self._trackers.send(recorder, recorder.budget.clock())

    def _warn(self, text: str, kind: str) -> None:
        """Warn, once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            with suppress(Exception):
                self._log(text)
