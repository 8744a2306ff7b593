"""Fashion-MNIST, 28 × 28 pixels: read from the original files on this machine, never downloaded.

The idx format of these files is a magic number, the shape, then the bytes; gzipped or not.
"""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from gradiometer.errors import BadArgument
from gradiometer.problems.images.classification import (
    FASHION_MNIST,
    Labelled,
    classification,
    grey_values,
)
from gradiometer.problems.problem import Problem
from gradiometer.storage.disk import read_file


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an idx file.

    Args:
        path: The file. It is decompressed if its name ends in .gz.
        dimensions: Required number of axes: 3 for images, 1 for labels.

    Raises:
        BadArgument: The file is damaged, or is not an idx file with this number of axes.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database, "File formats".
    """
    try:
        content = read_file(path)
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadArgument(
            f"`{path}` cannot be decompressed ({error}): it is damaged, download it again."
        ) from error
    except OSError as error:
        raise BadArgument(f"`{path}` cannot be read: {error.strerror or error}.") from error
    magic, expected = content[:4], bytes([0, 0, 8, dimensions])
    # A magic number, and a length of four bytes for each axis.
    header = 4 + 4 * dimensions
    if magic != expected:
        raise BadArgument(
            f"`{path}` must start with the bytes {expected.hex(' ')} of an idx file with "
            f"{dimensions} axes, got {magic.hex(' ') or 'an empty file'}: download it again, or "
            "check if two files were swapped."
        )
    if len(content) < header:
        raise BadArgument(
            f"`{path}` ends after {len(content)} bytes, in its header: it is damaged, download it "
            "again."
        )
    shape = tuple(int(length) for length in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) != header + math.prod(shape):
        raise BadArgument(
            f"`{path}` has {len(content):,} bytes, but its header of shape {list(shape)} requires "
            f"{header + math.prod(shape):,}: it is damaged, download it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


VARIABLE = "GRADIOMETER_DATA"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PARTS = ("train", "t10k")
FILES = tuple(
    f"{part}-{kind}" for part in PARTS for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)

# Possible subfolders of a folder of data sets: none, Debian's name, torchvision's.
BELOW = ("", "fashion-mnist", "FashionMNIST/raw")


def load(model: str = "mlp", data_dir: str | os.PathLike[str] | None = None) -> Problem:
    """Ten kinds of clothing: 60,000 images to train on, 10,000 to test on, pixels in [0, 1].

    Args:
        model: "mlp" or "cnn", see `gradiometer.problems.images.classification`.
        data_dir: The folder of the four idx files, gzipped or not, or a folder above it in Debian's
            or torchvision's layout. The default is the environment variable GRADIOMETER_DATA, then
            the folders of Debian's package and of torchvision.

    Raises:
        BadArgument: The files are missing, or one of them is damaged.

    Source: Xiao, Rasul & Vollgraf (2017), Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms, arXiv:1708.07747; MIT licence.
    """
    folder = find(data_dir)
    train, test = (_part(folder, part) for part in PARTS)
    return classification(
        "fashion-mnist",
        model,
        FASHION_MNIST[model],
        train=train,
        test=test,
        description=(
            f"Fashion-MNIST, 28 × 28: {len(train[1]):,} images to train on, {len(test[1]):,} to "
            "test on."
        ),
    )


def find(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder with the four files. If `data_dir` is given, no other folder is searched.

    Raises:
        BadArgument: The files are in none of the folders. The message lists them.
    """
    named = os.environ.get(VARIABLE) if data_dir is None else data_dir
    places = [] if not named else [Path(named).expanduser() / below for below in BELOW]
    if data_dir is None:
        places += [
            DEBIAN,
            Path.home() / ".cache" / "fashion-mnist",
            Path.home() / ".cache" / "FashionMNIST" / "raw",
            Path("data") / "FashionMNIST" / "raw",
        ]
    for place in places:
        if all(_file(place, name) is not None for name in FILES):
            return place
    looked = [Path(data_dir)] if data_dir is not None else places
    raise BadArgument(
        f"Fashion-MNIST is not on this machine (looked in {', '.join(map(str, looked))}): "
        "run `apt install dataset-fashion-mnist`, or pass its folder as `--set data_dir=FOLDER`."
    )


def _file(folder: Path, name: str) -> Path | None:
    """The file with this name, gzipped or not."""
    # Gzipped, as in Debian's package, or not.
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _part(folder: Path, part: str) -> Labelled:
    """The images and labels of one of the two parts."""
    images, labels = (
        read_idx(_file(folder, f"{part}-{kind}-idx{axes}-ubyte") or folder, axes)
        for kind, axes in (("images", 3), ("labels", 1))
    )
    if len(images) != len(labels):
        raise BadArgument(
            f"`{folder}` holds {len(images):,} images and {len(labels):,} labels in its {part} "
            "files: they are from different data sets, download them again."
        )
    if images.shape[1:] != (28, 28):
        height, width = images.shape[1:]
        raise BadArgument(
            f"`{folder}` must have images of 28 × 28 pixels, got {height} × {width} in its "
            f"{part} files: they are from another data set."
        )
    if not (labels < 10).all():
        raise BadArgument(
            f"`{folder}` must have labels from 0 to 9, got {labels.max()} in its "
            f"{part} files: they are from another data set."
        )
    # Memory of a file is read-only, and torch needs its own.
    return grey_values(torch.from_numpy(images.copy()), 255), torch.from_numpy(
        labels.astype(np.int64)
    )
