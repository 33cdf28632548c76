"""How the stand-in runs serverless functions: the calls it makes, and what becomes of a request in every odd case."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cvat_standin import CvatStandin, Function
from cvat_standin.state import Task

Json = dict[str, Any]


class Recorder(http.server.ThreadingHTTPServer):
    """A function's port or a Nuclio dashboard: keeps what it is sent, and answers what it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.functions: Json = {}
        self.answer: Any = []
        self.status = 200
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                recorder.seen.append((self.command, self.path, dict(self.headers.items()), body))
                answer: Any = recorder.answer
                if self.path.startswith("/api/functions"):
                    name = self.path.removeprefix("/api/functions").strip("/")
                    answer = recorder.functions[name] if name else recorder.functions
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(recorder.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _reply

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as made:
        yield made
        made.shutdown()


@pytest.fixture
def server() -> Iterator[CvatStandin]:
    with CvatStandin() as standin:
        yield standin


@pytest.fixture
def http_client(server: CvatStandin) -> Iterator[httpx.Client]:
    with client_of(server) as connected:
        yield connected


def client_of(server: CvatStandin) -> httpx.Client:
    header = {"Authorization": f"Bearer {server.token(read_only=False)}"}
    return httpx.Client(base_url=server.url, headers=header)


def video_task(server: CvatStandin, frames: int = 12, **extra: Any) -> Task:
    """A task whose frames are told apart by their grey."""
    return server.create_task_from_video(
        [np.full((16, 16, 3), 5 * frame, np.uint8) for frame in range(frames)], **extra
    )


def request_id(task: Task) -> str:
    return f"action=autoannotate&target=task&target_id={task.id}"


def start(http_client: httpx.Client, task: Task, **extra: Any) -> httpx.Response:
    return http_client.post("/api/lambda/requests", json={"function": "stub", "task": task.id, **extra})


def record(http_client: httpx.Client, task: Task) -> Json | None:
    """The request as the *listing* shows it."""
    rows = http_client.get("/api/lambda/requests").json()
    return next((row for row in rows if row["id"] == request_id(task)), None)


class Gate:
    """A function whose calls wait until the test lets them go on, one by one."""

    def __init__(self, answer: Callable[[int], Any] = lambda call: []) -> None:
        self.images: list[bytes] = []
        self._answer = answer
        self._arrived, self._free = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, body: Json) -> Any:
        self.images.append(base64.b64decode(body["image"]))
        self._arrived.release()
        assert self._free.acquire(timeout=20)
        return self._answer(len(self.images) - 1)

    def arrive(self) -> None:
        """Wait until a call has come in."""
        assert self._arrived.acquire(timeout=20)

    def go(self, calls: int = 1) -> None:
        """Let calls return."""
        self._free.release(calls)


# --- what a call looks like -------------------------------------------------------------------------------------------


def recorded(spam_cvat_facts: Path, name: str) -> Json:
    data: Json = json.loads((spam_cvat_facts / "function-calls" / name).read_text())
    return data


def header_names(headers: Json) -> dict[str, str]:
    """Headers by lower-case name, less those that name a machine or a length."""
    return {k.lower(): v for k, v in headers.items() if k.lower() not in ("host", "content-length")}


def test_a_direct_call_looks_as_recorded(spam_cvat_facts: Path, recorder: Recorder) -> None:
    with CvatStandin() as server, client_of(server) as http_client:
        server.functions.add("stub", recorder.url + "/")
        task = video_task(server, 3)
        start(http_client, task)
        assert server.wait()
    real = recorded(spam_cvat_facts, "last_detector_stub-person-detector_direct.json")
    method, path, headers, body = recorder.seen[0]
    assert (method, path) == (real["method"], real["path"])
    assert header_names(headers) == header_names(real["headers"])
    assert sorted(json.loads(body)) == real["json_keys"]


def test_a_call_through_the_dashboard_looks_as_recorded(spam_cvat_facts: Path, recorder: Recorder) -> None:
    recorder.functions = {"stub-person-detector": dashboard_function("stub-person-detector", recorder.server_port)}
    with CvatStandin(nuclio=recorder.url, invoke="dashboard") as server, client_of(server) as http_client:
        task = video_task(server, 2)
        start(http_client, task, function="stub-person-detector")
        assert server.wait()
    for name, wanted in (
        ("last_detector_stub-person-detector_dashboard.json", "POST"),
        ("last_dashboard_GET_api_functions_stub-person-detector.json", "GET"),
    ):
        real = recorded(spam_cvat_facts, name)
        _, path, headers, _ = next(row for row in recorder.seen if row[0] == wanted)
        assert path == real["path"]
        assert header_names(headers) == header_names(real["headers"])


def dashboard_function(name: str, port: int, kind: str = "detector") -> Json:
    labels = [{"id": 0, "name": "person", "type": "rectangle"}]
    notes = {"name": "Stub person detector", "type": kind, "spec": json.dumps(labels)}
    return {
        "metadata": {"name": name, "namespace": "nuclio", "annotations": notes},
        "spec": {"description": "stand-in detector"},
        "status": {"state": "ready", "httpPort": port},
    }


def test_functions_on_the_dashboard_are_offered_and_unknown_kinds_hidden(recorder: Recorder) -> None:
    recorder.functions = {
        "finder": dashboard_function("finder", recorder.server_port),
        "oddity": dashboard_function("oddity", recorder.server_port, kind="segmenter"),
    }
    with CvatStandin(nuclio=recorder.url) as server, client_of(server) as http_client:
        rows = http_client.get("/api/lambda/functions").json()
        assert [row["id"] for row in rows] == ["finder"]
        assert rows[0]["labels_v2"] == [{"name": "person", "type": "rectangle", "attributes": []}]
        task = video_task(server, 3)
        start(http_client, task, function="finder")
        assert server.wait()
    assert [row[:2] for row in recorder.seen if row[0] == "POST"] == [("POST", "/")] * 3


def test_a_dashboard_that_is_away_is_reported(recorder: Recorder) -> None:
    with CvatStandin(nuclio="http://127.0.0.1:9") as server, client_of(server) as http_client:
        assert http_client.get("/api/lambda/functions").status_code == 503
        assert start(http_client, video_task(server, 2)).status_code == 503


@pytest.mark.parametrize(("given", "keys"), [({}, {"image"}), ({"threshold": 0.4}, {"image", "threshold"})])
def test_the_body_is_the_image_and_the_threshold_if_one_was_set(
    server: CvatStandin, http_client: httpx.Client, given: Json, keys: set[str]
) -> None:
    bodies: list[Json] = []
    server.functions.add("stub", lambda body: bodies.append(body) or [])
    task = video_task(server, 4)
    assert start(http_client, task, **given).json()["function"]["threshold"] == given.get("threshold")
    assert server.wait()
    assert [set(body) for body in bodies] == [keys] * 4


def frame_digests(http_client: httpx.Client, task: Task) -> list[str]:
    size = http_client.get(f"/api/tasks/{task.id}").json()["size"]
    query = {"type": "frame", "quality": "original"}
    answers = [http_client.get(f"/api/tasks/{task.id}/data", params={**query, "number": n}) for n in range(size)]
    return [hashlib.sha256(answer.content).hexdigest() for answer in answers]


def called(images: list[bytes]) -> list[str]:
    return [hashlib.sha256(image).hexdigest() for image in images]


@pytest.mark.parametrize(
    ("data", "job", "expected"),
    [
        ({}, None, list(range(12))),
        ({"segment_size": 5, "overlap": 0}, 1, [5, 6, 7, 8, 9]),
        ({"frame_filter": "step=3"}, None, [0, 1, 2, 3]),
    ],
    ids=["task", "job", "frame step"],
)
def test_calls_come_in_frame_order_with_the_bytes_of_the_frames(
    server: CvatStandin, http_client: httpx.Client, data: Json, job: int | None, expected: list[int]
) -> None:
    images: list[bytes] = []
    server.functions.add("stub", lambda body: images.append(base64.b64decode(body["image"])) or [])
    task = video_task(server, 12, **data)
    chosen = {} if job is None else {"job": server.jobs(task)[job].id}
    start(http_client, task, **chosen)
    assert server.wait()
    digests = frame_digests(http_client, task)
    assert called(images) == [digests[number] for number in expected]


def test_deleted_frames_are_passed_over(server: CvatStandin, http_client: httpx.Client) -> None:
    images: list[bytes] = []
    server.functions.add("stub", lambda body: images.append(base64.b64decode(body["image"])) or [])
    task = video_task(server, 6)
    http_client.patch(f"/api/tasks/{task.id}/data/meta", json={"deleted_frames": [0, 3]})
    start(http_client, task)
    assert server.wait()
    digests = frame_digests(http_client, task)
    assert called(images) == [digests[number] for number in (1, 2, 4, 5)]


# --- what the records say ---------------------------------------------------------------------------------------------


def test_a_request_goes_from_queued_to_finished(server: CvatStandin, http_client: httpx.Client) -> None:
    gate = Gate()
    server.functions.add("stub", gate)
    task = video_task(server, 4)
    queued = start(http_client, task).json()
    assert (queued["status"], queued["progress"], queued["started"], queued["ended"]) == ("queued", None, None, None)
    assert queued["function"] == {"id": "stub", "task": task.id, "threshold": None}
    shown = []
    for _ in range(4):
        gate.arrive()
        shown.append(record(http_client, task))
        gate.go()
    assert server.wait()
    assert [row["progress"] for row in shown if row] == [None, 25, 50, 75]
    assert {row["status"] for row in shown if row} == {"started"}
    final = record(http_client, task)
    assert final is not None
    assert (final["status"], final["progress"]) == ("finished", 100)
    assert final["enqueued"] == queued["enqueued"]
    # The start is stamped again at the end: it is no key.
    assert shown[0] is not None
    assert final["started"] != shown[0]["started"]


def test_progress_of_a_job_run_ends_below_a_hundred(server: CvatStandin, http_client: httpx.Client) -> None:
    server.functions.add("stub", lambda body: [])
    task = video_task(server, 12, segment_size=4, overlap=0)
    job = server.jobs(task)[1].id
    assert start(http_client, task, job=job).json()["function"]["job"] == job
    assert server.wait()
    final = record(http_client, task)
    assert final is not None
    assert (final["status"], final["progress"]) == ("finished", 66)


def test_one_request_a_task(server: CvatStandin, http_client: httpx.Client) -> None:
    gate = Gate()
    server.functions.add("stub", gate)
    task = video_task(server, 2)
    start(http_client, task)
    gate.arrive()
    assert start(http_client, task).status_code == 409
    gate.go(2)
    assert server.wait()
    gate.go(2)
    assert start(http_client, task).status_code == 200
    assert server.wait()


def test_what_cannot_be_run_is_refused(server: CvatStandin, http_client: httpx.Client) -> None:
    server.functions.add("stub", lambda body: [])
    task, other = video_task(server, 2), video_task(server, 2)
    assert start(http_client, task, function="nothing").status_code == 404
    assert http_client.post("/api/lambda/requests", json={"function": "stub"}).status_code == 400
    assert start(http_client, task, job=server.jobs(other)[0].id).status_code == 400
    assert http_client.get("/api/lambda/requests/nothing").status_code == 404
    assert http_client.delete("/api/lambda/requests/nothing").status_code == 404


def test_finished_requests_stay_for_half_an_hour_and_failed_ones_are_found_by_id_only(
    server: CvatStandin, http_client: httpx.Client
) -> None:
    def fail(body: Json) -> Any:
        raise RuntimeError("out of memory")

    server.functions.add("stub", lambda body: [])
    server.functions.add("failing", fail)
    good, bad = video_task(server, 2), video_task(server, 2)
    start(http_client, good)
    start(http_client, bad, function="failing")
    assert server.wait()
    assert record(http_client, good) is not None
    assert record(http_client, bad) is None
    failed = http_client.get(f"/api/lambda/requests/{request_id(bad)}").json()
    assert failed["status"] == "failed"
    assert "out of memory" in failed["exc_info"]
    server.clock.advance(31 * 60)
    assert record(http_client, good) is None
    assert http_client.get(f"/api/lambda/requests/{request_id(bad)}").status_code == 200
    server.clock.advance(3 * 3600)
    assert http_client.get(f"/api/lambda/requests/{request_id(bad)}").status_code == 404


def test_a_cancelled_request_is_gone_during_the_call_and_finished_after_it(
    server: CvatStandin, http_client: httpx.Client
) -> None:
    gate = Gate()
    server.functions.add("stub", gate)
    task = video_task(server, 10)
    enqueued = start(http_client, task).json()["enqueued"]
    gate.arrive()
    gate.go()
    gate.arrive()
    path = f"/api/lambda/requests/{request_id(task)}"
    assert http_client.delete(path).status_code == 204
    assert http_client.get(path).status_code == 404
    assert record(http_client, task) is None
    gate.go()
    assert server.wait()
    back = record(http_client, task)
    assert back is not None
    assert (back["status"], back["progress"], back["enqueued"]) == ("finished", 20, enqueued)
    assert len(gate.images) == 2


def test_a_request_cancelled_in_its_last_call_ends_like_one_that_was_not(
    server: CvatStandin, http_client: httpx.Client
) -> None:
    gate = Gate()
    server.functions.add("stub", gate)
    task = video_task(server, 2)
    start(http_client, task)
    gate.go()
    gate.arrive()
    gate.arrive()
    http_client.delete(f"/api/lambda/requests/{request_id(task)}")
    gate.go()
    assert server.wait()
    back = record(http_client, task)
    assert back is not None
    assert (back["status"], back["progress"]) == ("finished", 100)


def test_after_cancel_and_restart_the_old_loop_runs_on_and_the_new_run_bears_its_key(
    server: CvatStandin, http_client: httpx.Client
) -> None:
    gate = Gate()
    server.functions.add("stub", gate)
    task = video_task(server, 3)
    old = start(http_client, task).json()["enqueued"]
    gate.arrive()
    http_client.delete(f"/api/lambda/requests/{request_id(task)}")
    new = start(http_client, task).json()
    assert new["enqueued"] != old
    gate.go()
    gate.arrive()
    shown = record(http_client, task)
    assert shown is not None
    assert (shown["status"], shown["enqueued"]) == ("queued", new["enqueued"])
    gate.go(2)
    gate.arrive()
    # The old loop has come to its end; the next call is the first frame of the new run.
    gate.arrive()
    shown = record(http_client, task)
    assert shown is not None
    assert (shown["status"], shown["enqueued"]) == ("started", old)
    gate.go(3)
    assert server.wait()
    digests = frame_digests(http_client, task)
    assert called(gate.images) == digests + digests


def test_a_request_cancelled_while_queued_never_runs(server: CvatStandin, http_client: httpx.Client) -> None:
    gate = Gate()
    server.functions.add("stub", gate)
    first, second = video_task(server, 1), video_task(server, 1)
    start(http_client, first)
    gate.arrive()
    start(http_client, second)
    assert http_client.delete(f"/api/lambda/requests/{request_id(second)}").status_code == 204
    gate.go()
    assert server.wait()
    assert len(gate.images) == 1
    assert record(http_client, second) is None


@pytest.mark.parametrize(("workers", "together"), [(1, 1), (2, 2)])
def test_tasks_interleave_only_with_more_than_one_worker(workers: int, together: int) -> None:
    gate = Gate()
    with CvatStandin(annotation_workers=workers) as server, client_of(server) as http_client:
        server.functions.add("stub", gate)
        for task in (video_task(server, 1), video_task(server, 1)):
            start(http_client, task)
        for _ in range(together):
            gate.arrive()
        states = sorted(row["status"] for row in http_client.get("/api/lambda/requests").json())
        assert states.count("started") == together
        gate.go(2)
        assert server.wait()
    assert len(gate.images) == 2


# --- what becomes of the answers --------------------------------------------------------------------------------------


def person(x: float = 1.0, label: str = "person", **extra: Any) -> Json:
    return {"label": label, "type": "rectangle", "points": [x, 1.0, x + 5, 9.0], "confidence": "0.9", **extra}


def shapes_of(http_client: httpx.Client, task: Task) -> list[Json]:
    rows: list[Json] = http_client.get(f"/api/tasks/{task.id}/annotations").json()["shapes"]
    return rows


def test_answers_become_shapes_without_their_confidence(server: CvatStandin, http_client: httpx.Client) -> None:
    server.functions.add("stub", lambda body: [person(), person(3, label="dog")])
    task = video_task(server, 3)
    start(http_client, task)
    assert server.wait()
    shapes = shapes_of(http_client, task)
    assert [(shape["frame"], shape["source"], shape["points"]) for shape in shapes] == [
        (frame, "auto", [1.0, 1.0, 6.0, 9.0]) for frame in range(3)
    ]
    assert not any("score" in shape or "confidence" in shape for shape in shapes)


def test_labels_are_mapped_as_the_user_says(server: CvatStandin, http_client: httpx.Client) -> None:
    server.functions.add("stub", lambda body: [person(), person(2, label="rider")], labels=["person", "rider"])
    task = video_task(server, 1, labels=["pedestrian"])
    start(http_client, task)
    assert server.wait()
    assert shapes_of(http_client, task) == []
    start(http_client, task, mapping={"rider": {"name": "pedestrian"}})
    assert server.wait()
    assert [shape["points"][0] for shape in shapes_of(http_client, task)] == [2.0]


def test_number_attributes_must_be_whole_and_in_range(server: CvatStandin, http_client: httpx.Client) -> None:
    quality = {
        "name": "quality",
        "mutable": False,
        "input_type": "number",
        "default_value": "50",
        "values": ["0", "100", "1"],
    }
    label = {"name": "person", "type": "rectangle", "attributes": [quality]}
    for value, kept in (("80", "80"), ("80.5", "50"), ("101", "50")):
        given = [{"name": "quality", "value": value}, {"name": "unknown", "value": "x"}]
        server.functions.add("stub", lambda body, given=given: [person(attributes=given)])
        task = video_task(server, 1, labels=[label])
        start(http_client, task)
        assert server.wait()
        assert shapes_of(http_client, task)[0]["attributes"][0]["value"] == kept


def test_cleanup_empties_the_task_before_the_first_call(server: CvatStandin, http_client: httpx.Client) -> None:
    server.functions.add("stub", lambda body: [person()])
    task = video_task(server, 2)
    for cleanup, left in ((False, 2), (False, 4), (True, 2)):
        start(http_client, task, cleanup=cleanup)
        assert server.wait()
        assert len(shapes_of(http_client, task)) == left


def test_a_job_run_writes_into_its_job(server: CvatStandin, http_client: httpx.Client) -> None:
    server.functions.add("stub", lambda body: [person()])
    task = video_task(server, 6, segment_size=3, overlap=0)
    job = server.jobs(task)[1]
    start(http_client, task, job=job.id)
    assert server.wait()
    assert [shape["frame"] for shape in http_client.get(f"/api/jobs/{job.id}/annotations").json()["shapes"]] == [
        3,
        4,
        5,
    ]
    assert len(shapes_of(http_client, task)) == 3


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [(500, [], "500 Server Error"), (200, b"not json", "JSONDecodeError"), (200, [{"label": "person"}], "KeyError")],
    ids=["error", "no JSON", "no box"],
)
def test_one_bad_answer_fails_the_request_and_keeps_nothing(
    server: CvatStandin, http_client: httpx.Client, recorder: Recorder, status: int, answer: Any, reason: str
) -> None:
    server.functions.add("stub", recorder.url)
    recorder.status, recorder.answer = status, answer
    task = video_task(server, 3)
    start(http_client, task)
    assert server.wait()
    failed = http_client.get(f"/api/lambda/requests/{request_id(task)}").json()
    assert failed["status"] == "failed"
    assert reason in failed["exc_info"]
    assert len(recorder.seen) == 1
    assert shapes_of(http_client, task) == []


def test_a_call_that_takes_too_long_fails_the_request() -> None:
    free = threading.Event()
    with Recorder() as recorder:
        reply = recorder.RequestHandlerClass.do_POST

        def late(handler: Any) -> None:
            free.wait(10)
            reply(handler)

        recorder.RequestHandlerClass.do_POST = late  # type: ignore[attr-defined]
        with CvatStandin(function_timeout=0.2) as server, client_of(server) as http_client:
            server.functions.add("stub", recorder.url)
            task = video_task(server, 2)
            start(http_client, task)
            assert server.wait()
            failed = http_client.get(f"/api/lambda/requests/{request_id(task)}").json()
        free.set()
        recorder.shutdown()
    assert failed["status"] == "failed"
    assert "ReadTimeout" in failed["exc_info"]


def test_a_tracker_started_as_a_batch_finishes_having_done_nothing(
    server: CvatStandin, http_client: httpx.Client
) -> None:
    bodies: list[Json] = []
    server.functions.add("stub", lambda body: bodies.append(body) or [], kind="tracker")
    task = video_task(server, 3)
    start(http_client, task)
    assert server.wait()
    final = record(http_client, task)
    assert final is not None
    assert (final["status"], bodies) == ("finished", [])


def test_a_function_can_be_called_on_one_frame_at_once(server: CvatStandin, http_client: httpx.Client) -> None:
    server.functions.add("stub", lambda body: [person()])
    task = video_task(server, 3)
    answer = http_client.post("/api/lambda/functions/stub", json={"task": task.id, "frame": 2})
    assert answer.json() == [person()]


def test_a_function_names_itself_as_the_server_lists_it() -> None:
    assert Function("oneclick", kind="detector").to_json() == {
        "id": "oneclick",
        "kind": "detector",
        "labels_v2": [],
        "description": "",
        "name": "oneclick",
        "version": 1,
    }
