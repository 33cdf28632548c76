"""Zip files of arrays whose bytes depend on their content alone, not on the time of day.

In: names and arrays. Out: members of a zip, without pickles.
"""

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The earliest date that a zip can hold stands for all.
DATE = (1980, 1, 1, 0, 0, 0)


def add_member(archive: zipfile.ZipFile, name: str, data: bytes, level: int | None = None) -> None:
    """Put a compressed file into a zip; ``level`` from 1 (fast) to 9, None for the library's default."""
    archive.writestr(zipfile.ZipInfo(name, DATE), data, zipfile.ZIP_DEFLATED, level)


def npy(array: NDArray[Any]) -> bytes:
    """An array as the content of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
