"""GHOST (Seidenschwarz et al., CVPR 2023): an online tracker of one assignment a frame over appearance and motion.

In: Detections, with embeddings where there are some. Out: Tracks of the very boxes given. Written from the published
description. Boxes without an embedding, or all of them where the Detections have none, are compared by motion alone;
the paper's figures are made with a re-identification network adapted to each frame and are not to be expected then.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from spam_cvat.baselines.association import each_label, without
from spam_cvat.boxes import iou_matrix
from spam_cvat.detections import Detections
from spam_cvat.tracks import Tracks

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GhostConfig:
    """Settings, by default those for MOT17 with private detections.

    Attributes:
        score: boxes below this score are not looked at.
        new: boxes above this score start tracks.
        motion: weight of the motion distance; the rest is appearance.
        active: distance from which a target seen in the last frame is not matched.
        inactive: the same for a target lost before.
        history: boxes over which the velocity is averaged.
        buffer: frames for which a lost target is remembered.
    """

    score: float = 0.5
    new: float = 0.55
    motion: float = 0.6
    active: float = 0.7
    inactive: float = 0.7
    history: int = 90
    buffer: int = 50


# The authors' settings for DanceTrack: people move without warning, so a short memory of their velocity.
DANCETRACK = GhostConfig(score=0.6, new=0.6, motion=0.4, active=0.8, inactive=0.9, history=5)


def ghost(detections: Detections, config: GhostConfig | None = None) -> Tracks:
    """Track every label's boxes."""
    return each_label(detections, lambda boxes: _run(boxes, config or GhostConfig()))


@dataclass
class _Target:
    """A tracked object.

    Attributes:
        id: identity from 1.
        row: its last detection.
        seen: frame of its last detection.
        guess: (4,) where it should be in the frame at hand.
        steps: (4,) changes of the corners in a frame, of late.
        feature: (D,) its last embedding, zeros where it has none.
        features: (D,) all its embeddings, added up.
        count: how many those are.
    """

    id: int
    row: int
    seen: int
    guess: Array
    feature: Array
    features: Array
    count: int
    steps: deque[Array] = field(default_factory=deque)

    def move(self) -> None:
        """Move the guess by a frame."""
        if self.steps:
            self.guess = self.guess + np.mean(self.steps, axis=0)


def _run(detections: Detections, config: GhostConfig) -> Tracks:
    boxes = detections.box.astype(np.float64)
    vectors = np.zeros((len(detections), 1)) if detections.embedding is None else detections.embedding.astype(float)
    targets: list[_Target] = []
    track = np.zeros(len(detections), np.int64)
    used = 0
    for frame, span in detections.by_frame():
        rows = np.flatnonzero(detections.score[span] >= config.score) + span.start
        targets = [target for target in targets if frame - target.seen <= config.buffer]
        for target in targets:
            target.move()
        mine, theirs = _match(targets, frame, boxes[rows], vectors[rows], config)
        for index, row in zip(mine, rows[theirs], strict=True):
            _update(targets[index], int(row), frame, boxes, vectors[row], config.history)
            track[row] = targets[index].id
        for row in rows[without(len(rows), theirs)]:
            if detections.score[row] > config.new:
                used += 1
                known = int(vectors[row].any())
                targets.append(_Target(used, int(row), frame, boxes[row], vectors[row], vectors[row].copy(), known))
                track[row] = used
    kept = np.flatnonzero(track)
    return Tracks.create(
        detections.video, detections.frame[kept], track[kept], detections.box[kept], detections.score[kept], kept,
        detections.label[kept], detections.labels,
    )  # fmt: skip


def _match(
    targets: list[_Target], frame: int, boxes: Array, vectors: Array, config: GhostConfig
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Targets and boxes paired, each pair below its target's limit."""
    if not targets or not len(boxes):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    active = np.array([target.seen == frame - 1 for target in targets])
    # Right and bottom edges are inclusive, as in the reference.
    inclusive = np.array([0, 0, 1, 1])
    distance = 1 - iou_matrix(np.stack([target.guess for target in targets]) + inclusive, boxes + inclusive)
    # A target at hand is compared by its last look, a lost one by the mean distance to all its looks.
    looks = np.stack(
        [
            target.feature if now else target.features / max(target.count, 1)
            for now, target in zip(active, targets, strict=True)
        ]
    )
    known = np.any(looks, axis=1, keepdims=True) & np.any(vectors, axis=1)
    mixed = config.motion * distance + (1 - config.motion) * (1 - looks @ vectors.T)
    distance = np.where(known, mixed, distance)
    mine, theirs = linear_sum_assignment(distance)
    near = distance[mine, theirs] < np.where(active, config.active, config.inactive)[mine]
    return mine[near], theirs[near]


def _update(target: _Target, row: int, frame: int, boxes: Array, vector: Array, history: int) -> None:
    target.steps.append((boxes[row] - boxes[target.row]) / (frame - target.seen))
    while len(target.steps) >= history:
        target.steps.popleft()
    target.row, target.seen, target.guess = row, frame, boxes[row]
    if vector.any():
        target.feature = vector
        target.features = target.features + vector
        target.count += 1
