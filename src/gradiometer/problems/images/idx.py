"""The idx format of MNIST and its kin: a magic number, the shape, then the bytes; gzipped or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from gradiometer.errors import BadArgument

UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an idx file, with as many axes as were asked for.

    Args:
        path: The file; one whose name ends in .gz is decompressed.
        dimensions: How many axes it must have: 3 for images, 1 for labels.

    Raises:
        BadArgument: The file is torn, or is not of this kind.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database, "File formats".
    """
    content = _decompressed(path)
    magic, expected = content[:4], bytes([0, 0, UNSIGNED_BYTE, dimensions])
    header = 4 + 4 * dimensions
    if magic != expected:
        raise BadArgument(
            f"`{path}` starts with the bytes {magic.hex(' ') or 'of an empty file'}, {expected.hex(' ')} were expected "
            f"of an idx file of {dimensions} axes: fetch it again, or see whether two files were swapped."
        )
    if len(content) < header:
        raise BadArgument(f"`{path}` ends after {len(content)} bytes, within its header: it is torn, fetch it again.")
    shape = tuple(int(length) for length in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) != header + math.prod(shape):
        raise BadArgument(
            f"`{path}` holds {len(content):,} bytes where its header of shape {list(shape)} asks for "
            f"{header + math.prod(shape):,}: it is torn, fetch it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _decompressed(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadArgument(f"`{path}` cannot be decompressed ({error}): it is torn, fetch it again.") from error
    except OSError as error:
        raise BadArgument(f"`{path}` cannot be read: {error.strerror or error}.") from error
