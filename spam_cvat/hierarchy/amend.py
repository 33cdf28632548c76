"""Answers on top of a clip that was linked without them: what nobody spoke of stays as it was.

In: a clip linked without answers, and what humans said. Out: the same with the answers kept. Linking anew under answers
would let each of them move links all over the clip, since messages, margins and the scene's own units depend on
everything; and a link that was right and not asked about would flip now and then. So the links found without answers
are kept, the surest first, as far as the answers allow (a maximum spanning forest under constraints): tracks that
nobody spoke of stay whole, and two boxes held apart are parted at the least sure link between them. Only the ends that
this leaves open, and doubtful links close to them in the same track, are judged again by the network; last, as without
answers, by what is clear of other tracks (:mod:`ends`).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Level, candidate_edges
from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy.assignment import Guard, follow
from spam_cvat.hierarchy.ends import Opened, link_ends
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.graph import Graph
from spam_cvat.hierarchy.grouping import compact
from spam_cvat.hierarchy.levels import (
    AMENDED,
    EXTENTS,
    UNTANGLE_EXTENT,
    ClipResult,
    Policy,
    Scorer,
    gate_tracks,
    judge_again,
    link_nodes,
    tracklet_graph,
)
from spam_cvat.hierarchy.motion_fit import Members
from spam_cvat.hierarchy.recalibration import shifted

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Links of a track that are believed less than this and lie so many seconds or less from where an answer broke it are
# judged again: who was mistaken for somebody else for a moment leaves two wrong links, and one answer tells of one.
DOUBTFUL, NEAR_SECONDS = 0.9, 1.0
# A link that is judged again counts as one through a contact of this overlap; the network was trained on such.
CONTEST = 0.3


@dataclass(frozen=True)
class _Links:
    """Successive boxes of the tracks found without answers.

    Attributes:
        row: (K, 2) earlier and later row of the clip.
        track: (K,) identity.
        belief: (K,) probability by the highest level that weighed the link.
    """

    row: Ints
    track: Ints
    belief: Floats


def amend(
    clip: Clip, free: ClipResult, said: NDArray[np.int8], guard: Guard, scorer: Scorer, policy: Policy
) -> ClipResult:
    """Impose answers on a clip.

    Args:
        clip: the boxes.
        free: the clip, linked without answers.
        said: (N,) 1 a human said real, 0 said not real, -1 nobody said.
        guard: what humans said of identities in this clip.
        scorer: turns features into logits.
        policy: when links are taken.

    Returns:
        The result with the answers kept, and a record more per level at which open ends were linked.
    """
    found = np.where(said == 0, -1, free.node)
    links = _links_of(found, free.levels)
    new = (said == 1) & (found < 0)
    own = np.where((found >= 0) | new, np.arange(len(clip)), -1)
    kept = guard.check(own, links.row, np.ones(len(links.row), bool), links.belief)
    again = _judged_again(clip, links, kept)
    ends, starts = new.copy(), new.copy()
    ends[links.row[~kept | again, 0]] = True
    starts[links.row[~kept | again, 1]] = True
    piece = np.where(own >= 0, follow(links.row, kept & ~again, len(clip)), -1)
    piece = compact(guard.join(piece))
    lasting = graphs.support_of(free.support, clip.score)
    held = said == 1
    held[guard.rows] = True
    opened = Opened(ends, starts, held, guard)
    piece, levels = _Relinking(clip, free, lasting, opened, scorer, policy)(piece, links.row[again])
    track_gate = gate_tracks(clip, piece, free.gate, lasting, free.motion, scorer) - policy.track
    linked = replace(free, node=piece, track_gate=track_gate, levels=(*free.levels, *levels))
    linked = link_ends(clip, linked, scorer, policy, opened)
    guard.absorb(linked.node)
    new_levels = (shifted(level, free.shift) for level in linked.levels[len(free.levels) :])
    return replace(linked, levels=(*free.levels, *new_levels))


def _links_of(node: Ints, levels: tuple[Level, ...]) -> _Links:
    """Successive boxes of each node. (N,) nodes -> K links."""
    row = Members.of(compact(node)).row
    joined = np.flatnonzero(np.diff(node[row]) == 0)
    earlier, later = row[joined], row[joined + 1]
    belief = candidate_edges(levels).belief(earlier, later)
    return _Links(np.stack([earlier, later], axis=1), node[earlier], belief)


def _judged_again(clip: Clip, links: _Links, kept: Mask) -> Mask:
    """(K,) doubtful links that were kept, close to one of the same track that was not."""
    out = np.zeros(len(kept), bool)
    reach = NEAR_SECONDS * clip.fps
    earlier, later = clip.frame[links.row].T
    doubtful = kept & (links.belief < DOUBTFUL)
    for broken in np.flatnonzero(~kept):
        out |= (
            doubtful
            & (links.track == links.track[broken])
            & (later >= earlier[broken] - reach)
            & (earlier <= later[broken] + reach)
        )
    return out


@dataclass(frozen=True)
class _Relinking:
    """Links pieces at their open ends, by the network of untangling first, then level by level.

    Attributes:
        lasting: (N,) what each row's confidence is worth.
        opened: the ends, and what answers hold.
    """

    clip: Clip
    free: ClipResult
    lasting: Floats
    opened: Opened
    scorer: Scorer
    policy: Policy

    def __call__(self, piece: Ints, again: Ints) -> tuple[Ints, list[Level]]:
        """Link pieces; ``again`` (K, 2) rows were linked. (N,) pieces -> (N,) nodes and the records."""
        levels: list[Level] = []
        guard = self.opened.guard
        for level, stage in enumerate(AMENDED):
            members = Members.of(piece)
            ends, starts = self.opened.ends[members.last], self.opened.starts[members.first]
            if not (ends.any() or starts.any()):
                break
            if level == 0:
                extent = UNTANGLE_EXTENT
                graph, logit = self._judge_again(piece, piece[again])
            else:
                extent = EXTENTS[level]
                graph = tracklet_graph(self.clip, piece, self.lasting, self.free.motion, extent, guard)
                _, logit = self.scorer.tracklets(graph, level)
            either = ends[graph.edge[:, 0]] | starts[graph.edge[:, 1]]
            edge, logit = graph.edge[either], logit[either]
            piece, record = link_nodes(piece, edge, logit, self.policy.link, self.scorer, stage, extent, guard)
            levels.append(record)
        return piece, levels

    def _judge_again(self, piece: Ints, former: Ints) -> tuple[Graph, Floats]:
        """All candidates over short gaps and ``former`` (K, 2) links, which go only if others fit better."""
        members = Members.of(piece)
        # What answers joined across a link that is judged again leaves nothing to judge.
        ended, began = self.clip.frame[members.last], self.clip.frame[members.first]
        former = former[ended[former[:, 0]] < began[former[:, 1]]]
        former = former[self.opened.guard.allowed(piece, former)]
        nodes, _ = graphs.tracklet_nodes(self.clip, piece, self.lasting)
        pairs = graphs.tracklet_pairs(nodes, self.free.motion, self.clip, UNTANGLE_EXTENT)
        pairs = pairs[self.opened.guard.allowed(piece, pairs)]
        contest = np.full(len(former), CONTEST)
        return judge_again(self.clip, nodes, pairs, former, contest, self.free.motion, self.scorer, self.policy)
