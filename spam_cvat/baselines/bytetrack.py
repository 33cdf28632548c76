"""ByteTrack (Zhang et al., ECCV 2022): an online tracker that matches confident boxes first and faint ones next.

In: Detections. Out: Tracks of smoothed boxes. Written from the published description; with its settings for
MOT17 it meets the reference's figures there to within a hundredth of HOTA.
"""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from spam_cvat.baselines.association import assign, each_label, without
from spam_cvat.boxes import iou_matrix
from spam_cvat.detections import Detections
from spam_cvat.tracks import Tracks

Array = NDArray[np.float64]

# Standard deviations as shares of the box height (centre and height), and as they are (aspect ratio).
POSITION, VELOCITY = 1 / 20, 1 / 160


@dataclass(frozen=True)
class ByteTrackConfig:
    """Settings, by default those for MOT17.

    Attributes:
        high: boxes above this score are matched first and can start tracks.
        low: boxes between this score and ``high`` only continue tracks.
        new: least score of a box that starts a track.
        match: cost limit of the first matching, on 1 - IoU * score.
        match_low: cost limit of the second matching, on 1 - IoU.
        match_new: cost limit for tracks seen once, on 1 - IoU * score.
        buffer: frames for which a lost track is remembered.
        duplicate: IoU from which a tracked and a lost track are the same object; the younger one goes.
        min_area: boxes of at most so many square pixels are not reported.
        max_aspect: boxes wider than this times their height are not reported. The reference sets 1.6, which changes
            nothing on MOT17 and loses dancers who spread their arms, so all are reported by default.
    """

    high: float = 0.6
    low: float = 0.1
    new: float = 0.7
    match: float = 0.9
    match_low: float = 0.5
    match_new: float = 0.7
    buffer: int = 30
    duplicate: float = 0.85
    min_area: float = 100.0
    max_aspect: float = np.inf


def bytetrack(detections: Detections, config: ByteTrackConfig | None = None) -> Tracks:
    """Track every label's boxes; ``detection`` of a track's row names the box that it was updated with."""
    return each_label(detections, lambda boxes: _run(boxes, config or ByteTrackConfig()))


def _run(detections: Detections, config: ByteTrackConfig) -> Tracks:
    targets, used = _Targets(), 0
    boxes = detections.box.astype(np.float64)
    scores = detections.score
    rows: list[tuple[NDArray[np.int64], ...]] = []
    corners: list[Array] = []
    for frame, span in detections.by_frame():
        first = int(detections.frame_start[frame])
        score = scores[span]
        high = first + np.flatnonzero(score > config.high)
        # As in the reference, a score of exactly ``high`` is in neither set.
        low = first + np.flatnonzero((score > config.low) & (score < config.high))
        targets, used = _step(targets, frame, boxes, scores, high, low, used, config)
        shown = np.flatnonzero(~targets.lost & targets.confirmed)
        rows.append((np.full(len(shown), frame), targets.id[shown], targets.row[shown]))
        corners.append(targets.corners(shown))
    if not rows:
        return Tracks.empty(detections.video, detections.labels)
    frame_, track, row = (np.concatenate(column) for column in zip(*rows, strict=True))
    box = np.concatenate(corners)
    width, height = (box[:, 2:] - box[:, :2]).T
    kept = (width > 0) & (height > 0) & (width * height > config.min_area) & (width <= config.max_aspect * height)
    row = row[kept]
    return Tracks.create(
        detections.video, frame_[kept], track[kept], box[kept], scores[row], row, detections.label[row],
        detections.labels,
    )  # fmt: skip


def _step(
    targets: "_Targets",
    frame: int,
    boxes: Array,
    scores: NDArray[np.float32],
    high: NDArray[np.intp],
    low: NDArray[np.intp],
    used: int,
    config: ByteTrackConfig,
) -> tuple["_Targets", int]:
    """One frame: the targets after it, and the last identity given out."""
    # Confirmed and lost targets move first; one seen once stays where it was, a habit of the reference.
    pool = np.flatnonzero(targets.confirmed)
    targets.predict(pool)
    guess = targets.corners(np.arange(len(targets)))

    overlap = _overlap(guess[pool], boxes[high])
    mine, theirs = assign(1 - overlap * scores[high], config.match)
    targets.update(pool[mine], boxes, scores, high[theirs], frame)
    left, high = pool[without(len(pool), mine)], high[without(len(high), theirs)]

    active = left[~targets.lost[left]]
    mine, theirs = assign(1 - _overlap(guess[active], boxes[low]), config.match_low)
    targets.update(active[mine], boxes, scores, low[theirs], frame)
    targets.lost[active[without(len(active), mine)]] = True

    fresh = np.flatnonzero(~targets.confirmed)
    overlap = _overlap(guess[fresh], boxes[high])
    mine, theirs = assign(1 - overlap * scores[high], config.match_new)
    targets.update(fresh[mine], boxes, scores, high[theirs], frame)
    high = high[without(len(high), theirs)]

    gone = np.zeros(len(targets), bool)
    gone[fresh[without(len(fresh), mine)]] = True
    # The reference forgets a lost track one frame after its time is up.
    gone |= targets.lost & (frame - targets.seen > config.buffer + 1)
    targets = targets.select(~gone)

    born = high[scores[high] >= config.new]
    targets = targets.join(_Targets.start(boxes, scores, born, frame, used))
    return targets.select(~_duplicates(targets, config.duplicate)), used + len(born)


def _duplicates(targets: "_Targets", threshold: float) -> NDArray[np.bool_]:
    """Of each overlapping pair of a tracked and a lost target, the one with the shorter life. (T,) mask."""
    gone = np.zeros(len(targets), bool)
    tracked, lost = np.flatnonzero(~targets.lost), np.flatnonzero(targets.lost)
    if not len(tracked) or not len(lost):
        return gone
    i, j = np.nonzero(_overlap(targets.corners(tracked), targets.corners(lost)) > threshold)
    age = targets.seen - targets.born
    older = age[tracked[i]] > age[lost[j]]
    gone[lost[j[older]]] = True
    gone[tracked[i[~older]]] = True
    return gone


def _overlap(a: Array, b: Array) -> Array:
    """IoU of boxes whose right and bottom edges are inclusive, as the reference counts pixels. (N, 4), (M, 4)."""
    inclusive = np.array([0, 0, 1, 1])
    return np.asarray(iou_matrix(a + inclusive, b + inclusive))


def _none(*shape: int, dtype: type = np.float64) -> NDArray:
    return np.zeros((0, *shape), dtype)


@dataclass
class _Targets:
    """Targets as columns, with a constant-velocity Kalman filter over centre x, centre y, aspect ratio and height.

    All noise is diagonal, so that the 8 x 8 covariance of the reference falls apart, without loss, into one 2 x 2
    matrix of position and velocity for each of the four quantities: ``pp``, ``pv`` and ``vv``.

    Attributes:
        position: (T, 4) centre x, centre y, width / height, height.
        velocity: (T, 4) their change in a frame.
        pp: (T, 4) variance of the position.
        pv: (T, 4) covariance of position and velocity.
        vv: (T, 4) variance of the velocity.
        id: (T,) identities from 1.
        row: (T,) detection that updated the target last.
        born: (T,) first frame.
        seen: (T,) frame of the last update.
        confirmed: (T,) matched since its first frame, or born in the video's first.
        lost: (T,) not matched in the last frame.
    """

    position: Array = field(default_factory=lambda: _none(4))
    velocity: Array = field(default_factory=lambda: _none(4))
    pp: Array = field(default_factory=lambda: _none(4))
    pv: Array = field(default_factory=lambda: _none(4))
    vv: Array = field(default_factory=lambda: _none(4))
    id: NDArray[np.int64] = field(default_factory=lambda: _none(dtype=np.int64))
    row: NDArray[np.int64] = field(default_factory=lambda: _none(dtype=np.int64))
    born: NDArray[np.int64] = field(default_factory=lambda: _none(dtype=np.int64))
    seen: NDArray[np.int64] = field(default_factory=lambda: _none(dtype=np.int64))
    confirmed: NDArray[np.bool_] = field(default_factory=lambda: _none(dtype=np.bool_))
    lost: NDArray[np.bool_] = field(default_factory=lambda: _none(dtype=np.bool_))

    @classmethod
    def start(
        cls, boxes: Array, scores: NDArray[np.float32], rows: NDArray[np.intp], frame: int, used: int
    ) -> "_Targets":
        position = _measure(boxes[rows])
        count = len(rows)
        return cls(
            position=position,
            velocity=np.zeros((count, 4)),
            pp=_deviation(position, 2 * POSITION, 1e-2) ** 2,
            pv=np.zeros((count, 4)),
            vv=_deviation(position, 10 * VELOCITY, 1e-5) ** 2,
            id=used + 1 + np.arange(count),
            row=rows.astype(np.int64),
            born=np.full(count, frame),
            seen=np.full(count, frame),
            confirmed=np.full(count, frame == 0),
            lost=np.zeros(count, bool),
        )

    def __len__(self) -> int:
        return len(self.id)

    def select(self, kept: NDArray[np.bool_]) -> "_Targets":
        return _Targets(*(getattr(self, item.name)[kept] for item in fields(self)))

    def join(self, other: "_Targets") -> "_Targets":
        if not len(other):
            return self
        return _Targets(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def corners(self, targets: NDArray[np.intp]) -> Array:
        """Boxes as corners, (K, 4)."""
        x, y, aspect, height = self.position[targets].T
        width = aspect * height
        return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)

    def predict(self, targets: NDArray[np.intp]) -> None:
        """Move targets by a frame; a lost one keeps its height."""
        self.velocity[targets[self.lost[targets]], 3] = 0
        position, velocity = self.position[targets], self.velocity[targets]
        pv, vv = self.pv[targets], self.vv[targets]
        self.pp[targets] += 2 * pv + vv + _deviation(position, POSITION, 1e-2) ** 2
        self.pv[targets] = pv + vv
        self.vv[targets] = vv + _deviation(position, VELOCITY, 1e-5) ** 2
        self.position[targets] = position + velocity

    def update(
        self, targets: NDArray[np.intp], boxes: Array, scores: NDArray[np.float32], rows: NDArray[np.intp], frame: int
    ) -> None:
        """Take measurements in, one for each target."""
        position, pp, pv = self.position[targets], self.pp[targets], self.pv[targets]
        spread = pp + _deviation(position, POSITION, 1e-1) ** 2
        surprise = (_measure(boxes[rows]) - position) / spread
        self.position[targets] = position + pp * surprise
        self.velocity[targets] += pv * surprise
        self.vv[targets] -= pv * pv / spread
        self.pv[targets] = pv - pp * pv / spread
        self.pp[targets] = pp - pp * pp / spread
        self.row[targets] = rows
        self.seen[targets] = frame
        self.confirmed[targets] = True
        self.lost[targets] = False


def _measure(boxes: Array) -> Array:
    """Corners to centre x, centre y, width / height, height. (K, 4) -> (K, 4)."""
    size = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + size / 2, size[:, :1] / size[:, 1:], size[:, 1:]], axis=1)


def _deviation(position: Array, share: float, aspect: float) -> Array:
    """Standard deviations: a share of the height, but for the aspect ratio. (K, 4) -> (K, 4)."""
    out = np.repeat(share * position[:, 3:], 4, axis=1)
    out[:, 2] = aspect
    return out
