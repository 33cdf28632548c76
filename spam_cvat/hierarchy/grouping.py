"""Array operations over groups of rows: all pairs of two ranges, ranks and best alternatives within a group.

Everything is vectorised; a group is the rows that share a key.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]


def pair_ranges(start_a: Ints, count_a: Ints, start_b: Ints, count_b: Ints) -> tuple[NDArray[np.int64], ...]:
    """All pairs of row ranges a[k] x b[k]. Four (G,) arrays -> two (P,) row arrays.

    >>> pair_ranges(np.array([0]), np.array([2]), np.array([5]), np.array([2]))
    (array([0, 0, 1, 1]), array([5, 6, 5, 6]))
    """
    pairs = (count_a * count_b).astype(np.int64)
    group = np.repeat(np.arange(len(pairs)), pairs)
    offset = np.arange(int(pairs.sum())) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    width = np.maximum(count_b[group], 1)
    return start_a[group] + offset // width, start_b[group] + offset % width


def batches(cost: Ints, limit: int) -> Iterator[slice]:
    """Slices over consecutive groups whose summed ``cost`` stays within ``limit`` (a single group may exceed it)."""
    total = np.cumsum(cost, dtype=np.int64)
    start = 0
    while start < len(cost):
        base = int(total[start - 1]) if start else 0
        stop = max(int(np.searchsorted(total, base + limit, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def rank_in_group(key: Ints, value: Floats) -> NDArray[np.int64]:
    """Rank of each row's value within its group, from 0 for the smallest; ties by row. (E,), (E,) -> (E,)."""
    rank = np.empty(len(key), np.int64)
    order = np.lexsort((value, key))
    sorted_key = key[order]
    first = np.flatnonzero(np.diff(sorted_key, prepend=sorted_key[:1] - 1)) if len(key) else np.zeros(0, np.int64)
    count = np.diff(np.append(first, len(key)))
    rank[order] = np.arange(len(key)) - np.repeat(first, count)
    return rank


def best_alternative(key: Ints, value: Floats, missing: float) -> tuple[NDArray[np.int64], Floats]:
    """Each row's rank in its group, and the smallest value among the group's other rows (``missing`` where alone)."""
    n = len(key)
    if not n:
        return np.zeros(0, np.int64), np.zeros(0, value.dtype)
    order = np.lexsort((value, key))
    sorted_key, sorted_value = key[order], value[order]
    first = np.flatnonzero(np.diff(sorted_key, prepend=sorted_key[:1] - 1))
    count = np.diff(np.append(first, n))
    second = np.where(count > 1, sorted_value[np.minimum(first + 1, n - 1)], missing)
    group = np.repeat(np.arange(len(first)), count)
    rank_sorted = np.arange(n) - first[group]
    alternative = np.where(rank_sorted == 0, second[group], sorted_value[first][group])
    rank, other = np.empty(n, np.int64), np.empty(n, value.dtype)
    rank[order], other[order] = rank_sorted, alternative
    return rank, other


def group_sum(key: Ints, value: Floats, groups: int) -> NDArray[np.float64]:
    """Sum of the values of each group 0 .. groups - 1. (E,), (E,) -> (groups,)."""
    return np.bincount(key, weights=value, minlength=groups).astype(np.float64)


def group_extreme(key: Ints, value: Floats, groups: int, empty: float, largest: bool = True) -> NDArray[np.float64]:
    """Largest (or smallest) value of each group, ``empty`` for a group without rows."""
    out = np.full(groups, empty, np.float64)
    order = np.lexsort((value if largest else -value, key))
    out[key[order]] = value[order]  # the last write wins, and it is the extreme one
    return out


def compact(labels: Ints) -> NDArray[np.int64]:
    """Labels renumbered 0, 1, ... in the order of their first row; negative labels stay -1."""
    out = np.full(len(labels), -1, np.int64)
    rows = np.flatnonzero(labels >= 0)
    _, first, inverse = np.unique(labels[rows], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    out[rows] = rank[inverse]
    return out
