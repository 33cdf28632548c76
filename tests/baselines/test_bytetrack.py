import numpy as np
import pytest
from hypothesis import given, settings
from strategies import detections

from spam_cvat.baselines.bytetrack import ByteTrackConfig, bytetrack
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.evaluation import combine, evaluate
from spam_cvat.formats.mot import half_val, read_sequence
from spam_cvat.tracks import interpolate

VIDEO = VideoInfo("clip", 60, 640, 480, 25)


def walk(frames, score=0.9, x=100.0, speed=2.0):
    frames = np.asarray(frames)
    left = x + speed * frames
    box = np.stack([left, 0 * left + 50, left + 40, 0 * left + 150], 1)
    return frames, box, np.full(len(frames), score)


def table(*parts, **more):
    frame, box, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Detections.create(VIDEO, frame, box, score, **more)


def test_a_walk_is_one_track_that_follows_its_boxes():
    boxes = table(walk(range(60)))
    tracks = bytetrack(boxes)
    assert tracks.ids.tolist() == [1]
    assert tracks.frame.tolist() == list(range(60))
    assert tracks.detection.tolist() == list(range(60))
    assert np.abs(tracks.box - boxes.box).max() < 2


def test_a_track_starts_with_a_sure_box_and_lives_on_faint_ones():
    assert len(bytetrack(table(walk(range(60), 0.5)))) == 0
    tracks = bytetrack(table(walk(range(5)), walk(range(5, 30), 0.3)))
    assert tracks.ids.tolist() == [1]
    assert tracks.frame.tolist() == list(range(30))


def test_a_lost_track_comes_back_within_the_buffer_only():
    back = bytetrack(table(walk(range(10)), walk(range(35, 60))))
    assert back.ids.tolist() == [1]
    assert back.frame.tolist() == [*range(10), *range(35, 60)]
    assert bytetrack(table(walk(range(10)), walk(range(35, 60))), ByteTrackConfig(buffer=5)).ids.tolist() == [1, 2]


def test_a_box_seen_once_after_the_first_frame_is_no_track():
    assert len(bytetrack(table(walk([7])))) == 0
    # In the first frame of a video everything counts.
    assert bytetrack(table(walk([0]))).frame.tolist() == [0]


def test_labels_are_tracked_apart():
    frame, box, score = walk(range(20))
    both = Detections.create(
        VIDEO, np.tile(frame, 2), np.concatenate([box, box + 1]), np.tile(score, 2),
        np.repeat([1, 2], 20), ("nobody", "person", "car"),
    )  # fmt: skip
    tracks = bytetrack(both)
    assert tracks.ids.tolist() == [1, 2]
    assert [set(tracks.label[tracks.rows(k)].tolist()) for k in (1, 2)] == [{1}, {2}]
    np.testing.assert_array_equal(both.label[tracks.detection], tracks.label)


def test_boxes_too_small_or_too_wide_are_not_reported():
    boxes = table(walk(range(20)))
    assert len(bytetrack(boxes, ByteTrackConfig(min_area=5000))) == 0
    assert len(bytetrack(boxes, ByteTrackConfig(max_aspect=0.3))) == 0


@settings(max_examples=40, deadline=None)
@given(detections(max_frames=8, max_boxes=30))
def test_any_boxes_give_valid_tracks_and_use_each_box_once(boxes):
    tracks = bytetrack(boxes, ByteTrackConfig(high=0.3, new=0.3))
    assert len(np.unique(tracks.detection)) == len(tracks)
    np.testing.assert_array_equal(boxes.frame[tracks.detection], tracks.frame)


def test_no_boxes_give_no_tracks():
    assert len(bytetrack(Detections.empty(VIDEO))) == 0
    assert len(bytetrack(Detections.empty(VideoInfo("none", 0, 1, 1)))) == 0


def headline(scores):
    return [100 * scores.HOTA, 100 * scores.IDF1]


# HOTA, IDF1 and IDSW of the authors' own code on the same files, measured with TrackEval.
REFERENCE = {"yolox_x": (67.79, 79.91, 167, 68.99), "frcnn": (49.37, 56.25, 201, None)}


@pytest.mark.parametrize("detector", REFERENCE)
def test_mot17_half_val_scores_as_the_authors_code_does(spam_data, detector):
    hota, idf1, switches, interpolated = REFERENCE[detector]
    halves = [half_val(read_sequence(path, detector)) for path in sorted((spam_data / "mot17" / "train").iterdir())]
    found = [bytetrack(half.detections) for half in halves]
    scores = combine([evaluate(half.ground_truth, tracks, "mot17") for half, tracks in zip(halves, found, strict=True)])
    assert headline(scores) == pytest.approx([hota, idf1], abs=0.1)
    assert abs(scores.IDSW - switches) <= 3
    if interpolated:
        filled = combine(
            [
                evaluate(half.ground_truth, interpolate(tracks, 20), "mot17")
                for half, tracks in zip(halves, found, strict=True)
            ]
        )
        assert headline(filled)[0] == pytest.approx(interpolated, abs=0.1)


def test_pets_scores_as_the_authors_code_does(spam_data):
    pets = read_sequence(spam_data / "pets09" / "PETS09-S2L1", "yolox_nano")
    # The reference run lowered the thresholds for the small detector.
    tracks = bytetrack(pets.detections, ByteTrackConfig(high=0.5, new=0.6))
    scores = evaluate(pets.ground_truth, tracks)
    assert headline(scores) == pytest.approx([48.88, 61.35], abs=0.1)
