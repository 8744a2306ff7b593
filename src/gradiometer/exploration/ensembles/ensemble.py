"""Several models as one: the mean of their probabilities, the mean of their weights (SWA and SWAG),
and the export to a file that runs without this library: torch's exported program, or ONNX.
"""

import copy
import importlib.util
import io
import math
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.optim.swa_utils import AveragedModel

from gradiometer.arguments import check_number, check_whole
from gradiometer.errors import BadArgument, StorageFailed, Unsupported, of_user
from gradiometer.exploration.ensembles.snapshots import Snapshot
from gradiometer.measurement.gradient_graph import flat, unflat


class Ensemble(nn.Module):
    """p(class | x) ∝ (Σ_m w_m softmax(f_m(x)))^{1/τ}: the members' probabilities, averaged, then
    calibrated.

    The mean of the probabilities is computed in logarithms, so that a probability below the
    smallest float keeps its loss. The members run in a plain loop, which every exporter can follow;
    memory and time are those of M models. In
    training mode the members behave as in training: call `.eval()`, or `export`, which does.

    Args:
        members: Models from the same inputs to logits [examples, classes], the newest last. They
            are not copied.
        temperature: τ of the averaged prediction, fitted on data that are not scored.

    Raises:
        BadArgument: There are fewer than two members, or the temperature is invalid.

    Example:
        >>> import torch
        >>> from gradiometer import Ensemble
        >>> members = [torch.nn.Linear(1, 2, bias=False) for _ in range(2)]
        >>> for model, weight in zip(members, (1.0, 3.0)):
        ...     _ = torch.nn.init.constant_(model.weight[1], 0.0), torch.nn.init.constant_(model.weight[0], weight)
        >>> Ensemble(members)(torch.ones(1, 1)).detach()
        tensor([[0.8418, 0.1582]])

    Source: Huang et al. (2017), Snapshot Ensembles, section 3, "Test-time ensembling"; the
    temperature of an average: Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation,
    section 3.
    """

    weights: Tensor
    temperature: Tensor

    def __init__(self, members: Iterable[nn.Module], temperature: float = 1.0) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        count = len(self.members)
        if not count >= 2:
            raise BadArgument(
                f"`members` must be at least 2 models, got {count}: an average needs two."
            )
        check_number("temperature", temperature, positive=True)
        # Buffers, so that exporters and moves to a device take them along.
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    @classmethod
    def of_snapshots(
        cls, snapshots: Sequence[Snapshot], model: nn.Module, **settings: Any
    ) -> "Ensemble":
        """The ensemble of the snapshots' models, in eval mode.

        Args:
            snapshots: In the order in which they were taken.
            model: A model of their architecture. It is copied, not changed.
            settings: `temperature`.

        Raises:
            BadArgument: A snapshot is of another architecture, or there is only one.
        """
        members = []
        for snapshot in snapshots:
            member = copy.deepcopy(model)
            snapshot.load_into(member)
            members.append(member)
        return cls(members, **settings).eval()

    def __len__(self) -> int:
        return len(self.members)

    def last(self, count: int, temperature: float = 1.0) -> "Ensemble":
        """The ensemble of the last `count` members, the same models."""
        if not 2 <= count <= len(self):
            raise BadArgument(
                f"`count` must lie between 2 and the {len(self)} members, got {count}."
            )
        return Ensemble(list(self.members)[-count:], temperature=temperature).train(self.training)

    def log_probabilities(self, *inputs: Any) -> Float[Tensor, "examples classes"]:
        """log p(class | x) for every example."""
        parts = [
            torch.log_softmax(member(*inputs), dim=1) + share.log()
            for member, share in zip(self.members, self.weights, strict=True)
        ]
        mean = torch.logsumexp(torch.stack(parts), dim=0)
        return torch.log_softmax(mean / self.temperature, dim=1)

    def forward(self, *inputs: Any) -> Float[Tensor, "examples classes"]:
        """p(class | x) for every example."""
        return self.log_probabilities(*inputs).exp()


class SWAG:
    """Mean, variance and last deviations of the weights of a stream of models, in one pass.

    The mean is stochastic weight averaging (torch's `AveragedModel`). Mean, diagonal variance and
    deviations are the Gaussian of SWAG. With the snapshots of a run they cost no training.
    BatchNorm's statistics are those of the first
    model: re-estimate them with `refresh_batch_norm` before you use the average or a drawn model.

    This describes one basin. The average of models from different basins lies on the barrier
    between them, and the Gaussian does not cover the posterior outside of the region that SGD
    visited.

    Args:
        model: A model of the stream's architecture. It is not changed.
        rank: Number of last deviations that are kept.

    Example:
        >>> import torch
        >>> from gradiometer.exploration.ensembles import SWAG
        >>> swag = SWAG(torch.nn.Linear(1, 1, bias=False))
        >>> for weight in (1.0, 2.0, 3.0):
        ...     model = torch.nn.Linear(1, 1, bias=False)
        ...     _ = torch.nn.init.constant_(model.weight, weight)
        ...     swag.update(model)
        >>> swag.mean.tolist(), swag.variance.tolist()
        ([2.0], [0.6666666666666666])

    Source: Izmailov et al. (2018), Averaging Weights Leads to Wider Optima; Maddox et al. (2019), A
    Simple Baseline for Bayesian Uncertainty in Deep Learning, algorithm 1.
    """

    def __init__(self, model: nn.Module, rank: int = 20) -> None:
        check_whole("rank", rank, 2, why="one deviation has no variance")
        self.average = AveragedModel(model)
        self.models = 0
        size = sum(parameter.numel() for parameter in model.parameters())
        self._mean = torch.zeros(size, dtype=torch.float64)
        self._squares = torch.zeros(size, dtype=torch.float64)
        self._deviations: deque[Tensor] = deque(maxlen=rank)

    def update(self, model: nn.Module) -> None:
        """Add one more model."""
        self.average.update_parameters(model)
        self.models += 1
        weights = flat(parameter.detach().double().cpu() for parameter in model.parameters())
        before = weights - self._mean
        self._mean += before / self.models
        # Welford: no difference of two large numbers
        self._squares += before * (weights - self._mean)
        self._deviations.append(weights - self._mean)

    @property
    def mean(self) -> Float[Tensor, " params"]:
        """Mean of each weight."""
        return self._mean.clone()

    @property
    def variance(self) -> Float[Tensor, " params"]:
        """Variance of each weight, divided by the number of models as in SWAG."""
        return self._squares / max(self.models, 1)

    def draw(self, generator: torch.Generator, scale: float = 1.0) -> nn.Module:
        """Draw a model from the Gaussian: θ̄ + √scale (Σ_diag^½ z₁ + D z₂/√(K − 1))/√2.

        Args:
            generator: Generator of the random numbers z₁ and z₂.
            scale: Factor of the covariance; 0 gives the average.

        Raises:
            BadArgument: There were fewer than two models.
        """
        if not self.models >= 2:
            raise BadArgument(
                f"`draw` needs at least 2 models, got {self.models}: call `update` with more."
            )
        check_number("scale", scale)
        deviations = torch.stack(list(self._deviations))
        diagonal = torch.randn(len(self._mean), dtype=torch.float64, generator=generator)
        low_rank = torch.randn(len(deviations), dtype=torch.float64, generator=generator)
        noise = self.variance.sqrt() * diagonal
        if len(deviations) > 1:
            noise += low_rank @ deviations / math.sqrt(len(deviations) - 1)
        drawn = copy.deepcopy(self.average.module)
        parameters: list[Tensor] = list(drawn.parameters())
        weights = self._mean + math.sqrt(scale / 2) * noise
        with torch.no_grad():
            torch._foreach_copy_(parameters, unflat(weights, parameters))
        return drawn


def export(model: nn.Module, inputs: Tensor, path: Path) -> Path:
    """Write a model to a file, for inputs of this shape and any number of examples.

    The exported program is first compared with the model.

    Args:
        model: A model from one tensor to another, such as an `Ensemble`. It is copied, and exported
            in eval mode.
        inputs: At least 2 examples of inputs.
        path: `.pt2`, read with `torch.export.load(path).module()`, or `.onnx`, which needs `onnx`
            and `onnxscript`.

    Raises:
        BadArgument: The suffix or the folder is wrong, a package is missing, or there are too few
            inputs.
        Unsupported: torch cannot export the model, or the exported program computes something else.
        StorageFailed: The file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from gradiometer.exploration.ensembles import export
        >>> path = export(torch.nn.Linear(3, 2), torch.zeros(2, 3), Path("model.pt2"))
        >>> torch.export.load(path).module()(torch.zeros(7, 3)).shape
        torch.Size([7, 2])
    """
    check_file(path)
    if len(inputs) < 2:
        raise BadArgument(
            f"`inputs` must be at least 2 examples, got {len(inputs)}: one does not show that "
            "their number is free."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own deprecations
        program, content = _program(model, inputs), io.BytesIO()
        if path.suffix == ".onnx":
            import onnx  # noqa: PLC0415 (an extra)

            made: Any = torch.onnx.export(
                program,
                (),
                input_names=["inputs"],
                output_names=["probabilities"],
                dynamo=True,
                verbose=False,
            )
            onnx.checker.check_model(made.model_proto)
            content.write(made.model_proto.SerializeToString())
        else:
            torch.export.save(program, content)
    try:
        path.write_bytes(content.getvalue())
    except OSError as error:
        raise StorageFailed(
            f"`{path}` could not be written: {(error.strerror or str(error)).lower()}."
        ) from error
    return path


def check_file(path: Path) -> None:
    """Check the suffix, the folder and the packages, before anything is computed."""
    if path.suffix not in (".pt2", ".onnx"):
        raise BadArgument(f"`export` must be a file named .pt2 (torch) or .onnx, got {path.name}.")
    if not path.parent.is_dir():
        raise BadArgument(
            f"`export` {path}: the folder {path.parent} does not exist, make it first."
        )
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise BadArgument(
            f"`export` to ONNX needs {' and '.join(missing)}: `pip install 'gradiometer[export]'`."
        )


def _program(model: nn.Module, inputs: Tensor) -> ExportedProgram:
    exported = copy.deepcopy(model).eval().requires_grad_(False)
    any_number: Any = ({0: Dim("examples")},)
    if any(
        parameter.kind is parameter.VAR_POSITIONAL
        for parameter in signature(exported.forward).parameters.values()
    ):
        # A model of *inputs takes their shapes as one tuple.
        any_number = (any_number,)
    try:
        program = torch.export.export(exported, (inputs,), dynamic_shapes=any_number, strict=False)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        # Torch itself has raised it, or the model that it was tracing.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        is_of_torch = str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
        raise (None if is_of_torch else of_user(error)) or Unsupported(
            f"torch.export cannot export this model for any number of examples ({reason})."
        ) from error
    with torch.no_grad():
        # With one example it shows if their number was fixed after all.
        for count in {1, len(inputs)}:
            given, wanted = program.module()(inputs[:count]), exported(inputs[:count])
            difference = float((given - wanted).abs().max())
            # 1e-5: largest difference of a probability between the exported program and the model.
            if not difference <= 1e-5:
                raise Unsupported(
                    f"The exported program differs from the model by {difference:.2g}: it is not "
                    "written."
                )
    return program
