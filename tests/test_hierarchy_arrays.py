"""Array operations, rounding and marginals of the hierarchy against plain loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_cvat.hierarchy.assignment import follow, marginals, round_links
from spam_cvat.hierarchy.calibration import expected_calibration_error, fit_platt, sigmoid
from spam_cvat.hierarchy.grouping import batches, best_alternative, compact, group_extreme, pair_ranges, rank_in_group


def test_pairs_of_ranges_are_all_pairs() -> None:
    a, b = pair_ranges(np.array([0, 5]), np.array([2, 1]), np.array([10, 20]), np.array([1, 3]))
    assert list(zip(a, b, strict=True)) == [(0, 10), (1, 10), (5, 20), (5, 21), (5, 22)]


def test_batches_cover_everything_once_and_stay_small() -> None:
    cost = np.array([3, 4, 9, 1, 1, 1])
    slices = list(batches(cost, 8))
    assert np.concatenate([np.arange(6)[s] for s in slices]).tolist() == list(range(6))
    assert all(cost[s].sum() <= 8 or s.stop - s.start == 1 for s in slices)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=30))
def test_ranks_and_alternatives_agree_with_a_loop(rows: list[tuple[int, int]]) -> None:
    key = np.array([k for k, _ in rows], np.int64)
    value = np.array([v for _, v in rows], np.float64)
    rank, other = best_alternative(key, value, 99.0)
    assert rank.tolist() == rank_in_group(key, value).tolist()
    for i in range(len(rows)):
        rest = [value[j] for j in range(len(rows)) if j != i and key[j] == key[i]]
        assert other[i] == min(rest, default=99.0)
        assert rank[i] == sum((value[j], j) < (value[i], i) for j in range(len(rows)) if key[j] == key[i])


def test_group_extremes_and_compact_labels() -> None:
    key = np.array([2, 0, 2])
    assert group_extreme(key, np.array([1.0, 5.0, 3.0]), 3, -1.0).tolist() == [5, -1, 3]
    assert group_extreme(key, np.array([1.0, 5.0, 3.0]), 3, -1.0, largest=False).tolist() == [5, -1, 1]
    assert compact(np.array([7, -1, 3, 7])).tolist() == [0, -1, 1, 0]


@st.composite
def edges_with_weights(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    pairs = draw(st.sets(st.tuples(st.integers(0, 3), st.integers(4, 7)), max_size=9))
    weights = draw(st.lists(st.integers(-20, 50), min_size=len(pairs), max_size=len(pairs)))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2), np.array(weights, np.float64) / 10


@given(edges_with_weights())
def test_rounding_is_the_best_matching(case: tuple[np.ndarray, np.ndarray]) -> None:
    edge, weight = case
    taken = round_links(edge, weight, 8)
    assert len(set(edge[taken, 0])) == len(set(edge[taken, 1])) == taken.sum()
    best = 0.0
    for size in range(len(edge) + 1):
        for subset in itertools.combinations(range(len(edge)), size):
            chosen = edge[list(subset)]
            if len(set(chosen[:, 0])) == len(set(chosen[:, 1])) == size:
                best = max(best, weight[list(subset)].sum())
    assert weight[taken].sum() == pytest.approx(best)


@settings(max_examples=50)
@given(edges_with_weights())
def test_marginals_are_near_the_exact_ones(case: tuple[np.ndarray, np.ndarray]) -> None:
    edge, weight = case
    total, mass = 0.0, np.zeros(len(edge))
    for size in range(len(edge) + 1):
        for subset in itertools.combinations(range(len(edge)), size):
            chosen = edge[list(subset)]
            if len(set(chosen[:, 0])) == len(set(chosen[:, 1])) == size:
                odds = np.exp(weight[list(subset)].sum())
                total += odds
                mass[list(subset)] += odds
    got = marginals(edge, weight, 8)
    # Belief propagation is exact on trees and near it with loops, less so where long loops are all but certain.
    assert np.abs(got - mass / total).max(initial=0) < 0.35


def test_marginals_of_a_tree_are_exact() -> None:
    edge, logit = np.array([[0, 1], [0, 2], [3, 2]]), np.array([1.0, 0.5, 2.0])
    a, b, c = np.exp(logit)
    total = 1 + a + b + c + a * c
    expected = np.array([a + a * c, b, c + a * c]) / total
    np.testing.assert_allclose(marginals(edge, logit, 4), expected, atol=1e-3)


def test_components_are_numbered_by_their_first_node() -> None:
    edge = np.array([[3, 4], [0, 2], [1, 3]])
    assert follow(edge, np.array([True, True, False]), 5).tolist() == [0, 1, 0, 2, 2]


def test_platt_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    true_logit = rng.normal(0, 1.5, 20_000)
    truth = rng.random(20_000) < sigmoid(true_logit)
    slope, offset = fit_platt(3 * true_logit + 1, truth)
    assert slope == pytest.approx(1 / 3, abs=0.03)
    assert offset == pytest.approx(-1 / 3, abs=0.06)
    assert expected_calibration_error(sigmoid(slope * (3 * true_logit + 1) + offset), truth) < 0.02
    assert expected_calibration_error(sigmoid(3 * true_logit + 1), truth) > 0.08
