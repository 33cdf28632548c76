"""Who is whose box: frame by frame, one to one, as the CLEAR metrics match them, but kept instead of counted.

In: two sets of boxes with frames. Out: for each box of the first the row of its partner in the second. Reports and
studies need it; scores come from the metrics themselves.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from spam_cvat.boxes import iou_matrix
from spam_cvat.tracks import Tracks


def match_boxes(
    frame: NDArray[np.integer],
    box: NDArray[np.floating],
    other_frame: NDArray[np.integer],
    other_box: NDArray[np.floating],
    threshold: float = 0.5,
) -> NDArray[np.intp]:
    """Partner of each box: as many pairs with IoU >= threshold as a frame allows, then the largest overlaps.

    Args:
        frame: (N,) frame numbers, in any order.
        box: (N, 4) x1 y1 x2 y2 in pixels.
        other_frame: (M,) frame numbers.
        other_box: (M, 4).
        threshold: least IoU of a pair.

    Returns:
        (N,) row of ``other_box``, -1 for none.
    """
    out = np.full(len(frame), -1, np.intp)
    mine, theirs = np.argsort(frame, kind="stable"), np.argsort(other_frame, kind="stable")
    moments = np.unique(frame)
    bounds = np.searchsorted(frame[mine], np.append(moments, moments[-1:] + 1))
    low = np.searchsorted(other_frame[theirs], moments)
    high = np.searchsorted(other_frame[theirs], moments, side="right")
    for start, stop, first, last in zip(bounds[:-1], bounds[1:], low, high, strict=True):
        rows, partners = mine[start:stop], theirs[first:last]
        overlap = iou_matrix(box[rows], other_box[partners])
        gain = np.where(overlap >= threshold, overlap + 1, 0)
        left, right = linear_sum_assignment(-gain)
        good = gain[left, right] > 0
        out[rows[left[good]]] = partners[right[good]]
    return out


@dataclass(frozen=True)
class Coverage:
    """How tracks cover the people they should follow.

    Attributes:
        track: (M,) identity of the track at each ground-truth box, 0 where it is missed.
        owner: track identity -> the person it stands for; one to one, so that most boxes are right (as in IDF1).
    """

    track: NDArray[np.int64]
    owner: dict[int, int]

    def right(self, person: NDArray[np.integer]) -> NDArray[np.bool_]:
        """(M,) whether each ground-truth box of ``person`` (M,) is covered by the track that stands for that person."""
        known = np.array([self.owner.get(int(track), 0) for track in self.track], np.int64)
        return (self.track > 0) & (known == person)


def cover(truth: Tracks, tracks: Tracks, threshold: float = 0.5) -> Coverage:
    """Match tracks to ground truth, frame by frame and then as a whole."""
    partner = match_boxes(truth.frame, truth.box, tracks.frame, tracks.box, threshold)
    track = np.where(partner >= 0, tracks.track[partner] if len(tracks) else 0, 0).astype(np.int64)
    if not (track > 0).any():
        return Coverage(track, {})
    people, person = np.unique(truth.track[track > 0], return_inverse=True)
    names, name = np.unique(track[track > 0], return_inverse=True)
    shared = np.zeros((len(people), len(names)))
    np.add.at(shared, (person, name), 1)
    left, right = linear_sum_assignment(-shared)
    pairs = zip(left, right, strict=True)
    return Coverage(track, {int(names[b]): int(people[a]) for a, b in pairs if shared[a, b] > 0})
