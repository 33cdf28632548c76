import numpy as np
import pytest
from two_people import VIDEO, swapped_tracks, true_tracks

from spam_cvat.evaluation.matching import cover, match_boxes
from spam_cvat.tracks import Tracks


@pytest.fixture(scope="module")
def truth() -> Tracks:
    return true_tracks()


@pytest.fixture(scope="module")
def swapped() -> Tracks:
    return swapped_tracks()


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
