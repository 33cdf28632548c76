"""Array operations over groups of rows: all pairs of two ranges, ranks and best alternatives within a group.

Everything is vectorised; a group is the rows that share a key.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

# Pairs looked at together: few enough that what is computed of them stays in the processor's cache.
PAIR_LIMIT = 30_000


def pair_ranges(start_a: Ints, count_a: Ints, start_b: Ints, count_b: Ints) -> tuple[NDArray[np.int64], ...]:
    """All pairs of row ranges a[k] x b[k]. Four (G,) arrays -> two (P,) row arrays.

    >>> pair_ranges(np.array([0]), np.array([2]), np.array([5]), np.array([2]))
    (array([0, 0, 1, 1]), array([5, 6, 5, 6]))
    """
    row = spread_ranges(start_a, count_a)
    group = np.repeat(np.arange(len(count_a)), count_a)
    return np.repeat(row, count_b[group]), spread_ranges(start_b[group], count_b[group])


def spread_ranges(start: Ints, count: Ints) -> NDArray[np.int64]:
    """The rows of all ranges, one range after the other. Two (G,) arrays -> (P,) rows.

    >>> spread_ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    end = np.cumsum(count, dtype=np.int64)
    return np.arange(int(end[-1]) if len(end) else 0) + np.repeat(start - (end - count), count)


def batches(cost: Ints, limit: int) -> Iterator[slice]:
    """Slices over consecutive groups whose summed ``cost`` stays within ``limit`` (a single group may exceed it)."""
    total = np.cumsum(cost, dtype=np.int64)
    start = 0
    while start < len(cost):
        base = int(total[start - 1]) if start else 0
        stop = max(int(np.searchsorted(total, base + limit, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def chain_ends(pointer: Ints) -> NDArray[np.int64]:
    """Where each row's chain of pointers ends, by pointer jumping; a row that points at itself is an end. (N,) -> (N,).

    >>> chain_ends(np.array([0, 0, 1, 3]))
    array([0, 0, 0, 3])
    """
    end = np.asarray(pointer, np.int64)
    while not np.array_equal(jumped := end[end], end):
        end = jumped
    return end


def rank_in_group(key: Ints, value: Floats) -> NDArray[np.int64]:
    """Rank of each row's value within its group, from 0 for the smallest; ties by row. (E,), (E,) -> (E,)."""
    rank = np.empty(len(key), np.int64)
    order = np.lexsort((value, key))
    sorted_key = key[order]
    first = np.flatnonzero(np.diff(sorted_key, prepend=sorted_key[:1] - 1)) if len(key) else np.zeros(0, np.int64)
    count = np.diff(np.append(first, len(key)))
    rank[order] = np.arange(len(key)) - np.repeat(first, count)
    return rank


def among_best(key: Ints, value: Floats, number: int) -> NDArray[np.bool_]:
    """Which rows are among the ``number`` smallest of their group; ties by row. (E,), (E,) -> (E,)."""
    out = np.ones(len(key), bool)
    crowded = np.flatnonzero(np.bincount(key)[key] > number) if len(key) else np.zeros(0, np.int64)
    out[crowded] = rank_in_group(key[crowded], value[crowded]) < number
    return out


def smallest_in_group(key: Ints, value: Floats) -> NDArray[np.bool_]:
    """Which row of each group has its smallest value; ties by row. (E,), (E,) -> (E,), one row a group."""
    out = np.zeros(len(key), bool)
    if len(key):
        lowest = np.full(int(key.max()) + 1, np.inf)
        np.minimum.at(lowest, key, value)
        row = np.flatnonzero(value == lowest[key])
        out[row[np.unique(key[row], return_index=True)[1]]] = True
    return out


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


def mean_of_joined(value: Floats, before: Ints, after: Ints) -> NDArray[np.float64]:
    """Values of groups that were joined: the mean of those of the former groups, each weighted by its rows.

    Args:
        value: (T,) of the former groups.
        before: (N,) former group of each row, -1 for none.
        after: (N,) its present group, 0 .. G - 1, or -1.

    Returns:
        (G,) values.
    """
    rows = (before >= 0) & (after >= 0)
    home = np.zeros(len(value), np.int64)
    home[before[rows]] = after[rows]
    weight = np.bincount(before[rows], minlength=len(value)).astype(np.float64)
    groups = int(after.max(initial=-1)) + 1
    return group_sum(home, value * weight, groups) / np.maximum(group_sum(home, weight, groups), 1)


def compact(labels: Ints) -> NDArray[np.int64]:
    """Labels renumbered 0, 1, ... in the order of their first row; negative labels stay -1."""
    out = np.full(len(labels), -1, np.int64)
    rows = np.flatnonzero(labels >= 0)
    _, first, inverse = np.unique(labels[rows], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    out[rows] = rank[inverse]
    return out
