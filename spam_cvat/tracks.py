"""Tracks: one identity per box, and what can be done to them without looking at pixels.

In: rows of (frame, track, box). Out: the same, filled, cut, joined, smoothed or thinned to keyframes.
The invariant every function keeps: a track has at most one box in a frame.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError


@dataclass(frozen=True)
class Tracks:
    """Boxes with identities, sorted by track and then by frame. Make them with :meth:`create`.

    Attributes:
        video: the video they belong to.
        frame: (M,) int32, from 0.
        track: (M,) int32 identities, >= 1.
        box: (M, 4) float32, x1 y1 x2 y2 in pixels.
        score: (M,) float32 in [0, 1], confidence that there is an object here.
        detection: (M,) int64, row in the Detections the box came from; -1 where interpolated or drawn.
        label: (M,) int16, index into ``labels``.
        labels: class names.
    """

    video: VideoInfo
    frame: NDArray[np.int32]
    track: NDArray[np.int32]
    box: NDArray[np.float32]
    score: NDArray[np.float32]
    detection: NDArray[np.int64]
    label: NDArray[np.int16]
    labels: tuple[str, ...] = ("person",)

    @classmethod
    def create(
        cls,
        video: VideoInfo,
        frame: ArrayLike,
        track: ArrayLike,
        box: ArrayLike,
        score: ArrayLike | None = None,
        detection: ArrayLike | None = None,
        label: ArrayLike | None = None,
        labels: Sequence[str] = ("person",),
    ) -> "Tracks":
        """Check and sort columns of equal length.

        Raises:
            InputError: a frame lies outside the video, an identity is below 1, a box is not finite or has no area,
                or a track has two boxes in one frame; the message names the row.
        """
        frames, ids = np.asarray(frame, np.int64).reshape(-1), np.asarray(track, np.int64).reshape(-1)
        boxes = np.asarray(box, np.float32).reshape(-1, 4)
        n = len(frames)
        scores = np.ones(n, np.float32) if score is None else np.asarray(score, np.float32).reshape(-1)
        rows = np.full(n, -1, np.int64) if detection is None else np.asarray(detection, np.int64).reshape(-1)
        classes = np.zeros(n, np.int16) if label is None else np.asarray(label, np.int16).reshape(-1)
        if {len(ids), len(boxes), len(scores), len(rows), len(classes)} != {n}:
            raise InputError(f"{video.name}: track columns of different length")
        with np.errstate(invalid="ignore"):
            reasons = [
                ((frames < 0) | (frames >= video.num_frames), f"frame is outside 0..{video.num_frames - 1}"),
                (ids < 1, "track id is below 1"),
                (~np.isfinite(boxes).all(1), "box is not finite"),
                (~(boxes[:, 2:] > boxes[:, :2]).all(1), "box has no area"),
                ((classes < 0) | (classes >= len(labels)), f"label is not one of {list(labels)}"),
            ]
        order = np.lexsort((frames, ids))
        twin = np.zeros(n, bool)
        twin[order[1:]] = (np.diff(ids[order]) == 0) & (np.diff(frames[order]) == 0)
        reasons.append((twin, "the track has another box in this frame"))
        for mask, reason in reasons:
            if mask.any():
                row = int(np.flatnonzero(mask)[0])
                raise InputError(f"{video.name}: row {row} (frame {frames[row]}, track {ids[row]}): {reason}")
        return cls(
            video=video,
            frame=frames[order].astype(np.int32),
            track=ids[order].astype(np.int32),
            box=boxes[order],
            score=scores[order],
            detection=rows[order],
            label=classes[order],
            labels=tuple(labels),
        )

    @classmethod
    def empty(cls, video: VideoInfo, labels: Sequence[str] = ("person",)) -> "Tracks":
        """No tracks at all."""
        return cls.create(video, [], [], np.zeros((0, 4)), labels=labels)

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.frame)

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """(T,) identities in ascending order."""
        return np.unique(self.track)

    @cached_property
    def track_start(self) -> NDArray[np.intp]:
        """(T + 1,) row at which each track of ``ids`` starts."""
        return np.append(np.searchsorted(self.track, self.ids), len(self))

    def rows(self, track: int) -> slice:
        """The rows of one track; an empty slice where there is no such track."""
        return slice(*(int(row) for row in np.searchsorted(self.track, [track, track + 1])))

    def select(self, rows: NDArray[Any]) -> "Tracks":
        """The rows of a boolean mask or of an ascending index array."""
        columns = ("frame", "track", "box", "score", "detection", "label")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def window(self, start: int, stop: int) -> "Tracks":
        """Boxes of frames start .. stop - 1, renumbered from 0, as a video of their own."""
        start, stop = max(start, 0), min(stop, self.video.num_frames)
        cut = self.select((self.frame >= start) & (self.frame < stop))
        video = replace(self.video, num_frames=max(stop - start, 0))
        return replace(cut, video=video, frame=(cut.frame - start).astype(np.int32))

    def relabelled(self) -> "Tracks":
        """The same tracks with identities 1 .. T, in order of first appearance."""
        first = self.frame[self.track_start[:-1]]
        rank = np.empty(len(self.ids), np.int32)
        rank[np.lexsort((self.ids, first))] = np.arange(1, len(self.ids) + 1)
        ids = rank[np.searchsorted(self.ids, self.track)]
        order = np.lexsort((self.frame, ids))
        return replace(self.select(order), track=ids[order])

    def split(self, track: int, frame: int, new_id: int | None = None) -> "Tracks":
        """Cut one track in two: boxes from ``frame`` on get ``new_id`` (by default the next unused identity).

        Raises:
            InputError: there is no such track, or ``new_id`` is taken.
        """
        mine = self.track == track
        if not mine.any():
            raise InputError(f"{self.video.name}: no track {track} to split")
        new_id = int(self.ids[-1]) + 1 if new_id is None else new_id
        if new_id in self.ids:
            raise InputError(f"{self.video.name}: identity {new_id} is taken")
        ids = np.where(mine & (self.frame >= frame), new_id, self.track).astype(np.int32)
        order = np.lexsort((self.frame, ids))
        return replace(self.select(order), track=ids[order])

    def merge(self, first: int, second: int) -> "Tracks":
        """Give the boxes of ``second`` to ``first``; where both have a box in a frame, the one of ``first`` stays."""
        ids = np.where(self.track == second, first, self.track).astype(np.int32)
        order = np.lexsort((self.track != first, self.frame, ids))
        twin = np.zeros(len(self), bool)
        twin[1:] = (np.diff(ids[order]) == 0) & (np.diff(self.frame[order]) == 0)
        order = order[~twin]
        return replace(self.select(order), track=ids[order])


def concatenate(parts: Sequence[Tracks]) -> Tracks:
    """Tracks of one video from several tables with the same labels; identities are kept as they are.

    Raises:
        InputError: two parts hold the same identity in the same frame.
    """
    columns = ("frame", "track", "box", "score", "detection", "label")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    return Tracks.create(parts[0].video, **joined, labels=parts[0].labels)


def interpolate(tracks: Tracks, max_gap: int | None = None, gap_score: float = 0.5) -> Tracks:
    """Fill gaps inside tracks with boxes linear in time.

    Args:
        tracks: tracks, possibly with gaps.
        max_gap: fill only where two boxes lie at most this many frames apart; None fills all.
        gap_score: confidence of a filled box, as a factor on the lower of its two neighbours' scores.

    Returns:
        Tracks with the filled boxes added; their ``detection`` is -1.
    """
    step = np.diff(tracks.frame)
    gap = (np.diff(tracks.track) == 0) & (step > 1) & (step <= (max_gap if max_gap is not None else np.inf))
    left = np.flatnonzero(gap)
    if not left.size:
        return tracks
    missing = step[left] - 1
    start = np.repeat(left, missing)
    offset = np.arange(len(start)) - np.repeat(np.cumsum(missing) - missing, missing) + 1
    share = (offset / step[start])[:, None].astype(np.float32)
    filled = {
        "frame": tracks.frame[start] + offset,
        "track": tracks.track[start],
        "box": tracks.box[start] * (1 - share) + tracks.box[start + 1] * share,
        "score": gap_score * np.minimum(tracks.score[start], tracks.score[start + 1]),
        "detection": np.full(len(start), -1, np.int64),
        "label": tracks.label[start],
    }
    order = np.lexsort(
        (np.concatenate([tracks.frame, filled["frame"]]), np.concatenate([tracks.track, filled["track"]]))
    )
    joined: dict[str, Any] = {}
    for name, extra in filled.items():
        column = getattr(tracks, name)
        joined[name] = np.concatenate([column, extra.astype(column.dtype)])[order]
    return replace(tracks, **joined)


def spread_corrections(tracks: Tracks, boxes: Mapping[int, Sequence[float]], reach: float) -> Tracks:
    """Put corrected boxes into tracks and carry each correction over to the boxes around it.

    What is off in one frame (a box that is too small, that lags behind) is off in its neighbours much the same way. So
    the correction, as a shift in box sizes and a change of size in per cent, is interpolated linearly between corrected
    boxes of a track and fades out over ``reach`` frames before the first, after the last, and inside long stretches.

    Args:
        tracks: tracks that do not know of the corrections yet.
        boxes: corrected x1 y1 x2 y2 by row of the detections (``tracks.detection``); rows in no track are passed over.
        reach: frames.

    Returns:
        The tracks with other boxes; the corrected ones exactly as given.
    """
    place = {int(row): index for index, row in enumerate(tracks.detection) if int(row) in boxes}
    given = sorted(place, key=lambda row: place[row])
    if not given:
        return tracks
    at = np.array([place[row] for row in given], np.int64)
    new = np.array([boxes[row] for row in given], np.float64)
    old = tracks.box.astype(np.float64)
    size = old[:, 2:] - old[:, :2]
    new_size = new[:, 2:] - new[:, :2]
    change = np.concatenate(
        [((new[:, :2] + new[:, 2:]) - (old[at, :2] + old[at, 2:])) / 2 / size[at], np.log(new_size / size[at])], axis=1
    )
    out = old.copy()
    for track in np.unique(tracks.track[at]):
        rows = tracks.rows(int(track))
        mine = tracks.track[at] == track
        frame, known = tracks.frame[rows].astype(np.float64), tracks.frame[at[mine]].astype(np.float64)
        near = np.abs(frame[:, None] - known[None]).min(1)
        fade = np.clip(2 - near / reach, 0, 1) if mine.sum() > 1 else np.clip(1 - near / reach, 0, 1)
        outside = (frame < known[0]) | (frame > known[-1])
        fade = np.where(outside, np.clip(1 - near / reach, 0, 1), fade)
        shift = np.stack([np.interp(frame, known, change[mine, k]) for k in range(4)], axis=1) * fade[:, None]
        centre = (old[rows, :2] + old[rows, 2:]) / 2 + shift[:, :2] * size[rows]
        half = size[rows] * np.exp(shift[:, 2:]) / 2
        out[rows] = np.concatenate([centre - half, centre + half], axis=1)
    out[at] = new
    return replace(tracks, box=out.astype(np.float32))


def keyframes(tracks: Tracks, pixels: float = 1.0, relative: float = 0.02) -> NDArray[np.bool_]:
    """Which boxes to keep so that linear interpolation between them stays near the boxes left out.

    Near means: no corner coordinate is off by more than ``max(pixels, relative * box size)``, size being the shorter
    side. First and last boxes of a track and boxes beside a gap stay, and a label change is a keyframe. The selection
    is Douglas-Peucker in time (Ramer 1972), on the four coordinates at once.

    Returns:
        (M,) mask over the rows.
    """
    keep = np.zeros(len(tracks), bool)
    size = (tracks.box[:, 2:] - tracks.box[:, :2]).min(1) if len(tracks) else np.zeros(0, np.float32)
    tolerance = np.maximum(pixels, relative * size)
    breaks = (np.diff(tracks.track) != 0) | (np.diff(tracks.frame) != 1) | (np.diff(tracks.label) != 0)
    bounds = np.concatenate([[0], np.flatnonzero(breaks) + 1, [len(tracks)]]) if len(tracks) else np.zeros(1, int)
    for start, stop in itertools.pairwise(bounds):
        keep[[start, stop - 1]] = True
        stack = [(int(start), int(stop) - 1)]
        while stack:
            left, right = stack.pop()
            if right - left < 2:
                continue
            share = (np.arange(left + 1, right) - left)[:, None] / (right - left)
            line = tracks.box[left] * (1 - share) + tracks.box[right] * share
            error = np.abs(tracks.box[left + 1 : right] - line).max(1) / tolerance[left + 1 : right]
            worst = int(error.argmax())
            if error[worst] > 1:
                middle = left + 1 + worst
                keep[middle] = True
                stack += [(left, middle), (middle, right)]
    return keep
