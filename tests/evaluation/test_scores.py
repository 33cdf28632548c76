import numpy as np
import pytest
from hypothesis import given, settings
from strategies import tracks

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.evaluation import combine, evaluate, evaluate_files, pairing
from spam_cvat.formats.mot import GroundTruth
from spam_cvat.tracks import Tracks

VIDEO = VideoInfo("clip", 10, 640, 480, 25)


def walk(track=1, start=0, stop=10, x=100):
    frames = np.arange(start, stop)
    box = np.stack([x + frames, 0 * frames + 50, x + 20 + frames, 0 * frames + 100], 1)
    return Tracks.create(VIDEO, frames, np.full(len(frames), track), box)


def ground_truth(table, category=1):
    count = len(table)
    return GroundTruth(
        table.video,
        table.frame,
        table.track.astype(np.int64),
        table.box.astype(np.float64),
        np.ones(count),
        np.full(count, category, np.int16),
        np.ones(count),
    )


def test_a_track_cut_in_two_loses_association_and_not_detection():
    scores = evaluate(walk(), walk().split(1, 5))
    assert scores.DetA == 1
    # each half is 5 of 10 boxes: TPA 5, FNA 5, FPA 0
    assert scores.AssA == pytest.approx(0.5)
    assert (scores.IDSW, scores.FP, scores.FN) == (1, 0, 0)
    headline = (scores.HOTA, scores.MOTA, scores.IDF1)
    assert headline == pytest.approx((np.sqrt(0.5), 0.9, 0.5))


@settings(max_examples=40, deadline=None)
@given(tracks())
def test_the_truth_itself_scores_one(table):
    scores = evaluate(table, table)
    assert (scores.FP, scores.FN) == (0, 0)
    if len(table):
        assert [scores.HOTA, scores.DetA, scores.LocA] == pytest.approx([1, 1, 1])


@settings(max_examples=40, deadline=None)
@given(tracks(), tracks())
def test_scores_stay_in_their_range_and_add_up(truth, ours):
    ours = ours.window(0, truth.video.num_frames)
    scores = evaluate(truth, ours)
    for name in ("HOTA", "DetA", "AssA", "LocA", "IDF1"):
        assert 0 <= getattr(scores, name) <= 1 + 1e-12
    assert scores.FN + scores.clear.tp == len(truth)
    assert scores.FP + scores.clear.tp == len(ours)


@settings(max_examples=30, deadline=None)
@given(tracks(), tracks())
def test_small_chunks_made_anew_change_nothing(truth, ours):
    ours = ours.window(0, truth.video.num_frames)
    whole = evaluate(truth, ours).summary()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing, "CHUNK_PAIRS", 3)
        patch.setattr(pairing, "KEPT_PAIRS", 0)
        assert evaluate(truth, ours).summary() == whole


def test_mot17_rules_excuse_boxes_on_distractors_and_plain_rules_do_not():
    truth = ground_truth(walk(1), category=8)
    assert evaluate(truth, walk(7), "mot17").FP == 0
    assert evaluate(truth, walk(7), "plain").summary()["TP"] == 10
    assert evaluate(ground_truth(walk(1), category=3), walk(7), "mot17").FP == 10


def test_a_wrong_call_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no preset 'mot99'; there are: plain, mot17, mot20"):
        evaluate(walk(), walk(), "mot99")
    with pytest.raises(InputError, match=r"a box in frame 9 \(from 0\), the ground truth has 5 frames"):
        evaluate(walk().window(0, 5), walk())
    with pytest.raises(InputError, match=r"class 40, the preset knows 1\.\.13; use preset plain"):
        evaluate(ground_truth(walk(), category=40), walk(), "mot17")
    with pytest.raises(InputError, match="no scores to combine"):
        combine([])
    (tmp_path / "gt.txt").write_text("1,1,5,5,20,40,1,1,1\n")
    (tmp_path / "out.txt").write_text("1,1,5,5,20,40,1\n2,1,5,5,2o,40,1\n")
    with pytest.raises(InputError, match=r"out\.txt:2: '2o' is not a number"):
        evaluate_files(tmp_path / "gt.txt", tmp_path / "out.txt")


def test_files_without_a_seqinfo_are_scored_over_the_longer_of_them(tmp_path):
    (tmp_path / "gt.txt").write_text("1,1,5,5,20,40,1,1,1\n2,1,5,5,20,40,1,1,1\n")
    (tmp_path / "out.txt").write_text("1,1,5,5,20,40,1\n4,1,5,5,20,40,1\n")
    scores = evaluate_files(tmp_path / "gt.txt", tmp_path / "out.txt")
    assert (scores.summary()["TP"], scores.FP, scores.FN) == (1, 1, 1)
    assert scores.clear.frames == 4
