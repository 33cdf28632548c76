"""Every gesture that was recorded in the real page is understood."""

import json

import numpy as np
import pytest

from spam_cvat.cvat.gestures import Gesture, Places, interpret, meaning


@pytest.fixture
def recorded(spam_cvat_facts):
    """(before, after, start, stop) of a recorded edit; deleting a frame changes the meta alone."""

    def read(name):
        folder = spam_cvat_facts / "samples" / "review"
        before = json.loads((folder / f"edit_{name}_1_before.json").read_text())
        after = json.loads((folder / f"edit_{name}_2_after.json").read_text())
        start = min(track["frame"] for track in before["tracks"])
        return before, after, start, start + 9

    return read


RECORDED = [
    ("move_box_dense", [("move", (317,), 52, None)]),
    ("move_box_sparse", [("move", (318,), 62, None)]),
    # Hidden from 126 on; the next keyframe, 129, shows it again.
    ("outside_o", [("outside", (324,), frame, None) for frame in (126, 127, 128)]),
    ("occluded_q", [("occluded", (325,), 133, None)]),
    ("delete_track", [("delete", (316,), None, None)]),
    ("merge_same_label", [("merge", (308, 310), 4, 5)]),
    ("merge_diff_label", []),
    ("split_dense", [("split", (314,), 24, 25)]),
    ("split_sparse", [("split", (315,), 34, 35)]),
    ("change_label", [("label", (322,), None, None)]),
    ("attr_immutable", [("attribute", (319,), None, None)]),
    ("attr_mutable", [("attribute", (320,), 83, None)]),
    ("draw_new", [("draw", (), 90, None)]),
    ("del_frame", []),
]


@pytest.mark.parametrize(("name", "expected"), RECORDED, ids=[name for name, _ in RECORDED])
def test_recorded_gestures_are_recognised(recorded, name, expected):
    found = interpret(*recorded(name))
    assert [(g.kind, g.tracks, g.frame, g.until) for g in found] == expected


def test_the_details_of_recorded_gestures(recorded):
    [moved] = interpret(*recorded("move_box_dense"))
    assert moved.box == (587.51, 148.80, 610.36, 211.53)
    [answered] = interpret(*recorded("attr_immutable"))
    assert (answered.spec, answered.value) == (69, "false")
    [labelled] = interpret(*recorded("change_label"))
    assert labelled.value == 40


def places(**more):
    """Detection number 100 * track + frame for each box; every fifth frame is interpolated."""
    return Places(
        at=lambda track, frame: 100 * track + frame if frame % 5 != 4 else None,
        whole=lambda track: tuple(100 * track + frame for frame in range(3)),
        **more,
    )


BOX = (1.0, 2.0, 3.0, 4.0)
MEANINGS = [
    (Gesture("move", (7,), 3, box=BOX), [("refine", (703,), BOX)]),
    (Gesture("outside", (7,), 3), [("reject", (703,), None)]),
    (Gesture("occluded", (7,), 3, value=True), [("accept", (703,), None)]),
    (Gesture("delete", (7,)), [("reject", (700, 701, 702), None)]),
    # The nearest real boxes on both sides, where the border itself was interpolated.
    (Gesture("merge", (7, 8), 4, 9), [("same", (703, 810), None)]),
    (Gesture("split", (7,), 5, 6), [("split", (705, 706), None)]),
    (Gesture("label", (7,), value=3), [("accept", (700, 701, 702), None)]),
    (Gesture("attribute", (7,), spec=1, value="real"), []),
]


@pytest.mark.parametrize(("gesture", "expected"), MEANINGS, ids=[gesture.kind for gesture, _ in MEANINGS])
def test_gestures_become_answers(gesture, expected):
    found = meaning([gesture], places(), by="ann", at="now", job="5", question="q")
    assert [(a.kind, a.detections, a.box) for a in found.answers] == expected
    assert all((a.by, a.at, a.job, a.question) == ("ann", "now", "5", "q") for a in found.answers)


def test_hiding_a_box_need_not_mean_that_nothing_is_there():
    assert not meaning([Gesture("outside", (7,), 3)], places(), hidden_is_false=False).answers


def test_what_is_drawn_takes_the_detection_that_was_left_out():
    near = meaning([Gesture("draw", (), 3, box=BOX)], places(near=lambda frame, box: 42))
    assert [(a.kind, a.detections, a.box) for a in near.answers] == [("refine", (42,), BOX)]
    far = meaning([Gesture("draw", (), 3, box=BOX)], places(source=lambda frame: frame + 1000))
    assert far.answers == ()
    assert far.drawn == ((1003, BOX),)


def dense(frames, x, identity):
    shapes = [
        {"type": "rectangle", "frame": f, "points": [x + f, 0.0, x + f + 5.0, 9.0], "outside": False, "occluded": False,
         "attributes": []}
        for f in frames
    ]  # fmt: skip
    return {"id": identity, "label_id": 1, "attributes": [], "shapes": shapes}


def close(track, frame):
    track["shapes"].append({**track["shapes"][-1], "frame": frame, "outside": True})
    return track


def test_a_swap_repaired_by_two_splits_and_two_merges():
    """Tracks 1 and 2 exchange persons at frame 5: the repair takes a piece of each."""
    before = {"tracks": [dense(range(10), 0, 1), dense(range(10), 100, 2)]}
    one, two = dense(range(5), 0, 11), dense(range(5), 100, 12)
    one["shapes"] += before["tracks"][1]["shapes"][5:]
    two["shapes"] += before["tracks"][0]["shapes"][5:]
    found = interpret(before, {"tracks": [one, two]}, 0, 9)
    assert {(g.kind, g.tracks, g.frame, g.until) for g in found} == {
        ("merge", (1, 2), 4, 5),
        ("merge", (2, 1), 4, 5),
        ("split", (1,), 4, 5),
        ("split", (2,), 4, 5),
    }


def test_a_piece_deleted_after_a_split_is_hidden():
    before = {"tracks": [dense(range(10), 0, 1)]}
    found = interpret(before, {"tracks": [close(dense(range(6), 0, 11), 6)]}, 0, 9)
    assert [(g.kind, g.frame) for g in found] == [("outside", frame) for frame in range(6, 10)]


def test_a_box_moved_after_a_merge_is_still_a_move():
    before = {"tracks": [close(dense(range(4), 0, 1), 4), dense(range(4, 10), 50, 2)]}
    merged = dense(range(4), 0, 11)
    merged["shapes"] += [dict(shape) for shape in before["tracks"][1]["shapes"]]
    merged["shapes"][6]["points"] = [0.0, 0.0, 10.0, 10.0]
    found = interpret(before, {"tracks": [merged]}, 0, 9)
    assert [(g.kind, g.tracks, g.frame) for g in found] == [("merge", (1, 2), 3), ("move", (2,), 6)]
    assert np.allclose(found[1].box, (0, 0, 10, 10))


def test_an_unchanged_job_says_nothing(recorded):
    before, _, start, stop = recorded("merge_same_label")
    assert interpret(before, before, start, stop) == []
