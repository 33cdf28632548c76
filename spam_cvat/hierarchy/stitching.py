"""Clips of a long video, and the top level that joins them.

In: a video's detections and the result of each clip. Out: identities for the whole video. Clips follow each other
without overlap and are as long as memory allows; whoever crosses a border is linked by the shared network in a window
around it, with the same features as inside a clip (the graph itself stitches, no majority vote), and nothing is
computed twice but the window's geometry. What is judged again in a clip, crossings and open ends, is not at a border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Level
from spam_cvat.detections import Detections
from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy.assignment import Guard, People, follow, round_links
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.grouping import compact, mean_of_joined
from spam_cvat.hierarchy.levels import BORDER, EXTENTS, STAGES, ClipResult, Policy, Scorer, record_of
from spam_cvat.hierarchy.motion_fit import SceneMotion

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A clip holds at most so many boxes and frames, but never fewer frames than the second number.
CLIP_BOXES = 50_000
CLIP_FRAMES = (128, 2048)


@dataclass(frozen=True)
class Linked:
    """A whole video, linked.

    Attributes:
        node: (N,) identity of each row, numbered by first row; -1 where the gate dropped it.
        gate: (N,) log odds that a row is real.
        track_gate: (T,) log odds that an identity is real.
        levels: records of all levels; with several clips the last one holds the links across their borders.
    """

    node: Ints
    gate: Floats
    track_gate: Floats
    levels: tuple[Level, ...]


def clip_ranges(detections: Detections) -> list[tuple[int, int]]:
    """First frame and end of each clip, of about equal length and boxes."""
    frames = detections.video.num_frames
    if not frames:
        return []
    count = detections.frame_start
    out, start = [], 0
    while start < frames:
        full = int(np.searchsorted(count, count[start] + CLIP_BOXES, side="right")) - 1
        stop = min(max(full, start + CLIP_FRAMES[0]), start + CLIP_FRAMES[1], frames)
        # No short rest at the end: it would know little of its own motion.
        if frames - stop < CLIP_FRAMES[0]:
            stop = frames
        out.append((start, stop))
        start = stop
    return out


def join_clips(
    detections: Detections,
    warps: Floats | None,
    parts: Sequence[ClipResult],
    people: People,
    scorer: Scorer,
    policy: Policy,
) -> Linked:
    """Number identities over all clips and link them across borders."""
    if not parts:
        return Linked(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), ())
    shift = np.cumsum([0, *(len(part.track_gate) for part in parts)])
    node = np.concatenate([np.where(p.node >= 0, p.node + s, -1) for p, s in zip(parts, shift, strict=False)])
    gate = np.concatenate([part.gate for part in parts])
    total = int(shift[-1])
    track_gate = np.concatenate([part.track_gate for part in parts])
    levels = _joined_levels(parts)
    if len(parts) > 1:
        ranges = clip_ranges(detections)
        pieces = [
            _border(detections, warps, node, (left[0], right[0], right[1]), part, scorer, policy)
            for left, right, part in zip(ranges[:-1], ranges[1:], parts[:-1], strict=True)
        ]
        edge = np.concatenate([piece[0] for piece in pieces])
        logit = np.concatenate([piece[1] for piece in pieces])
        taken = np.concatenate([piece[2] for piece in pieces])
        guard = Guard(people, detections.frame.astype(np.int64))
        taken = guard.check(node, edge, taken, logit)
        levels = (*levels, record_of(node, edge, logit, taken, scorer, BORDER, 2 * EXTENTS[-1]))
        component = follow(edge, taken, total)
        before, node = node, compact(guard.join(np.where(node >= 0, component[node], -1)))
        track_gate = mean_of_joined(track_gate, before, node)
    return Linked(node, gate, track_gate, levels)


def _joined_levels(parts: Sequence[ClipResult]) -> tuple[Level, ...]:
    """Each stage's records of all clips as one record; rows of clips that have none are in no node there."""
    if len(parts) == 1:
        return parts[0].levels
    found = [{level.stage: level for level in part.levels} for part in parts]
    stages = [stage for stage in STAGES if any(stage in records for records in found)]
    return tuple(_joined([part.node for part in parts], [records.get(stage) for records in found]) for stage in stages)


def _joined(rows: Sequence[Ints], records: Sequence[Level | None]) -> Level:
    """One stage's records of all clips, None where a clip has none, as one. ``rows`` has each clip's length."""
    shift, nodes, edges, there = 0, [], [], []
    for own, record in zip(rows, records, strict=True):
        if record is None:
            nodes.append(np.full(len(own), -1, np.int32))
            continue
        nodes.append(np.where(record.node >= 0, record.node + shift, -1).astype(np.int32))
        edges.append((record.edge + shift).astype(np.int32))
        there.append(record)
        shift += int(record.node.max(initial=-1)) + 1
    return Level(
        there[0].extent,
        np.concatenate(nodes),
        np.concatenate(edges),
        np.concatenate([record.raw for record in there]),
        np.concatenate([record.probability for record in there]),
        np.concatenate([record.decision for record in there]),
        there[0].stage,
    )


def _border(
    detections: Detections,
    warps: Floats | None,
    node: Ints,
    frames: tuple[int, int, int],
    before: ClipResult,
    scorer: Scorer,
    policy: Policy,
) -> tuple[Ints, Floats, NDArray[np.bool_]]:
    """Links across the border of two clips: (E, 2) identities, (E,) logits, (E,) taken.

    ``frames`` are the first clip's start, the border and the second clip's end: a window never reaches into a third
    clip, so that nobody is continued twice.
    """
    border = frames[1]
    start, stop = max(border - EXTENTS[-1] // 2, frames[0]), min(border + EXTENTS[-1] // 2, frames[2])
    low, high = detections.frame_start[start], detections.frame_start[stop]
    rows = np.flatnonzero(node[low:high] >= 0)
    nothing = np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0, bool)
    if not len(rows):
        return nothing
    cut = detections.window(start, stop).select(rows)
    clip = Clip.create(cut, None if warps is None else warps[start:stop])
    names, local = np.unique(node[low:high][rows], return_inverse=True)
    lasting = graphs.support_of(before.support, clip.score)
    motion: SceneMotion = before.motion
    edges, logits, takens = [nothing[0]], [nothing[1]], [nothing[2]]
    open_left, open_right = np.ones(len(names), bool), np.ones(len(names), bool)
    for extent in EXTENTS:
        nodes, _ = graphs.tracklet_nodes(clip, local, lasting)
        pairs = graphs.tracklet_pairs(nodes, motion, clip, extent)
        across = (nodes.tail.frame[pairs[:, 0]] < border - start) & (nodes.head.frame[pairs[:, 1]] >= border - start)
        pairs = pairs[across & open_left[pairs[:, 0]] & open_right[pairs[:, 1]]]
        if not len(pairs):
            continue
        _, logit = scorer.tracklets(graphs.build(nodes, pairs, motion, clip), EXTENTS.index(extent))
        taken = round_links(pairs, logit - policy.link, len(names))
        open_left[pairs[taken, 0]] = open_right[pairs[taken, 1]] = False
        # What is still open is asked again with the next extent; a pair is recorded once, when it is settled.
        settled = taken | ~open_left[pairs[:, 0]] | ~open_right[pairs[:, 1]] | (extent == EXTENTS[-1])
        edges.append(names[pairs[settled]])
        logits.append(logit[settled])
        takens.append(taken[settled])
    return np.concatenate(edges), np.concatenate(logits), np.concatenate(takens)
