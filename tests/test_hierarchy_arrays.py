"""Array operations, rounding and marginals of the hierarchy against plain loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.hierarchy import network
from spam_cvat.hierarchy.assignment import follow, marginals, round_links
from spam_cvat.hierarchy.calibration import expected_calibration_error, fit_platt, sigmoid
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.graph import adjacent_pairs
from spam_cvat.hierarchy.grouping import (
    among_best,
    batches,
    best_alternative,
    compact,
    pair_ranges,
    rank_in_group,
    smallest_in_group,
)
from spam_cvat.hierarchy.motion_fit import Members
from spam_cvat.hierarchy.network import GraphNetwork, NetworkConfig


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
    assert among_best(key, value, 2).tolist() == (rank < 2).tolist()
    assert smallest_in_group(key, value).tolist() == (rank == 0).tolist()
    for i in range(len(rows)):
        rest = [value[j] for j in range(len(rows)) if j != i and key[j] == key[i]]
        assert other[i] == min(rest, default=99.0)
        assert rank[i] == sum((value[j], j) < (value[i], i) for j in range(len(rows)) if key[j] == key[i])


def test_only_pairs_that_could_be_the_better_pairing_are_candidates() -> None:
    """Two people 0.5 heights apart stand still; a third jumps by as much and has nobody nearer."""
    left = np.array([100.0, 150, 400, 100, 150, 450])
    box = np.stack([left, np.full(6, 50.0), left + 40, np.full(6, 150.0)], axis=1).astype(np.float32)
    video = VideoInfo("pairs", 2, 640, 480, 30.0)
    detections = Detections.create(video, np.repeat([0, 1], 3), box, np.tile([0.9, 0.8, 0.7], 2))
    pairs = adjacent_pairs(Clip.create(detections, None))
    assert pairs.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_values_of_a_tracklet_are_put_together() -> None:
    members = Members.of(np.array([1, 0, -1, 1]))
    value = np.array([1.0, 5.0, 9.0, 3.0])[members.row]
    assert members.over(np.add, value).tolist() == [5, 4]
    assert members.over(np.maximum, value).tolist() == [5, 3]
    assert Members.of(np.full(3, -1)).over(np.minimum, np.zeros(0)).tolist() == []


def test_labels_are_compacted_in_the_order_of_their_first_row() -> None:
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


def test_edges_worked_on_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = GraphNetwork(NetworkConfig(node_features=5, edge_features=7))
    x, attr = torch.randn(40, 5), torch.randn(300, 7)
    edge = torch.randint(0, 40, (2, 300)).sort(0).values
    with torch.inference_mode():
        whole = net(x, edge, attr)
        monkeypatch.setattr(network, "BLOCK", 64)
        blocks = net(x, edge, attr)
        none = net(x, edge[:, :0], attr[:0])
    torch.testing.assert_close(blocks, whole)
    assert [len(part) for part in none] == [40, 0]
