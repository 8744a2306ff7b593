"""Handwritten digits, 8 × 8 pixels: real data that comes with the package."""

from functools import cache
from importlib.resources import as_file, files

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from gradiometer.problems.images.classification import DIGITS, Labelled, classification, grey_values
from gradiometer.problems.problem import Problem


def load(model: str = "mlp") -> Problem:
    """The digits 0 to 9 by 13 writers: 1,437 images to train on, 360 to test on, pixels in [0, 1].

    The split is stratified by label, was drawn once and is stored with the data: it is the same on
    every machine and with every version of the libraries. The same writers wrote both parts, so
    this test set is easier than the original one, whose parts have different writers.

    Args:
        model: "mlp" or "cnn", see `gradiometer.problems.images.classification`.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, doi:10.24432/C50P49, CC BY 4.0; the test part of the original, as in
        scikit-learn's `load_digits`.
    """
    images, labels, held_out = read_digits()
    return classification(
        "digits",
        model,
        DIGITS[model],
        train=_part(images, labels, ~held_out),
        test=_part(images, labels, held_out),
        description="UCI handwritten digits, 8 × 8: 1,437 images to train on, 360 to test on.",
    )


@cache
def read_digits() -> tuple[
    UInt8[Tensor, "examples 8 8"], UInt8[Tensor, " examples"], Bool[Tensor, " examples"]
]:
    """The stored data: pixels from 0 to 16, labels, and True for the test examples."""
    with (
        as_file(files("gradiometer.problems") / "data" / "digits.npz") as path,
        np.load(path, allow_pickle=False) as stored_arrays,
    ):
        images, labels, held_out = (
            torch.from_numpy(stored_arrays[key]) for key in ("images", "labels", "held_out")
        )
    return images, labels, held_out


def _part(
    images: UInt8[Tensor, "stored 8 8"],
    labels: UInt8[Tensor, " stored"],
    chosen: Bool[Tensor, " stored"],
) -> Labelled:
    # 16: the largest pixel value: the number of black pixels in a 4 × 4 block of a 32 × 32 bitmap.
    return grey_values(images[chosen], 16), labels[chosen].long()
