import numpy as np
import pytest
from hypothesis import given, settings
from strategies import detections, tracks

from spam_cvat.detections import LEAST_SURE, SUREST, VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.formats.mot import (
    first_half,
    half_val,
    read_detections,
    read_ground_truth,
    read_seqinfo,
    read_sequence,
    read_tracks,
    read_warps,
    write_detections,
    write_tracks,
)
from spam_cvat.tracks import Tracks

VIDEO = VideoInfo("clip", 10, 640, 480, 25)
INFO = "[Sequence]\nname=clip\nimDir=img1\nframeRate=25\nseqLength=10\nimWidth=640\nimHeight=480\nimExt=.jpg\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="rows.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def columns(table):
    return [table.frame, table.track, table.box, table.score, table.label]


@settings(max_examples=60, deadline=None)
@given(tracks())
def test_tracks_survive_a_round_trip_to_the_last_bit(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("mot") / "out.txt"
    write_tracks(path, table)
    back = read_tracks(path, table.video)
    for old, new in zip(columns(table), columns(back), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("edges", [(0, 2000, 500), (-1, 1, 1e-3), (-5000, -4990, 5005), (-1e5, 1e5, 3)])
def test_boxes_of_any_size_and_place_survive_a_round_trip(tmp_path, edges):
    low, high, size = edges
    rng = np.random.default_rng(1)
    box = rng.uniform(low, high, (5000, 4)).astype(np.float32)
    box[:, 2:] = box[:, :2] + np.float32(size) * rng.uniform(0.01, 1, (5000, 2)).astype(np.float32)
    box = box[(box[:, 2:] > box[:, :2]).all(1)]
    video = VideoInfo("clip", len(box), 640, 480)
    table = Tracks.create(video, np.arange(len(box)), np.ones(len(box)), box, rng.random(len(box)))
    write_tracks(tmp_path / "out.txt", table)
    back = read_tracks(tmp_path / "out.txt", video)
    np.testing.assert_array_equal(back.box, table.box)
    np.testing.assert_array_equal(back.score, table.score)


@settings(max_examples=30, deadline=None)
@given(tracks(labels=("person", "car", "dog")))
def test_labels_of_tracks_survive_a_round_trip(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("mot") / "out.txt"
    write_tracks(path, table)
    np.testing.assert_array_equal(read_tracks(path, table.video, table.labels).label, table.label)


@settings(max_examples=60, deadline=None)
@given(detections())
def test_detections_survive_a_round_trip_with_their_ids(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("mot") / "out.txt"
    write_detections(path, table)
    back = read_detections(path, table.video)
    np.testing.assert_array_equal(back.id, table.id)
    np.testing.assert_array_equal(back.score, table.score)


def test_frames_count_from_1_in_files_and_from_0_inside(write):
    det = read_detections(write("1,-1,10,20,5,8,0.5\n10,-1,10,20,5,8,0.25,-1,-1,-1\n".replace(",-1,-1,-1", "")), VIDEO)
    assert det.frame.tolist() == [0, 9]
    assert det.box[0].tolist() == [10, 20, 15, 28]
    assert det.score.tolist() == [0.5, 0.25]


def test_blank_separated_rows_blank_lines_and_missing_confidences_are_read(write):
    det = read_detections(write("\n1 -1 10 20 5 8\n\n2 -1 10 20 5 8\n"), VIDEO)
    assert det.frame.tolist() == [0, 1]
    assert det.score.tolist() == [1, 1]


def test_rows_of_different_width_are_read(write):
    det = read_detections(write("1,-1,10,20,5,8,0.5,-1,-1,-1\n2,-1,10,20,5,8,0.25\n"), VIDEO)
    assert det.score.tolist() == [0.5, 0.25]


def test_an_empty_file_is_an_empty_table(write):
    assert len(read_detections(write(""), VIDEO)) == 0
    assert len(read_tracks(write("\n"), VIDEO)) == 0
    assert len(read_ground_truth(write(""), VIDEO)) == 0


def test_a_file_without_confidences_says_so_with_minus_one(write):
    assert read_detections(write("1,-1,10,20,5,8,-1\n2,-1,10,20,5,8,-1\n"), VIDEO).score.tolist() == [1, 1]


@pytest.mark.parametrize("margins", [np.linspace(-0.5, 3.5, 200), np.linspace(2, 98, 200), np.linspace(0, 1.2, 200)])
def test_margins_and_per_cent_become_confidences_in_the_same_order(write, caplog, margins):
    rows = [f"{k % 10 + 1},-1,{10 + k},20,5,8,{margin}\n" for k, margin in enumerate(margins)]
    path = write("".join(rows))
    found = read_detections(path, VIDEO)
    score = found.score[np.argsort(found.box[:, 0])]
    assert score[0] == pytest.approx(LEAST_SURE)
    assert np.sort(score)[-50] == pytest.approx(SUREST)
    assert (np.diff(score) >= 0).all()
    assert (np.diff(score[:150]) > 0).all()
    assert str(path) in caplog.text
    assert "no probabilities" in caplog.text


def test_equal_confidences_of_another_scale_are_all_sure(write):
    found = read_detections(write("".join(f"1,-1,{k},20,5,8,100\n" for k in range(30))), VIDEO)
    np.testing.assert_allclose(found.score, SUREST)


GOOD = "1,-1,10,20,5,8,0.5\n"
BAD_DETECTIONS = [
    # what stands in line 3 (line 2 is blank), and the reason given
    ("1,-1,10,20,5,x,0.5", "'x' is not a number"),
    ("1,-1,10,20,,8,0.5", "'' is not a number"),
    ("1,-1,10,20,5", "box"),
    ("0,-1,10,20,5,8,0.5", "frame 0 is outside 1..10"),
    ("11,-1,10,20,5,8,0.5", "frame 11 is outside 1..10"),
    ("1.5,-1,10,20,5,8,0.5", "frame 1.5 is not a whole number"),
    ("nan,-1,10,20,5,8,0.5", "frame nan is not a whole number"),
    ("1,-1,nan,20,5,8,0.5", "is not finite"),
    ("1,-1,inf,20,5,8,0.5", "is not finite"),
    ("1,-1,10,20,0,8,0.5", "box of width 0 and height 8"),
    ("1,-1,10,20,5,-8,0.5", "box of width 5 and height -8"),
    ("1,-1,10,20,5,8,1.5", "confidence 1.5 is outside 0..1"),
    ("1,-1,10,20,5,8,nan", "confidence nan is outside 0..1"),
    ("<<<<<<< HEAD", "'<<<<<<< HEAD' is not a number"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_DETECTIONS)
def test_a_bad_detection_is_refused_with_file_line_and_reason(write, row, reason):
    path = write(GOOD + "\n" + row + "\n" + GOOD)
    with pytest.raises(InputError) as caught:
        read_detections(path, VIDEO)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: ")
    assert reason in message
    assert "\n" not in message


def test_a_file_with_too_few_columns_is_refused(write):
    path = write("1,-1,10,20\n")
    with pytest.raises(InputError, match=r"rows\.txt:1: 4 columns where at least 6 are needed"):
        read_detections(path, VIDEO)


@pytest.mark.parametrize(
    ("rows", "line", "reason"),
    [
        ("1,1,10,20,5,8\n2,1,10,20,5,8\n1,1,11,20,5,8\n", 3, "identity 1 has another box in frame 1"),
        ("1,-3,10,20,5,8\n", 1, "identity -3 is negative"),
        ("1,1.5,10,20,5,8\n", 1, "identity 1.5 is not a whole number"),
    ],
)
def test_a_bad_track_row_is_refused_with_file_line_and_reason(write, rows, line, reason):
    path = write(rows)
    with pytest.raises(InputError, match=rf"rows\.txt:{line}: {reason}"):
        read_tracks(path, VIDEO)


def test_missing_binary_and_absent_inputs_name_the_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt: cannot read: No such file"):
        read_detections(tmp_path / "gone.txt", VIDEO)
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"clip\.mp4: not a text file"):
        read_detections(tmp_path / "clip.mp4", VIDEO)
    with pytest.raises(InputError, match="no such folder"):
        read_sequence(tmp_path / "nowhere")


def test_identities_that_count_from_0_are_moved_up(write):
    table = read_tracks(write("1,0,10,20,5,8,-1\n1,3,40,20,5,8,-1\n"), VIDEO)
    assert table.track.tolist() == [1, 4]
    assert table.score.tolist() == [1, 1]


def test_ground_truth_keeps_every_row_and_tracks_only_what_is_scored(write):
    rows = [
        "1,1,10,20,5,8,1,1,0.9",  # pedestrian
        "1,2,50,20,5,8,0,1,1",  # pedestrian not to be scored
        "1,3,90,20,5,8,1,7,1",  # static person
        "2,4,90,20,0,8,1,1,1",  # no area
    ]
    truth = read_ground_truth(write("\n".join(rows)), VIDEO)
    assert truth.category.tolist() == [1, 1, 7, 1]
    assert truth.visibility.tolist() == [0.9, 1, 1, 1]
    assert truth.tracks().track.tolist() == [1]
    assert truth.tracks(unscored=True).track.tolist() == [1, 2]
    assert truth.tracks(classes=(1, 7)).track.tolist() == [1, 3]
    assert truth.window(1, 2).frame.tolist() == [0]


@pytest.mark.parametrize("tail", ["1,-4.15,-7.36,0", "0.9,-1,-1,-1", "1"])
def test_files_without_a_class_column_hold_pedestrians(write, tail):
    truth = read_ground_truth(write(f"1,1,10,20,5,8,{tail}\n"), VIDEO)
    assert truth.category.tolist() == [1]
    assert truth.visibility.tolist() == [1]


def test_written_ground_truth_reads_back_as_ground_truth(write, tmp_path):
    table = read_tracks(write("1,1,10,20,5,8,0.5\n2,1,11,20,5,8,0.5\n"), VIDEO)
    write_tracks(tmp_path / "gt" / "gt.txt", table, ground_truth=True)
    assert (tmp_path / "gt" / "gt.txt").read_text() == "1,1,10,20,5,8,1,1,1\n2,1,11,20,5,8,1,1,1\n"
    back = read_ground_truth(tmp_path / "gt" / "gt.txt", VIDEO)
    assert back.tracks().box.tolist() == table.box.tolist()


def test_warps_default_to_the_identity(write):
    warps = read_warps(write("0 2 0 9 0 2 9\n3\t1\t0\t1.5\t0\t1\t-2\t\n"), 5)
    assert warps.shape == (5, 2, 3)
    np.testing.assert_array_equal(warps[[0, 1, 2, 4]], np.tile(np.eye(2, 3), (4, 1, 1)))
    np.testing.assert_array_equal(warps[3], [[1, 0, 1.5], [0, 1, -2]])
    with pytest.raises(InputError, match=r"rows\.txt:1: frame 5 is outside 0..4"):
        read_warps(write("5 1 0 0 0 1 0\n"), 5)
    with pytest.raises(InputError, match=r"rows\.txt:1: the affine map is not finite"):
        read_warps(write("1 1 nan 0 0 1 0\n"), 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no Sequence"),
        (INFO.replace("seqLength=10\n", ""), "no seqLength"),
        (INFO.replace("seqLength=10", "seqLength=ten"), "invalid literal"),
        (INFO.replace("imWidth=640", "imWidth=0"), "is not a video"),
        ("name=clip\n", "no section headers"),
    ],
)
def test_a_broken_seqinfo_is_refused_in_one_line(write, text, reason):
    path = write(text, "seqinfo.ini")
    with pytest.raises(InputError, match=reason) as caught:
        read_seqinfo(path.parent)
    assert "\n" not in str(caught.value)


def test_a_sequence_folder_is_read_and_cut_into_halves(write, tmp_path):
    write(INFO, "seqinfo.ini")
    write("".join(f"{k},-1,{10 * k},20,5,8,0.5\n" for k in range(1, 11)), "det/mine.txt")
    write("".join(f"{k},1,{10 * k},20,5,8,1,1,1\n" for k in range(1, 11)), "gt/gt.txt")
    write("".join(f"{k} 1 0 {k} 0 1 0\n" for k in range(10)), "gmc.txt")
    sequence = read_sequence(tmp_path, "mine")
    assert (sequence.name, sequence.video.fps) == ("clip", 25)
    front, back = first_half(sequence), half_val(sequence)
    assert (front.video.num_frames, back.video.num_frames) == (6, 4)
    assert back.detections.frame.tolist() == back.ground_truth.frame.tolist() == [0, 1, 2, 3]
    assert back.detections.box[0].tolist() == [70, 20, 75, 28]
    np.testing.assert_array_equal(back.warps[0], np.eye(2, 3))
    assert back.warps[1, 0, 2] == 7
    assert len(read_sequence(tmp_path, None).detections) == 0
    assert len(read_sequence(tmp_path, tmp_path / "det" / "mine.txt").detections) == 10
    with pytest.raises(InputError, match="no detections 'other'; there are: mine"):
        read_sequence(tmp_path, "other")


def test_mot17_halves_have_the_published_lengths(spam_data):
    folders = sorted((spam_data / "mot17" / "train").iterdir())
    halves = [half_val(read_sequence(folder, None)) for folder in folders]
    assert [half.video.num_frames for half in halves] == [299, 524, 418, 262, 326, 449, 374]
    assert sum(len(half.ground_truth.tracks()) for half in halves) == 53_890
