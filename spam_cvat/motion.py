"""Camera motion: how the background moves from each frame to the next, as affine maps of pixel coordinates.

In: frames, or a file. Out: warps, (num_frames, 2, 3) float64; ``warps[k]`` maps coordinates in frame k - 1 to those in
frame k, ``warps[0]`` is the identity. Corners of the background are followed by sparse optical flow, and a similarity
(shift, rotation, zoom) is fitted to them by RANSAC, as in BoT-SORT (Aharon et al., 2022).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.cache import RangeCache, Rows, cache_key
from spam_cvat.detections import Detections
from spam_cvat.errors import CancelledError, InputError
from spam_cvat.formats.mot import read_warps
from spam_cvat.video import Video, check_range

Warps = NDArray[np.float64]

IDENTITY = np.eye(2, 3)
# All lengths below are pixels of the working image, whose longer side is at most this.
WORKING_SIZE = 960
CORNERS = 600
FEWEST_CORNERS = 16
ROUND_TRIP = 0.5  # a corner followed there and back must come home to within this
INLIER = 1.5  # distance from where the fitted map puts a corner
SMALLEST_SHARE = 0.3  # of followed corners that must agree on one map
# A map that moves no corner of the image further than this says the camera is still: noise, compression and small
# shakes of a fixed camera reach half of it.
STILL = 0.25
ANCHOR_FRAMES = 30  # a still camera's frames are matched with one anchor for so long
SAME_IMAGE = 4.0  # mean difference, in gray levels, of two frames that show the same plain scene
LARGEST_SHIFT = 0.35  # of the image's longer side, between two frames
LARGEST_ZOOM = 1.25
MASK_SCORE = 0.3  # boxes at least this sure hide what is in them from the estimate
MASK_MARGIN = 0.1  # of a box's size, hidden around it


@dataclass(frozen=True)
class CameraMotion:
    """What was estimated for a video.

    Attributes:
        warps: (num_frames, 2, 3) float64, frame k - 1 to frame k.
        lost: (num_frames,) bool, frames whose warp is the identity because nothing in them could be matched with the
            frame before: a cut, a blackout, heavy blur.
    """

    warps: Warps
    lost: NDArray[np.bool_]


def identity_warps(num_frames: int) -> Warps:
    """The warps of a camera that never moves. -> (num_frames, 2, 3)."""
    return np.tile(IDENTITY, (num_frames, 1, 1))


def compose(outer: Warps, inner: Warps) -> Warps:
    """The map that applies ``inner``, then ``outer``. (..., 2, 3), (..., 2, 3) -> (..., 2, 3)."""
    linear = outer[..., :2] @ inner[..., :2]
    shift = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return np.concatenate([linear, shift], axis=-1)


def invert(warps: Warps) -> Warps:
    """The maps back. (..., 2, 3) -> (..., 2, 3)."""
    linear = np.linalg.inv(warps[..., :2])
    return np.concatenate([linear, -linear @ warps[..., 2:]], axis=-1)


def cumulative(warps: Warps) -> Warps:
    """Maps from frame 0 to each frame. (n, 2, 3) -> (n, 2, 3).

    >>> right_by_two = np.tile([[1.0, 0, 2], [0, 1, 0]], (3, 1, 1))
    >>> right_by_two[0] = IDENTITY
    >>> cumulative(right_by_two)[:, 0, 2].tolist()
    [0.0, 2.0, 4.0]
    """
    out = np.empty_like(warps)
    total = IDENTITY
    for k, warp in enumerate(warps):
        total = compose(warp, total)
        out[k] = total
    return out


def between(from_start: Warps, source: ArrayLike, target: ArrayLike) -> Warps:
    """Maps from coordinates in the source frames to those in the target frames, forwards or backwards in time.

    Args:
        from_start: (n, 2, 3), what :func:`cumulative` gave.
        source: frame numbers, any shape S.
        target: frame numbers, the same shape.

    Returns:
        S + (2, 3) maps.
    """
    return compose(from_start[np.asarray(target)], invert(from_start[np.asarray(source)]))


def at_frames(from_start: Warps, frames: NDArray[np.int64]) -> Warps:
    """The warps of a video that shows some frames only: from each of them to the next, the identity first.

    Args:
        from_start: (n, 2, 3), what :func:`cumulative` gave.
        frames: (k,) ascending.

    Returns:
        (k, 2, 3) maps.
    """
    return between(from_start, np.concatenate([frames[:1], frames[:-1]]), frames)


def open_motion(
    spec: str | Path,
    video: Video,
    detections: Detections | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cache_dir: Path | None = None,
) -> Warps | None:
    """The warps that a command-line option names.

    * ``auto``: estimated from the video's frames; boxes of ``detections`` are left out of the background.
    * ``none``: None, a camera that does not move.
    * a file: ``gmc.txt`` as published with UCMCTrack, see :func:`spam_cvat.formats.mot.read_warps`.

    The other arguments are those of :func:`estimate_motion`.

    Raises:
        InputError: there is no such file, it has a bad row, or a frame cannot be read.
    """
    if spec == "none":
        return None
    if spec == "auto":
        return estimate_motion(video, detections, start=start, stop=stop, progress=progress, cache_dir=cache_dir).warps
    if not Path(spec).is_file():
        raise InputError(
            f"motion {str(spec)!r}: write auto, none or the name of a file of warps; there is no such file"
        )
    return read_warps(spec, video.info.num_frames)


def estimate_warps(video: Video, detections: Detections | None = None) -> Warps:
    """The warps of :func:`estimate_motion`."""
    return estimate_motion(video, detections).warps


def estimate_motion(
    video: Video,
    detections: Detections | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    cache_dir: Path | None = None,
) -> CameraMotion:
    """Estimate camera motion in frames start .. stop - 1; the others, and the first, keep the identity.

    Args:
        video: the frames' source; it is streamed.
        detections: boxes that hide moving objects from the estimate.
        start: first frame.
        stop: frame after the last; None for the video's end.
        progress: called after every frame with the frames done and the frames to do.
        cancelled: asked before every frame; True stops the run.
        cache_dir: folder of the cache, which keeps whole runs; None for no cache.

    Raises:
        InputError: the range is outside the video, or a frame cannot be read.
        CancelledError: ``cancelled`` said so.
    """
    stop = video.info.num_frames if stop is None else stop
    check_range(start, stop, 1, video.info.num_frames, video.info.name)
    boxes = None if detections is None else detections.select(detections.score >= MASK_SCORE)
    cache = RangeCache(_cache_folder(video, boxes, start, stop, cache_dir), ("frame", "warp", "lost"))
    rows = cache.find(start, stop)
    if rows is None:
        rows = _estimate(video, boxes, start, stop, progress, cancelled)
        cache.save(rows)
    motion = CameraMotion(identity_warps(video.info.num_frames), np.zeros(video.info.num_frames, bool))
    motion.warps[rows.columns["frame"]] = rows.columns["warp"]
    motion.lost[rows.columns["frame"]] = rows.columns["lost"]
    return motion


def _cache_folder(video: Video, boxes: Detections | None, start: int, stop: int, cache_dir: Path | None) -> Path | None:
    """One folder for each run that could come out otherwise: of these pixels, boxes and frames."""
    if cache_dir is None:
        return None
    hidden = "" if boxes is None else hashlib.sha256(boxes.frame.tobytes() + boxes.box.tobytes()).hexdigest()
    return Path(cache_dir) / video.digest[:32] / cache_key(f"motion(1,{start}:{stop},{hidden})")


def _estimate(
    video: Video,
    boxes: Detections | None,
    start: int,
    stop: int,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Rows:
    frames, warps = [], []
    follower = BackgroundFollower()
    for k, image in video.frames(start, stop):
        if cancelled and cancelled():
            raise CancelledError(f"{video.info.name}: camera motion cancelled at frame {k}")
        hidden = None if boxes is None else boxes.box[boxes.frame_start[k] : boxes.frame_start[k + 1]]
        frames.append(k)
        warps.append(follower.step(image, hidden))
        if progress:
            progress(k + 1 - start, stop - start)
    columns: dict[str, NDArray[Any]] = {
        "frame": np.array(frames, np.int32),
        "warp": np.array([IDENTITY if warp is None else warp for warp in warps]).reshape(-1, 2, 3),
        "lost": np.array([warp is None for warp in warps], bool),
    }
    return Rows(start, stop, columns)


@dataclass
class _View:
    """A frame as it is matched: small, gray, with the boxes that hide moving objects."""

    gray: NDArray[np.uint8]
    boxes: NDArray[np.floating] | None

    @cached_property
    def corners(self) -> NDArray[np.float32]:
        return find_corners(self.gray, self.boxes)


@dataclass
class BackgroundFollower:
    """Estimates motion frame by frame, for callers that are given frames one at a time.

    A frame is matched with an anchor: the last frame that moved. While the camera is still, noise does not add up from
    frame to frame, and a slow drift is seen as soon as it has come a quarter of a pixel far.

    >>> follower = BackgroundFollower()
    >>> warps = [follower.step(image) for image in images]          # doctest: +SKIP
    """

    _anchor: _View | None = None
    _last: _View | None = None
    _age: int = 0  # frames since the anchor

    def step(self, image: NDArray[np.uint8], boxes: NDArray[np.floating] | None = None) -> Warps | None:
        """The map from the frame given last to this one.

        Args:
            image: (height, width, 3) uint8 BGR.
            boxes: (n, 4) x1 y1 x2 y2 in pixels, moving objects in this frame.

        Returns:
            (2, 3) float64; the identity for the first frame; None where this frame cannot be matched with the last.
        """
        scale = min(1.0, WORKING_SIZE / max(image.shape[:2]))
        gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if scale < 1:
            gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        view = _View(gray.astype(np.uint8, copy=False), None if boxes is None else boxes * scale)
        anchor, last = self._anchor, self._last
        self._last = view
        self._age += 1
        warp = IDENTITY if anchor is None else _match_views(anchor, view)
        stale = warp is None or self._age >= ANCHOR_FRAMES
        if warp is None and last is not None and last is not anchor:
            warp = _match_views(last, view)
        still = warp is not None and anchor is not None and farthest(warp, view.gray.shape) < STILL
        if stale or not still:
            self._anchor, self._age = view, 0
        if still:
            return IDENTITY.copy()
        return None if warp is None else _to_image_coordinates(warp, scale)


def _match_views(first: _View, second: _View) -> Warps | None:
    return match(first.gray, second.gray, first.corners) if first.gray.shape == second.gray.shape else None


def farthest(warp: Warps, shape: tuple[int, ...]) -> float:
    """How far a map moves the corner of an image of that (height, width) that it moves most."""
    height, width = shape[:2]
    corners = np.array([[0, width, 0, width], [0, 0, height, height]], np.float64)
    return float(np.linalg.norm(warp[:, :2] @ corners + warp[:, 2:] - corners, axis=0).max())


def find_corners(gray: NDArray[np.uint8], boxes: NDArray[np.floating] | None = None) -> NDArray[np.float32]:
    """Corners to follow, outside the boxes where enough are found there. (h, w), (n, 4) -> (m, 2) x y."""
    spacing = max(gray.shape) / 48
    mask = None
    if boxes is not None and len(boxes):
        mask = np.full(gray.shape, 255, np.uint8)
        margin = MASK_MARGIN * (boxes[:, 2:] - boxes[:, :2])
        grown = np.concatenate([np.floor(boxes[:, :2] - margin), np.ceil(boxes[:, 2:] + margin)], axis=1)
        for x1, y1, x2, y2 in np.clip(grown, 0, max(gray.shape)).astype(int):
            mask[y1:y2, x1:x2] = 0
    found = cv2.goodFeaturesToTrack(gray, CORNERS, 0.01, spacing, mask=mask)
    if mask is not None and (found is None or len(found) < FEWEST_CORNERS):
        found = cv2.goodFeaturesToTrack(gray, CORNERS, 0.01, spacing)
    return np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2).astype(np.float32)


def match(previous: NDArray[np.uint8], gray: NDArray[np.uint8], corners: NDArray[np.float32]) -> Warps | None:
    """The similarity that takes the background of one gray image to the next, in pixel indices; None if none does."""
    if len(corners) < FEWEST_CORNERS:
        # Nothing to hold on to: a plain scene that stays as it is, or one that is gone.
        same = float(cv2.absdiff(previous, gray).mean()) < SAME_IMAGE
        return IDENTITY.copy() if same else None
    there, seen = _follow(previous, gray, corners)
    back, seen_back = _follow(gray, previous, there)
    good = seen & seen_back & (np.linalg.norm(back - corners, axis=1) < ROUND_TRIP)
    before, after = corners[good], there[good]
    if len(before) < FEWEST_CORNERS:
        return None
    warp, inlier = cv2.estimateAffinePartial2D(
        before, after, method=cv2.RANSAC, ransacReprojThreshold=INLIER, maxIters=2000, confidence=0.999
    )
    if warp is None or inlier.sum() < max(FEWEST_CORNERS, SMALLEST_SHARE * len(corners)):
        return None
    zoom = float(np.hypot(warp[0, 0], warp[1, 0]))
    centre = np.array([gray.shape[1] / 2, gray.shape[0] / 2])
    shift = float(np.linalg.norm(warp[:, :2] @ centre + warp[:, 2] - centre))
    if not 1 / LARGEST_ZOOM < zoom < LARGEST_ZOOM or shift > LARGEST_SHIFT * max(gray.shape):
        return None
    return np.asarray(warp, np.float64)


def _follow(
    first: NDArray[np.uint8], second: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points of the first image are in the second, and which were found (Lucas and Kanade, pyramidal)."""
    there, seen, _ = cv2.calcOpticalFlowPyrLK(
        first, second, points, np.empty_like(points), winSize=(21, 21), maxLevel=4
    )
    return np.asarray(there, np.float32).reshape(-1, 2), np.asarray(seen).ravel() > 0


def _to_image_coordinates(warp: Warps, scale: float) -> Warps:
    """A map of the working image's pixel indices as one of the image's coordinates.

    Indices count pixel centres; coordinates of boxes put the centre of the first pixel at one half.
    """
    linear = warp[:, :2]
    half = np.full(2, 0.5)
    shift = (warp[:, 2] + half - linear @ half) / scale
    return np.concatenate([linear, shift[:, None]], axis=1)
