"""What goes wrong around the function: each case gets a clear answer, loses nothing and writes nothing twice."""

import errno
import os

import pytest
from cvat_standin import CvatStandin
from moving_squares import NAME, SquareFinder, as_handler, clip, join_by_colour, make_function, module_of

from spam_cvat.cvat import store as store_module
from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.tasks import read_task, read_tracks
from spam_cvat.serving import session as session_module
from spam_cvat.serving.gateway import Gateway

FRAMES = 12


@pytest.fixture(autouse=True)
def engine_by_colour(monkeypatch):
    monkeypatch.setattr(session_module, "annotate", join_by_colour)


@pytest.fixture
def server():
    with CvatStandin() as standin:
        yield standin


@pytest.fixture
def conn(server):
    return connect(server.url, server.token("admin", read_only=False))


def new_task(server, **more):
    return server.create_task_from_video(clip(FRAMES), **({"segment_size": 6, "overlap": 0} | more))


def click(server, conn, task, function, **more):
    """One click, to its end; returns what CVAT has to say of it."""
    server.functions.add(NAME, as_handler(function))
    request = conn.post("/api/lambda/requests", {"function": NAME, "task": task.id, **more})
    assert server.wait()
    return conn.get(f"/api/lambda/requests/{request['id']}")


def held(server, task):
    tables = [job.annotations for job in server.jobs(task)]
    return tuple(sum(len(table.table(kind)) for table in tables) for kind in ("shapes", "tracks"))


def assert_whole(server, conn, task):
    """Both squares in all frames, once."""
    assert held(server, task)[0] == 0
    tracks = read_tracks(conn, read_task(conn, task.id)).tracks
    assert sorted(tracks.frame.tolist()) == sorted([*range(FRAMES)] * 2)


def assert_failed(server, task, request, function, says):
    assert request["status"] == "failed"
    assert says in request["exc_info"], "in CVAT's log"
    assert says in function.store.runs()[-1]["error"], "and for the doctor, because the page does not show it"
    assert function.store.runs()[-1]["status"] == "failed"
    assert held(server, task) == (0, 0)


@pytest.mark.parametrize("kind", ["task", "job"])
def test_a_task_without_the_label_fails_at_its_first_frame(server, conn, tmp_path, kind):
    task = new_task(server, labels=["car", "dog"])
    finder = SquareFinder()
    function = make_function(server, tmp_path, finder=finder)
    more = {"job": server.jobs(task)[0].id} if kind == "job" else {}
    request = click(server, conn, task, function, **more)
    assert_failed(server, task, request, function, "has no label for boxes named 'person'")
    assert finder.shown == 0


def test_an_alias_names_the_tasks_label(server, conn, tmp_path):
    task = new_task(server, labels=["car", "walker"])
    function = make_function(server, tmp_path, labels={"person": "walker"})
    mapping = {"person": {"name": "walker", "attributes": {}}}
    assert click(server, conn, task, function, mapping=mapping)["status"] == "finished"
    assert_whole(server, conn, task)


def test_a_wrong_token_fails_the_run_and_does_not_litter_the_task(server, conn, tmp_path):
    task = new_task(server)
    function = make_function(server, tmp_path, token="wrong")
    request = click(server, conn, task, function)
    assert request["status"] == "failed"
    assert_failed(server, task, request, function, "token may be wrong, revoked or expired")


def test_a_read_only_token_fails_at_the_first_frame(server, conn, tmp_path):
    task = new_task(server)
    finder = SquareFinder()
    function = make_function(server, tmp_path, token=server.token("admin"), finder=finder)
    request = click(server, conn, task, function)
    assert_failed(server, task, request, function, "is read-only")
    assert '"read_only": false' in request["exc_info"]
    assert finder.shown == 0


def test_a_token_that_expires_in_the_midst_fails_the_run_and_a_new_one_carries_on(server, conn, tmp_path):
    task = new_task(server)
    token = server.token("admin", read_only=False)
    finder = SquareFinder()
    finder_see = finder.see

    def expiring(image, frame=None):
        if finder.shown == 6:
            server.expire_token(token)
        return finder_see(image, frame)

    finder.see = expiring
    request = click(server, conn, task, make_function(server, tmp_path, token=token, finder=finder))
    assert request["status"] == "failed"
    assert "revoked or expired" in request["exc_info"]
    assert held(server, task) == (0, 0)
    assert click(server, conn, task, make_function(server, tmp_path))["status"] == "finished"
    assert_whole(server, conn, task)


@pytest.mark.parametrize("role", ["worker", "supervisor"])
def test_a_task_of_an_organization_whose_tasks_the_account_may_not_see(server, tmp_path, role):
    server.add_user("mia")
    server.add_user("otto")
    lab = server.add_organization("lab", "otto")
    server.add_member(lab, "mia", role)
    task = new_task(server, owner="otto", organization=lab)
    owner = connect(server.url, server.token("otto", read_only=False), organization="lab")
    function = make_function(server, tmp_path, user="mia", organization="lab", plain=False)
    request = click(server, owner, task, function)
    assert request["status"] == "failed"
    assert "no running request of this function shows this image" in request["exc_info"]
    assert held(server, task) == (0, 0)
    status, answer = function.answer("POST", {"task": task.id, "wait": 60})
    assert status == 502
    assert f"task {task.id}: {server.url} answered 403" in answer["error"]
    assert "needs its maintainer or the task's assignee" in answer["error"]
    assert held(server, task) == (0, 0)


@pytest.mark.parametrize("status", [500, 502, 504])
@pytest.mark.parametrize("route", ["/api/lambda/requests", "/api/tasks/*/data", "/api/jobs/*/annotations"])
def test_cvat_failing_in_the_midst_fails_the_run_and_the_next_click_carries_on(
    server, conn, tmp_path, monkeypatch, route, status
):
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *args: None)
    task = new_task(server)
    finder = SquareFinder()
    function = make_function(server, tmp_path, finder=finder)
    see = finder.see
    faults = []

    def failing(image, frame=None):
        if finder.shown == 5:
            faults.append(server.faults.add(route, "*", status=status, count=None))
        return see(image, frame)

    finder.see = failing
    server.functions.add(NAME, as_handler(function))
    request = conn.post("/api/lambda/requests", {"function": NAME, "task": task.id})
    assert server.wait()
    server.faults.clear()
    record = conn.get(f"/api/lambda/requests/{request['id']}")
    assert record["status"] == "failed"
    assert server.url in record["exc_info"]
    assert held(server, task)[0] == 0
    finder.see = see
    assert click(server, conn, task, function)["status"] == "finished"
    assert_whole(server, conn, task)


def test_cvat_away_for_a_direct_call_is_told_and_the_next_carries_on(server, conn, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *args: None)
    task = new_task(server)
    function = make_function(server, tmp_path)
    assert function.sessions.login.connection
    with server.away():
        status, answer = function.answer("POST", {"task": task.id, "wait": 60})
        assert status == 502
        assert f"cannot reach {server.url}" in answer["error"]
    assert function.answer("POST", {"task": task.id, "wait": 60})[0] == 200
    assert_whole(server, conn, task)


@pytest.mark.parametrize("kind", ["drop-after", "status"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_write_that_breaks_off_is_not_doubled_by_the_next_click(server, conn, tmp_path, kind, after):
    task = new_task(server)
    function = make_function(server, tmp_path)
    with server.failing("/api/jobs/*/annotations", "PATCH", kind=kind, status=500, after=after, count=1):
        assert click(server, conn, task, function)["status"] == "failed"
    assert click(server, conn, task, function)["status"] == "finished"
    assert_whole(server, conn, task)
    assert held(server, task) == (0, 4), "two squares in two jobs, and nothing twice"


def test_a_full_disk_fails_the_run_before_anything_is_written(server, conn, tmp_path, monkeypatch):
    task = new_task(server)
    function = make_function(server, tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module.os, "fsync", full)
    request = click(server, conn, task, function)
    assert request["status"] == "failed"
    assert "No space left on device" in request["exc_info"]
    assert held(server, task) == (0, 0)
    monkeypatch.setattr(store_module.os, "fsync", lambda handle: None)
    assert click(server, conn, task, function)["status"] == "finished"
    assert_whole(server, conn, task)


def test_parts_of_a_run_that_were_torn_are_looked_at_again(server, conn, tmp_path):
    task = new_task(server)
    first = make_function(server, tmp_path, finder=SquareFinder(fail_at=12))
    assert click(server, conn, task, first)["status"] == "failed"
    parts = list(tmp_path.rglob("*.npz"))
    assert parts
    for part in parts:
        part.write_bytes(part.read_bytes()[:50])
    assert click(server, conn, task, make_function(server, tmp_path))["status"] == "finished"
    assert_whole(server, conn, task)
    assert list(tmp_path.rglob("*.npz")) == [], "nothing is left of a run that is over"


def test_frames_deleted_between_two_clicks_are_noticed(server, conn, tmp_path):
    task = new_task(server)
    function = make_function(server, tmp_path)
    assert click(server, conn, task, function)["status"] == "finished"
    conn.patch(f"/api/tasks/{task.id}/data/meta", {"deleted_frames": [3, 4]})
    assert click(server, conn, task, function)["status"] == "finished"
    tracks = read_tracks(conn, read_task(conn, task.id)).tracks
    assert {3, 4}.isdisjoint(tracks.frame.tolist())
    assert sorted(tracks.frame.tolist()) == sorted([k for k in range(FRAMES) if k not in (3, 4)] * 2)


def test_a_task_in_which_nothing_is_seen_gets_no_tracks_and_no_error(server, conn, tmp_path):
    task = server.create_task_from_video([image * 0 + 9 for image in clip(5)[:1]] * 1)
    function = make_function(server, tmp_path)
    assert click(server, conn, task, function)["status"] == "finished"
    assert held(server, task) == (0, 0)
    assert function.store.runs()[-1]["outcome"]["tracks"] == 0


def test_a_function_that_dies_and_comes_back_over_http(server, conn, tmp_path):
    """CVAT does not repeat a call: the run fails, and the next one, by a new process, carries on from the store."""
    task = new_task(server)
    dying = SquareFinder()
    see = dying.see
    with Gateway(port=0, module=module_of(make_function(server, tmp_path, finder=dying))) as gateway:
        server.functions.add(NAME, gateway.url)

        def die(image, frame=None):
            if dying.shown == 11:
                gateway._server.should_exit = gateway._server.force_exit = True
                raise SystemExit
            return see(image, frame)

        dying.see = die
        request = conn.post("/api/lambda/requests", {"function": NAME, "task": task.id})
        assert server.wait()
        assert conn.get(f"/api/lambda/requests/{request['id']}")["status"] == "failed"
    assert held(server, task) == (0, 0)
    with Gateway(port=0, module=module_of(make_function(server, tmp_path))) as gateway:
        server.functions.add(NAME, gateway.url)
        conn.post("/api/lambda/requests", {"function": NAME, "task": task.id})
        assert server.wait()
    assert_whole(server, conn, task)
