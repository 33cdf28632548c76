"""The function's answers to good and bad input, through ``init_context`` and ``handler`` as Nuclio calls them."""

import base64
import io
import json
import logging
import re
import zlib

import cv2
import nuclio_sdk
import nuclio_sdk.test
import numpy as np
import PIL.Image
import pytest
from cvat_standin import CvatStandin
from moving_squares import SquareFinder, clip, join_by_colour, make_function, module_of, png

from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.tasks import read_task, read_tracks
from spam_cvat.errors import InputError
from spam_cvat.serving import function as function_module
from spam_cvat.serving import session as session_module
from spam_cvat.serving.function import LABELS, Function, handler, init_context
from spam_cvat.serving.settings import Settings

FRAMES = 10


@pytest.fixture(autouse=True)
def engine_by_colour(monkeypatch):
    monkeypatch.setattr(session_module, "annotate", join_by_colour)


@pytest.fixture(scope="module")
def server():
    with CvatStandin() as standin:
        yield standin


@pytest.fixture
def plain(tmp_path):
    """A function without a login."""
    return Function(Settings(), Store(tmp_path), None, SquareFinder())


def error_of(answer):
    status, value = answer
    assert list(value) == ["error"]
    assert "\n" not in value["error"], "one line"
    return status, value["error"]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"hello", 400, "the body is not JSON .*; send it as application/json"),
        ("{", 400, "the body is not JSON"),
        (b"\xff\xfe\x00", 400, "the body is not JSON"),
        ([1, 2], 400, "the body is a JSON list, not an object"),
        (b"3", 400, "the body is a JSON int, not an object"),
        ({}, 400, 'neither "image" .* nor "task" or "job" .* it holds nothing'),
        ({"picture": "x", "size": 3}, 400, "it holds picture, size"),
        ({"image": None}, 400, '"image" must be an image file in base64'),
        ({"image": ""}, 400, '"image" must be an image file in base64'),
        ({"image": 5}, 400, '"image" must be an image file in base64'),
        ({"image": "äöü"}, 400, '"image" is not base64'),
        ({"image": "abc"}, 400, '"image" is not base64'),
        ({"image": base64.b64encode(b"no picture at all").decode()}, 400, "the image cannot be opened"),
        ({"image": png(clip()[0]), "threshold": "high"}, 400, '"threshold" must be a number'),
        ({"task": 3}, 400, "no CVAT access token"),
    ],
)
def test_bad_input_gets_a_clear_answer(plain, body, status, says):
    given, error = error_of(plain.answer("POST", body))
    assert given == status
    assert re.search(says, error), error


@pytest.mark.parametrize("cut", [30, 200, 0.5])
def test_a_picture_that_was_cut_off_is_refused_or_read_but_never_breaks_the_worker(plain, cut):
    data = base64.b64decode(png(clip()[0]))
    part = data[: int(len(data) * cut) if cut < 1 else cut]
    status, value = plain.answer("POST", {"image": base64.b64encode(part).decode()})
    assert status in (200, 400)
    assert plain.answer("POST", {"image": png(clip()[0])})[0] == 200
    assert isinstance(value, list if status == 200 else dict)


def test_a_damaged_picture_with_a_good_header_is_refused(plain):
    data = bytearray(cv2.imencode(".png", clip()[0])[1].tobytes())
    data[41:] = bytes(len(data) - 41)
    status, error = error_of(plain.answer("POST", {"image": base64.b64encode(bytes(data)).decode()}))
    assert status == 400
    assert "damaged" in error or "cannot be opened" in error


def test_a_picture_of_60_megapixels_is_refused_before_it_is_unpacked(plain, monkeypatch):
    monkeypatch.setattr(function_module.cv2, "imdecode", lambda *args: pytest.fail("unpacked"))
    buffer = io.BytesIO()
    PIL.Image.new("1", (10_000, 6_000)).save(buffer, "PNG")
    status, error = error_of(plain.answer("POST", {"image": base64.b64encode(buffer.getvalue()).decode()}))
    assert status == 413
    assert "10000x6000 = 60.0 million pixels, more than the 50.0 million that are taken" in error
    assert "SPAM_MAX_PIXELS" in error


def test_a_decompression_bomb_is_refused(plain):
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    status, error = error_of(plain.answer("POST", {"image": base64.b64encode(bytes(data)).decode()}))
    assert status == 413
    assert "too large" in error


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"task": 0}, '"task" must be the number of a task, not 0'),
        ({"task": "7"}, '"task" must be the number of a task'),
        ({"task": True}, '"task" must be the number of a task'),
        ({"job": 1.5}, '"job" must be the number of a job'),
        ({"task": 1, "job": 2}, 'either "task" or "job"'),
        ({"task": 1, "threshold": 2}, '"threshold" must be a number in 0..1'),
        ({"task": 1, "wait": -1}, '"wait" must be a number of seconds'),
    ],
)
def test_bad_direct_calls_get_a_clear_answer(server, tmp_path, body, says):
    status, error = error_of(make_function(server, tmp_path).answer("POST", body))
    assert status == 400
    assert says in error


# --- the plain detector -----------------------------------------------------------------------------------------------


def test_without_a_token_it_is_a_plain_detector_and_says_so(plain, caplog):
    with caplog.at_level(logging.WARNING):
        status, boxes = plain.answer("POST", {"image": png(clip()[2])})
    assert status == 200
    assert len(boxes) == 2
    assert "answered as a plain detector: no CVAT access token (SPAM_CVAT_TOKEN)" in caplog.text
    assert plain.health()["mode"] == "plain detector"
    assert "SPAM_CVAT_TOKEN" in plain.health()["reason"]


def test_boxes_have_the_form_that_cvat_takes(plain):
    _, boxes = plain.answer("POST", {"image": png(clip()[0]), "threshold": 0.3})
    for box in boxes:
        assert set(box) == {"confidence", "label", "points", "type"}
        assert box["label"] in {label["name"] for label in LABELS}
        assert box["type"] == "rectangle"
        assert 0 <= float(box["confidence"]) <= 1
        x1, y1, x2, y2 = box["points"]
        assert 0 <= x1 < x2 <= 160
        assert 0 <= y1 < y2 <= 120
    json.dumps(boxes, allow_nan=False)


# --- direct calls -----------------------------------------------------------------------------------------------------


def task_of(server, **more):
    return server.create_task_from_video(clip(FRAMES), **({"segment_size": 5, "overlap": 0} | more))


def test_a_direct_call_annotates_a_task_and_again_a_job(server, tmp_path):
    task = task_of(server)
    function = make_function(server, tmp_path)
    status, answer = function.answer("POST", {"task": task.id, "wait": 60})
    assert status == 200
    assert (answer["status"], answer["progress"], answer["tracks"], answer["boxes"]) == ("done", 1.0, 2, 2 * FRAMES)
    assert (answer["created"], answer["replaced"]) == (4, 0)
    status, again = function.answer("POST", {"task": task.id, "wait": 60})
    assert (status, again["created"], again["replaced"], again["unchanged"]) == (200, 0, 0, 4)
    status, job = function.answer("POST", {"job": server.jobs(task)[1].id, "wait": 60})
    assert (status, job["job"], job["frames"], job["created"]) == (200, server.jobs(task)[1].id, 5, 0)
    conn = connect(server.url, server.token("admin"))
    assert sorted(read_tracks(conn, read_task(conn, task.id)).tracks.frame) == sorted([*range(FRAMES)] * 2)


def test_a_direct_call_that_takes_long_tells_its_progress_and_can_be_waited_on(server, tmp_path, monkeypatch):
    task = task_of(server)
    finder = SquareFinder()
    function = make_function(server, tmp_path, finder=finder)
    status, answer = function.answer("POST", {"task": task.id, "wait": 0})
    assert (status, answer["status"]) == (200, "running")
    assert 0 <= answer["progress"] < 1
    assert answer["next"] == f'call again with {{"task": {task.id}}} to wait on'
    status, answer = function.answer("POST", {"task": task.id, "wait": 60})
    assert (status, answer["status"]) == (200, "done")
    assert finder.shown == FRAMES, "it was one run"
    assert function.health()["runs"] == []


def test_a_direct_call_that_failed_says_why_and_the_next_carries_on(server, tmp_path):
    task = task_of(server)
    function = make_function(server, tmp_path)
    with server.failing(f"/api/jobs/{server.jobs(task)[1].id}/annotations", "PATCH", status=500, count=1):
        status, error = error_of(function.answer("POST", {"task": task.id, "wait": 60}))
    assert status == 502
    assert "answered 500" in error
    assert [run["status"] for run in function.store.runs()] == ["failed"]
    status, answer = function.answer("POST", {"task": task.id, "wait": 60})
    assert (status, answer["created"], answer["unchanged"]) == (200, 2, 2)


def test_a_direct_call_for_what_is_not_there_is_told(server, tmp_path):
    function = make_function(server, tmp_path)
    assert "task 99999" in error_of(function.answer("POST", {"task": 99999, "wait": 60}))[1]
    assert "job 99999" in error_of(function.answer("POST", {"job": 99999, "wait": 60}))[1]


# --- Nuclio's side ----------------------------------------------------------------------------------------------------


def event(body, **more):
    return nuclio_sdk.Event(body=body, **({"method": "POST", "content_type": "application/json"} | more))


def test_the_handler_always_answers_with_a_response(plain):
    context = nuclio_sdk.test.Platform().context
    module_of(plain).init_context(context)
    for body, status in (({"image": png(clip()[0])}, 200), (b"junk", 400), ({"image": "x"}, 400), (None, 200)):
        answer = handler(context, event(body))
        assert isinstance(answer, context.Response)
        assert answer.status_code == status
        assert answer.content_type == "application/json"
        json.loads(answer.body)


def test_an_error_of_the_program_itself_is_an_answer_and_a_log_entry(plain, caplog):
    context = nuclio_sdk.test.Platform().context
    plain.perception = SquareFinder()
    plain.perception.detect = lambda image: 1 / 0
    module_of(plain).init_context(context)
    answer = handler(context, event({"image": png(clip()[0])}))
    assert answer.status_code == 500
    assert "ZeroDivisionError" in json.loads(answer.body)["error"]
    assert "Traceback" in caplog.text


def test_init_context_loads_everything_and_tells_the_platform_how_to_end(monkeypatch, tmp_path, caplog):
    for name in ("SPAM_CVAT_TOKEN", "CVAT_ACCESS_TOKEN", "SPAM_CVAT_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPAM_STORE", str(tmp_path))
    monkeypatch.setenv("SPAM_EMBEDDER", "none")
    context = nuclio_sdk.test.Platform().context
    callbacks = []
    context.platform = type("Platform", (), {
        "set_termination_callback": lambda self, call: callbacks.append(call),
        "set_drain_callback": lambda self, call: callbacks.append(call),
    })()  # fmt: skip
    before = list(logging.getLogger("spam_cvat").handlers)
    try:
        init_context(context)
        assert isinstance(context.user_data.function, Function)
        assert [call() for call in callbacks] == [None, None]
        health = json.loads(handler(context, event(None, method="GET")).body)
        assert (health["mode"], health["labels"], health["store"]) == ("plain detector", ["person"], str(tmp_path))
        assert "no CVAT access token" in caplog.text
        init_context(context)
        assert len(logging.getLogger("spam_cvat").handlers) == len(before) + 1, "a log line comes once"
    finally:
        logging.getLogger("spam_cvat").handlers = before


def test_a_detector_that_cannot_be_loaded_stops_the_worker_from_starting(monkeypatch, tmp_path):
    monkeypatch.setenv("SPAM_STORE", str(tmp_path))
    monkeypatch.setenv("SPAM_DETECTOR", "onnx:nowhere.onnx")
    with pytest.raises(InputError, match=r"nowhere\.onnx"):
        Function.from_environment()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SPAM_THRESHOLD", "high", "SPAM_THRESHOLD='high' is not a number"),
        ("SPAM_THRESHOLD", "2", r"SPAM_THRESHOLD=2: must lie in 0\.\.1"),
        ("SPAM_PLAIN", "maybe", "SPAM_PLAIN='maybe': write auto or never"),
        ("SPAM_LABELS", "person", "write detector-label=task-label"),
        ("SPAM_VERIFY", "some", "write auto or all"),
        ("SPAM_DEVICE", "tpu", "write auto or cpu or cuda"),
    ],
)
def test_settings_that_cannot_be_used_are_told(name, value, says):
    with pytest.raises(InputError, match=says):
        Settings.from_environment({name: value})


def test_settings_come_from_the_environment():
    settings = Settings.from_environment(
        {"NUCLIO_FUNCTION_NAME": "mine", "SPAM_DETECTOR": "onnx:x.onnx", "SPAM_LABELS": "person=walker",
         "SPAM_FPS": "25", "SPAM_THRESHOLD": "0", "SPAM_MOTION": "none", "SPAM_PLAIN": "never", "SPAM_VERIFY": "all"}
    )  # fmt: skip
    assert settings.function_names == ("mine",)
    assert (settings.detector, settings.labels, settings.fps) == ("onnx:x.onnx", {"person": "walker"}, 25)
    assert (settings.threshold, settings.motion, settings.plain, settings.verify_all) == (0, False, False, True)
    assert Settings.from_environment({}) == Settings()
