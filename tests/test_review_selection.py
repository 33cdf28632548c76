import numpy as np
import pytest
from review_scenes import FRAMES, annotated, detected, lane, people, row_at

from spam_cvat.answers import Answer
from spam_cvat.errors import InputError
from spam_cvat.review.proposals import LINK_DOUBT, RECOVERED, UNCONFIRMED, Scene, film_strip, propose
from spam_cvat.review.questions import MAX_CANDIDATES, MAX_MOMENTS, Reply, to_answers
from spam_cvat.review.selection import STRATEGIES, Budget, choose, select_questions

TRUTH = people()
DETECTIONS = detected(TRUTH, [(k, 520.0, 0.2) for k in range(20, 40)])
OVERLAPPING = detected(TRUTH, [(k, 42.0, 0.5) for k in range(30, 33)])
LANES = [lane(DETECTIONS, number) for number in range(4)]
CLUTTER = [row_at(DETECTIONS, frame, 520.0) for frame in range(20, 40)]


def ids(rows):
    return tuple(int(DETECTIONS.id[row]) for row in rows)


def gates(**low):
    gate = np.full(len(DETECTIONS), 0.98)
    gate[CLUTTER] = 0.3
    for rows, value in low.values():
        gate[rows] = value
    return gate


# Lane 0 is broken at frame 30 (lost for 3 frames) and a link inside lane 1 is weak; lane 2 is doubted to be real.
BROKEN = annotated(
    DETECTIONS,
    [LANES[0][:30], LANES[0][33:], LANES[1], LANES[2], LANES[3]],
    weak={(LANES[1][19], LANES[1][20]): 0.55},
    offers={(LANES[0][29], LANES[0][33]): 0.45, (LANES[1][19], LANES[0][33]): 0.2},
    gate=gates(lane2=(LANES[2], 0.4)),
)


def about(questions, kind):
    return [question for question in questions if question.kind == kind]


def test_a_broken_track_is_asked_for_its_continuation():
    question = next(q for q in about(propose(BROKEN), "SAME") if q.subject[-1] == ids(LANES[0])[29])
    assert question.candidates[question.likeliest][0] == ids(LANES[0])[33]
    assert question.price == 1
    # 30 and 27 boxes joined, at the odds that they are one person, and that there is a person at all.
    assert question.gain == pytest.approx(UNCONFIRMED * 0.98 * 0.98 * question.probability * 28.4, rel=0.02)
    confirmed = [Answer("accept", ids(LANES[0][:30]))]
    sure = next(q for q in about(propose(BROKEN, confirmed), "SAME") if q.subject == question.subject)
    assert sure.gain > question.gain / UNCONFIRMED


def test_a_weak_link_is_asked_with_its_alternatives():
    question = next(q for q in about(propose(BROKEN), "SAME") if q.subject[-1] == ids(LANES[1])[19])
    starts = [rows[0] for rows in question.candidates]
    assert starts[question.likeliest] == ids(LANES[1])[20]
    assert ids(LANES[0])[33] in starts
    frames = [int(DETECTIONS.frame[np.flatnonzero(DETECTIONS.id == start)[0]]) for start in starts]
    assert frames == sorted(frames)
    assert question.probability == pytest.approx(LINK_DOUBT * 0.45, abs=0.05)


def test_tracks_of_one_person_that_overlap_are_asked_to_be_joined():
    twin = [row_at(OVERLAPPING, frame, 42.0) for frame in range(30, 33)]
    annotation = annotated(OVERLAPPING, [lane(OVERLAPPING, 0, 0, 30) + twin, lane(OVERLAPPING, 0, 30, 60)])
    ends = {int(OVERLAPPING.frame[np.flatnonzero(OVERLAPPING.id == q.subject[-1])[0]]): q for q in propose(annotation)}
    question = ends[29]
    assert question.kind == "SAME"
    assert [rows[0] for rows in question.candidates] == [int(OVERLAPPING.id[row_at(OVERLAPPING, 30, 40.0)])]


def test_who_fills_a_gap_is_asked_although_the_link_over_it_is_sure():
    rows = LANES[0]
    annotation = annotated(DETECTIONS, [rows[:20] + rows[40:], rows[20:40]], offers={(rows[19], rows[20]): 0.6})
    question = next(q for q in about(propose(annotation), "SAME") if q.subject[-1] == ids(rows)[19])
    assert [candidate[0] for candidate in question.candidates] == [ids(rows)[20]]
    assert question.gain > 10


def test_a_doubted_track_is_worth_its_boxes():
    question = next(q for q in about(propose(BROKEN), "TRACK") if q.subject == ids(LANES[2]))
    assert question.gain == pytest.approx(0.6 * FRAMES, rel=0.05)
    assert question.probability == pytest.approx(0.6, abs=0.05)


def test_dropped_boxes_are_asked_as_one_string():
    question = next(q for q in about(propose(BROKEN), "TRACK") if q.subject == ids(CLUTTER))
    assert question.gain == pytest.approx(RECOVERED * 0.3 * 20, rel=0.01)


def test_dropped_boxes_on_tracked_people_are_not_asked():
    detections = detected(TRUTH, [(k, 48.0, 0.2) for k in range(20, 40)])
    annotation = annotated(detections, [lane(detections, 0)])
    assert len(about(propose(annotation), "TRACK")) <= 4  # lanes 1..3 dropped, lane 0 tracked: never the twin of lane 0
    twin = {int(detections.id[row_at(detections, frame, 48.0)]) for frame in range(20, 40)}
    assert all(twin.isdisjoint(question.subject) for question in propose(annotation))


def test_film_strips_show_both_sides_of_doubtful_links():
    scene = Scene(BROKEN)
    track = next(track for track in scene.tracks if int(track.rows[0]) == LANES[1][0])
    moments, cuts = film_strip(scene, track)
    assert (LANES[1][19], LANES[1][20]) in cuts
    assert 2 <= len(moments) == len(cuts) + 1 <= MAX_MOMENTS
    for left, right, (before, after) in zip(moments[:-1], moments[1:], cuts, strict=True):
        assert DETECTIONS.frame[left] <= DETECTIONS.frame[before] < DETECTIONS.frame[after] <= DETECTIONS.frame[right]


def test_crops_of_covered_boxes_are_avoided():
    detections = detected(TRUTH, [(k, 60.0, 0.99) for k in range(0, 28)])
    front = [row_at(detections, frame, 60.0) for frame in range(28)]
    detections.box[front, 3] += 40  # nearer to the camera
    rows = lane(detections, 0, 0, 30)
    scene = Scene(annotated(detections, [rows, front]))
    assert scene.best(np.array(rows)) in rows[28:]


def test_questions_that_answers_imply_are_not_asked():
    log = [Answer("same", ids(rows)) for rows in LANES[2:]]
    log += to_answers(about(propose(BROKEN), "SAME")[0], Reply("none"))
    kept = propose(BROKEN, log)
    assert all(q.subject not in (ids(LANES[2]), ids(LANES[3])) for q in about(kept, "TRACK"))
    apart = {answer.detections for answer in log if answer.kind == "different"}
    assert all((q.subject[-1], rows[0]) not in apart for q in about(kept, "SAME") for rows in q.candidates)
    rejected = propose(BROKEN, [Answer("reject", ids(CLUTTER))])
    assert all(set(q.subject).isdisjoint(ids(CLUTTER)) for q in rejected)


def test_a_mixed_track_is_asked_where_it_switches():
    question = next(q for q in about(propose(BROKEN), "TRACK") if q.subject == ids(LANES[1]))
    log = to_answers(question, Reply("mixed"))
    switch = next(q for q in propose(BROKEN, log) if q.subject == question.subject)
    assert (switch.kind, switch.price, switch.probability) == ("SWITCH", 2.0, 1.0)
    assert switch.moments == question.moments
    assert len(switch.cuts) == len(switch.moments) - 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("clicks", [1, 3, 1000])
def test_the_budget_is_kept_and_nothing_is_asked_twice(strategy, clicks):
    chosen = select_questions(BROKEN, Budget(clicks=clicks), strategy=strategy)
    assert 0 < sum(question.price for question in chosen) <= clicks
    assert len({question.id for question in chosen}) == len(chosen)
    ends = [question.subject[-1] for question in about(chosen, "SAME")]
    assert len(set(ends)) == len(ends)
    cut = {pair[0] for question in about(chosen, "TRACK") for pair in question.cuts}
    assert cut.isdisjoint(ends)
    again = select_questions(BROKEN, Budget(clicks=clicks), strategy=strategy)
    assert [question.id for question in again] == [question.id for question in chosen]


def test_gain_puts_the_most_useful_first():
    gains = [question.gain / question.price for question in select_questions(BROKEN, Budget(clicks=50))]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 10


def test_asked_questions_and_unsure_topics_are_left_out():
    first = select_questions(BROKEN, Budget(clicks=1))[0]
    assert first.id not in {q.id for q in select_questions(BROKEN, Budget(clicks=50), exclude={first.id})}
    later = select_questions(BROKEN, Budget(clicks=50), exclude={first.topic})
    assert all(q.topic != first.topic for q in later)


def test_random_depends_on_the_seed_alone():
    def order(seed):
        return [q.id for q in select_questions(BROKEN, Budget(clicks=5), strategy="random", seed=seed)]

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_an_unknown_strategy_is_refused():
    with pytest.raises(InputError, match="not one of gain, spam"):
        choose([], 5, strategy="best")


@pytest.mark.parametrize(
    ("text", "clicks"), [("3%", 90), ("0.1 %", 3), ("120", 120), (" 7.5 ", 7.5), ("100%", 3000), ("3.3%", 99)]
)
def test_budgets_are_clicks_or_a_share_of_full_manual_work(text, clicks):
    assert Budget.parse(text).of(1000) == pytest.approx(clicks)


@pytest.mark.parametrize("text", ["", "%", "-3%", "0", "abc", "101%", "nan", "inf", "3%%"])
def test_budgets_that_make_no_sense_are_refused(text):
    with pytest.raises(InputError, match="give clicks"):
        Budget.parse(text)


def test_nothing_to_ask_about_nothing():
    assert propose(annotated(DETECTIONS.window(0, 0), [])) == []


def test_many_candidates_are_cut_to_six():
    truth = people(lanes=5)
    detections = detected(truth)
    rows = [lane(detections, number) for number in range(5)]
    pieces = [part for r in rows for part in (r[:20], r[22:40], r[43:])]
    offers = {(rows[0][19], r[start]): 0.1 for r in rows for start in (22, 43)}
    annotation = annotated(detections, pieces, offers=offers)
    question = next(
        q for q in propose(annotation) if q.kind == "SAME" and q.subject[-1] == int(detections.id[rows[0][19]])
    )
    assert len(question.candidates) == MAX_CANDIDATES
