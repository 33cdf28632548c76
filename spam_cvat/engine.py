"""The engine: one call from candidate boxes to an annotation.

In: Detections, camera motion, answers. Out: an Annotation: gate probabilities, every level's candidate edges, and the
final tracks. The same input and configuration give the same tracks; what humans said is never contradicted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spam_cvat import __version__
from spam_cvat.annotation import Annotation, candidate_edges
from spam_cvat.answers import Answer, Clamps, digest, resolve
from spam_cvat.detections import Detections, comparable, score_scale
from spam_cvat.errors import InputError
from spam_cvat.hierarchy import finish
from spam_cvat.hierarchy import weights as weight_files
from spam_cvat.hierarchy.amend import amend
from spam_cvat.hierarchy.assignment import Guard, People
from spam_cvat.hierarchy.calibration import sigmoid
from spam_cvat.hierarchy.ends import link_clip
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.levels import EXTENTS, ClipResult, Policy, Scorer
from spam_cvat.hierarchy.normalise import listed_once, looked_at, people_shaped
from spam_cvat.hierarchy.recalibration import recalibrate
from spam_cvat.hierarchy.stitching import Linked, clip_ranges, join_clips
from spam_cvat.tracks import Tracks

# Log odds of boxes that are no candidates.
NOT_REAL = 6.0
Found = TypeVar("Found", Linked, ClipResult)


@dataclass(frozen=True)
class EngineConfig:
    """How to annotate. Plain values, so that an annotation can say how it was made.

    Attributes:
        min_score: boxes below this confidence are no candidates (answers about them still count). It is compared with
            what :func:`spam_cvat.detections.comparable` makes of the detector's confidences.
        gate: whether boxes may be dropped, by the gate or as a second one of the same object; without it every
            candidate enters the hierarchy and every track stays.
        max_gap: longest gap in seconds that is filled between two boxes of a track.
        gap_confidence: boxes put into gaps are shown that are right with this probability at least.
        smooth: whether boxes are smoothed along the track as far as the scene bears it.
        min_seconds: shorter tracks are left out unless an answer holds them.
    """

    min_score: float = 0.1
    gate: bool = True
    max_gap: float = 2.0
    gap_confidence: float = 0.5
    smooth: bool = True
    min_seconds: float = 0.15


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
    scorer = weight_files.load(weights)
    scale = score_scale(detections)
    judged = comparable(detections, scale)
    plain = judged.score >= config.min_score
    if config.gate:
        plain &= listed_once(judged)
    rows = np.flatnonzero(plain | (clamps.gate == 1))
    # From all boxes, as what is found without answers must not depend on the rows that they let in.
    known, motion = people_shaped(*looked_at(judged, warps))
    linked = _linked(known.select(rows), motion, plain[rows], _clamps_of(clamps, rows), scorer, config)
    linked = _spread(linked, rows, len(detections))
    gate = np.where(clamps.gate >= 0, clamps.gate, sigmoid(linked.gate))
    stays = _tracks_to_keep(detections, linked, clamps.gate, config)
    node = linked.node.copy()
    inside = np.flatnonzero(node >= 0)
    node[inside[~stays[node[inside]]]] = -1
    # Links over gaps, which level 0 has none of.
    over_gaps = candidate_edges([level for level in linked.levels if level.extent > EXTENTS[0]])
    tracks = finish.make_tracks(
        judged,
        warps,
        node,
        clamps.boxes,
        links=over_gaps,
        max_gap=config.max_gap,
        least=config.gap_confidence,
        smooth=config.smooth,
    )
    provenance: dict[str, Any] = {
        "program": f"spam-cvat {__version__}",
        "weights": scorer.digest,
        "score_scale": scale,
        "answers": digest(answers or ()),
        "conflicts": list(clamps.conflicts),
        "unknown": list(clamps.unknown),
    }
    tracks = _with_own_scores(tracks, detections, scale)
    return Annotation(detections, gate.astype(np.float32), linked.levels, tracks, asdict(config), provenance)


def _with_own_scores(tracks: Tracks, detections: Detections, scale: float) -> Tracks:
    """The tracks with the detector's own confidences, which people know and set thresholds by."""
    seen = tracks.detection >= 0
    score = tracks.score / np.float32(scale)
    score[seen] = detections.score[tracks.detection[seen]]
    return replace(tracks, score=score)


def _linked(
    candidates: Detections,
    warps: NDArray[np.float64] | None,
    plain: NDArray[np.bool_],
    clamps: Clamps,
    scorer: Scorer,
    config: EngineConfig,
) -> Linked:
    """The candidates through the hierarchy, clip by clip: without answers first, which are then imposed.

    ``plain`` (N,) are those that are candidates whatever was answered.
    """
    policy = Policy() if config.gate else Policy(gate=-np.inf)
    people = People(clamps, candidates.frame.astype(np.int64))
    parts = []
    for start, stop in clip_ranges(candidates):
        window, motion = candidates.window(start, stop), None if warps is None else warps[start:stop]
        low, high = int(candidates.frame_start[start]), int(candidates.frame_start[stop])
        guard = Guard(people, window.frame.astype(np.int64) + start, low, high)
        said = clamps.gate[low:high]
        # What is found without answers must not depend on them, so boxes that only an answer lets in wait.
        seen = np.flatnonzero(plain[low:high])
        whole = Clip.create(window, motion)
        alone = whole if len(seen) == len(window) else Clip.create(window.select(seen), motion)
        part = recalibrate(alone, link_clip(alone, scorer, policy), policy)
        if guard or (said >= 0).any():
            part = amend(whole, _spread(part, seen, len(window)), said, guard, scorer, policy)
        parts.append(part)
    return join_clips(candidates, warps, parts, people, scorer, policy)


def _clamps_of(clamps: Clamps, rows: NDArray[np.intp]) -> Clamps:
    """The clamps of some rows, ascending. Rows of ``must`` are always among them.

    A row that is no candidate is in no track, so what it is held apart from need not be checked.
    """
    place = np.full(len(clamps.gate), -1, np.int64)
    place[rows] = np.arange(len(rows))
    cannot = place[clamps.cannot]
    return Clamps(clamps.gate[rows], place[clamps.must], cannot[(cannot >= 0).all(1)])


def _spread(found: Found, rows: NDArray[np.intp], total: int) -> Found:
    """Columns of some rows as columns of all; the others are in no node, and certainly not real."""
    if len(rows) == total:
        return found

    def spread(values: NDArray[Any], empty: float) -> NDArray[Any]:
        out = np.full(total, empty, values.dtype)
        out[rows] = values
        return out

    levels = tuple(replace(level, node=spread(level.node, -1)) for level in found.levels)
    return replace(found, node=spread(found.node, -1), gate=spread(found.gate, -NOT_REAL), levels=levels)


def _tracks_to_keep(
    detections: Detections, linked: Linked, said: NDArray[np.int8], config: EngineConfig
) -> NDArray[np.bool_]:
    """(T,) which identities become tracks.

    Those that the tracks' gate and their length speak for, and all that hold a box called real.
    """
    total = len(linked.track_gate)
    rows = np.flatnonzero(linked.node >= 0)
    node = linked.node[rows]
    first, last = np.full(total, np.iinfo(np.int64).max), np.full(total, -1)
    np.minimum.at(first, node, detections.frame[rows])
    np.maximum.at(last, node, detections.frame[rows])
    count = np.bincount(node, minlength=total)
    stays = (linked.track_gate > 0) | (not config.gate)
    stays &= (last - first + 1 >= config.min_seconds * detections.video.fps) & (count > 1)
    stays[node[said[rows] == 1]] = True
    return stays
