"""An ensemble in a file that needs none of its code: torch's exported program, or ONNX."""

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from gradiometer.errors import BadArgument

SUFFIXES = (".pt2", ".onnx")
TOLERANCE = 1e-5
"""Largest difference of a probability between the exported program and the model it was made from."""


def export(model: nn.Module, inputs: Tensor, path: Path) -> Path:
    """Write the model for inputs of this shape and any number of examples; the program is checked against the model.

    Args:
        model: From one tensor of inputs to a tensor, such as an `Ensemble`. It is copied, and exported in eval mode.
        inputs: A few examples, at least 2, of the shape it will be given.
        path: `.pt2`, read with `torch.export.load(path).module()`, or `.onnx`, which needs `onnx` and `onnxscript`.

    Raises:
        BadArgument: The file is of another kind, a package is missing, or the program does not do what the model does.
    """
    check_file(path)
    if not len(inputs) >= 2:
        raise BadArgument(
            f"`inputs` must be at least 2 examples, got {len(inputs)}: of one, any number cannot be told."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own deprecations
        program = _program(model, inputs)
        if path.suffix == ".pt2":
            torch.export.save(program, path)
        else:
            _onnx(program, path)
    return path


def check_file(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed for it."""
    if path.suffix not in SUFFIXES:
        raise BadArgument(f"`export` must be a file named .pt2 (torch) or .onnx, got {path.name}.")
    if not path.parent.is_dir():
        raise BadArgument(f"`export` {path}: the folder {path.parent} does not exist.")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise BadArgument(f"`export` to ONNX needs {' and '.join(missing)}: `pip install 'gradiometer[export]'`.")


def _program(model: nn.Module, inputs: Tensor) -> ExportedProgram:
    exported = copy.deepcopy(model).eval().requires_grad_(False)
    try:
        program = torch.export.export(exported, (inputs,), dynamic_shapes=(({0: Dim("examples")},),), strict=False)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise BadArgument(
            f"`export`: torch.export cannot follow the model for any number of examples ({reason})."
        ) from error
    with torch.no_grad():
        for count in {1, len(inputs)}:
            given, wanted = program.module()(inputs[:count]), exported(inputs[:count])
            difference = float((given - wanted).abs().max())
            if not difference <= TOLERANCE:
                raise BadArgument(
                    f"`export`: the program differs from the model by {difference:.2g}: it is not written."
                )
    return program


def _onnx(program: ExportedProgram, path: Path) -> None:
    import onnx  # noqa: PLC0415 (an extra)

    made: Any = torch.onnx.export(
        program, (), input_names=["inputs"], output_names=["probabilities"], dynamo=True, verbose=False
    )
    made.save(str(path), external_data=False)
    onnx.checker.check_model(onnx.load(str(path)))
