"""Open ends of tracks, judged once more when all else of the tracks is known.

In: a clip linked through all levels. Out: the same, with tracks joined that go on in each other. Where somebody gets
hidden, the last boxes before and the first ones after are often half of the person in front, and the detector may give
the person as seen last and as seen next at once, for some frames: two tracklets that overlap in time, which no level
can link. So ends are judged by the boxes that are clear of other tracks, as crossings are
(:func:`~spam_cvat.hierarchy.levels.untangle`), and what two joined tracks both have is handed over at one frame.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Level
from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy.assignment import Guard, follow, round_links
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.grouping import compact, mean_of_joined
from spam_cvat.hierarchy.levels import (
    AMENDED_ENDS,
    CONTEST_SECONDS,
    ENDS,
    EXTENTS,
    UNTANGLE_EXTENT,
    ClipResult,
    Policy,
    Scorer,
    record_of,
    run_clip,
)
from spam_cvat.hierarchy.motion_fit import Members

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Two tracks may be of one person while both have boxes for this long at most; two people stay together for longer.
SHARED_SECONDS = 0.3
# An end is cut back only as far as it leaves so many clear boxes to judge by, as at crossings.
CLEAR_BOXES = 2
# The level whose calibration the links get: the one up to whose extent they are looked for.
LEVEL = EXTENTS.index(UNTANGLE_EXTENT)


@dataclass(frozen=True)
class Ends:
    """Where tracks begin and end, and where what is clear of them does: four (T,) arrays of frames.

    Attributes:
        first: of each track's first box.
        last: of its last box.
        clear: of the first box by which its beginning is judged.
        until: of the last box by which its end is judged.
    """

    first: Ints
    last: Ints
    clear: Ints
    until: Ints


@dataclass(frozen=True)
class Opened:
    """Where answers left tracks open, and what they hold.

    Attributes:
        ends: (N,) rows after which somebody may go on elsewhere.
        starts: (N,) rows before which somebody may have been elsewhere.
        held: (N,) rows that stay in their tracks, as a human spoke of them.
        guard: what humans said of identities.
    """

    ends: Mask
    starts: Mask
    held: Mask
    guard: Guard


def link_clip(clip: Clip, scorer: Scorer, policy: Policy) -> ClipResult:
    """A clip through all levels, and its open ends once more. See :func:`run_clip` for the arguments."""
    return link_ends(clip, run_clip(clip, scorer, policy), scorer, policy)


def link_ends(
    clip: Clip, found: ClipResult, scorer: Scorer, policy: Policy, opened: Opened | None = None
) -> ClipResult:
    """Join tracks at open ends, as far as the network finds it likelier than not that one goes on in the other.

    Args:
        clip: the boxes.
        found: the clip, linked.
        scorer: turns features into logits.
        policy: when links are taken. Tracks that its gate does not let pass stay out of it, unless a human spoke of
            them.
        opened: the ends that answers opened, the only ones to be linked then; None for all.

    Returns:
        The result with joined tracks, and a record of the links more. Boxes of two joined tracks in one frame are
        left out of one of them.
    """
    real = found.passing(policy)
    if opened:
        real[found.node[opened.held & (found.node >= 0)]] = True
    name = np.flatnonzero(real)
    node = np.full(len(clip), -1, np.int64)
    inside = found.node >= 0
    node[inside] = np.where(real, np.cumsum(real) - 1, -1)[found.node[inside]]
    rows = Members.of(node)
    open_end, open_start = np.ones((2, len(name)), bool)
    if opened:
        open_end, open_start = opened.ends[rows.last], opened.starts[rows.first]
    if len(name) < 2 or not (open_end.any() or open_start.any()):
        return found
    ends = clear_ends(clip, node)
    nodes, _ = graphs.tracklet_nodes(
        clip, _between(clip, node, ends.clear, ends.until), graphs.support_of(found.support, clip.score)
    )
    pairs = graphs.tracklet_pairs(nodes, found.motion, clip, UNTANGLE_EXTENT)
    graph = graphs.build(nodes, pairs, found.motion, clip)
    _, logit = scorer.tracklets(graph, LEVEL)
    a, b = graph.edge.T
    shared = ends.last[a] - ends.first[b] + 1
    usable = (ends.first[a] < ends.first[b]) & (ends.last[a] < ends.last[b])
    usable &= (shared <= max(SHARED_SECONDS * clip.fps, 1)) & (open_end[a] | open_start[b])
    edge, logit = graph.edge[usable], logit[usable]
    until = _hand_overs(clip, rows, ends, edge, opened.held if opened else np.zeros(len(clip), bool))
    possible = until >= 0
    if opened:
        possible[possible] = _allowed(clip, node, ends, edge[possible], until[possible], opened.guard)
    edge, logit, until = edge[possible], logit[possible], until[possible]
    if not len(edge):
        return found
    taken = round_links(edge, logit - policy.end, len(name))
    parted = _parted(clip, node, ends, edge[taken], until[taken])
    if opened and not (kept := opened.guard.check(parted, edge, taken, logit))[taken].all():
        taken = kept
        parted = _parted(clip, node, ends, edge[taken], until[taken])
    surest = np.lexsort((-logit, ~taken))
    asked = _parted(clip, node, ends, edge[surest], until[surest])
    stage = AMENDED_ENDS if opened else ENDS
    record = _in_order(clip, record_of(asked, edge, logit, taken, scorer, stage, UNTANGLE_EXTENT))
    return replace(_joined(found, name, parted, edge[taken]), levels=(*found.levels, record))


def clear_ends(clip: Clip, node: Ints) -> Ends:
    """Where the tracks ``node`` (N,) end, and where they are clear of each other close to that.

    What touches another track is left out from an end on, up to the length of a contest at crossings.
    """
    members = Members.of(node)
    a, b = clip.pairs.T
    meet = (node[a] >= 0) & (node[b] >= 0) & (node[a] != node[b])
    touched = np.zeros(len(clip), bool)
    touched[clip.pairs[meet]] = True
    frame, touched = clip.frame[members.row], touched[members.row]
    first, last = clip.frame[members.first], clip.frame[members.last]
    reach = max(CONTEST_SECONDS * clip.fps, 1)
    low = np.minimum(members.over(np.minimum, np.where(touched, np.inf, frame)), first + reach)
    high = np.maximum(members.over(np.maximum, np.where(touched, -np.inf, frame)), last - reach)
    inside = (frame >= low[members.owner]) & (frame <= high[members.owner])
    whole = members.over(np.add, inside.astype(np.float64)) < CLEAR_BOXES
    inside |= whole[members.owner]
    clear = members.over(np.minimum, np.where(inside, frame, clip.num_frames))
    until = members.over(np.maximum, np.where(inside, frame, -1))
    return Ends(first, last, clear.astype(np.int64), until.astype(np.int64))


def _between(clip: Clip, node: Ints, since: Ints, until: Ints) -> Ints:
    """The tracks without their boxes outside these frames, (T,) each. (N,) nodes."""
    outside = (clip.frame < since[node]) | (clip.frame > until[node])
    return np.where((node < 0) | outside, -1, node)


def _parted(clip: Clip, node: Ints, ends: Ends, edge: Ints, until: Ints) -> Ints:
    """The tracks without what those of a link both have, for links (E, 2) as far as no earlier one has the end.

    ``until`` (E,) are the frames up to which boxes of the earlier track are kept, and after which those of the later.
    """
    low, high = ends.first.copy(), ends.last.copy()
    ended, begun = np.zeros(len(low), bool), np.zeros(len(low), bool)
    for (a, b), last in zip(edge, until, strict=True):
        if not (ended[a] or begun[b]):
            ended[a] = begun[b] = True
            high[a] = last
            low[b] = max(ends.first[b], last + 1)
    return _between(clip, node, low, high)


def _hand_overs(clip: Clip, rows: Members, ends: Ends, edge: Ints, held: Mask) -> Ints:
    """The last frame of the earlier track's boxes that are kept for each link (E, 2); -1 where ``held`` (N,) forbid it.

    Where both have boxes, this is the frame at which the surest ones together are kept.
    """
    until = ends.last[edge[:, 0]].copy()
    for index in np.flatnonzero(until >= ends.first[edge[:, 1]]):
        a, b = edge[index].tolist()
        until[index] = _hand_over(clip, rows, ends, a, b, held)
    return until


def _hand_over(clip: Clip, rows: Members, ends: Ends, a: int, b: int, held: Mask) -> int:
    """The frame at which ``b`` takes over from ``a``, -1 for none: no box that is held may be left out.

    It lies between the clear boxes of both, so that the links on either side of a track never take all of it.
    """
    of = [rows.row[rows.start[k] : rows.start[k] + rows.count[k]] for k in (a, b)]
    frame = np.arange(ends.until[a], ends.clear[b])[:, None]
    earlier, later = (clip.frame[row] <= frame for row in of)
    total = (earlier * clip.score[of[0]]).sum(1) + (~later * clip.score[of[1]]).sum(1)
    fine = ~((~earlier & held[of[0]]).any(1) | (later & held[of[1]]).any(1))
    return int(frame[np.where(fine, total, -1.0).argmax(), 0]) if fine.any() else -1


def _allowed(clip: Clip, node: Ints, ends: Ends, edge: Ints, until: Ints, guard: Guard) -> Mask:
    """Which links (E, 2) answers would allow on their own, without what the tracks of a link both have. (E,)."""
    out = guard.allowed(node, edge)
    for index in np.flatnonzero(ends.last[edge[:, 0]] >= ends.first[edge[:, 1]]):
        one = slice(index, index + 1)
        out[one] = guard.allowed(_parted(clip, node, ends, edge[one], until[one]), edge[one])
    return out


def _in_order(clip: Clip, record: Level) -> Level:
    """The record without links whose later track begins before the earlier one ends: another one has that end."""
    last, first = clip.frame[record.boxes().T]
    fine = last < first
    columns = ("edge", "raw", "probability", "decision")
    return replace(record, **{name: getattr(record, name)[fine] for name in columns})


def _joined(found: ClipResult, name: Ints, parted: Ints, link: Ints) -> ClipResult:
    """The result with tracks joined by links (K, 2), and without the boxes that these leave out.

    ``parted`` (N,) are the tracks that stay, without these boxes; ``name`` (T,) is what the result calls them.
    """
    whole = follow(name[link], np.ones(len(link), bool), len(found.track_gate))
    node = np.where(np.isin(found.node, name), -1, found.node)
    node[parted >= 0] = name[parted[parted >= 0]]
    joined = compact(np.where(node >= 0, whole[node], -1))
    return replace(found, node=joined, track_gate=mean_of_joined(found.track_gate, node, joined))
