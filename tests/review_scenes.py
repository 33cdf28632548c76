"""Small annotations made by hand, for tests of the review room."""

import itertools

import numpy as np

from spam_cvat.annotation import Annotation, Level
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.tracks import Tracks

FRAMES, LANES = 60, 4


def people(frames: int = FRAMES, lanes: int = LANES) -> Tracks:
    """Ground truth: person k + 1 stands in lane k, 100 pixels apart, in every frame; row = (k, frame)."""
    video = VideoInfo("lanes", frames, 640, 360, 30.0)
    lane, frame = (grid.ravel() for grid in np.meshgrid(np.arange(lanes), np.arange(frames), indexing="ij"))
    left = 40.0 + 120 * lane
    return Tracks.create(video, frame, lane + 1, np.stack([left, left * 0 + 100, left + 50, left * 0 + 230], 1))


def detected(truth: Tracks, extra: list[tuple[int, float, float]] = ()) -> Detections:
    """A detection on every true box, and ``extra`` ones of (frame, left, score)."""
    frame = np.concatenate([truth.frame, [f for f, _, _ in extra]])
    boxes = np.concatenate([truth.box, np.array([[x, 100, x + 50, 230] for _, x, _ in extra]).reshape(-1, 4)])
    score = np.concatenate([np.full(len(truth), 0.9), [s for _, _, s in extra]])
    return Detections.create(truth.video, frame, boxes, score)


def row_at(detections: Detections, frame: int, left: float) -> int:
    """The row of the box that starts at ``left`` in a frame."""
    hit = np.flatnonzero((detections.frame == frame) & (np.abs(detections.box[:, 0] - left) < 1))
    assert len(hit) == 1
    return int(hit[0])


def lane(detections: Detections, number: int, start: int = 0, stop: int = FRAMES) -> list[int]:
    """Rows of lane ``number`` in frames start .. stop - 1."""
    return [row_at(detections, frame, 40.0 + 120 * number) for frame in range(start, stop)]


def annotated(
    detections: Detections,
    tracks: list[list[int]],
    weak: dict[tuple[int, int], float] | None = None,
    offers: dict[tuple[int, int], float] | None = None,
    gate: np.ndarray | None = None,
) -> Annotation:
    """An annotation with given tracks (rows each).

    One level holds an edge for every link inside the tracks (probability 0.9999, or as ``weak`` says) and for every
    offer (last row, first row) that was not taken.
    """
    weak, offers = weak or {}, offers or {}
    edge, probability, decision = [], [], []
    for rows in tracks:
        for pair in itertools.pairwise(rows):
            edge.append(pair)
            probability.append(weak.get(pair, 0.9999))
            decision.append(True)
    for pair, chance in offers.items():
        edge.append(pair)
        probability.append(chance)
        decision.append(False)
    chances = np.array(probability, np.float32)
    level = Level(
        2,
        np.arange(len(detections), dtype=np.int32),
        np.array(edge, np.int32).reshape(-1, 2),
        chances,
        chances,
        np.array(decision, bool),
    )
    flat = np.array([row for rows in tracks for row in rows], np.int64)
    number = np.repeat(np.arange(1, len(tracks) + 1), [len(rows) for rows in tracks])
    final = Tracks.create(
        detections.video, detections.frame[flat], number, detections.box[flat], detections.score[flat], flat
    )
    gate = np.full(len(detections), 0.98, np.float32) if gate is None else gate.astype(np.float32)
    return Annotation(detections, gate, (level,), final)
