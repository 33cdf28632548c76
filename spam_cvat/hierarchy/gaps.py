"""Gaps of tracks: what boxes put into them are worth, and which gaps say that nobody was there.

In: a clip, its tracks on a dense frame axis, and how far the links over gaps are believed. Out: per row the probability
that its box is right, and whether the detector would not have seen the person there anyway.

A box put into a gap is right when the link over the gap is and when the person went where interpolation says. What the
second is worth is measured without labels: seen boxes of the scene's own tracks are predicted from two others, one
before and one after, and counted right at an IoU of 0.5. People who walk go almost straight for seconds; players turn
within half a second, and a line between where they were last and next seen is of no use.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Edges
from spam_cvat.boxes import iou_pairs
from spam_cvat.hierarchy.filling import Rows
from spam_cvat.hierarchy.geometry import Clip, shared_area, to_corners
from spam_cvat.hierarchy.grouping import pair_ranges

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A predicted box is right from this IoU on, as in CLEAR MOT and IDF1.
RIGHT = 0.5
# Seen boxes are predicted from those so many boxes of the track away, about so many boxes for each distance.
STEPS, SAMPLE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96), 3000
# Lengths of gaps are told apart by so many bins an octave. A bin starts from the share of the next shorter ones, which
# counts as much as so many boxes.
BINS, PRIOR = 2, 20.0
# A detector is watchful that makes this many unsure boxes for a sure one (unsure: of a confidence between these shares
# of its surest) and overlooks people in the open for a moment in this share of all boxes at most. Where a track of its
# boxes breaks off for longer than so many seconds, only those gaps are filled in which somebody nearer covers this much
# of the person's place, half of the time at least: on the MOT17 first halves 0.5 to 0.7 of the boxes put there are
# right, and 0.04 to 0.5 of those put into long gaps in the open.
WATCHFUL, UNSURE, OVERLOOKED = 0.1, (0.2, 0.5), 0.015
OPEN_SECONDS, HIDDEN = 0.5, 0.3


@dataclass(frozen=True)
class Predictability:
    """How often boxes in the middle of gaps are where interpolation puts them.

    Attributes:
        length: (B,) log2 of the gaps' lengths in frames, rising.
        share: (B,) of such boxes that are right, falling.
    """

    length: Floats
    share: Floats

    def of(self, before: Floats, after: Floats) -> Floats:
        """Probability that a box so many frames after the last seen one and before the next is right, (K,), (K,)."""
        if not len(self.length):
            return np.ones(len(before))
        return np.interp(np.log2(_middle_of(before, after)), self.length, self.share)


def _middle_of(before: Floats, after: Floats) -> Floats:
    """Length of the gap whose middle is as hard to tell.

    As that of a Brownian bridge, the error's variance is the product of the distances to both ends over their sum.
    """
    return 4 * before * after / (before + after)


def measure_predictability(rows: Rows) -> Predictability:
    """Predict seen boxes from others of their tracks, see the module's first lines."""
    seen = np.flatnonzero(rows.row >= 0)
    track, frame, box = rows.track[seen], rows.frame[seen], rows.box[seen]
    lengths, hits = [np.zeros(0)], [np.zeros(0, bool)]
    for step in STEPS:
        middle = np.arange(step, len(seen) - step)
        middle = middle[track[middle - step] == track[middle + step]]
        middle = middle[:: -(-len(middle) // SAMPLE) or 1]
        before = (frame[middle] - frame[middle - step]).astype(np.float64)
        after = (frame[middle + step] - frame[middle]).astype(np.float64)
        share = (before / (before + after))[:, None]
        predicted = box[middle - step] * (1 - share) + box[middle + step] * share
        lengths.append(np.log2(_middle_of(before, after)))
        hits.append(iou_pairs(to_corners(predicted), to_corners(box[middle])) >= RIGHT)
    length, hit = np.concatenate(lengths), np.concatenate(hits)
    if not len(length):
        return Predictability(np.zeros(0), np.zeros(0))
    place = np.floor(length * BINS).astype(np.int64)
    count, right = np.bincount(place), np.bincount(place, weights=hit)
    share, last = np.empty(len(count)), 1.0
    for bin_, (n, k) in enumerate(zip(count, right, strict=True)):
        share[bin_] = last = min(last, (k + PRIOR * last) / (n + PRIOR))
    return Predictability((np.arange(len(count)) + 0.5) / BINS, share)


def confidence(rows: Rows, links: Edges, first: int) -> Floats:
    """Probability that a row's box is right, given that its track's seen boxes are: 1 for those. (M,).

    Args:
        rows: the tracks.
        links: between boxes, with probabilities.
        first: row of ``links`` that the clip's row 0 is.
    """
    out = np.ones(len(rows.frame))
    filled, seen = np.flatnonzero(rows.row < 0), np.flatnonzero(rows.row >= 0)
    if not len(filled):
        return out
    # Tracks begin and end with seen boxes.
    place = np.searchsorted(seen, filled)
    last, following = seen[place - 1], seen[place]
    belief = links.belief(rows.row[last] + first, rows.row[following] + first)
    known = measure_predictability(rows)
    out[filled] = belief * known.of((filled - last).astype(np.float64), (following - filled).astype(np.float64))
    return out


def believable(clip: Clip, rows: Rows) -> NDArray[np.bool_]:
    """Which rows (M,) are seen, or in gaps in which the person may well have been there unseen."""
    out = np.ones(len(rows.frame), bool)
    filled = np.flatnonzero(rows.gap > 0)
    low, high = (clip.surest * share for share in UNSURE)
    unsure, sure = (clip.score >= low) & (clip.score < high), clip.score >= high
    if not len(filled) or unsure.sum() < WATCHFUL * sure.sum():
        return out
    hidden = _covered(rows, filled) > HIDDEN
    long = rows.gap[filled] > OPEN_SECONDS * clip.fps
    if not long.any() or (~hidden & ~long).sum() > OVERLOOKED * (len(out) - len(filled)):
        return out
    gap = np.cumsum(np.diff(filled, prepend=filled[0]) != 1) - 1
    out[filled[long]] = (np.bincount(gap, hidden) >= 0.5 * np.bincount(gap))[gap[long]]
    return out


def _covered(rows: Rows, some: Ints) -> Floats:
    """Largest share of ``some`` (K,) rows' boxes that a nearer track's box of the frame covers, (K,)."""
    order = np.argsort(rows.frame, kind="stable")
    start = np.searchsorted(rows.frame[order], np.arange(int(rows.frame.max()) + 2))
    frame = rows.frame[some]
    mine, place = pair_ranges(np.arange(len(some)), np.ones(len(some), np.int64), start[frame], np.diff(start)[frame])
    box, other = rows.box[some[mine]], rows.box[order[place]]
    nearer = other[:, 1] + other[:, 3] / 2 > box[:, 1] + box[:, 3] / 2
    covered = np.zeros(len(some))
    np.maximum.at(covered, mine, nearer * shared_area(box, other) / box[:, 2:].prod(1))
    return covered
