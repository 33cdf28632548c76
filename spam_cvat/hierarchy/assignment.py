"""Which candidate edges hold: one-in one-out rounding, probabilities under that rule, and answers kept.

In: candidate edges with logits, and what humans said. Out: a decision and a marginal probability per edge.

* Rounding takes the matching of largest total log odds, so that what is decided is the most probable joint state; it
  is an assignment problem per connected component (method notes 1.8: the same optimum as SUSHI's linear program).
* A lone edge's probability ignores that its alternatives exclude it. The marginals under the rule come from belief
  propagation for data association (Williams and Lau, IEEE TAES 2014), which converges on bipartite matchings.
* Answers are statements about detections. :class:`Guard` checks each merge against all of them, at every level, so
  that no sequence of merges can join what must be apart or leave no room for what must be joined.
"""

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from spam_cvat.answers import Clamps

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FORCED = 1e4
MESSAGE_ROUNDS = 8
MAX_LOGIT = 12.0


def round_links(edge: Ints, weight: Floats, nodes: int) -> NDArray[np.bool_]:
    """The matching of largest total weight; edges of weight <= 0 are never taken.

    Args:
        edge: (E, 2) earlier and later node.
        weight: (E,) log odds, relative to the threshold.
        nodes: number of nodes.

    Returns:
        (E,) bool: every node has at most one taken edge out and at most one in.
    """
    taken = np.zeros(len(edge), bool)
    live = np.flatnonzero(weight > 0)
    if not len(live):
        return taken
    a, b = edge[live].T
    alone = (np.bincount(a, minlength=nodes)[a] == 1) & (np.bincount(b, minlength=nodes)[b] == 1)
    taken[live[alone]] = True
    live = live[~alone]
    if not len(live):
        return taken
    a, b = edge[live].T
    graph = coo_matrix((np.ones(len(live)), (a, b + nodes)), shape=(2 * nodes, 2 * nodes))
    component = connected_components(graph, directed=False)[1][a]
    order = np.argsort(component, kind="stable")
    bounds = np.flatnonzero(np.diff(component[order], prepend=-1, append=-1))
    for start, stop in itertools.pairwise(bounds):
        part = live[order[start:stop]]
        taken[part[_match(edge[part], weight[part])]] = True
    return taken


def _match(edge: Ints, weight: Floats) -> Ints:
    """Indices of the best matching of one component."""
    if len(edge) == 2:  # by far the most frequent component: two edges that share a node
        return np.array([int(weight[1] > weight[0])])
    left, a = np.unique(edge[:, 0], return_inverse=True)
    right, b = np.unique(edge[:, 1], return_inverse=True)
    cost = np.zeros((len(left), len(right)))
    index = np.full(cost.shape, -1, np.int64)
    cost[a, b] = -weight
    index[a, b] = np.arange(len(edge))
    chosen = index[linear_sum_assignment(cost)]
    return chosen[chosen >= 0]


def marginals(edge: Ints, logit: Floats, nodes: int) -> Floats:
    """Probability of each edge when every node has at most one edge out and one in, (E,).

    >>> marginals(np.array([[0, 1], [0, 2]]), np.array([2.0, 2.0]), 3).round(3)
    array([0.468, 0.468])
    """
    if not len(edge):
        return np.zeros(0)
    a, b = edge.T
    odds = np.exp(np.clip(logit, -MAX_LOGIT, MAX_LOGIT))
    back = np.ones(len(edge))
    for _ in range(MESSAGE_ROUNDS):
        out = odds * back
        forward = odds / (1 + np.maximum(np.bincount(a, weights=out, minlength=nodes)[a] - out, 0))
        back = 1 / (1 + np.maximum(np.bincount(b, weights=forward, minlength=nodes)[b] - forward, 0))
    out = odds * back
    return out / (1 + np.bincount(a, weights=out, minlength=nodes)[a])


def follow(edge: Ints, taken: NDArray[np.bool_], nodes: int) -> Ints:
    """Component of each node under the edges taken, numbered by first node. (nodes,)."""
    a, b = edge[taken].T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(nodes, nodes))
    _, label = connected_components(graph, directed=False)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse]


class People:
    """Who humans spoke of, over the whole video: a union-find with everybody's frames and enemies."""

    def __init__(self, clamps: Clamps, frame: Ints) -> None:
        """``frame``: (N,) frames of the rows that ``clamps`` speaks of."""
        self.person = clamps.person
        self.rows = np.unique(np.concatenate([clamps.must.ravel(), clamps.cannot.ravel()]).astype(np.int64))
        self.must = clamps.must.astype(np.int64)
        self.parent: dict[int, int] = {}
        self.frames: dict[int, set[int]] = {}
        self.enemies: dict[int, set[int]] = {}
        for row in self.rows.tolist():
            person = int(self.person[row])
            self.parent[person] = person
            self.frames.setdefault(person, set()).add(int(frame[row]))
            self.enemies.setdefault(person, set())
        for a, b in clamps.cannot.tolist():
            p, q = int(self.person[a]), int(self.person[b])
            self.enemies[p].add(q)
            self.enemies[q].add(p)

    def find(self, person: int) -> int:
        """Who a person has turned out to be."""
        while self.parent[person] != person:
            person = self.parent[person]
        return person

    def of_row(self, row: int) -> int:
        """Who the box of a row is."""
        return self.find(int(self.person[row]))

    def hostile(self, first: set[int], second: set[int]) -> bool:
        """Whether somebody of one group is held apart from somebody of the other."""
        return any(self.find(enemy) in second for person in first for enemy in self.enemies[person])

    def join(self, first: int, second: int) -> None:
        """Two people turned out to be one."""
        p, q = self.find(first), self.find(second)
        if p != q:
            self.parent[q] = p
            self.frames[p] |= self.frames[q]
            self.enemies[p] |= self.enemies[q]


class Guard:
    """Keeps every merge in a stretch of the video within what humans said.

    People joined by answers may still sit in several nodes (what lies between them is linked level by level); such
    nodes already count as one when a merge is checked: their boxes must never claim one frame twice, also not a frame
    that an answer gives to the same person elsewhere in the video, and whoever is held apart from one of them is held
    apart from all.
    """

    def __init__(self, people: People, frame: Ints, start: int = 0, stop: int | None = None) -> None:
        """A guard over rows start .. stop - 1 of the table that ``people`` speaks of; ``frame`` are their frames."""
        stop = start + len(frame) if stop is None else stop
        self.people = people
        self.frame = frame
        self.start = start
        inside = (people.rows >= start) & (people.rows < stop)
        self.rows = people.rows[inside] - start
        must = people.must
        self.must = must[((must >= start) & (must < stop)).all(1)] - start

    def __bool__(self) -> bool:
        """Whether there is anything to keep."""
        return bool(len(self.rows))

    def person(self, row: int) -> int:
        """Who the box of one of this stretch's rows is."""
        return self.people.of_row(row + self.start)

    def forced(self, node: Ints) -> Ints:
        """Pairs of nodes that hold successive boxes of one person. (K, 2), self pairs left out."""
        if not len(self.must):
            return np.zeros((0, 2), np.int64)
        pairs = node[self.must]
        pairs = pairs[(pairs >= 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
        return np.unique(pairs, axis=0) if len(pairs) else pairs

    def allowed(self, node: Ints, edge: Ints) -> NDArray[np.bool_]:
        """Which edges could be merged on their own, (E,)."""
        out = np.ones(len(edge), bool)
        if not self or not len(edge):
            return out
        state = Merging(self, node)
        touched = np.zeros(int(node.max()) + 1, bool)
        touched[node[self.rows][node[self.rows] >= 0]] = True
        for index in np.flatnonzero(touched[edge].any(1)):
            out[index] = state.compatible(int(edge[index, 0]), int(edge[index, 1]))
        return out

    def check(self, node: Ints, edge: Ints, taken: NDArray[np.bool_], weight: Floats) -> NDArray[np.bool_]:
        """Drop taken edges that together with better ones would contradict an answer, (E,)."""
        if not self or not taken.any():
            return taken
        total = int(node.max()) + 1
        links = np.concatenate([edge[taken], self.forced(node)])
        component = follow(links, np.ones(len(links), bool), total)
        spoken = node[self.rows]
        marked = np.zeros(int(component.max()) + 1, bool)
        marked[component[spoken[spoken >= 0]]] = True
        doubtful = np.flatnonzero(taken & marked[component[edge[:, 0]]])
        out = taken.copy()
        state = Merging(self, node)
        for index in doubtful[np.argsort(-weight[doubtful], kind="stable")]:
            out[index] = state.merge(int(edge[index, 0]), int(edge[index, 1]))
        return out

    def join(self, node: Ints) -> Ints:
        """Nodes of one person as one node. (N,) -> (N,); :meth:`check` has made sure that no frame is claimed twice."""
        pairs = self.forced(node)
        if not len(pairs):
            return node
        component = follow(pairs, np.ones(len(pairs), bool), int(node.max()) + 1)
        return np.where(node >= 0, component[node], -1)

    def absorb(self, node: Ints) -> None:
        """Tell the rest of the video who was joined here: people who share a node are one from now on."""
        order = self.rows[np.argsort(node[self.rows], kind="stable")]
        order = order[node[order] >= 0]
        for a, b in itertools.pairwise(order.tolist()):
            if node[a] == node[b]:
                self.people.join(self.person(a), self.person(b))


class Merging:
    """A union-find over nodes that refuses merges which contradict answers."""

    def __init__(self, guard: Guard, node: Ints) -> None:
        """Nodes that hold one person start as one group."""
        self.guard = guard
        self.order = np.argsort(node, kind="stable")
        self.start = np.searchsorted(node[self.order], np.arange(int(node.max(initial=-1)) + 2))
        self.parent: dict[int, int] = {}
        self.frames: dict[int, set[int]] = {}
        self.people: dict[int, set[int]] = {}
        home: dict[int, int] = {}
        for row in guard.rows.tolist():
            if node[row] >= 0:
                root, person = self.find(int(node[row])), guard.person(row)
                self.people[root].add(person)
                self.frames[root] |= guard.people.frames[person]
                self._join(home.setdefault(person, root), root)

    def find(self, node: int) -> int:
        """The group of a node."""
        if node not in self.parent:
            rows = self.order[self.start[node] : self.start[node + 1]]
            self.parent[node] = node
            self.frames[node] = set(self.guard.frame[rows].tolist())
            self.people[node] = set()
        root = node
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[node] != root:
            self.parent[node], node = root, self.parent[node]
        return root

    def _join(self, a: int, b: int) -> None:
        p, q = self.find(a), self.find(b)
        if p != q:
            self.parent[q] = p
            self.frames[p] |= self.frames.pop(q)
            self.people[p] |= self.people.pop(q)

    def compatible(self, a: int, b: int) -> bool:
        """Whether two nodes may be one person."""
        p, q = self.find(a), self.find(b)
        if p == q:
            return True
        if not self.frames[p].isdisjoint(self.frames[q]):
            return False
        return not self.guard.people.hostile(self.people[p], self.people[q])

    def merge(self, a: int, b: int) -> bool:
        """Join two nodes' groups if no answer speaks against it; whether it was done."""
        if not self.compatible(a, b):
            return False
        self._join(a, b)
        return True
