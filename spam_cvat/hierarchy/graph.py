"""The graph of one level: nodes, candidate edges, and what the network is told about them.

In: a clip and, above level 0, an identity per row. Out: a :class:`Graph`. Level 0 and the levels above use the same
features, because a detection of level 0 is seen with its context too: provisional chains of mutually best neighbours
give each detection a past and a future of a few frames, from which positions, velocities and support come.

All lengths are in box heights, all times in seconds, and residuals are also given in units of the scene's own
prediction error (:mod:`motion_fit`), so that features mean the same at any resolution, frame rate and kind of motion.

Differences from SUSHI (Cetintas et al., CVPR 2023), on purpose: all adjacent frames are linked at level 0, and above it
any two tracklets less than ``extent`` frames apart, in place of fixed chunks, so no link waits for a higher level only
because a chunk border lies on it; camera motion is compensated; motion comes from recent windows with uncertainty;
margins to the best alternative at both ends are features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spam_cvat.boxes import giou_pairs
from spam_cvat.hierarchy.geometry import Clip, shared_area, to_corners
from spam_cvat.hierarchy.grouping import (
    PAIR_LIMIT,
    among_best,
    batches,
    best_alternative,
    chain_ends,
    pair_ranges,
    smallest_in_group,
)
from spam_cvat.hierarchy.look import SceneLook, measure_look
from spam_cvat.hierarchy.motion_fit import (
    JITTER,
    MAX_WINDOW,
    MEMORY,
    MODELS,
    Ends,
    Members,
    SceneMotion,
    fit_ends,
    heads,
    measure_motion,
    tails,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Candidate partners of a node to either side; an edge stays when it is among the best of both of its nodes.
NEIGHBOURS = 6
# Nothing that is tracked moves faster than this, in box heights a second, on top of a slack for jitter and jumps.
MAX_SPEED = 8.0
REACH = 0.6
# Two successive boxes are no candidates where their distance exceeds those to the nearest box of either, added up, by
# more than this: in heights, and in heights a second.
SPARE = (0.1, 2.0)
# A chain link needs this overlap after the pair's common motion is removed; chains only lend context.
CHAIN_COST = 6.0
NO_ALTERNATIVE = 12.0
SUPPORT_FRAMES = 8
NODE_FEATURES = 22
EDGE_FEATURES = 53


@dataclass(frozen=True)
class Graph:
    """Nodes and candidate edges of one level.

    Attributes:
        node: (N,) node of each row of the clip, -1 for none.
        x: (T, NODE_FEATURES) float32.
        edge: (E, 2) int64, earlier and later node.
        attr: (E, EDGE_FEATURES) float32.
        cost: (E,) float64, negative log likelihood of the edge by the scene's motion alone.
        gap: (E,) int64 frames between the two ends, at least 1.
    """

    node: Ints
    x: NDArray[np.float32]
    edge: Ints
    attr: NDArray[np.float32]
    cost: Floats
    gap: Ints


@dataclass(frozen=True)
class Nodes:
    """What edges are made of: each node's two ends and how it looks there.

    Attributes:
        node: (N,) node of each row of the clip, -1 for none.
        tail: the last boxes.
        head: the first boxes.
        first: (T,) row of the first box.
        last: (T,) row of the last box.
        past: (T,) boxes behind the tail's fit.
        future: (T,) boxes behind the head's fit.
        look_tail: (T, D) appearance near the tail or None.
        look_head: (T, D) appearance near the head or None.
        look_mean: (T, D) mean appearance or None.
        look: what differences in looks mean in this scene.
        x: (T, NODE_FEATURES) node features.
    """

    node: Ints
    tail: Ends
    head: Ends
    first: Ints
    last: Ints
    past: Ints
    future: Ints
    look_tail: NDArray[np.float32] | None
    look_head: NDArray[np.float32] | None
    look_mean: NDArray[np.float32] | None
    look: SceneLook
    x: NDArray[np.float32]


def adjacent_pairs(clip: Clip) -> Ints:
    """Pairs of boxes in successive frames that are among the nearest of each other. (E, 2) rows.

    In a crowd everybody has neighbours within reach, and most such pairs are out of the question, because both boxes
    have somebody much nearer. Leaving them out halves the edges, and costs less than 0.03 % of the true ones on the
    MOT17 first halves, on MOT15 and on generated scenes alike.
    """
    start, count = clip.frame_start[:-1], np.diff(clip.frame_start)
    reach = REACH + MAX_SPEED / clip.fps
    spare = SPARE[0] + SPARE[1] / clip.fps
    nearest_of, nearest_to = np.full((2, len(clip)), np.inf)
    kept = []
    for part in batches(count[:-1] * count[1:], PAIR_LIMIT):
        later = slice(part.start + 1, part.stop + 1)
        a, b = pair_ranges(start[:-1][part], count[:-1][part], start[later], count[later])
        distance, near = _pair_distance(clip, a, b, reach)
        a, b = a[near], b[near]
        np.minimum.at(nearest_of, a, distance)
        np.minimum.at(nearest_to, b, distance)
        some = np.flatnonzero(distance <= nearest_of[a] + nearest_to[b] + spare)
        a, b, distance = a[some], b[some], distance[some]
        best = among_best(a, distance, NEIGHBOURS) & among_best(b, distance, NEIGHBOURS)
        kept.append(np.stack([a[best], b[best]], axis=1))
    return np.concatenate(kept) if kept else np.zeros((0, 2), np.int64)


def _pair_distance(clip: Clip, a: Ints, b: Ints, reach: float) -> tuple[Floats, Ints]:
    """Centre distance in mean heights plus log size ratio, of the pairs within reach and of one class."""
    height = (clip.box[a, 3] + clip.box[b, 3]) / 2
    dx, dy = clip.box[b, 0] - clip.box[a, 0], clip.box[b, 1] - clip.box[a, 1]
    near = np.flatnonzero((dx * dx + dy * dy < (reach * height) ** 2) & (clip.label[a] == clip.label[b]))
    a, b = a[near], b[near]
    distance = np.sqrt(dx[near] ** 2 + dy[near] ** 2) / height[near]
    return distance + 0.5 * np.abs(np.log(clip.box[b, 3] / clip.box[a, 3])), near


def chains(clip: Clip, pairs: Ints) -> Ints:
    """Provisional tracklets: rows joined where two boxes of successive frames are each other's nearest. (N,) labels.

    The pairs' common motion (their median displacement in heights) is removed first, which takes out what the warps
    left of the camera's motion.
    """
    n = len(clip)
    a, b = pairs.T
    height = (clip.box[a, 3] + clip.box[b, 3]) / 2
    move = (clip.box[b, :2] - clip.box[a, :2]) / height[:, None]
    raw = np.linalg.norm(move, axis=1)
    mutual = smallest_in_group(a, raw) & smallest_in_group(b, raw)
    common = _frame_median(clip, clip.frame[a[mutual]], move[mutual])
    left = np.linalg.norm(move - common[clip.frame[a]], axis=1)
    size = np.abs(np.log(clip.box[b, 2:] / clip.box[a, 2:])).sum(1)
    cost = left / 0.08 + size / 0.15
    good = smallest_in_group(a, cost) & smallest_in_group(b, cost) & (cost < CHAIN_COST)
    label = np.arange(n)
    label[b[good]] = a[good]
    _, node = np.unique(chain_ends(label), return_inverse=True)
    return node.astype(np.int64)


def _frame_median(clip: Clip, frame: Ints, move: Floats) -> Floats:
    """Median move per frame, shrunk towards none where few pairs say it. (E,), (E, 2) -> (num_frames, 2)."""
    out = np.zeros((clip.num_frames, 2))
    count = np.bincount(frame, minlength=clip.num_frames)
    start = np.cumsum(count) - count
    some = np.flatnonzero(count >= 3)
    for axis in range(2):
        order = np.lexsort((move[:, axis], frame))
        middle = move[order[start[some] + count[some] // 2], axis]
        out[some, axis] = middle * count[some] / (count[some] + 3)
    return out


def detection_nodes(clip: Clip, chain: Ints) -> tuple[Nodes, Members, SceneMotion]:
    """Nodes of level 0: each detection, its tail fitted on the chain up to it, its head on the chain from it on."""
    members = Members.of(chain)
    n = len(clip)
    where = np.empty(n, np.int64)
    where[members.row] = np.arange(n)
    owner = chain
    past = where - members.start[owner] + 1
    future = members.count[owner] - past + 1
    window = np.int64(12)
    tail = fit_ends(clip, where, np.minimum(past, window), members.row, -1)
    head = fit_ends(clip, where, np.minimum(future, window), members.row, 1)
    rows = np.arange(n)
    look = clip.embedding
    x = _detection_features(clip, members, where, past, future, tail, head)
    nodes = Nodes(rows, tail, head, rows, rows, past, future, look, look, look, measure_look(clip, members), x)
    return nodes, members, measure_motion(clip, members)


def support_table(clip: Clip, past: Ints, future: Ints) -> Floats:
    """How often boxes of about a confidence last in this clip, for 20 bins of confidence. (20,) in 0..1.

    Detectors disagree on what 0.5 means. What is real tends to be there in the next frames too, so the share of
    lasting boxes among those of similar confidence says, per clip and without labels, what a confidence is worth.
    """
    lasting = np.minimum(past + future - 1, SUPPORT_FRAMES) / SUPPORT_FRAMES
    bins = _score_bin(clip.score)
    total = np.bincount(bins, minlength=20).astype(float)
    value = np.bincount(bins, weights=lasting, minlength=20)
    kernel = np.exp(-0.5 * (np.arange(20)[:, None] - np.arange(20)[None]) ** 2 / 1.5**2)
    return (kernel @ value + 5 * np.arange(20) / 19) / (kernel @ total + 5)


def support_of(table: Floats, score: Floats) -> Floats:
    """The table's entry of each confidence, (N,)."""
    return table[_score_bin(score)]


def _score_bin(score: Floats) -> Ints:
    return np.clip((score * 20).astype(np.int64), 0, 19)


def _window_mean(members: Members, where: Ints, past: Ints, future: Ints, value: Floats) -> Floats:
    """Mean of ``value`` over each box's chain within SUPPORT_FRAMES boxes to either side. (N,)."""
    total = np.concatenate([[0.0], np.cumsum(value[members.row])])
    low = where - np.minimum(past - 1, SUPPORT_FRAMES)
    high = where + np.minimum(future - 1, SUPPORT_FRAMES) + 1
    return (total[high] - total[low]) / (high - low)


def _window_max(members: Members, where: Ints, past: Ints, future: Ints, value: Floats) -> Floats:
    """Largest ``value`` over the same windows, by doubling steps."""
    ordered = value[members.row]
    best = ordered.copy()
    for step in (1, 2, 4, 1):
        grown = best.copy()
        owner = members.owner
        same = owner[step:] == owner[:-step]
        grown[step:][same] = np.maximum(grown[step:][same], best[:-step][same])
        grown[:-step][same] = np.maximum(grown[:-step][same], best[step:][same])
        best = grown
    return best[where]


def _detection_features(
    clip: Clip, members: Members, where: Ints, past: Ints, future: Ints, tail: Ends, head: Ends
) -> NDArray[np.float32]:
    lasting = support_of(support_table(clip, past, future), clip.score)
    jump = np.linalg.norm(tail.position[:, 0] - head.position[:, 0], axis=1) / tail.height
    speed = np.linalg.norm(tail.velocity[:, 1], axis=1) / tail.height

    def mean(value: Floats) -> Floats:
        return _window_mean(members, where, past, future, value)

    def largest(value: Floats) -> Floats:
        return _window_max(members, where, past, future, value)

    n = np.minimum(past + future - 1, 2 * SUPPORT_FRAMES)
    seconds = (past + future - 1) / clip.fps
    return _node_table(
        clip.score,
        mean(clip.score),
        largest(clip.score),
        lasting,
        mean(lasting),
        largest(lasting),
        clip.overlap,
        clip.shadow,
        mean(clip.shadow),
        clip.cover,
        mean(clip.cover),
        clip.border.astype(float),
        np.log(clip.box[:, 2] / clip.box[:, 3]),
        np.log1p(n),
        np.log(seconds + 0.01),
        np.log(np.minimum(past, SUPPORT_FRAMES)),
        np.log(np.minimum(future, SUPPORT_FRAMES)),
        np.ones(len(clip)),
        jump,
        np.minimum(speed, 5.0),
        np.sqrt(np.maximum(mean(clip.score**2) - mean(clip.score) ** 2, 0)),
        mean((clip.score < 0.5 * largest(clip.score)).astype(float)),
    )


def _node_table(*columns: Floats) -> NDArray[np.float32]:
    assert len(columns) == NODE_FEATURES
    return np.stack(columns, axis=1).astype(np.float32)


def tracklet_nodes(clip: Clip, node: Ints, lasting: Floats) -> tuple[Nodes, Members]:
    """Nodes above level 0: tracklets, both ends fitted.

    Args:
        clip: the boxes.
        node: (N,) tracklet of each row, numbered by first row; -1 for rows the gate dropped.
        lasting: (N,) what each row's confidence is worth, see :func:`support_of`.
    """
    members = Members.of(node)
    tail, head = tails(clip, members), heads(clip, members)
    looks = _looks(clip, members)
    x = _tracklet_features(clip, members, tail, head, lasting)
    first, last, count = members.first, members.last, members.count
    nodes = Nodes(node, tail, head, first, last, count, count, *looks, measure_look(clip, members), x)
    return nodes, members


Look = NDArray[np.float32] | None


def _looks(clip: Clip, members: Members) -> tuple[Look, Look, Look]:
    """Mean appearance near the tail, near the head and overall, unit length, rows in the open counting most."""
    if clip.embedding is None:
        return None, None, None
    owner = members.owner
    place = np.arange(len(members.row)) - members.start[owner]
    weight = np.where(clip.has_embedding, (1.05 - clip.overlap) * (1.05 - clip.cover) * (0.1 + clip.score), 0.0)
    weight = weight[members.row]
    behind = members.count[owner] - 1 - place
    out = []
    for decay in (np.exp(-behind / 8), np.exp(-place / 8), np.ones(len(owner))):
        total = np.zeros((len(members), clip.embedding.shape[1]), np.float32)
        np.add.at(total, owner, clip.embedding[members.row] * (weight * decay)[:, None].astype(np.float32))
        out.append(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9))
    return out[0], out[1], out[2]


def _tracklet_features(clip: Clip, members: Members, tail: Ends, head: Ends, lasting: Floats) -> NDArray[np.float32]:
    owner, row = members.owner, members.row

    def mean(value: Floats) -> Floats:
        return members.mean(value[row])

    def least(value: Floats) -> Floats:
        return members.over(np.minimum, value[row])

    def largest(value: Floats) -> Floats:
        return members.over(np.maximum, value[row])

    frames = tail.frame - head.frame + 1
    seconds = frames / clip.fps
    score, top = mean(clip.score), largest(clip.score)
    travelled = np.linalg.norm(tail.position[:, 1] - head.position[:, 1], axis=1) / tail.height
    step = np.zeros(len(row))
    step[1:] = np.linalg.norm(np.diff(clip.box[row, :2], axis=0), axis=1) / clip.box[row[1:], 3]
    step[members.start] = 0.0
    path = members.over(np.add, step)
    return _node_table(
        score,
        least(clip.score),
        top,
        mean(lasting),
        least(lasting),
        largest(lasting),
        largest(clip.overlap),
        mean((clip.shadow > 0.5).astype(float)),
        mean(clip.shadow),
        mean((clip.cover > 0.5).astype(float)),
        mean(clip.cover),
        mean(clip.border.astype(float)),
        mean(np.log(clip.box[:, 2] / clip.box[:, 3])),
        np.log1p(members.count),
        np.log(seconds + 0.01),
        np.log(np.minimum(members.count, SUPPORT_FRAMES)),
        mean((clip.score > 0.6).astype(float)),
        members.count / frames,
        path / np.maximum(members.count - 1, 1),
        np.minimum(travelled / (seconds + 0.5), 5.0),
        np.sqrt(np.maximum(mean(clip.score**2) - score**2, 0)),
        members.over(np.add, (clip.score[row] < 0.5 * top[owner]).astype(float)) / members.count,
    )


def tracklet_pairs(nodes: Nodes, motion: SceneMotion, clip: Clip, extent: int, *, hard: bool = False) -> Ints:
    """Candidate edges between tracklets less than ``extent`` frames apart, mutually among the likeliest. (E, 2).

    A link across an occlusion, which is far in pixels, survives when its motion fits. But how well it fits is not
    enough: over a long gap almost everything fits, and what begins at last, far away, would crowd out who comes back
    at once. So candidates are ranked by how improbable it is that they begin just there and then.

    Args:
        nodes: of the level.
        motion: the scene's prediction errors.
        clip: the boxes.
        extent: frames.
        hard: rank by fit alone after all, as networks are trained: those candidates are the hardest to tell apart.
    """
    pairs, cost, mine = [np.zeros((0, 2), np.int64)], [np.zeros(0)], [np.zeros(0, bool)]
    for some in _pairs_within_reach(nodes, clip, extent):
        geometry = edge_geometry(nodes, some, motion, clip)
        unlikely = geometry.cost if hard else geometry.improbability
        # All candidates of an earlier node are here; those of a later one may come in several lots.
        best = among_best(some[:, 0], unlikely, NEIGHBOURS)
        kept = best | among_best(some[:, 1], unlikely, NEIGHBOURS)
        pairs.append(some[kept])
        cost.append(unlikely[kept])
        mine.append(best[kept])
    pair = np.concatenate(pairs)
    pair = pair[np.concatenate(mine) & among_best(pair[:, 1], np.concatenate(cost), NEIGHBOURS)]
    return pair[np.lexsort((pair[:, 1], pair[:, 0]))]


def _pairs_within_reach(nodes: Nodes, clip: Clip, extent: int) -> Iterator[Ints]:
    """Lots of pairs, (P, 2), of one class, not too far apart for the time between them, and of sizes not too unlike.

    A lot has at least PAIR_LIMIT pairs, the last one excepted, and all pairs of its earlier nodes.
    """
    order = np.argsort(nodes.head.frame, kind="stable")
    begin = nodes.head.frame[order]
    low = np.searchsorted(begin, nodes.tail.frame + 1)
    high = np.searchsorted(begin, nodes.tail.frame + extent)
    count = np.maximum(high - low, 0)
    label = clip.label[nodes.first]
    lot: list[Ints] = []
    for part in batches(count, PAIR_LIMIT):
        every = np.arange(part.start, part.stop)
        a, place = pair_ranges(every, np.ones(len(every), np.int64), low[part], count[part])
        b = order[place]
        seconds = (nodes.head.frame[b] - nodes.tail.frame[a]) / clip.fps
        height = (nodes.tail.height[a] + nodes.head.height[b]) / 2
        d = nodes.head.position[b, 0] - nodes.tail.position[a, 0]
        reach = (REACH + MAX_SPEED * np.minimum(seconds, 1.5)) * height
        ratio = nodes.head.height[b] / nodes.tail.height[a]
        near = (d * d).sum(1) < reach * reach
        near &= (label[a] == label[b]) & (ratio < 2.5) & (ratio > 0.4)
        lot.append(np.stack([a[near], b[near]], axis=1))
        if sum(map(len, lot)) >= PAIR_LIMIT:
            yield np.concatenate(lot)
            lot = []
    if lot:
        yield np.concatenate(lot)


@dataclass(frozen=True)
class EdgeGeometry:
    """Residuals of an edge's motion models, see :func:`edge_geometry`."""

    gap: Ints
    seconds: Floats
    forward: Floats
    backward: Floats
    middle: Floats
    offset: Floats
    error: Floats
    nearest: Floats
    size: Floats

    @cached_property
    def cost(self) -> Floats:
        """How badly the edge fits, whatever the gap, (E,).

        Heavy-tailed, as residuals are: the negative log of a Student density in the plane, plus the log of its area.
        """
        return _student((self.middle / self.error).min(1)) + self.size

    @cached_property
    def improbability(self) -> Floats:
        """The same and how much room there was to fit, (E,).

        It is the negative log of the density with which the later node is expected at that very place and time, less
        that of what fits exactly in the next frame; between successive frames it is the cost. Of how long people stay
        unseen it takes nothing for granted but that there is no usual time.
        """
        area = 2 * np.log((self.error + JITTER) / (self.nearest + JITTER))
        return (_student(self.middle / self.error) + area).min(1) + self.size + np.log(self.gap)


def _student(ratio: Floats) -> Floats:
    """Negative log of a Student density in the plane, less its value in the middle."""
    return 1.5 * np.log1p(ratio**2 / 2)


def edge_geometry(nodes: Nodes, edge: Ints, motion: SceneMotion, clip: Clip) -> EdgeGeometry:
    """Predict each earlier node forward, each later node backward, and both to the middle of the gap.

    Residuals have the shape (E, MODELS) and the unit of mean heights; ``offset`` (E, MODELS, 2) is the middle's, with
    its sign; ``error`` (E, MODELS) is the scene's error over that gap, ``nearest`` (MODELS,) that of the next frame;
    ``size`` (E,) is the cost of the change in height.
    """
    a, b = edge.T
    gap = nodes.head.frame[b] - nodes.tail.frame[a]
    seconds = gap / clip.fps
    height = (nodes.tail.height[a] + nodes.head.height[b]) / 2
    models = [min(m, len(MEMORY) - 1) for m in range(MODELS)]
    moving = np.array([1.0] * len(MEMORY) + [0.0])
    apart = (nodes.head.position[b] - nodes.tail.position[a])[:, models]  # (E, MODELS, 2)
    travel = seconds[:, None, None] * moving[None, :, None]
    va, vb = nodes.tail.velocity[a][:, models] * travel, nodes.head.velocity[b][:, models] * travel
    unit = height[:, None, None]
    offset = (apart - (va + vb) / 2) / unit
    error = np.stack([motion.error(m, gap) for m in range(MODELS)], axis=1)
    middle = np.linalg.norm(offset, axis=2)
    size = _student(np.log(nodes.head.height[b] / nodes.tail.height[a]) / 0.12)
    return EdgeGeometry(
        gap,
        seconds,
        np.linalg.norm((apart - va) / unit, axis=2),
        np.linalg.norm((apart - vb) / unit, axis=2),
        middle,
        offset,
        error,
        np.array([motion.error(m, np.ones(1))[0] for m in range(MODELS)]),
        size,
    )


def _on_the_way(clip: Clip, nodes: Nodes, edge: Ints, gap: Ints, met_a: Floats, met_b: Floats) -> tuple[Floats, Floats]:
    """What the detector saw where the person should be in the middle of the gap. Two (E,), 0 for gaps of one frame.

    The largest share of the predicted box that a nearer box covers (then it is no wonder that nothing was seen), and
    the largest IoU with any box (then somebody else, or a box left out, is there).
    """
    hidden, clash = np.zeros(len(edge)), np.zeros(len(edge))
    some = np.flatnonzero(gap > 1)
    frame = (nodes.tail.frame[edge[some, 0]] + gap[some] // 2).astype(np.int64)
    start, count = clip.frame_start[frame], clip.frame_start[frame + 1] - clip.frame_start[frame]
    box = (met_a[some] + met_b[some]) / 2
    for part in batches(count, PAIR_LIMIT):
        every = np.arange(part.start, part.stop)
        e, row = pair_ranges(every, np.ones(len(every), np.int64), start[part], count[part])
        inter = shared_area(box[e], clip.box[row])
        near = np.flatnonzero(inter > 0)
        e, row, inter = e[near], row[near], inter[near]
        mine, other = box[e, 2:].prod(1), clip.box[row, 2:].prod(1)
        np.maximum.at(clash, some[e], inter / (mine + other - inter))
        nearer = clip.box[row, 1] + clip.box[row, 3] / 2 > box[e, 1] + box[e, 3] / 2
        np.maximum.at(hidden, some[e[nearer]], inter[nearer] / mine[nearer])
    return hidden, clash


def _appearance(nodes: Nodes, edge: Ints) -> tuple[Floats, Floats, Floats]:
    """Difference in looks near the ends and of the means, in the scene's units, and what that is worth. Three (E,).

    All are 0 where either node has no appearance.
    """
    if nodes.look_tail is None or nodes.look_head is None or nodes.look_mean is None:
        zero = np.zeros(len(edge))
        return zero, zero, zero
    a, b = edge.T
    near = 1 - np.einsum("ed,ed->e", nodes.look_tail[a], nodes.look_head[b]).astype(np.float64)
    mean = 1 - np.einsum("ed,ed->e", nodes.look_mean[a], nodes.look_mean[b]).astype(np.float64)
    known = (np.abs(nodes.look_mean[a]).sum(1) > 0) & (np.abs(nodes.look_mean[b]).sum(1) > 0)
    units = nodes.look.units
    return np.where(known, units(near), 0.0), np.where(known, units(mean), 0.0), known * nodes.look.separation


def _look_margin(end: Ints, look: Floats, known: NDArray[np.bool_]) -> Floats:
    """How much worse the best alternative at one end looks, (E,); 0 where it is not known."""
    if not known.any():
        return np.zeros(len(end))
    return np.where(known, best_alternative(end, np.where(known, look, 4.0), 4.0)[1] - look, 0.0)


def build(nodes: Nodes, edge: Ints, motion: SceneMotion, clip: Clip, continued: Floats | None = None) -> Graph:
    """Edge features of candidate edges; see the code's comments for what each group tells.

    Args:
        nodes: of the level.
        edge: (E, 2) candidate edges.
        motion: the scene's prediction errors.
        clip: the boxes.
        continued: (E,) for edges that lower levels have already decided for through contested boxes, the largest
            overlap on the way; 0 for all others.
    """
    if not len(edge):
        return Graph(
            nodes.node, nodes.x, edge, np.zeros((0, EDGE_FEATURES), np.float32), np.zeros(0), np.zeros(0, np.int64)
        )
    a, b = edge.T
    g = edge_geometry(nodes, edge, motion, clip)
    tail, head = nodes.tail.select(a), nodes.head.select(b)
    height = (tail.height + head.height) / 2
    relative = np.log((g.middle + 0.01) / (g.error + 0.01))  # (E, MODELS)
    seconds = g.seconds[:, None]
    spread = (
        tail.covariance[..., 0]
        + head.covariance[..., 0]
        + seconds * (tail.covariance[..., 1] - head.covariance[..., 1])
        + seconds**2 / 4 * (tail.covariance[..., 2] + head.covariance[..., 2])
    )  # (E, windows)
    size = np.log(head.height / tail.height)
    grown = size - np.clip((tail.growth + head.growth) / 2 * g.seconds, -0.3, 0.3)
    wide = np.log(head.width / tail.width)
    box_a = np.concatenate([tail.position[:, 1], tail.width[:, None], tail.height[:, None]], axis=1)
    box_b = np.concatenate([head.position[:, 1], head.width[:, None], head.height[:, None]], axis=1)
    half = seconds / 2
    met_a, met_b = box_a.copy(), box_b.copy()
    met_a[:, :2] += tail.velocity[:, 1] * half
    met_b[:, :2] -= head.velocity[:, 1] * half
    turn = np.linalg.norm(tail.velocity - head.velocity, axis=2) / height[:, None]  # (E, windows)
    rank_a, other_a = best_alternative(a, g.cost, NO_ALTERNATIVE)
    rank_b, other_b = best_alternative(b, g.cost, NO_ALTERNATIVE)
    near, mean, known = _appearance(nodes, edge)
    margin_a, margin_b = _look_margin(a, near + mean, known > 0), _look_margin(b, near + mean, known > 0)
    last, first = nodes.last[a], nodes.first[b]
    contest = np.zeros(len(edge)) if continued is None else continued
    hidden, clash = _on_the_way(clip, nodes, edge, g.gap, met_a, met_b)
    columns = [
        # when
        np.log(g.gap),
        np.log(g.seconds),
        # where, in units of the scene's error and in heights
        *relative.T,
        *np.log((g.forward[:, :2] + 0.01) / (g.error[:, :2] + 0.01)).T,
        *np.log((g.backward[:, :2] + 0.01) / (g.error[:, :2] + 0.01)).T,
        *np.log(g.middle + 0.01).T,
        np.log(np.abs(g.offset[:, 0, 0]) + 0.01),
        np.log(np.abs(g.offset[:, 0, 1]) + 0.01),
        *np.log((g.middle[:, :2] + 0.01) / np.sqrt(spread + g.error[:, :2] ** 2)).T,
        *np.log(g.error).T,
        # how large
        np.abs(size) * 5,
        np.abs(grown) * 5,
        np.abs(wide) * 3,
        giou_pairs(to_corners(box_a), to_corners(box_b)),
        giou_pairs(to_corners(met_a), to_corners(met_b)),
        # how fast
        *np.log(turn + 0.05).T,
        np.log(np.linalg.norm(tail.velocity[:, 1], axis=1) / height + 0.05),
        np.log(np.linalg.norm(head.velocity[:, 1], axis=1) / height + 0.05),
        np.log(g.middle[:, 2] / g.seconds + 0.05),
        # in what state the ends are
        clip.score[last],
        clip.score[first],
        clip.overlap[last],
        clip.overlap[first],
        clip.cover[last],
        clip.cover[first],
        clip.border[last],
        clip.border[first],
        np.log(np.minimum(nodes.past[a], MAX_WINDOW)),
        np.log(np.minimum(nodes.future[b], MAX_WINDOW)),
        # what else could be
        g.cost / 4,
        np.clip(other_a - g.cost, -NO_ALTERNATIVE, NO_ALTERNATIVE) / 4,
        np.clip(other_b - g.cost, -NO_ALTERNATIVE, NO_ALTERNATIVE) / 4,
        rank_a == 0,
        rank_b == 0,
        # what lies on the way
        contest > 0,
        contest,
        hidden,
        clash,
        # how it looks
        near,
        mean,
        margin_a,
        margin_b,
        known,
    ]
    attr = np.stack([np.asarray(column, np.float32) for column in columns], axis=1)
    assert attr.shape[1] == EDGE_FEATURES, attr.shape
    return Graph(nodes.node, nodes.x, edge, attr, g.cost, g.gap)
