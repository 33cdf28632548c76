"""Which candidate edges are true, given who every box is: by ground truth in training, by final tracks in use.

In: edges of one level and an identity per row. Out: a truth value per edge.
"""

import numpy as np
from numpy.typing import NDArray

from spam_cvat.annotation import Level
from spam_cvat.hierarchy.motion_fit import Members


def true_links(level: Level, frame: NDArray[np.int64], identity: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of a record's candidates join successive tracklets of one person, (E,); see :func:`true_edges`."""
    return true_edges(level.edge.astype(np.int64), level.node.astype(np.int64), frame, identity)


def true_edges(
    edge: NDArray[np.int64], node: NDArray[np.int64], frame: NDArray[np.int64], identity: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which edges join successive tracklets of one person, (E,).

    A tracklet's identity is that of its end: of its last (or first) three boxes the most frequent one, so that an edge
    is judged by the boxes it joins even where the tracklet has a mistake further inside.
    """
    members = Members.of(node)
    if not len(edge):
        return np.zeros(0, bool)
    tail, head = _end_identity(members, identity, -1), _end_identity(members, identity, 1)
    end, begin = frame[members.last], frame[members.first]
    a, b = edge.T
    same = (tail[a] == head[b]) & (tail[a] > 0)
    # The next tracklet that starts with this person, and the previous one that ends with it.
    span = int(frame.max(initial=0)) + 2
    starts = np.sort(head * span + begin)
    ends = np.sort(tail * span + end)
    after = np.searchsorted(starts, tail * span + end, side="right")
    before = np.searchsorted(ends, head * span + begin, side="left") - 1
    following = starts[np.minimum(after, len(starts) - 1)]
    previous = ends[np.maximum(before, 0)]
    return same & (following[a] == head[b] * span + begin[b]) & (previous[b] == tail[a] * span + end[a])


def _end_identity(members: Members, identity: NDArray[np.int64], direction: int) -> NDArray[np.int64]:
    base = members.start if direction > 0 else members.start + members.count - 1
    picks = []
    for k in range(3):
        step = np.minimum(k, members.count - 1)
        picks.append(identity[members.row[base + direction * step]])
    first, second, third = picks
    return np.where((second == third) & (second > 0), second, first)
