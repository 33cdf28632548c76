"""What the metrics share: both sides' boxes by frame, contiguous identities, and their overlaps.

In: rows of (frame, identity, box) of two sides. Out: chunks of frames with the IoU of every pair of boxes in them.
A long video's overlaps are made anew in each pass instead of being kept, so that memory does not grow with them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spam_cvat.boxes import iou_pairs

# TrackEval compares with thresholds lowered by one rounding step; metrics that must agree do so too.
EPS = float(np.finfo(np.float64).eps)
# Small enough that a chunk's columns stay in the processor's cache.
CHUNK_PAIRS = 1 << 14
# A video with fewer pairs than this keeps its chunks from one metric to the next (24 bytes a pair).
KEPT_PAIRS = 1 << 22


@dataclass(frozen=True)
class Side:
    """One side's boxes, sorted by frame; in a frame they keep the order they came in.

    Attributes:
        id: (N,) int64, contiguous from 0.
        box: (N, 4) float64, x1 y1 x2 y2 in pixels.
        start: (num_frames + 1,) row at which each frame starts.
        count: (T,) float64, boxes of each identity.
    """

    id: NDArray[np.int64]
    box: NDArray[np.float64]
    start: NDArray[np.int64]
    count: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.id)


@dataclass(frozen=True)
class Chunk:
    """A run of frames that hold boxes of both sides, with all pairs of boxes of each frame, row by row of the truth.

    Attributes:
        frame: (F,) frame numbers.
        shape: F pairs of (truth boxes, tracker boxes).
        start: (F + 1,) at which pair each frame starts.
        truth: (P,) row in the truth's side of each pair.
        tracker: (P,) row in the tracker's side of each pair.
        iou: (P,) float64.
    """

    frame: NDArray[np.int64]
    shape: list[tuple[int, int]]
    start: NDArray[np.int64]
    truth: NDArray[np.int64]
    tracker: NDArray[np.int64]
    iou: NDArray[np.float64]

    def matrices(self, values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        """Views of a (P,) column, frame by frame as (truth boxes, tracker boxes)."""
        for index, shape in enumerate(self.shape):
            yield values[self.start[index] : self.start[index + 1]].reshape(shape)


@dataclass(frozen=True)
class Pairing:
    """Truth and tracker of one sequence, ready to be scored."""

    num_frames: int
    truth: Side
    tracker: Side

    def chunks(self) -> Iterable[Chunk]:
        """Pairs of boxes, some thousands at a time."""
        pairs = int(np.diff(self.truth.start) @ np.diff(self.tracker.start))
        return self._kept if pairs < KEPT_PAIRS else self._chunks()

    @cached_property
    def _kept(self) -> list[Chunk]:
        return list(self._chunks())

    def _chunks(self) -> Iterator[Chunk]:
        n, m = np.diff(self.truth.start), np.diff(self.tracker.start)
        shared = np.flatnonzero((n > 0) & (m > 0))
        size = n[shared] * m[shared]
        part = np.cumsum(size) // CHUNK_PAIRS
        for frames in np.split(shared, np.flatnonzero(np.diff(part)) + 1):
            if len(frames):
                yield self._chunk(frames, n[frames], m[frames])

    def _chunk(self, frames: NDArray[np.int64], n: NDArray[np.int64], m: NDArray[np.int64]) -> Chunk:
        size = n * m
        start = np.append(0, np.cumsum(size))
        # Position of each pair in its frame's matrix, then its row and column there.
        place = np.arange(start[-1]) - np.repeat(start[:-1], size)
        row, column = np.divmod(place, np.repeat(m, size))
        truth = row + np.repeat(self.truth.start[frames], size)
        tracker = column + np.repeat(self.tracker.start[frames], size)
        return Chunk(
            frame=frames,
            shape=list(zip(n.tolist(), m.tolist(), strict=True)),
            start=start,
            truth=truth,
            tracker=tracker,
            iou=np.asarray(iou_pairs(self.truth.box[truth], self.tracker.box[tracker]), np.float64),
        )


def make_side(
    frame: NDArray[np.integer], identity: NDArray[np.integer], box: NDArray[np.floating], num_frames: int
) -> Side:
    """Sort one side's rows by frame and number its identities from 0. (N,), (N,), (N, 4)."""
    order = np.argsort(frame, kind="stable")
    _, ids = np.unique(identity[order], return_inverse=True)
    return Side(
        id=ids.astype(np.int64),
        box=box[order].astype(np.float64),
        start=np.searchsorted(frame[order], np.arange(num_frames + 1)),
        count=np.bincount(ids).astype(np.float64),
    )
