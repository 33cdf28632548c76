"""A clip's boxes in camera-compensated coordinates, with their neighbourhood in the frame.

In: Detections and warps. Out: a :class:`Clip`, the columns that every level works on. Coordinates are those of the
clip's first frame: each box is carried there by the inverse of the accumulated camera motion, so that what stands
still in the world stays in place. Lengths are later divided by box heights in the same coordinates, times are in
seconds; nothing depends on the image's resolution.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.boxes import Array, warp_boxes
from spam_cvat.detections import Detections
from spam_cvat.hierarchy.grouping import PAIR_LIMIT, batches, spread_ranges

# Boxes that overlap more than this are close enough for identities to be mixed up.
CONTACT = 0.25
# A camera does not turn or zoom the picture by half between two frames; an estimate that says so has failed.
MAX_STRETCH = 1.5


@dataclass(frozen=True)
class Clip:
    """Boxes of a clip, in frame order.

    Attributes:
        frame: (N,) int64 frame numbers, ascending, from 0.
        fps: frames a second.
        num_frames: frames of the clip.
        box: (N, 4) float64 cx, cy, w, h in the coordinates of the clip's first frame.
        score: (N,) float64 detector confidence.
        label: (N,) int64 class.
        overlap: (N,) largest IoU with another box of the frame.
        shadow: (N,) largest IoU with a more confident box of the frame.
        cover: (N,) largest share of the box's area that a box standing nearer (with a lower bottom edge) covers.
        pairs: (P, 2) rows of one frame that overlap with an IoU over CONTACT, smaller first.
        pair_iou: (P,) their IoU.
        border: (N,) bool, touches the image's border.
        embedding: (N, D) float32 unit vectors or None; ``has_embedding`` marks rows that have one.
        has_embedding: (N,) bool.
        to_pixels: (num_frames, 2, 3) maps of the clip's coordinates to each frame's pixels.
        frame_start: (num_frames + 1,) row at which each frame's boxes start.
    """

    frame: NDArray[np.int64]
    fps: float
    num_frames: int
    box: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]
    overlap: NDArray[np.float64]
    shadow: NDArray[np.float64]
    cover: NDArray[np.float64]
    pairs: NDArray[np.int64]
    pair_iou: NDArray[np.float64]
    border: NDArray[np.bool_]
    embedding: NDArray[np.float32] | None
    has_embedding: NDArray[np.bool_]
    to_pixels: NDArray[np.float64]
    frame_start: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.frame)

    @cached_property
    def measures(self) -> NDArray[np.float64]:
        """(N, 5) one, cx, cy, log w and log h: what weighted sums over boxes are taken of."""
        return np.column_stack([np.ones(len(self)), self.box[:, :2], np.log(self.box[:, 2:])])

    @cached_property
    def surest(self) -> float:
        """Confidence of the detector's surest tenth; detectors differ in what they call sure."""
        some = self.score[self.score > 0.5]
        return float(np.quantile(some, 0.9)) if len(some) else 1.0

    @classmethod
    def create(cls, detections: Detections, warps: NDArray[np.float64] | None) -> "Clip":
        """Columns of a clip; ``warps`` (num_frames, 2, 3), None stands for a still camera."""
        video = detections.video
        to_first, to_pixels = accumulate(warps, video.num_frames)
        pixels = detections.box.astype(np.float64)
        steady = warp_boxes(pixels, to_first[detections.frame]) if warps is not None else pixels
        overlap, shadow, cover, pairs, pair_iou = neighbourhood(detections)
        slack = 0.01 * (pixels[:, 3] - pixels[:, 1])[:, None]
        limit = np.array([video.width, video.height])
        border = ((pixels[:, :2] < slack) | (pixels[:, 2:] > limit - slack)).any(1)
        embedding = detections.embedding
        has = np.zeros(len(detections), bool) if embedding is None else np.abs(embedding).sum(1) > 0
        return cls(
            frame=detections.frame.astype(np.int64),
            fps=float(video.fps),
            num_frames=video.num_frames,
            box=to_centre(steady),
            score=detections.score.astype(np.float64),
            label=detections.label.astype(np.int64),
            overlap=overlap,
            shadow=shadow,
            cover=cover,
            pairs=pairs,
            pair_iou=pair_iou,
            border=np.asarray(border),
            embedding=embedding if has.any() else None,
            has_embedding=has,
            to_pixels=to_pixels,
            frame_start=detections.frame_start.astype(np.int64),
        )


def to_centre(boxes: Array) -> Any:
    """Corners to centre and size. (N, 4) -> (N, 4) cx, cy, w, h."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def shared_area(box: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area that two boxes share, pair by pair; cx, cy, w, h. (P, 4), (P, 4) -> (P,)."""
    apart = np.abs(box[:, :2] - other[:, :2])
    lap = np.minimum((box[:, 2:] + other[:, 2:]) / 2 - apart, np.minimum(box[:, 2:], other[:, 2:]))
    return np.asarray(lap.clip(0).prod(1))


def to_corners(boxes: Array) -> Any:
    """Centre and size to corners. (..., 4) cx, cy, w, h -> (..., 4)."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def accumulate(warps: NDArray[np.float64] | None, num_frames: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Maps of each frame's pixels to the first frame's, and back. (F, 2, 3) -> (F, 2, 3), (F, 2, 3).

    A warp that is not finite, or that stretches by more than a camera can, counts as no motion.
    """
    forward = np.tile(np.eye(3), (num_frames, 1, 1))
    if warps is not None and num_frames:
        step = forward.copy()
        step[:, :2] = warps[:num_frames]
        finite = np.isfinite(step).all((1, 2))
        step[~finite] = np.eye(3)
        stretch = np.linalg.svd(step[:, :2, :2], compute_uv=False)
        step[(stretch[:, 0] > MAX_STRETCH) | (stretch[:, 1] < 1 / MAX_STRETCH)] = np.eye(3)
        for k in range(1, num_frames):
            forward[k] = step[k] @ forward[k - 1]
    back = np.linalg.inv(forward).astype(np.float64)
    return back[:, :2], forward[:, :2]


def neighbourhood(detections: Detections) -> tuple[Any, Any, Any, Any, Any]:
    """Largest IoU with any, with a better box, cover by a nearer one: three (N,); overlapping pairs, IoU.

    Only boxes of one class count: a rider does not make the bicycle a second box of the same thing.
    """
    n = len(detections)
    touching: list[NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    how: list[NDArray[np.float64]] = [np.zeros(0)]
    shadow, lower, cover = np.zeros(n), np.zeros(n), np.zeros(n)
    left, top, right, bottom = np.ascontiguousarray(detections.box.T, np.float64)
    label = detections.label
    size = (right - left) * (bottom - top)
    row = np.arange(n)
    following = detections.frame_start[detections.frame.astype(np.int64) + 1] - row - 1
    for part in batches(following, PAIR_LIMIT):
        a = np.repeat(row[part], following[part])
        b = spread_ranges(row[part] + 1, following[part])
        width = np.minimum(right[a], right[b]) - np.maximum(left[a], left[b])
        near = np.flatnonzero(width > 0)
        a, b, width = a[near], b[near], width[near]
        height = np.minimum(bottom[a], bottom[b]) - np.maximum(top[a], top[b])
        near = np.flatnonzero((height > 0) & (label[a] == label[b]))
        a, b = a[near], b[near]
        inter = width[near] * height[near]
        iou = inter / (size[a] + size[b] - inter)
        contact = iou > CONTACT
        touching.append(np.stack([a[contact], b[contact]], axis=1))
        how.append(iou[contact])
        # Rows of a frame are sorted by falling score, so the earlier one of a pair is the better one.
        np.maximum.at(shadow, b, iou)
        np.maximum.at(lower, a, iou)
        far = np.where(bottom[a] < bottom[b], a, b)
        apart = bottom[a] != bottom[b]
        np.maximum.at(cover, far[apart], (inter / size[far])[apart])
    return np.maximum(shadow, lower), shadow, cover, np.concatenate(touching), np.concatenate(how)
