"""The idx format of MNIST and similar data sets: a magic number, the shape, then the bytes; gzipped
or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gradiometer.errors import BadArgument
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
    content = _decompress(path)
    magic, expected = content[:4], bytes([0, 0, 8, dimensions])
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


def _decompress(path: Path) -> bytes:
    try:
        content = read_file(path)
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadArgument(
            f"`{path}` cannot be decompressed ({error}): it is damaged, download it again."
        ) from error
    except OSError as error:
        raise BadArgument(f"`{path}` cannot be read: {error.strerror or error}.") from error
