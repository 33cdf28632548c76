"""Detections: one video's candidate boxes as columns, in frame order, with ids that survive a re-run.

In: what a detector, a file or a CVAT task proposes. Out: what the hierarchy gates and links.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.errors import InputError

# What a detector gives the boxes that it is surest of lies between this and 1 for most; some never come near, as
# their confidences are products of two, or similarities with a text.
SUREST = 0.9
# So many boxes, or one in so many frames, are the surest ones; one alone may be a freak.
SUREST_BOXES, SUREST_FRAMES = 50, 100
# Where even these are less sure than that, or boxes of more than this share of their confidence are rarer than so many
# a frame, confidences say that nobody is there. Scenes of people have three and more.
LEAST_SUREST = 0.3
NEARLY_SUREST, PER_FRAME = 0.6, 0.3
# What the least sure box of a detector gets whose confidences are no probabilities (margins, per cent).
LEAST_SURE = 0.3


@dataclass(frozen=True)
class VideoInfo:
    """What must be known of a video without its pixels.

    Attributes:
        name: a short name for messages and file names.
        num_frames: frames are numbered 0 .. num_frames - 1.
        width: of the image, in pixels.
        height: of the image, in pixels.
        fps: frames a second; gaps between boxes are weighed in seconds.
    """

    name: str
    num_frames: int
    width: int
    height: int
    fps: float = 30.0

    def __post_init__(self) -> None:
        """Refuse sizes and rates that no video has."""
        if self.num_frames < 0 or self.width <= 0 or self.height <= 0 or not 0 < self.fps < 10_000:
            raise InputError(
                f"video {self.name!r}: {self.num_frames} frames of {self.width}x{self.height} at {self.fps} fps "
                "is not a video; give frames >= 0, a positive size and rate"
            )


def detection_ids(frame: NDArray[np.integer], box: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Stable ids: a 64-bit digest of frame number and box in hundredths of a pixel. (N,), (N, 4) -> (N,) uint64.

    Equal on every machine and every run that proposes the same boxes, so that answers given about them survive.
    The mixing step is splitmix64 (Steele et al., OOPSLA 2014).
    """
    words = np.concatenate([frame[:, None].astype(np.int64), np.rint(box.astype(np.float64) * 100).astype(np.int64)], 1)
    state = np.full(len(words), 0x243F6A8885A308D3, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in words.T.view(np.uint64) if words.size else []:
            state = (state ^ column) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return state


@dataclass(frozen=True)
class Detections:
    """Candidate boxes of one video, sorted by frame and then by falling score; no two are the same box of one frame.

    Make them with :meth:`create`, which checks and sorts; the constructor trusts its columns.

    Attributes:
        video: the video they belong to.
        frame: (N,) int32, from 0.
        box: (N, 4) float32, x1 y1 x2 y2 in pixels; may reach outside the image.
        score: (N,) float32 in [0, 1], the detector's confidence.
        label: (N,) int16, index into ``labels``.
        labels: class names.
        embedding: (N, D) float32 appearance vectors, unit length, or None; a zero row is a box without one.
    """

    video: VideoInfo
    frame: NDArray[np.int32]
    box: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.int16]
    labels: tuple[str, ...] = ("person",)
    embedding: NDArray[np.float32] | None = field(default=None, repr=False)

    @classmethod
    def create(
        cls,
        video: VideoInfo,
        frame: ArrayLike,
        box: ArrayLike,
        score: ArrayLike | None = None,
        label: ArrayLike | None = None,
        labels: Sequence[str] = ("person",),
        embedding: ArrayLike | None = None,
        *,
        drop_bad: bool = False,
    ) -> "Detections":
        """Check, sort and de-duplicate columns of equal length.

        Args:
            video: the video; frames must lie in it.
            frame: (N,) frame numbers from 0.
            box: (N, 4) x1 y1 x2 y2 in pixels.
            score: (N,) confidences in [0, 1]; 1 where not given.
            label: (N,) indices into ``labels``; 0 where not given.
            labels: class names.
            embedding: (N, D) appearance vectors or None.
            drop_bad: leave bad rows out instead of refusing them.

        Raises:
            InputError: a row has a frame outside the video, a box that is not finite or has no area, a score outside
                [0, 1] or an unknown label, and ``drop_bad`` is not set; or the columns differ in length.
        """
        frames = np.asarray(frame, dtype=np.int64).reshape(-1)
        boxes = np.asarray(box, dtype=np.float64).reshape(-1, 4)
        n = len(frames)
        scores = np.ones(n) if score is None else np.asarray(score, dtype=np.float64).reshape(-1)
        classes = np.zeros(n, np.int64) if label is None else np.asarray(label, dtype=np.int64).reshape(-1)
        vectors = None if embedding is None else np.asarray(embedding, dtype=np.float32)
        lengths = {len(boxes), len(scores), len(classes), n} | ({len(vectors)} if vectors is not None else set())
        if len(lengths) > 1:
            raise InputError(f"{video.name}: columns of different length: {sorted(lengths)}")
        with np.errstate(invalid="ignore"):
            size = boxes[:, 2:] - boxes[:, :2]
            # 1e6 pixels is far outside any image; larger numbers would overflow the ids.
            reasons = [
                (~np.isfinite(boxes).all(1) | (np.abs(boxes) > 1e6).any(1), "box is not finite"),
                (~(size > 0).all(1), "box has no area"),
                ((frames < 0) | (frames >= video.num_frames), f"frame is outside 0..{video.num_frames - 1}"),
                (~((scores >= 0) & (scores <= 1)), "score is outside 0..1"),
                ((classes < 0) | (classes >= len(labels)), f"label is not one of {list(labels)}"),
            ]
        bad = np.zeros(n, bool)
        for mask, reason in reasons:
            if mask.any() and not drop_bad:
                row = int(np.flatnonzero(mask)[0])
                raise InputError(
                    f"{video.name}: detection {row} (frame {frames[row]}, box {boxes[row].tolist()}, "
                    f"score {scores[row]}): {reason}"
                )
            bad |= mask
        order = np.lexsort((np.arange(n), -scores, frames))
        order = order[~bad[order]]
        ids = detection_ids(frames[order], boxes[order].astype(np.float32))
        _, first = np.unique(ids, return_index=True)
        order = order[np.sort(first)]
        return cls(
            video=video,
            frame=frames[order].astype(np.int32),
            box=boxes[order].astype(np.float32),
            score=scores[order].astype(np.float32),
            label=classes[order].astype(np.int16),
            labels=tuple(labels),
            embedding=None if vectors is None else vectors[order],
        )

    @classmethod
    def empty(cls, video: VideoInfo, labels: Sequence[str] = ("person",)) -> "Detections":
        """No boxes at all."""
        return cls.create(video, [], np.zeros((0, 4)), labels=labels)

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.frame)

    @cached_property
    def id(self) -> NDArray[np.uint64]:
        """(N,) stable ids, see :func:`detection_ids`."""
        return detection_ids(self.frame, self.box)

    @cached_property
    def frame_start(self) -> NDArray[np.intp]:
        """(num_frames + 1,) row at which each frame's boxes start; boxes of frame k are rows start[k]:start[k + 1]."""
        return np.searchsorted(self.frame, np.arange(self.video.num_frames + 1))

    def by_frame(self) -> Iterator[tuple[int, slice]]:
        """Each frame's number and the slice of its rows, empty frames included."""
        for k in range(self.video.num_frames):
            yield k, slice(int(self.frame_start[k]), int(self.frame_start[k + 1]))

    def select(self, rows: NDArray[Any]) -> "Detections":
        """The rows of a boolean mask or of an ascending index array."""
        return replace(
            self,
            frame=self.frame[rows],
            box=self.box[rows],
            score=self.score[rows],
            label=self.label[rows],
            embedding=None if self.embedding is None else self.embedding[rows],
        )

    def window(self, start: int, stop: int) -> "Detections":
        """Boxes of frames start .. stop - 1, renumbered from 0, as a video of their own."""
        start, stop = max(start, 0), min(stop, self.video.num_frames)
        cut = self.select(np.arange(self.frame_start[start], self.frame_start[stop]))
        video = replace(self.video, num_frames=stop - start)
        return replace(cut, video=video, frame=(cut.frame - start).astype(np.int32))

    def with_embedding(self, embedding: NDArray[np.float32] | None) -> "Detections":
        """The same boxes with other appearance vectors, (N, D) or None."""
        if embedding is not None and len(embedding) != len(self):
            raise InputError(f"{self.video.name}: {len(embedding)} embeddings for {len(self)} detections")
        return replace(self, embedding=embedding)


def score_scale(detections: Detections) -> float:
    """By how much confidences must be multiplied so that the detector's surest boxes get :data:`SUREST`; 1 at least.

    The networks were trained on simulated detectors, whose confidence ends at :data:`SUREST` or above. One whose
    confidence ends at 0.5 would have all its boxes doubted. Too few boxes to tell, or none that is surer than
    :data:`LEAST_SUREST`, are not taken for more than that.
    """
    frames = detections.video.num_frames
    surest = _surest(detections.score, frames)
    near = (detections.score >= NEARLY_SUREST * surest).sum()
    if near < max(_surest_boxes(frames), PER_FRAME * frames):
        return 1.0
    return max(1.0, SUREST / max(surest, LEAST_SUREST))


def comparable(detections: Detections, scale: float | None = None) -> Detections:
    """The same boxes with confidences that mean about the same whatever the detector.

    ``scale`` is what :func:`score_scale` gave for them; None to ask it.
    """
    scale = score_scale(detections) if scale is None else scale
    if scale == 1:
        return detections
    return replace(detections, score=np.minimum(detections.score * np.float32(scale), np.float32(1)))


def confidences_of(margin: NDArray[np.float64], num_frames: int) -> NDArray[np.float64]:
    """Confidences for numbers that only say which box a detector is surer of. (N,) finite -> (N,) in [0, 1].

    In a straight line from :data:`LEAST_SURE` to :data:`SUREST` for the surest ones; :data:`SUREST` where all are
    equal. Detectors list what they are at least somewhat sure of, so the least one is not nothing.
    """
    low, high = margin.min(initial=np.inf), _surest(margin, num_frames)
    if not low < high:
        return np.full(len(margin), SUREST)
    return np.clip(LEAST_SURE + (SUREST - LEAST_SURE) * (margin - low) / (high - low), 0, 1)


def _surest_boxes(num_frames: int) -> int:
    return max(SUREST_BOXES, num_frames // SUREST_FRAMES)


def _surest(score: NDArray[np.floating], num_frames: int) -> float:
    """What the surest boxes have at least, all of them where there are few."""
    count = min(_surest_boxes(num_frames), len(score))
    return float(np.partition(score, -count)[-count]) if count else 0.0
