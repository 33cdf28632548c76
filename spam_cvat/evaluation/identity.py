"""Identity scores (Ristani et al., 2016), equal to TrackEval's numbers: IDF1 and its parts.

In: a :class:`~spam_cvat.evaluation.pairing.Pairing`. Out: counts under the best one-to-one mapping of identities.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spam_cvat.evaluation.pairing import Pairing

THRESHOLD = 0.5
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Identity:
    """Counts of boxes that do, and do not, lie on their identity's partner."""

    idtp: int
    idfn: int
    idfp: int

    @property
    def idf1(self) -> float:
        """IDTP / (IDTP + (IDFP + IDFN) / 2)."""
        return self.idtp / max(1, self.idtp + (self.idfp + self.idfn) / 2)

    @property
    def idr(self) -> float:
        """Recall, IDTP / (IDTP + IDFN)."""
        return self.idtp / max(1, self.idtp + self.idfn)

    @property
    def idp(self) -> float:
        """Precision, IDTP / (IDTP + IDFP)."""
        return self.idtp / max(1, self.idtp + self.idfp)


def identity(pairing: Pairing) -> Identity:
    """Score one sequence: map identities one to one so that most boxes overlap (IoU >= 0.5, no rounding allowance).

    TrackEval solves an assignment over (G + T) x (G + T) of FN + FP, whose optimum is the mapping with the most shared
    boxes; that one falls apart into the connected groups of identities that ever overlap, which is what is solved here.
    """
    truth, tracker = pairing.truth, pairing.tracker
    width = len(tracker.count)
    keys = [np.zeros(0, np.int64)]
    for chunk in pairing.chunks():
        near = chunk.iou >= THRESHOLD
        keys.append(truth.id[chunk.truth[near]] * width + tracker.id[chunk.tracker[near]])
    pairs, shared = np.unique(np.concatenate(keys), return_counts=True)
    idtp = _best_mapping(*np.divmod(pairs, max(width, 1)), shared, (len(truth.count), width)) if len(pairs) else 0
    return Identity(idtp, len(truth) - idtp, len(tracker) - idtp)


def combine_identity(parts: Sequence[Identity]) -> Identity:
    """Several sequences as one: counts are added."""
    return Identity(*(sum(getattr(part, name) for part in parts) for name in ("idtp", "idfn", "idfp")))


def _best_mapping(row: Ids, column: Ids, shared: Ids, shape: tuple[int, int]) -> int:
    """The most shared boxes that a one-to-one mapping can have."""
    nodes = sum(shape)
    graph = coo_array((np.ones(len(row)), (row, column + shape[0])), shape=(nodes, nodes))
    count, group = connected_components(graph, directed=False)
    order = np.argsort(group[row], kind="stable")
    bounds = np.searchsorted(group[row][order], np.arange(count + 1))
    total = 0
    for start, stop in itertools.pairwise(bounds):
        mine = order[start:stop]
        if len(mine) == 0:
            continue
        rows, i = np.unique(row[mine], return_inverse=True)
        columns, j = np.unique(column[mine], return_inverse=True)
        matrix = np.zeros((len(rows), len(columns)))
        matrix[i, j] = shared[mine]
        total += int(matrix[linear_sum_assignment(matrix, maximize=True)].sum())
    return total
