import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import detections

from spam_cvat.detections import LEAST_SUREST, SUREST, Detections, VideoInfo, comparable, detection_ids, score_scale
from spam_cvat.errors import InputError

VIDEO = VideoInfo("clip", 10, 640, 480, 25)
BOX = [0.0, 0.0, 10.0, 20.0]
IDS = ["4ea1a596251778c2", "2e587ca25316bdc2"]


def test_rows_are_sorted_by_frame_and_falling_score():
    table = Detections.create(VIDEO, [3, 1, 1], [BOX, BOX, [5, 5, 9, 9]], [0.5, 0.2, 0.9], embedding=np.eye(3))
    assert table.frame.tolist() == [1, 1, 3]
    np.testing.assert_allclose(table.score, [0.9, 0.2, 0.5])
    assert table.embedding.argmax(1).tolist() == [2, 1, 0]


def test_the_same_box_of_a_frame_stays_once_with_its_best_score():
    table = Detections.create(VIDEO, [1, 1, 2], [BOX, BOX, BOX], [0.2, 0.9, 0.3])
    assert table.frame.tolist() == [1, 2]
    np.testing.assert_allclose(table.score, [0.9, 0.3])


BAD = [
    ({"frame": [10]}, r"frame is outside 0\.\.9"),
    ({"frame": [-1]}, r"frame is outside 0\.\.9"),
    ({"box": [[0, 0, np.nan, 5]]}, "box is not finite"),
    ({"box": [[0, 0, np.inf, 5]]}, "box is not finite"),
    ({"box": [[0, 0, 1e9, 5]]}, "box is not finite"),
    ({"box": [[5, 0, 5, 5]]}, "box has no area"),
    ({"box": [[5, 0, 3, 5]]}, "box has no area"),
    ({"score": [1.2]}, r"score is outside 0\.\.1"),
    ({"score": [np.nan]}, r"score is outside 0\.\.1"),
    ({"label": [1]}, r"label is not one of \['person'\]"),
]


@pytest.mark.parametrize(("wrong", "reason"), BAD)
def test_a_bad_row_is_refused_by_number_and_reason_or_dropped_on_demand(wrong, reason):
    row = {"frame": [1], "box": [BOX], "score": [0.5], "label": [0]} | wrong
    columns = {name: np.concatenate([[[0], [[1, 1, 5, 5]], [0.5], [0]][k], row[name]]) for k, name in enumerate(row)}
    with pytest.raises(InputError, match=rf"clip: detection 1 .*{reason}"):
        Detections.create(VIDEO, **columns)
    assert Detections.create(VIDEO, **columns, drop_bad=True).frame.tolist() == [0]


def test_columns_of_different_length_are_refused():
    with pytest.raises(InputError, match="columns of different length"):
        Detections.create(VIDEO, [0, 1], [BOX])
    with pytest.raises(InputError, match="3 embeddings for 1 detections"):
        Detections.create(VIDEO, [0], [BOX]).with_embedding(np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("wrong", [{"num_frames": -1}, {"width": 0}, {"height": -5}, {"fps": 0}, {"fps": float("nan")}])
def test_a_video_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError, match="is not a video"):
        VideoInfo(**({"name": "x", "num_frames": 1, "width": 2, "height": 2, "fps": 25} | wrong))


@settings(max_examples=60, deadline=None)
@given(detections(), st.randoms(use_true_random=False))
def test_ids_are_unique_and_do_not_depend_on_the_order_given(table, random):
    order = list(range(len(table)))
    random.shuffle(order)
    again = Detections.create(
        table.video, table.frame[order], table.box[order], table.score[order], table.label[order], table.labels
    )
    assert len(np.unique(table.id)) == len(table)
    assert set(again.id.tolist()) == set(table.id.tolist())


def test_ids_are_the_same_everywhere_and_forever():
    """A change here would orphan every answer that was ever given."""
    ids = detection_ids(np.array([0, 7]), np.array([[0.0, 0.0, 10.0, 20.0], [1.234, -5.5, 99.999, 480.0]]))
    assert [f"{value:016x}" for value in ids.tolist()] == IDS
    # A box that differs by less than a hundredth of a pixel is the same box.
    near = detection_ids(np.array([0]), np.array([[0.001, 0.0, 10.0, 20.0]]))
    assert near[0] == ids[0]


@settings(max_examples=40, deadline=None)
@given(detections())
def test_frames_partition_the_rows(table):
    seen = [row for _, rows in table.by_frame() for row in range(rows.start, rows.stop)]
    assert seen == list(range(len(table)))
    for frame, rows in table.by_frame():
        assert (table.frame[rows] == frame).all()


@settings(max_examples=40, deadline=None)
@given(detections(), st.integers(0, 9), st.integers(0, 9))
def test_a_window_holds_the_boxes_of_its_frames(table, a, b):
    start, stop = sorted((min(a, table.video.num_frames), min(b, table.video.num_frames)))
    cut = table.window(start, stop)
    assert cut.video.num_frames == stop - start
    inside = (table.frame >= start) & (table.frame < stop)
    np.testing.assert_array_equal(cut.frame + start, table.frame[inside])
    np.testing.assert_array_equal(cut.box, table.box[inside])


def test_nothing_is_a_table_too():
    table = Detections.empty(VIDEO)
    assert len(table) == len(table.id) == 0
    assert len(list(table.by_frame())) == 10
    assert len(Detections.empty(VideoInfo("none", 0, 1, 1)).window(0, 0)) == 0


def _scored(score: np.ndarray, frames: int = 100) -> Detections:
    """Boxes side by side, as many in every frame."""
    place = np.arange(len(score))
    left = 20.0 * (place // frames)
    box = np.stack([left, np.zeros(len(score)), left + 10, np.full(len(score), 20.0)], axis=1)
    return Detections.create(VideoInfo("clip", frames, 640, 480, 25), place % frames, box, score)


@pytest.mark.parametrize("top", [0.4, 0.6, 0.89])
def test_confidences_of_a_detector_that_is_never_sure_are_brought_up(top):
    rng = np.random.default_rng(0)
    table = _scored(rng.uniform(0, top, 1000))
    brought = comparable(table)
    assert np.partition(brought.score, -50)[-50] == pytest.approx(SUREST, abs=1e-6)
    assert brought.score.max() <= 1
    below = brought.score < 1
    np.testing.assert_allclose(brought.score[below] / table.score[below], score_scale(table), 1e-5)
    assert (brought.id == table.id).all()


def test_confidences_stay_where_the_detector_is_sure_or_nothing_can_be_told():
    rng = np.random.default_rng(0)
    sure = _scored(np.concatenate([rng.uniform(0, 0.3, 3000), rng.uniform(0.9, 1, 60)]))
    assert comparable(sure) is sure, "a few sure boxes among much junk"
    few = _scored(np.full(49, 0.4))
    assert comparable(few) is few
    rare = _scored(np.full(100, 0.4), frames=400)
    assert comparable(rare) is rare, "nobody, and a false box now and then"
    assert comparable(Detections.empty(VIDEO)).score.tolist() == []


def test_a_detector_that_sees_nobody_is_not_believed_more_than_it_says():
    faint = _scored(np.full(500, 0.06))
    np.testing.assert_allclose(comparable(faint).score, 0.06 * SUREST / LEAST_SUREST, rtol=1e-6)
