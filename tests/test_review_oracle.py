from dataclasses import replace

import numpy as np
import pytest
from review_scenes import detected, lane, people, row_at

from spam_cvat.review.oracle import SimulatedAnnotator
from spam_cvat.review.questions import Question

TRUTH = people()
# Clutter in frames 0..19 at x 520, and a shifted box on lane 3 in frame 50.
DETECTIONS = detected(TRUTH, [(k, 520.0, 0.3) for k in range(20)] + [(50, 406.0, 0.4)])
ANNOTATOR = SimulatedAnnotator(TRUTH, DETECTIONS)


def ids(rows):
    return tuple(int(DETECTIONS.id[row]) for row in rows)


def track(rows):
    return Question("TRACK", ids(rows), moments=ids(rows[:: max(1, len(rows) // 7)])[:8])


def same(subject, *candidates):
    return Question(
        "SAME",
        ids(subject),
        tuple(map(ids, candidates)),
        ids(subject[-3:]),
        tuple(ids(rows[:2]) for rows in candidates),
    )


CLUTTER = [row_at(DETECTIONS, frame, 520.0) for frame in range(20)]
A, B = lane(DETECTIONS, 0), lane(DETECTIONS, 1)


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (track(A), "real"),
        (track(CLUTTER), "false"),
        (track(A[:30] + B[30:]), "mixed"),
        (track(CLUTTER[:3] + A[20:]), "real"),  # most crops show one person
        (same(A[:30], B[31:], A[33:]), "cand 2"),
        (same(A[:30], A[33:40], A[45:]), "cand 1"),  # the first that shows the person
        (same(A[:30], B[31:]), "none"),
        (same(CLUTTER, A[30:]), "unsure"),
    ],
)
def test_replies_follow_from_what_is_shown(question, reply):
    assert ANNOTATOR.reply(question).value == reply


@pytest.mark.parametrize(
    ("shown", "reply"), [(A[:4] + B[4:8], "crop 5"), (A[:8], "one person"), (CLUTTER[:8], "unsure")]
)
def test_a_switch_is_found_at_the_first_crop_of_somebody_else(shown, reply):
    question = Question("SWITCH", ids(shown), moments=ids(shown), price=2.0)
    assert ANNOTATOR.reply(question).value == reply


def test_boxes_are_judged_by_their_overlap():
    def fix(row):
        return ANNOTATOR.reply(Question("FIX", ids([row]), moments=ids([row])))

    assert fix(A[0]).value == "ok"
    assert fix(CLUTTER[0]).value == "not a person"
    shifted = fix(row_at(DETECTIONS, 50, 406.0))
    assert shifted.value == "fixed"
    assert shifted.box == (400.0, 100.0, 450.0, 230.0)


def test_unknown_detections_show_nobody():
    assert ANNOTATOR.reply(Question("TRACK", (1, 2), moments=(1, 2))).value == "false"


def test_errors_come_at_the_rate_asked_for_and_do_not_depend_on_the_order():
    questions = [track(A[start : start + 8]) for start in range(40)] + [
        track(B[start : start + 8]) for start in range(40)
    ]
    careless = SimulatedAnnotator(TRUTH, DETECTIONS, error_rate=0.3, seed=1)
    replies = [careless.reply(question).value for question in questions]
    wrong = sum(value != "real" for value in replies)
    assert 10 < wrong < 40
    assert "unsure" not in replies
    assert [careless.reply(question).value for question in questions[::-1]] == replies[::-1]
    other = SimulatedAnnotator(TRUTH, DETECTIONS, error_rate=0.3, seed=2)
    assert [other.reply(question).value for question in questions] != replies


def test_a_box_on_two_people_agrees_with_either():
    crowd = replace(TRUTH, box=TRUTH.box.copy())
    crowd.box[crowd.track == 2] = crowd.box[crowd.track == 1] + np.array([6, 0, 6, 0], np.float32)
    annotator = SimulatedAnnotator(crowd, DETECTIONS)
    assert annotator.people(ids(A[:1])) == [{1, 2}]
    assert annotator.reply(track(A)).value == "real"
