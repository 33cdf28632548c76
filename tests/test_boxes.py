import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import boxes as make_boxes

from spam_cvat import boxes

UNIT = np.array([[0.0, 0, 10, 10]])


def test_the_examples_in_the_docs_hold():
    assert doctest.testmod(boxes, extraglobs={"np": np}).failed == 0


@settings(max_examples=50, deadline=None)
@given(make_boxes(5))
def test_corners_and_sizes_convert_both_ways(table):
    table = table.astype(np.float64)
    np.testing.assert_allclose(boxes.xywh_to_xyxy(boxes.xyxy_to_xywh(table)), table, atol=1e-9)


@pytest.mark.parametrize(
    ("other", "iou", "giou"),
    [
        ([0, 0, 10, 10], 1, 1),
        ([5, 0, 15, 10], 1 / 3, 1 / 3),  # the hull is the union
        ([5, 5, 15, 15], 25 / 175, 25 / 175 - 50 / 225),
        ([10, 0, 20, 10], 0, 0),  # touching
        ([30, 0, 40, 10], 0, -0.5),  # the hull is twice the union
        ([3, 3, 3, 9], 0, 0),  # no area, inside
    ],
)
def test_overlaps_of_known_boxes(other, iou, giou):
    other = np.array([other], float)
    assert boxes.iou_pairs(UNIT, other)[0] == pytest.approx(iou)
    assert boxes.iou_matrix(UNIT, other)[0, 0] == pytest.approx(iou)
    assert boxes.giou_pairs(UNIT, other)[0] == pytest.approx(giou)


def test_boxes_without_area_overlap_nothing():
    flat = np.array([[5.0, 5, 5, 5]])
    assert boxes.iou_pairs(flat, flat)[0] == 0
    assert boxes.area(np.array([[5.0, 5, 3, 9]]))[0] == 0


@settings(max_examples=50, deadline=None)
@given(make_boxes(4), make_boxes(4))
def test_overlap_is_symmetric_bounded_and_the_same_for_pairs_and_matrices(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    matrix = boxes.iou_matrix(a, b)
    np.testing.assert_allclose(matrix, boxes.iou_matrix(b, a).T)
    np.testing.assert_allclose(np.diag(matrix), boxes.iou_pairs(a, b))
    assert ((matrix >= 0) & (matrix <= 1 + 1e-9)).all()
    giou = boxes.giou_pairs(a, b)
    assert ((giou > -1 - 1e-9) & (giou <= boxes.iou_pairs(a, b) + 1e-9)).all()


def test_clipping_cuts_to_the_image_and_empties_what_lies_outside():
    table = np.array([[-5.0, -5, 5, 5], [90, 40, 120, 70], [200, 200, 210, 210]])
    clipped = boxes.clip_boxes(table, 100, 50)
    assert clipped.tolist() == [[0, 0, 5, 5], [90, 40, 100, 50], [100, 50, 100, 50]]
    assert boxes.area(clipped)[2] == 0


def test_a_warp_moves_the_centre_and_scales_the_size():
    table = np.array([[0.0, 0, 10, 20]])
    shift = np.array([[1.0, 0, 7], [0, 1, -3]])
    assert boxes.warp_boxes(table, shift).tolist() == [[7, -3, 17, 17]]
    double = np.array([[2.0, 0, 0], [0, 2, 0]])
    assert boxes.warp_boxes(table, double).tolist() == [[0, 0, 20, 40]]
    np.testing.assert_allclose(boxes.warp_boxes(np.repeat(table, 2, 0), np.stack([shift, double]))[1], [0, 0, 20, 40])


@settings(max_examples=50, deadline=None)
@given(make_boxes(3), st.floats(-0.2, 0.2), st.floats(0.8, 1.25), st.floats(-50, 50))
def test_a_turn_of_the_camera_does_not_grow_boxes(table, angle, scale, shift):
    table = table.astype(np.float64)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    there = np.array([[cos, -sin, shift], [sin, cos, -shift]])
    back = np.linalg.inv(np.vstack([there, [0, 0, 1]]))[:2]
    moved = boxes.warp_boxes(table, there)
    np.testing.assert_allclose(boxes.area(moved), boxes.area(table) * scale**2, rtol=1e-6)
    np.testing.assert_allclose(boxes.warp_boxes(moved, back), table, atol=1e-6)


def test_nms_keeps_the_best_of_overlapping_boxes():
    table = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10]])
    assert boxes.nms(table, np.array([0.5, 0.9, 0.1, 0.9]), 0.5).tolist() == [1, 2]
    assert boxes.nms(table, np.array([0.5, 0.9, 0.1, 0.9]), 0.95).tolist() == [1, 3, 2]
    assert boxes.nms(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []
