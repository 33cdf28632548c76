"""The engine: one call from candidate boxes to an annotation.

In: Detections, camera motion, answers. Out: an Annotation: gate probabilities, every level's candidate edges, and the
final tracks. The same input and configuration give the same tracks; what humans said is never contradicted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat import __version__
from spam_cvat.annotation import Annotation
from spam_cvat.answers import Answer, Clamps, digest, resolve
from spam_cvat.boxes import warp_boxes
from spam_cvat.detections import Detections
from spam_cvat.errors import InputError
from spam_cvat.hierarchy import finish
from spam_cvat.hierarchy.geometry import Clip, to_centre
from spam_cvat.hierarchy.levels import ClipResult, GeometryScorer, Policy, run_clip
from spam_cvat.tracks import Tracks


@dataclass(frozen=True)
class EngineConfig:
    """How to annotate. Plain values, so that an annotation can say how it was made.

    Attributes:
        min_score: boxes below this confidence are no candidates (answers about them still count).
        gate: whether the gate may drop boxes; without it every candidate enters the hierarchy and every track stays.
        max_gap: longest gap in seconds that is filled between two boxes of a track.
        smooth: whether boxes are smoothed along the track as far as the scene bears it.
        min_seconds: shorter tracks are left out unless an answer holds them.
    """

    min_score: float = 0.1
    gate: bool = True
    max_gap: float = 2.0
    smooth: bool = True
    min_seconds: float = 0.1


def annotate(
    detections: Detections,
    *,
    config: EngineConfig | None = None,
    warps: NDArray[np.float64] | None = None,
    answers: Sequence[Answer] | None = None,
    weights: Path | None = None,
) -> Annotation:
    """Annotate one video's candidate boxes.

    Args:
        detections: candidate boxes, at a low threshold.
        config: see :class:`EngineConfig`.
        warps: (num_frames, 2, 3) camera motion, frame k - 1 to frame k in pixels; None for a still camera.
        answers: what humans said of these detections; kept in the result without exception.
        weights: a weights file in place of the shipped one.

    Raises:
        InputError: the warps do not fit the video, or the weights cannot be read.
    """
    config = config or EngineConfig()
    video = detections.video
    if warps is not None and np.shape(warps) != (video.num_frames, 2, 3):
        raise InputError(
            f"{video.name}: camera motion has shape {np.shape(warps)}, the video needs ({video.num_frames}, 2, 3)"
        )
    clamps = resolve(answers or (), detections)
    scorer = GeometryScorer()
    clip = Clip.create(detections, warps)
    dropped = (detections.score < config.min_score) & (clamps.gate != 1)
    clamps = _with_gate(clamps, dropped)
    policy = Policy() if config.gate else Policy(gate=-np.inf)
    result = run_clip(clip, clamps, scorer, policy)
    tracks = _tracks(detections, clip, result, clamps, config)
    provenance: dict[str, Any] = {
        "program": f"spam-cvat {__version__}",
        "weights": "geometry",
        "answers": digest(answers or ()),
    }
    gate = 1 / (1 + np.exp(-np.clip(result.gate, -30, 30)))
    gate = np.where(clamps.gate >= 0, clamps.gate, gate)
    return Annotation(detections, gate.astype(np.float32), result.levels, tracks, asdict(config), provenance)


def _with_gate(clamps: Clamps, dropped: NDArray[np.bool_]) -> Clamps:
    gate = np.where(dropped, 0, clamps.gate).astype(np.int8)
    return Clamps(gate, clamps.must, clamps.cannot, clamps.boxes)


def _tracks(detections: Detections, clip: Clip, result: ClipResult, clamps: Clamps, config: EngineConfig) -> Tracks:
    """The final tracks: gated, filled, smoothed; corrected boxes exactly as they were given."""
    node = result.node.copy()
    total = int(node.max(initial=-1)) + 1
    if not total:
        return Tracks.empty(detections.video, detections.labels)
    boxes = clip.box.copy()
    for row, box_given in clamps.boxes.items():
        home = np.linalg.inv(np.vstack([clip.to_pixels[clip.frame[row]], [0, 0, 1]]))[:2]
        boxes[row] = to_centre(warp_boxes(np.array([box_given], np.float64), home))[0]
    rows = np.flatnonzero(node >= 0)
    held = np.zeros(total, bool)
    held[node[rows[clamps.gate[rows] == 1]]] = True
    first, last = np.full(total, clip.num_frames), np.full(total, -1)
    np.minimum.at(first, node[rows], clip.frame[rows])
    np.maximum.at(last, node[rows], clip.frame[rows])
    stays = (result.track_gate > 0) | (not config.gate)
    stays &= (last - first + 1 >= config.min_seconds * clip.fps) & (np.bincount(node[rows], minlength=total) > 1)
    node[rows] = np.where((stays | held)[node[rows]], node[rows], -1)
    filled = finish.fill(clip, node, boxes)
    box = finish.smooth(clip, filled)[0] if config.smooth else filled.box
    pixels = finish.to_video(clip, filled, box)
    for row, box_given in clamps.boxes.items():
        pixels[filled.row == row] = box_given
    shown = filled.gap <= config.max_gap * clip.fps
    label = np.zeros(total, np.int16)
    label[node[rows[::-1]]] = detections.label[rows[::-1]]
    size = pixels[:, 2:] - pixels[:, :2]
    shown &= (size > 0).all(1)
    return Tracks.create(
        detections.video,
        filled.frame[shown],
        filled.track[shown] + 1,
        pixels[shown],
        np.clip(filled.score[shown], 0, 1),
        filled.row[shown],
        label[filled.track[shown]],
        detections.labels,
    ).relabelled()
