import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import dancetrack, design, evaluation, mot17, robustness, speed, study
from benchmarks.common import SPLITS, main
from spam_cvat.annotation import Level
from spam_cvat.errors import InputError, SpamError
from spam_cvat.evaluation import evaluate_files
from spam_cvat.formats.mot import read_sequence

INFO = "[Sequence]\nname={name}\nframeRate=25\nseqLength=40\nimWidth=640\nimHeight=480\n"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two sequences of three people who walk by each other, under the folders that the benchmarks read."""
    rng = np.random.default_rng(0)
    for parts in (("mot17", "train"), ("dancetrack", "val")):
        for name in ("a", "b"):
            folder = tmp_path.joinpath("data", *parts, name)
            (folder / "gt").mkdir(parents=True)
            (folder / "det").mkdir()
            (folder / "seqinfo.ini").write_text(INFO.format(name=name))
            boxes = [
                (frame, person, 50 * person + (2 if person % 2 else -2) * frame + 100, 100 + 40 * person)
                for frame in range(1, 41)
                for person in (1, 2, 3)
            ]
            (folder / "gt" / "gt.txt").write_text("".join(f"{f},{p},{x},{y},40,100,1,1,1\n" for f, p, x, y in boxes))
            shaken = "".join(
                f"{f},-1,{x + rng.normal():.2f},{y + rng.normal():.2f},40,100,{rng.uniform(0.65, 0.99):.2f}\n"
                for f, p, x, y in boxes
            )
            for detector in ("yolox_x", "frcnn"):
                (folder / "det" / f"{detector}.txt").write_text(shaken)
    monkeypatch.setenv("SPAM_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_mot17_writes_rows_and_files_that_score_the_same(data, tmp_path, capsys):
    mot17.run(["--out", str(tmp_path / "out"), "--json", "--detections", "yolox_x"])
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert [row["variant"] for row in result["rows"]] == [
        "yolox_x",
        "bytetrack-yolox_x",
        "bytetrack-interpolated-yolox_x",
        "ghost-yolox_x",
        "confident-yolox_x",
        "nogate-yolox_x",
    ]
    assert {"machine", "versions", "seconds"} <= set(result)
    assert {row["frames"] for row in result["rows"]} == {38}
    row = next(row for row in result["sequences"] if (row["variant"], row["sequence"]) == ("bytetrack-yolox_x", "b"))
    lines = (data / "mot17" / "train" / "b" / "gt" / "gt.txt").read_text().splitlines()
    shifted = [line.split(",", 1) for line in lines if int(line.split(",")[0]) > 21]
    (tmp_path / "gt.txt").write_text("".join(f"{int(frame) - 21},{rest}\n" for frame, rest in shifted))
    scores = evaluate_files(tmp_path / "gt.txt", tmp_path / "out" / "bytetrack-yolox_x" / "b.txt", "mot17")
    assert row["HOTA"] == pytest.approx(100 * scores.HOTA, abs=1e-3)


def test_variants_and_splits_can_be_chosen(data, tmp_path, capsys):
    mot17.run(
        ["--out", str(tmp_path), "--variant", "ghost-frcnn", "--variant", "bytetrack-yolox_x", "--split", "first"]
    )
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["data"], row["variant"]) for row in rows] == [
        ("mot17-first", "bytetrack-yolox_x"),
        ("mot17-first", "ghost-frcnn"),
    ]
    assert "ghost-frcnn" in capsys.readouterr().out
    assert sorted(SPLITS) == ["all", "first", "half-val"]


def test_dancetrack_runs_on_whole_sequences(data, tmp_path):
    dancetrack.run(["--out", str(tmp_path), "--variant", "bytetrack-yolox_x"])
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (row["data"], row["frames"]) == ("dancetrack", 80)


def test_what_is_missing_is_one_line_and_exit_code_2(data, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match="no variant 'sort-frcnn'; there are: yolox_x, "):
        mot17.run(["--out", str(tmp_path), "--variant", "sort-frcnn"])
    monkeypatch.setenv("SPAM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as caught:
        main(lambda _: dancetrack.run(["--out", str(tmp_path)]))
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().endswith("point SPAM_DATA at the data (see benchmarks/RESULTS.md)")


def test_speed_measures_a_generated_video(tmp_path):
    row = speed.measure("bytetrack", 120, 6, seed=0)
    assert (row["data"], row["variant"], row["frames"]) == ("generated-6", "bytetrack", 120)
    assert row["tracks"] > 0
    assert row["frames_per_second"] > 0
    assert row["peak_mib"] >= row["input_mib"] > 0


def test_a_long_video_runs_forth_and_back_without_a_break(monkeypatch):
    monkeypatch.setattr(speed, "TILE", 40)
    table = speed.long_video(100, 6, seed=0)
    frames = [table.box[slice(*table.frame_start[k : k + 2])] for k in range(100)]
    assert table.video.num_frames == 100
    assert (np.diff(table.frame) >= 0).all()
    for k in range(20):
        np.testing.assert_array_equal(frames[39 - k], frames[40 + k])
        np.testing.assert_array_equal(frames[79 - k], frames[80 + k])
    assert len(np.unique(table.id)) == len(table)


def test_a_python_without_trackeval_is_named(data, tmp_path):
    with pytest.raises(SpamError, match="false: TrackEval failed: exit code 1"):
        evaluation.run(["--out", str(tmp_path), "--trackeval", "/bin/false"])
    with pytest.raises(SpamError, match="gone: cannot run it: No such file or directory"):
        evaluation.run(["--out", str(tmp_path), "--trackeval", str(tmp_path / "gone")])


def test_changes_for_robustness_keep_boxes_truth_and_motion_together(data):
    shift = np.tile([[1.0, 0, 2], [0, 1, -1]], (40, 1, 1))
    sequence = replace(read_sequence(data / "mot17" / "train" / "a"), warps=shift)
    rng = np.random.default_rng(0)
    slow = robustness.CHANGES["slow"](sequence, rng)
    assert (slow.video.num_frames, slow.video.fps) == (14, pytest.approx(25 / 3))
    np.testing.assert_allclose(slow.warps[1:, :, 2], [[6, -3]] * 13, atol=1e-9)
    third = sequence.detections.frame == 9
    assert (slow.detections.box[slow.detections.frame == 3] == sequence.detections.box[third]).all()
    assert (slow.ground_truth.box[slow.ground_truth.frame == 3] == sequence.ground_truth.box[third]).all()
    halved = robustness.CHANGES["halved"](sequence, rng).detections
    np.testing.assert_allclose(halved.score, sequence.detections.score / 2)
    assert 70 < len(robustness.CHANGES["thinned"](sequence, rng).detections) < 115
    assert robustness.CHANGES["unsteady"](sequence, rng).warps is None


def test_design_takes_each_set_in_slightly_changed_copies(data, tmp_path):
    design.run(["--out", str(tmp_path / "out"), "--data", "yolox_x", "--data", "replaced", "--copies", "2"])
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["data"], row["copies"]) for row in rows] == [("yolox_x", 2), ("replaced", 2)]
    assert all(row["HOTA"] > 50 for row in rows)
    [case, _] = design.SETS["yolox_x"].cases()
    once, again, other = (design.copy_of(case, np.random.default_rng(seed)).detections for seed in (1, 1, 2))
    np.testing.assert_array_equal(once.box, again.box)
    assert (once.box != other.box).any()
    # Rows are in the order of confidences, which are changed too.
    moved = np.abs(np.sort(once.box, axis=0) - np.sort(case.detections.box, axis=0))
    assert 0 < moved.max() < 6 * design.EDGE_NOISE * 100
    with pytest.raises(InputError, match="no data set 'mot20'; there are: yolox_x, replaced"):
        design.run(["--out", str(tmp_path / "out"), "--data", "mot20"])
    with pytest.raises(InputError, match="0 copies: at least one is needed"):
        design.run(["--out", str(tmp_path / "out"), "--copies", "0"])


def test_replaced_confidences_are_those_of_the_second_half_at_the_same_ranks(data):
    folder = data / "mot17" / "train" / "a"
    first, second = (SPLITS[split](read_sequence(folder, "yolox_x")).detections for split in ("first", "half-val"))
    case = next(iter(design.SETS["replaced"].cases()))
    np.testing.assert_array_equal(np.sort(case.detections.frame), np.sort(first.frame))
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(case.detections.score, share) == pytest.approx(np.quantile(second.score, share), abs=0.01)
    assert np.argmax(first.score) == np.argmax(case.detections.score)


def test_the_study_counts_true_links_that_no_edge_weighs():
    # Two people: the first in tracklets 0, 2 and 4 of two boxes each, the second in 1 and 3.
    node = np.array([0, 1, 0, 1, 2, 3, 2, 3, 4, 4], np.int32)
    frame = np.array([0, 0, 1, 1, 3, 3, 4, 4, 20, 21])
    identity = np.array([1, 2, 1, 2, 1, 2, 1, 2, 1, 1])
    edge = np.array([[0, 2], [0, 3]], np.int32)
    some = np.zeros(2, np.float32)
    level = Level(8, node, edge, some, some, some > 0)
    assert study._unweighed(level, frame, identity) == (4, 2)
    # The link over 16 frames is none of this level's, but one of a level that reaches so far.
    assert study._unweighed(replace(level, extent=32), frame, identity) == (6, 4)
