"""Tracks out of identities: gaps filled, boxes smoothed along the track as far as the scene bears it.

In: a clip with an identity per row. Out: rows of (frame, identity, box in pixels, score, detection row or -1).

Smoothing works in camera-compensated coordinates with a local-linear kernel over time, boxes weighted by how exact
they are likely to be. How wide the kernel may be is measured without labels, per coordinate. Each box is predicted from
its neighbours alone, and the width with the smallest error is taken; as a detector's errors last for some frames, the
nearest neighbours are left out too (h-block cross-validation, Burman, Chow and Nolan 1994). A width is taken as well
when it moves boxes by hardly more than half of it does: where people walk, that is wide and gives what an annotator's
few key frames give. But where a box is predicted much worse without the nearest neighbours than with them, it is not
errors that change so fast but people, who dance: boxes stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from spam_cvat.boxes import warp_boxes
from spam_cvat.detections import Detections
from spam_cvat.hierarchy.filling import Rows, fill
from spam_cvat.hierarchy.geometry import Clip, to_corners
from spam_cvat.hierarchy.motion_fit import noise
from spam_cvat.hierarchy.stitching import clip_ranges
from spam_cvat.tracks import Tracks, spread_corrections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Kernel widths to choose from, in frames.
WIDTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
REACH = 3
# Neighbours at most so many frames away share a box's error: two, or more at high frame rates.
LASTING, LASTING_SECONDS = 2, 0.07
# People move too fast for smoothing when leaving out the nearest neighbours makes the error this much larger.
FAST = 2.0
# A width up to the second number is harmless when half of it gives boxes that are nearer than this, in heights.
UNMOVED, WIDEST_UNMOVED = 0.0025, 4.0
# Widths are chosen on tracks with about so many boxes.
SAMPLE = 8000
# A corrected box speaks for its neighbours this many seconds around it.
CORRECTION_REACH = 1.0
# A box put into a gap says as much about its place as this share of a seen one.
FILLED_WEIGHT = 0.05


def smoothed(clip: Clip, rows: Rows) -> tuple[Floats, Floats]:
    """Smoothed boxes (M, 4) in clip coordinates, and the kernel width chosen for each coordinate (4,)."""
    if not len(rows.frame):
        return rows.box, np.zeros(4)
    sigma = noise(clip)
    precision = np.where(rows.row >= 0, (sigma[rows.row] / sigma.min()) ** -2.0, FILLED_WEIGHT)
    every = max(len(rows.track) // SAMPLE, 1)
    sample = np.flatnonzero(np.unique(rows.track, return_inverse=True)[1] % every == 0)
    lasting = max(LASTING, round(LASTING_SECONDS * clip.fps))
    width = _best_widths(_Series.of(rows, sample, precision), rows.row[sample] >= 0, lasting)
    series = _Series.of(rows, np.arange(len(rows.track)), precision)
    out = rows.box.copy()
    for value in np.unique(width):
        out[:, width == value] = series.smooth(value)[:, width == value]
    return out, width


def _best_widths(series: "_Series", seen: NDArray[np.bool_], lasting: int) -> Floats:
    """Kernel width for each coordinate, (4,), by the two rules of the module's first lines."""
    reach = lasting + 1
    track, box = series.track, series.box
    inner = np.zeros(len(track), bool)
    inner[reach:-reach] = (track[: -2 * reach] == track[reach:-reach]) & (track[2 * reach :] == track[reach:-reach])
    judged = seen & inner
    width = np.full(4, WIDTHS[0])
    if not judged.any():
        return width
    height = box[judged, 3:]

    def difference(one: Floats, other: Floats) -> Floats:
        return np.asarray(np.median(np.abs(one - other)[judged] / height, axis=0))

    errors = np.stack([difference(box, series.smooth(value, lasting)) for value in WIDTHS])
    width = np.array(WIDTHS)[errors.argmin(0)]
    fast = errors.min(0) > FAST * difference(box, series.smooth(WIDTHS[0], 0))
    width[fast] = WIDTHS[0]
    harmless = ~fast
    smooth = cache(series.smooth)  # half of a width is a width too
    for value in (value for value in WIDTHS if 1 <= value <= WIDEST_UNMOVED):
        harmless &= difference(smooth(value), smooth(value / 2)) <= UNMOVED
        if not harmless.any():
            break
        width[harmless] = np.maximum(width[harmless], value)
    return width


@dataclass(frozen=True)
class _Series:
    """Tracks one behind the other on one time axis, far enough apart not to touch.

    ``track`` (M,) and ``box`` (M, 4) are the rows; ``place`` (M,) says where on the axis they lie, which holds
    ``padded`` (L, 4) boxes with ``weight`` (L,).
    """

    track: Ints
    box: Floats
    place: Ints
    padded: Floats
    weight: Floats

    @classmethod
    def of(cls, rows: Rows, index: Ints, precision: Floats) -> "_Series":
        """The series of some whole tracks: ``index`` into the rows, ``precision`` (M,) of all rows."""
        track, box = rows.track[index], rows.box[index]
        pad = int(np.ceil(REACH * max(WIDTHS)))
        place = np.arange(len(track)) + np.unique(track, return_inverse=True)[1] * pad
        weight = np.zeros(int(place.max(initial=-1)) + 1)
        weight[place] = precision[index]
        padded = np.zeros((len(weight), 4))
        padded[place] = box
        return cls(track, box, place, padded, weight)

    def smooth(self, width: float, left_out: int = -1) -> Floats:
        """Local-linear regression in time, without the boxes up to ``left_out`` frames away. (M, 4)."""
        reach = int(np.ceil(REACH * max(width, (left_out + 1) / 2)))
        t = np.arange(-reach, reach + 1, dtype=np.float64)
        kernel = np.where(np.abs(t) > left_out, np.exp(-0.5 * (t / width) ** 2), 0.0)

        def moment(data: Floats, power: int) -> Floats:
            # convolve1d flips its kernel, so the offset of a neighbour enters with its own sign.
            return convolve1d(data, (kernel * t**power)[::-1], axis=0, mode="constant")

        s0, s1, s2 = moment(self.weight, 0), moment(self.weight, 1), moment(self.weight, 2)
        s2 = s2 + 1e-3 * width**2 * s0 + 1e-12
        det = np.maximum(s0 * s2 - s1 * s1, 1e-12)
        weighted = self.padded * self.weight[:, None]
        mean = (s2[:, None] * moment(weighted, 0) - s1[:, None] * moment(weighted, 1)) / det[:, None]
        return np.asarray(mean[self.place])


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
