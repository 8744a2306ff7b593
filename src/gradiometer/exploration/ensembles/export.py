"""Export of an ensemble to a file that runs without this library: torch's exported program, or
ONNX."""

import copy
import importlib.util
import io
import traceback
import warnings
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from gradiometer.errors import BadArgument, StorageFailed, Unsupported, of_user


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
