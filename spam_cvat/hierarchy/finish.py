"""Tracks out of identities: gaps filled, boxes smoothed along the track as far as the scene bears it.

In: a clip with an identity per row. Out: rows of (frame, identity, box in pixels, score, detection row or -1).

Smoothing works in camera-compensated coordinates with a local-linear kernel over time, boxes weighted by how exact
they are likely to be. How wide the kernel may be is measured without labels: each box is predicted from its neighbours
alone (leave one out), and the width with the smallest error is taken, per coordinate. Where people walk, that is wide
and takes the detector's jitter out; where they dance, it is narrow and leaves the boxes as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from spam_cvat.boxes import warp_boxes
from spam_cvat.detections import Detections
from spam_cvat.hierarchy.geometry import Clip, to_corners
from spam_cvat.hierarchy.motion_fit import noise
from spam_cvat.hierarchy.stitching import clip_ranges
from spam_cvat.tracks import Tracks, spread_corrections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Kernel widths to choose from, in frames; 0 leaves boxes as they are.
WIDTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
REACH = 3
# A detector's errors last for some frames, so that neighbours predict them too and the best width comes out too small.
# Where it is narrow all the same, people move fast and it stays; else it is widened by up to this factor.
NARROW = 1.5
WIDEN = 2.0
# A corrected box speaks for its neighbours this many seconds around it.
CORRECTION_REACH = 1.0
# A box put into a gap says as much about its place as this share of a seen one.
FILLED_WEIGHT = 0.05


@dataclass(frozen=True)
class Rows:
    """Boxes of tracks on a dense frame axis, track by track.

    Attributes:
        frame: (M,) frames; within a track every frame from its first to its last occurs once.
        track: (M,) 0 .. T - 1.
        row: (M,) row of the clip, -1 where filled.
        box: (M, 4) cx, cy, w, h in clip coordinates.
        score: (M,).
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
        0.5 * np.minimum(clip.score[rows[source]], clip.score[rows[following]]),
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


def smoothed(clip: Clip, rows: Rows) -> tuple[Floats, Floats]:
    """Smoothed boxes (M, 4) in clip coordinates, and the kernel width chosen for each coordinate (4,)."""
    if not len(rows.frame):
        return rows.box, np.zeros(4)
    seen = rows.row >= 0
    precision = np.where(seen, (noise(clip)[rows.row] / noise(clip).min()) ** -2.0, FILLED_WEIGHT)
    pad = int(np.ceil(REACH * WIDEN * max(WIDTHS)))
    place = np.arange(len(rows.track)) + np.unique(rows.track, return_inverse=True)[1] * pad
    length = int(place[-1]) + 1
    weight = np.zeros(length)
    weight[place] = precision
    height = rows.box[:, 3]
    best = np.full(4, np.inf)
    out, chosen = rows.box.copy(), np.zeros(4)
    padded = np.zeros((length, 4))
    padded[place] = rows.box
    for width in WIDTHS:
        mean, own = _local_linear(padded, weight, width)
        estimate, share = mean[place], own[place]
        judged = seen & (share < 0.999)
        left_out = np.abs(rows.box - estimate)[judged] / ((1 - share[judged]) * height[judged])[:, None]
        error = np.median(left_out, axis=0) if judged.any() else np.full(4, np.inf)
        better = error < best
        best[better], chosen[better] = error[better], width
    chosen *= np.clip(chosen / NARROW, 1, WIDEN)
    for width in np.unique(chosen[chosen > 0]):
        out[:, chosen == width] = _local_linear(padded, weight, width)[0][place][:, chosen == width]
    return out, chosen


def _local_linear(values: Floats, weight: Floats, width: float) -> tuple[Floats, Floats]:
    """Local-linear regression in time. (L, 4), (L,) -> estimates (L, 4) and each row's share in its own (L,)."""
    reach = int(np.ceil(REACH * width))
    t = np.arange(-reach, reach + 1, dtype=np.float64)
    kernel = np.exp(-0.5 * (t / width) ** 2)

    def moment(data: Floats, power: int) -> Floats:
        # convolve1d flips its kernel, so the offset of a neighbour enters with its own sign.
        return convolve1d(data, (kernel * t**power)[::-1], axis=0, mode="constant")

    s0, s1, s2 = moment(weight, 0), moment(weight, 1), moment(weight, 2)
    s2 = s2 + 1e-3 * width**2 * s0 + 1e-12
    det = np.maximum(s0 * s2 - s1 * s1, 1e-12)
    weighted = values * weight[:, None]
    y0, y1 = moment(weighted, 0), moment(weighted, 1)
    mean = (s2[:, None] * y0 - s1[:, None] * y1) / det[:, None]
    return mean, np.clip(weight * s2 / det, 0, 1)


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
    max_gap: float,
    smooth: bool,
) -> Tracks:
    """The final tracks of a video, made stretch by stretch in bounded memory.

    Args:
        detections: the candidate boxes.
        warps: camera motion or None.
        node: (N,) identity of each row, -1 for none.
        corrected: rows whose box a human drew; used exactly as given, and carried over to the boxes around them.
        max_gap: longest gap in seconds that is filled.
        smooth: whether boxes are smoothed along the track.

    Returns:
        Tracks with identities from 1 in order of appearance.
    """
    video = detections.video
    context = int(max_gap * video.fps) + int(REACH * WIDEN * max(WIDTHS)) + 1
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
        shown = (filled.gap <= max_gap * video.fps) & (filled.frame + low >= start) & (filled.frame + low < stop)
        shown &= ((pixels[:, 2:] - pixels[:, :2]) > 0).all(1)
        source = np.where(filled.row >= 0, filled.row + first, -1)
        columns.append(
            (filled.frame[shown] + low, filled.track[shown], pixels[shown], filled.score[shown], source[shown])
        )
    if not columns:
        return Tracks.empty(video, detections.labels)
    frame, track, box, score, source = (np.concatenate(column) for column in zip(*columns, strict=True))
    label = np.zeros(int(node.max()) + 1, np.int16)
    rows = np.flatnonzero(node >= 0)[::-1]
    label[node[rows]] = detections.label[rows]
    tracks = Tracks.create(video, frame, track + 1, box, np.clip(score, 0, 1), source, label[track], detections.labels)
    return spread_corrections(tracks, corrected, CORRECTION_REACH * video.fps).relabelled()
