import numpy as np
import pytest
from hypothesis import given, settings
from strategies import detections

from spam_cvat.baselines.ghost import GhostConfig, ghost
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.evaluation import combine, evaluate
from spam_cvat.formats.mot import half_val, read_sequence

VIDEO = VideoInfo("clip", 80, 640, 480, 25)
RED, BLUE = [1.0, 0.0], [0.0, 1.0]


def walk(frames, x=100.0, speed=2.0):
    frames = np.asarray(frames)
    left = x + speed * frames
    return frames, np.stack([left, 0 * left + 50, left + 40, 0 * left + 150], 1)


def table(*parts, score=0.9, embedding=None):
    frame, box = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Detections.create(VIDEO, frame, box, np.full(len(frame), score), embedding=embedding)


def test_a_walk_is_one_track_of_the_very_boxes():
    boxes = table(walk(range(60)))
    tracks = ghost(boxes)
    assert tracks.ids.tolist() == [1]
    np.testing.assert_array_equal(tracks.box, boxes.box)


def test_a_lost_target_is_found_where_its_motion_leads():
    tracks = ghost(table(walk(range(10), speed=5), walk(range(30, 50), speed=5)))
    assert tracks.ids.tolist() == [1]
    # Forgotten after the buffer.
    assert ghost(table(walk(range(10)), walk(range(70, 80)))).ids.tolist() == [1, 2]


def test_appearance_decides_between_boxes_in_the_same_place():
    # Two people stand apart, vanish, and come back with their places exchanged.
    parts = [walk(range(10), 100, 0), walk(range(10), 130, 0), walk(range(12, 20), 130, 0), walk(range(12, 20), 100, 0)]
    looks = np.repeat([RED, BLUE, RED, BLUE], [10, 10, 8, 8], axis=0)
    blind = ghost(table(*parts), GhostConfig(motion=0.2))
    seeing = ghost(table(*parts, embedding=looks), GhostConfig(motion=0.2))
    for tracks, swapped in ((blind, False), (seeing, True)):
        start, end = (tracks.select(tracks.frame == frame) for frame in (0, 19))
        moved = start.box[np.argsort(start.track), 0] != end.box[np.argsort(end.track), 0]
        assert tracks.ids.tolist() == [1, 2]
        assert moved.tolist() == [swapped, swapped]


def test_faint_boxes_neither_start_nor_continue_tracks():
    assert len(ghost(table(walk(range(10)), score=0.4))) == 0
    assert len(ghost(table(walk(range(10)), score=0.52))) == 0


@settings(max_examples=40, deadline=None)
@given(detections(max_frames=8, max_boxes=30))
def test_any_boxes_give_valid_tracks_and_use_each_box_once(boxes):
    tracks = ghost(boxes, GhostConfig(score=0.1, new=0.2))
    assert len(np.unique(tracks.detection)) == len(tracks)
    np.testing.assert_array_equal(boxes.box[tracks.detection], tracks.box)
    np.testing.assert_array_equal(boxes.label[tracks.detection], tracks.label)


def test_motion_alone_stands_beside_bytetrack_on_mot17(spam_data):
    halves = [half_val(read_sequence(path, "frcnn")) for path in sorted((spam_data / "mot17" / "train").iterdir())]
    scores = combine([evaluate(half.ground_truth, ghost(half.detections), "mot17") for half in halves])
    headline = [100 * scores.HOTA, 100 * scores.IDF1]
    assert headline == pytest.approx([50.80, 57.48], abs=0.1)
