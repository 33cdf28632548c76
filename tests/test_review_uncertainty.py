import numpy as np
import pytest
from review_scenes import annotated, detected, lane, people

from spam_cvat.annotation import UNKNOWN_LINK, Level, candidate_edges
from spam_cvat.answers import Answer, Clamps, resolve
from spam_cvat.review.uncertainty import (
    binary_entropy,
    gate_entropy,
    join_gain,
    links,
    node_entropy,
    real_probability,
    row_entropy,
)

DETECTIONS = detected(people())


def test_entropy_is_largest_at_even_odds_and_symmetric():
    p = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    np.testing.assert_allclose(binary_entropy(p), [0, 0.468996, 1, 0.468996, 0], atol=1e-6)


def test_a_node_is_as_uncertain_as_its_most_uncertain_edge():
    level = Level(
        2,
        np.array([0, 1, 2, -1], np.int32),
        np.array([[0, 1], [0, 2]], np.int32),
        np.array([0.9, 0.5], np.float32),
        np.array([0.9, 0.5], np.float32),
        np.array([True, False]),
    )
    np.testing.assert_allclose(node_entropy(level), [1.0, 0.468996, 1.0], atol=1e-5)


def test_rows_take_the_larger_of_gate_and_links():
    rows = lane(DETECTIONS, 0)
    gate = np.full(len(DETECTIONS), 0.99)
    gate[rows[5]] = 0.5
    annotation = annotated(DETECTIONS, [rows], weak={(rows[10], rows[11]): 0.5}, gate=gate)
    entropy = row_entropy(annotation)
    assert entropy[rows[5]] == pytest.approx(1)
    assert entropy[[rows[10], rows[11]]] == pytest.approx([1, 1])
    assert entropy[rows[30]] == pytest.approx(gate_entropy(annotation)[rows[30]])


def test_links_take_their_belief_from_the_edges():
    rows = lane(DETECTIONS, 0)
    annotation = annotated(DETECTIONS, [rows[:30], rows[30:]], weak={(rows[3], rows[4]): 0.6})
    found = links(annotation, candidate_edges(annotation.levels), Clamps.none(len(DETECTIONS)))
    assert len(found.earlier) == 58
    assert found.probability[3] == pytest.approx(0.6)
    assert found.probability[4] > 0.99


def test_links_without_an_edge_are_believed_a_little_and_answered_ones_fully():
    rows = lane(DETECTIONS, 0)
    annotation = annotated(DETECTIONS, [rows[:30]])
    bare = annotated(DETECTIONS, [[rows[0], rows[9]]])
    clamps = resolve([Answer("same", (int(DETECTIONS.id[rows[3]]), int(DETECTIONS.id[rows[4]])))], DETECTIONS)
    edges = candidate_edges(annotation.levels)
    assert links(bare, edges, clamps).probability.tolist() == [UNKNOWN_LINK]
    assert links(annotation, edges, clamps).probability[3] == 1


def test_the_highest_level_speaks_for_a_pair():
    rows = lane(DETECTIONS, 0)
    annotation = annotated(DETECTIONS, [rows], weak={(rows[3], rows[4]): 0.6})
    node = np.arange(len(DETECTIONS), dtype=np.int32)
    pair = np.array([[rows[3], rows[4]]], np.int32)
    p = np.array([0.8], np.float32)
    higher = Level(4, node, pair, p, p, np.array([True]))
    annotation = type(annotation)(DETECTIONS, annotation.gate, (*annotation.levels, higher), annotation.tracks)
    edges = candidate_edges(annotation.levels)
    assert edges.lookup(np.array([rows[3]]), np.array([rows[4]])) == pytest.approx(0.8)
    assert np.isnan(edges.lookup(np.array([rows[3]]), np.array([rows[9]]))).all()


def test_edges_of_tracklets_are_pairs_of_their_outer_boxes():
    first, second = lane(DETECTIONS, 0, 0, 10), lane(DETECTIONS, 0, 12, 20)
    node = np.full(len(DETECTIONS), -1, np.int32)
    node[first], node[second] = 0, 1
    p = np.array([0.7], np.float32)
    level = Level(32, node, np.array([[0, 1]], np.int32), p, p, np.array([True]))
    annotation = annotated(DETECTIONS, [first + second])
    annotation = type(annotation)(DETECTIONS, annotation.gate, (level,), annotation.tracks)
    edges = candidate_edges(annotation.levels)
    assert (edges.last.tolist(), edges.first.tolist()) == ([first[-1]], [second[0]])


def test_humans_overrule_the_gate():
    annotation = annotated(DETECTIONS, [lane(DETECTIONS, 0)], gate=np.full(len(DETECTIONS), 0.4))
    clamps = resolve(
        [Answer("accept", (int(DETECTIONS.id[0]),)), Answer("reject", (int(DETECTIONS.id[1]),))], DETECTIONS
    )
    assert real_probability(annotation, clamps)[:3] == pytest.approx([1, 0, 0.4])


@pytest.mark.parametrize(("n", "m", "boxes"), [(10, 10, 10), (1, 99, 1.98), (0, 5, 0), (100, 100, 100)])
def test_joining_gains_twice_the_harmonic_share(n, m, boxes):
    assert join_gain(n, m) == pytest.approx(boxes)
