"""Questions as CVAT jobs: both forms, resumed when cut off, and every way to answer understood."""

from dataclasses import replace

import numpy as np
import pytest
from companion_world import make_scene, make_world
from cvat_standin import CvatStandin

from spam_cvat.cvat import review_tasks
from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.replies import collect
from spam_cvat.cvat.review_record import Review, load_reviews
from spam_cvat.cvat.review_tasks import guide, open_review, tracklet_labels, tracklets_of
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.tasks import read_task
from spam_cvat.errors import CvatError, InputError
from spam_cvat.review.questions import Question


@pytest.fixture(scope="module")
def scene():
    return make_scene()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(review_tasks, "STATUS_SECONDS", 0.02)


@pytest.fixture(scope="module")
def server():
    with CvatStandin() as standin:
        yield standin


@pytest.fixture(scope="module")
def annotated(server, scene, tmp_path_factory):
    made = make_world(server, tmp_path_factory.mktemp("store"), scene)
    made.annotate()
    return made


@pytest.fixture
def world(annotated):
    """The annotated task, never reviewed."""
    before = set(annotated.server.state.tasks)
    yield annotated
    for task in set(annotated.server.state.tasks) - before:
        annotated.conn.delete(f"/api/tasks/{task}", no_organization=True)
    for name in ("review.json", "review.previous.json"):
        annotated.place.delete(name)


def ids_of(world, number):
    """Stable ids of the detections of one of our tracks, in frame order."""
    annotation = world.place.annotation()
    rows = annotation.tracks.detection[annotation.tracks.rows(number)]
    return tuple(int(annotation.detections.id[row]) for row in rows[rows >= 0])


def add_users(world, *names):
    for name in names:
        if world.server.state.user_named(name) is None:
            world.server.add_user(name)


def spread(ids, count):
    return tuple(ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, count).round().astype(int)))


def craft(world):
    """One question of each kind about the longest tracks."""
    annotation = world.place.annotation()
    lengths = np.diff(annotation.tracks.track_start)
    first, second = (int(annotation.tracks.ids[k]) for k in np.argsort(-lengths)[:2])
    one, two = ids_of(world, first), ids_of(world, second)
    half = len(two) // 2
    moments = spread(one, 6)
    cuts = tuple((one[one.index(b) - 1], b) for b in moments[1:])
    return {
        "TRACK": Question("TRACK", one, moments=moments, cuts=cuts),
        "SAME": Question(
            "SAME", two[:half], (two[half:], one[half:]), spread(two[:half], 3), (two[half:][:2], one[half:][:2])
        ),
        "SWITCH": Question("SWITCH", one, moments=moments, cuts=cuts, price=2.0),
        "FIX": Question("FIX", one[3:4], moments=one[3:4], price=2.0),
    }


def ask(world, questions, **options):
    task = read_task(world.conn, world.task)
    with world.place.lock():
        return open_review(world.conn, world.place, task, world.place.annotation(), questions, **options)


def replies(world):
    review = world.last_review()
    return {r.asked.question.id: r for r in collect(world.conn, review, world.place.annotation().detections).replies}


@pytest.mark.parametrize("form", ["sheets", "tracklets"])
def test_a_review_is_a_task_of_its_own_with_a_job_per_batch(world, form):
    add_users(world, "ann", "bob")
    questions = list(craft(world).values())
    report = ask(world, questions, form=form, assignees=("ann", "bob"), questions_per_job=2)
    assert (report.created, report.questions, report.kinds) == (True, 4, {"TRACK": 1, "SAME": 1, "SWITCH": 1, "FIX": 1})
    assert [(job.questions, job.assignee) for job in report.jobs] == [(2, "ann"), (2, "bob")]
    info = read_task(world.conn, report.task)
    assert info.project is None
    assert report.jobs[1].url == (
        f"{world.conn.url}/tasks/{report.task}/jobs/{report.jobs[1].id}"
        f"?defaultWorkspace=attributes&frame={info.annotation_jobs[1].start}"
    )
    review = world.last_review()
    assert info.frame_names == tuple(name for asked in review.asked for name in asked.files)
    assert review.state == "open"
    assert Review.from_json(review.to_json()) == review
    guides = world.conn.get(f"/api/tasks/{report.task}")["guide_id"]
    assert report.jobs[0].url in world.conn.get(f"/api/guides/{guides}")["markdown"]


def test_nothing_is_preset(world):
    ask(world, list(craft(world).values()), form="tracklets")
    values = [
        item["value"]
        for job in world.last_review().jobs
        for kind in ("shapes", "tracks")
        for row in world.annotations(job)[kind]
        for item in row["attributes"]
    ]
    assert values.count("?") == 6
    assert set(values) == {"?", "asked", "cand 1", "cand 2"}


def test_a_tracklet_question_shows_six_to_twelve_real_frames(world):
    questions = craft(world)
    ask(world, [questions["TRACK"], questions["SAME"]], form="tracklets")
    review = world.last_review()
    for asked in review.asked:
        assert 6 <= len(asked.files) <= 12
        assert list(asked.sources) == sorted(set(asked.sources))
    assert sorted(review.asked[1].objects.values()) == ["asked", "cand 1", "cand 2"]
    # Tracks are closed where their question ends: CVAT would carry them into the next one.
    track = world.annotations(review.jobs[0])["tracks"][0]
    assert track["shapes"][-1]["outside"]
    assert track["shapes"][-1]["frame"] <= len(review.asked[0].files)


def test_asking_again_finds_the_open_review(world):
    questions = craft(world)
    first = ask(world, [questions["TRACK"], questions["SAME"]])
    again = ask(world, [questions["TRACK"]])
    assert (again.created, again.task) == (False, first.task)
    more = ask(world, list(questions.values()))
    assert more.created
    assert more.questions == 2
    assert len(load_reviews(world.place)) == 2


@pytest.mark.parametrize(
    "route", ["/api/tasks", "/api/tasks/*/data", "/api/jobs/*/annotations", "/api/guides", "/api/jobs/*"]
)
@pytest.mark.parametrize("kind", ["drop", "drop-after"])
def test_a_creation_cut_off_anywhere_is_resumed(world, route, kind):
    add_users(world, "ann")
    questions = list(craft(world).values())
    method = {"/api/jobs/*/annotations": "PUT", "/api/jobs/*": "PATCH"}.get(route, "POST")
    before = len(world.server.state.tasks)
    # A PUT is sent four times before the connection is given up, since it may be.
    count = 4 if method == "PUT" else 1
    with world.server.failing(route, method, kind=kind, count=count) as fault, pytest.raises(CvatError):
        ask(world, questions, assignees=("ann",))
    assert fault.struck
    report = ask(world, questions, assignees=("ann",))
    assert len(world.server.state.tasks) == before + 1
    assert [job.assignee for job in report.jobs] == ["ann"]
    review = world.last_review()
    assert review.state == "open"
    found = world.annotations(review.jobs[0])
    assert (len(found["tags"]), len(found["shapes"])) == (3, 1)


def test_who_and_how_are_checked_before_anything_is_made(world):
    questions = list(craft(world).values())
    before = len(world.server.state.tasks)
    with pytest.raises(InputError, match="no user 'nobody'"):
        ask(world, questions, assignees=("nobody",))
    with pytest.raises(InputError, match="not one of sheets, tracklets"):
        ask(world, questions, form="film")
    with pytest.raises(InputError, match="at least one"):
        ask(world, questions, questions_per_job=0)
    assert len(world.server.state.tasks) == before


def test_a_read_only_token_is_told_apart(world):
    reader = connect(world.server.url, world.server.token("admin"))
    task = read_task(world.conn, world.task)
    with pytest.raises(CvatError, match="read_only"):
        open_review(reader, world.place, task, world.place.annotation(), list(craft(world).values()))


def test_questions_on_deleted_frames_are_left_out(server, scene, tmp_path):
    world = make_world(server, tmp_path / "store", scene)
    world.annotate()
    questions = craft(world)
    annotation = world.place.annotation()
    row = int(np.flatnonzero(annotation.detections.id == np.uint64(questions["FIX"].subject[0]))[0])
    world.conn.patch(f"/api/tasks/{world.task}/data/meta", {"deleted_frames": [int(annotation.detections.frame[row])]})
    report = ask(world, [questions["FIX"]])
    assert report.task is None
    assert "left out" in report.notes[0]


def test_a_review_lives_in_the_organization_of_its_task(server, annotated, tmp_path):
    organization = server.add_organization("lab")
    made = server.create_task_from_video([np.full((180, 240, 3), 99, np.uint8)] * 48, organization=organization)
    world = replace(annotated, store=Store(tmp_path / "store"), task=made.id)
    world.place.save_annotation(annotated.place.annotation())
    report = ask(world, list(craft(world).values()))
    assert world.conn.get(f"/api/tasks/{report.task}", no_organization=True)["organization"] == organization.id
    assert world.conn.client.organization_slug is None


def answered(world, kind, form, gesture, **reply):
    """Ask one question, let a human do something, finish; the reply as it is understood."""
    question = craft(world)[kind]
    ask(world, [question], form=form)
    review = world.last_review()
    page = world.server.open_page("admin", review.jobs[0])
    asked = review.asked[0]
    gesture(page, asked, {role: number for number, role in asked.objects.items()})
    page.save()
    page.finish()
    return question, replies(world)[question.id]


def kinds(reply):
    return [(answer.kind, answer.detections) for answer in reply.answers]


def test_a_tag_left_alone_is_no_answer(world):
    _, reply = answered(world, "TRACK", "sheets", lambda page, asked, tracks: None)
    assert (reply.value, reply.answers) == ("?", ())


def test_keys_on_sheets(world):
    def press(page, asked, tracks):
        page.answer(page.of_kind("tags")[0]["id"], "cand 2")

    question, reply = answered(world, "SAME", "sheets", press)
    assert ("same", (question.subject[-1], question.candidates[1][0])) in kinds(reply)
    assert all(answer.question == question.id and answer.job == str(reply.job) for answer in reply.answers)


FIXES = {
    "dragged": (lambda page, shape: page.move_box(shape, (5, 6, 50, 90)), "fixed", (5, 6, 50, 90)),
    "dragged, key ok": (
        lambda page, shape: (page.move_box(shape, (5, 6, 50, 90)), page.answer(shape, "ok", kind="shapes")),
        "fixed",
        (5, 6, 50, 90),
    ),
    "key ok": (lambda page, shape: page.answer(shape, "ok", kind="shapes"), "ok", None),
    "key fixed, nothing moved": (lambda page, shape: page.answer(shape, "fixed", kind="shapes"), "ok", None),
    "key not a person": (lambda page, shape: page.answer(shape, "not a person", kind="shapes"), "not a person", None),
    "deleted": (lambda page, shape: page.delete(shape, kind="shapes"), "not a person", None),
    "deleted and drawn": (
        lambda page, shape: (page.delete(shape, kind="shapes"), page.draw("FIX the box", 0, (5, 6, 50, 90))),
        "fixed",
        (5, 6, 50, 90),
    ),
    "left alone": (lambda page, shape: None, "?", None),
}


@pytest.mark.parametrize("name", FIXES)
def test_every_way_to_fix_a_box(world, name):
    gesture, value, box = FIXES[name]
    _, reply = answered(world, "FIX", "sheets", lambda page, asked, tracks: gesture(page, tracks["asked"]))
    assert reply.value == value
    assert (reply.answers[0].box if reply.answers else None) == box


def frame_of(world, asked, identity):
    """Place in the job of a detection's frame."""
    detections = world.place.annotation().detections
    return asked.sources.index(int(detections.frame[detections.id == np.uint64(identity)][0]))


def test_gestures_on_tracklets(world):
    questions = craft(world)
    order = [questions["TRACK"], questions["SAME"]]
    ask(world, order, form="tracklets")
    review = world.last_review()
    page = world.server.open_page("admin", review.jobs[0])
    whole, pick = review.asked
    one = {role: number for number, role in whole.objects.items()}["asked"]
    two = {role: number for number, role in pick.objects.items()}
    subject = whole.question.moments
    page.move_box(one, (1, 2, 30, 40), frame=frame_of(world, whole, subject[1]))
    page.set_outside(one, frame_of(world, whole, subject[2]))
    page.set_occluded(one, frame_of(world, whole, subject[3]))
    page.merge([two["asked"], two["cand 1"]])
    page.delete(two["cand 2"], kind="tracks")
    page.draw("REAL person?", 0, (200, 1, 230, 20))
    page.save()
    page.finish()
    found = replies(world)
    said = found[whole.question.id]
    assert said.value == "by hand"
    assert sorted(kinds(said)) == sorted([("refine", subject[1:2]), ("reject", subject[2:3]), ("accept", subject[3:4])])
    assert said.drawn == ((whole.sources[0], (200, 1, 230, 20)),)
    picked = dict(kinds(found[pick.question.id]))
    assert picked["same"] == (pick.question.subject[-1], pick.question.candidates[0][0])
    assert picked["reject"] == dict(tracklets_of(pick.question))["cand 2"]


def test_a_split_says_where_the_person_changes(world):
    def cut(page, asked, tracks):
        page.split(tracks["asked"], 3)

    question, reply = answered(world, "SWITCH", "tracklets", cut)
    assert kinds(reply) == [("split", (question.moments[2], question.moments[3]))]


def test_keys_and_gestures_together(world):
    def both(page, asked, tracks):
        page.answer(tracks["asked"], "real", kind="tracks")
        page.move_box(tracks["asked"], (1, 2, 30, 40), frame=0)

    question, reply = answered(world, "TRACK", "tracklets", both)
    assert reply.value == "real"
    assert kinds(reply)[-1] == ("refine", question.moments[:1])


def test_a_question_whose_frame_was_deleted_is_not_answered(world):
    _, reply = answered(world, "TRACK", "sheets", lambda page, asked, tracks: page.delete_frame(0))
    assert reply.value == "?"
    assert "deleted" in reply.notes[0]


def test_two_tags_that_disagree_are_no_answer(world):
    question = craft(world)["TRACK"]
    ask(world, [question])
    job = world.last_review().jobs[0]
    tag = world.annotations(job)["tags"][0]
    spec = tag["attributes"][0]["spec_id"]
    extra = [
        {"frame": 0, "label_id": tag["label_id"], "group": 0, "source": "manual",
         "attributes": [{"spec_id": spec, "value": value}]}
        for value in ("real", "false")
    ]  # fmt: skip
    world.conn.patch(f"/api/jobs/{job}/annotations/", {"tags": extra, "shapes": [], "tracks": [], "version": 0},
                     query={"action": "create"})  # fmt: skip
    world.conn.patch(f"/api/jobs/{job}", {"state": "completed"})
    reply = replies(world)[question.id]
    assert reply.value == "?"
    assert "false and real" in reply.notes[0]


def test_labels_are_those_that_were_measured(spam_cvat_facts):
    import json

    from spam_cvat.review.questions import review_labels

    measured = json.loads((spam_cvat_facts / "samples" / "review" / "schema_recommended.json").read_text())
    for label, known in zip(review_labels(), measured, strict=True):
        assert (label["name"], label["type"]) == (known["name"], known["type"])
        assert label["attributes"][0]["values"][0] == known["attributes"][0]["default_value"] == "?"
        assert len(label["attributes"][0]["values"]) <= 10
    # Merging tracks of different labels silently does nothing: those of one question share a label.
    assert {label["type"] for label in tracklet_labels()} == {"rectangle"}


def test_the_guide_names_only_what_is_asked():
    text = guide("sheets", ["SAME"], ["| 1 | [job 5](http://x) | 25 |"])
    assert "SAME person?" in text
    assert "SWITCH" not in text
    assert "merge tracks" not in text
    assert "merge tracks" in guide("tracklets", ["SAME"], [])
