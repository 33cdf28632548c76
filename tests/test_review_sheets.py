from dataclasses import replace

import numpy as np
import pytest
from review_scenes import annotated, detected, lane, people

from spam_cvat.errors import InputError
from spam_cvat.review.questions import MAX_CANDIDATES, Question
from spam_cvat.review.sheets import CANDIDATES, CHIP, GROUND, SUBJECT, fix_view, needed_frames, render_sheet

TRUTH = people()
DETECTIONS = detected(TRUTH)
ANNOTATION = annotated(DETECTIONS, [lane(DETECTIONS, number) for number in range(4)])
PAINT = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 200))


def frame(number: int) -> np.ndarray:
    """A grey frame with a coloured figure per lane."""
    image = np.full((360, 640, 3), 90, np.uint8)
    image[:, :, 0] += np.uint8(number)
    for k, colour in enumerate(PAINT):
        left = 40 + 120 * k
        image[100:230, left : left + 50] = colour
    return image


def ids(rows):
    return tuple(int(DETECTIONS.id[row]) for row in rows)


A = lane(DETECTIONS, 0)
STRIP = Question("TRACK", ids(A), moments=ids(A[3::8]))
PICK = Question(
    "SAME",
    ids(A[:20]),
    tuple(ids(lane(DETECTIONS, k % 4, 22 + k, 40 + k)) for k in range(MAX_CANDIDATES)),
    ids(A[2:20:6]),
    tuple(ids(lane(DETECTIONS, k % 4, 22 + k, 24 + k)) for k in range(MAX_CANDIDATES)),
)
SINGLE = replace(PICK, candidates=PICK.candidates[:1], candidate_moments=PICK.candidate_moments[:1])
EVERY = [STRIP, PICK, SINGLE, replace(STRIP, kind="SWITCH"), Question("FIX", ids(A[:1]), moments=ids(A[:1]))]


def has(sheet, colour, tolerance=3):
    return (np.abs(sheet[..., ::-1].astype(int) - np.array(colour)).max(2) <= tolerance).sum()


@pytest.mark.parametrize("question", EVERY, ids=lambda q: f"{q.kind}-{len(q.candidates)}")
def test_sheets_have_the_page_s_size_and_leave_its_corner_empty(question):
    sheet = render_sheet(question, ANNOTATION, frame)
    assert sheet.shape == (720, 1280, 3)
    assert sheet.dtype == np.uint8
    assert (sheet[: CHIP[1], : CHIP[0]] == np.array(GROUND[::-1])).all()
    assert (sheet != np.array(GROUND[::-1])).any(2).mean() > 0.2


@pytest.mark.parametrize("question", EVERY, ids=lambda q: f"{q.kind}-{len(q.candidates)}")
def test_the_same_question_gives_the_same_picture_from_few_frames(question):
    asked: list[int] = []

    def counted(number):
        asked.append(number)
        return frame(number)

    sheet = render_sheet(question, ANNOTATION, counted)
    np.testing.assert_array_equal(sheet, render_sheet(question, ANNOTATION, frame))
    assert asked == needed_frames(question, DETECTIONS)  # each once, ascending
    assert len(asked) <= len(question.shown) + 2


def test_every_candidate_has_its_colour_and_the_subject_its_own():
    sheet = render_sheet(PICK, ANNOTATION, frame)
    for colour in (SUBJECT, *CANDIDATES):
        assert has(sheet, colour) > 200
    alone = render_sheet(SINGLE, ANNOTATION, frame)
    assert has(alone, CANDIDATES[0]) > 200
    assert has(alone, CANDIDATES[2]) == 0


def test_crops_show_the_person_in_the_box():
    sheet = render_sheet(STRIP, ANNOTATION, frame)
    tiles = sheet[116:366]
    assert has(tiles, PAINT[0][::-1]) > 8 * 4000
    assert has(tiles, PAINT[1][::-1]) == 0  # the neighbour stands further away than the crop reaches


def test_boxes_over_the_border_are_drawn_with_what_there_is():
    moved = detected(replace(TRUTH, box=TRUTH.box + np.array([-70, 150, -70, 150], np.float32)))
    rows = np.flatnonzero(moved.box[:, 0] < 0)[:8]
    question = Question("TRACK", tuple(map(int, moved.id[rows])), moments=tuple(map(int, moved.id[rows])))
    assert render_sheet(question, annotated(moved, [rows.tolist()]), frame).shape == (720, 1280, 3)


def test_a_box_wholly_outside_the_frame_can_be_drawn():
    moved = detected(replace(TRUTH, box=TRUTH.box + np.array([-700, 0, -700, 0], np.float32)))
    question = Question("TRACK", (int(moved.id[0]),), moments=(int(moved.id[0]),))
    assert render_sheet(question, annotated(moved, [[0]]), frame).shape == (720, 1280, 3)


def test_a_fix_sheet_says_where_the_frame_lies():
    left, top, scale = fix_view(DETECTIONS)
    sheet = render_sheet(EVERY[-1], ANNOTATION, frame)
    x, y = (int(left + (45 + 20) * scale), int(top + 165 * scale))
    assert tuple(sheet[y, x]) == pytest.approx(PAINT[0], abs=3)


def test_a_question_about_other_detections_is_refused():
    with pytest.raises(InputError, match="does not have"):
        render_sheet(replace(STRIP, moments=(1, 2)), ANNOTATION, frame)


def test_sheets_of_large_and_tall_videos_fit():
    for width, height in ((3840, 2160), (480, 1920)):
        video = replace(DETECTIONS.video, width=width, height=height)
        wide = replace(DETECTIONS, video=video)
        annotation = annotated(wide, [lane(wide, 0)])
        sheet = render_sheet(STRIP, annotation, lambda _, w=width, h=height: np.full((h, w, 3), 120, np.uint8))
        assert sheet.shape == (720, 1280, 3)
