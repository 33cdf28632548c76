"""Cache: columns about ranges of a video's frames, kept on disk.

In: rows computed once for frames start .. stop - 1. Out: the same rows in a later run, as far as files reach. All of it
can be deleted at any time; it is computed again.
"""

import hashlib
import logging
import os
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

log = logging.getLogger(__name__)


def default_cache() -> Path:
    """Where the command line keeps what was perceived: ``SPAM_CACHE``, or a folder of the user's."""
    return Path(os.environ.get("SPAM_CACHE") or platformdirs.user_cache_path("spam-cvat") / "perception")


def cache_key(name: str) -> str:
    """A folder's name that stands for a long name."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Rows:
    """Columns of equal length about frames start .. stop - 1, sorted by the column ``frame``."""

    start: int
    stop: int
    columns: dict[str, NDArray[Any]]

    def cut(self, start: int, stop: int) -> "Rows":
        """The rows of frames start .. stop - 1."""
        low, high = np.searchsorted(self.columns["frame"], (start, stop))
        return Rows(start, stop, {name: column[low:high] for name, column in self.columns.items()})


class RangeCache:
    """Rows on disk, one file ``START-STOP.npz`` for each range of frames.

    A cache never stops a run: a file that cannot be read is left out and one that cannot be written is not, with a
    warning in the log.
    """

    def __init__(self, folder: Path | None, columns: tuple[str, ...]) -> None:
        """Use that folder, None for a cache that keeps nothing; ``columns`` are those a file must have."""
        self.folder = folder
        self.columns = columns
        self._ranges: set[tuple[int, int]] = set()
        if folder is not None and folder.is_dir():
            names = (re.fullmatch(r"(\d+)-(\d+)\.npz", path.name) for path in folder.iterdir())
            self._ranges = {(int(name[1]), int(name[2])) for name in names if name}

    def find(self, position: int, stop: int) -> Rows | None:
        """Rows from frame ``position`` as far as one file goes, at most to ``stop``; None where there are none."""
        covering = [span for span in self._ranges if span[0] <= position < span[1]]
        for span in sorted(covering, key=lambda span: -span[1]):
            rows = self._load(span)
            if rows is not None:
                return rows.cut(position, min(span[1], stop))
            self._ranges.discard(span)
        return None

    def save(self, rows: Rows) -> None:
        """Write rows in one move: readers see the whole file or none."""
        if self.folder is None or rows.stop <= rows.start:
            return
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".new-")
            columns: dict[str, Any] = {name: rows.columns[name] for name in self.columns}
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **columns)
            os.replace(temporary, self._path((rows.start, rows.stop)))
            self._ranges.add((rows.start, rows.stop))
        except OSError as error:
            log.warning("%s: cannot keep what was computed: %s", self.folder, error.strerror or error)
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def _path(self, span: tuple[int, int]) -> Path:
        assert self.folder is not None
        return self.folder / f"{span[0]:08d}-{span[1]:08d}.npz"

    def _load(self, span: tuple[int, int]) -> Rows | None:
        try:
            with np.load(self._path(span), allow_pickle=False) as archive:
                columns = {name: archive[name] for name in self.columns}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s: damaged cache file, computing again (%s)", self._path(span), error)
            return None
        return Rows(*span, columns)
