"""The bottom-up run over one clip: gate the detections, link level by level, undo crossings that went wrong.

In: a clip and a scorer (the trained network, or plain geometry). Out: an identity per row, gate
logits, and a record of every level's candidate edges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Level
from spam_cvat.boxes import iou_pairs
from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy.assignment import FORCED, Guard, follow, marginals, round_links
from spam_cvat.hierarchy.filling import fill
from spam_cvat.hierarchy.geometry import Clip, to_corners
from spam_cvat.hierarchy.graph import Graph, Nodes
from spam_cvat.hierarchy.grouping import chain_ends, compact, pair_ranges, smallest_in_group
from spam_cvat.hierarchy.motion_fit import Members, SceneMotion, measure_motion

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXTENTS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
# Number under which untangling is calibrated, and the one of the final tracks' gate.
UNTANGLE_LEVEL = len(EXTENTS)
FINAL_LEVEL = len(EXTENTS) + 1
# Levels after which crossings are untangled, and those at which weak detections are linked among themselves.
UNTANGLE_AFTER = (3, len(EXTENTS) - 1)
WEAK_LEVELS = (0, 1, 2, 4)


def stage_name(kind: str, level: int) -> str:
    """What a record of this kind ("level", "crossings", "weak", "amended") at this level is called."""
    return f"{kind} {level}"


def _stages() -> tuple[str, ...]:
    out = []
    for level in range(len(EXTENTS)):
        out.append(stage_name("level", level))
        if level in UNTANGLE_AFTER:
            out.append(stage_name("crossings", level))
    out += [stage_name("weak", level) for level in WEAK_LEVELS]
    return (*out, ENDS, *AMENDED, AMENDED_ENDS, BORDER)


# Links of tracks' open ends. Links that answers left open: crossings first, then level by level, then those of ends.
# Links across the border of two clips.
ENDS = "ends"
AMENDED = tuple(stage_name("amended", level) for level in range(len(EXTENTS)))
AMENDED_ENDS = f"amended {ENDS}"
BORDER = "border"
# Steps of the hierarchy in the order in which they are taken; a clip with nothing to do at one has no record of it.
STAGES = _stages()
# Scenes of one clip without answers have no amended links, nor any across a border, so those are calibrated as the
# links that they are judged like.
LIKE = {
    stage: stage_name("level", level) if level else stage_name("crossings", UNTANGLE_AFTER[0])
    for level, stage in enumerate(AMENDED)
} | {AMENDED_ENDS: ENDS, BORDER: stage_name("level", 1)}


class Scorer(Protocol):
    """What turns features into logits: calibrated log odds that a node is real, that an edge holds."""

    def detections(self, graph: Graph) -> tuple[Floats, Floats]:
        """Level 0: (T,) and (E,) logits."""

    def tracklets(self, graph: Graph, level: int) -> tuple[Floats, Floats]:
        """Levels 1 and up: (T,) and (E,) logits."""

    def calibrate(self, probability: Floats, stage: str) -> Floats:
        """Probabilities under the constraints that mean what they say, (E,) -> (E,); ``stage`` is one of STAGES."""


@dataclass(frozen=True)
class Policy:
    """When a node stays and a link is taken, in log odds.

    Attributes:
        gate: a detection takes part in linking above this. High on purpose: weak boxes lead links astray, and are given
            afterwards to the tracks they continue.
        weak: a detection above this, though not above ``gate``, may still extend a track, fill its gaps, or with others
            of its kind make a track that the tracks' gate lets pass.
        sure: a detection with this share of the confidence of the clip's surest tenth enters whatever the gate says,
        second: unless its IoU with a better one is larger than this.
        first_link: level 0 takes a link above this. High on purpose: what is unclear waits for motion from both sides.
        weak_link: level 0 takes a link between weak boxes above this: less is asked, as a link cannot be likelier than
            that both its boxes are real.
        link: the levels above.
        end: open ends of tracks take a link above this: nothing is decided after it.
        hard_candidates: candidates above level 0 are those that fit best however long the gap, see
            :func:`graph.tracklet_pairs`; for training.
        track: a track is real when the mean of its own log odds and of its boxes' lies above this.
    """

    gate: float = 2.0
    weak: float = 0.0
    sure: float = 0.9
    second: float = 0.5
    first_link: float = 1.0
    weak_link: float = 0.0
    link: float = 0.5
    end: float = 0.0
    track: float = 1.0
    hard_candidates: bool = False


UNTANGLE_EXTENT = 64
# Boxes in contact with one that is not of their tracklet (the gate need not have let that in) are contested, at most so
# many seconds to either side of the closest contact; contests closer together than the second number are one.
CONTEST_SECONDS = 0.6
CONTEST_JOIN_SECONDS = 0.2
# A thing stays within this many heights for so many seconds, at less than this share of the surest confidence; of the
# people in the design data none comes near all three. Its track gets these log odds at most.
STILL, STILL_SECONDS, UNSURE = 0.025, 3.0, 0.8
THING = -3.0
# A weak detection with an IoU larger than the first number with the place where a track
# passes in a gap belongs to the track, with an IoU larger than the second it is at least no track of its own. Longer
# gaps than the third say nothing of the place.
SAME_PLACE, BESIDE = 0.5, 0.3
GAP_SECONDS = 2.0
# Log odds over the threshold that a link through a contest has at least.
KEPT = 0.5


@dataclass(frozen=True)
class Cuts:
    """Tracklets cut where they were too close to others to be told apart.

    Attributes:
        segment: (N,) part of a tracklet that each row is in, cut at the closest contact; numbered by first row.
        clear: (N,) the same without the contested rows, -1 there.
        link: (K, 2) segments that were one.
        contest: (K,) largest overlap between them.
    """

    segment: Ints
    clear: Ints
    link: Ints
    contest: Floats


@dataclass(frozen=True)
class ClipResult:
    """One clip, linked.

    Attributes:
        node: (N,) identity of each row, numbered by first row; -1 where the gate dropped it.
        gate: (N,) log odds of the level-0 gate.
        track_gate: (T,) log odds that each identity is real, over the policy's threshold.
        levels: records of all levels.
        motion: the scene's prediction errors.
        support: (20,) what a confidence is worth in this clip, see :func:`graph.support_table`.
        shift: per stage, what its log odds were moved by to fit this clip, see :mod:`recalibration`.
    """

    node: Ints
    gate: Floats
    track_gate: Floats
    levels: tuple[Level, ...]
    motion: SceneMotion
    support: Floats
    shift: Mapping[str, float] = field(default_factory=dict)

    def passing(self, policy: Policy) -> NDArray[np.bool_]:
        """Which identities the tracks' gate lets pass, (T,): all of them where there is no gate."""
        return (self.track_gate > 0) | np.isneginf(policy.gate)


def run_clip(
    clip: Clip,
    scorer: Scorer,
    policy: Policy,
    extents: Sequence[int] = EXTENTS,
) -> ClipResult:
    """Link one clip through all levels, as if nobody had been asked; :mod:`amend` imposes answers on the result.

    Args:
        clip: the boxes.
        scorer: turns features into logits.
        policy: when links are taken.
        extents: of the levels.
    """
    pairs = graphs.adjacent_pairs(clip)
    nodes, _, motion = graphs.detection_nodes(clip, graphs.chains(clip, pairs))
    support = graphs.support_table(clip, nodes.past, nodes.future)
    whole = graphs.build(nodes, pairs, motion, clip)
    gate, logits = scorer.detections(whole)
    lasting = graphs.support_of(support, clip.score)
    keep = (gate > policy.gate) | _sure(clip, policy)
    alive = keep[pairs].all(1)
    node = np.where(keep, np.arange(len(clip)), -1)
    levels: list[Level] = []
    node, record = link_nodes(
        node, pairs[alive], logits[alive], policy.first_link, scorer, stage_name("level", 0), extents[0]
    )
    levels.append(record)
    motion = measure_motion(clip, Members.of(node))
    for level, extent in enumerate(extents[1:], start=1):
        graph = tracklet_graph(clip, node, lasting, motion, extent, hard=policy.hard_candidates)
        _, logit = scorer.tracklets(graph, level)
        node, record = link_nodes(node, graph.edge, logit, policy.link, scorer, stage_name("level", level), extent)
        levels.append(record)
        if level in UNTANGLE_AFTER:
            stage = stage_name("crossings", level)
            node = untangle(clip, node, lasting, motion, scorer, policy, levels, stage)
    weak = (node < 0) & (gate > policy.weak)
    node = recover(clip, node, weak, pairs, logits, policy)
    node = link_weak(clip, node, weak, pairs, logits, lasting, motion, scorer, policy, levels, extents)
    node = compact(node)
    track_gate = gate_tracks(clip, node, gate, lasting, motion, scorer) - policy.track
    return ClipResult(node, gate, track_gate, tuple(levels), motion, support)


def gate_tracks(clip: Clip, node: Ints, gate: Floats, lasting: Floats, motion: SceneMotion, scorer: Scorer) -> Floats:
    """Log odds that tracks are of real objects, (T,): the mean of what the track says as a whole and of what its boxes
    say, (N,) ``gate``. The one sees how it moves and how long it lasts, the other its surroundings, frame by frame.
    """
    nodes, members = graphs.tracklet_nodes(clip, node, lasting)
    whole, _ = scorer.tracklets(graphs.build(nodes, np.zeros((0, 2), np.int64), motion, clip), FINAL_LEVEL)
    both = (whole + members.mean(gate[members.row])) / 2
    return np.where(is_thing(clip, node), np.minimum(both, THING), both)


def _sure(clip: Clip, policy: Policy) -> NDArray[np.bool_]:
    """(N,) boxes that the detector is as sure of as it gets, and that are no second box of a better one."""
    return (clip.score >= policy.sure * clip.surest) & (clip.shadow < policy.second)


def is_thing(clip: Clip, node: Ints) -> NDArray[np.bool_]:
    """Which tracks are of things, (T,): they never stir for seconds, and the detector is not sure of them.

    People who stand or sit still stir too, and detectors are sure of those who do not: a sign or a poster gives the
    same unsure box for minutes.
    """
    members = Members.of(node)
    row, mean = members.row, members.mean
    place = clip.box[row, :2]
    spread = np.sqrt(sum(np.maximum(mean(axis**2) - mean(axis) ** 2, 0) for axis in place.T))
    seconds = (clip.frame[members.last] - clip.frame[members.first]) / clip.fps
    still = (seconds >= STILL_SECONDS) & (spread < STILL * mean(clip.box[row, 3]))
    return np.asarray(still & (mean(clip.score[row]) < UNSURE * clip.surest))


def tracklet_graph(
    clip: Clip,
    node: Ints,
    lasting: Floats,
    motion: SceneMotion,
    extent: int,
    guard: Guard | None = None,
    *,
    hard: bool = False,
) -> Graph:
    """The graph of a level above 0; what answers forbid is no candidate, what they demand is one."""
    nodes, _ = graphs.tracklet_nodes(clip, node, lasting)
    pairs = graphs.tracklet_pairs(nodes, motion, clip, extent, hard=hard)
    if guard:
        forced = guard.forced(node)
        gap = nodes.head.frame[forced[:, 1]] - nodes.tail.frame[forced[:, 0]]
        forced = forced[(gap > 0) & (gap < extent)]
        pairs = np.unique(np.concatenate([pairs, forced]), axis=0)
        pairs = pairs[guard.allowed(node, pairs)]
    return graphs.build(nodes, pairs, motion, clip)


def cut_contests(clip: Clip, node: Ints) -> Cuts:
    """Cut tracklets at close contacts."""
    members = Members.of(node)
    owner = node[members.row]
    a, b = clip.pairs.T
    meet = node[a] != node[b]
    overlap = np.zeros(len(clip))
    np.maximum.at(overlap, a[meet], clip.pair_iou[meet])
    np.maximum.at(overlap, b[meet], clip.pair_iou[meet])
    # Contests: runs of contested rows of a tracklet, short breaks included.
    spot = np.flatnonzero(overlap[members.row] > 0)
    if not len(spot):
        return Cuts(node, node, np.zeros((0, 2), np.int64), np.zeros(0))
    frame = clip.frame[members.row]
    breaks = (np.diff(owner[spot]) != 0) | (np.diff(frame[spot]) > max(CONTEST_JOIN_SECONDS * clip.fps, 1))
    run = np.concatenate([[0], np.cumsum(breaks)])
    order = np.lexsort((-overlap[members.row[spot]], run))
    first = np.flatnonzero(np.diff(run[order], prepend=-1))
    peak = spot[order[first]]  # entry of members.row with the closest contact of each run
    low, high = spot[np.flatnonzero(np.diff(run, prepend=-1))], spot[np.flatnonzero(np.diff(run, append=run[-1] + 1))]
    reach = max(CONTEST_SECONDS * clip.fps, 1)
    position = np.arange(len(members.row))
    start, stop = members.start[owner], members.start[owner] + members.count[owner]
    # Narrow each run to the reach around its peak, in entries.
    inside = np.zeros(len(members.row) + 1, np.int64)
    key = owner.astype(np.int64) * (clip.num_frames + 1) + frame
    low = np.maximum(low, np.searchsorted(key, key[peak] - reach))
    high = np.minimum(high, np.searchsorted(key, key[peak] + reach, side="right") - 1)
    low, high = np.maximum(low, start[peak]), np.minimum(high, stop[peak] - 1)
    # Both sides need clear boxes.
    good = (low - start[peak] >= 2) & (stop[peak] - 1 - high >= 2)
    low, high, peak = low[good], high[good], peak[good]
    np.add.at(inside, low, 1)
    np.add.at(inside, high + 1, -1)
    contested = np.cumsum(inside[:-1]) > 0
    # A segment needs a clear box; where contests leave none between them, the later cut is not made.
    cut = np.zeros(len(members.row), np.int64)
    cut[np.minimum(peak + 1, len(cut) - 1)] = 1
    cut[members.start] = 0
    number = np.cumsum(cut + np.isin(position, members.start)) - 1
    clear = np.bincount(number[~contested], minlength=int(number[-1]) + 1)
    empty = clear[number] == 0
    segment = np.full(len(clip), -1, np.int64)
    segment[members.row] = number
    bright = segment.copy()
    bright[members.row[contested & ~empty]] = -1
    joint = np.flatnonzero(cut)
    link = np.stack([number[joint - 1], number[joint]], axis=1)
    return Cuts(segment, bright, link, overlap[members.row[np.maximum(joint - 1, 0)]])


def untangle(
    clip: Clip,
    node: Ints,
    lasting: Floats,
    motion: SceneMotion,
    scorer: Scorer,
    policy: Policy,
    levels: list[Level],
    stage: str,
) -> Ints:
    """Cut tracklets at close contacts and link the parts anew, judged by the clear boxes on both sides.

    Bottom-up merging never takes a link back, and most wrong links join neighbouring frames of people who cross. Seen
    from clear boxes before and after, with motion on both sides, the same question is easier. The former link is a
    candidate too, and the network is told so; it goes only if others fit better. Appends the level's record; returns
    (N,) nodes.
    """
    cuts = cut_contests(clip, node)
    if not len(cuts.link):
        return node
    segment, clear = cuts.segment, cuts.clear
    nodes, _ = graphs.tracklet_nodes(clip, clear, lasting)
    total = int(segment.max()) + 1
    pairs = graphs.tracklet_pairs(nodes, motion, clip, UNTANGLE_EXTENT, hard=policy.hard_candidates)
    opened, begun = np.zeros(total, bool), np.zeros(total, bool)
    opened[cuts.link[:, 0]] = begun[cuts.link[:, 1]] = True
    pairs = pairs[opened[pairs[:, 0]] | begun[pairs[:, 1]]]
    graph, logit = judge_again(clip, nodes, pairs, cuts.link, cuts.contest, motion, scorer, policy)
    merged, record = link_nodes(segment, graph.edge, logit, policy.link, scorer, stage, UNTANGLE_EXTENT)
    levels.append(record)
    return _one_box_a_frame(clip, merged, segment, clear >= 0)


def judge_again(
    clip: Clip,
    nodes: Nodes,
    pairs: Ints,
    former: Ints,
    contest: Floats,
    motion: SceneMotion,
    scorer: Scorer,
    policy: Policy,
) -> tuple[Graph, Floats]:
    """The graph of ``pairs`` (E, 2) and ``former`` (K, 2) links of nodes, each once, and what the network says of it.

    It is told of the closest contact, (K,) IoU, through which each former link went.
    """
    total = len(nodes.first)
    base = np.array([total, 1])
    code = np.unique(np.concatenate([pairs, former]) @ base)
    continued = np.zeros(len(code))
    continued[np.searchsorted(code, former @ base)] = contest
    graph = graphs.build(nodes, np.stack([code // total, code % total], axis=1), motion, clip, continued)
    _, logit = scorer.tracklets(graph, UNTANGLE_LEVEL)
    # What was one is given up for somebody better, never for nobody: a track was followed through the contest.
    return graph, np.where(continued > 0, np.maximum(logit, policy.link + KEPT), logit)


def _one_box_a_frame(clip: Clip, node: Ints, segment: Ints, clear: NDArray[np.bool_]) -> Ints:
    """Where two joined segments both have a box in a frame, a contested one is left out. (N,) nodes.

    That happens when two people swap partners and were cut at slightly different frames. Clear boxes of joined segments
    never share a frame.
    """
    rows = np.flatnonzero(node >= 0)
    order = rows[np.lexsort((segment[rows], ~clear[rows], clip.frame[rows], node[rows]))]
    twin = (np.diff(node[order], prepend=-2) == 0) & (np.diff(clip.frame[order], prepend=-2) == 0)
    out = node.copy()
    out[order[twin]] = -1
    return compact(out)


def link_nodes(
    node: Ints,
    edge: Ints,
    logit: Floats,
    threshold: float,
    scorer: Scorer,
    stage: str,
    extent: int,
    guard: Guard | None = None,
) -> tuple[Ints, Level]:
    """Decide one level's edges and merge, as far as ``guard`` allows. (N,) nodes -> (N,) nodes, the level's record."""
    total = int(node.max(initial=-1)) + 1
    weight = logit - threshold
    if guard and len(edge):
        allowed = guard.allowed(node, edge)
        edge, logit, weight = edge[allowed], logit[allowed], weight[allowed]
        demanded = rows_in(edge, guard.forced(node), total)
        weight = np.where(demanded, FORCED, weight)
        logit = np.where(demanded, FORCED, logit)
    taken = round_links(edge, weight, total)
    if guard:
        taken = guard.check(node, edge, taken, weight)
    record = record_of(node, edge, logit, taken, scorer, stage, extent)
    merged = node.copy()
    if total:
        component = follow(edge, taken, total)
        merged[node >= 0] = component[node[node >= 0]]
    return compact(merged), record


def record_of(
    node: Ints, edge: Ints, logit: Floats, taken: NDArray[np.bool_], scorer: Scorer, stage: str, extent: int
) -> Level:
    """What a stage weighed and decided, with probabilities under the constraints."""
    joint = marginals(edge, logit, int(node.max(initial=-1)) + 1)
    return Level(
        extent,
        node.astype(np.int32),
        edge.astype(np.int32),
        (1 / (1 + np.exp(-np.clip(logit, -50, 50)))).astype(np.float32),
        scorer.calibrate(joint, LIKE.get(stage, stage)).astype(np.float32),
        taken,
        stage,
    )


def recover(clip: Clip, node: Ints, weak: NDArray[np.bool_], pairs: Ints, logit: Floats, policy: Policy) -> Ints:
    """Give weak detections to the tracks that they continue. (N,) nodes.

    Links of strong detections must not be led astray by weak ones, so those come last: where a track breaks off, chains
    of weak detections that hang on it frame by frame become part of it. A chain between two tracks belongs to the
    earlier one.
    """
    a, b = pairs.T
    follows, precedes = np.zeros(len(node), bool), np.zeros(len(node), bool)
    members = Members.of(node)
    adjacent = np.diff(clip.frame[members.row]) == 1
    adjacent &= np.diff(node[members.row]) == 0
    follows[members.row[1:][adjacent]] = True
    precedes[members.row[:-1][adjacent]] = True
    usable = (
        (weak[a] | weak[b]) & (weak[a] | ((node[a] >= 0) & ~precedes[a])) & (weak[b] | ((node[b] >= 0) & ~follows[b]))
    )
    edge = pairs[usable]
    taken = round_links(edge, logit[usable] - policy.first_link, len(node))
    before, after = np.arange(len(node)), np.arange(len(node))
    before[edge[taken, 1]] = edge[taken, 0]
    after[edge[taken, 0]] = edge[taken, 1]
    # Chains end where a track's own box begins.
    before[node >= 0] = after[node >= 0] = np.flatnonzero(node >= 0)
    owner = node[chain_ends(before)]
    owner = np.where(owner >= 0, owner, node[chain_ends(after)])
    rows = np.flatnonzero(weak & (owner >= 0))
    out = node.copy()
    key = owner * (clip.num_frames + 1) + clip.frame
    rows = rows[~np.isin(key[rows], (node * (clip.num_frames + 1) + clip.frame)[node >= 0])]
    rows = rows[np.unique(key[rows], return_index=True)[1]]
    out[rows] = owner[rows]
    return out


def link_weak(
    clip: Clip,
    node: Ints,
    weak: NDArray[np.bool_],
    pairs: Ints,
    logit: Floats,
    lasting: Floats,
    motion: SceneMotion,
    scorer: Scorer,
    policy: Policy,
    levels: list[Level],
    extents: Sequence[int],
) -> Ints:
    """Link the weak detections that are left, among themselves and to the ends of tracks. (N,) nodes.

    The tracks of strong detections stay as they are. A weak detection where a track runs through a gap becomes part of
    it; one beside a detection of a track is its second box. Appends a record per level.
    """
    free = weak & (node < 0)
    a, b = clip.pairs[clip.pair_iou > policy.second].T
    free[a[node[b] >= 0]] = free[b[node[a] >= 0]] = False
    node, free = _into_gaps(clip, node, free)
    if not free.any():
        return node
    inside = free[pairs].all(1)
    chain = np.where(free, np.cumsum(free) - 1, -1)
    edge, stage = chain[pairs[inside]], stage_name("weak", 0)
    chain, record = link_nodes(chain, edge, logit[inside], policy.weak_link, scorer, stage, extents[0])
    levels.append(record)
    lone = np.bincount(chain[chain >= 0]) < 2
    late = (chain >= 0) & ~lone[chain]
    if not late.any():
        return node
    node = compact(np.where(late, chain + int(node.max(initial=-1)) + 1, node))
    for level in WEAK_LEVELS[1:]:
        graph = tracklet_graph(clip, node, lasting, motion, extents[level], hard=policy.hard_candidates)
        _, logit = scorer.tracklets(graph, level)
        new = np.bincount(node[late], minlength=len(graph.x)) > 0
        some = new[graph.edge].any(1)
        edge, stage = graph.edge[some], stage_name("weak", level)
        node, record = link_nodes(node, edge, logit[some], policy.link, scorer, stage, extents[level])
        levels.append(record)
    return node


def _into_gaps(clip: Clip, node: Ints, free: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.bool_]]:
    """Give free detections where a track passes in a gap to that track. (N,) nodes and (N,) still free.

    What lies beside the track's place is neither given to it nor free any more.
    """
    filled = fill(clip, node, clip.box)
    gap = np.flatnonzero((filled.row < 0) & (filled.gap < GAP_SECONDS * clip.fps))
    start = clip.frame_start[filled.frame[gap]]
    place, row = pair_ranges(gap, np.ones(len(gap), np.int64), start, clip.frame_start[filled.frame[gap] + 1] - start)
    place, row = place[free[row]], row[free[row]]
    iou = iou_pairs(to_corners(filled.box[place]), to_corners(clip.box[row]))
    left = free.copy()
    left[row[iou > BESIDE]] = False
    good = iou > SAME_PLACE
    place, row, iou = place[good], row[good], iou[good]
    best = smallest_in_group(place, -iou) & smallest_in_group(row, -iou)
    out = node.copy()
    out[row[best]] = filled.track[place[best]]
    return out, left


def rows_in(edge: Ints, pairs: Ints, total: int) -> NDArray[np.bool_]:
    """(E,) which edges are among some pairs, (K, 2), of ``total`` nodes."""
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

    def calibrate(self, probability: Floats, stage: str) -> Floats:
        """As they are."""
        return probability
