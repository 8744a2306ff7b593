"""Handwritten digits, 8 × 8 pixels: real data that ships with the package."""

from functools import cache
from importlib.resources import as_file, files

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from gradiometer.problems.images.classification import Labelled, classification, grey_values
from gradiometer.problems.images.models import DIGITS
from gradiometer.problems.problem import Problem

WHITE = 16
"""The largest pixel: each counts the inked ones among 4 × 4 of a 32 × 32 bitmap."""


def load(model: str = "mlp") -> Problem:
    """The digits 0 to 9 by 13 writers: 1,437 images to train on, 360 to test on, pixels in [0, 1].

    The split is stratified by label, drawn once, and ships with the data: it is the same on every machine and
    under every version of the libraries. The same hands wrote both parts, which makes the test easier than the
    original's, whose parts are by different writers.

    Args:
        model: "mlp" or "cnn", see `gradiometer.problems.images.models`.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
        doi:10.24432/C50P49, CC BY 4.0; the test part of the original, as in scikit-learn's `load_digits`.
    """
    images, labels, held_out = stored()
    return classification(
        "digits",
        model,
        DIGITS[model],
        train=_part(images, labels, ~held_out),
        test=_part(images, labels, held_out),
        description="UCI handwritten digits, 8 × 8: 1,437 images to train on, 360 to test on.",
    )


@cache
def stored() -> tuple[UInt8[Tensor, "examples 8 8"], UInt8[Tensor, " examples"], Bool[Tensor, " examples"]]:
    """The file as it ships: pixels from 0 to 16, labels, and which examples are for the test."""
    with (
        as_file(files("gradiometer.problems") / "data" / "digits.npz") as path,
        np.load(path, allow_pickle=False) as stored_arrays,
    ):
        images, labels, held_out = (torch.from_numpy(stored_arrays[key]) for key in ("images", "labels", "held_out"))
    return images, labels, held_out


def _part(
    images: UInt8[Tensor, "stored 8 8"], labels: UInt8[Tensor, " stored"], chosen: Bool[Tensor, " stored"]
) -> Labelled:
    return grey_values(images[chosen], WHITE), labels[chosen].long()
