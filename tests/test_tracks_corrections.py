import numpy as np
import pytest

from spam_cvat.detections import VideoInfo
from spam_cvat.tracks import Tracks, spread_corrections

VIDEO = VideoInfo("straight", 100, 640, 480)
# Two tracks of 100 boxes, 20 x 50 pixels, drifting right; their detections are numbered in row order.
FRAMES = np.tile(np.arange(100), 2)
LEFT = np.concatenate([100.0 + np.arange(100), 400.0 + np.arange(100)])
TRACKS = Tracks.create(
    VIDEO,
    FRAMES,
    np.repeat([1, 2], 100),
    np.stack([LEFT, LEFT * 0 + 100, LEFT + 20, LEFT * 0 + 150], 1),
    detection=np.arange(200),
)


def shifted(row, pixels):
    return {row: tuple(float(v) for v in TRACKS.box[row] + np.array([pixels, 0, pixels, 0]))}


def test_a_correction_fades_out_over_its_reach():
    out = spread_corrections(TRACKS, shifted(50, 8.0), reach=10)
    moved = out.box[:100, 0] - TRACKS.box[:100, 0]
    assert moved[50] == pytest.approx(8)
    assert moved[45] == moved[55] == pytest.approx(4, abs=0.01)
    assert (moved[:41] == 0).all()
    assert (moved[60:] == 0).all()
    np.testing.assert_array_equal(out.box[100:], TRACKS.box[100:])


def test_between_corrections_the_shift_is_interpolated():
    out = spread_corrections(TRACKS, shifted(40, 4.0) | shifted(60, 8.0), reach=10)
    moved = out.box[:100, 0] - TRACKS.box[:100, 0]
    np.testing.assert_allclose(moved[40:61], np.linspace(4, 8, 21), atol=0.01)


def test_far_from_all_corrections_the_track_is_left_alone():
    out = spread_corrections(TRACKS, shifted(10, 4.0) | shifted(90, 4.0), reach=10)
    moved = out.box[:100, 0] - TRACKS.box[:100, 0]
    assert (moved[31:70] == 0).all()
    assert moved[15] == pytest.approx(4, abs=0.01)


def test_sizes_change_in_proportion_and_corrected_boxes_are_exact():
    wide = {50: (140.0, 90.0, 180.0, 190.0)}
    out = spread_corrections(TRACKS, wide, reach=10)
    np.testing.assert_allclose(out.box[50], wide[50])
    size = out.box[55, 2:] - out.box[55, :2]
    np.testing.assert_allclose(size, np.array([20, 50]) * np.sqrt(2), rtol=1e-4)


def test_rows_in_no_track_are_passed_over():
    assert spread_corrections(TRACKS, {500: (0.0, 0.0, 9.0, 9.0)}, reach=10) is TRACKS
    assert spread_corrections(TRACKS, {}, reach=10) is TRACKS
