"""The function over HTTP without Nuclio: the dashboard's API, the direct port, and a CVAT server pointed at both."""

import json
import socket
import threading
import types

import httpx
import pytest
from cvat_standin import CvatStandin
from moving_squares import NAME, SquareFinder, clip, join_by_colour, make_function, module_of, png

from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.tasks import read_task, read_tracks
from spam_cvat.errors import InputError
from spam_cvat.serving import gateway as gateway_module
from spam_cvat.serving import session as session_module
from spam_cvat.serving.function import LABELS, Function
from spam_cvat.serving.gateway import Gateway
from spam_cvat.serving.settings import Settings

DASHBOARD = {
    "User-Agent": "CVAT/2.54.1 python-requests/2.32.4",
    "x-nuclio-project-name": "cvat",
    "x-nuclio-function-namespace": "cvat",
    "x-nuclio-invoke-via": "domain-name",
    "X-Nuclio-Invoke-Timeout": "120s",
}


def plain_function(tmp_path):
    return Function(Settings(function_names=(NAME,)), Store(tmp_path), None, SquareFinder())


@pytest.fixture
def gateway(tmp_path):
    with Gateway(port=0, module=module_of(plain_function(tmp_path))) as running:
        yield running


@pytest.fixture
def client(gateway):
    with httpx.Client(base_url=gateway.url, timeout=30) as session:
        yield session


def test_the_dashboard_lists_the_function_with_all_that_cvat_reads(client, gateway):
    listed = client.get("/api/functions", headers=DASHBOARD).json()
    assert list(listed) == [NAME]
    function = listed[NAME]
    assert function["metadata"]["name"] == NAME
    assert function["metadata"]["namespace"] == "cvat"
    notes = function["metadata"]["annotations"]
    assert notes["type"] == "detector"
    assert json.loads(notes["spec"]) == list(LABELS)
    assert int(notes["version"]) >= 1
    assert function["spec"]["description"]
    assert function["status"] == {"state": "ready", "httpPort": gateway.port}
    assert client.get(f"/api/functions/{NAME}", headers=DASHBOARD).json() == function


def test_another_function_is_not_here(client):
    assert client.get("/api/functions/other").status_code == 404
    headers = {**DASHBOARD, "x-nuclio-function-name": "other", "x-nuclio-path": "/"}
    answer = client.post("/api/function_invocations", json={}, headers=headers)
    assert (answer.status_code, answer.json()) == (404, {"error": "no function 'other' here"})


def test_both_ways_to_call_give_the_same(client):
    body = {"image": png(clip()[3]), "threshold": 0.5}
    direct = client.post("/", json=body)
    headers = {**DASHBOARD, "x-nuclio-function-name": NAME, "x-nuclio-path": "/"}
    through_dashboard = client.post("/api/function_invocations", json=body, headers=headers)
    assert direct.status_code == through_dashboard.status_code == 200
    assert direct.headers["content-type"] == "application/json"
    assert direct.json() == through_dashboard.json()
    assert len(direct.json()) == 2


def test_errors_of_the_function_come_with_their_status(client):
    assert client.post("/", json={"image": "x"}).status_code == 400
    assert client.post("/", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert "not JSON" in client.post("/", content=b"{", headers={"content-type": "application/json"}).json()["error"]


@pytest.mark.parametrize(
    ("content_type", "parsed"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", False),  # Nuclio parses for the exact type alone
        ("text/plain", False),
    ],
)
def test_json_is_parsed_as_nuclio_does(content_type, parsed):
    event = gateway_module._event(b'{"a": 1}', "POST", {"content-type": content_type}, "/")
    assert event.body == ({"a": 1} if parsed else b'{"a": 1}')
    broken = gateway_module._event(b"{", "POST", {"content-type": content_type}, "/")
    assert broken.body == b"{"


def test_a_body_that_is_too_large_is_refused(client, monkeypatch):
    monkeypatch.setattr(gateway_module, "MAX_BODY", 1000)
    answer = client.post("/", json={"image": "x" * 2000})
    assert (answer.status_code, answer.json()) == (413, {"error": "the request has more than 1000 bytes"})


def test_the_page_and_the_health_say_what_works(client):
    health = client.get("/health").json()
    assert (health["function"], health["mode"], health["busy"]) == (NAME, "plain detector", False)
    page = client.get("/", headers={"accept": "text/html"})
    assert "text/html" in page.headers["content-type"]
    assert "no CVAT access token" in page.text
    assert client.get("/").json()["mode"] == "plain detector", "what does not ask for a page gets JSON"


def slow_module(entered, release):
    def handler(context, event):
        entered.append(event.body)
        release.wait(30)
        return context.Response(body="[]", content_type="application/json", status_code=200)

    def init_context(context):
        context.user_data.function = types.SimpleNamespace(
            settings=Settings(), health=dict, close=lambda: entered.append("closed")
        )

    module = types.ModuleType("slow")
    module.handler, module.init_context = handler, init_context
    return module


def test_one_call_is_served_at_a_time_and_the_others_wait():
    entered, release = [], threading.Event()
    with Gateway(port=0, module=slow_module(entered, release)) as gateway, httpx.Client(timeout=30) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(client.post(gateway.url, json=n).status_code))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        while not entered:
            pass
        assert httpx.get(f"{gateway.url}/health").json()["busy"], "the page answers while the worker is busy"
        assert len(entered) == 1
        release.set()
        for thread in threads:
            thread.join()
        assert answers == [200, 200, 200]
        assert sorted(entered) == [0, 1, 2]
    assert entered[-1] == "closed"


def test_a_call_that_finds_no_free_worker_in_time_is_told():
    entered, release = [], threading.Event()
    with Gateway(port=0, worker_seconds=0.1, module=slow_module(entered, release)) as gateway:
        thread = threading.Thread(target=lambda: httpx.post(gateway.url, json=1, timeout=30))
        thread.start()
        while not entered:
            pass
        answer = httpx.post(gateway.url, json=2)
        release.set()
        thread.join()
    assert (answer.status_code, answer.json()) == (503, {"error": "no worker was free for 0.1 s"})
    assert entered[0] == 1


def test_an_error_that_the_handler_lets_escape_is_answered_as_nuclio_does(tmp_path):
    module = module_of(plain_function(tmp_path))
    module.handler = lambda context, event: 1 / 0
    with Gateway(port=0, module=module) as gateway:
        answer = httpx.post(gateway.url, json={})
    assert answer.status_code == 500
    assert "division by zero" in answer.text


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = Gateway(port=port, module=module_of(plain_function(tmp_path)))
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}: .*choose another --port"):
            gateway.__enter__()


@pytest.mark.parametrize("invoke", ["direct", "dashboard"])
def test_a_cvat_server_pointed_at_it_lists_the_function_and_gets_tracks_by_one_click(tmp_path, monkeypatch, invoke):
    monkeypatch.setattr(session_module, "annotate", join_by_colour)
    with CvatStandin() as server:
        function = make_function(server, tmp_path)
        with Gateway(port=0, module=module_of(function)) as gateway:
            server.functions.dashboard, server.functions.invoke_method = gateway.url, invoke
            task = server.create_task_from_video(clip(12), segment_size=6, overlap=0)
            conn = connect(server.url, server.token("admin", read_only=False))
            (listed,) = conn.get("/api/lambda/functions")
            assert (listed["id"], listed["kind"]) == (NAME, "detector")
            assert listed["labels_v2"] == [{"name": "person", "type": "rectangle", "attributes": []}]
            conn.post("/api/lambda/requests", {"function": NAME, "task": task.id, "threshold": 0.4})
            assert server.wait()
            (request,) = conn.get("/api/lambda/requests")
            assert request["status"] == "finished"
            tracks = read_tracks(conn, read_task(conn, task.id)).tracks
            assert len(tracks.ids) >= 2
            assert len(tracks) == 24
            answer = httpx.post(gateway.url, json={"task": task.id}, timeout=60).json()
            assert (answer["status"], answer["tracks"]) == ("done", 2)


def test_with_the_engine_itself_people_that_cross_get_one_track_each(tmp_path):
    with CvatStandin() as server:
        function = make_function(server, tmp_path, motion=True)
        with Gateway(port=0, module=module_of(function)) as gateway:
            server.functions.dashboard = gateway.url
            task = server.create_task_from_video(clip(24))
            conn = connect(server.url, server.token("admin", read_only=False))
            conn.post("/api/lambda/requests", {"function": NAME, "task": task.id})
            assert server.wait()
            tracks = read_tracks(conn, read_task(conn, task.id)).tracks
    assert function.store.runs()[-1]["status"] == "done"
    assert tracks.ids.tolist() == [1, 2]
    assert len(tracks) >= 2 * 20
