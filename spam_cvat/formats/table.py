"""Text tables of numbers: read fast, and refused as ``file:line: reason`` where they are wrong.

In: a file with numbers between commas or blanks, one row a line, blank lines allowed. Out: a :class:`Table`. Where a
row stands in the file is looked up when there is something to say about it, so that a file of millions of rows costs
no more than its numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spam_cvat.errors import InputError

ENCODING = "utf-8-sig"


@dataclass(frozen=True)
class Table:
    """Rows of numbers.

    Attributes:
        path: the file they are of.
        values: (N, C) float64; NaN where a row is shorter than the longest.
    """

    path: str | Path
    values: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.values.shape[1]

    def column(self, index: int, missing: float) -> NDArray[np.float64]:
        """(N,) one column, ``missing`` where the file does not have it."""
        return self.values[:, index] if index < self.width else np.full(len(self), missing)

    def refuse(self, wrong: NDArray[np.bool_] | np.bool_, reason: Callable[[int], str]) -> None:
        """Raise InputError for the first row marked, with what ``reason`` says of it. (N,)."""
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(f"{self.path}:{_line_of(self.path, row)}: {reason(row)}")

    def whole(self, index: int, name: str) -> NDArray[np.int64]:
        """(N,) one column as whole numbers.

        Raises:
            InputError: one is not.
        """
        column = self.values[:, index]
        with np.errstate(invalid="ignore"):
            wrong = ~((column == np.trunc(column)) & (np.abs(column) < 2**31))
        self.refuse(wrong, lambda row: f"{name} {column[row]:g} is not a whole number")
        return column.astype(np.int64)


def read_text(path: str | Path) -> str:
    """A text file's content.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return Path(path).read_text(encoding=ENCODING)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error


def read_table(path: str | Path, columns: int) -> Table:
    """Read a file of at least ``columns`` columns; an empty file is a table without rows.

    Raises:
        InputError: the file cannot be read, or holds something that is no number (``file:line: reason``).
    """
    first = next(_rows(path), None)
    if first is None:
        return Table(path, np.zeros((0, columns)))
    delimiter = "," if "," in first[1] else None
    try:
        values = np.loadtxt(str(path), delimiter=delimiter, comments=None, ndmin=2, encoding=ENCODING)
    except ValueError:
        values = _parse_slowly(path, delimiter)
    if values.shape[1] < columns:
        raise InputError(f"{path}:{first[0]}: {values.shape[1]} columns where at least {columns} are needed")
    return Table(path, values)


def _rows(path: str | Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each row."""
    try:
        with Path(path).open(encoding=ENCODING) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error


def _line_of(path: str | Path, row: int) -> int:
    return next(number for index, (number, _) in enumerate(_rows(path)) if index == row)


def _parse_slowly(path: str | Path, delimiter: str | None) -> NDArray[np.float64]:
    """Parse row by row: names the first bad one, and pads shorter rows with NaN where all are numbers."""
    parsed = []
    for number, line in _rows(path):
        values = []
        for field in line.strip().rstrip(",").split(delimiter):
            try:
                values.append(float(field))
            except ValueError:
                raise InputError(f"{path}:{number}: {field.strip()!r} is not a number") from None
        parsed.append(values)
    width = max(len(values) for values in parsed)
    return np.array([values + [np.nan] * (width - len(values)) for values in parsed])
