import numpy as np
import pytest

from spam_cvat.detections import VideoInfo
from spam_cvat.evaluation.matching import cover, match_boxes
from spam_cvat.tracks import Tracks

VIDEO = VideoInfo("street", 10, 200, 100, 10.0)


def _tracks(rows: list[tuple[int, int, float]]) -> Tracks:
    """Rows of frame, identity and left edge; boxes are 20 wide and 40 high."""
    frame, track, left = (list(column) for column in zip(*rows, strict=True))
    return Tracks.create(VIDEO, frame, track, [[x, 30, x + 20, 70] for x in left])


@pytest.fixture(scope="module")
def truth() -> Tracks:
    return _tracks([(k, 1, 10 + 5 * k) for k in range(10)] + [(k, 2, 140 - 5 * k) for k in range(10)])


@pytest.fixture(scope="module")
def swapped() -> Tracks:
    """Follows person 1 as 7, loses him in frame 4, and follows him on as 9; person 2 is 8 from frame 5 on."""
    first = [(k, 7 if k < 4 else 9, 10 + 5 * k) for k in range(10) if k != 4]
    return _tracks(first + [(k, 8, 140 - 5 * k) for k in range(5, 10)])


def test_matching_takes_as_many_pairs_as_it_can() -> None:
    mine = np.array([[0.0, 0, 10, 10], [0, 0, 10, 13]])
    theirs = np.array([[0.0, 0, 10, 11], [0, 0, 10, 7]])
    zero = np.zeros(2, np.int64)
    # The best single pair (0, 0) would leave box 1 without a partner.
    assert match_boxes(zero, mine, zero, theirs, threshold=0.6).tolist() == [1, 0]


def test_matching_keeps_frames_apart_whatever_their_order() -> None:
    box = np.array([[0.0, 0, 10, 10]] * 3)
    assert match_boxes(np.array([2, 0, 1]), box, np.array([1, 2, 5]), box).tolist() == [1, -1, 0]
    none = np.zeros(0, np.int64)
    assert match_boxes(np.array([2]), box[:1], none, np.zeros((0, 4))).tolist() == [-1]
    assert match_boxes(none, np.zeros((0, 4)), none, np.zeros((0, 4))).tolist() == []


def test_a_track_stands_for_the_person_it_covers_longest(truth: Tracks, swapped: Tracks) -> None:
    coverage = cover(truth, swapped)
    assert coverage.owner == {9: 1, 8: 2}
    right = coverage.right(truth.track)
    assert right[truth.track == 1].tolist() == [False] * 5 + [True] * 5
    assert coverage.track[truth.track == 1].tolist() == [7, 7, 7, 7, 0, 9, 9, 9, 9, 9]


def test_no_tracks_cover_nobody(truth: Tracks) -> None:
    coverage = cover(truth, Tracks.empty(VIDEO))
    assert coverage.owner == {}
    assert not coverage.right(truth.track).any()
