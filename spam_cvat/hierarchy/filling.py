"""Boxes of identities on a dense frame axis, gaps filled linearly.

In: a clip and an identity per row. Out: :class:`Rows`, one per identity and frame from its first box to its last.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spam_cvat.hierarchy.geometry import Clip

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Boxes of tracks on a dense frame axis, track by track.

    Attributes:
        frame: (M,) frames; within a track every frame from its first to its last occurs once.
        track: (M,) 0 .. T - 1.
        row: (M,) row of the clip, -1 where filled.
        box: (M, 4) cx, cy, w, h in clip coordinates.
        score: (M,) of a filled row the lower one of the boxes before and after the gap.
        gap: (M,) length in frames of the gap a filled box lies in, 0 for seen boxes.
    """

    frame: Ints
    track: Ints
    row: Ints
    box: Floats
    score: Floats
    gap: Ints


def fill(clip: Clip, node: Ints, box: Floats) -> Rows:
    """Sort rows by identity and fill every gap linearly; ``box`` (N, 4) are the boxes in clip coordinates."""
    rows = np.flatnonzero(node >= 0)
    rows = rows[np.lexsort((clip.frame[rows], node[rows]))]
    track, frame = node[rows], clip.frame[rows]
    step = np.where(np.diff(track, append=-1) == 0, np.diff(frame, append=0), 1)
    source = np.repeat(np.arange(len(rows)), step)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(step) - step, step)
    following = np.minimum(source + 1, max(len(rows) - 1, 0))
    share = (offset / step[source])[:, None] if len(rows) else np.zeros((0, 1))
    filled = offset > 0
    here, there = box[rows[source]], box[rows[following]]
    score = np.where(
        filled,
        np.minimum(clip.score[rows[source]], clip.score[rows[following]]),
        clip.score[rows[source]],
    )
    return Rows(
        frame[source] + offset,
        track[source],
        np.where(filled, -1, rows[source]),
        here * (1 - share) + there * share,
        score,
        np.where(filled, step[source] - 1, 0),
    )
