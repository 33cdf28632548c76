import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tracks

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks, concatenate, interpolate, keyframes

VIDEO = VideoInfo("clip", 30, 640, 480, 25)


def walk(frames, track=1, **more):
    frames = np.asarray(frames)
    box = np.stack([2.0 * frames, 0 * frames + 50, 2.0 * frames + 20, 0 * frames + 100], 1)
    return Tracks.create(VIDEO, frames, np.full(len(frames), track), box, **more)


def assert_valid(table):
    """Sorted, and at most one box of a track in a frame."""
    order = np.lexsort((table.frame, table.track))
    np.testing.assert_array_equal(order, np.arange(len(table)))
    cells = np.stack([table.track, table.frame], 1)
    assert len(np.unique(cells, axis=0)) == len(table)


@settings(max_examples=60, deadline=None)
@given(tracks(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 12))
def test_whatever_is_done_a_track_has_one_box_in_a_frame(table, first, second, frame):
    assert_valid(table)
    assert_valid(table.merge(first, second))
    assert_valid(table.relabelled())
    assert_valid(interpolate(table))
    assert_valid(table.window(0, frame))
    if first in table.ids:
        assert_valid(table.split(first, frame))


@pytest.mark.parametrize(
    ("frame", "track", "box", "label", "reason"),
    [
        (30, 1, [0, 0, 5, 5], 0, r"row 1 \(frame 30, track 1\): frame is outside 0\.\.29"),
        (1, 0, [0, 0, 5, 5], 0, "track id is below 1"),
        (1, 1, [0, 0, np.nan, 5], 0, "box is not finite"),
        (1, 1, [0, 0, 0, 5], 0, "box has no area"),
        (1, 1, [0, 0, 5, 5], 1, r"label is not one of \['person'\]"),
        (0, 1, [0, 0, 5, 5], 0, "the track has another box in this frame"),
    ],
)
def test_a_bad_row_is_refused_by_number_and_reason(frame, track, box, label, reason):
    with pytest.raises(InputError, match=reason):
        Tracks.create(VIDEO, [0, frame], [1, track], [[0, 0, 5, 5], box], label=[0, label])


def test_columns_of_different_length_are_refused():
    with pytest.raises(InputError, match="different length"):
        Tracks.create(VIDEO, [0, 1], [1], [[0, 0, 5, 5]])


def test_rows_of_a_track():
    table = concatenate([walk([0, 1], 3), walk([4], 7)])
    assert table.ids.tolist() == [3, 7]
    assert table.rows(7) == slice(2, 3)
    assert table.rows(5) == slice(2, 2)


@settings(max_examples=60, deadline=None)
@given(tracks(), st.integers(0, 12))
def test_merging_what_was_split_gives_the_track_back(table, frame):
    for track in table.ids.tolist():
        back = table.split(track, frame, new_id=99).merge(track, 99)
        for name in ("frame", "track", "box", "score", "detection"):
            np.testing.assert_array_equal(getattr(back, name), getattr(table, name))


def test_splitting_names_what_is_wrong():
    with pytest.raises(InputError, match="no track 5 to split"):
        walk([0, 1]).split(5, 1)
    with pytest.raises(InputError, match="identity 1 is taken"):
        walk([0, 1]).split(1, 1, new_id=1)


def test_merging_keeps_the_first_tracks_box_where_both_have_one():
    both = concatenate([walk([0, 1, 2], 1, score=[0.1, 0.1, 0.1]), walk([2, 3], 2, score=[0.9, 0.9])])
    for first, second, scores in ((1, 2, [0.1, 0.1, 0.1, 0.9]), (2, 1, [0.1, 0.1, 0.9, 0.9])):
        merged = both.merge(first, second)
        assert merged.ids.tolist() == [first]
        np.testing.assert_allclose(merged.score, scores)


@settings(max_examples=60, deadline=None)
@given(tracks())
def test_relabelling_counts_from_1_in_order_of_appearance_and_keeps_the_partition(table):
    new = table.relabelled()
    assert new.ids.tolist() == list(range(1, len(table.ids) + 1))
    starts = new.frame[new.track_start[:-1]]
    assert (np.diff(starts) >= 0).all()

    def partition(these):
        return {frozenset((f, tuple(b)) for f, b in zip(these.frame[s].tolist(), these.box[s].tolist(), strict=True))
                for s in map(these.rows, these.ids.tolist())}  # fmt: skip

    assert partition(new) == partition(table)


def test_gaps_are_filled_along_a_line():
    filled = interpolate(walk([0, 1, 5], score=[1, 0.8, 0.4], detection=[7, 8, 9]))
    assert filled.frame.tolist() == [0, 1, 2, 3, 4, 5]
    assert filled.box[:, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert filled.detection.tolist() == [7, 8, -1, -1, -1, 9]
    np.testing.assert_allclose(filled.score[2:5], 0.2)


def test_only_gaps_short_enough_are_filled_and_none_between_tracks():
    assert len(interpolate(walk([0, 4, 9]), max_gap=4)) == 3 + 3
    two = concatenate([walk([0], 1), walk([9], 2)])
    assert interpolate(two) is two


@settings(max_examples=60, deadline=None)
@given(tracks())
def test_interpolation_fills_every_gap_and_changes_no_given_box(table):
    filled = interpolate(table)
    for track in table.ids.tolist():
        frames = filled.frame[filled.rows(track)]
        assert (np.diff(frames) == 1).all()
    given_cells = {(t, f): tuple(b) for t, f, b in zip(table.track, table.frame, table.box, strict=True)}
    found = {(t, f): tuple(b) for t, f, b in zip(filled.track, filled.frame, filled.box, strict=True)}
    assert given_cells.items() <= found.items()
    again = interpolate(filled)
    assert again is filled


@settings(max_examples=80, deadline=None)
@given(tracks(max_frames=25, max_tracks=2), st.floats(0.1, 50), st.floats(0, 0.2))
def test_boxes_between_keyframes_stay_within_the_tolerance(table, pixels, relative):
    keep = keyframes(table, pixels, relative)
    size = (table.box[:, 2:] - table.box[:, :2]).min(1, initial=np.inf)
    for track in table.ids.tolist():
        rows = np.arange(len(table))[table.rows(track)]
        kept = rows[keep[rows]]
        line = np.stack([np.interp(table.frame[rows], table.frame[kept], table.box[kept, k]) for k in range(4)], 1)
        error = np.abs(line - table.box[rows]).max(1)
        assert (error <= np.maximum(pixels, relative * size[rows]) * (1 + 1e-4) + 1e-3).all()


def test_ends_and_edges_of_gaps_are_keyframes_and_a_straight_walk_needs_no_more():
    assert np.flatnonzero(keyframes(walk(range(20)))).tolist() == [0, 19]
    assert np.flatnonzero(keyframes(walk([*range(5), *range(9, 15)]))).tolist() == [0, 4, 5, 10]
    assert keyframes(Tracks.empty(VIDEO)).tolist() == []


def test_a_change_of_label_is_a_keyframe():
    table = walk(range(6), label=[0, 0, 0, 1, 1, 1], labels=("person", "car"))
    assert np.flatnonzero(keyframes(table)).tolist() == [0, 2, 3, 5]


def test_the_same_identity_twice_in_a_frame_cannot_be_concatenated():
    with pytest.raises(InputError, match="another box in this frame"):
        concatenate([walk([0, 1]), walk([1, 2])])


def test_nothing_is_a_table_too():
    table = Tracks.empty(VIDEO)
    assert (len(table), len(table.ids), len(table.relabelled()), len(interpolate(table))) == (0, 0, 0, 0)
