"""The trackers that tables compare, by the name of the variant: ours, its gate ablation, ByteTrack and GHOST.

A variant is ``<detections>``, or a prefix and it: ``bytetrack-yolox_x``, ``confident-frcnn``.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.common import Tracker
from spam_cvat.baselines.bytetrack import ByteTrackConfig, bytetrack
from spam_cvat.baselines.ghost import GhostConfig, ghost
from spam_cvat.engine import EngineConfig, annotate
from spam_cvat.formats.mot import Sequence
from spam_cvat.tracks import Tracks, interpolate

CONFIDENT = 0.6
# Gaps in which ByteTrack's authors interpolate for their entries.
BYTETRACK_GAP = 20


def ours(config: EngineConfig, weights: Path | None = None) -> Tracker:
    """The engine, by default with its shipped weights; no answers given."""

    def track(sequence: Sequence) -> Tracks:
        return annotate(sequence.detections, config=config, warps=sequence.warps, weights=weights).tracks

    return track


def trackers(
    detections: str,
    *,
    weights: Path | None = None,
    config: EngineConfig | None = None,
    bytetrack_config: ByteTrackConfig | None = None,
    ghost_config: GhostConfig | None = None,
) -> dict[str, Tracker]:
    """All variants on one detector's boxes, by name.

    The ablation is SPAM's: ``confident`` takes sure boxes only, ``nogate`` adds the faint ones and keeps all of them,
    and the variant without a prefix lets the gate choose among them.
    """
    config = config or EngineConfig()
    plain: Callable[[Sequence], Tracks] = lambda sequence: bytetrack(sequence.detections, bytetrack_config)  # noqa: E731
    return {
        detections: ours(config, weights),
        f"bytetrack-{detections}": plain,
        f"bytetrack-interpolated-{detections}": lambda sequence: interpolate(plain(sequence), BYTETRACK_GAP),
        f"ghost-{detections}": lambda sequence: ghost(sequence.detections, ghost_config),
        f"confident-{detections}": ours(replace(config, gate=False, min_score=CONFIDENT), weights),
        f"nogate-{detections}": ours(replace(config, gate=False), weights),
    }
