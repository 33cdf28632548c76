"""Functions are called as CVAT calls them; whatever they answer becomes boxes or one clear line."""

import base64
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from spam_cvat.detectors import open_detector
from spam_cvat.detectors.nuclio import bounding_box
from spam_cvat.errors import InputError, SpamError

PERSON = {"confidence": "0.9", "label": "person", "points": [10, 20, 30, 60], "type": "rectangle"}


class Function:
    """A server that records calls and answers what ``answer`` holds."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.answer: bytes = b"[]"
        self.status = 200
        self.delay = 0.0
        function = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                function.calls.append({"path": self.path, "headers": dict(self.headers), "body": body})
                time.sleep(function.delay)
                self.send_response(function.status)
                self.send_header("Content-Length", str(len(function.answer)))
                self.end_headers()
                self.wfile.write(function.answer)

            def log_message(self, *args: object) -> None:
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def says(self, answer: object) -> None:
        self.answer = answer if isinstance(answer, bytes) else json.dumps(answer).encode()


@pytest.fixture
def function():
    running = Function()
    yield running
    running.server.shutdown()
    running.server.server_close()
    running.thread.join()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)


def test_a_functions_own_port_is_called_as_cvat_calls_it(function, image, spam_cvat_facts):
    function.says([PERSON])
    found = open_detector(f"nuclio:http://{function.address}").detect(image)
    assert found.box.tolist() == [[10, 20, 30, 60]]
    assert found.score.tolist() == pytest.approx([0.9])
    recorded = json.loads(
        (spam_cvat_facts / "function-calls" / "last_detector_stub-person-detector_direct.json").read_text()
    )
    (call,) = function.calls
    assert call["path"] == recorded["path"]
    assert call["headers"]["Content-Type"] == recorded["headers"]["Content-Type"]
    body = json.loads(call["body"])
    assert set(body) == {*recorded["json_keys"], "threshold"}
    sent = cv2.imdecode(np.frombuffer(base64.b64decode(body["image"]), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(sent, image)
    assert body["threshold"] == 0.1


def test_the_dashboard_is_called_as_cvat_calls_it(function, image, spam_cvat_facts):
    open_detector(f"nuclio:http://{function.address}/stub-person-detector?timeout=30").detect(image)
    name = "last_detector_stub-person-detector_dashboard.json"
    recorded = json.loads((spam_cvat_facts / "function-calls" / name).read_text())
    (call,) = function.calls
    assert call["path"] == recorded["path"]
    sent = {key.lower(): value for key, value in call["headers"].items()}
    wanted = {key.lower(): value for key, value in recorded["headers"].items() if key.lower().startswith("x-nuclio")}
    assert {key: sent[key] for key in wanted} == wanted | {"x-nuclio-invoke-timeout": "30s"}


def test_a_detector_keeps_its_connection(function, image):
    detector = open_detector(f"nuclio:http://{function.address}")
    for _ in range(3):
        detector.detect(image)
    assert len(function.calls) == 3


def test_labels_scores_and_boxes_are_sorted_out(function, image, caplog):
    function.says(
        [
            PERSON | {"confidence": 0.05},
            PERSON | {"label": "Car", "confidence": "0.5", "points": [0, 0, 500, 40]},
            PERSON | {"label": "dog"},
            PERSON | {"label": "dog"},
            PERSON | {"points": [10, 20, 10, 60]},
            {"label": "person", "points": [40, 40, 60, 70], "type": "rectangle"},
        ]
    )
    detector = open_detector(f"nuclio:http://{function.address}?classes=person,car")
    with caplog.at_level(logging.WARNING):
        found = detector.detect(image)
    assert detector.labels == ("person", "car")
    assert found.box.tolist() == [[40, 40, 60, 70], [0, 0, 100, 40]]
    assert found.label.tolist() == [0, 1]
    assert found.score.tolist() == [1.0, 0.5]
    assert [record.message.count("'dog'") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({"type": "rectangle", "points": [1, 2, 3, 4]}, (1, 2, 3, 4)),
        ({"points": [3, 4, 1, 2]}, (1, 2, 3, 4)),
        ({"type": "polygon", "points": [[1, 9], [5, 2], [3, 3]]}, (1, 2, 5, 9)),
        ({"type": "mask", "mask": [3, 4, 2, 10, 20, 14, 29], "points": [0, 0, 1, 1]}, (10, 20, 15, 30)),
        ({"type": "mask", "points": [10, 20, 14, 29]}, (10, 20, 14, 29)),
        ({"type": "ellipse", "points": [50, 40, 60, 10]}, (40, 10, 60, 70)),
        ({"type": "skeleton", "elements": [{"points": [1, 2]}, {"points": [9, 3]}, {"points": [4, 8]}]}, (1, 2, 9, 8)),
        ({"type": "points", "points": [4, 4]}, None),
        ({"type": "tag"}, None),
    ],
)
def test_every_shape_has_its_bounding_box(shape, box):
    assert bounding_box(shape) == box


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>", "not JSON"),
        ({"error": "x"}, "no list of boxes.*is it a detector"),
        (["box"], "item 0 of its answer is no shape: box"),
        ([PERSON, {"label": "person"}], "item 1 of its answer is no shape"),
        ([PERSON | {"points": [1, 2, 3]}], "item 0"),
        ([PERSON | {"confidence": "high"}], "item 0"),
        ([PERSON | {"confidence": None}], "item 0"),
    ],
)
def test_other_answers_are_shown(function, image, answer, words):
    function.says(answer)
    with pytest.raises(SpamError, match=words):
        open_detector(f"nuclio:http://{function.address}").detect(image)


def test_a_failing_function_is_quoted(function, image):
    function.status, function.answer = 500, b"CUDA out\nof memory"
    with pytest.raises(SpamError, match=r"function net at http://127\.0\.0\.1:\d+: answers 500: CUDA out of memory"):
        open_detector(f"nuclio:http://{function.address}/net").detect(image)


def test_a_slow_function_is_given_up(function, image):
    function.delay = 0.5
    with pytest.raises(SpamError, match=r"no answer within 0\.1 s"):
        open_detector(f"nuclio:http://{function.address}?timeout=0.1").detect(image)


def test_a_function_that_is_away_is_named(function, image):
    function.server.server_close()
    with pytest.raises(SpamError, match="cannot be reached"):
        open_detector(f"nuclio:http://{function.address}").detect(image)


@pytest.mark.parametrize("address", ["ftp://host:1", "host:8070", "http://", "http://host:8070/api/functions"])
def test_bad_addresses_are_refused(address):
    with pytest.raises(InputError, match="nuclio:http://HOST:PORT"):
        open_detector(f"nuclio:{address}")


def test_the_name_tells_what_changes_boxes():
    specs = ["nuclio:http://h:1", "nuclio:http://h:2", "nuclio:http://h:1/f"]
    specs += [f"nuclio:http://h:1?{option}" for option in ("classes=car", "threshold=0.5", "nms=0.5", "version=2")]
    assert len({open_detector(spec).name for spec in specs}) == len(specs)
    assert open_detector("nuclio:http://h:1?timeout=5").name == open_detector("nuclio:http://h:1").name
