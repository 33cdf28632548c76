import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_cvat.answers import KINDS, Answer, Clamps, digest, resolve
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks

FRAMES, LANES = 8, 3


def lanes(frames: int = FRAMES, count: int = LANES, shift: float = 0.0) -> Detections:
    """``count`` boxes in each frame; row = frame * count + lane."""
    video = VideoInfo("lanes", frames, 640, 480)
    frame, lane = (grid.ravel() for grid in np.meshgrid(np.arange(frames), np.arange(count), indexing="ij"))
    left = 100.0 * lane + frame + shift
    return Detections.create(video, frame, np.stack([left, left * 0 + 50, left + 40, left * 0 + 150], 1))


DETECTIONS = lanes()
IDS = [int(i) for i in DETECTIONS.id]


def said(kind: str, *rows: int, **more) -> Answer:
    return Answer(kind, tuple(IDS[row] for row in rows), **more)


ROW = st.integers(0, len(IDS) - 1)
MANY = st.lists(ROW, min_size=2, max_size=5, unique=True)
ANSWERS = st.one_of(
    st.builds(lambda rows: said("accept", *rows), MANY),
    st.builds(lambda rows: said("reject", *rows), MANY),
    st.builds(lambda rows: said("same", *rows), MANY),
    st.builds(lambda rows, name: said("assign", *rows, identity=name), MANY, st.sampled_from("AB")),
    st.builds(lambda rows: said("mixed", *rows), MANY),
    st.builds(lambda kind, rows: said(kind, *rows[:2]), st.sampled_from(["different", "split"]), MANY),
    st.builds(lambda row, x: said("refine", row, box=(x, 0.0, x + 5, 9.0)), ROW, st.floats(0, 9)),
)
LOGS = st.lists(ANSWERS, max_size=12)


def consistent(clamps: Clamps, detections: Detections) -> None:
    """The clamps can all hold at once, and tracks made of them exist."""
    person = clamps.person
    assert (clamps.gate[clamps.must.ravel()] == 1).all()
    assert all(clamps.gate[row] == 1 for row in clamps.boxes)
    assert (person[clamps.cannot[:, 0]] != person[clamps.cannot[:, 1]]).all()
    assert all(len(set(person[list(rows)])) > 1 for rows in clamps.mixed)
    keep = clamps.gate != 0
    tracks = Tracks.create(  # refuses two boxes of one person in a frame
        detections.video,
        detections.frame[keep],
        person[keep] + 1,
        [clamps.boxes.get(row, detections.box[row]) for row in np.flatnonzero(keep)],
        detection=np.flatnonzero(keep),
    )
    assert clamps.violations(tracks) == []


@given(LOGS)
@settings(max_examples=300, deadline=None)
def test_resolved_clamps_can_hold_together(log):
    consistent(resolve(log, DETECTIONS), DETECTIONS)


@given(LOGS.filter(bool))
@settings(max_examples=300, deadline=None)
def test_the_last_answer_always_holds(log):
    last, clamps = log[-1], resolve(log, DETECTIONS)
    rows = [IDS.index(i) for i in last.detections]
    frames = DETECTIONS.frame[rows]
    person = clamps.person
    if last.kind in ("accept", "assign", "same", "refine"):
        assert (clamps.gate[rows] == 1).all()
    if last.kind == "reject":
        assert (clamps.gate[rows] == 0).all()
    if last.kind == "refine":
        assert clamps.boxes[rows[0]] == last.box
    if last.kind in ("same", "assign") and len(set(frames)) == len(frames):
        assert len(set(person[rows])) == 1
    if last.kind == "mixed":
        assert tuple(sorted(rows)) in clamps.mixed
    if last.kind in ("different", "split"):
        assert person[rows[0]] != person[rows[1]]


@given(LOGS, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_order_matters_only_where_answers_conflict(log, random):
    clamps = resolve(log, DETECTIONS)
    if clamps.conflicts:
        return
    shuffled = list(log)
    random.shuffle(shuffled)
    again = resolve(shuffled, DETECTIONS)
    assert again.conflicts == []
    for name in ("gate", "must", "cannot"):
        np.testing.assert_array_equal(getattr(again, name), getattr(clamps, name))
    assert again.boxes == clamps.boxes
    assert again.mixed == clamps.mixed


@given(LOGS)
def test_json_round_trip_loses_nothing(log):
    lines = [json.dumps(answer.to_json()) for answer in log]
    again = [Answer.from_json(json.loads(line)) for line in lines]
    assert again == log
    assert digest(again) == digest(log)


def test_json_holds_ids_as_sixteen_hexadecimal_digits():
    data = Answer("accept", (5,), by="ann", at="2030-01-01T00:00:00Z", job="7", clicks=1, question="q").to_json()
    assert data == {
        "kind": "accept",
        "detections": ["0000000000000005"],
        "by": "ann",
        "at": "2030-01-01T00:00:00Z",
        "job": "7",
        "clicks": 1,
        "question": "q",
    }


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "KeyError"),
        ({"kind": "maybe", "detections": ["1"]}, "not one of"),
        ({"kind": "accept", "detections": []}, "0 detections"),
        ({"kind": "accept", "detections": ["xyz"]}, "ValueError"),
        ({"kind": "accept", "detections": [5]}, "TypeError"),
        ({"kind": "accept", "detections": ["11111111111111111"]}, "64-bit"),
        ({"kind": "same", "detections": ["1"]}, "1 detections"),
        ({"kind": "split", "detections": ["1", "2", "3"]}, "3 detections"),
        ({"kind": "refine", "detections": ["1"]}, "refined box"),
        ({"kind": "refine", "detections": ["1"], "box": [0, 0, 0, 9]}, "no area"),
        ({"kind": "refine", "detections": ["1"], "box": [0, 0, 9]}, "four numbers"),
        ({"kind": "accept", "detections": ["1"], "box": [0, 0, 9, 9]}, "refined box"),
        ({"kind": "assign", "detections": ["1"]}, "identity"),
        ({"kind": "accept", "detections": ["1"], "clicks": -1}, "cost"),
        ({"kind": "accept", "detections": ["1"], "context": [[1, 2]]}, "four numbers"),
        ({"kind": "accept", "detections": ["1"], "context": [[0, 0, 0, 9, 9], [0, 0, 0, 9, 9]]}, "context"),
        ({"kind": "withdraw"}, "question"),
    ],
)
def test_nonsense_is_refused_in_one_line(data, fault):
    with pytest.raises(InputError, match=fault) as caught:
        Answer.from_json(data)
    assert "\n" not in str(caught.value)


def test_every_kind_is_understood():
    log = [
        said("accept", 0),
        said("reject", 1),
        said("refine", 2, box=(0.0, 0.0, 9.0, 9.0)),
        said("same", 3, 6),
        said("different", 4, 7),
        said("split", 5, 8),
        said("assign", 9, 12, identity="A"),
        said("assign", 10, 13, identity="B"),
        said("mixed", 14, 17),
    ]
    assert {answer.kind for answer in log} == set(KINDS) - {"withdraw"}
    clamps = resolve(log, DETECTIONS)
    assert clamps.conflicts == clamps.unknown == clamps.replaced == []
    assert clamps.gate.tolist()[:15] == [1, 0, 1, 1, -1, -1, 1, -1, -1, 1, 1, -1, 1, 1, -1]
    assert clamps.must.tolist() == [[3, 6], [9, 12], [10, 13]]
    assert clamps.cannot.tolist() == [[4, 7], [5, 8], [9, 10]]
    assert clamps.boxes == {2: (0.0, 0.0, 9.0, 9.0)}
    assert clamps.mixed == [(14, 17)]


def test_a_new_different_breaks_the_oldest_link_of_the_chain():
    log = [said("same", 0, 3), said("same", 3, 6), said("same", 6, 9), said("different", 0, 9)]
    clamps = resolve(log, DETECTIONS)
    assert clamps.must.tolist() == [[3, 6], [6, 9]]
    assert len(clamps.conflicts) == 1
    assert "frame 1: called one person, later answers say two" in clamps.conflicts[0]


def test_a_later_same_wins_over_an_older_different():
    clamps = resolve([said("different", 0, 3, by="ann", question="q7"), said("same", 0, 3)], DETECTIONS)
    assert clamps.must.tolist() == [[0, 3]]
    assert clamps.cannot.size == 0
    assert clamps.conflicts == [
        "answer different by ann to question q7, frame 1: called two people, later answers say one"
    ]


def test_a_later_split_cuts_an_older_chain_in_two():
    clamps = resolve([said("same", 0, 3, 6, 9, 12), said("split", 6, 9)], DETECTIONS)
    assert clamps.must.tolist() == [[0, 3], [3, 6], [9, 12]]
    assert len(clamps.conflicts) == 1


def test_a_mixed_track_never_becomes_one_person_through_older_links():
    clamps = resolve([said("same", 0, 3), said("same", 3, 6), said("mixed", 0, 3, 6)], DETECTIONS)
    assert clamps.must.tolist() == [[3, 6]]
    assert "a later answer says mixed" in clamps.conflicts[0]
    clamps = resolve([said("mixed", 0, 3, 6), said("same", 0, 3), said("same", 3, 6)], DETECTIONS)
    assert clamps.mixed == []
    assert "later answers say one person" in clamps.conflicts[0]


def test_a_rejected_box_leaves_the_chain_and_the_rest_stays_joined():
    clamps = resolve([said("same", 0, 3, 6), said("reject", 3)], DETECTIONS)
    assert clamps.must.tolist() == [[0, 6]]
    assert clamps.gate[[0, 3, 6]].tolist() == [1, 0, 1]
    assert "called real, a later answer says otherwise" in clamps.conflicts[0]


def test_links_through_one_frame_twice_are_refused():
    clamps = resolve([said("same", 0, 3), said("same", 3, 7), said("same", 1, 7)], DETECTIONS)
    assert clamps.must.tolist() == [[1, 3], [3, 7]]
    assert "another box in the same frame" in clamps.conflicts[0]


def test_who_was_somebody_else_for_a_moment_stays_one_person_but_for_that_box():
    clamps = resolve([said("same", 0, 3, 6, 9), said("same", 1, 3)], DETECTIONS)
    assert clamps.must.tolist() == [[0, 6], [1, 3], [6, 9]]
    assert "frame 1: called one person, which has another box in the same frame" in clamps.conflicts[0]
    # Told apart, it is two people from there on.
    clamps = resolve([said("same", 0, 3, 6, 9), said("different", 0, 3)], DETECTIONS)
    assert clamps.must.tolist() == [[3, 6], [6, 9]]


def test_one_answer_with_two_boxes_of_a_frame_keeps_the_first():
    clamps = resolve([said("same", 0, 3, 4, 6)], DETECTIONS)
    assert clamps.must.tolist() == [[0, 3], [3, 6]]
    assert len(clamps.conflicts) == 1


def test_renaming_part_of_a_person_keeps_the_other_part():
    clamps = resolve([said("assign", 0, 3, 6, 9, identity="A"), said("assign", 6, 9, identity="B")], DETECTIONS)
    assert clamps.must.tolist() == [[0, 3], [6, 9]]
    assert clamps.cannot.tolist() == [[0, 6]]
    assert "and 1 more" in clamps.conflicts[0]


def test_a_later_reply_replaces_the_earlier_one_to_the_same_question():
    log = [
        said("same", 0, 3, question="q", at="1"),
        said("different", 0, 4, question="q", at="1"),
        said("same", 0, 4, question="q", at="2"),
    ]
    clamps = resolve(log, DETECTIONS)
    assert clamps.must.tolist() == [[0, 4]]
    assert clamps.cannot.size == 0
    assert clamps.conflicts == []
    assert clamps.replaced == ["question q: reply of 1 was answered again"]


def test_a_withdrawn_reply_no_longer_counts_until_answered_again():
    log = [said("reject", 0, question="q", at="1"), Answer("withdraw", question="q", at="2")]
    clamps = resolve(log, DETECTIONS)
    assert not clamps
    assert clamps.replaced == ["question q: reply of 1 was withdrawn"]
    clamps = resolve([*log, said("accept", 0, question="q", at="3")], DETECTIONS)
    assert clamps.gate[0] == 1
    assert clamps.replaced == ["question q: reply of 1 was answered again"]


def test_unknown_detections_are_reported_and_the_rest_counts():
    log = [Answer("same", (IDS[0], 12345, IDS[6])), Answer("different", (IDS[1], 12345))]
    clamps = resolve(log, DETECTIONS)
    assert clamps.must.tolist() == [[0, 6]]
    assert clamps.cannot.size == 0
    assert len(clamps.unknown) == 2
    assert "1 of 3 detections are not in this annotation (first 0000000000003039)" in clamps.unknown[0]


def test_boxes_that_moved_a_little_are_found_again_by_their_place():
    context = tuple((float(DETECTIONS.frame[row]), *map(float, DETECTIONS.box[row])) for row in (0, 3))
    log = [Answer("same", (IDS[0], IDS[3]), context=context)]
    near, far = lanes(shift=3), lanes(shift=30)
    clamps = resolve(log, near)
    assert clamps.must.tolist() == [[0, 3]]
    assert clamps.rebound == {IDS[0]: 0, IDS[3]: 3}
    assert resolve(log, far).unknown
    assert not resolve(log, far)


def test_nothing_said_clamps_nothing():
    clamps = resolve([], DETECTIONS)
    assert not clamps
    np.testing.assert_array_equal(clamps.gate, Clamps.none(len(DETECTIONS)).gate)
    assert resolve([said("accept", 0)], Detections.empty(DETECTIONS.video)).unknown


def test_violations_name_what_tracks_contradict():
    log = [said("accept", 0), said("reject", 1), said("same", 3, 6), said("different", 4, 7)]
    log.append(said("refine", 3, box=(0.0, 0.0, 9.0, 9.0)))
    clamps = resolve(log, DETECTIONS)
    rows = np.array([1, 3, 6, 4, 7])
    tracks = Tracks.create(
        DETECTIONS.video, DETECTIONS.frame[rows], [1, 2, 3, 4, 4], DETECTIONS.box[rows], detection=rows
    )
    assert clamps.violations(tracks) == [
        "detection 0: answered real, in no track",
        "detection 1: rejected, in a track",
        "detections 3 and 6: one person, in tracks 2 and 3",
        "detections 4 and 7: two people, both in track 4",
        "detection 3: corrected box not used",
    ]


def test_a_long_log_resolves_quickly_and_completely():
    detections = lanes(frames=2000, count=10)
    ids = [int(i) for i in detections.id]
    log = [Answer("same", tuple(ids[lane::10])) for lane in range(10)]
    log += [Answer("different", (ids[10 * k], ids[10 * k + 11])) for k in range(1999)]
    clamps = resolve(log, detections)
    assert clamps.conflicts == []
    assert len(set(clamps.person)) == 10
