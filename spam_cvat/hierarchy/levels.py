"""The bottom-up run over one clip: gate the detections, link level by level, undo crossings that went wrong.

In: a clip, what humans said, and a scorer (the trained network, or plain geometry). Out: an identity per row, gate
logits, and a record of every level's candidate edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Level
from spam_cvat.answers import Clamps
from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy.assignment import FORCED, Guard, follow, marginals, round_links
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.graph import Graph
from spam_cvat.hierarchy.grouping import compact
from spam_cvat.hierarchy.motion_fit import Members, SceneMotion, measure_motion

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXTENTS = (2, 4, 8, 16, 32, 64, 128, 256, 512)


class Scorer(Protocol):
    """What turns features into logits: calibrated log odds that a node is real, that an edge holds."""

    def detections(self, graph: Graph) -> tuple[Floats, Floats]:
        """Level 0: (T,) and (E,) logits."""

    def tracklets(self, graph: Graph, level: int) -> tuple[Floats, Floats]:
        """Levels 1 and up: (T,) and (E,) logits."""

    def calibrate(self, probability: Floats, level: int) -> Floats:
        """Probabilities under the constraints that mean what they say, (E,) -> (E,)."""


@dataclass(frozen=True)
class Policy:
    """When a node stays and a link is taken, in log odds.

    Attributes:
        gate: a detection enters the hierarchy above this. Low on purpose: the last word is the tracks' gate.
        first_link: level 0 takes a link above this. High on purpose: what is unclear waits for motion from both sides.
        link: the levels above.
    """

    gate: float = -2.0
    first_link: float = 1.0
    link: float = 0.0


@dataclass(frozen=True)
class ClipResult:
    """One clip, linked.

    Attributes:
        node: (N,) identity of each row, numbered by first row; -1 where the gate dropped it.
        gate: (N,) log odds of the level-0 gate.
        track_gate: (T,) log odds of each identity by the last level.
        levels: records of all levels.
        motion: the scene's prediction errors.
        lasting: (N,) support, see :func:`graph.support`.
    """

    node: Ints
    gate: Floats
    track_gate: Floats
    levels: tuple[Level, ...]
    motion: SceneMotion
    lasting: Floats


def run_clip(
    clip: Clip, clamps: Clamps, scorer: Scorer, policy: Policy, extents: Sequence[int] = EXTENTS
) -> ClipResult:
    """Link one clip through all levels."""
    guard = Guard(clamps, clip.frame)
    pairs = graphs.adjacent_pairs(clip)
    nodes, _, motion = graphs.detection_nodes(clip, graphs.chains(clip, pairs))
    lasting = graphs.support(clip, nodes.past, nodes.future)
    whole = graphs.build(nodes, pairs, motion, clip)
    gate, logit = scorer.detections(whole)
    keep = ((gate > policy.gate) | (clamps.gate == 1)) & (clamps.gate != 0)
    alive = keep[pairs].all(1)
    node = np.where(keep, np.arange(len(clip)), -1)
    levels = []
    node, record = _link(node, pairs[alive], logit[alive], policy.first_link, guard, scorer, 0, extents[0])
    levels.append(record)
    track_gate = np.zeros(0)
    motion = measure_motion(clip, Members.of(node))
    for level, extent in enumerate(extents[1:], start=1):
        graph = tracklet_graph(clip, node, lasting, motion, extent, guard)
        track_gate, logit = scorer.tracklets(graph, level)
        node, record = _link(node, graph.edge, logit, policy.link, guard, scorer, level, extent)
        levels.append(record)
    final, _ = graphs.tracklet_nodes(clip, node, lasting)
    empty = graphs.build(final, np.zeros((0, 2), np.int64), motion, clip)
    track_gate, _ = scorer.tracklets(empty, len(extents))
    return ClipResult(node, gate, track_gate, tuple(levels), motion, lasting)


def tracklet_graph(
    clip: Clip, node: Ints, lasting: Floats, motion: SceneMotion, extent: int, guard: Guard | None = None
) -> Graph:
    """The graph of a level above 0; what answers forbid is no candidate, what they demand is one."""
    nodes, _ = graphs.tracklet_nodes(clip, node, lasting)
    pairs = graphs.tracklet_pairs(nodes, motion, clip, extent)
    if guard:
        forced = guard.forced(node)
        gap = nodes.head.frame[forced[:, 1]] - nodes.tail.frame[forced[:, 0]]
        forced = forced[(gap > 0) & (gap < extent)]
        pairs = np.unique(np.concatenate([pairs, forced]), axis=0)
        pairs = pairs[guard.allowed(node, pairs)]
    return graphs.build(nodes, pairs, motion, clip)


def _link(
    node: Ints, edge: Ints, logit: Floats, threshold: float, guard: Guard, scorer: Scorer, level: int, extent: int
) -> tuple[Ints, Level]:
    """Decide one level's edges and merge. (N,) nodes -> (N,) nodes, and the level's record."""
    total = int(node.max(initial=-1)) + 1
    weight = logit - threshold
    if guard and len(edge):
        allowed = guard.allowed(node, edge)
        edge, logit, weight = edge[allowed], logit[allowed], weight[allowed]
        demanded = _rows_in(edge, guard.forced(node), total)
        weight = np.where(demanded, FORCED, weight)
        logit = np.where(demanded, FORCED, logit)
    taken = guard.check(node, edge, round_links(edge, weight, total), weight)
    probability = scorer.calibrate(marginals(edge, logit, total), level)
    record = Level(
        extent,
        node.astype(np.int32),
        edge.astype(np.int32),
        (1 / (1 + np.exp(-np.clip(logit, -50, 50)))).astype(np.float32),
        probability.astype(np.float32),
        taken,
    )
    merged = node.copy()
    if total:
        component = follow(edge, taken, total)
        merged[node >= 0] = component[node[node >= 0]]
    return compact(merged), record


def _rows_in(edge: Ints, pairs: Ints, total: int) -> NDArray[np.bool_]:
    return np.isin(edge[:, 0] * total + edge[:, 1], pairs[:, 0] * total + pairs[:, 1])


class GeometryScorer:
    """Log odds from motion alone, no training: what pretraining bootstraps from, and a yardstick for it."""

    def detections(self, graph: Graph) -> tuple[Floats, Floats]:
        """Gate by the mean and best score of the chain and its length; links by the motion cost."""
        x = graph.x
        gate = 6 * (x[:, 1] - 0.45) + 3 * (x[:, 2] - 0.6) + 1.0 * (x[:, 13] - 1.6) - 4 * (x[:, 8] - 0.3).clip(0)
        return gate.astype(np.float64), 6.0 - graph.cost - 0.3 * np.log(graph.gap)

    def tracklets(self, graph: Graph, level: int) -> tuple[Floats, Floats]:
        """Gate by the same, links also by how long the gap is."""
        x = graph.x
        gate = 6 * (x[:, 1] - 0.5) + 4 * (x[:, 2] - 0.65) + 1.0 * (x[:, 13] - 2.2) - 6 * (x[:, 8] - 0.3).clip(0)
        return gate.astype(np.float64), 5.0 - graph.cost - 0.9 * np.log(graph.gap)

    def calibrate(self, probability: Floats, level: int) -> Floats:
        """As they are."""
        return probability
