"""The one-click protocol, against a server that calls the function frame by frame as CVAT does."""

import base64
import itertools
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from cvat_standin import CvatStandin
from cvat_standin.functions import Request
from moving_squares import NAME, SquareFinder, as_handler, clip, join_by_colour, make_function, png

from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.push import load_record
from spam_cvat.cvat.tasks import read_task, read_tracks
from spam_cvat.serving import session as session_module

FRAMES = 14


@pytest.fixture(autouse=True)
def engine_by_colour(monkeypatch):
    monkeypatch.setattr(session_module, "annotate", join_by_colour)


@pytest.fixture(scope="module")
def server():
    with CvatStandin(annotation_workers=2) as standin:
        yield standin


@pytest.fixture(scope="module")
def conn(server):
    return connect(server.url, server.token("admin", read_only=False))


class Calls:
    """Stands between CVAT and the function: counts calls, and does something at one of them."""

    def __init__(self, server, function):
        self.server, self.function, self.count, self.answers = server, function, 0, []
        self.before, self.after = {}, {}
        server.functions.add(NAME, self)

    def __call__(self, body):
        number, self.count = self.count, self.count + 1
        self.before.get(number, lambda: None)()
        answer = as_handler(self.function)(body)
        self.answers.append(answer)
        self.after.get(number, lambda: None)()
        return answer


def new_task(server, frames=FRAMES, shade=0, **more):
    return server.create_task_from_video(clip(frames, shade), **({"segment_size": 6, "overlap": 0} | more))


def click(conn, task, **more):
    return conn.post("/api/lambda/requests", {"function": NAME, "task": task.id, **more})


def requests(conn):
    return {request["function"]["task"]: request for request in conn.get("/api/lambda/requests")}


def shapes_and_tracks(server, task):
    """How many shapes and tracks the task holds."""
    tables = [job.annotations for job in server.jobs(task)]
    return tuple(sum(len(table.table(kind)) for table in tables) for kind in ("shapes", "tracks"))


def fetched_frames(server, task):
    """How many single frames of the task have been asked for."""
    return sum(call.path == f"/api/tasks/{task.id}/data" and "type=frame" in call.query for call in server.calls)


def assert_squares(conn, server, task, numbers=None, sources=None):
    """The task holds the two squares, each once, where they are in the given frames of the task."""
    info = read_task(conn, task.id)
    numbers = info.frames() if numbers is None else numbers
    sources = numbers if sources is None else sources
    found = read_tracks(conn, info).tracks
    assert shapes_and_tracks(server, task)[0] == 0
    assert sorted(found.frame.tolist()) == sorted([*numbers, *numbers])
    for frame, source in zip(numbers, sources, strict=True):
        boxes = sorted(found.box[found.frame == frame].tolist())
        truth = sorted([[5 + 3 * source, 10, 25 + 3 * source, 40], [120 - 3 * source, 60, 140 - 3 * source, 90]])
        np.testing.assert_allclose(boxes, np.clip(truth, 0, [160, 120, 160, 120]), atol=1.5, err_msg=f"frame {frame}")


def test_one_click_gives_tracks_and_no_loose_boxes(server, conn, tmp_path):
    task = new_task(server)
    function = make_function(server, tmp_path)
    calls = Calls(server, function)
    click(conn, task)
    assert server.wait()
    assert (requests(conn)[task.id]["status"], requests(conn)[task.id]["progress"]) == ("finished", 100)
    assert calls.answers == [[]] * FRAMES
    assert shapes_and_tracks(server, task) == (0, 6), "two squares in three jobs"
    assert_squares(conn, server, task)
    (run,) = function.store.runs()
    assert (run["status"], run["outcome"]["tracks"], run["outcome"]["boxes"]) == ("done", 2, 2 * FRAMES)
    annotation = function.store.task(server.url, task.id).annotation()
    assert annotation.provenance["request"] == f"action=autoannotate&target=task&target_id={task.id}"
    assert annotation.tracks.ids.tolist() == [1, 2]


def test_the_frames_are_checked_but_not_fetched_all_over(server, conn, tmp_path):
    task = new_task(server)
    Calls(server, make_function(server, tmp_path))
    click(conn, task)
    assert server.wait()
    assert fetched_frames(server, task) == 3, "the first, each tenth and the last"


def test_every_frame_is_checked_when_asked_for(server, conn, tmp_path):
    task = new_task(server)
    Calls(server, make_function(server, tmp_path, verify_all=True))
    click(conn, task)
    assert server.wait()
    assert fetched_frames(server, task) == FRAMES
    assert_squares(conn, server, task)


def test_a_click_on_a_job_writes_into_that_job_alone(server, conn, tmp_path):
    task = new_task(server)
    Calls(server, make_function(server, tmp_path))
    job = server.jobs(task)[1]
    click(conn, task, job=job.id)
    assert server.wait()
    assert_squares(conn, server, task, range(6, 12))


def test_jobs_clicked_one_after_the_other_have_identities_of_their_own(server, conn, tmp_path):
    task = new_task(server)
    function = make_function(server, tmp_path)
    Calls(server, function)
    for job in server.jobs(task):
        click(conn, task, job=job.id)
        assert server.wait()
    record = load_record(function.store.task(server.url, task.id), read_task(conn, task.id))
    assert sorted(entry.track for entry in record.entries) == [1, 2, 3, 4, 5, 6]
    assert_squares(conn, server, task)


def test_a_task_with_frame_step_and_deleted_frames(server, conn, tmp_path):
    task = new_task(server, start_frame=2, frame_filter="step=2")
    conn.patch(f"/api/tasks/{task.id}/data/meta", {"deleted_frames": [0, 4]})
    calls = Calls(server, make_function(server, tmp_path))
    click(conn, task)
    assert server.wait()
    numbers = [1, 2, 3, 5]
    assert calls.count == len(numbers)
    assert_squares(conn, server, task, numbers, [2 + 2 * number for number in numbers])


def test_a_second_click_changes_nothing_and_a_humans_track_stays(server, conn, tmp_path):
    task = new_task(server)
    Calls(server, make_function(server, tmp_path))
    click(conn, task)
    assert server.wait()
    before = [conn.get(f"/api/jobs/{job.id}/annotations/")["tracks"] for job in server.jobs(task)]
    click(conn, task)
    assert server.wait()
    assert [conn.get(f"/api/jobs/{job.id}/annotations/")["tracks"] for job in server.jobs(task)] == before
    page = server.open_page("admin", server.jobs(task)[0])
    touched = page.of_kind("tracks")[0]["id"]
    page.move_box(touched, [8, 12, 29, 43], frame=1)
    page.save()
    mine = conn.get(f"/api/jobs/{server.jobs(task)[0].id}/annotations/")["tracks"]
    click(conn, task)
    assert server.wait()
    after = conn.get(f"/api/jobs/{server.jobs(task)[0].id}/annotations/")["tracks"]
    assert after == mine, "neither replaced nor written a second time beside it"
    assert shapes_and_tracks(server, task) == (0, 6)


def test_a_click_that_cleans_up_first_writes_everything_anew(server, conn, tmp_path):
    task = new_task(server)
    Calls(server, make_function(server, tmp_path))
    for _ in range(2):
        click(conn, task, cleanup=True)
        assert server.wait()
        assert_squares(conn, server, task)


def test_two_tasks_at_once_are_told_apart_by_their_images(server, conn, tmp_path):
    first, second = new_task(server), new_task(server, shade=7)
    calls = Calls(server, make_function(server, tmp_path))
    # The second request comes while the first is in its midst, so that calls of both alternate.
    calls.after[5] = lambda: click(conn, second)
    click(conn, first)
    assert server.wait()
    assert_squares(conn, server, first)
    assert_squares(conn, server, second)


def test_equal_clips_in_two_tasks_at_once_are_refused_and_nothing_is_written_on_a_guess(server, conn, tmp_path):
    first, second = new_task(server), new_task(server)
    calls = Calls(server, make_function(server, tmp_path))
    started = {}

    def other_starts():
        started["request"] = click(conn, second)
        # Wait until the other worker has taken it, so that both run.
        while requests(conn)[second.id]["status"] == "queued":
            pass

    calls.before[0] = other_starts
    click(conn, first)
    assert server.wait()
    failed = [task for task in (first, second) if task.id not in requests(conn)]
    assert failed, "at least one request was refused"
    error = conn.get(f"/api/lambda/requests/action=autoannotate&target=task&target_id={failed[0].id}")["exc_info"]
    assert "two running requests show the same image" in error
    for task in (first, second):
        if task in failed:
            assert shapes_and_tracks(server, task) == (0, 0)
        else:
            assert_squares(conn, server, task)


def test_a_cancelled_run_writes_nothing_and_the_next_click_does(server, conn, tmp_path):
    task = new_task(server)
    function = make_function(server, tmp_path)
    calls = Calls(server, function)
    request = click(conn, task)
    calls.before[11] = lambda: conn.delete(f"/api/lambda/requests/{request['id']}")
    assert server.wait()
    assert calls.count == 12
    assert shapes_and_tracks(server, task) == (0, 0)
    click(conn, task)
    assert server.wait()
    assert_squares(conn, server, task)
    assert function.perception.shown < 12 + FRAMES, "what the cancelled run saw is not looked at again"


def test_a_run_cancelled_during_its_last_call_writes_nothing(server, conn, tmp_path, monkeypatch):
    task = new_task(server)
    function = make_function(server, tmp_path)
    Calls(server, function)
    request = {}

    def cancelled_meanwhile(detections, **more):
        conn.delete(f"/api/lambda/requests/{request['id']}")
        return join_by_colour(detections, **more)

    monkeypatch.setattr(session_module, "annotate", cancelled_meanwhile)
    request.update(click(conn, task))
    assert server.wait()
    assert requests(conn)[task.id]["status"] == "finished", "as CVAT shows it afterwards, which is too late to look"
    assert shapes_and_tracks(server, task) == (0, 0)
    assert [run["status"] for run in function.store.runs()] == ["cancelled"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [0, 3, FRAMES - 2, FRAMES - 1])
def test_cancel_and_immediate_restart_writes_once(tmp_path, at, workers):
    with CvatStandin(annotation_workers=workers) as server:
        conn = connect(server.url, server.token("admin", read_only=False))
        task = new_task(server)
        calls = Calls(server, make_function(server, tmp_path))
        request = click(conn, task)

        def cancel_and_restart():
            conn.delete(f"/api/lambda/requests/{request['id']}")
            click(conn, task)

        calls.before[at] = cancel_and_restart
        assert server.wait()
        assert calls.count >= FRAMES
        assert all(answer == [] for answer in calls.answers), "no loose boxes"
        if workers == 2 and shapes_and_tracks(server, task) == (0, 0):
            # Both loops ran at once, and the cancelled one's end was written over the new request's record.
            click(conn, task)
            assert server.wait()
        assert_squares(conn, server, task)


class TwoLoops:
    """Calls of a cancelled request's loop and of its successor's, in an order that the test chooses.

    The worker's copies of both records are listed as CVAT's queue would list them: the end of a loop is written over
    whatever is listed.
    """

    def __init__(self, server, task, function):
        self.server, self.function = server, function
        frames = task.media.frames
        self.images = [base64.b64encode(frames.original(frame).content).decode() for frame in range(FRAMES)]
        now = server.clock.now()
        self.records = {
            name: Request(
                id=f"action=autoannotate&target=task&target_id={task.id}",
                function=NAME,
                task=task.id,
                job=None,
                threshold=None,
                mapping=None,
                cleanup=False,
                enqueued=now + timedelta(seconds=later),
                owner=server.admin.id,
            )
            for name, later in (("old", 0), ("new", 5))
        }

    def listed(self, name, status, progress=None):
        """Show a record, as ``started``, ``queued`` or ``finished``."""
        record = replace(self.records[name], status=status, progress=progress, started=self.server.clock.now())
        record.ended = self.server.clock.now() if status == "finished" else None
        self.server.queue.store[record.id] = record

    def show(self, *frames):
        """The function's answers to calls with these frames."""
        return [as_handler(self.function)({"image": self.images[frame]}) for frame in frames]


@pytest.fixture
def two_loops(tmp_path):
    with CvatStandin() as server:
        yield TwoLoops(server, new_task(server), make_function(server, tmp_path))


def outcomes(two_loops):
    return [run["status"] for run in two_loops.function.store.runs()]


@pytest.mark.parametrize("apart", [1, 2, 5, 11])
def test_the_loop_behind_is_passed_over_when_the_end_of_the_first_hides_it(two_loops, apart):
    two_loops.listed("new", "started", 0)
    behind, answers = iter(range(FRAMES)), []
    for frame in range(FRAMES):
        answers += two_loops.show(frame)
        if frame >= apart - 1:
            answers += two_loops.show(next(behind)) if frame < FRAMES - 1 else []
    assert outcomes(two_loops) == ["done"], "the loop ahead has shown all frames under a request that is running"
    two_loops.listed("old", "finished", 100)
    answers += two_loops.show(*behind)
    assert answers == [[]] * (2 * FRAMES), "no loose boxes"
    assert outcomes(two_loops) == ["done"], "and the loop behind writes nothing"


def test_the_loop_behind_is_passed_over_when_the_request_ends_before_it(two_loops):
    two_loops.listed("new", "started", 0)
    answers = two_loops.show(0, 1, 0, 2, 3, 1, *range(4, FRAMES))
    two_loops.listed("new", "finished", 100)
    answers += two_loops.show(*range(2, FRAMES))
    assert answers == [[]] * (2 * FRAMES)
    assert outcomes(two_loops) == ["done"]
    (boxes,) = two_loops.show(3)
    assert len(boxes) == 2, "once that loop has ended, a single frame gets its boxes again"


def test_a_successor_that_begins_behind_the_cancelled_ones_end_is_passed_over(two_loops):
    two_loops.listed("old", "started")
    answers = two_loops.show(0)
    two_loops.listed("new", "queued", 0)
    answers += two_loops.show(*range(1, FRAMES))
    # Taken by another worker, and in the same moment the end of the first is written over its record.
    two_loops.listed("old", "finished", 100)
    answers += two_loops.show(*range(FRAMES))
    assert answers == [[]] * (2 * FRAMES)
    assert outcomes(two_loops) == [], "nothing is written on a guess"


def test_a_frame_shown_alone_while_its_task_is_worked_on_does_not_end_the_run(two_loops):
    two_loops.listed("new", "started", 0)
    two_loops.show(*range(10))
    assert two_loops.show(0) == [[]]
    two_loops.listed("new", "started", 71)
    two_loops.show(*range(10, FRAMES))
    assert outcomes(two_loops) == ["done"]


def test_a_frame_shown_alone_after_the_run_gets_boxes(two_loops):
    two_loops.listed("new", "started", 0)
    two_loops.show(*range(FRAMES))
    two_loops.listed("new", "finished", 100)
    assert [len(boxes) for boxes in two_loops.show(0, 5)] == [2, 2]


def test_an_error_in_the_midst_fails_the_run_and_the_next_click_carries_on(server, conn, tmp_path):
    task = new_task(server)
    finder = SquareFinder(fail_at=12)
    function = make_function(server, tmp_path, finder=finder)
    module = as_handler(function)
    server.functions.add(NAME, module)
    click(conn, task)
    assert server.wait()
    assert task.id not in requests(conn), "a failed request leaves the list"
    assert shapes_and_tracks(server, task) == (0, 0)
    assert [(run["status"], run["error"]) for run in function.store.runs()] == [("failed", "out of memory")]
    click(conn, task)
    assert server.wait()
    assert_squares(conn, server, task)
    assert finder.shown < 12 + FRAMES, "checked frames of the failed run are not looked at again"


@pytest.mark.parametrize(
    ("at", "same_store"), [(0, True), (1, False), (7, True), (7, False), (FRAMES - 1, True), (FRAMES - 1, False)]
)
def test_a_function_restarted_in_the_midst_fetches_what_it_missed(server, conn, tmp_path, at, same_store):
    task = new_task(server)
    calls = Calls(server, make_function(server, tmp_path / "first"))

    def restart():
        calls.function.close()
        calls.function = make_function(server, tmp_path / ("first" if same_store else "second"))

    calls.before[at] = restart
    click(conn, task)
    assert server.wait()
    assert all(answer == [] for answer in calls.answers)
    assert_squares(conn, server, task)


def test_a_function_restarted_in_the_midst_of_a_still_picture_fails_the_run_and_writes_nothing(server, conn, tmp_path):
    frames = 40
    task = server.create_task_from_video([clip(1)[0]] * frames)
    calls = Calls(server, make_function(server, tmp_path))

    def restart():
        calls.function.close()
        calls.function = make_function(server, tmp_path)

    calls.before[20] = restart
    made = click(conn, task)
    assert server.wait()
    record = conn.get(f"/api/lambda/requests/{made['id']}")
    assert record["status"] == "failed"
    assert "look alike" in record["exc_info"]
    assert shapes_and_tracks(server, task) == (0, 0)
    click(conn, task)
    assert server.wait()
    assert shapes_and_tracks(server, task)[1] > 0


def test_replicas_that_share_a_store_may_take_calls_in_any_order(server, conn, tmp_path):
    task = new_task(server)
    replicas = itertools.cycle([make_function(server, tmp_path, verify_all=True) for _ in range(3)])
    server.functions.add(NAME, lambda body: as_handler(next(replicas))(body))
    click(conn, task)
    assert server.wait()
    assert_squares(conn, server, task)


@pytest.mark.parametrize(("at", "verify_all"), [(4, True), (1, False), (4, False), (10, False), (FRAMES - 1, False)])
def test_a_single_frame_call_of_somebody_else_in_between_does_no_harm(server, conn, tmp_path, at, verify_all):
    task = new_task(server)
    function = make_function(server, tmp_path, verify_all=verify_all)
    calls = Calls(server, function)
    stranger = clip(40, shade=3)[9]
    answers = []
    calls.before[at] = lambda: answers.append(function.answer("POST", {"image": png(stranger)}))
    click(conn, task)
    assert server.wait()
    assert_squares(conn, server, task)
    if verify_all:
        ((status, boxes),) = answers
        assert (status, len(boxes)) == (200, 2), "and it gets its boxes"


def test_a_single_frame_call_without_any_run_gets_boxes(server, tmp_path):
    function = make_function(server, tmp_path)
    status, boxes = function.answer("POST", {"image": png(clip()[3]), "threshold": 0.5})
    assert status == 200
    assert [box["label"] for box in boxes] == ["person", "person"]
    assert sorted(box["points"] for box in boxes) == [[14.0, 10.0, 34.0, 40.0], [111.0, 60.0, 131.0, 90.0]]
    assert {box["type"] for box in boxes} == {"rectangle"}
    assert [float(box["confidence"]) for box in boxes] == [0.9, 0.9]
    assert function.answer("POST", {"image": png(clip()[3]), "threshold": 0.95}) == (200, [])


def test_a_function_that_must_not_be_a_plain_detector_refuses(server, tmp_path):
    function = make_function(server, tmp_path, plain=False)
    status, answer = function.answer("POST", {"image": png(clip()[3])})
    assert status == 400
    assert "no running request of this function shows this image" in answer["error"]


def test_a_run_of_another_function_is_none_of_ours(server, conn, tmp_path):
    task = new_task(server)
    function = make_function(server, tmp_path)
    server.functions.add("another", as_handler(function))
    conn.post("/api/lambda/requests", {"function": "another", "task": task.id})
    assert server.wait()
    assert shapes_and_tracks(server, task) == (2 * FRAMES, 0), "its calls are answered as by a plain detector"


def test_a_threshold_leaves_out_tracks_that_are_nowhere_so_sure(server, conn, tmp_path):
    task = new_task(server)
    function = make_function(server, tmp_path)
    Calls(server, function)
    click(conn, task, threshold=0.95)
    assert server.wait()
    assert shapes_and_tracks(server, task) == (0, 0)
    click(conn, task, threshold=0.5)
    assert server.wait()
    assert_squares(conn, server, task)


def test_a_last_call_that_takes_too_long_writes_nothing_and_says_what_to_do(server, conn, tmp_path, monkeypatch):
    task = new_task(server)
    function = make_function(server, tmp_path, call_seconds=1e-6)
    Calls(server, function)
    click(conn, task)
    assert server.wait()
    assert shapes_and_tracks(server, task) == (0, 0)
    (run,) = function.store.runs()
    assert "nothing was written; call the function with" in run["error"]
    status, answer = function.answer("POST", {"task": task.id})
    assert (status, answer["status"]) == (200, "done")
    assert_squares(conn, server, task)


def test_a_maintainer_needs_not_name_the_organization(server, tmp_path):
    server.add_user("mia")
    server.add_user("otto")
    lab = server.add_organization("lab", "otto")
    server.add_member(lab, "mia", "maintainer")
    task = new_task(server, owner="otto", organization=lab)
    function = make_function(server, tmp_path, user="mia")
    Calls(server, function)
    owner = connect(server.url, server.token("otto", read_only=False), organization="lab")
    click(owner, task)
    assert server.wait()
    assert_squares(owner, server, task)


def test_rectangles_in_the_task_can_be_the_detector(server, conn, tmp_path):
    task = new_task(server)
    info = read_task(conn, task.id)
    for job in info.annotation_jobs:
        shapes = [
            {"type": "rectangle", "frame": frame, "label_id": info.labels[0].id, "points": [5 + 3 * frame, 10, 25, 40]}
            for frame in range(job.start, job.stop)
        ]
        for shape in shapes:
            shape["points"][2] += 3 * shape["frame"]
        conn.patch(
            f"/api/jobs/{job.id}/annotations/",
            {"version": 0, "tags": [], "tracks": [], "shapes": shapes},
            query={"action": "create"},
        )
    function = make_function(server, tmp_path, detector="task")
    function.perception = function.sessions.perception = None
    Calls(server, function)
    click(conn, task)
    assert server.wait()
    found = read_tracks(conn, info).tracks
    assert found.frame.tolist() == list(range(FRAMES))
    np.testing.assert_allclose(found.box[7], [26, 10, 46, 40], atol=1)


def test_a_camera_that_moves_is_followed_from_call_to_call(server, conn, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (200, 400, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    images = [scene[100 : 100 + 240, 2 * k : 2 * k + 320].copy() for k in range(12)]
    task = server.create_task_from_video(images)
    seen = {}

    def keep_warps(detections, *, warps=None, **more):
        seen["warps"] = warps
        return join_by_colour(detections.select(np.zeros(len(detections), bool)), **more)

    monkeypatch.setattr(session_module, "annotate", keep_warps)
    Calls(server, make_function(server, tmp_path, motion=True))
    click(conn, task)
    assert server.wait()
    np.testing.assert_allclose(seen["warps"][0], np.eye(2, 3))
    np.testing.assert_allclose(seen["warps"][1:, 0, 2], -2, atol=0.5)
