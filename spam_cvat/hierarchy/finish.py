"""Tracks out of identities: gaps filled, boxes smoothed along the track as far as the scene bears it.

In: a clip with an identity per row. Out: rows of (frame, identity, box in pixels, score, detection row or -1).

Smoothing works in camera-compensated coordinates and weighs nearness to the boxes against second differences in time
(Whittaker 1923; Eilers, Analytical Chemistry 2003). Where a person gets hidden, the detector's confidence falls and its
boxes go wrong, for many frames on end: there the clear boxes before and after decide. How much to smooth is measured
without labels, per coordinate. Each box is predicted from its neighbours alone, and the width with the smallest error
is taken; as a detector's errors last for some frames, the nearest neighbours are left out too (h-block
cross-validation, Burman, Chow and Nolan 1994). A width is taken as well when it moves boxes by hardly more than half of
it does: where people walk, that is wide and gives what an annotator's few key frames give. But where a box is predicted
much worse without the nearest neighbours than with them, it is not errors that change so fast but people, who dance:
boxes stay as they are.

A gap is filled where the person may well have been there unseen, and where interpolation says, see :mod:`gaps`.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from scipy.stats import rankdata

from spam_cvat.annotation import Edges
from spam_cvat.boxes import warp_boxes
from spam_cvat.detections import Detections
from spam_cvat.hierarchy.filling import Rows, fill
from spam_cvat.hierarchy.gaps import believable, confidence
from spam_cvat.hierarchy.geometry import Clip, to_corners
from spam_cvat.hierarchy.stitching import clip_ranges
from spam_cvat.tracks import Tracks, spread_corrections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Widths to choose from, in frames: about the reach of a box of usual weight to either side. So many widths away it
# hardly counts any more.
WIDTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
REACH = 6
# From the surest box of a clip to the least sure one errors grow by e to this power. The least sure tenth errs 2 to 4
# times as much as the surest quarter on the MOT17 first halves, on MOT15 and on generated streets.
INEXACT = 1.5
# Neighbours at most so many frames away share a box's error: two, or more at high frame rates.
LASTING, LASTING_SECONDS = 2, 0.07
# Blocks are left out in turns, one of so many at a time.
TURNS = 4
# People move too fast for smoothing when leaving out the nearest neighbours makes the error this much larger.
FAST = 2.0
# A width up to the second number is harmless when half of it gives boxes that are nearer than this, in heights.
UNMOVED, WIDEST_UNMOVED = 0.0025, 4.0
# Where nothing moves too fast, sizes are smoothed by this at least, in seconds.
SIZE_SECONDS = 0.13
# Widths are chosen on tracks with about so many boxes at most.
SAMPLE = 5000
# A corrected box speaks for its neighbours this many seconds around it.
CORRECTION_REACH = 1.0
# A box put into a gap says as much about its place as this share of a usual seen one.
FILLED_WEIGHT = 0.05


def smoothed(clip: Clip, rows: Rows) -> tuple[Floats, Floats]:
    """Smoothed boxes (M, 4) in clip coordinates, and the width in frames chosen for each coordinate (4,)."""
    if not len(rows.frame):
        return rows.box, np.zeros(4)
    weight = _weights(clip, rows)
    every = -(-len(rows.track) // SAMPLE)
    sample = np.unique(rows.track, return_inverse=True)[1] % every == 0
    width = _best_widths(rows.track[sample], rows.box[sample], weight[sample], rows.row[sample] >= 0, clip.fps)
    out = rows.box.copy()
    for value in np.unique(width):
        out[:, width == value] = smooth(rows.track, rows.box[:, width == value], weight, value)
    return out, width


def _weights(clip: Clip, rows: Rows) -> Floats:
    """How much each row's box counts, (M,): by the rank of its confidence, as detectors differ in what 0.5 means."""
    seen = rows.row >= 0
    sure = rankdata(clip.score[rows.row[seen]]) / seen.sum()
    weight = np.full(len(rows.row), FILLED_WEIGHT)
    weight[seen] = np.exp(2 * INEXACT * (sure - 0.5))
    return weight


def smooth(track: Ints, box: Floats, weight: Floats, width: float) -> Floats:
    """Least squares of weighted distances to the boxes and of second differences along each track. (M, C).

    Args:
        track: (M,) track of each row, track by track, frame by frame.
        box: (M, C) coordinates.
        weight: (M,) of each row. Of a track's three rows or more two at least need one above 0.
        width: about as many frames on either side count as one box of weight 1 does.
    """
    inner = (track[2:] == track[:-2]) * width**4
    # The normal equations' matrix: its diagonal and the two above.
    band = np.zeros((3, len(track)))
    band[2] = weight + 1e-9
    band[2, :-2] += inner
    band[2, 1:-1] += 4 * inner
    band[2, 2:] += inner
    band[1, 1:-1] -= 2 * inner
    band[1, 2:] -= 2 * inner
    band[0, 2:] = inner
    return np.asarray(solveh_banded(band, box * weight[:, None], check_finite=False))


def _best_widths(track: Ints, box: Floats, weight: Floats, seen: NDArray[np.bool_], fps: float) -> Floats:
    """Width for each coordinate, (4,), by the rules of the module's first lines."""
    lasting = max(LASTING, round(LASTING_SECONDS * fps))
    block, place = np.divmod(np.arange(len(track)), 2 * lasting + 1)
    reach = lasting + 1
    inner = np.zeros(len(track), bool)
    inner[reach:-reach] = track[: -2 * reach] == track[2 * reach :]
    judged = seen & inner & (place == lasting)
    width = np.full(4, WIDTHS[0])
    if not judged.any():
        return width
    height = box[judged, 3:]

    def difference(one: Floats, other: Floats) -> Floats:
        return np.asarray(np.median(np.abs(one - other)[judged] / height, axis=0))

    def predicted(value: float, near: NDArray[np.bool_]) -> Floats:
        """Boxes in the middle of blocks, without the block's boxes that are ``near``."""
        out = box.copy()
        for turn in range(TURNS):
            mine = (block % TURNS == turn) & near
            out[mine] = smooth(track, box, np.where(mine, 0.0, weight), value)[mine]
        return out

    errors = np.stack([difference(box, predicted(value, place >= 0)) for value in WIDTHS])
    width = np.array(WIDTHS)[errors.argmin(0)]
    fast = errors.min(0) > FAST * difference(box, predicted(WIDTHS[0], place == lasting))
    width[fast] = WIDTHS[0]
    harmless = ~fast
    smoother = cache(lambda value: smooth(track, box, weight, value))  # half of a width is a width too
    for value in (value for value in WIDTHS if 1 <= value <= WIDEST_UNMOVED):
        harmless &= difference(smoother(value), smoother(value / 2)) <= UNMOVED
        if not harmless.any():
            break
        width[harmless] = np.maximum(width[harmless], value)
    if not fast.any():
        width[2:] = np.maximum(width[2:], min(SIZE_SECONDS * fps, WIDEST_UNMOVED))
    return width


def to_video(clip: Clip, rows: Rows, box: Floats) -> Floats:
    """Boxes of clip coordinates as corners in the pixels of their own frames. (M, 4) -> (M, 4)."""
    size = np.maximum(box[:, 2:], 1e-3)
    out: Floats = warp_boxes(to_corners(np.concatenate([box[:, :2], size], axis=1)), clip.to_pixels[rows.frame]).astype(
        np.float64
    )
    return out


def make_tracks(
    detections: Detections,
    warps: NDArray[np.float64] | None,
    node: Ints,
    corrected: Mapping[int, tuple[float, float, float, float]],
    *,
    links: Edges,
    max_gap: float,
    least: float,
    smooth: bool,
) -> Tracks:
    """The final tracks of a video, made stretch by stretch in bounded memory.

    Args:
        detections: the candidate boxes.
        warps: camera motion or None.
        node: (N,) identity of each row, -1 for none.
        corrected: rows whose box a human drew; used exactly as given, and carried over to the boxes around them.
        links: between the detections, with probabilities, of gaps at least.
        max_gap: longest gap in seconds that is filled.
        least: boxes put into gaps are shown that are right with this probability at least.
        smooth: whether boxes are smoothed along the track.

    Returns:
        Tracks with identities from 1 in order of appearance.
    """
    video = detections.video
    context = int(max_gap * video.fps) + int(REACH * max(WIDTHS)) + 1
    columns: list[tuple[Ints, Ints, Floats, Floats, Ints]] = []
    for start, stop in clip_ranges(detections):
        low, high = max(start - context, 0), min(stop + context, video.num_frames)
        first, last = detections.frame_start[low], detections.frame_start[high]
        part = node[first:last]
        rows = first + np.flatnonzero(part >= 0)
        if not len(rows):
            continue
        clip = Clip.create(detections.window(low, high), None if warps is None else warps[low:high])
        filled = fill(clip, part, clip.box)
        pixels = to_video(clip, filled, smoothed(clip, filled)[0] if smooth else filled.box)
        sure = confidence(filled, links, int(first))
        shown = believable(clip, filled) & (sure >= least)
        shown &= (filled.gap <= max_gap * video.fps) & (filled.frame + low >= start) & (filled.frame + low < stop)
        shown &= ((pixels[:, 2:] - pixels[:, :2]) > 0).all(1)
        source = np.where(filled.row >= 0, filled.row + first, -1)
        columns.append(
            (filled.frame[shown] + low, filled.track[shown], pixels[shown], (filled.score * sure)[shown], source[shown])
        )
    if not columns:
        return Tracks.empty(video, detections.labels)
    frame, track, box, score, source = (np.concatenate(column) for column in zip(*columns, strict=True))
    label = np.zeros(int(node.max()) + 1, np.int16)
    rows = np.flatnonzero(node >= 0)[::-1]
    label[node[rows]] = detections.label[rows]
    tracks = Tracks.create(video, frame, track + 1, box, np.clip(score, 0, 1), source, label[track], detections.labels)
    return spread_corrections(tracks, corrected, CORRECTION_REACH * video.fps).relabelled()
