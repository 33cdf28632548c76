import json
from dataclasses import replace

import pytest
from review_scenes import detected, lane, people

from spam_cvat.answers import resolve
from spam_cvat.errors import InputError
from spam_cvat.review.questions import PRICES, REPLIES, Question, Reply, cost, review_labels, to_answers

DETECTIONS = detected(people())


def ids(rows):
    return tuple(int(DETECTIONS.id[row]) for row in rows)


FIRST, REST, OTHER = (ids(lane(DETECTIONS, *piece)) for piece in [(0, 0, 30), (0, 33, 60), (1, 31, 60)])
TRACK = Question("TRACK", FIRST, moments=FIRST[::10], cuts=((FIRST[4], FIRST[5]), (FIRST[14], FIRST[15])))
SAME = Question("SAME", FIRST, (OTHER, REST), FIRST[-1:], (OTHER[:1], REST[:1]))
SWITCH = replace(TRACK, kind="SWITCH", price=PRICES["SWITCH"])
FIX = Question("FIX", FIRST[:1], moments=FIRST[:1], price=PRICES["FIX"])
BOX = (1.0, 2.0, 3.0, 4.0)


def meaning(question, value, box=None):
    """(kind, number of detections) of each answer."""
    return [
        (answer.kind, len(answer.detections))
        for answer in to_answers(question, Reply(value, box), "ann", "2030-01-01", "7")
    ]


@pytest.mark.parametrize(
    ("question", "value", "expected"),
    [
        # From the first crop to the last: what lies outside was not seen.
        (TRACK, "real", [("same", 21)]),
        (TRACK, "false", [("reject", 30)]),
        (TRACK, "mixed", [("mixed", 3)]),
        (TRACK, "unsure", []),
        (SAME, "cand 1", [("same", 2)]),
        # The first candidate that shows A is asked for, so choosing the second says that the first is somebody else.
        (SAME, "cand 2", [("same", 2), ("different", 2)]),
        (SAME, "none", [("different", 2), ("different", 2)]),
        (SAME, "unsure", []),
        (SAME, "cand 3", []),  # a key that the sheet does not offer
        (SWITCH, "one person", [("same", 21)]),
        (SWITCH, "crop 2", [("different", 2)]),
        (SWITCH, "crop 3", [("different", 2)]),
        (SWITCH, "crop 4", []),
        (SWITCH, "unsure", []),
        (FIX, "ok", [("accept", 1)]),
        (FIX, "not a person", [("reject", 1)]),
        (TRACK, "?", []),
        (TRACK, "", []),
    ],
)
def test_every_reply_means_what_it_says(question, value, expected):
    assert meaning(question, value) == expected


def test_a_drawn_box_is_taken_and_a_missing_one_refused():
    (answer,) = to_answers(FIX, Reply("fixed", BOX))
    assert (answer.kind, answer.box, answer.clicks) == ("refine", BOX, 2.0)
    with pytest.raises(InputError, match="without a box"):
        to_answers(FIX, Reply("fixed"))


def test_the_price_is_charged_once_per_reply():
    for question in (TRACK, SAME, SWITCH, FIX):
        for value in question.choices:
            reply = Reply(value, BOX if value == "fixed" else None)
            answers = to_answers(question, reply)
            if answers:
                assert sum(answer.clicks for answer in answers) == cost(question, reply) <= question.price


def test_answers_carry_who_when_where_and_the_question():
    for answer in to_answers(SAME, Reply("cand 2"), "ann", "2030-01-01", "7"):
        assert (answer.by, answer.at, answer.job, answer.question) == ("ann", "2030-01-01", "7", SAME.id)
        assert answer.context == ()
    (answer, _) = to_answers(SAME, Reply("cand 2"), detections=DETECTIONS)
    assert answer.context == ((29.0, 40.0, 100.0, 90.0, 230.0), (33.0, 40.0, 100.0, 90.0, 230.0))


def test_a_switch_says_no_more_than_was_seen():
    """Of the two boxes between which the model would cut the human saw neither."""
    clamps = resolve(to_answers(SWITCH, Reply("crop 3")), DETECTIONS)
    assert clamps.conflicts == clamps.unknown == []
    assert DETECTIONS.id[clamps.cannot].tolist() == [list(SWITCH.moments[1:3])]
    assert (clamps.gate == -1).all()


def test_ids_are_stable_and_tell_questions_apart():
    assert TRACK.id == replace(TRACK, gain=5.0, probability=0.3).id
    assert len({TRACK.id, SAME.id, SWITCH.id, FIX.id, replace(TRACK, subject=FIRST[1:]).id}) == 5
    assert SAME.id != replace(SAME, candidates=SAME.candidates[::-1]).id
    # The crops shown decide what "crop 2" means, so they are part of the question.
    assert SWITCH.id != replace(SWITCH, moments=FIRST[1::10]).id


@pytest.mark.parametrize("question", [TRACK, SAME, SWITCH, FIX])
def test_json_round_trip_loses_nothing(question):
    question = replace(question, gain=1.5, probability=0.25, entropy=0.5)
    again = Question.from_json(json.loads(json.dumps(question.to_json())))
    assert again == question
    assert again.to_json() == question.to_json()


def test_a_changed_question_is_refused():
    data = TRACK.to_json()
    with pytest.raises(InputError, match="changed"):
        Question.from_json(data | {"subject": data["subject"][1:]})
    with pytest.raises(InputError, match="not a question"):
        Question.from_json({"kind": "TRACK"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "WHO"},
        {"subject": ()},
        {"candidates": (REST,), "candidate_moments": (REST[:1],)},
        {"moments": FIRST[:9], "cuts": ()},
        {"cuts": ((1, 2),)},
    ],
)
def test_what_cannot_be_asked_is_refused(wrong):
    with pytest.raises(InputError):
        replace(TRACK, **wrong)


def test_labels_are_those_that_the_page_was_tried_with(spam_cvat_facts):
    tried = json.loads((spam_cvat_facts / "samples/review/schema_recommended.json").read_text())
    ours = review_labels()
    assert [label["name"] for label in ours] == [label["name"] for label in tried]
    for label, example in zip(ours, tried, strict=True):
        assert {**label, "attributes": []} == {**example, "attributes": []}
        (attribute,), (seen,) = label["attributes"], example["attributes"]
        assert {**attribute, "values": []} == {**seen, "values": []}
        # More candidates than were tried, in the same order: "?" is key 0 and the default.
        assert [value for value in attribute["values"] if value in seen["values"]] == seen["values"]
        assert attribute["values"][0] == attribute["default_value"] == "?"
        assert len(attribute["values"]) <= 10


def test_number_keys_name_the_candidate_and_the_crop():
    assert [REPLIES["SAME"][key - 1] for key in range(1, 7)] == [f"cand {key}" for key in range(1, 7)]
    assert [REPLIES["SWITCH"][key - 1] for key in range(2, 9)] == [f"crop {key}" for key in range(2, 9)]
