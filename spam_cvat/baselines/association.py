"""What online trackers share: assignment under a cost limit, and one tracker run for each label."""

from collections.abc import Callable
from dataclasses import replace

import lap
import numpy as np
from numpy.typing import NDArray

from spam_cvat.detections import Detections
from spam_cvat.tracks import Tracks, concatenate


def assign(cost: NDArray[np.floating], limit: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns paired at the least total cost, where leaving a pair apart costs ``limit``. (N, M).

    Jonker and Volgenant's algorithm with the cost limit of the lap package, as ByteTrack calls it.
    """
    if not cost.size:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    _, column, _ = lap.lapjv(cost, extend_cost=True, cost_limit=limit)
    rows = np.flatnonzero(column >= 0)
    return rows, column[rows].astype(np.intp)


def without(count: int, taken: NDArray[np.intp]) -> NDArray[np.intp]:
    """Indices 0 .. count - 1 that are not in ``taken``."""
    left = np.ones(count, bool)
    left[taken] = False
    return np.flatnonzero(left)


def each_label(detections: Detections, track: Callable[[Detections], Tracks]) -> Tracks:
    """Run a tracker that knows no labels on each label's boxes; identities differ between labels."""
    parts: list[Tracks] = []
    used = 0
    for label in np.unique(detections.label) if len(detections) else []:
        rows = np.flatnonzero(detections.label == label)
        part = track(detections.select(rows))
        part = replace(
            part,
            track=part.track + np.int32(used),
            detection=np.where(part.detection >= 0, rows[part.detection], -1),
            label=np.full(len(part), label, np.int16),
            labels=detections.labels,
        )
        used = int(part.track.max(initial=used))
        parts.append(part)
    return concatenate(parts) if parts else Tracks.empty(detections.video, detections.labels)
